"""Stores with an access of their own: each asks its own server, as its own identity, whatever the others do meanwhile (A2, N16, P10)."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

import s3dlio
from s3dlio.engine.config import settings
from s3dlio.engine.ops.whole import fetch_range_in_parts
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.stores import renewal, s3_config
from s3dlio.engine.stores.base import run
from s3dlio.engine.stores.s3 import S3Store
from s3dlio.engine.stores.s3_config import S3Access
from tests.fault.test_renewal import EXPIRED, PROGRAM
from tests.support.answers import Respond, s3_error
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import Handler, Request

PATH, URI = "/bucket/key", "s3://bucket/key"
KEYS: Final = """[one]
aws_access_key_id = ONE
aws_secret_access_key = s
[two]
aws_access_key_id = TWO
aws_secret_access_key = s
"""
Open = Callable[..., S3Store]


@pytest.fixture(params=["fast lane", "SDK lane"])
def lane(request: pytest.FixtureRequest, served: ObjectServer) -> str:
    """Has all stores ask by one lane; `served` is where the environment points, as `testkey`."""
    s3dlio.configure(fast_lane=request.param == "fast lane")
    served.objects[PATH] = b"of the environment"
    found: str = request.param
    return found


@pytest.fixture
def other() -> Iterator[ObjectServer]:
    """A server of which the environment does not know, with an object of the same URI."""
    with ObjectServer() as server:
        server.objects[PATH] = b"of another server"
        yield server


@pytest.fixture
def profiles(served: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The profiles `one` and `two`, with keys of their own."""
    (tmp_path / "credentials").write_text(KEYS)
    (tmp_path / "credentials").chmod(0o600)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").touch()
    return tmp_path


def access_of(server: ObjectServer, name: str, region: str = "eu-west-1") -> S3Access:
    return S3Access(endpoint=server.url, region=region, profile=name, user_agent=f"agent/{name}")


def read(store: S3Store) -> bytes:
    return bytes(fetch_range_in_parts(store, URI, "key"))


def who(request: Request) -> tuple[str, str, str]:
    """Returns access key, region of the signature, and user agent; of an unsigned request two empty texts first."""
    scope = request.headers.get("authorization", "").partition("Credential=")[2].split("/")
    key, region = (scope[0], scope[2]) if len(scope) > 2 else ("", "")
    agent = request.headers.get("user-agent", "")
    return key, region, agent if agent.startswith("agent/") else ""


def askers(server: ObjectServer) -> set[tuple[str, str, str]]:
    return {who(request) for request in server.requests}


ONE: Final = ("ONE", "eu-west-1", "agent/one")
TWO: Final = ("TWO", "eu-west-2", "agent/two")
NOBODY: Final = ("", "", "agent/nobody")
OURS: Final = ("testkey", "us-east-1", "")


def test_stores_of_one_bucket_ask_their_own_servers_as_themselves(
    lane: str, served: ObjectServer, other: ObjectServer, profiles: Path
) -> None:
    one = S3Store("s3://bucket/", access_of(other, "one"))
    nobody = S3Store("s3://bucket/", S3Access(endpoint=other.url, unsigned=True, user_agent="agent/nobody"))
    runner = inline_fetcher().run

    def ask(number: int) -> None:
        if number % 3 == 0:
            assert read(one) == b"of another server"
            assert run(one.stat("key"), runner).size == 17
        elif number % 3 == 1:
            assert read(nobody) == b"of another server"
        else:
            assert bytes(s3dlio.get(URI)) == b"of the environment"
            assert s3dlio.stat(URI)["size"] == 18

    with ThreadPoolExecutor(6) as threads:
        for asked in [threads.submit(ask, number) for number in range(60)]:
            asked.result()
    assert askers(other) == {ONE, NOBODY}
    assert askers(served) == {OURS}


def test_two_identities_at_one_server_sign_each_for_themselves(lane: str, other: ObjectServer, profiles: Path) -> None:
    # They may take turns on a connection, which knows no identity.
    stores = {ONE: S3Store("s3://bucket/", access_of(other, "one")), TWO: S3Store("s3://bucket/", access_of(other, "two", "eu-west-2"))}
    for _ in range(5):
        for name, store in stores.items():
            assert read(store) == b"of another server"
            assert who(other.requests[-1]) == name


def test_the_store_of_the_environment_is_not_opened_by_others(lane: str, served: ObjectServer, other: ObjectServer, profiles: Path) -> None:
    from s3dlio.engine.stores import registry

    read(S3Store("s3://bucket/", access_of(other, "one")))
    assert not registry.is_open(URI)
    assert bytes(s3dlio.get(URI)) == b"of the environment"
    ours = registry.locate(URI)[0]
    read(S3Store("s3://bucket/", access_of(other, "one")))
    assert registry.locate(URI)[0] is ours
    s3dlio.shutdown()


def test_p10_a_forked_child_asks_as_its_parent_and_over_connections_of_its_own(
    lane: str, served: ObjectServer, other: ObjectServer, profiles: Path
) -> None:
    one, two = S3Store("s3://bucket/", access_of(other, "one")), S3Store("s3://bucket/", access_of(other, "two", "eu-west-2"))

    def all_well() -> bool:
        there = all(read(store) == b"of another server" for store in (one, two))
        return there and bytes(s3dlio.get(URI)) == b"of the environment"

    assert all_well()
    of_parent = {request.connection for request in other.requests}
    for _ in range(2):
        num_before = len(other.requests)
        pid = os.fork()
        if not pid:
            try:
                os._exit(0 if all_well() else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        of_child = {request.connection for request in other.requests[num_before:]}
        assert of_child
        assert not of_child & of_parent
        assert all_well()
        assert {request.connection for request in other.requests[-2:]} <= of_parent
    assert askers(other) == {ONE, TWO}
    assert askers(served) == {OURS}


@pytest.fixture
def short_lived(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has a program give each profile its keys, which say whose they are; that they do not last only the store knows."""
    monkeypatch.setattr(renewal, "_PAUSE_S", 10.0)
    monkeypatch.setattr(renewal.Renewal, "note", lambda self, *_: setattr(self, "due_s", float("inf")))
    s3dlio.configure(max_attempts=50, backoff_initial_s=0.1, deadline_s=30)
    text = ""
    for name in ("one", "two"):
        program = profiles / f"{name}.py"
        program.write_text(PROGRAM.replace('f"KEY', f'f"{name.upper()}').replace("seconds=60", "hours=6"))
        text += f"[profile {name}]\ncredential_process = {sys.executable} {program}\n"
    (profiles / "config").write_text(text)
    (profiles / "credentials").write_text("")
    return profiles


def count(folder: Path, name: str) -> int:
    return int((folder / f"{name}.count").read_text())


def test_a2_what_one_identity_renews_is_never_anothers(lane: str, other: ObjectServer, short_lived: Path) -> None:
    def step(request: Request) -> Handler:
        # Of the one only its second keys are good; of the other the first.
        return other.honest(request) if who(request)[0] in ("ONE2", "TWO1") else EXPIRED

    other.script = step
    one, two = S3Store("s3://bucket/", access_of(other, "one")), S3Store("s3://bucket/", access_of(other, "two", "eu-west-2"))
    for _ in range(3):
        assert read(two) == read(one) == b"of another server"
    assert bytes(s3dlio.get(URI)) == b"of the environment"
    assert {who(request)[::2] for request in other.requests} == {("ONE1", "agent/one"), ("ONE2", "agent/one"), ("TWO1", "agent/two")}
    assert (count(short_lived, "one"), count(short_lived, "two")) == (2, 1)
    tokens = {(who(request)[0], request.headers["x-amz-security-token"]) for request in other.requests}
    assert tokens == {("ONE1", "T1"), ("ONE2", "T2"), ("TWO1", "T1")}


def test_a2_p10_a_forked_child_renews_for_itself(lane: str, other: ObjectServer, short_lived: Path) -> None:
    good = {"ONE1", "TWO1"}
    other.script = lambda request: other.honest(request) if who(request)[0] in good else EXPIRED
    one, two = S3Store("s3://bucket/", access_of(other, "one")), S3Store("s3://bucket/", access_of(other, "two"))
    assert read(one) == read(two) == b"of another server"
    good.remove("ONE1")
    good.add("ONE2")
    # A thread of the parent may be in the middle of a renewal at that moment, and of opening a bucket.
    with one._renewer._renewing, s3_config._chain.lock:
        pid = os.fork()
        if not pid:
            try:
                os._exit(0 if read(one) == read(two) == b"of another server" else 1)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (count(short_lived, "one"), count(short_lived, "two")) == (2, 1)
    good.remove("ONE2")
    good.add("ONE3")
    assert read(one) == read(two) == b"of another server"
    assert {who(request)[::2] for request in other.requests} == {
        *((f"ONE{number}", "agent/one") for number in (1, 2, 3)),
        ("TWO1", "agent/two"),
    }


def test_n16_a_bucket_that_moved_is_asked_there_by_the_same_identity(other: ObjectServer, profiles: Path) -> None:
    def step(request: Request) -> Handler:
        is_there = who(request)[1] == "ap-south-1"
        return other.honest(request) if is_there else s3_error(301, "PermanentRedirect", {"x-amz-bucket-region": "ap-south-1"})

    other.script = step
    assert read(S3Store("s3://bucket/", access_of(other, "one"))) == b"of another server"
    nobody = S3Store("s3://bucket/", S3Access(endpoint=other.url, unsigned=True, user_agent="agent/nobody"))
    with pytest.raises(s3dlio.S3dlioError, match="region"):
        read(nobody)
    assert askers(other) == {ONE, ("ONE", "ap-south-1", "agent/one"), NOBODY}


def test_a_bucket_that_is_there_already_is_looked_for_by_who_made_it(
    lane: str, served: ObjectServer, other: ObjectServer, profiles: Path
) -> None:
    page = b"<ListAllMyBucketsResult><Buckets><Bucket><Name>bucket</Name></Bucket></Buckets></ListAllMyBucketsResult>"
    other.script = lambda request: s3_error(409, "BucketAlreadyExists") if request.method == "PUT" else Respond(200, {}, page)
    run(S3Store("s3://bucket/", access_of(other, "one")).create_bucket(), inline_fetcher().run)
    assert [request.method for request in other.requests] == ["PUT", "GET"]
    assert askers(other) == {ONE}
    assert not served.requests


def test_the_store_copies_for_one_identity_at_one_endpoint_only(served: ObjectServer, other: ObjectServer, profiles: Path) -> None:
    done = b"<CopyObjectResult><ETag>&quot;1&quot;</ETag></CopyObjectResult>"
    other.script = lambda _request: Respond(200, {}, done)
    runner = inline_fetcher().run
    one = S3Store("s3://bucket/", access_of(other, "one"))
    strangers = [
        S3Store("s3://bucket/", access_of(other, "two")),
        S3Store("s3://bucket/", access_of(served, "one")),
        S3Store("s3://bucket/", S3Access(endpoint=other.url, unsigned=True)),
        S3Store("s3://bucket/"),
    ]
    for stranger in strangers:
        assert run(one.copy("copy", stranger, "key"), runner) is False
        assert run(stranger.copy("copy", one, "key"), runner) is False
    assert not served.requests
    assert not other.requests
    assert run(one.copy("copy", S3Store("s3://bucket/", access_of(other, "one")), "key"), runner) is True
    assert [who(request) for request in other.requests] == [ONE]


def test_a_request_may_have_limits_of_its_own_and_leaves_none_behind(served: ObjectServer) -> None:
    served.objects[PATH] = b"data"
    store, fetcher = S3Store("s3://bucket/"), inline_fetcher()

    def by_run_many(max_attempts: int) -> object:
        [(_, found)] = fetcher.run_many([(None, store.stat("key"))], 1, settings(max_attempts=max_attempts))
        if isinstance(found, s3dlio.S3dlioError):
            raise found
        return found

    asked: list[tuple[int, Callable[[], object]]] = [
        (5, lambda: run(store.stat("key"), lambda fetch: fetcher.run(fetch, settings(max_attempts=5)))),
        (3, lambda: s3dlio.stat(URI)),
        (4, lambda: fetch_range_in_parts(store, URI, "key", limits=settings(max_attempts=4))),
        (3, lambda: s3dlio.get(URI)),
        (1, lambda: by_run_many(1)),
        (6, lambda: by_run_many(6)),
        (3, lambda: s3dlio.get_many([URI])),
    ]
    for max_attempts, ask in asked:
        served.requests.clear()
        served.faults[PATH] = [s3_error(500, "InternalError")] * max_attempts
        with pytest.raises(s3dlio.ServerError):
            ask()
        assert len(served.requests) == max_attempts


def test_limits_of_one_thread_are_not_those_of_threads_that_fetch_beside_it(served: ObjectServer) -> None:
    served.objects[PATH] = served.objects["/bucket/other"] = b"data"
    fault = s3_error(500, "InternalError")
    served.faults["/bucket/other"] = [fault] * 100
    store, start = S3Store("s3://bucket/"), threading.Barrier(8)

    def ask(number: int) -> int | bytes:
        start.wait(10)
        try:
            limits = settings(max_attempts=number + 1) if number < 4 else None
            return bytes(fetch_range_in_parts(store, "s3://bucket/other", "other", limits=limits))
        except s3dlio.ServerError as error:
            return error.attempts

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(8))) == [1, 2, 3, 4, 3, 3, 3, 3]
