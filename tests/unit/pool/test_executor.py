"""Commands in, events and bytes out: the body of a worker, on `memory://` and on a real HTTP server."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from s3dlio.engine.config import settings
from s3dlio.engine.errors import InternalError, rebuild_error
from s3dlio.engine.fetch.loop import FetchLoop
from s3dlio.engine.fetch.request import Fetch
from s3dlio.engine.memory.segment import HEADER_BYTES, Segment
from s3dlio.engine.pool.executor import Executor
from s3dlio.engine.pool.messages import (
    CancelPart,
    Command,
    Event,
    FetchPart,
    OpenStore,
    PartCancelled,
    PartFailed,
    PartFetched,
    SpaceWanted,
    Stop,
    SupplySpace,
)
from s3dlio.engine.stores.base import run
from s3dlio.engine.stores.file_wire import FileSpec
from s3dlio.engine.stores.memory import MemoryStore
from s3dlio.engine.stores.s3_spec import S3Spec
from s3dlio.engine.stores.s3_wire import S3Wire
from tests.support.answers import cut_after, stall_after, stall_before_headers
from tests.support.object_server import ObjectServer

DATA = random.Random(3).randbytes(300_000)
PLACE, OTHER_PLACE = HEADER_BYTES + 4096, HEADER_BYTES + (1 << 20)
CANARY = 0xA5
MEMORY, HTTP = 0, 1

Put = Callable[[bytes], str]


class Bench:
    """An executor with a small segment full of canaries, and two stores."""

    def __init__(self, port: int) -> None:
        self.segment = Segment.create(4 << 20)
        self.segment.reserve(HEADER_BYTES, 2 << 20)
        self.segment.buffer[HEADER_BYTES : 2 << 20] = bytes([CANARY]) * ((2 << 20) - HEADER_BYTES)
        self.loop = FetchLoop(settings(), 2)
        self.executor = Executor(self.segment, self.loop)
        self.memory = MemoryStore("memory://bench/")
        self.executor.open(MEMORY, "memory://bench/", self.memory.wire)
        spec = S3Spec("s3://bucket/", "http", "127.0.0.1", port, f"127.0.0.1:{port}", "/bucket", "us-east-1", None, None, None)
        self.executor.open(HTTP, "s3://bucket/", S3Wire(spec))

    def do(self, *commands: Command) -> None:
        for command in commands:
            self.executor.obey(command)

    def events(self, num: int = 1) -> list[Event]:
        """Polls until so many events have come."""
        found: list[Event] = []
        for _ in range(200):
            found += self.executor.poll(0.1)
            if len(found) >= num:
                return found
        raise AssertionError(f"only {found} came")

    def bytes_at(self, offset: int, nbytes: int) -> bytes:
        return bytes(self.segment.buffer[offset : offset + nbytes])

    def is_untouched(self, offset: int, nbytes: int) -> bool:
        return self.bytes_at(offset, nbytes) == bytes([CANARY]) * nbytes

    def close(self) -> None:
        self.loop.close()
        self.segment.close()
        del self.segment, self.executor  # the mapping goes with the last reference, and pytest keeps this object


@pytest.fixture
def bench(object_server: ObjectServer) -> Iterator[Bench]:
    made = Bench(object_server.port)
    yield made
    run(made.memory.delete("key"), _no_runner)
    made.close()


@pytest.fixture(params=["memory", "http"])
def store(request: pytest.FixtureRequest, bench: Bench, object_server: ObjectServer) -> int:
    """The number of a store that has DATA under `key`."""
    run(bench.memory.put("key", memoryview(DATA)), _no_runner)
    object_server.objects["/bucket/key"] = DATA
    return MEMORY if request.param == "memory" else HTTP


def _no_runner(fetch: Fetch) -> Fetch:
    raise AssertionError("a store in memory needs no network")


def fetch(store: int, part: int = 1, start: int = 0, end: int | None = None, room: int = len(DATA), **pins: object) -> FetchPart:
    command = FetchPart(part, store, "key", start, end, None, None, PLACE, room)
    return msgspec.structs.replace(command, **pins)


def test_a_whole_object_lies_in_its_place_and_nothing_beside_it(bench: Bench, store: int) -> None:
    bench.do(fetch(store))
    assert len(bench.executor._fetches) == 1
    (event,) = bench.events()
    assert isinstance(event, PartFetched)
    assert (event.part, event.received, event.size) == (1, len(DATA), len(DATA))
    assert event.version
    assert event.elapsed_s >= 0
    assert bench.bytes_at(PLACE, len(DATA)) == DATA
    assert bench.is_untouched(HEADER_BYTES, 4096)
    assert bench.is_untouched(PLACE + len(DATA), 4096)
    assert len(bench.executor._fetches) == 0


def test_a_range_lies_in_its_place_and_the_size_is_that_of_the_object(bench: Bench, store: int) -> None:
    bench.do(fetch(store, start=1000, end=3000, room=2000))
    (event,) = bench.events()
    assert isinstance(event, PartFetched)
    assert (event.received, event.size) == (2000, len(DATA))
    assert bench.bytes_at(PLACE, 2000) == DATA[1000:3000]
    assert bench.is_untouched(PLACE + 2000, 4096)


def test_an_object_that_does_not_fit_waits_and_goes_to_the_place_that_it_is_given(bench: Bench, store: int) -> None:
    bench.do(fetch(store, room=4096))
    (event,) = bench.events()
    assert event == SpaceWanted(1, len(DATA), len(DATA), event.version)  # type: ignore[union-attr]
    assert bench.is_untouched(PLACE, len(DATA))
    bench.do(SupplySpace(1, OTHER_PLACE, len(DATA), len(DATA)))
    (done,) = bench.events()
    assert isinstance(done, PartFetched)
    assert bench.bytes_at(OTHER_PLACE, len(DATA)) == DATA
    assert bench.is_untouched(PLACE, len(DATA))


def test_an_object_that_is_split_now_keeps_its_first_part_and_no_more(bench: Bench, store: int) -> None:
    bench.do(fetch(store, room=4096))
    bench.events()
    bench.do(SupplySpace(1, OTHER_PLACE, 100_000, 100_000))
    (event,) = bench.events()
    assert isinstance(event, PartFetched)
    assert (event.received, event.size) == (100_000, len(DATA))
    assert bench.bytes_at(OTHER_PLACE, 100_000) == DATA[:100_000]
    assert bench.is_untouched(OTHER_PLACE + 100_000, 8192)
    bench.do(fetch(store, part=2, start=100_000, end=len(DATA), room=200_000, version=event.version))
    (rest,) = bench.events()
    assert isinstance(rest, PartFetched)
    assert bench.bytes_at(PLACE, 200_000) == DATA[100_000:]


@pytest.mark.parametrize(
    ("change", "name"),
    [({"key": "none"}, "NotFoundError"), ({"version": "old"}, "ObjectChangedError"), ({"size": 5}, "ObjectChangedError")],
)
def test_a_failure_is_reported_with_its_uri(bench: Bench, store: int, change: dict[str, object], name: str) -> None:
    bench.do(fetch(store, **change))  # type: ignore[arg-type]
    (event,) = bench.events()
    assert isinstance(event, PartFailed)
    error = rebuild_error(event.error)
    assert type(error).__name__ == name
    root = "memory://bench/" if store == MEMORY else "s3://bucket/"
    assert error.uri == root + str(change.get("key", "key"))
    assert len(bench.executor._fetches) == 0


def test_a_part_that_waits_for_space_can_be_cancelled_and_what_comes_later_does_nothing(bench: Bench, store: int) -> None:
    bench.do(fetch(store, room=4096))
    bench.events()
    bench.do(CancelPart(1))
    assert bench.events() == [PartCancelled(1)]
    bench.do(SupplySpace(1, OTHER_PLACE, len(DATA), len(DATA)))
    assert bench.executor.poll(0) == []
    assert bench.is_untouched(OTHER_PLACE, len(DATA))
    assert len(bench.executor._fetches) == 0


def test_a_part_that_was_just_supplied_can_be_cancelled(bench: Bench, store: int) -> None:
    bench.do(fetch(store, room=4096))
    bench.events()
    bench.do(SupplySpace(1, OTHER_PLACE, len(DATA), len(DATA)), CancelPart(1))
    (event,) = bench.events()
    assert event == PartCancelled(1) or isinstance(event, PartFetched)
    assert len(bench.executor._fetches) == 0


def test_a_cancel_that_comes_too_late_is_answered_all_the_same(bench: Bench, store: int) -> None:
    bench.do(fetch(store))
    assert isinstance(bench.events()[0], PartFetched)
    bench.do(CancelPart(1), CancelPart(99))
    assert bench.events(2) == [PartCancelled(1), PartCancelled(99)]


def test_m5_a_part_that_was_cancelled_in_flight_writes_no_more(bench: Bench, object_server: ObjectServer) -> None:
    released = threading.Event()
    object_server.objects["/bucket/key"] = DATA
    object_server.faults["/bucket/key"] = [stall_after(1000, released)]
    bench.do(fetch(HTTP))
    while bench.bytes_at(PLACE, 1000) != DATA[:1000]:
        assert bench.executor.poll(0.1) == []
    bench.do(CancelPart(1))
    assert bench.events() == [PartCancelled(1)]
    released.set()
    bench.do(fetch(HTTP, part=2, start=0, end=100, room=100, offset=OTHER_PLACE))
    assert isinstance(bench.events()[0], PartFetched)
    assert bench.is_untouched(PLACE + 1000, len(DATA) - 1000)


def test_parts_beyond_the_connections_wait_and_can_be_cancelled_while_they_wait(bench: Bench, object_server: ObjectServer) -> None:
    released = threading.Event()
    object_server.objects["/bucket/key"] = DATA
    object_server.faults["/bucket/key"] = [stall_before_headers(released)] * 2
    bench.do(*[fetch(HTTP, part=part, end=100, room=100, offset=PLACE + 4096 * part) for part in range(4)])
    bench.executor.poll(0)
    object_server.wait_for_requests(2)
    bench.do(CancelPart(3))
    assert bench.events() == [PartCancelled(3)]
    released.set()
    assert sorted(event.part for event in bench.events(3)) == [0, 1, 2]  # type: ignore[union-attr]
    assert len(object_server.requests) == 3
    assert [bench.bytes_at(PLACE + 4096 * part, 100) == DATA[:100] for part in range(4)] == [True, True, True, False]


def test_n4_a_cut_body_is_no_event_but_goes_on_from_the_last_byte(bench: Bench, object_server: ObjectServer) -> None:
    object_server.objects["/bucket/key"] = DATA
    object_server.faults["/bucket/key"] = [cut_after(1234)]
    bench.do(fetch(HTTP))
    (event,) = bench.events()
    assert isinstance(event, PartFetched)
    assert bench.bytes_at(PLACE, len(DATA)) == DATA
    assert object_server.requests[1].headers["range"].startswith("bytes=1234-")


@pytest.mark.parametrize("command", [Stop(), OpenStore(5, FileSpec())])
def test_what_is_the_workers_own_affair_is_refused(bench: Bench, command: Command) -> None:
    with pytest.raises(InternalError):
        bench.do(command)


def urgency(bench: Bench, num: int) -> list[tuple[int, bool]]:
    """Returns parts as they end, each with whether somebody can do something with it."""
    found: list[tuple[int, bool]] = []
    for _ in range(200):
        found += [(event.part, bench.executor.is_urgent) for event in bench.executor.poll(0.1)]  # type: ignore[union-attr]
        if len(found) >= num:
            return found
    raise AssertionError(f"only {found} came")


def test_members_of_a_batch_wait_for_the_last_of_it_that_is_fetched_here(bench: Bench, object_server: ObjectServer) -> None:
    go = threading.Event()
    object_server.objects.update({f"/bucket/k{n}": DATA[:100] for n in range(4)})
    object_server.faults["/bucket/k2"] = [stall_before_headers(go)]
    object_server.faults["/bucket/k3"] = [stall_before_headers(go)]
    bench.do(*(FetchPart(n, HTTP, f"k{n}", 0, None, None, None, PLACE + 100 * n, 100, 7) for n in range(4)))
    assert sorted(urgency(bench, 2)) == [(0, False), (1, False)]
    go.set()
    assert {is_urgent for _, is_urgent in urgency(bench, 2)} == {True}


def test_no_member_is_waited_for_while_a_connection_is_idle(bench: Bench, object_server: ObjectServer) -> None:
    go = threading.Event()
    object_server.objects.update({f"/bucket/k{n}": DATA[:100] for n in range(2)})
    object_server.faults["/bucket/k1"] = [stall_before_headers(go)]
    bench.do(*(FetchPart(n, HTTP, f"k{n}", 0, None, None, None, PLACE + 100 * n, 100, 7) for n in range(2)))
    assert urgency(bench, 1) == [(0, True)]
    go.set()
    assert urgency(bench, 1) == [(1, True)]


def test_who_failed_or_is_in_no_batch_is_waited_for(bench: Bench, object_server: ObjectServer) -> None:
    go = threading.Event()
    object_server.objects.update({f"/bucket/k{n}": DATA[:100] for n in range(2)})
    object_server.faults["/bucket/k0"] = [stall_before_headers(go)]
    places = [("k0", 8), ("gone", 8), ("k1", -1)]
    bench.do(*(FetchPart(n, HTTP, key, 0, None, None, None, PLACE + 100 * n, 100, group) for n, (key, group) in enumerate(places)))
    assert [is_urgent for _, is_urgent in urgency(bench, 2)] == [True, True]
    go.set()
    assert urgency(bench, 1) == [(0, True)]
