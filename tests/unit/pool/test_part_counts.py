"""I10 on the desk: parts cover an object of any size exactly once, however many there are."""

from __future__ import annotations

from itertools import pairwise

import pytest

from s3dlio.engine.memory.slots import Slots
from s3dlio.engine.pool.messages import FetchPart, PartFetched
from s3dlio.engine.pool.scheduler import Scheduler
from tests.unit.pool.desk import NoMemory

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize("size", [5 * GIB, 5 * GIB + 1, 12 * GIB - 1, 100 * GIB + 4097])
def test_i10_parts_of_a_huge_object_cover_it_exactly_once(size: int) -> None:
    part_bytes = 8 * MIB
    slots = Slots(NoMemory(), first=0, size=1 << 40, cap_bytes=1 << 39)
    scheduler = Scheduler(slots, jobs=64, depth=128, part_bytes=part_bytes, split_above_bytes=16 * MIB)
    for index in range(2):
        scheduler.worker_started(index)
    run = scheduler.open_run(True)
    scheduler.offer(run, "s3://b/huge", 0, "huge", size, "v1")
    parts: list[FetchPart] = []
    while not run.done:
        for worker, commands in scheduler.drain().items():
            for command in commands:
                assert isinstance(command, FetchPart)
                parts.append(command)
                assert command.end is not None
                nbytes = command.end - command.start
                scheduler.handle(worker, [PartFetched(command.part, nbytes, size, "v1", 0.1)])
    scheduler.validate()
    item = scheduler.take(run)
    assert item is not None
    assert item.slot is not None
    assert (item.error, item.nbytes) == (None, size)
    assert len(parts) == -(-size // part_bytes)
    assert size < 100 * GIB or len(parts) > 10_000
    spans = sorted((part.start, part.end or 0) for part in parts)
    assert spans[0][0] == 0
    assert spans[-1][1] == size
    assert all(end == start for (_, end), (start, _) in pairwise(spans))
    for part in parts:
        assert (part.offset, part.nbytes) == (item.slot.start + part.start, (part.end or 0) - part.start)
