"""Stories of the scheduler: a literal list of events in, a literal list of commands out."""

from __future__ import annotations

import pytest

from s3dlio.engine.errors import (
    InvalidUriError,
    NotFoundError,
    ObjectChangedError,
    ServerError,
    TruncatedBodyError,
)
from s3dlio.engine.pool.items import ItemState
from s3dlio.engine.pool.messages import CancelPart, FetchPart, PartCancelled, PartFetched, SupplySpace, WorkerStarted
from tests.unit.pool.desk import PAGE, Desk


def test_one_object_is_fetched_taken_and_released() -> None:
    desk = Desk()
    run = desk.run("a", pages=2, version="v1")
    assert desk.drain() == {0: [FetchPart(1, 0, "a", 0, None, 2 * PAGE, "v1", 0, 2 * PAGE)]}
    assert desk.drain() == {}
    assert desk.scheduler.take(run) is None
    desk.fetched(0, 1, 2)
    item = desk.take(run)
    assert (item.uri, item.state, item.nbytes, item.error) == ("s3://b/a", ItemState.DELIVERED, 2 * PAGE, None)
    assert (item.worker, item.elapsed_s) == (0, 0.25)
    assert desk.used_pages == 2
    desk.release(item)
    assert desk.used_pages == 0
    run.is_exhausted = True
    assert desk.scheduler.is_finished(run)
    assert (desk.scheduler.num_delivered, desk.scheduler.num_bytes, desk.scheduler.num_failed) == (1, 2 * PAGE, 0)


def test_an_empty_object_has_a_slot_like_any_other() -> None:
    desk = Desk()
    run = desk.run("a", pages=0)
    assert desk.drain() == {0: [FetchPart(1, 0, "a", 0, None, 0, None, 0, PAGE)]}
    desk.fetched(0, 1, 0)
    assert desk.take(run).nbytes == 0


def test_objects_go_to_the_worker_with_the_least_to_do_and_stop_at_the_depth() -> None:
    desk = Desk(depth=2)
    desk.run(*"abcdef", pages=1)
    parts = {index: [command.part for command in batch] for index, batch in desk.drain().items()}  # type: ignore[union-attr]
    assert parts == {0: [1, 3], 1: [2, 4]}
    desk.fetched(1, 2, 1)
    assert desk.drain() == {}, "as many items per worker are in flight or ready together"


def test_an_ordered_run_delivers_in_sequence_and_another_as_objects_complete() -> None:
    desk = Desk()
    ordered, unordered = desk.run(*"abc", pages=1), desk.run(*"def", pages=1, is_ordered=False)
    worker_of = {command.key: (index, command.part) for index, batch in desk.drain().items() for command in batch}  # type: ignore[union-attr]
    for key in "cbfd":
        desk.fetched(*worker_of[key], 1)
    assert desk.take_keys(ordered) == []
    assert desk.take_keys(unordered) == ["f", "d"]
    desk.fetched(*worker_of["a"], 1)
    assert desk.take_keys(ordered) == ["a", "b", "c"]


def test_a_large_object_is_split_among_idle_connections_and_ready_when_the_last_part_is_in() -> None:
    desk = Desk()
    run = desk.run("a", pages=10, version="v1")
    assert desk.drain() == {
        0: [
            FetchPart(1, 0, "a", 0, 4 * PAGE, 10 * PAGE, "v1", 0, 4 * PAGE),
            FetchPart(3, 0, "a", 8 * PAGE, 10 * PAGE, 10 * PAGE, "v1", 8 * PAGE, 2 * PAGE),
        ],
        1: [FetchPart(2, 0, "a", 4 * PAGE, 8 * PAGE, 10 * PAGE, "v1", 4 * PAGE, 4 * PAGE)],
    }
    desk.fetched(0, 3, 2, of=10)
    desk.fetched(0, 1, 4, of=10)
    assert desk.scheduler.take(run) is None
    desk.fetched(1, 2, 4, of=10)
    assert desk.take(run).nbytes == 10 * PAGE


def test_a_large_object_is_fetched_whole_where_there_are_objects_enough() -> None:
    desk = Desk()
    desk.run(*"abcdef", pages=10)
    assert [(command.key, command.end) for command in desk.fetches()[:2]] == [("a", None), ("b", None)]


def test_parts_that_find_no_worker_follow_when_one_has_room() -> None:
    desk = Desk(num_workers=1, jobs=2, depth=2)
    desk.run("a", pages=16)
    assert [command.start for command in desk.fetches()] == [0, 4 * PAGE]
    desk.fetched(0, 1, 4, of=16)
    assert [(command.part, command.start) for command in desk.fetches()] == [(3, 8 * PAGE)]


def test_a_closed_run_cancels_what_is_in_flight_and_its_slots_are_free_when_that_has_ended() -> None:
    desk = Desk(depth=2)
    run = desk.run(*"abcdef", pages=1)
    desk.drain()
    desk.fetched(0, 1, 1)
    desk.scheduler.close_run(run)
    desk.validate()
    assert desk.drain() == {0: [CancelPart(3)], 1: [CancelPart(2), CancelPart(4)]}
    assert desk.used_pages == 3
    desk.cancelled(1, 2)
    desk.fetched(0, 3, 1)  # it crossed the CancelPart
    desk.failed(1, 4, ServerError("broke"))
    assert desk.used_pages == 0
    desk.cancelled(0, 3)
    assert desk.drain() == {}
    assert desk.scheduler.take(run) is None
    desk.scheduler.close_run(run)


def test_p1_what_a_dead_worker_had_goes_to_another_into_the_same_place() -> None:
    desk = Desk()
    run = desk.run(*"abc", pages=1, version="v1")
    desk.drain()
    assert desk.scheduler.worker_died(0) == ["s3://b/a", "s3://b/c"]
    assert desk.drain() == {
        1: [
            FetchPart(4, 0, "a", 0, None, PAGE, "v1", 0, PAGE),
            FetchPart(5, 0, "c", 0, None, PAGE, "v1", 2 * PAGE, PAGE),
        ]
    }
    desk.fetched(0, 1, 1)  # the dead worker's last words come too late
    assert desk.scheduler.take(run) is None
    for part in (2, 4, 5):
        desk.fetched(1, part, 1)
    assert desk.take_keys(run) == ["a", "b", "c"]


def test_p1_only_the_lost_part_of_a_split_object_is_fetched_again() -> None:
    desk = Desk()
    run = desk.run("a", pages=10, version="v1")
    desk.drain()
    desk.fetched(0, 1, 4, of=10)
    assert desk.scheduler.worker_died(1) == ["s3://b/a"]
    assert desk.drain() == {0: [FetchPart(4, 0, "a", 4 * PAGE, 8 * PAGE, 10 * PAGE, "v1", 4 * PAGE, 4 * PAGE)]}
    desk.fetched(0, 3, 2, of=10)
    desk.fetched(0, 4, 4, of=10)
    assert desk.take(run).nbytes == 10 * PAGE


def test_p1_without_workers_everything_waits_for_the_next_one() -> None:
    desk = Desk(num_workers=1)
    run = desk.run("a", pages=1)
    desk.drain()
    desk.scheduler.worker_died(0)
    assert desk.drain() == {}
    assert not desk.scheduler.is_stuck(run)
    desk.scheduler.worker_started(1)
    assert [command.part for command in desk.fetches()] == [2]


def test_what_was_cancelled_is_not_fetched_again_when_its_worker_dies() -> None:
    desk = Desk()
    run = desk.run(*"ab", pages=1)
    desk.drain()
    desk.scheduler.close_run(run)
    desk.drain()
    desk.scheduler.worker_died(0)
    assert desk.drain() == {}
    assert desk.used_pages == 1
    desk.scheduler.worker_died(1)
    assert desk.used_pages == 0


def test_commands_that_a_worker_did_not_live_to_get_are_not_sent_to_its_successor() -> None:
    desk = Desk()
    run = desk.run("a", pages=1)
    desk.drain()
    desk.scheduler.close_run(run)
    desk.scheduler.worker_died(0)
    assert desk.drain() == {}


def test_events_of_strangers_are_ignored() -> None:
    desk = Desk()
    run = desk.run("a", pages=1)
    desk.drain()
    late = PartFetched(1, PAGE, PAGE, "v1", 0.1)
    desk.scheduler.handle(1, [late, WorkerStarted(5)])
    desk.scheduler.handle(0, [PartFetched(77, PAGE, PAGE, "v1", 0.1)])
    assert desk.scheduler.take(run) is None
    desk.scheduler.handle(0, [late, late])
    assert desk.take_keys(run) == ["a"]


def test_a_failed_object_comes_in_its_turn_and_its_slot_is_free() -> None:
    desk = Desk()
    run = desk.run(*"ab", pages=1)
    desk.drain()
    desk.failed(0, 1, NotFoundError("no such object", uri="s3://b/a"))
    desk.fetched(1, 2, 1)
    item = desk.take(run)
    assert isinstance(item.error, NotFoundError)
    assert (item.key, item.slot, item.worker) == ("a", None, 0)
    assert desk.take_keys(run) == ["b"]
    assert (desk.scheduler.num_delivered, desk.scheduler.num_failed) == (1, 1)


def test_what_has_no_store_fails_in_its_turn_too() -> None:
    desk = Desk()
    run = desk.run("a", pages=1)
    desk.scheduler.offer_failed(run, "nonsense", InvalidUriError("not a URI"))
    desk.offer(run, "c", pages=1)
    desk.drain()
    desk.fetched(0, 1, 1)
    desk.fetched(1, 2, 1)
    assert [(desk.take(run).uri, run.num_granted) for _ in range(3)] == [("s3://b/a", 2), ("nonsense", 1), ("s3://b/c", 0)]


def test_the_failure_of_one_part_cancels_the_others_once_and_the_first_error_counts() -> None:
    desk = Desk()
    run = desk.run("a", pages=10)
    desk.drain()
    desk.failed(1, 2, ServerError("first"))
    desk.failed(0, 1, ServerError("second"))
    assert desk.drain() == {0: [CancelPart(1), CancelPart(3)]}
    assert desk.scheduler.take(run) is None
    assert desk.used_pages == 10
    desk.cancelled(0, 3)
    assert str(desk.take(run).error) == "first"
    assert desk.used_pages == 0


@pytest.mark.parametrize("received", [0, 2 * PAGE - 1, 2 * PAGE + 1])
def test_n4_a_body_that_is_not_as_long_as_the_object_is_never_delivered(received: int) -> None:
    desk = Desk()
    run = desk.run("a", pages=2)
    desk.drain()
    desk.scheduler.handle(0, [PartFetched(1, received, 2 * PAGE, "v1", 0.1)])
    assert isinstance(desk.take(run).error, TruncatedBodyError)
    assert desk.used_pages == 0


def test_a_part_that_was_cancelled_for_no_reason_ends_with_its_worker_and_is_fetched_by_another() -> None:
    desk = Desk()
    run = desk.run("a", pages=2)
    desk.drain()
    assert desk.scheduler.handle(0, [PartCancelled(1)]) is not None
    desk.scheduler.validate()
    assert desk.scheduler.take(run) is None
    desk.scheduler.worker_died(0, "killed by SIGKILL")
    [(worker, [command])] = desk.drain().items()
    assert worker != 0
    desk.fetched(worker, command.part, 2)
    assert desk.take(run).error is None


def test_i3_an_object_that_changed_between_its_parts_is_read_again_once_and_then_fails() -> None:
    desk = Desk(part_pages=20, split_above_pages=20)
    run = desk.run("a")
    assert desk.drain() == {0: [FetchPart(1, 0, "a", 0, None, None, None, 0, 32 * PAGE)]}
    desk.wants(0, 1, 40, "v1")
    place = 64 * PAGE
    assert desk.drain() == {
        0: [SupplySpace(1, place, 20 * PAGE, 20 * PAGE)],
        1: [FetchPart(2, 0, "a", 20 * PAGE, 40 * PAGE, None, "v1", place + 20 * PAGE, 20 * PAGE)],
    }
    desk.failed(1, 2, ObjectChangedError("it is v2 now"))
    assert desk.drain() == {0: [CancelPart(1)]}
    desk.cancelled(0, 1)
    assert desk.drain() == {0: [FetchPart(3, 0, "a", 0, None, None, None, place, 40 * PAGE)]}
    desk.wants(0, 3, 50, "v2")
    assert desk.drain() == {
        0: [
            SupplySpace(3, place, 20 * PAGE, 20 * PAGE),
            FetchPart(5, 0, "a", 40 * PAGE, 50 * PAGE, None, "v2", place + 40 * PAGE, 10 * PAGE),
        ],
        1: [FetchPart(4, 0, "a", 20 * PAGE, 40 * PAGE, None, "v2", place + 20 * PAGE, 20 * PAGE)],
    }
    desk.fetched(0, 3, 20, of=50, version="v2")
    desk.failed(1, 4, ObjectChangedError("it is v3 now"))
    assert desk.drain() == {0: [CancelPart(5)]}
    desk.fetched(0, 5, 10, of=50, version="v2")
    assert str(desk.take(run).error) == "it is v3 now"
    assert desk.used_pages == 0


def test_i3_nothing_of_the_old_version_counts_when_an_object_is_read_again() -> None:
    desk = Desk(part_pages=20, split_above_pages=20)
    run = desk.run("a")
    desk.drain()
    desk.wants(0, 1, 40, "v1")
    desk.drain()
    desk.fetched(0, 1, 20, of=40, version="v1")
    desk.failed(1, 2, ObjectChangedError("it is v2 now"))
    (again,) = desk.fetches()
    desk.wants(0, again.part, 40, "v2")
    desk.drain()
    desk.fetched(0, again.part, 20, of=40, version="v2")
    desk.fetched(1, again.part + 1, 20, of=40, version="v2")
    assert (desk.take(run).nbytes, desk.used_pages) == (40 * PAGE, 40)


def test_i3_a_worker_that_begins_a_part_anew_and_meets_a_longer_object_has_met_a_change() -> None:
    desk = Desk(part_pages=20, split_above_pages=20)
    run = desk.run("a")
    desk.drain()
    desk.wants(0, 1, 40, "v1")
    desk.drain()
    desk.wants(0, 1, 60, "v2")
    assert desk.drain() == {0: [CancelPart(1)], 1: [CancelPart(2)]}
    desk.cancelled(0, 1)
    desk.cancelled(1, 2)
    assert [(command.part, command.version) for command in desk.fetches()] == [(3, None)]
    assert desk.scheduler.take(run) is None


def test_i3_a_version_that_the_caller_chose_is_not_exchanged_for_another() -> None:
    desk = Desk(part_pages=20, split_above_pages=20)
    run = desk.run("a", version="v1")
    desk.drain()
    desk.wants(0, 1, 40, "v1")
    desk.drain()
    desk.failed(1, 2, ObjectChangedError("it is v2 now"))
    desk.cancelled(0, 1)
    assert isinstance(desk.take(run).error, ObjectChangedError)


def test_i3_parts_of_two_versions_are_never_one_object() -> None:
    desk = Desk()
    run = desk.run("a", pages=10)  # the size is known, the version is not
    assert [command.version for command in desk.fetches()] == [None, None, None]
    desk.fetched(0, 1, 4, of=10, version="v1")
    desk.fetched(1, 2, 4, of=10, version="v2")
    assert desk.drain() == {0: [CancelPart(3)]}
    desk.cancelled(0, 3)
    again = desk.fetches()
    assert [command.part for command in again] == [4, 5, 6]
    desk.fetched(0, 4, 4, of=10, version="v2")
    desk.fetched(1, 5, 4, of=10, version="v3")
    desk.cancelled(0, 6)
    assert isinstance(desk.take(run).error, ObjectChangedError)


def test_i3_parts_without_a_version_may_be_of_two_so_such_an_object_is_read_whole() -> None:
    desk = Desk()
    run = desk.run("a", pages=10)
    assert len(desk.fetches()) == 3
    for worker, part, pages in ((0, 1, 4), (1, 2, 4), (0, 3, 2)):
        desk.scheduler.handle(worker, [PartFetched(part, pages * PAGE, 10 * PAGE, None, 0.1)])
    desk.cancelled(0, 3)
    desk.cancelled(1, 2)
    (whole,) = [command for command in desk.drain()[0] if isinstance(command, FetchPart)]
    assert (whole.start, whole.end, whole.nbytes) == (0, None, 10 * PAGE)
    desk.scheduler.handle(0, [PartFetched(whole.part, 10 * PAGE, 10 * PAGE, None, 0.1)])
    assert desk.take_keys(run) == ["a"]


def test_the_depth_doubles_when_the_consumer_waits_and_a_worker_has_run_dry() -> None:
    desk = Desk(num_workers=1, jobs=4, depth=4)
    run = desk.run(*"abcdefghij", pages=1)
    desk.drain()
    desk.scheduler.deepen(run)
    assert desk.scheduler.depth == 4, "the worker is busy"
    for part in (2, 3, 4):
        desk.fetched(0, part, 1)
    desk.scheduler.deepen(run)
    assert desk.scheduler.depth == 8
    assert len(desk.fetches()) == 4


def test_the_depth_stays_where_there_is_nothing_more_to_fetch() -> None:
    desk = Desk(num_workers=1, jobs=4, depth=4)
    run = desk.run(*"abcd", pages=1)
    run.is_exhausted = True
    desk.drain()
    desk.fetched(0, 2, 1)
    desk.fetched(0, 3, 1)
    desk.fetched(0, 4, 1)
    desk.scheduler.deepen(run)
    assert desk.scheduler.depth == 4


def test_a_run_wants_as_many_items_as_the_workers_could_have_and_never_fewer_than_none() -> None:
    desk = Desk(depth=4)
    run = desk.scheduler.open_run(True)
    assert desk.scheduler.num_wanted(run) == 8
    desk.offer(run, *"abcdef", pages=1)
    assert desk.scheduler.num_wanted(run) == 2
    desk.drain()
    assert desk.scheduler.num_wanted(run) == 2
    desk.scheduler.worker_died(1)
    assert desk.scheduler.num_wanted(run) == 0
    run.is_exhausted = True
    assert desk.scheduler.num_wanted(run) == 0
