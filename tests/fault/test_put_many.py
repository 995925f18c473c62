"""`put_many`: all are tried, side by side, whatever becomes of some; and callers who leave."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from tests.fault.conftest import PointAt, Run
from tests.support.answers import s3_error
from tests.support.scripted_server import Connection, Request
from tests.support.write_server import WriteServer, answered, lost

DATA = random.Random(43).randbytes(10_000)


@pytest.fixture
def store(s3_env: PointAt, quick_settings: None) -> Iterator[WriteServer]:
    """A strict server for `s3://bucket/`."""
    with WriteServer() as server:
        s3_env(server.url)
        yield server
        s3dlio.shutdown()


@pytest.fixture(params=["called", "awaited"])
def put_many(request: pytest.FixtureRequest) -> Any:
    """The verb, called or awaited."""
    if request.param == "called":
        return s3dlio.put_many
    return lambda *args, **kwargs: asyncio.run(s3dlio.put_many_async(*args, **kwargs))


def items(num: int) -> list[tuple[str, bytes]]:
    return [(f"s3://bucket/{n}", DATA[n : n + 1000 + n]) for n in range(num)]


def test_an_iterator_of_any_schemes_is_written_whole(store: WriteServer, put_many: Any, tmp_path: Path) -> None:
    roots = ["s3://bucket/", f"file://{tmp_path}/", "memory://put-many/"]
    assert put_many(((roots[n % 3] + str(n), DATA[: n * 10]) for n in range(60)), 7) is None
    assert all(s3dlio.get(roots[n % 3] + str(n)) == DATA[: n * 10] for n in range(60) if n % 3)
    assert {path: found.data for path, found in store.objects.items()} == {f"/bucket/{n}": DATA[: n * 10] for n in range(0, 60, 3)}
    assert put_many([]) is None


def test_the_first_error_in_input_order_is_raised_with_the_count_when_all_were_tried(store: WriteServer, put_many: Any) -> None:
    wanted = items(30)
    wanted[7] = ("s3://bucket/7", 5)  # type: ignore[assignment]
    wanted[20] = ("no-uri", b"")
    store.faults = [lambda request: s3_error(403, "AccessDenied") if request.path in {"/bucket/4", "/bucket/11"} else None]
    with pytest.raises(s3dlio.PermissionDeniedError, match="4 of 30 objects failed") as raised:
        put_many(wanted)
    assert raised.value.uri == "s3://bucket/4"
    assert set(store.objects) == {f"/bucket/{n}" for n in range(30)} - {f"/bucket/{n}" for n in (4, 7, 11, 20)}
    found = {n: type(error) for n, error in enumerate(put_many(wanted, errors="return")) if error is not None}
    refused = s3dlio.PermissionDeniedError
    assert found == {4: refused, 7: TypeError, 11: refused, 20: s3dlio.InvalidUriError}


def test_lost_and_refused_answers_are_tried_again(store: WriteServer, put_many: Any) -> None:
    s3dlio.configure(max_attempts=10)
    store.faults = [lost(store, "PUT", 3), answered("PUT", s3_error(503, "SlowDown"), 3)]
    put_many(items(20), 4)
    assert {path: found.data for path, found in store.objects.items()} == {f"/bucket/{n}": data for n, (_, data) in enumerate(items(20))}


class Counter:
    """Counts the writes of bytes that a server has at once."""

    def __init__(self, store: WriteServer) -> None:
        self.most = 0
        self._now = 0
        self._store = store
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Any:
        return self._handle if request.method == "PUT" else None

    def _handle(self, request: Request, connection: Connection) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        with self._lock:
            answer = self._store.carry_out(request)
            self._now -= 1
        answer(request, connection)


def test_no_more_requests_are_under_way_than_were_allowed_and_items_are_pulled_as_there_is_room(store: WriteServer, put_many: Any) -> None:
    pulled: list[int] = []

    def feed() -> Iterator[tuple[str, bytes]]:
        for n, item in enumerate(items(40)):
            assert len(pulled) <= len(store.log) + 4
            pulled.append(n)
            yield item

    counter = Counter(store)
    store.faults = [counter]
    put_many(feed(), 3)
    assert len(store.objects) == 40
    assert counter.most <= 3


def test_an_error_of_the_callers_own_iterator_comes_through(store: WriteServer, put_many: Any) -> None:
    def feed() -> Iterator[tuple[str, bytes]]:
        yield from items(5)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        put_many(feed(), 2)
    put_many(items(6))
    assert len(store.objects) == 6


@pytest.mark.parametrize("wrong", [{"max_in_flight": 0}, {"max_in_flight": 2.5}, {"max_in_flight": None}, {"errors": "ignore"}])
def test_arguments_without_sense_are_refused(wrong: dict[str, Any], put_many: Any) -> None:
    with pytest.raises(s3dlio.ConfigurationError):
        put_many([("memory://put-many-wrong/key", b"")], **wrong)
    for item in (("memory://put-many-wrong/key",), 5, "memory://put-many-wrong/key"):
        with pytest.raises(s3dlio.ConfigurationError):
            put_many([item])
    assert not s3dlio.exists("memory://put-many-wrong/key")


def test_many_threads_write_at_once(store: WriteServer) -> None:
    def write(part: int) -> None:
        s3dlio.put_many([(f"s3://bucket/{part}/{n}", DATA[n : n + 500]) for n in range(20)], 4)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    assert {path: found.data for path, found in store.objects.items()} == {
        f"/bucket/{part}/{n}": DATA[n : n + 500] for part in range(8) for n in range(20)
    }


def test_long_objects_go_in_parts_within_the_requests_that_are_allowed(store: WriteServer, put_many: Any) -> None:
    s3dlio.configure(multipart_above_bytes="5MiB", put_part_bytes="5MiB")
    data = random.Random(44).randbytes(16 << 20)
    counter = Counter(store)
    store.faults = [counter]
    put_many([(f"s3://bucket/{n}", data) for n in range(3)], 2)
    assert [found.data == data for found in store.objects.values()] == [True] * 3
    assert store.uploads == {}
    assert counter.most <= 2


def test_u1_a_caller_who_is_cancelled_leaves_no_upload_behind(store: WriteServer, run: Run) -> None:
    s3dlio.configure(multipart_above_bytes="5MiB", put_part_bytes="5MiB", first_byte_timeout_s=30, silence_timeout_s=30, deadline_s=60)
    reached, go_on = asyncio.Event(), threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def hold(request: Request) -> Any:
            if "partNumber=2" not in request.query:
                return None

            def handle(request: Request, connection: Connection) -> None:
                loop.call_soon_threadsafe(reached.set)
                connection.wait_for(go_on)

            return handle

        store.faults = [hold]
        task = asyncio.create_task(s3dlio.put_many_async([("s3://bucket/long", bytes(11 << 20)), ("s3://bucket/short", b"x")]))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    run(main())
    assert store.uploads == {}
    assert "DELETE upload" in store.log


def test_u1_ctrl_c_leaves_no_upload_behind(store: WriteServer) -> None:
    s3dlio.configure(multipart_above_bytes="5MiB", put_part_bytes="5MiB")
    go_on = threading.Event()

    def interrupt(request: Request) -> Any:
        if "partNumber=2" not in request.query or go_on.is_set():
            return None

        def handle(request: Request, connection: Connection) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            connection.wait_for(go_on)

        return handle

    store.faults = [interrupt]
    with pytest.raises(KeyboardInterrupt):
        s3dlio.put_many([("s3://bucket/long", bytes(11 << 20)), *items(5)], 4)
    go_on.set()
    assert store.uploads == {}
    assert "/bucket/long" not in store.objects
    s3dlio.put_many(items(5))
