"""The checksum of an object in parts: asked for before, put together after, and never a reason to hold bytes back that nobody can judge."""

from __future__ import annotations

from zlib import crc32

import pytest

from s3dlio.engine.errors import ChecksumMismatchError, InternalError, NotFoundError, S3dlioError
from s3dlio.engine.pool.items import Item, Run
from s3dlio.engine.pool.messages import CancelPart, FetchPart, FindSum, PartFetched, SpaceWanted, SumFound, SupplySpace
from tests.unit.pool.desk import PAGE, Desk

DATA = bytes(range(256)) * (10 * PAGE // 256)
SUM = crc32(DATA)
BOUNDS = [(0, 4), (4, 8), (8, 10)]
"""Of the parts of ten pages."""


@pytest.fixture
def desk() -> Desk:
    desk = Desk(num_workers=1, jobs=4)
    desk.scheduler.summing.add(0)
    return desk


def part_in(desk: Desk, part: int, begin: int, end: int, *, of: str = "v1", data: bytes = DATA) -> None:
    value = crc32(data[begin * PAGE : end * PAGE])
    desk.scheduler.handle(0, [PartFetched(part, (end - begin) * PAGE, len(data), of, 0.1, sum=value)])
    desk.validate()


def answer(desk: Desk, part: int, *found: object) -> None:
    desk.scheduler.handle(0, [SumFound(part, *found)])  # type: ignore[arg-type]
    desk.validate()


def taken(desk: Desk, run: Run) -> Item:
    item = desk.take(run)
    desk.release(item)
    return item


def test_the_store_is_asked_first_and_the_parts_are_of_the_version_that_it_told(desk: Desk) -> None:
    run = desk.run("a", pages=10)
    assert desk.drain() == {0: [FindSum(1, 0, "a")]}
    answer(desk, 1, "v1", "crc32", SUM)
    assert desk.fetches() == [
        FetchPart(
            number, 0, "a", begin * PAGE, end * PAGE, 10 * PAGE, "v1", begin * PAGE, (end - begin) * PAGE, -1, "crc32"
        )
        for number, (begin, end) in enumerate(BOUNDS, 2)
    ]
    for number, (begin, end) in reversed([*enumerate(BOUNDS, 2)]):
        part_in(desk, number, begin, end)
    item = taken(desk, run)
    assert (item.error, item.is_verified, item.nbytes) == (None, True, 10 * PAGE)
    assert (desk.scheduler.num_verified, desk.used_pages) == (1, 0)


@pytest.mark.parametrize(
    "found", [(), ("v1",), (None, "crc32", SUM), ("W/v1", "crc32", SUM)], ids=["none", "version", "unversioned", "weak"]
)
def test_i5_what_the_store_cannot_tell_is_read_unverified(desk: Desk, found: tuple[object, ...]) -> None:
    run = desk.run("a", pages=10)
    desk.drain()
    answer(desk, 1, *found)
    assert [(command.version, command.algorithm) for command in desk.fetches()] == [(None, None)] * 3
    for number, (begin, end) in enumerate(BOUNDS, 2):
        desk.fetched(0, number, end - begin, of=10)
    item = taken(desk, run)
    assert (item.error, item.is_verified, desk.scheduler.num_verified) == (None, False, 0)


def test_the_sum_of_another_version_than_the_listed_one_counts_for_nothing(desk: Desk) -> None:
    desk.run("a", pages=10, version="v1")
    desk.drain()
    answer(desk, 1, "v2", "crc32", SUM)
    assert [(command.version, command.algorithm) for command in desk.fetches()] == [("v1", None)] * 3


def test_i4_wrong_bytes_are_read_anew_with_another_question_and_fail_the_third_time(desk: Desk) -> None:
    run = desk.run("a", pages=10)
    for _ in range(3):
        [question] = [command for batch in desk.drain().values() for command in batch]
        assert isinstance(question, FindSum)
        answer(desk, question.part, "v1", "crc32", SUM ^ 1)
        for command, (begin, end) in zip(desk.fetches(), BOUNDS, strict=True):
            assert desk.scheduler.take(run) is None
            part_in(desk, command.part, begin, end)
    item = desk.take(run)
    assert isinstance(item.error, ChecksumMismatchError)
    assert item.error.uri == "s3://b/a"
    assert (desk.used_pages, desk.drain()) == (0, {})


def test_i4_wrong_bytes_once_cost_one_more_read(desk: Desk) -> None:
    run = desk.run("a", pages=10)
    for data in (DATA[:-1] + b"\0", DATA):
        [[question]] = desk.drain().values()
        answer(desk, question.part, "v1", "crc32", SUM)  # type: ignore[union-attr]
        for command, (begin, end) in zip(desk.fetches(), BOUNDS, strict=True):
            part_in(desk, command.part, begin, end, data=data)
    assert taken(desk, run).is_verified


def test_of_an_object_of_unknown_size_the_first_answer_tells(desk: Desk) -> None:
    run = desk.run("a")
    [first] = desk.fetches()
    data = bytes(40 * PAGE)
    desk.scheduler.handle(0, [SpaceWanted(first.part, len(data), len(data), "v1", "crc32", crc32(data))])
    [[supply, *others]] = desk.drain().values()
    assert isinstance(supply, SupplySpace)
    for command in others:
        assert isinstance(command, FetchPart)
        assert command.algorithm == "crc32"
    part_in(desk, first.part, 0, 4, data=data)
    for begin in range(4, 40, 4):
        [place] = [part for part in desk.scheduler._parts.values() if part.start == begin * PAGE]
        part_in(desk, place.id, begin, begin + 4, data=data)
        desk.drain()
    assert taken(desk, run).is_verified


def test_a_question_that_fails_fails_the_object(desk: Desk) -> None:
    run = desk.run("a", pages=10)
    desk.drain()
    desk.failed(0, 1, NotFoundError("gone"))
    assert isinstance(desk.take(run).error, NotFoundError)
    assert (desk.used_pages, desk.drain()) == (0, {})


def test_p1_a_question_goes_to_another_worker_when_its_own_dies(desk: Desk) -> None:
    desk.run("a", pages=10)
    desk.drain()
    desk.scheduler.worker_died(0)
    desk.scheduler.worker_started(1)
    assert desk.drain() == {1: [FindSum(2, 0, "a")]}


def test_a_question_of_a_closed_run_is_cancelled_and_its_late_answer_frees_the_place(desk: Desk) -> None:
    run = desk.run("a", pages=10)
    desk.drain()
    desk.scheduler.close_run(run)
    assert desk.drain() == {0: [CancelPart(1)]}
    answer(desk, 1, "v1", "crc32", SUM)
    assert (desk.used_pages, desk.drain()) == (0, {})


@pytest.mark.parametrize("lie", [PartFetched(1, 10 * PAGE, 10 * PAGE, "v1", 0.1), PartFetched(1, 0, 0, None, 0.1)])
def test_a_worker_that_claims_to_have_fetched_a_question_delivers_nothing(desk: Desk, lie: PartFetched) -> None:
    run = desk.run("a", pages=10)
    desk.drain()
    desk.scheduler.handle(0, [SpaceWanted(1, 50 * PAGE, 50 * PAGE, "v1"), lie])
    desk.validate()
    error: S3dlioError | None = desk.take(run).error
    assert isinstance(error, InternalError)
    assert desk.used_pages == 0


def test_stores_without_checksums_are_not_asked() -> None:
    desk = Desk(num_workers=1, jobs=4)
    desk.run("a", pages=10)
    assert [command.algorithm for command in desk.fetches()] == [None] * 3
