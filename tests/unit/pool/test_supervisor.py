"""The books on deaths and on progress: literal times in, judgements out."""

from __future__ import annotations

from s3dlio.engine.pool.supervisor import Supervisor


def test_three_restarts_are_allowed_and_the_fourth_is_not() -> None:
    books = Supervisor(3, 10.0)
    for left in (3, 2, 1):
        assert books.num_restarts_allowed(100.0) == left
        books.note_restarts(100.0, 1)
    assert books.num_restarts_allowed(100.0) == 0


def test_a_restart_is_forgotten_a_minute_after_it_happened_and_no_other_with_it() -> None:
    books = Supervisor(3, 10.0)
    for now_s in (0.0, 20.0, 40.0):
        books.note_restarts(now_s, 1)
    assert books.num_restarts_allowed(59.9) == 0
    assert books.num_restarts_allowed(60.1) == 1
    assert books.num_restarts_allowed(79.9) == 1
    assert books.num_restarts_allowed(80.1) == 2
    books.note_restarts(80.1, 2)
    assert books.num_restarts_allowed(99.9) == 0
    assert books.num_restarts_allowed(100.1) == 1
    assert books.num_restarts_allowed(1000.0) == 3


def test_several_restarts_at_once_count_each() -> None:
    books = Supervisor(3, 10.0)
    books.note_restarts(5.0, 2)
    assert books.num_restarts_allowed(5.0) == 1


def test_no_restart_is_ever_allowed_where_the_setting_is_zero() -> None:
    assert Supervisor(0, 10.0).num_restarts_allowed(0.0) == 0


def test_p4_a_worker_with_work_that_stands_still_hangs_only_after_so_much_waiting() -> None:
    books = Supervisor(3, 10.0)
    assert not books.is_hanging(0, True, 7)
    books.note_wait(10.0)
    assert not books.is_hanging(0, True, 7)
    books.note_wait(0.1)
    assert books.is_hanging(0, True, 7)


def test_p4_a_long_training_step_is_no_hang_because_nobody_waited() -> None:
    books = Supervisor(3, 10.0)
    for _ in range(1000):
        assert not books.is_hanging(0, True, 7)


def test_p4_a_counter_that_moves_begins_the_time_anew() -> None:
    books = Supervisor(3, 10.0)
    for counter in range(5):
        assert not books.is_hanging(0, True, counter)
        books.note_wait(9.0)
    assert not books.is_hanging(0, True, 4)
    books.note_wait(1.5)
    assert books.is_hanging(0, True, 4)


def test_p4_a_worker_without_work_never_hangs_and_its_time_begins_with_the_work() -> None:
    books = Supervisor(3, 10.0)
    for _ in range(5):
        assert not books.is_hanging(0, False, 7)
        books.note_wait(9.0)
    assert not books.is_hanging(0, True, 7) or books.is_hanging(0, True, 7) is False
    books.note_wait(2.0)
    assert books.is_hanging(0, True, 7)


def test_workers_are_judged_apart() -> None:
    books = Supervisor(3, 10.0)
    books.is_hanging(0, True, 1)
    books.is_hanging(1, True, 1)
    books.note_wait(11.0)
    assert not books.is_hanging(0, True, 2)
    assert books.is_hanging(1, True, 1)


def test_a_worker_that_died_leaves_no_trace_in_the_books() -> None:
    books = Supervisor(3, 10.0)
    books.is_hanging(0, True, 7)
    books.note_wait(11.0)
    books.forget(0)
    assert not books.is_hanging(0, True, 7)
    books.forget(99)
