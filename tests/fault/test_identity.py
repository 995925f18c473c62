"""Who asks, and what is said when the store refuses: A1, A3, A4, A6."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from tests.support.answers import Respond, s3_error
from tests.support.rclone_server import RcloneServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Connection, Handler, Request, ScriptedServer

URI = "s3://bucket/key"
REFUSALS = [(403, "AccessDenied"), (401, "Unauthorized"), (403, "InvalidAccessKeyId"), (403, "SignatureDoesNotMatch")]


@pytest.fixture(params=["get", "inline", "workers"])
def read(request: pytest.FixtureRequest, scripted: ScriptedServer) -> Iterator[Callable[[str], Any]]:
    if request.param == "get":
        yield s3dlio.get
        return
    with s3dlio.Pool(procs=int(request.param == "workers"), jobs=4, memory_bytes="8MiB") as pool:
        yield lambda uri: next(iter(pool.fetch([uri])))[1]


@pytest.mark.parametrize(("status", "code"), REFUSALS)
def test_a1_a_refusal_is_final_and_names_the_source_of_the_identity(
    scripted: ScriptedServer, read: Callable[[str], Any], status: int, code: str
) -> None:
    scripted.script = lambda _request: s3_error(status, code)
    with pytest.raises(s3dlio.PermissionDeniedError) as caught:
        read(URI)
    assert (caught.value.uri, caught.value.status, caught.value.attempts) == (URI, status, 1)
    assert code in str(caught.value)
    assert "the credentials came from the environment (AWS_ACCESS_KEY_ID)" in str(caught.value)
    assert len(scripted.requests) == 1


def test_a1_the_profile_is_named_where_the_keys_came_from_one(
    scripted: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_file(monkeypatch, tmp_path / "credentials", "research", 0o600)
    scripted.script = lambda _request: s3_error(403, "AccessDenied")
    with pytest.raises(s3dlio.PermissionDeniedError, match=r"came from ~/\.aws/credentials, profile research"):
        s3dlio.get(URI)


def test_a1_without_credentials_the_error_says_that_the_request_was_not_signed(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    scripted.script = lambda _request: s3_error(403, "AccessDenied")
    with pytest.raises(s3dlio.PermissionDeniedError, match="the request went unsigned"):
        s3dlio.get(URI)


@pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
def test_a1_a_real_server_refuses_keys_that_it_does_not_know(
    rclone_s3: RcloneServer, s3_env: Callable[[S3Endpoint | str], None], quick_settings: None, wrong: str
) -> None:
    bucket = rclone_s3.endpoint.new_bucket()
    rclone_s3.endpoint.client().put_object(Bucket=bucket, Key="key", Body=b"data")
    s3_env(replace(rclone_s3.endpoint, **{wrong: "another"}))
    with pytest.raises(s3dlio.PermissionDeniedError, match="came from the environment") as caught:
        s3dlio.get(f"s3://{bucket}/key")
    assert (caught.value.status, caught.value.attempts) == (403, 1)
    assert "another" not in str(caught.value)
    s3dlio.shutdown()


@pytest.mark.parametrize("body_says", [True, False], ids=["in the body", "in the Date header"])
def test_a3_a_skewed_clock_is_said_with_both_clocks(scripted: ScriptedServer, body_says: bool) -> None:
    inner = "<ServerTime>2001-02-03T04:05:06Z</ServerTime>" if body_says else ""
    body = f"<Error><Code>RequestTimeTooSkewed</Code><Message>too large</Message>{inner}</Error>".encode()
    answer = Respond(403, {"Date": "Sat, 03 Feb 2001 04:05:06 GMT"}, body)
    scripted.script = lambda _request: answer
    with pytest.raises(s3dlio.PermissionDeniedError) as caught:
        s3dlio.get(URI)
    theirs = "2001-02-03T04:05:06Z" if body_says else "Sat, 03 Feb 2001 04:05:06 GMT"
    assert f"Z here, and {theirs} at the store" in str(caught.value)
    assert "set the clock of this machine" in str(caught.value)
    assert len(scripted.requests) == 1


def test_a4_a_silent_metadata_service_is_asked_once_and_not_for_long(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    asked: list[str] = []

    def stay_silent(found: Request) -> Handler:
        asked.append(found.path)

        def wait(_request: Request, connection: Connection) -> None:
            connection.wait_for(over)

        return wait

    with ScriptedServer(stay_silent) as metadata:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
        scripted.script = lambda _request: Respond(200, {"ETag": '"1"'}, b"data")
        begun_s = time.monotonic()
        assert bytes(s3dlio.get(URI)) == b"data"
        assert time.monotonic() - begun_s < 3
        num = len(asked)
        assert 1 <= num <= 2, "the token, and perhaps the role"
        assert [bytes(view) for view in s3dlio.get_many([URI] * 20 + ["s3://other/key"])] == [b"data"] * 21
        with s3dlio.Pool(procs=1, memory_bytes="8MiB") as pool:
            assert bytes(next(iter(pool.fetch(["s3://third/key"])))[1]) == b"data"
        assert len(asked) == num
        over.set()


def test_a4_an_absent_metadata_service_costs_no_request_its_time(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9/")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    scripted.script = lambda _request: Respond(200, {"ETag": '"1"'}, b"data")
    begun_s = time.monotonic()
    assert bytes(s3dlio.get(URI)) == b"data"
    assert time.monotonic() - begun_s < 3


@pytest.mark.parametrize(("mode", "warns"), [(0o644, True), (0o600, False), (0o640, False)])
def test_a6_keys_that_everybody_may_read_are_warned_of_once(
    scripted: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: int, warns: bool
) -> None:
    path = tmp_path / "credentials"
    _use_file(monkeypatch, path, "default", mode)
    scripted.script = lambda _request: Respond(200, {"ETag": '"1"'}, b"data")
    with caplog.at_level(logging.WARNING, "s3dlio"):
        s3dlio.get(URI)
        s3dlio.get("s3://other/key")
    told = [record for record in caplog.records if "may be read by everybody" in record.getMessage()]
    assert len(told) == warns
    assert not warns or f"chmod 600 {path}" in told[0].getMessage()


def _use_file(monkeypatch: pytest.MonkeyPatch, path: Path, profile: str, mode: int) -> None:
    path.write_text(f"[{profile}]\naws_access_key_id = k\naws_secret_access_key = s\n")
    path.chmod(mode)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    if profile != "default":
        monkeypatch.setenv("AWS_PROFILE", profile)
