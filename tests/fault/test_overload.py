"""Servers that ask for fewer requests, or drip: N10, N14."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import s3dlio
import s3dlio.engine.ops.lifecycle  # The kit ends the engine through it, as soon as it is loaded.
from tests.process.kit import content
from tests.support.answers import s3_error
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import Connection, Handler, Request

PATH, URI = "/bucket/key", "s3://bucket/key"


class Overloaded:
    """Answers as the server does, but 503 SlowDown to whatever comes while `most` requests are being answered, each for 5 ms."""

    def __init__(self, server: ObjectServer, most: int) -> None:
        self.num_refused = 0
        self.num_answered = 0
        self._server = server
        self._most = most
        self._num_active = 0
        self._lock = threading.Lock()

    def __call__(self, _request: Request) -> Handler:
        with self._lock:
            if self._num_active >= self._most:
                self.num_refused += 1
                return s3_error(503, "SlowDown")
            self._num_active += 1
        return self._answer

    def _answer(self, request: Request, connection: Connection) -> None:
        threading.Event().wait(0.005)
        with self._lock:
            self._num_active -= 1
            self.num_answered += 1
        self._server.honest(request)(request, connection)


@pytest.mark.parametrize("procs", [0, 8], ids=["inline", "8 workers"])
def test_n10_a_storm_of_slow_down_makes_the_workers_calm_and_no_object_is_lost(served: ObjectServer, procs: int) -> None:
    s3dlio.configure(max_attempts=10, backoff_initial_s=0.05, backoff_max_s=0.5, deadline_s=60)
    num = 600
    for index in range(num):
        served.objects[f"/bucket/{index}"] = content(str(index), 1000)
    overloaded = Overloaded(served, 4)
    served.script = overloaded
    with s3dlio.Pool(procs=procs, jobs=8 if procs else 64, memory_bytes="16MiB") as pool:
        found = dict(pool.fetch([f"s3://bucket/{index}" for index in range(num)], errors="return"))
    assert {uri: bytes(view) for uri, view in found.items()} == {f"s3:/{path}": data for path, data in served.objects.items()}
    assert overloaded.num_answered == num
    # 64 at once against 4: without holding back, there are 970 refusals. Eight workers cannot be fewer than eight at once.
    assert overloaded.num_refused < (num if procs else num / 2)


def test_n10_another_host_gets_its_requests_while_one_is_spared(served: ObjectServer, s3_env: Callable[[str], None]) -> None:
    s3dlio.configure(max_attempts=10, backoff_initial_s=0.2, deadline_s=60)
    with ObjectServer() as other:
        served.objects[PATH] = b"slow"
        served.faults[PATH] = [s3_error(503, "SlowDown", {"Retry-After": "1"})]
        other.objects["/elsewhere/key"] = b"data"
        s3dlio.exists("s3://bucket/nothing")  # opens the bucket at its own server
        s3_env(other.url)
        order = [uri for uri, _ in _fetch_unordered(["s3://bucket/key"] + ["s3://elsewhere/key"] * 50)]
    assert order[-1] == URI
    assert len(order) == 51


def _fetch_unordered(uris: list[str]) -> Iterator[tuple[str, Any]]:
    with s3dlio.Pool(procs=0, jobs=4, memory_bytes="16MiB") as pool:
        yield from pool.fetch(uris, ordered=False)


def test_n10_waiting_for_a_spared_host_costs_no_cpu(served: ObjectServer) -> None:
    served.objects[PATH] = b"data"
    served.faults[PATH] = [s3_error(503, "SlowDown")] * 2

    def later(request: Request, connection: Connection) -> None:
        threading.Event().wait(0.02)
        served.honest(request)(request, connection)

    served.faults[PATH] += [later] * 40
    begun_s = time.thread_time()
    assert [bytes(view) for view in s3dlio.get_many([URI] * 40, workers=16)] == [b"data"] * 40
    assert time.thread_time() - begun_s < 0.3


def test_n10_n11_a_pause_goes_on_while_nobody_waits_and_no_longer(served: ObjectServer) -> None:
    s3dlio.configure(max_attempts=1)
    served.objects[PATH] = served.objects["/bucket/other"] = b"data"
    served.faults[PATH] = [s3_error(503, "SlowDown", {"Retry-After": "1"})]
    with pytest.raises(s3dlio.ThrottledError):
        s3dlio.get(URI)
    begun_s = time.monotonic()
    threading.Event().wait(0.6)
    assert bytes(s3dlio.get("s3://bucket/other")) == b"data"
    assert 0.9 < time.monotonic() - begun_s < 1.5


@pytest.fixture(params=["get", "inline", "workers"])
def read(request: pytest.FixtureRequest, served: ObjectServer) -> Iterator[Callable[[str], Any]]:
    s3dlio.configure(min_throughput_bytes_s=1000, min_throughput_s=0.5, silence_timeout_s=10, first_byte_timeout_s=10, deadline_s=30)
    if request.param == "get":
        yield s3dlio.get
        return
    with s3dlio.Pool(procs=int(request.param == "workers"), jobs=4, memory_bytes="16MiB") as pool:
        yield lambda uri: next(iter(pool.fetch([uri])))[1]


def drip(server: ObjectServer, over: threading.Event, num_first: int) -> Handler:
    """Sends the first bytes of the answer, head and all, and then one every 50 ms: never silent, and never done."""

    def handle(request: Request, connection: Connection) -> None:
        answer = server.honest(request)
        data = answer.head() + bytes(answer.body)
        connection.send(data[:num_first])
        for index in range(num_first, len(data)):
            if over.wait(0.05):
                return
            connection.send(data[index : index + 1])

    return handle


@pytest.mark.parametrize("num_first", [0, 1000], ids=["head", "body"])
def test_n14_a_server_that_drips_is_left_and_the_rest_is_fetched_elsewhere(
    served: ObjectServer, read: Callable[[str], Any], num_first: int
) -> None:
    served.objects[PATH] = content("key", 30_000)
    over = threading.Event()
    served.faults[PATH] = [drip(served, over, num_first)]
    assert bytes(read(URI)) == served.objects[PATH]
    over.set()
    assert len(served.requests_of(PATH)) == 2


def test_n14_a_server_that_only_drips_is_a_timeout_at_the_deadline(served: ObjectServer) -> None:
    s3dlio.configure(min_throughput_bytes_s=1000, min_throughput_s=0.3, silence_timeout_s=10, deadline_s=1.5, max_attempts=100)
    served.objects[PATH] = content("key", 30_000)
    over = threading.Event()
    served.faults[PATH] = [drip(served, over, 500)] * 100
    with pytest.raises(s3dlio.StoreTimeoutError, match=r"sent fewer than 1000 bytes/s for 0\.3 s|before its deadline") as caught:
        s3dlio.get(URI)
    over.set()
    assert caught.value.uri == URI


def test_n14_a_chunked_body_above_the_limit_is_let_go_on_too(served: ObjectServer, read: Callable[[str], Any]) -> None:
    served.objects[PATH] = content("key", 8_000)

    def trickle(request: Request, connection: Connection) -> None:
        answer = served.honest(request).with_headers(content_length=None, transfer_encoding="chunked")
        connection.send(answer.head())
        for start in range(0, 8_000, 400):
            threading.Event().wait(0.1)
            connection.send(b"190\r\n%b\r\n" % bytes(answer.body[start : start + 400]))
        connection.send(b"0\r\n\r\n")

    served.faults[PATH] = [trickle]
    assert bytes(read(URI)) == served.objects[PATH]
    assert len(served.requests_of(PATH)) == 1


def test_n14_a_slow_server_above_the_limit_is_let_go_on(served: ObjectServer, read: Callable[[str], Any]) -> None:
    served.objects[PATH] = content("key", 8_000)

    def trickle(request: Request, connection: Connection) -> None:
        answer = served.honest(request)
        connection.send(answer.head())
        for start in range(0, 8_000, 400):
            threading.Event().wait(0.1)
            connection.send(answer.body[start : start + 400])

    served.faults[PATH] = [trickle]
    assert bytes(read(URI)) == served.objects[PATH]
    assert len(served.requests_of(PATH)) == 1
