"""S1 the other way: orders that make no sense, to a real worker. It writes nowhere else, and ends by saying why, or answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from s3dlio.engine.config import settings
from s3dlio.engine.memory.segment import HEADER_BYTES, Segment
from s3dlio.engine.pool.crew import Crew, Reported, WorkerDied
from s3dlio.engine.pool.messages import (
    CancelPart,
    Command,
    Event,
    FetchPart,
    OpenStore,
    PartCancelled,
    PartFetched,
    SpaceWanted,
    SupplySpace,
)
from s3dlio.engine.stores.file_wire import FileSpec
from tests.process.kit import content, wait_until

SIZE = 10_000
PLACE = HEADER_BYTES + 4096
SEGMENT_BYTES = 1 << 20
CANARY = 0xA5


class Bench:
    """A crew of one, a file to read, and a segment full of canaries."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(content("key", SIZE))
        self.key = str(path)
        self.segment = Segment.create(SEGMENT_BYTES)
        self.segment.reserve(HEADER_BYTES, self.segment.size)
        self.segment.buffer[HEADER_BYTES:] = bytes([CANARY]) * (self.segment.size - HEADER_BYTES)
        self.crew = Crew(settings(), 4, self.segment)
        self.events: list[Event] = []
        self.deaths: list[WorkerDied] = []
        self.crew.start(1)
        wait_until(lambda: bool(self.hear()), "the worker reports")
        self.events.clear()

    def order(self, *commands: Command) -> None:
        self.crew.send(0, [OpenStore(0, FileSpec()), *commands])

    def fetch(self, part: int, *, store: int = 0, offset: int = PLACE, nbytes: int = SIZE, start: int = 0) -> FetchPart:
        return FetchPart(part, store, self.key, start, None, None, None, offset, nbytes)

    def hear(self) -> list[Event]:
        for happened in self.crew.poll():
            if isinstance(happened, Reported):
                self.events += happened.events
            else:
                self.deaths.append(happened)
        return self.events

    def changed(self) -> set[int]:
        """Returns the pages that are not full of canaries any more; those with the counters are the worker's own."""
        pages = range(HEADER_BYTES, self.segment.size, 4096)
        return {at for at in pages if bytes(self.segment.buffer[at : at + 4096]) != bytes([CANARY]) * 4096}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "key")
    yield bench
    bench.crew.close()
    bench.segment.close()
    # The mapping goes with the last reference, and pytest keeps the bench.
    del bench.crew, bench.segment


@pytest.mark.parametrize(
    ("offset", "nbytes"),
    [(1 << 40, SIZE), (SEGMENT_BYTES, SIZE), (-(1 << 40), SIZE), (-4096, SIZE), (SEGMENT_BYTES - 100, SIZE)],
)
def test_s1_a_place_outside_the_segment_is_no_place(bench: Bench, offset: int, nbytes: int) -> None:
    bench.order(bench.fetch(1, offset=offset, nbytes=nbytes))
    wait_until(lambda: bool(bench.hear() or bench.deaths), "it answers, or ends")
    assert not any(isinstance(event, PartFetched) for event in bench.events)
    assert bench.changed() == set()
    if not bench.deaths:
        # It wants room, and can be given some.
        [wanted] = bench.events
        assert isinstance(wanted, SpaceWanted)
        bench.crew.send(0, [SupplySpace(1, PLACE, SIZE, wanted.end)])
        wait_until(lambda: len(bench.hear()) == 2, "it has read the object")
        assert bytes(bench.segment.buffer[PLACE : PLACE + SIZE]) == content("key", SIZE)


def test_s1_orders_about_parts_that_are_not_there_are_answered_or_ignored(bench: Bench) -> None:
    bench.order(SupplySpace(7, PLACE, SIZE, SIZE), CancelPart(-1), CancelPart(8), bench.fetch(1))
    wait_until(lambda: len(bench.hear()) == 3, "it answers")
    assert {PartCancelled(-1), PartCancelled(8)} < set(bench.events)
    [fetched] = [event for event in bench.events if isinstance(event, PartFetched)]
    assert (fetched.part, fetched.received) == (1, SIZE)


@pytest.mark.parametrize("batch", [b"", b"\xc1", b"\x91\x92\x63\x01", b"\x91\x92\x04\xa1x", b"\x80"], ids=repr)
def test_s1_a_worker_that_hears_what_is_no_order_ends_and_says_so(bench: Bench, batch: bytes) -> None:
    bench.crew._hub.send(0, batch)
    wait_until(lambda: not bench.hear() and bool(bench.deaths), "it ends")
    assert "exited with code 1: msgspec" in bench.deaths[0].reason
    assert bench.changed() == set()


def test_s1_a_store_that_was_never_opened_ends_the_worker_and_says_so(bench: Bench) -> None:
    bench.order(bench.fetch(1, store=9))
    wait_until(lambda: not bench.hear() and bool(bench.deaths), "it ends")
    assert "exited with code 1: KeyError: 9" in bench.deaths[0].reason
