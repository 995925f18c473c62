"""Stories of memory: who gets a slot, who must give one back, and who waits. A literal list of events in, of commands out."""

from __future__ import annotations

from s3dlio.engine.errors import NotFoundError, ObjectTooLargeError
from s3dlio.engine.pool.messages import CancelPart, FetchPart, SupplySpace
from tests.unit.pool.desk import PAGE, Desk

GUESS = 32
"""Pages that an object of unknown size gets at first."""


def test_an_object_of_unknown_size_that_is_larger_than_its_slot_gets_a_larger_one() -> None:
    desk = Desk(split_above_pages=100)
    run = desk.run("a")
    assert desk.drain() == {0: [FetchPart(1, 0, "a", 0, None, None, None, 0, GUESS * PAGE)]}
    desk.wants(0, 1, 40)
    assert (desk.used_pages, desk.scheduler.num_in_flight) == (0, 0)
    assert desk.drain() == {0: [SupplySpace(1, 64 * PAGE, 40 * PAGE, 40 * PAGE)]}
    desk.fetched(0, 1, 40)
    assert desk.take(run).nbytes == 40 * PAGE


def test_the_next_object_of_unknown_size_gets_as_much_as_the_largest_of_late_needed() -> None:
    desk = Desk(split_above_pages=100, num_workers=1, jobs=1, depth=1)
    run = desk.run(*"abcd")
    rooms = []
    for part, pages in enumerate([2, 100, 2, 2], start=1):
        (command,) = desk.fetches()
        rooms.append(command.nbytes // PAGE)
        if pages > rooms[-1]:
            desk.wants(0, part, pages)
            desk.drain()
        desk.fetched(0, part, pages)
        desk.release(desk.take(run))
        desk.slots.trim()  # or a slot used before would be larger than what was asked for
    assert rooms == [GUESS, GUESS, 100, 99]


def test_a_part_that_was_supplied_is_split_and_the_first_part_may_write_its_own_range_only() -> None:
    desk = Desk(part_pages=20, split_above_pages=20)
    desk.run("a")
    desk.drain()
    desk.wants(0, 1, 50, "v7")
    place = 64 * PAGE
    assert desk.drain() == {
        0: [
            SupplySpace(1, place, 20 * PAGE, 20 * PAGE),
            FetchPart(3, 0, "a", 40 * PAGE, 50 * PAGE, None, "v7", place + 40 * PAGE, 10 * PAGE),
        ],
        1: [FetchPart(2, 0, "a", 20 * PAGE, 40 * PAGE, None, "v7", place + 20 * PAGE, 20 * PAGE)],
    }


def test_a_part_is_never_longer_than_its_object_whatever_the_settings_say() -> None:
    desk = Desk(part_pages=64, split_above_pages=16)
    desk.run("a", pages=20)
    assert [(command.start, command.end) for command in desk.fetches()] == [(0, None)]
    desk = Desk(part_pages=64, split_above_pages=16)
    desk.run("a")
    desk.drain()
    desk.wants(0, 1, 40)
    assert desk.drain() == {0: [SupplySpace(1, 64 * PAGE, 40 * PAGE, 40 * PAGE)]}


def test_m3_an_object_larger_than_the_cap_fails_without_a_request() -> None:
    desk = Desk(10)
    run = desk.run(*"ab", pages=11)
    assert desk.drain() == {}
    error = desk.take(run).error
    assert isinstance(error, ObjectTooLargeError)
    assert error.uri == "s3://b/a"


def test_m3_an_object_that_turns_out_larger_than_the_cap_fails_when_its_part_has_ended() -> None:
    desk = Desk(40)
    run = desk.run("a")
    desk.drain()
    desk.wants(0, 1, 41)
    assert desk.drain() == {0: [CancelPart(1)]}
    assert desk.scheduler.take(run) is None
    desk.cancelled(0, 1)
    assert isinstance(desk.take(run).error, ObjectTooLargeError)
    assert desk.used_pages == 0


def test_slots_are_granted_in_sequence_so_a_small_object_does_not_overtake_a_large_one() -> None:
    desk = Desk(10)
    run = desk.run("a", pages=6)
    desk.offer(run, "b", pages=6)
    desk.offer(run, "c", pages=1)
    assert [command.key for command in desk.fetches()] == ["a"]
    desk.fetched(0, 1, 6)
    desk.release(desk.take(run))
    assert [command.key for command in desk.fetches()] == ["b", "c"]


def test_a_starved_head_of_line_recalls_the_latest_in_flight_and_no_more_than_it_needs() -> None:
    desk = Desk(4 * GUESS, split_above_pages=1000)
    run = desk.run(*"abcd")
    desk.drain()
    desk.wants(0, 1, 60)
    assert desk.drain() == {1: [CancelPart(4)]}
    assert desk.drain() == {}, "it is asked once"
    desk.cancelled(1, 4)
    assert desk.drain() == {0: [SupplySpace(1, 128 * PAGE, 60 * PAGE, 60 * PAGE)]}
    desk.fetched(0, 1, 60)
    desk.fetched(1, 2, 1)
    desk.fetched(0, 3, 1)
    assert desk.take_keys(run) == ["a", "b", "c"]
    assert [(command.part, command.key) for command in desk.fetches()] == [(5, "d")]


def test_a_starved_head_of_line_takes_what_is_ready_behind_it_at_once() -> None:
    desk = Desk(2 * GUESS, split_above_pages=1000)
    run = desk.run(*"ab")
    desk.drain()
    desk.fetched(1, 2, 1)
    desk.wants(0, 1, 50)
    assert desk.drain() == {0: [SupplySpace(1, 0, 64 * PAGE, 50 * PAGE)]}, "both slots, merged"
    desk.fetched(0, 1, 50)
    desk.release(desk.take(run))
    (again,) = desk.fetches()
    assert again.key == "b"


def test_i3_an_object_that_was_recalled_may_come_again_in_another_version() -> None:
    desk = Desk(2 * GUESS, split_above_pages=1000)
    run = desk.run(*"ab")
    desk.drain()
    desk.fetched(1, 2, 1, version="v1")
    desk.wants(0, 1, 50)
    desk.drain()
    desk.fetched(0, 1, 50)
    desk.release(desk.take(run))
    (again,) = desk.fetches()
    assert again.version is None
    desk.fetched(0 if desk.scheduler.load_of(0) else 1, again.part, 1, version="v2")
    assert desk.take_keys(run) == ["b"]


def test_what_finishes_although_it_was_recalled_comes_again_all_the_same() -> None:
    desk = Desk(4 * GUESS, split_above_pages=1000)
    run = desk.run(*"abcd")
    desk.drain()
    desk.wants(0, 1, 60)
    desk.drain()
    desk.fetched(1, 4, 1)
    desk.cancelled(1, 4)
    assert desk.drain() == {0: [SupplySpace(1, 128 * PAGE, 60 * PAGE, 60 * PAGE)]}
    assert [item.key for item in run.pending] == ["d"]


def test_the_head_of_line_goes_before_a_later_part_that_wants_more_than_there_is() -> None:
    desk = Desk(100, split_above_pages=1000, depth=2)
    run = desk.run(*"abc")
    desk.drain()  # a and c lie with worker 0, b with worker 1
    desk.fetched(1, 2, 1)
    desk.wants(0, 3, 90)
    desk.wants(0, 1, 60)
    assert desk.drain() == {0: [SupplySpace(1, 64 * PAGE, 60 * PAGE, 60 * PAGE)]}
    desk.fetched(0, 1, 60)
    item = desk.take(run)
    assert desk.take_keys(run) == ["b"]
    assert desk.drain() == {}
    desk.release(item)
    assert desk.drain() == {0: [SupplySpace(3, 128 * PAGE, 90 * PAGE, 90 * PAGE)]}


def test_a_lost_head_of_line_comes_before_a_later_part_that_waits() -> None:
    desk = Desk(100, split_above_pages=1000)
    run = desk.run(*"ab")
    desk.drain()
    desk.wants(0, 1, 60)
    desk.wants(1, 2, 90)
    desk.scheduler.worker_died(0)
    assert desk.drain() == {1: [FetchPart(3, 0, "a", 0, None, None, None, 0, 64 * PAGE)]}
    desk.fetched(1, 3, 60)
    assert desk.take_keys(run) == ["a"]
    assert desk.drain() == {1: [SupplySpace(2, 128 * PAGE, 90 * PAGE, 90 * PAGE)]}


def test_the_head_of_line_is_not_held_up_by_the_number_of_objects_that_are_ready_behind_it() -> None:
    desk = Desk(depth=2, split_above_pages=1000)
    run = desk.run(*"abcd")
    desk.drain()
    for worker, part in ((1, 2), (0, 3), (1, 4)):
        desk.fetched(worker, part, 1)
    desk.wants(0, 1, 40)
    desk.scheduler.worker_died(0)  # one worker may have two items in flight or ready, and there are three
    assert [command.key for command in desk.fetches()] == ["a"]
    desk.fetched(1, 5, 40)
    assert desk.take_keys(run) == list("abcd")


def test_a_lost_head_of_line_takes_what_is_ready_behind_it_at_once() -> None:
    desk = Desk(2 * GUESS, split_above_pages=1000)
    run = desk.run(*"ab")
    desk.drain()
    desk.fetched(1, 2, 1)
    desk.wants(0, 1, 60)
    desk.scheduler.worker_died(0)
    assert [(command.key, command.part) for command in desk.fetches()] == [("a", 3)]
    assert [item.key for item in run.pending] == ["b"]


def test_the_latest_of_too_many_parts_that_wait_for_room_in_one_worker_is_cancelled() -> None:
    desk = Desk(3 * GUESS, num_workers=1, jobs=2, depth=3, split_above_pages=1000)
    run = desk.run(*"abc", is_ordered=False)
    desk.drain()
    desk.fetched(0, 3, GUESS)
    view = desk.take(run)
    desk.wants(0, 1, 70)
    desk.wants(0, 2, 70)
    assert desk.drain() == {}, "two may wait beside a third that moves"
    desk.release(view)
    assert desk.drain() == {0: [SupplySpace(1, 0, 3 * GUESS * PAGE, 70 * PAGE)]}


def test_not_all_parts_that_a_worker_may_have_may_wait_for_room() -> None:
    desk = Desk(3 * GUESS, num_workers=1, jobs=2, depth=2, split_above_pages=1000)
    run = desk.run(*"abc", is_ordered=False)
    desk.drain()
    desk.fetched(0, 1, GUESS)
    view = desk.take(run)
    desk.drain()
    desk.wants(0, 3, 70)
    desk.wants(0, 2, 70)
    assert desk.drain() == {0: [CancelPart(3)]}
    desk.cancelled(0, 3)
    assert [item.key for item in run.pending] == ["c"]
    desk.release(view)


def test_a_want_that_nobody_can_serve_is_cancelled_where_it_is_one_too_many_and_asked_again_with_its_size() -> None:
    desk = Desk(2 * GUESS, num_workers=1, jobs=1, depth=1, split_above_pages=1000)
    run = desk.run(*"ab")
    desk.drain()
    desk.fetched(0, 1, 20)
    view = desk.take(run)
    desk.drain()
    desk.wants(0, 2, 50)
    assert desk.drain() == {0: [CancelPart(2)]}
    desk.cancelled(0, 2)
    assert desk.drain() == {}
    assert desk.scheduler.is_stuck(run)
    desk.release(view)
    (again,) = desk.fetches()
    assert (again.part, again.key, again.end, again.nbytes) == (3, "b", None, 64 * PAGE)


def test_a_worker_that_dies_with_a_part_that_waits_leaves_the_object_to_others_with_what_is_known() -> None:
    desk = Desk(split_above_pages=1000)
    run = desk.run("a", version="v1")
    desk.drain()
    desk.wants(0, 1, 40)
    assert desk.scheduler.worker_died(0) == ["s3://b/a"]
    (again,) = desk.fetches()
    assert (again.part, again.version, again.nbytes) == (2, "v1", 40 * PAGE)
    desk.fetched(1, 2, 40)
    assert desk.take_keys(run) == ["a"]


def test_i3_a_whole_object_that_was_supplied_and_lost_may_come_in_another_version() -> None:
    desk = Desk(split_above_pages=1000)
    desk.run("a")
    desk.drain()
    desk.wants(0, 1, 40, "v1")
    desk.drain()
    desk.scheduler.worker_died(0)
    assert desk.drain() == {1: [FetchPart(2, 0, "a", 0, None, None, None, 64 * PAGE, 40 * PAGE)]}


def test_a_closed_run_cancels_a_part_that_waits_and_supplies_it_no_more() -> None:
    desk = Desk(50, split_above_pages=1000, jobs=4)
    run = desk.run("a")
    desk.drain()
    desk.wants(0, 1, 40)
    desk.scheduler.close_run(run)
    assert desk.drain() == {0: [CancelPart(1)]}
    desk.cancelled(0, 1)
    assert (desk.scheduler.num_in_flight, desk.used_pages) == (0, 0)


def test_a_part_that_fails_while_it_waits_is_supplied_no_more() -> None:
    desk = Desk(50, split_above_pages=1000)
    run = desk.run("a")
    desk.drain()
    desk.wants(0, 1, 40)
    desk.failed(0, 1, NotFoundError("gone"))
    assert desk.drain() == {}
    assert isinstance(desk.take(run).error, NotFoundError)
    assert (desk.scheduler.num_in_flight, desk.used_pages) == (0, 0)


def test_views_in_the_way_are_stuck_and_a_released_one_lets_the_run_go_on() -> None:
    desk = Desk(10)
    run = desk.run(*"ab", pages=6)
    desk.drain()
    assert not desk.scheduler.is_stuck(run)
    desk.fetched(0, 1, 6)
    assert not desk.scheduler.is_stuck(run)
    view = desk.take(run)
    assert desk.drain() == {}
    assert desk.scheduler.is_stuck(run)
    desk.release(view)
    assert [command.key for command in desk.fetches()] == ["b"]
    assert not desk.scheduler.is_stuck(run)


def test_an_error_behind_the_head_of_line_does_not_hide_that_views_are_in_the_way() -> None:
    desk = Desk(10)
    run = desk.run(*"ab", pages=6)
    desk.scheduler.offer_failed(run, "nonsense", NotFoundError("no"))
    desk.drain()
    desk.fetched(0, 1, 6)
    desk.take(run)
    desk.drain()
    assert desk.scheduler.is_stuck(run)


def test_m4_a_guess_never_starves_a_small_object_beside_a_view() -> None:
    desk = Desk(GUESS + 10)
    run = desk.run(*"ab")
    desk.scheduler.offer_failed(run, "nonsense", NotFoundError("no"))
    desk.drain()
    desk.fetched(0, 1, GUESS)
    desk.take(run)
    assert desk.drain() == {0: [FetchPart(2, 0, "b", 0, None, None, None, GUESS * PAGE, 10 * PAGE)]}
    desk.fetched(0, 2, 3)
    assert desk.take_keys(run) == ["b", ""]


def test_objects_that_nobody_takes_make_way_for_a_consumer_who_waits_and_come_again() -> None:
    desk = Desk(10)
    idle = desk.run(*"abc", pages=3)
    desk.drain()
    for worker, part in ((0, 1), (1, 2), (0, 3)):
        desk.fetched(worker, part, 3)
    eager = desk.run("x", pages=5)
    assert desk.drain() == {}, "nobody waits yet"
    desk.scheduler.deepen(eager)
    assert not desk.scheduler.is_stuck(eager)
    assert [command.key for command in desk.fetches()] == ["x"]
    desk.fetched(0, 4, 5)
    assert desk.take_keys(eager) == ["x"]
    assert [command.key for command in desk.fetches()] == ["b", "c"]
    desk.fetched(0, 5, 3)
    desk.fetched(1, 6, 3)
    assert desk.take_keys(idle) == list("abc")


def test_m4_a_guess_takes_what_others_have_ready_before_it_gives_up() -> None:
    desk = Desk(GUESS, split_above_pages=1000)
    idle = desk.run(*"ab", pages=GUESS // 2)
    desk.drain()
    desk.fetched(0, 1, GUESS // 2)
    desk.fetched(1, 2, GUESS // 2)
    desk.take(idle)
    eager = desk.run("x")
    assert desk.drain() == {}
    desk.scheduler.deepen(eager)
    assert not desk.scheduler.is_stuck(eager)
    assert [(command.key, command.nbytes) for command in desk.fetches()] == [("x", GUESS // 2 * PAGE)]


def test_an_empty_object_needs_its_page_from_others_too() -> None:
    desk = Desk(4)
    desk.run("a", pages=4)
    desk.drain()
    desk.fetched(0, 1, 4)
    eager = desk.run("x", pages=0)
    desk.drain()
    desk.scheduler.deepen(eager)
    assert [command.key for command in desk.fetches()] == ["x"]


def test_objects_of_others_stay_where_taking_them_would_not_help() -> None:
    desk = Desk(10)
    idle = desk.run(*"ab", pages=3)
    desk.drain()
    desk.fetched(0, 1, 3)
    desk.fetched(1, 2, 3)
    view = desk.take(idle)
    eager = desk.run("x", pages=8)
    desk.drain()
    desk.scheduler.deepen(eager)
    assert desk.scheduler.is_stuck(eager)
    assert desk.drain() == {}
    desk.release(view)
    desk.scheduler.deepen(eager)
    assert [command.key for command in desk.fetches()] == ["x"]


def test_runs_take_turns_where_there_is_not_room_for_all() -> None:
    desk = Desk(1, num_workers=1)
    runs = [desk.run("a", "c", pages=1), desk.run("b", "d", pages=1)]
    order = []
    for part in range(1, 5):
        (command,) = desk.fetches()
        order.append(command.key)
        desk.fetched(0, part, 1)
        assert sum(len(desk.take_keys(run)) for run in runs) == 1
    assert order == list("abcd")


def test_a_large_object_that_somebody_waits_for_comes_beside_a_stream_of_small_ones() -> None:
    # Each page that gets free would go to the next small object, and eight in a row would never be there.
    desk = Desk(10, num_workers=1, jobs=4, depth=16, split_above_pages=100)
    stream = desk.run(*[f"s{number:03d}" for number in range(200)], pages=1)
    flying = desk.fetches()
    big = desk.run("big", pages=8)
    num_delivered = 0
    while not big.done:
        desk.scheduler.deepen(big)
        flying += desk.fetches()
        command = flying.pop(0)
        desk.fetched(0, command.part, 8 if command.key == "big" else 1)
        num_delivered += len(desk.take_keys(stream))
        assert num_delivered < 40, "the large one starves"
    assert desk.take(big).key == "big"
    # Its consumer waits for nothing any more: the stream goes on.
    assert desk.fetches() or flying


def test_what_is_kept_for_one_that_waits_does_not_hold_up_the_others_for_ever() -> None:
    # The small ones are all held by their consumer: nothing gets free by itself, and the large one would have to wait for that.
    desk = Desk(10, num_workers=1, jobs=4, depth=16, split_above_pages=100)
    stream = desk.run("a", "b", "c", pages=3)
    for command in desk.fetches():
        desk.fetched(0, command.part, 3)
    held = [desk.take(stream) for _ in range(3)]
    big = desk.run("big", pages=8)
    assert desk.fetches() == []
    desk.scheduler.deepen(big)
    small = desk.run("d", pages=1)
    (command,) = desk.fetches()
    desk.fetched(0, command.part, 1)
    assert desk.take(small).key == "d"
    assert len(held) == 3


def test_an_object_with_a_weak_version_is_never_split() -> None:
    desk = Desk(part_pages=4, split_above_pages=8, num_workers=1)
    desk.run("a")
    desk.drain()
    desk.wants(0, 1, 40, "W/weak")
    (command,) = desk.drain()[0]
    assert isinstance(command, SupplySpace)
    assert command.end == 40 * PAGE
    desk = Desk(part_pages=4, split_above_pages=8, num_workers=1)
    desk.run("a", pages=40, version="W/weak")
    assert [(command.start, command.end) for command in desk.fetches()] == [(0, None)]


def test_parts_that_come_with_a_weak_version_are_read_again_as_one() -> None:
    desk = Desk(part_pages=4, split_above_pages=8, num_workers=1)
    run = desk.run("a", pages=12)
    for command in desk.fetches():
        desk.fetched(0, command.part, 4, of=12, version="W/same")
    (command,) = [command for command in desk.drain()[0] if isinstance(command, FetchPart)]
    assert (command.start, command.end) == (0, None)
    desk.fetched(0, command.part, 12, version="W/same")
    assert desk.take(run).nbytes == 12 * PAGE


def test_one_large_object_does_not_make_all_the_guesses_large() -> None:
    desk = Desk(1600, num_workers=1, jobs=4, depth=4, split_above_pages=10_000)
    run = desk.run("large", *"abc")
    desk.drain()
    desk.wants(0, 1, 1000)
    desk.drain()
    desk.fetched(0, 1, 1000)
    desk.release(desk.take(run))
    desk.slots.trim()
    more = desk.run("x")
    desk.scheduler.close_run(run)
    (command,) = [command for batch in desk.drain().values() for command in batch if isinstance(command, FetchPart)]
    assert command.nbytes == 100 * PAGE, "a quarter of the memory, shared by all that is in flight"
    assert not more.done
