"""Servers that fall silent, before or in the middle of an answer, or that drip: each wait has an end, and so has the request (N13)."""

from __future__ import annotations

import random
import threading
import time

import pytest

import s3dlio
from tests.support.answers import Respond, stall_after, stall_before_headers
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import Connection, Request, ScriptedServer

URI, PATH = "s3://bucket/key", "/bucket/key"
SIZE = 100_000
DATA = random.Random(13).randbytes(SIZE)
NEVER = threading.Event()


def test_n13_a_hang_before_headers_is_retried(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [stall_before_headers(NEVER)]
    assert bytes(s3dlio.get(URI)) == DATA
    assert [request.connection for request in served.requests] == [1, 2]


def test_n13_a_hang_at_every_attempt_is_a_timeout_with_uri_and_attempts(served: ObjectServer) -> None:
    s3dlio.configure(max_attempts=2, first_byte_timeout_s=0.3)
    served.objects[PATH] = DATA
    served.faults[PATH] = [stall_before_headers(NEVER)] * 2
    begun = time.monotonic()
    with pytest.raises(s3dlio.StoreTimeoutError) as raised:
        s3dlio.get(URI)
    assert 0.6 <= time.monotonic() - begun < 4
    assert (raised.value.uri, raised.value.attempts) == (URI, 2)
    assert isinstance(raised.value, TimeoutError)


@pytest.mark.parametrize("position", [0, 1, SIZE // 2, SIZE - 1])
def test_n13_a_stall_in_the_body_is_resumed_where_it_stopped(served: ObjectServer, position: int) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [stall_after(position, NEVER)]
    assert bytes(s3dlio.get(URI)) == DATA
    second = served.requests[1]
    assert second.headers["range"].startswith(f"bytes={position}-")
    assert second.headers["if-match"] == served.etag(PATH)


def test_n13_a_stall_at_every_attempt_is_a_timeout(served: ObjectServer) -> None:
    s3dlio.configure(silence_timeout_s=0.2)
    served.objects[PATH] = DATA
    served.faults[PATH] = [stall_after(0, NEVER)] * 3
    with pytest.raises(s3dlio.StoreTimeoutError):
        s3dlio.get(URI)


def test_n13_a_stalled_object_does_not_hold_up_the_others(served: ObjectServer) -> None:
    s3dlio.configure(max_attempts=1)
    for n in range(10):
        served.objects[f"/bucket/{n}"] = DATA[: n * 100]
    served.faults["/bucket/4"] = [stall_after(0, NEVER)]
    found = s3dlio.get_many([f"s3://bucket/{n}" for n in range(10)], workers=2, errors="return")
    assert isinstance(found[4], s3dlio.StoreTimeoutError)
    assert all(bytes(found[n]) == DATA[: n * 100] for n in range(10) if n != 4)


def test_n13_a_late_answer_that_is_already_there_is_no_timeout(served: ObjectServer) -> None:
    # Clocks run only within a poll, and sockets are read before timeouts are judged.
    from s3dlio.engine.config import settings
    from s3dlio.engine.fetch.loop import FetchLoop
    from s3dlio.engine.fetch.request import Fetch, State
    from s3dlio.engine.stores.registry import locate

    served.objects[PATH] = b"data"
    store, key = locate(URI)
    loop = FetchLoop(settings(max_attempts=1, first_byte_timeout_s=0.05), 1)
    fetch = Fetch(0, URI, store.wire, key, size=4, out=memoryview(bytearray(4)))
    loop.submit(fetch)
    served_one = threading.Event()
    while not served.requests:
        loop.poll(0.01)
    served_one.wait(0.5)  # the caller computes, far beyond the timeout; the answer has long arrived
    while fetch.state < State.DONE:
        loop.poll(0.1)
    loop.close()
    assert fetch.state is State.DONE


def drip(num_bytes: int, every_s: float) -> object:
    """Announces and sends `num_bytes`, one at a time, never silent for longer than `every_s`."""

    def handle(_request: Request, connection: Connection) -> None:
        connection.send(Respond(200, {"ETag": '"v1"'}, b"x" * num_bytes).head())
        for _ in range(num_bytes):
            connection.send(b"x")
            if connection.server.closing.wait(every_s):
                return

    return handle


def test_n13_a_body_that_drips_ends_at_the_deadline(scripted: ScriptedServer) -> None:
    s3dlio.configure(deadline_s=1.0)
    scripted.then(drip(60, 0.1))  # type: ignore[arg-type]
    begun = time.monotonic()
    with pytest.raises(s3dlio.S3dlioError) as raised:
        s3dlio.get(URI)
    assert time.monotonic() - begun < 4
    assert isinstance(raised.value, TimeoutError)


def test_n13_a_head_that_drips_ends_at_the_deadline(scripted: ScriptedServer) -> None:
    s3dlio.configure(deadline_s=1.0)

    def drip_interim_answers(_request: Request, connection: Connection) -> None:
        for _ in range(60):
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            if connection.server.closing.wait(0.1):
                return
        connection.send(Respond(200, {}, b"late").head() + b"late")

    scripted.then(drip_interim_answers)
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        s3dlio.get(URI)
    assert time.monotonic() - begun < 4


def test_n1_a_port_where_nobody_listens_is_retried_and_then_an_error(served: ObjectServer, s3_env: object) -> None:
    import socket

    with socket.socket() as closed:
        # Bound and not listening: nobody else can get the port meanwhile.
        closed.bind(("127.0.0.1", 0))
        s3_env(f"http://127.0.0.1:{closed.getsockname()[1]}")  # type: ignore[operator]
        with pytest.raises(s3dlio.ConnectFailedError) as raised:
            s3dlio.get(URI)
    assert (raised.value.uri, raised.value.attempts) == (URI, 3)


def test_n1_a_name_that_does_not_exist_is_an_error(quick_settings: None, s3_env: object) -> None:
    s3_env("http://no-such-host.invalid:9000")  # type: ignore[operator]
    with pytest.raises(s3dlio.ConnectFailedError):
        s3dlio.get(URI)
    s3dlio.shutdown()
