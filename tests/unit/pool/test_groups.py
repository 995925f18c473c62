"""Groups on the desk: a batch in one slot, whose members are fetched, fail and come again by themselves."""

from __future__ import annotations

from collections import Counter

import pytest

from s3dlio.engine.errors import (
    ConfigurationError,
    InternalError,
    NotFoundError,
    ObjectTooLargeError,
    ServerError,
    TruncatedBodyError,
    WorkerLostError,
)
from s3dlio.engine.pool.groups import Member
from s3dlio.engine.pool.items import ItemState
from s3dlio.engine.pool.messages import CancelPart, FetchPart, PartCancelled, PartFetched, SpaceWanted
from s3dlio.engine.pool.wanted import Group
from s3dlio.engine.types import ObjectRef
from tests.unit.pool.desk import PAGE, Desk


def sent(desk: Desk) -> dict[int, list[str]]:
    """Returns the keys that are sent now, by worker."""
    batches = desk.drain()
    return {
        index: [command.key for command in batch if isinstance(command, FetchPart)] for index, batch in batches.items()
    }


def kill(desk: Desk, worker: int) -> None:
    """A worker dies, and the next one starts."""
    desk.scheduler.worker_died(worker, "killed by SIGSEGV")
    desk.validate()
    desk.scheduler.worker_started(max([worker, *desk.scheduler._workers]) + 1)
    desk.validate()


def test_members_go_to_all_workers_and_into_one_slot_at_the_stride() -> None:
    desk = Desk()
    run = desk.groups("abc", stride=100)
    assert desk.drain() == {
        0: [FetchPart(1, 0, "a", 0, None, None, None, 0, 100, 0), FetchPart(3, 0, "c", 0, None, None, None, 200, 100, 0)],
        1: [FetchPart(2, 0, "b", 0, None, None, None, 100, 100, 0)],
    }
    for key, nbytes in (("c", 70), ("a", 100)):
        desk.fetched_member(key, nbytes)
        assert desk.scheduler.take(run) is None, "not before the last one is in"
    desk.fetched_member("b", 0, is_verified=True)
    item = desk.take_group(run)
    assert (item.uri, item.state, item.error, item.nbytes) == ("s3://b/a", ItemState.DELIVERED, None, 300)
    assert (item.uris, item.sizes, item.member_errors) == (["s3://b/a", "s3://b/b", "s3://b/c"], [100, 0, 70], {})
    assert (item.worker, item.elapsed_s) == (1, 0.25)
    desk.release(item)
    assert desk.used_pages == 0
    scheduler = desk.scheduler
    assert (scheduler.num_delivered, scheduler.num_bytes, scheduler.num_verified, scheduler.num_failed) == (
        3,
        170,
        1,
        0,
    )


def test_sizes_and_versions_of_members_are_pinned_one_by_one() -> None:
    desk = Desk(num_workers=1)
    run = desk.scheduler.open_run(True, takes_groups=True)
    desk.scheduler.offer_group(
        run, [Member("s3://b/a", 0, "a", 50, "v1"), Member("file:///b", 7, "/b", None, "v2")], 64
    )
    first, second = desk.fetches()
    assert first == FetchPart(1, 0, "a", 0, None, 50, "v1", 0, 64, 0)
    assert second == FetchPart(2, 7, "/b", 0, None, None, "v2", 64, 64, 0)


def test_a_group_of_one_has_no_more_room_than_its_stride() -> None:
    desk = Desk(num_workers=1)
    desk.groups("a", stride=100)
    [command] = desk.fetches()
    assert command.nbytes == 100, "its slot has a page"


def test_a_large_member_is_not_split() -> None:
    desk = Desk(jobs=16, depth=16, part_pages=4, split_above_pages=8)
    desk.groups("ab", stride=20 * PAGE, size=20 * PAGE)
    assert [(command.start, command.end) for command in desk.fetches()] == [(0, None), (0, None)]


def test_a_member_that_fails_leaves_a_hole_and_holds_nobody_up() -> None:
    desk = Desk()
    run = desk.groups("abc", stride=100)
    sent(desk)
    desk.failed(*desk.place_of("b"), NotFoundError("no such object", uri="s3://b/b"))
    assert sent(desk) == {}, "nothing is cancelled"
    desk.fetched_member("a", 10)
    desk.fetched_member("c", 30)
    item = desk.take_group(run)
    assert (item.error, item.sizes, [*item.member_errors]) == (None, [10, 0, 30], [1])
    assert isinstance(item.member_errors[1], NotFoundError)
    assert (desk.scheduler.num_delivered, desk.scheduler.num_failed, desk.scheduler.num_bytes) == (2, 1, 40)


def test_an_error_without_a_name_gets_that_of_its_member() -> None:
    desk = Desk()
    run = desk.groups("ab", stride=100)
    sent(desk)
    desk.failed(*desk.place_of("b"), ServerError("500"))
    desk.failed(*desk.place_of("a"), ServerError("500"))
    item = desk.take_group(run)
    assert {position: error.uri for position, error in item.member_errors.items()} == {0: "s3://b/a", 1: "s3://b/b"}


def test_s1_a_worker_that_gives_up_what_nobody_has_cancelled_is_broken_and_its_place_is_nobodys_before_its_death() -> None:
    desk = Desk()
    run = desk.groups("ab", stride=100)
    sent(desk)
    worker, part = desk.place_of("a")
    assert desk.scheduler.handle(worker, [PartCancelled(part)]) is not None
    desk.fetched_member("b", 20)
    desk.scheduler.validate()
    assert desk.scheduler.take(run) is None
    desk.scheduler.worker_died(worker, "exited with code 1")
    sent(desk)
    desk.fetched_member("a", 10)
    item = desk.take_group(run)
    assert (item.sizes, item.member_errors) == ([10, 20], {})


def test_where_all_members_fail_the_group_comes_with_nothing_but_holes() -> None:
    desk = Desk(num_workers=1)
    run = desk.groups("ab", stride=100)
    sent(desk)
    for key in "ab":
        desk.failed(*desk.place_of(key), ServerError("500"))
    item = desk.take_group(run)
    assert (item.error, item.nbytes, item.sizes) == (None, 200, [0, 0])
    desk.release(item)


def test_an_object_that_is_longer_than_its_place_fails_when_its_worker_has_let_go() -> None:
    desk = Desk(num_workers=1)
    run = desk.groups("ab", stride=100)
    sent(desk)
    desk.fetched_member("a", 100)
    worker, part = desk.place_of("b")
    desk.scheduler.handle(worker, [PartFetched(99, 5, 5, None, 0.1)])
    desk.wants(worker, part, 1)
    assert desk.drain() == {worker: [CancelPart(part)]}
    assert desk.scheduler.take(run) is None, "the worker may still write"
    desk.wants(worker, part, 1)
    assert desk.drain() == {}, "it is cancelled once"
    desk.cancelled(worker, part)
    item = desk.take_group(run)
    assert item.sizes == [100, 0]
    assert isinstance(item.member_errors[1], ObjectTooLargeError)
    assert str(item.member_errors[1]) == f"s3://b/b: the object has {PAGE} bytes, and its place in the batch has 100"


def test_p1_an_object_that_is_too_long_is_not_fetched_again_when_its_worker_dies() -> None:
    desk = Desk(num_workers=1)
    run = desk.groups("ab", stride=100)
    sent(desk)
    desk.fetched_member("a", 100)
    desk.wants(*desk.place_of("b"), 1)
    kill(desk, 0)
    assert sent(desk) == {}
    item = desk.take_group(run)
    assert [type(error) for error in item.member_errors.values()] == [ObjectTooLargeError]


@pytest.mark.parametrize("wanted", [-1, 0, 100])
def test_s4_a_worker_that_wants_room_that_it_has_is_not_believed(wanted: int) -> None:
    desk = Desk(num_workers=1)
    run = desk.groups("a", stride=100)
    sent(desk)
    worker, part = desk.place_of("a")
    desk.scheduler.handle(worker, [SpaceWanted(part, wanted, wanted, "v1")])
    assert desk.drain() == {worker: [CancelPart(part)]}
    # It answers by something else than it should: the first error counts.
    desk.fetched_member("a", 100)
    item = desk.take_group(run)
    assert isinstance(item.member_errors[0], InternalError)
    assert item.sizes == [0]


@pytest.mark.parametrize(
    ("received", "size", "kind"), [(5, 6, TruncatedBodyError), (101, 101, InternalError), (-1, -1, InternalError)]
)
def test_s4_a_member_is_believed_only_as_far_as_it_fits(received: int, size: int, kind: type[Exception]) -> None:
    desk = Desk(num_workers=1)
    run = desk.groups("ab", stride=100)
    sent(desk)
    worker, part = desk.place_of("a")
    desk.scheduler.handle(worker, [PartFetched(part, received, size, "v1", 0.1)])
    desk.fetched_member("b", 100)
    item = desk.take_group(run)
    assert [type(error) for error in item.member_errors.values()] == [kind]
    assert item.sizes == [0, 100]


def test_a_size_above_the_stride_is_refused_before_any_request() -> None:
    desk = Desk()
    run = desk.scheduler.open_run(True, takes_groups=True)
    members = [Member("s3://b/a", 0, "a", 101, None), Member("s3://b/b", 0, "b", 100, None)]
    desk.scheduler.offer_group(run, members, 100)
    assert sent(desk) == {0: ["b"]}
    desk.fetched_member("b", 100)
    item = desk.take_group(run)
    assert isinstance(item.member_errors[0], ObjectTooLargeError)
    assert "101 bytes" in str(item.member_errors[0])
    assert item.sizes == [0, 100]


def test_a_group_of_which_nothing_can_be_asked_is_delivered_all_the_same() -> None:
    desk = Desk()
    run = desk.groups("ab", stride=10, size=11)
    assert sent(desk) == {}
    item = desk.take_group(run)
    assert (item.error, [*item.member_errors]) == (None, [0, 1])
    desk.release(item)
    assert desk.used_pages == 0


def test_a_batch_of_empty_objects_has_an_empty_view() -> None:
    desk = Desk(num_workers=1)
    run = desk.groups("ab", stride=0, size=0)
    assert [(command.size, command.nbytes) for command in desk.fetches()] == [(0, 0), (0, 0)]
    for key in "ab":
        desk.fetched_member(key, 0)
    item = desk.take_group(run)
    assert (item.nbytes, item.sizes, item.member_errors) == (0, [0, 0], {})


def test_a_group_larger_than_the_cap_is_an_error_of_each_member() -> None:
    desk = Desk(cap_pages=8)
    run = desk.groups("abc", "d", stride=4 * PAGE)
    assert sent(desk) == {0: ["d"]}
    desk.fetched_member("d", PAGE)
    item = desk.take_group(run)
    assert isinstance(item.error, ObjectTooLargeError)
    assert item.error.uri == "s3://b/a"
    assert item.slot is None
    assert {position: (type(error), error.uri) for position, error in item.member_errors.items()} == {
        position: (ObjectTooLargeError, f"s3://b/{key}") for position, key in enumerate("abc")
    }
    assert (desk.scheduler.num_failed, desk.scheduler.num_delivered) == (3, 0)
    assert desk.take_group(run).sizes == [PAGE]


def test_p1_only_what_died_with_its_worker_is_fetched_again_into_the_same_place() -> None:
    desk = Desk(num_workers=2, depth=8)
    run = desk.groups("abcdef", stride=PAGE)
    before = {command.key: command.offset for command in desk.fetches()}
    mine = [key for key in "abcdef" if desk.place_of(key)[0] == 0]
    assert len(mine) == 3
    desk.fetched_member(mine[0], PAGE)
    kill(desk, 0)
    again = desk.fetches()
    assert {command.key: command.offset for command in again} == {key: before[key] for key in mine[1:]}
    for key in "abcdef":
        if key != mine[0]:
            desk.fetched_member(key, PAGE)
    assert desk.take_group(run).sizes == [PAGE] * 6


def test_p2_the_member_that_workers_die_of_fails_and_no_other() -> None:
    desk = Desk(num_workers=1)
    run = desk.groups("abp", stride=PAGE)
    for worker in (0, 1):
        assert sent(desk) == {worker: ["a", "b", "p"]}
        kill(desk, worker)
    for key in "ab":
        assert sent(desk) == {2: [key]}, "one part of a suspect at a time"
        desk.fetched_member(key, PAGE)
    assert sent(desk) == {2: ["p"]}
    kill(desk, 2)
    item = desk.take_group(run)
    assert (item.error, item.sizes, [*item.member_errors]) == (None, [PAGE, PAGE, 0], [2])
    error = item.member_errors[2]
    assert isinstance(error, WorkerLostError)
    assert (error.uri, error.attempts) == ("s3://b/p", 3)
    assert (desk.scheduler.num_failed, desk.scheduler.num_deaths_explained) == (1, 3)


def test_p2_a_member_is_not_blamed_for_what_others_of_its_group_met() -> None:
    desk = Desk(num_workers=2, depth=8)
    desk.groups("abcd", stride=PAGE)
    assert sent(desk) == {0: ["a", "c"], 1: ["b", "d"]}
    kill(desk, 0)
    kill(desk, 1)
    assert sorted(key for keys in sent(desk).values() for key in keys) == list("abcd"), "each of them met one death"
    assert not desk.scheduler._suspects


def test_a_group_is_recalled_for_one_in_front_and_all_its_parts_are_withdrawn() -> None:
    desk = Desk(cap_pages=66, depth=8, split_above_pages=100)
    run = desk.scheduler.open_run(True, takes_groups=True)
    desk.offer(run, "large")
    desk.offer_groups(run, "abcd", stride=8 * PAGE)
    assert sent(desk) == {0: ["large", "b", "d"], 1: ["a", "c"]}
    desk.fetched_member("a", 5)
    desk.failed(*desk.place_of("b"), NotFoundError("no such object"))
    desk.wants(*desk.place_of("large"), 50)
    commands = desk.drain()
    cancelled = {command.part for batch in commands.values() for command in batch if isinstance(command, CancelPart)}
    assert cancelled == {desk.place_of(key)[1] for key in "cd"}
    desk.cancelled(*desk.place_of("c"))
    assert desk.used_pages == 32, "its slot is free when the last part is over, and not before"
    desk.fetched_member("d", 5)
    desk.drain()
    desk.fetched(*desk.place_of("large"), 50)
    assert desk.take_keys(run) == ["large"]
    assert sorted(key for keys in sent(desk).values() for key in keys) == ["a", "c", "d"], "b has failed for good"
    for key in "acd":
        desk.fetched_member(key, 7)
    item = desk.take_group(run)
    assert (item.sizes, [*item.member_errors]) == ([7, 0, 7, 7], [1])
    assert desk.scheduler.num_bytes == 50 * PAGE + 21


def test_a_group_that_is_ready_can_be_recalled_too() -> None:
    desk = Desk(cap_pages=66, depth=8, split_above_pages=100)
    run = desk.scheduler.open_run(True, takes_groups=True)
    desk.offer(run, "large")
    desk.offer_groups(run, "ab", stride=16 * PAGE)
    sent(desk)
    for key in "ab":
        desk.fetched_member(key, 5)
    desk.wants(*desk.place_of("large"), 50)
    desk.drain()
    desk.fetched(*desk.place_of("large"), 50)
    assert desk.take_keys(run) == ["large"]
    assert sorted(key for keys in sent(desk).values() for key in keys) == ["a", "b"]


def test_a_dropped_group_gives_its_slot_back_when_nobody_writes_it() -> None:
    desk = Desk()
    run = desk.groups("ab", "cd", stride=PAGE)
    sent(desk)
    desk.fetched_member("a", 5)
    desk.fetched_member("c", 5)
    desk.fetched_member("d", 5)
    worker, part = desk.place_of("b")
    desk.scheduler.close_run(run)
    assert desk.drain() == {worker: [CancelPart(part)]}
    assert desk.used_pages == 2
    desk.cancelled(worker, part)
    assert desk.used_pages == 0


def test_the_room_of_a_group_is_not_cut_to_what_is_in_it() -> None:
    desk = Desk()
    run = desk.groups("abcd", stride=2 * PAGE)
    sent(desk)
    for key in "abcd":
        desk.fetched_member(key, 1)
    assert desk.scheduler.shrink_ready() == 0
    item = desk.take_group(run)
    assert item.slot is not None
    assert item.slot.nbytes == item.nbytes == 8 * PAGE


def test_members_wait_for_a_worker_that_may_have_more_and_keep_their_order() -> None:
    desk = Desk(num_workers=1, depth=4)
    desk.groups("abcdefg", "xyz")
    assert sent(desk) == {0: ["a", "b", "c", "d"]}
    for key in "abc":
        desk.fetched_member(key, 1)
    assert sent(desk) == {0: ["e", "f", "g"]}
    desk.fetched_member("d", 1)
    assert sent(desk) == {0: ["x"]}


def test_groups_are_granted_by_their_members_and_not_as_many_as_single_objects() -> None:
    desk = Desk(num_workers=1, jobs=4, depth=8)
    run = desk.groups(*["abcd"] * 9, stride=PAGE)
    for _ in range(40):
        for batch in desk.drain().values():
            for command in batch:
                assert isinstance(command, FetchPart)
                desk.scheduler.handle(0, [PartFetched(command.part, 1, 1, None, 0.1)])
    assert run.num_granted == 4, "two of them are as many objects as the depth; and two more"
    assert desk.scheduler.num_wanted(run) == 0
    desk.release(desk.take_group(run))
    assert len(desk.fetches()) == 4


def test_a_run_of_groups_wants_as_many_objects_as_its_groups_have() -> None:
    desk = Desk(num_workers=2, depth=8)
    run = desk.scheduler.open_run(True, takes_groups=True)
    assert desk.scheduler.num_wanted(run) == 16
    desk.offer_groups(run, "abcd", "efgh")
    assert desk.scheduler.num_wanted(run) == (16 // 4 + 2 - 2) * 4


def test_the_depth_doubles_for_groups_too() -> None:
    desk = Desk(num_workers=1, jobs=4, depth=8)
    run = desk.groups(*["abcd"] * 9, stride=PAGE)
    held: list[FetchPart] = []
    for _ in range(40):
        for batch in desk.drain().values():
            for command in batch:
                assert isinstance(command, FetchPart)
                if command.part == 1:
                    held.append(command)
                else:
                    desk.scheduler.handle(0, [PartFetched(command.part, 1, 1, None, 0.1)])
    assert len(held) == 1
    assert desk.scheduler.take(run) is None
    desk.scheduler.deepen(run)
    assert desk.scheduler.depth == 16, "the head of the line is slow, and the worker has nothing else"
    assert len(desk.fetches()) == 8


@pytest.mark.parametrize("prefetch", [1, 3])
def test_no_more_is_fetched_ahead_than_was_asked_for(prefetch: int) -> None:
    desk = Desk(num_workers=2, depth=8)
    run = desk.scheduler.open_run(True, prefetch)
    assert desk.scheduler.num_wanted(run) == prefetch
    desk.offer(run, *"abcdefgh", pages=1)
    assert [command.key for command in desk.fetches()] == list("abcdefgh")[:prefetch]
    for _ in range(5):
        desk.scheduler.deepen(run)
    assert desk.scheduler.depth == 8, "it is not the depth that holds it up"
    desk.fetched(*desk.place_of("a"), 1)
    assert desk.take_keys(run) == ["a"]
    assert len(desk.fetches()) == 1


def test_an_object_by_itself_has_what_a_group_has() -> None:
    desk = Desk()
    run = desk.run("ab", "c", pages=2)
    sent(desk)
    desk.fetched_member("ab", 2 * PAGE)
    desk.failed(*desk.place_of("c"), NotFoundError("no such object"))
    good, bad = desk.take(run), desk.take(run)
    assert (good.uris, good.sizes, good.member_errors) == (["s3://b/ab"], [2 * PAGE], {})
    assert (bad.uris, bad.sizes, bad.member_errors) == (["s3://b/c"], [0], {0: bad.error})


def test_the_same_object_may_stand_in_a_group_twice() -> None:
    desk = Desk(num_workers=1)
    run = desk.groups("aa", stride=10)
    assert Counter(command.key for command in desk.fetches()) == {"a": 2}
    desk.fetched_member("a", 3)
    desk.fetched_member("a", 3)
    assert desk.take_group(run).sizes == [3, 3]


def test_a_group_without_objects_or_without_a_stride_is_refused_when_it_is_made() -> None:
    ref = ObjectRef("s3://b/a", 5)
    assert repr(Group([ref, ref], 5)) == "Group(2 objects, stride=5)"
    with pytest.raises(ConfigurationError, match="at least one object"):
        Group([], 5)
    for stride in (-1, 5.0, "5", None, True):
        with pytest.raises(ConfigurationError, match="stride"):
            Group([ref], stride)  # type: ignore[arg-type]


def test_groups_of_two_runs_are_not_taken_for_one() -> None:
    desk = Desk()
    desk.groups("ab")
    desk.groups("cd")
    groups = {command.key: command.group for command in desk.fetches()}
    assert groups["a"] == groups["b"] != groups["c"] == groups["d"]


@pytest.mark.parametrize("loads", [(0,), (5,), (0, 0), (3, 0), (0, 3, 1), (9, 9, 9), (10, 2), (10,), ()])
@pytest.mark.parametrize("num", [0, 1, 2, 7, 32])
def test_many_parts_at_once_go_where_they_would_one_by_one(loads: tuple[int, ...], num: int) -> None:
    scheduler = Desk(num_workers=len(loads)).scheduler
    scheduler.depth = 10
    for worker, load in zip(scheduler._workers.values(), loads, strict=True):
        worker.num_parts = load
    chosen = [worker.index for worker in scheduler._choose(num)]
    expected = []
    while len(expected) < num and (worker := scheduler._least_loaded()) is not None:
        expected.append(worker.index)
        worker.num_parts += 1
    assert chosen == expected
