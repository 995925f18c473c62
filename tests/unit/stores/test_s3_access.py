"""A bucket that is asked otherwise than the chain says: what is given counts, and the rest of the chain is nobody else's."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config

from s3dlio.engine import config, errors
from s3dlio.engine.stores import s3_config
from s3dlio.engine.stores.s3_config import S3Access, resolve_bucket
from s3dlio.engine.stores.s3_wire import S3Wire
from tests.unit.stores.test_s3_config import ACCESS_KEY, CANARY, PROCESS, Machine, in_minutes

HERE = "http://127.0.0.1:9000"
PROFILES = """[profile one]
region = eu-west-1
endpoint_url = http://one.example
[profile two]
region = eu-west-2
s3 =
    addressing_style = virtual
"""
KEYS = "[one]\naws_access_key_id = ONE\naws_secret_access_key = s\n[two]\naws_access_key_id = TWO\naws_secret_access_key = s\n"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    """Two profiles with keys, and other keys in the environment."""
    s3_config.reset()
    found = Machine(monkeypatch, tmp_path)
    found.keys()
    found.config(PROFILES)
    found.credentials(KEYS)
    (tmp_path / "credentials").chmod(0o600)
    yield found
    s3_config.reset()


def where(access: S3Access) -> str:
    spec = resolve_bucket("bucket", access=access)
    return f"{spec.scheme}://{spec.host_header}{spec.path_prefix} {spec.region}"


def where_botocore_goes(region: str, section: dict[str, Any]) -> str:
    """Returns the same of a botocore client that is given them."""
    client: Any = botocore.session.Session().create_client(
        "s3", region_name=region, aws_access_key_id="k", aws_secret_access_key="s", config=Config(s3=section)
    )
    seen: list[str] = []

    def answer(request: Any, **_: object) -> AWSResponse:
        scope = request.headers["Authorization"].decode().partition("/s3/aws4_request")[0].rpartition("/")[2]
        seen.append(f"{request.url.removesuffix('/key')} {scope}")
        return AWSResponse(request.url, 200, HTTPHeaders(), io.BytesIO())

    client.meta.events.register("before-send.s3.GetObject", answer)
    client.get_object(Bucket="bucket", Key="key")
    return seen[0]


def test_an_endpoint_stands_above_variables_and_profiles(machine: Machine) -> None:
    machine.env(AWS_ENDPOINT_URL="http://general", AWS_ENDPOINT_URL_S3="http://special", AWS_IGNORE_CONFIGURED_ENDPOINT_URLS="true")
    assert where(S3Access(endpoint=HERE, profile="one")) == f"{HERE}/bucket eu-west-1"
    assert where(S3Access(endpoint=HERE)) == f"{HERE}/bucket us-east-1"


@pytest.mark.parametrize("nothing", [S3Access(), S3Access(endpoint="", region="", profile="", user_agent="")])
def test_what_is_not_given_is_as_the_chain_says(machine: Machine, monkeypatch: pytest.MonkeyPatch, nothing: S3Access) -> None:
    machine.env(AWS_ENDPOINT_URL=HERE, AWS_DEFAULT_REGION="eu-north-1")
    assert resolve_bucket("bucket", access=nothing) == resolve_bucket("bucket")
    assert where(nothing) == f"{HERE}/bucket eu-north-1"
    machine.env(AWS_PROFILE="two")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert resolve_bucket("bucket", access=nothing).access_key == "TWO"


@pytest.mark.parametrize("path_style", [False, True])
@pytest.mark.parametrize("region", ["eu-west-3", "us-east-1", "cn-north-1"])
def test_region_and_style_are_those_of_a_botocore_client_that_is_given_them(machine: Machine, region: str, path_style: bool) -> None:
    machine.env(AWS_DEFAULT_REGION="sa-east-1")
    section = {"addressing_style": "path"} if path_style else {}
    assert where(S3Access(region=region, path_style=path_style)) == where_botocore_goes(region, section)


def test_path_style_stands_above_the_profile(machine: Machine) -> None:
    assert where(S3Access(profile="two")) == "https://bucket.s3.eu-west-2.amazonaws.com eu-west-2"
    access = S3Access(profile="two", path_style=True)
    assert where(access) == "https://s3.eu-west-2.amazonaws.com/bucket eu-west-2"
    spec = resolve_bucket("bucket", access=access)
    assert spec.sdk is not None
    assert spec.sdk.section["addressing_style"] == "path", "for the other lane"
    assert where(S3Access(profile="two", path_style=True, endpoint=HERE)) == f"{HERE}/bucket eu-west-2"


def test_a_profile_brings_its_own_keys_whatever_stands_in_the_environment(machine: Machine) -> None:
    machine.env(AWS_PROFILE="two")
    spec = resolve_bucket("bucket", access=S3Access(profile="one"))
    assert (spec.access_key, spec.host, spec.region, spec.source) == ("ONE", "one.example", "eu-west-1", "~/.aws/credentials, profile one")
    # The environment's profile does not hide the environment's keys. Source: botocore.credentials.create_credential_resolver.
    assert resolve_bucket("bucket").access_key == ACCESS_KEY


def test_a_profile_that_is_missing_is_a_configuration_error(machine: Machine) -> None:
    with pytest.raises(errors.ConfigurationError, match="nobody"):
        resolve_bucket("bucket", access=S3Access(profile="nobody"))
    assert resolve_bucket("bucket").access_key == ACCESS_KEY


@pytest.mark.parametrize("url", ["localhost:9000", "http://u:p@h", "http://h:port"])
def test_a_senseless_endpoint_or_region_is_a_configuration_error(machine: Machine, url: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="endpoint"):
        resolve_bucket("bucket", access=S3Access(endpoint=url))
    with pytest.raises(errors.ConfigurationError, match="no region"):
        resolve_bucket("bucket", access=S3Access(region="no region"))


def test_unsigned_looks_for_no_credentials_and_hides_none_from_others(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    machine.config(f"[default]\ncredential_process = {machine.program(PROCESS.format(expiries=[in_minutes(60)] * 2))}\n")
    with caplog.at_level(logging.INFO, logger="s3dlio"):
        spec = resolve_bucket("bucket", access=S3Access(endpoint=HERE, unsigned=True))
    assert (spec.access_key, spec.secret_key, spec.token, spec.expires_at_s, spec.source) == (None,) * 5
    assert not (tmp_path / "process.count").exists()
    assert caplog.records == [], "it was asked for"
    assert resolve_bucket("bucket", access=S3Access(endpoint=HERE)).access_key == "KEY1"
    assert resolve_bucket("bucket", access=S3Access(endpoint=HERE, unsigned=True)).access_key is None


@pytest.mark.parametrize(
    ("given", "configured", "pays"), [(None, True, True), (None, False, False), (False, True, False), (True, False, True)]
)
def test_who_pays_stands_above_the_settings(machine: Machine, given: bool | None, configured: bool, pays: bool) -> None:
    config.configure(s3_requester_pays=configured)
    spec = resolve_bucket("bucket", access=S3Access(endpoint=HERE, requester_pays=given))
    assert spec.sdk is not None
    assert (spec.sdk.requester_pays, spec.slow_because is not None) == (pays, pays)


def test_the_user_agent_goes_with_every_request_and_cannot_hold_another_line(machine: Machine) -> None:
    wire = S3Wire(resolve_bucket("bucket", access=S3Access(endpoint=HERE, user_agent="mine/1 (a; b)")))
    requests = [
        wire.get("key", 0, None, None, True),
        wire.request("HEAD", "key"),
        wire.document("POST", "key", (("uploads", ""),)),
        wire.put("key", (), (), 3, "UNSIGNED-PAYLOAD"),
    ]
    assert [request.count(b"\r\nUser-Agent: mine/1 (a; b)\r\n") for request in requests] == [1] * 4
    assert b"user-agent" not in S3Wire(resolve_bucket("bucket")).get("key", 0, None, None, True).lower()
    for agent in ("a\r\nX-Y: z", "a\0", "é"):
        with pytest.raises(errors.ConfigurationError, match="user agent"):
            resolve_bucket("bucket", access=S3Access(user_agent=agent))


def test_an_access_holds_no_secret_and_travels(machine: Machine) -> None:
    access = S3Access(endpoint=HERE, profile="one", user_agent="x")
    assert pickle.loads(pickle.dumps(access)) == access  # noqa: TID251
    assert CANARY not in repr(access)


def short_lived(machine: Machine, folder: Path) -> None:
    """Gives each profile a program of its own, whose keys tell it, and last."""
    text = ""
    for name in ("one", "two"):
        program = PROCESS.format(expiries=[in_minutes(60)] * 2).replace('f"KEY', f'f"{name}')
        (folder / f"{name}.py").write_text(program)
        command = machine.program("").replace("process.py", f"{name}.py")
        text += f"[profile {name}]\ncredential_process = {command}\n"
    machine.config(text)
    machine.credentials("")


def count(folder: Path, name: str) -> int:
    return int((folder / f"{name}.count").read_text())


def test_short_lived_credentials_are_kept_by_profile_and_asked_for_once(machine: Machine, tmp_path: Path) -> None:
    short_lived(machine, tmp_path)
    for _ in range(3):
        for name in ("one", "two"):
            spec = resolve_bucket("bucket", access=S3Access(endpoint=HERE, profile=name))
            assert (spec.access_key, spec.source) == (f"{name}1", f"a credential_process, profile {name}")
            assert resolve_bucket("bucket", access=S3Access(endpoint=HERE, profile=name, unsigned=True)).access_key is None
        assert resolve_bucket("bucket").access_key == ACCESS_KEY
    assert (count(tmp_path, "one"), count(tmp_path, "two")) == (1, 1)
    # The store refuses what one profile has: the other keeps its own.
    assert resolve_bucket("bucket", True, S3Access(endpoint=HERE, profile="one")).access_key == "one2"
    assert resolve_bucket("bucket", access=S3Access(endpoint=HERE, profile="one")).access_key == "one2"
    assert resolve_bucket("bucket", access=S3Access(endpoint=HERE, profile="two")).access_key == "two1"


def test_a_profile_that_lost_its_credentials_is_no_anonymous_one_and_hides_no_other(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with caplog.at_level(logging.INFO, logger="s3dlio"):
        assert resolve_bucket("bucket", access=S3Access(endpoint=HERE, profile="one")).access_key == "ONE"
        assert resolve_bucket("bucket", access=S3Access(endpoint=HERE)).access_key is None
    assert ["no AWS credentials were found" in record.getMessage() for record in caplog.records] == [True]
    assert resolve_bucket("bucket", access=S3Access(endpoint=HERE, profile="two")).access_key == "TWO"


def test_the_region_of_an_access_is_that_of_who_gives_credentials_where_none_is_configured(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions: list[str | None] = []
    real = s3_config._load_keys

    def load(session: Any) -> Any:
        regions.append(session.get_config_variable("region"))
        return real(session)

    monkeypatch.setattr(s3_config, "_load_keys", load)
    resolve_bucket("bucket", access=S3Access(endpoint=HERE, region="eu-south-2"))
    resolve_bucket("bucket", access=S3Access(endpoint=HERE, region="eu-south-2", profile="two"))
    assert regions == ["eu-south-2", "eu-west-2"]


def test_p10_a_forked_child_asks_for_credentials_of_its_own(machine: Machine, tmp_path: Path) -> None:
    short_lived(machine, tmp_path)
    one, two = (S3Access(endpoint=HERE, profile=name) for name in ("one", "two"))
    assert [resolve_bucket("bucket", access=access).access_key for access in (one, two)] == ["one1", "two1"]
    with s3_config._chain.lock:  # as another thread may hold it at that moment
        pid = os.fork()
        if not pid:
            try:
                found = [resolve_bucket("bucket", access=access).access_key for access in (two, one)]
                os._exit(0 if found == ["two2", "one2"] else 1)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [resolve_bucket("bucket", access=access).access_key for access in (one, two)] == ["one1", "two1"]


@pytest.mark.parametrize(("signs_payloads", "endpoint", "is_signed"), [
    (True, "http://127.0.0.1:9", True), (False, "http://127.0.0.1:9", False), (True, "https://127.0.0.1:9", False),
])  # fmt: skip
def test_a_payload_is_signed_where_nobody_else_vouches_for_it_unless_that_is_not_wanted(
    machine: Machine, signs_payloads: bool, endpoint: str, is_signed: bool
) -> None:
    wire = S3Wire(resolve_bucket("bucket", access=S3Access(endpoint=endpoint, signs_payloads=signs_payloads)))
    data = memoryview(b"data")
    covered = hashlib.sha256(data).hexdigest() if is_signed else "UNSIGNED-PAYLOAD"
    assert wire.payload_hash(data) == covered
    head = wire.put("key", (), (("x-amz-checksum-crc32c", "AAAAAA=="),), len(data), covered).decode()
    assert f"x-amz-content-sha256: {covered}\r\n" in head
    assert "x-amz-checksum-crc32c;" in head, "the checksum is signed"
