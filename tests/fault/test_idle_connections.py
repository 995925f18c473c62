"""Kept connections: used again, replaced silently when the server closed them, never given up to another answer (N5, N15, N21)."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator

import pytest

import s3dlio
from s3dlio.engine.pool.inline import inline_fetcher
from tests.support.answers import Respond, close_after_response, close_before_headers, raw, reset_before_headers
from tests.support.object_server import ObjectServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Connection, Request, ScriptedServer

URI, PATH = "s3://bucket/key", "/bucket/key"


def test_one_connection_serves_calls_of_every_kind(served: ObjectServer) -> None:
    served.objects[PATH] = b"0123456789"
    for _ in range(3):
        s3dlio.get(URI)
        s3dlio.get_range(URI, 2, 5)
        s3dlio.stat(URI)
        assert not s3dlio.exists("s3://bucket/missing")
        with pytest.raises(FileNotFoundError):
            s3dlio.get("s3://bucket/missing")
    assert served.num_connections == 1


@pytest.mark.parametrize("announce", [False, True], ids=["silently", "announced"])
def test_n15_a_connection_closed_while_idle_costs_no_attempt(served: ObjectServer, announce: bool) -> None:
    # With a single attempt allowed, anything that counts as a failure is an error.
    s3dlio.configure(max_attempts=1)
    served.objects[PATH] = b"data"
    served.faults[PATH] = [close_after_response(announce=announce)] * 10
    assert [bytes(s3dlio.get(URI)) for _ in range(11)] == [b"data"] * 11


@pytest.mark.parametrize("last_word", [close_before_headers(), reset_before_headers()], ids=["FIN", "RST"])
def test_n15_a_close_that_crosses_the_request_costs_no_attempt(served: ObjectServer, last_word: Callable[..., None]) -> None:
    s3dlio.configure(max_attempts=1)
    served.objects[PATH] = b"data"
    s3dlio.get(URI)
    served.faults[PATH] = [last_word]
    assert bytes(s3dlio.get(URI)) == b"data"
    assert [request.connection for request in served.requests] == [1, 1, 2]


def test_n15_a_new_connection_that_closes_without_an_answer_is_a_failure(served: ObjectServer) -> None:
    s3dlio.configure(max_attempts=1)
    served.faults[PATH] = [close_before_headers()]
    with pytest.raises(s3dlio.ConnectFailedError) as raised:
        s3dlio.get(URI)
    assert raised.value.attempts == 1


def test_n5_bytes_behind_the_last_answer_that_come_late_cost_the_next_request_no_attempt(served: ObjectServer) -> None:
    s3dlio.configure(max_attempts=1)
    served.objects[PATH] = b"data"
    s3dlio.get(URI)
    served.faults[PATH] = [raw(b"\xee" * 500 + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")]
    assert bytes(s3dlio.get(URI)) == b"data"
    assert [request.connection for request in served.requests] == [1, 1, 2]


def test_n5_what_is_no_answer_on_a_new_connection_is_a_failure(served: ObjectServer) -> None:
    s3dlio.configure(max_attempts=1)
    served.faults[PATH] = [raw(b"\xee" * 500 + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")]
    with pytest.raises(s3dlio.ProtocolError) as raised:
        s3dlio.get(URI)
    assert raised.value.attempts == 1


@pytest.mark.parametrize("num_connections", [32, 450])
def test_n15_all_idle_connections_reset_at_once_cost_no_attempt(scripted: ScriptedServer, num_connections: int) -> None:
    s3dlio.configure(max_attempts=1, first_byte_timeout_s=20, deadline_s=60)
    all_here = threading.Barrier(num_connections)
    must_reset = threading.Event()
    num_reset = threading.Semaphore(0)

    def answer_when_all_are_here(request: Request, connection: Connection) -> None:
        all_here.wait(30)
        Respond(200, {}, b"data")(request, connection)
        connection.wait_for(must_reset)
        connection.reset()
        num_reset.release()

    def step(request: Request) -> Callable[[Request, Connection], None]:
        return answer_when_all_are_here if request.connection <= num_connections else Respond(200, {}, b"data")

    scripted.script = step
    uris = [f"s3://bucket/{n}" for n in range(num_connections)]
    assert all(bytes(view) == b"data" for view in s3dlio.get_many(uris, workers=num_connections))
    must_reset.set()
    for _ in uris:
        assert num_reset.acquire(timeout=30)
    assert all(bytes(view) == b"data" for view in s3dlio.get_many(uris, workers=num_connections))
    assert bytes(s3dlio.get(uris[0])) == b"data"


def test_an_unasked_answer_on_an_idle_connection_is_not_the_next_one(scripted: ScriptedServer) -> None:
    # A proxy that says 408 before it closes an idle connection. Source: HAProxy's `timeout http-keep-alive`.
    s3dlio.configure(max_attempts=1)
    is_said = threading.Event()

    def answer_and_time_out(request: Request, connection: Connection) -> None:
        Respond(200, {}, b"data")(request, connection)
        Respond(408, {}, b"too late")(request, connection)
        connection.finish()
        is_said.set()

    scripted.then(answer_and_time_out, Respond(200, {}, b"next"))
    assert bytes(s3dlio.get(URI)) == b"data"
    assert is_said.wait(10)
    assert bytes(s3dlio.get(URI)) == b"next"


def test_a_connection_that_was_idle_for_too_long_is_not_used_again(served: ObjectServer) -> None:
    # However seldom the caller comes: the clock of a loop stands still meanwhile, that of a firewall does not.
    s3dlio.configure(idle_connection_s=0.2)
    served.objects[PATH] = b"data"
    s3dlio.get(URI)
    s3dlio.get(URI)
    assert served.num_connections == 1
    threading.Event().wait(0.3)
    s3dlio.get(URI)
    assert served.num_connections == 2


def test_missing_objects_cost_no_connection(served: ObjectServer) -> None:
    for _ in range(10):
        assert not s3dlio.exists("s3://bucket/missing")
    assert served.num_connections == 1


def test_requests_that_cannot_be_built_cost_neither_connections_nor_the_stack(served: ObjectServer) -> None:
    served.objects[PATH] = b"data"
    uris = ["s3://bucket/"] * 1500
    found = s3dlio.get_many([*uris, URI], workers=500, errors="return")
    assert {type(one) for one in found[:-1]} == {s3dlio.NotFoundError}
    assert bytes(found[-1]) == b"data"
    with s3dlio.Pool(procs=0, jobs=500) as pool:
        results = [one for _, one in pool.fetch([*uris, URI], errors="return")]
    assert {type(one) for one in results[:-1]} == {s3dlio.NotFoundError}
    assert served.num_connections == 2


def test_what_a_burst_of_threads_left_behind_is_let_go(served: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3dlio.engine.pool.inline._LOOK_S", 0.0)
    for n in range(8):
        served.objects[f"/bucket/{n}"] = b"data"
    all_here = threading.Barrier(8)

    def answer_when_all_are_here(request: Request, connection: Connection) -> None:
        all_here.wait(30)
        Respond(200, {}, b"data")(request, connection)
        connection.finish()

    for n in range(8):
        served.faults[f"/bucket/{n}"] = [answer_when_all_are_here]
    threads = [threading.Thread(target=s3dlio.get, args=(f"s3://bucket/{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    served.wait_for_silence()
    for _ in range(8):
        assert bytes(s3dlio.get("s3://bucket/0")) == b"data"
    assert len(inline_fetcher()._loops) <= 1


def test_many_origins_share_the_limit_of_connections(quick_settings: None, s3_env: Callable[[S3Endpoint | str], None]) -> None:
    servers = [ObjectServer() for _ in range(6)]
    try:
        uris = []
        for n, server in enumerate(servers):
            server.objects[f"/bucket{n}/key"] = bytes([n]) * 10
            s3_env(server.url)
            uris.append(f"s3://bucket{n}/key")
            s3dlio.stat(uris[-1])  # opens the store, which keeps the endpoint of this moment
        for workers in (1, 2, 64):
            found = s3dlio.get_many(uris * 5, workers=workers)
            assert [bytes(view) for view in found] == [bytes([n]) * 10 for n in range(6)] * 5
    finally:
        s3dlio.shutdown()
        for server in servers:
            server.close()


def test_an_endpoint_whose_first_address_refuses_is_reached_at_the_second(
    served: ObjectServer, s3_env: Callable[[S3Endpoint | str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As "localhost" where it is ::1 first, and the server listens on 127.0.0.1 alone. The resolver is the only part that is played.
    import socket

    real = socket.getaddrinfo

    def resolve(host: object, port: object, *args: object, **kwargs: object) -> object:
        if host != "two.example":
            return real(host, port, *args, **kwargs)  # type: ignore[arg-type]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    served.objects[PATH] = b"data"
    s3_env(f"http://two.example:{served.port}")
    assert bytes(s3dlio.get(URI)) == b"data"


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[int], None]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda num: resource.setrlimit(resource.RLIMIT_NOFILE, (num, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_n21_no_descriptor_left_is_an_error_that_says_what_to_do(served: ObjectServer, few_descriptors: Callable[[int], None]) -> None:
    import os

    served.objects[PATH] = b"data"
    s3dlio.get(URI)  # everything that is needed once is there
    served.faults[PATH] = [close_after_response(announce=True)]
    s3dlio.get(URI)
    # The server's end of the connection must be closed too: its descriptor is one of this process.
    served.wait_for_silence()
    # The lowest free descriptor: below it all are taken.
    lowest = os.dup(0)
    os.close(lowest)
    few_descriptors(lowest)
    with pytest.raises(s3dlio.ConnectFailedError, match="ulimit") as raised:
        s3dlio.get(URI)
    assert raised.value.attempts == 3


def test_n21_descriptors_that_come_back_are_used(served: ObjectServer, few_descriptors: Callable[[int], None]) -> None:
    import os

    s3dlio.configure(max_attempts=8, backoff_initial_s=0.05, backoff_max_s=0.2, deadline_s=20)
    for n in range(40):
        served.objects[f"/bucket/{n}"] = bytes([n])
    s3dlio.get("s3://bucket/0")
    lowest = os.dup(0)
    os.close(lowest)
    # In this process each connection costs two descriptors, the server's end included.
    few_descriptors(lowest + 12)
    found = s3dlio.get_many([f"s3://bucket/{n}" for n in range(40)], workers=4)
    assert [bytes(view) for view in found] == [bytes([n]) for n in range(40)]
