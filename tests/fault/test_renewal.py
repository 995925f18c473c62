"""Credentials that expire while the work goes on: renewed ahead of time, once for all workers (A2)."""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

import s3dlio
from s3dlio.engine.stores import renewal, s3
from tests.support.answers import Respond, s3_error
from tests.support.scripted_server import Handler, Request, ScriptedServer

PROGRAM = """
import datetime, json, pathlib, sys
counter = pathlib.Path(__file__).with_suffix(".count")
number = int(counter.read_text()) + 1 if counter.exists() else 1
counter.write_text(str(number))
if pathlib.Path(__file__).with_suffix(".broken").exists():
    sys.exit("no credentials today")
expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
print(json.dumps(dict(Version=1, AccessKeyId=f"KEY{number}", SecretAccessKey="s", SessionToken=f"T{number}",
                      Expiration=expiry.strftime("%Y-%m-%dT%H:%M:%SZ"))))
"""


@pytest.fixture
def program(
    scripted: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A credential process whose credentials are due at once; each time it gives others."""
    monkeypatch.setattr(renewal, "_AHEAD_S", 3600.0)
    monkeypatch.setattr(renewal, "_PAUSE_S", 0.5)
    monkeypatch.setattr(renewal.Renewal, "note", lambda self, _, now_s: setattr(self, "due_s", now_s + 0.5))
    path = tmp_path / "process.py"
    path.write_text(PROGRAM)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {path}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    yield path
    s3dlio.shutdown()


def key_of(request: Request) -> str:
    assert request.headers["x-amz-security-token"] == request.headers["authorization"].partition("KEY")[2].partition("/")[0].join(["T", ""])
    return request.headers["authorization"].partition("Credential=")[2].partition("/")[0]


@pytest.mark.parametrize("way", ["get", "get_many", "inline pool", "workers"])
def test_a2_credentials_are_renewed_ahead_of_their_expiry(scripted: ScriptedServer, program: Path, way: str) -> None:
    seen: set[str] = set()

    def step(request: Request) -> Handler:
        seen.add(key_of(request))
        return Respond(200, {"ETag": '"1"'}, b"data")

    scripted.script = step
    until = datetime.now(UTC) + timedelta(seconds=20)

    def uris() -> Iterator[str]:
        while len(seen) < 3:
            assert datetime.now(UTC) < until, f"only {seen} were used"
            threading.Event().wait(0.005)
            yield "s3://bucket/key"

    if way == "get":
        assert all(bytes(s3dlio.get(uri)) == b"data" for uri in uris())
    elif way == "get_many":
        while len(seen) < 3:
            assert datetime.now(UTC) < until
            assert all(bytes(view) == b"data" for view in s3dlio.get_many(["s3://bucket/key"] * 100, workers=2))
    else:
        with s3dlio.Pool(procs=0 if way == "inline pool" else 2, jobs=2, memory_bytes="8MiB") as pool:
            assert all(bytes(view) == b"data" for _, view in pool.fetch(uris()))
    # Each was asked for once, however many asked with it.
    assert int(program.with_suffix(".count").read_text()) <= len(seen) + 2


def test_a2_a_renewal_that_fails_costs_a_warning_and_is_tried_again(
    scripted: ScriptedServer, program: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def step(request: Request) -> Handler:
        seen.append(key_of(request))
        return Respond(200, {"ETag": '"1"'}, b"data")

    scripted.script = step
    s3dlio.get("s3://bucket/key")
    broken = program.with_suffix(".broken")
    broken.touch()
    until = datetime.now(UTC) + timedelta(seconds=20)
    with caplog.at_level(logging.WARNING, "s3dlio"):
        while "could not be renewed" not in caplog.text:
            assert datetime.now(UTC) < until
            threading.Event().wait(0.05)
            assert bytes(s3dlio.get("s3://bucket/key")) == b"data"
    assert set(seen) == {seen[0]}, "what it had before is used as long as it lasts"
    broken.unlink()
    while seen[-1] == seen[0]:
        assert datetime.now(UTC) < until
        threading.Event().wait(0.05)
        s3dlio.get("s3://bucket/key")
    # botocore logs the failure with its traceback, whose frames hold what was being fetched.
    caplog.clear()
    gc.collect()


def test_a2_after_a_long_pause_not_even_the_first_request_is_signed_by_what_has_expired(
    scripted: ScriptedServer, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a process that computes for a day: the credentials expired while nothing was asked, so every thread must wait for others.
    seen: list[str] = []
    scripted.script = lambda request: (seen.append(key_of(request)), Respond(200, {"ETag": '"1"'}, b"data"))[1]
    s3dlio.get("s3://bucket/key")
    first = seen.pop()
    for store in list(s3._here):
        monkeypatch.setattr(store._renewer, "spec", msgspec.structs.replace(store.spec, expires_at_s=1.0))
        monkeypatch.setattr(store._renewer._renewal, "due_s", 1.0)
        store.wire._signer._stamp = None  # a second has passed
    threads = [threading.Thread(target=s3dlio.get, args=("s3://bucket/key",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(seen) == 8
    assert first not in seen


def test_a2_a_renewed_identity_that_cannot_be_used_is_not_taken(
    scripted: ScriptedServer, program: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.script = lambda _request: Respond(200, {"ETag": '"1"'}, b"data")
    program.write_text(PROGRAM.replace('f"T{number}"', 'f"T{number}" + chr(10) * (number > 3)'))
    until = datetime.now(UTC) + timedelta(seconds=20)
    with s3dlio.Pool(procs=1, jobs=2, memory_bytes="8MiB") as pool, caplog.at_level(logging.WARNING, "s3dlio"):
        while "could not be renewed" not in caplog.text:
            assert datetime.now(UTC) < until
            threading.Event().wait(0.05)
            assert [bytes(view) for _, view in pool.fetch(["s3://bucket/key"])] == [b"data"]
        assert [bytes(view) for _, view in pool.fetch(["s3://bucket/key"] * 5)] == [b"data"] * 5
        assert pool.stats()["worker_restarts"] == 0


EXPIRED = s3_error(400, "ExpiredToken")


@pytest.fixture
def lasting(program: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The credential process, whose credentials claim to last: only the store knows that they do not."""
    monkeypatch.setattr(renewal, "_PAUSE_S", 10.0)
    monkeypatch.setattr(renewal.Renewal, "note", lambda self, *_: setattr(self, "due_s", float("inf")))
    program.write_text(PROGRAM.replace("seconds=60", "hours=6"))
    return program


def read_all(way: str, uris: list[str]) -> list[Any]:
    if way == "get_many":
        return s3dlio.get_many(uris, workers=8, errors="return")
    with s3dlio.Pool(procs=0 if way == "inline pool" else 2, jobs=4, memory_bytes="8MiB") as pool:
        return [found for _, found in pool.fetch(uris, errors="return")]


@pytest.mark.parametrize("way", ["get_many", "inline pool", "workers"])
def test_a2_a_token_that_expires_in_mid_run_costs_one_refresh(scripted: ScriptedServer, lasting: Path, way: str) -> None:
    s3dlio.configure(max_attempts=10, backoff_initial_s=0.1)
    keys: list[str] = []

    def step(request: Request) -> Handler:
        keys.append(key_of(request))
        # From the hundredth request on only newer credentials will do.
        return EXPIRED if keys[-1] == "KEY1" and len(keys) > 100 else Respond(200, {"ETag": '"1"'}, request.path.encode())

    scripted.script = step
    uris = [f"s3://bucket/key{number}" for number in range(300)]
    assert [bytes(view) for view in read_all(way, uris)] == [uri.removeprefix("s3:/").encode() for uri in uris]
    assert set(keys) == {"KEY1", "KEY2"}
    assert lasting.with_suffix(".count").read_text() == "2", "asked for once, for all workers"


@pytest.mark.parametrize("way", ["get_many", "inline pool", "workers"])
def test_a2_a_token_that_no_refresh_mends_fails_with_its_uri_and_its_source(
    scripted: ScriptedServer, lasting: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    s3dlio.configure(max_attempts=10, backoff_initial_s=0.1)
    lasting.write_text(lasting.read_text().replace("{number}", "1"))
    scripted.script = lambda _request: EXPIRED
    with caplog.at_level(logging.WARNING, "s3dlio"):
        [error] = read_all(way, ["s3://bucket/key"])
    assert isinstance(error, s3dlio.PermissionDeniedError)
    assert (error.uri, error.status) == ("s3://bucket/key", 400)
    assert "ExpiredToken" in str(error)
    assert "a credential_process" in str(error)
    assert "have expired, and no others are to be had" in caplog.text
    assert lasting.with_suffix(".count").read_text() == "2"


def test_a2_a_key_that_was_rotated_on_disk_is_read_when_the_store_refuses_the_old_one(
    scripted: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(number: int) -> None:
        (tmp_path / "credentials").write_text(
            f"[default]\naws_access_key_id = KEY{number}\naws_secret_access_key = s\naws_session_token = T{number}\n"
        )

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    write(1)
    (tmp_path / "credentials").chmod(0o600)
    s3dlio.configure(max_attempts=10, backoff_initial_s=0.1)
    current = "KEY1"
    scripted.script = lambda request: Respond(200, {"ETag": '"1"'}, b"data") if key_of(request) == current else EXPIRED
    assert bytes(s3dlio.get("s3://bucket/key")) == b"data"
    current = "KEY2"
    write(2)
    assert bytes(s3dlio.get("s3://bucket/key")) == b"data"
