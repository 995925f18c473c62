"""Where a container is and who asks, from the environment alone."""

from __future__ import annotations

import builtins
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

import s3dlio
from s3dlio.engine.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidUriError,
    MissingExtraError,
    S3dlioError,
)
from s3dlio.engine.stores import azure_config
from s3dlio.engine.stores.azure_config import AzureSpec, resolve_container
from s3dlio.engine.stores.azure_endpoint import DEV_KEY, ConnectionString, find_place, parse_connection_string
from s3dlio.engine.stores.registry import Spec, locate
from s3dlio.engine.uri import parse_uri

KEY = "Q0FOQVJZa2V5Q0FOQVJZ"
SAS = "sv=2024-11-04&sr=c&sp=r&sig=CANARYsig%2Fx%3D"
SetEnv = Callable[..., None]


@pytest.fixture
def env(clean_aws_env: None, monkeypatch: pytest.MonkeyPatch) -> SetEnv:
    """Sets `AZURE_STORAGE_*` variables by the rest of their names."""
    azure_config.reset()

    def set_all(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name if name.startswith("AZURE_") else f"AZURE_STORAGE_{name}", value)

    return set_all


def test_a_uri_has_account_container_and_key() -> None:
    found = parse_uri("az://account/container/dir//a#b?c")
    assert found == ("az", "account/container", "dir//a#b?c")
    assert (found.root, str(found)) == ("az://account/container/", "az://account/container/dir//a#b?c")
    assert parse_uri("az://account/container").root == parse_uri("az://account/container/").root == "az://account/container/"
    assert parse_uri("az://account/$web//a").key == "/a"


@pytest.mark.parametrize("uri", ["az://", "az://account", "az://account/", "az:///container/key", "az://account//key", "az://a b/c/k"])
def test_a_uri_without_account_or_container_is_refused(uri: str) -> None:
    with pytest.raises(InvalidUriError):
        parse_uri(uri)


def test_stores_are_found_by_account_and_container(env: SetEnv) -> None:
    env(ENDPOINT="http://127.0.0.1:10000", KEY=KEY)
    store, key = locate("az://account/container/dir/key")
    assert (store.root, key) == ("az://account/container/", "dir/key")
    assert locate("az://account/container/other") == (store, "other")
    assert locate("az://account/container/x/") == (store, "x/")
    other, key = locate("az://account/container2/dir/key")
    assert (other.root, key) == ("az://account/container2/", "dir/key")
    with pytest.raises(InvalidUriError):
        locate("az://account/container/\0")
    s3dlio.shutdown()


PLACES = [
    (None, "https", "account.blob.core.windows.net", 443, "account.blob.core.windows.net", ""),
    ("https://account.blob.core.windows.net", "https", "account.blob.core.windows.net", 443, "account.blob.core.windows.net", ""),
    ("https://account.blob.core.windows.net/", "https", "account.blob.core.windows.net", 443, "account.blob.core.windows.net", ""),
    ("https://blob.core.chinacloudapi.cn", "https", "account.blob.core.chinacloudapi.cn", 443, "account.blob.core.chinacloudapi.cn", ""),
    ("http://127.0.0.1:10000", "http", "127.0.0.1", 10000, "127.0.0.1:10000", "/account"),
    ("http://127.0.0.1:10000/", "http", "127.0.0.1", 10000, "127.0.0.1:10000", "/account"),
    ("http://127.0.0.1:10000/account", "http", "127.0.0.1", 10000, "127.0.0.1:10000", "/account"),
    ("http://127.0.0.1:10000/account/", "http", "127.0.0.1", 10000, "127.0.0.1:10000", "/account"),
    ("http://localhost:10000", "http", "localhost", 10000, "localhost:10000", "/account"),
    ("http://azurite:80", "http", "azurite", 80, "azurite", "/account"),
    ("http://azurite.test.example:10000/account", "http", "azurite.test.example", 10000, "azurite.test.example:10000", "/account"),
    ("http://[::1]:10000", "http", "::1", 10000, "[::1]:10000", "/account"),
    ("https://data.example.com", "https", "data.example.com", 443, "data.example.com", ""),
]


@pytest.mark.parametrize(("endpoint", "scheme", "host", "port", "header", "path"), PLACES)
def test_the_account_is_in_the_host_or_in_the_path(
    endpoint: str | None, scheme: str, host: str, port: int, header: str, path: str
) -> None:
    assert find_place("account", endpoint) == (scheme, host, port, header, path)


@pytest.mark.parametrize("endpoint", ["https://other.blob.core.windows.net", "ftp://x", "http://u:p@127.0.0.1", "http://127.0.0.1/?sig=x"])
def test_an_endpoint_that_makes_no_sense_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigurationError):
        find_place("account", endpoint)


@pytest.mark.parametrize("name", ["AZURE_STORAGE_ENDPOINT", "AZURE_BLOB_ENDPOINT_URL"])
def test_the_endpoint_has_two_names(env: SetEnv, name: str) -> None:
    env(**{name: "http://127.0.0.1:10000", "KEY": KEY})
    found = resolve_container("account/container")
    assert (found.host, found.port, found.path, found.account_key) == ("127.0.0.1", 10000, "/account", KEY)
    assert found.slow_because is None


def test_a_key_comes_before_a_sas_and_a_connection_string_before_both(env: SetEnv) -> None:
    env(ACCOUNT="account", SAS_TOKEN="?" + SAS)
    assert (resolve_container("account/c").sas, resolve_container("account/c").account_key) == (SAS, None)
    env(KEY=KEY)
    assert (resolve_container("account/c").sas, resolve_container("account/c").account_key) == (None, KEY)
    env(CONNECTION_STRING=f"AccountName=account;SharedAccessSignature={SAS};EndpointSuffix=core.usgovcloudapi.net")
    found = resolve_container("account/c")
    assert (found.sas, found.account_key, found.host) == (SAS, None, "account.blob.core.usgovcloudapi.net")


def test_the_endpoint_of_a_connection_string_comes_before_the_variable_and_the_implied_one_behind_it(env: SetEnv) -> None:
    env(ENDPOINT="http://127.0.0.1:10000", CONNECTION_STRING=f"AccountName=account;AccountKey={KEY}")
    assert resolve_container("account/c").port == 10000
    env(CONNECTION_STRING=f"AccountName=account;AccountKey={KEY};BlobEndpoint=http://127.0.0.1:10001/account")
    assert resolve_container("account/c").port == 10001


def test_a_connection_string_is_read_as_the_portal_writes_it() -> None:
    text = f"DefaultEndpointsProtocol=https;AccountName=account;AccountKey={DEV_KEY};EndpointSuffix=core.windows.net;"
    found = parse_connection_string(text)
    assert found == ConnectionString("account", DEV_KEY, None, "https://account.blob.core.windows.net", has_endpoint=False)
    assert DEV_KEY not in repr(found)
    found = parse_connection_string("UseDevelopmentStorage=true")
    assert found == ConnectionString("devstoreaccount1", DEV_KEY, None, "http://127.0.0.1:10000/devstoreaccount1")
    found = parse_connection_string(f"BlobEndpoint=https://account.blob.core.windows.net/;SharedAccessSignature={SAS}")
    assert found == ConnectionString(None, None, SAS, "https://account.blob.core.windows.net/")


@pytest.mark.parametrize("text", ["CANARY", "AccountKey=CANARY", "AccountName=account;CANARY"])
def test_a5_what_is_no_connection_string_is_refused_and_not_shown(env: SetEnv, text: str) -> None:
    env(CONNECTION_STRING=text)
    with pytest.raises(ConfigurationError) as raised:
        resolve_container("account/c")
    assert "CANARY" not in repr(raised.value)


@pytest.mark.parametrize(
    "given",
    [
        {"ACCOUNT": "other", "KEY": KEY},
        {"ACCOUNT": "other", "SAS_TOKEN": SAS},
        {"CONNECTION_STRING": f"AccountName=other;AccountKey={KEY};BlobEndpoint=http://127.0.0.1:10000/other"},
    ],
)
def test_credentials_of_another_account_are_not_sent(env: SetEnv, given: dict[str, str]) -> None:
    env(**given)
    with pytest.raises(ConfigurationError) as raised:
        resolve_container("account/container")
    assert "'other'" in str(raised.value)
    assert "'account'" in str(raised.value)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("bucket", ["Acc/c", "acc.evil.com#/c", "a@b/c", "account/..", "account/a_b", "account/%2e"])
def test_a_name_that_would_lead_elsewhere_is_refused(env: SetEnv, bucket: str) -> None:
    env(KEY=KEY)
    with pytest.raises(ConfigurationError):
        resolve_container(bucket)


def test_without_credentials_requests_are_anonymous_and_a_warning_says_so_once(env: SetEnv, caplog: pytest.LogCaptureFixture) -> None:
    env(ENDPOINT="http://127.0.0.1:10000")
    with caplog.at_level(logging.WARNING, "s3dlio"):
        found = [resolve_container("account/a"), resolve_container("account/b")]
    assert {(one.account_key, one.sas, one.token, one.source) for one in found} == {(None, None, None, None)}
    assert len(caplog.records) == 1


def test_a_proxy_brings_the_sdk_lane_and_no_proxy_takes_it_back(env: SetEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    env(KEY=KEY)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:CANARY@127.0.0.1:3128")
    found = resolve_container("account/container")
    assert found.slow_because is not None
    assert found.sdk is not None
    assert found.sdk.proxies == {"https": "http://user:CANARY@127.0.0.1:3128"}
    assert "CANARY" not in repr(found)
    monkeypatch.setenv("NO_PROXY", ".core.windows.net")
    assert resolve_container("account/container").slow_because is None


def test_certificates_that_are_not_there_are_named(env: SetEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    env(KEY=KEY)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    with pytest.raises(ConfigurationError, match=r"/nowhere\.pem") as raised:
        resolve_container("account/container")
    assert raised.value.uri == "az://account/container/"


def test_the_fast_lane_can_be_switched_off(env: SetEnv) -> None:
    env(KEY=KEY)
    s3dlio.configure(fast_lane=False)
    assert resolve_container("account/container").slow_because == "fast_lane is switched off"


def test_missing_azure_identity_is_named_where_it_is_needed(env: SetEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    _without(monkeypatch, "azure")
    assert resolve_container("account/container").token is None
    env(AZURE_CLIENT_ID="client")
    with pytest.raises(MissingExtraError) as raised:
        resolve_container("account/container")
    assert 'pip install "s3dlio-shm[azure]"' in str(raised.value)
    assert isinstance(raised.value, ImportError)
    env(KEY=KEY)
    assert resolve_container("account/container").account_key == KEY


def test_the_sdk_lane_names_the_extra_it_needs(env: SetEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    env(ENDPOINT="http://127.0.0.1:1", KEY=KEY)
    s3dlio.configure(fast_lane=False, max_attempts=1)
    _without(monkeypatch, "azure")
    with pytest.raises(MissingExtraError) as raised:
        s3dlio.get("az://account/container/key")
    assert 'pip install "s3dlio-shm[azure]"' in str(raised.value)
    assert raised.value.uri == "az://account/container/key"
    s3dlio.shutdown()


def _without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Has imports of a package fail, as where it is not installed."""
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        is_relative = len(args) > 3 and args[3] > 0
        if name.partition(".")[0] == package and not is_relative:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize("sas", ["sv=1&sp=r", "sig=a b", "sig=a\nb", "sig=é", "https://account.blob.core.windows.net/?sig=CANARY"])
def test_a5_what_is_no_sas_is_refused_and_not_shown(env: SetEnv, sas: str) -> None:
    env(SAS_TOKEN=sas)
    with pytest.raises(AuthenticationError) as raised:
        resolve_container("account/container")
    assert sas not in str(raised.value)


def test_a5_a_spec_shows_no_secret_and_does_not_pickle() -> None:
    spec = AzureSpec("az://a/c/", "a", "c", "https", "h", 443, "h", "", KEY, SAS, "CANARYtoken")
    shown = [repr(spec), str(spec), repr(spec.__rich_repr__()), repr([spec])]
    assert not any(secret in text for text in shown for secret in (KEY, "CANARY"))
    with pytest.raises(TypeError):
        pickle.dumps(spec)
    decoded: Any = msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=Spec)
    assert decoded == spec


def test_no_sdk_is_imported_for_a_key_or_a_sas() -> None:
    program = (
        "import os, sys; os.environ.update(AZURE_STORAGE_KEY='c2VjcmV0', AZURE_STORAGE_ENDPOINT='http://127.0.0.1:1')\n"
        "from s3dlio.engine.stores.registry import locate, open_wire\n"
        "store, key = locate('az://account/container/key')\n"
        "open_wire(store.spec).get(key, 0, None, None, False)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'azure', 'requests', 'msal', 'botocore'}))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_an_error_of_opening_names_the_container(env: SetEnv) -> None:
    env(KEY="no base64!")
    with pytest.raises(S3dlioError) as raised:
        s3dlio.get("az://account/container/key")
    assert isinstance(raised.value, AuthenticationError)
    assert raised.value.uri == "az://account/container/"
