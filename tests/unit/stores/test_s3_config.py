"""Resolving a bucket: botocore's real chain, over configuration files and variables; a real client is the oracle of hosts and paths."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.session
import msgspec
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from rich.pretty import pretty_repr

from s3dlio.engine import errors
from s3dlio.engine.stores import s3_config
from s3dlio.engine.stores.s3_config import resolve_bucket
from s3dlio.engine.stores.s3_spec import S3Spec

CANARY = "CANARYsecretCANARYsecretCANARYsecret0123"
ACCESS_KEY = "AKIACANARYCANARY0000"


class Machine:
    """The environment and the AWS files of one test."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._patch = patch
        self._folder = folder
        self.env(AWS_CONFIG_FILE=str(folder / "config"), AWS_SHARED_CREDENTIALS_FILE=str(folder / "credentials"))

    def env(self, **variables: str) -> None:
        for name, value in variables.items():
            self._patch.setenv(name, value)

    def keys(self, secret: str = CANARY) -> None:
        self.env(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=secret)

    def config(self, text: str) -> None:
        (self._folder / "config").write_text(text)

    def credentials(self, text: str) -> None:
        (self._folder / "credentials").write_text(text)

    def program(self, text: str) -> str:
        """Returns the command line of a credential process that runs `text`."""
        path = self._folder / "process.py"
        path.write_text(text)
        return f"{sys.executable} {path}"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    s3_config.reset()
    yield Machine(monkeypatch, tmp_path)
    s3_config.reset()


def where_botocore_goes(*buckets: str) -> list[tuple[str, str]]:
    """Returns (scheme://host[:port], path prefix) of GETs of an independent, default botocore client."""
    client: Any = botocore.session.Session().create_client("s3", aws_access_key_id="k", aws_secret_access_key="s")
    seen: list[str] = []

    def answer(request: Any, **_: object) -> AWSResponse:
        seen.append(request.url)
        return AWSResponse(request.url, 200, HTTPHeaders(), io.BytesIO())

    client.meta.events.register("before-send.s3.GetObject", answer)
    for bucket in buckets:
        client.get_object(Bucket=bucket, Key="key")
    urls = map(urlsplit, seen)
    return [(f"{url.scheme}://{url.netloc}", url.path.removesuffix("/key")) for url in urls]


S3_SECTION = "[default]\ns3 =\n    {}\n"


@pytest.mark.parametrize(
    ("endpoint", "config"),
    [
        ("http://127.0.0.1:9000", ""),
        ("http://[::1]:9000/", ""),
        ("https://store.example", ""),
        ("https://store.example:443/base/path/", ""),
        ("http://store.example:80", S3_SECTION.format("addressing_style = path")),
        ("http://store.example:8080", S3_SECTION.format("addressing_style = virtual")),
        ("http://127.0.0.1:8080", S3_SECTION.format("addressing_style = virtual")),
        ("http://store.example:8080", S3_SECTION.format("max_concurrent_requests = 20")),
    ],
)
def test_a_custom_endpoint_is_addressed_as_botocore_does(machine: Machine, endpoint: str, config: str) -> None:
    machine.config(config)
    machine.env(AWS_ENDPOINT_URL=endpoint)
    machine.keys()
    buckets = ["plain", "dotted.name", "Upper_under"]
    for bucket, (origin, prefix) in zip(buckets, where_botocore_goes(*buckets), strict=True):
        spec = resolve_bucket(bucket)
        assert (spec.root, spec.path_prefix, spec.region) == (f"s3://{bucket}/", prefix, "us-east-1")
        assert (spec.scheme, spec.host) == (urlsplit(origin).scheme, urlsplit(origin).hostname)
        assert spec.port == (urlsplit(origin).port or {"http": 80, "https": 443}[spec.scheme])
        assert f"{spec.scheme}://{spec.host_header}" == origin.removesuffix(":443").removesuffix(":80")


@pytest.mark.parametrize(
    ("bucket", "region", "style"),
    [
        ("plain", "", ""),
        ("plain", "us-east-1", ""),
        ("plain", "eu-west-3", ""),
        ("dotted.name", "eu-west-3", ""),
        ("Upper_under", "eu-west-3", ""),
        ("plain", "cn-north-1", ""),
        ("plain", "us-gov-west-1", ""),
        ("plain", "eu-west-3", "addressing_style = path"),
        ("plain", "eu-west-3", "addressing_style = virtual"),
        ("plain", "eu-west-3", "use_dualstack_endpoint = true"),
        ("plain", "eu-west-3", "use_accelerate_endpoint = true"),
    ],
)
def test_aws_itself_is_addressed_as_botocore_does(machine: Machine, bucket: str, region: str, style: str) -> None:
    machine.config(S3_SECTION.format(style) if style else "")
    if region:
        machine.env(AWS_DEFAULT_REGION=region)
    machine.keys()
    spec = resolve_bucket(bucket)
    assert (f"{spec.scheme}://{spec.host_header}", spec.path_prefix) == where_botocore_goes(bucket)[0]
    assert (spec.host, spec.port) == (spec.host_header, 443)
    assert spec.region == (region or "us-east-1")


def test_an_access_point_is_signed_for_its_own_region(machine: Machine) -> None:
    machine.env(AWS_DEFAULT_REGION="us-east-1")
    machine.keys()
    spec = resolve_bucket("arn:aws:s3:eu-west-1:123456789012:accesspoint:mine")
    assert (spec.host, spec.region) == ("mine-123456789012.s3-accesspoint.eu-west-1.amazonaws.com", "eu-west-1")
    assert spec.path_prefix == ""


@pytest.mark.parametrize("bucket", ["data--use1-az4--x-s3", "arn:aws:s3::123456789012:accesspoint:mfzwi23gnjvgw.mrap"])
def test_a_bucket_that_needs_another_signature_goes_to_the_sdk_lane(machine: Machine, bucket: str) -> None:
    machine.env(AWS_DEFAULT_REGION="us-east-1")
    machine.keys()
    spec = resolve_bucket(bucket)
    assert "signature" in (spec.slow_because or "")
    assert spec.sdk is not None
    assert (spec.sdk.bucket, spec.sdk.region, spec.sdk.endpoint_url) == (bucket, "us-east-1", None)


def test_endpoints_come_in_botocores_order(machine: Machine) -> None:
    machine.keys()
    machine.config(
        "[default]\nservices = own\nendpoint_url = http://profile:1\n[services own]\ns3 =\n    endpoint_url = http://section:2\n"
    )
    assert resolve_bucket("b").host == "section"
    machine.env(AWS_ENDPOINT_URL="http://general:3")
    assert resolve_bucket("b").host == "general"
    machine.env(AWS_ENDPOINT_URL_S3="http://special:4")
    assert resolve_bucket("b").host == "special"
    machine.env(AWS_IGNORE_CONFIGURED_ENDPOINT_URLS="true")
    assert resolve_bucket("bkt").host == "bkt.s3.amazonaws.com"


def test_the_profile_gives_keys_region_and_endpoint(machine: Machine) -> None:
    machine.config("[profile lab]\nregion = eu-north-1\nendpoint_url = http://lab:9000\n")
    machine.credentials(
        f"[lab]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {CANARY}\naws_session_token = TOKEN\n"
    )
    machine.env(AWS_PROFILE="lab")
    spec = resolve_bucket("b")
    assert (spec.host_header, spec.region) == ("lab:9000", "eu-north-1")
    assert (spec.access_key, spec.secret_key, spec.token, spec.expires_at_s) == (ACCESS_KEY, CANARY, "TOKEN", None)


def test_rotated_keys_are_seen_by_the_next_resolve(machine: Machine) -> None:
    machine.env(AWS_ENDPOINT_URL="http://127.0.0.1:9000")
    machine.credentials("[default]\naws_access_key_id = OLD\naws_secret_access_key = a\n")
    assert resolve_bucket("b").access_key == "OLD"
    machine.credentials("[default]\naws_access_key_id = NEW\naws_secret_access_key = b\n")
    assert resolve_bucket("b").access_key == "NEW"


PROCESS = """
import json, pathlib
counter = pathlib.Path(__file__).with_suffix(".count")
number = int(counter.read_text()) + 1 if counter.exists() else 1
counter.write_text(str(number))
expiry = {expiries}[min(number, 2) - 1]
print(json.dumps(dict(Version=1, AccessKeyId=f"KEY{{number}}", SecretAccessKey="s", SessionToken="t", Expiration=expiry)))
"""


def in_minutes(minutes: int) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


def use_process(machine: Machine, *expiries: str) -> None:
    machine.env(AWS_ENDPOINT_URL="http://127.0.0.1:9000")
    machine.config(f"[default]\ncredential_process = {machine.program(PROCESS.format(expiries=expiries))}\n")


def test_credentials_that_last_are_fetched_once_and_say_when_they_expire(machine: Machine) -> None:
    expiry = in_minutes(60)
    use_process(machine, expiry, expiry)
    first, second = resolve_bucket("b"), resolve_bucket("c")
    assert (first.access_key, second.access_key) == ("KEY1", "KEY1")
    assert first.expires_at_s == datetime.fromisoformat(expiry).timestamp()
    s3_config.reset()
    assert resolve_bucket("b").access_key == "KEY2"


def test_credentials_about_to_expire_are_renewed_by_the_next_resolve(machine: Machine) -> None:
    late = in_minutes(60)
    use_process(machine, in_minutes(5), late)
    resolve_bucket("b")
    renewed = resolve_bucket("b")
    assert renewed.access_key == "KEY2"
    assert renewed.expires_at_s == datetime.fromisoformat(late).timestamp()


def test_no_credentials_mean_anonymous_access_and_one_warning(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.env(AWS_ENDPOINT_URL="http://127.0.0.1:9000")
    with caplog.at_level(logging.INFO, logger="s3dlio"):
        specs = [resolve_bucket("b"), resolve_bucket("c")]
    assert [(s.access_key, s.secret_key, s.token) for s in specs] == [(None, None, None)] * 2
    assert [r.levelname for r in caplog.records if r.name == "s3dlio"] == ["WARNING"]
    machine.keys()
    assert resolve_bucket("b").access_key == ACCESS_KEY


@pytest.mark.parametrize(
    "url",
    [
        "localhost:9000",
        "ftp://h",
        "http://",
        "http://h:port",
        "http://h:99999",
        "http://[::1",
        "http://h ost",
        "http://h\r\nX: y",
        "http://h:0",
        "http://[1.2.3.4]",
        f"http://user:{CANARY}@h",
        f"http://u:{CANARY}?@h",
        f"http://h/?token={CANARY}",
        "//h",
        "http://h\\x",
    ],
)
def test_a_senseless_endpoint_is_a_configuration_error(machine: Machine, url: str) -> None:
    machine.keys()
    machine.config("[default]\nendpoint_url = " + url.replace("\r\n", "\\r\\n") + "\n")
    machine.env(AWS_ENDPOINT_URL=url)
    with pytest.raises(errors.ConfigurationError, match="endpoint") as caught:
        resolve_bucket("b")
    assert_silent(caught.value)


def assert_silent(error: BaseException) -> None:
    """Neither the error nor its traceback, as any logger prints it, holds a canary."""
    texts = [str(error), repr(error), "".join(traceback.format_exception(error)), repr(pickle.dumps(error))]
    assert not any(CANARY in text for text in texts)


BROKEN = {
    "half": "",
    "missing profile": "",
    "unparsable": f"[default\n{CANARY}",
    "process fails": f"import sys; sys.exit('the vault says {CANARY}')",
    "process prints no json": f"print('{CANARY}')",
    "process prints half": f"import json; print(json.dumps(dict(Version=1, SecretAccessKey='{CANARY}')))",
    "process prints no date": (
        f"import json; print(json.dumps(dict(Version=1, AccessKeyId='a', SecretAccessKey='{CANARY}', Expiration='{CANARY}')))"
    ),
    "role without source": "[default]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = none\n",
    "services section missing": f"[default]\nservices = none\naws_secret_access_key = {CANARY}\n",
}


@pytest.mark.parametrize(
    ("case", "kind", "words"),
    [
        ("half", errors.AuthenticationError, "AWS_SECRET_ACCESS_KEY both"),
        ("missing profile", errors.ConfigurationError, "check AWS_PROFILE"),
        ("unparsable", errors.ConfigurationError, "mend the file"),
        ("process fails", errors.AuthenticationError, "custom-process"),
        ("process prints no json", errors.AuthenticationError, "JSONDecodeError"),
        ("process prints half", errors.AuthenticationError, "custom-process"),
        ("process prints no date", errors.AuthenticationError, "cannot be read"),
        ("role without source", errors.S3dlioError, "none"),
        ("services section missing", errors.ConfigurationError, "services"),
    ],
)
def test_a5_broken_credentials_give_advice_and_no_secret(
    machine: Machine, case: str, kind: type[errors.S3dlioError], words: str
) -> None:
    text = BROKEN[case]
    if case == "half":
        machine.env(AWS_ACCESS_KEY_ID=ACCESS_KEY)
    elif case == "missing profile":
        machine.env(AWS_PROFILE="nobody")
    elif case.startswith("process"):
        machine.config(f"[default]\ncredential_process = {machine.program(text)}\n")
    else:
        machine.config(text)
    with pytest.raises(kind, match=words) as caught:
        resolve_bucket("b")
    assert_silent(caught.value)


def test_a_wrong_region_and_a_wrong_bucket_name_are_configuration_errors(machine: Machine) -> None:
    machine.keys()
    with pytest.raises(errors.ConfigurationError, match="no bucket can have this name"):
        resolve_bucket("sm\u00f6rg\u00e5s")
    machine.env(AWS_DEFAULT_REGION="eu west 1")
    with pytest.raises(errors.ConfigurationError, match="region"):
        resolve_bucket("b")


def test_a5_a_spec_shows_no_secret_and_is_never_pickled(machine: Machine) -> None:
    machine.keys()
    machine.env(AWS_SESSION_TOKEN=CANARY, AWS_ENDPOINT_URL="http://127.0.0.1:9000")
    spec = resolve_bucket("b")
    for text in (repr(spec), str(spec), f"{spec}", f"{[spec]}", pretty_repr(spec), pretty_repr([spec])):
        assert "CANARY" not in text
        assert "s3://b/" in text
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(spec)


def test_a5_nothing_is_logged_of_a_secret_at_debug(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.keys()
    machine.env(AWS_SESSION_TOKEN=CANARY, AWS_DEFAULT_REGION="eu-west-1")
    with caplog.at_level(logging.DEBUG):
        resolve_bucket("b")
    assert caplog.records
    assert CANARY not in caplog.text


def test_a_spec_travels_by_msgpack(machine: Machine) -> None:
    machine.keys()
    machine.env(AWS_ENDPOINT_URL="http://[::1]:9000")
    spec = resolve_bucket("b")
    assert (spec.host, spec.host_header) == ("::1", "[::1]:9000")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=S3Spec) == spec


def test_a_child_of_fork_resolves_while_another_thread_of_the_parent_held_the_lock(machine: Machine) -> None:
    machine.env(AWS_ENDPOINT_URL="http://127.0.0.1:9000")
    machine.keys()
    resolve_bucket("b")
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with s3_config._chain.lock:
            held.set()
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if resolve_bucket("b").access_key == ACCESS_KEY else 1)
    release.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_custom_endpoint_costs_no_client(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.env(AWS_ENDPOINT_URL="http://127.0.0.1:9000")
    machine.keys()
    made: list[object] = []
    monkeypatch.setattr(botocore.session.Session, "create_client", lambda *names, **_: made.append(names))
    assert resolve_bucket("b").path_prefix == "/b"
    assert made == []


def test_the_import_needs_no_sdk_and_a_resolve_no_boto3() -> None:
    program = (
        "import json, os, sys; os.environ.update(AWS_ENDPOINT_URL='http://127.0.0.1:9000');"
        "from s3dlio.engine.stores.s3_config import resolve_bucket; before = 'botocore' in sys.modules;"
        "resolve_bucket('b'); print(json.dumps([before, 'botocore' in sys.modules, 'boto3' in sys.modules]))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert json.loads(answer.stdout) == [False, True, False]


def test_certificates_come_from_the_variable_or_the_profile_and_only_for_https(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.keys()
    machine.env(AWS_ENDPOINT_URL="https://store.example", AWS_PROFILE="mine")
    machine.config("[profile mine]\nca_bundle = /profile.pem\n")
    assert resolve_bucket("bucket").ca_bundle == "/profile.pem"
    machine.env(AWS_CA_BUNDLE="/variable.pem")
    assert resolve_bucket("bucket").ca_bundle == "/variable.pem"
    machine.env(AWS_ENDPOINT_URL="http://store.example")
    assert resolve_bucket("bucket").ca_bundle is None


def test_where_the_system_has_no_certificates_botocores_own_are_taken(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.keys()
    machine.env(AWS_ENDPOINT_URL="https://store.example")
    (tmp_path / "system.pem").write_text("")
    machine.env(SSL_CERT_FILE=str(tmp_path / "system.pem"))
    assert resolve_bucket("bucket").ca_bundle is None
    (tmp_path / "empty").mkdir()
    machine.env(SSL_CERT_FILE=str(tmp_path / "missing.pem"), SSL_CERT_DIR=str(tmp_path / "empty"))
    found = resolve_bucket("bucket").ca_bundle
    assert found is not None
    assert "BEGIN CERTIFICATE" in Path(found).read_text()
