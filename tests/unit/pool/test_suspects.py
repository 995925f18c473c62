"""P2 on the desk: who is suspected of killing workers, how that is tried, and who is convicted."""

from __future__ import annotations

from s3dlio.engine.errors import WorkerLostError
from s3dlio.engine.pool.messages import CancelPart, FetchPart
from s3dlio.engine.pool.supervisor import Supervisor
from tests.unit.pool.desk import PAGE, Desk


def sent(desk: Desk) -> dict[int, list[str]]:
    """Returns the keys that are sent now, by worker."""
    batches = desk.drain()
    return {index: [command.key for command in batch if isinstance(command, FetchPart)] for index, batch in batches.items()}


def numbers(desk: Desk) -> dict[str, tuple[int, int]]:
    """Returns who has which key now, and under which number."""
    return {part.item.key: (part.worker, part.id) for part in desk.scheduler._parts.values()}


def kill(desk: Desk, worker: int, reason: str = "killed by SIGSEGV") -> None:
    """A worker dies, and the next one starts."""
    desk.scheduler.worker_died(worker, reason)
    desk.validate()
    desk.scheduler.worker_started(max([worker, *desk.scheduler._workers]) + 1)
    desk.validate()


def test_p2_one_death_makes_nobody_a_suspect() -> None:
    desk = Desk(num_workers=1)
    desk.run(*"abc", pages=1)
    assert sent(desk) == {0: ["a", "b", "c"]}
    kill(desk, 0)
    assert sent(desk) == {1: ["a", "b", "c"]}


def test_p2_after_two_deaths_each_suspect_is_tried_alone_and_the_guilty_one_fails_with_its_uri() -> None:
    desk = Desk(num_workers=1)
    run = desk.run(*"abc", pages=1)
    for worker in (0, 1):
        sent(desk)
        kill(desk, worker)
    assert sent(desk) == {2: ["a"]}
    desk.offer(run, "d", pages=1)
    assert sent(desk) == {}, "a suspect has company"
    desk.fetched(*numbers(desk)["a"], 1)
    assert sent(desk) == {2: ["b"]}
    kill(desk, 2, "exited with code 3: Illegal")
    assert sent(desk) == {3: ["c"]}
    desk.fetched(*numbers(desk)["c"], 1)
    assert sent(desk) == {3: ["d"]}, "the trials are over"
    desk.fetched(*numbers(desk)["d"], 1)
    assert desk.take(run).key == "a"
    guilty = desk.take(run)
    assert guilty.slot is None
    assert isinstance(guilty.error, WorkerLostError)
    assert (guilty.error.uri, guilty.error.attempts) == ("s3://b/b", 3)
    assert "worker 2, had nothing else to fetch and exited with code 3: Illegal" in str(guilty.error)
    assert desk.take_keys(run) == ["c", "d"]
    assert (desk.scheduler.num_failed, desk.scheduler.num_deaths_explained) == (1, 3)
    assert desk.used_pages == 1, "the view of a, which is still held"


def test_p2_every_object_that_kills_fails_and_nothing_else() -> None:
    desk = Desk(num_workers=1)
    run = desk.run(*"pqab", pages=1)
    next_worker = 0
    while len(run.done) < 4:
        sent(desk)
        worker = next_worker
        with_it = numbers(desk)
        if with_it.keys() & {"p", "q"}:
            kill(desk, worker)
            next_worker += 1
        else:
            for place in with_it.values():
                desk.fetched(*place, 1)
    items = [desk.take(run) for _ in range(4)]
    assert [item.error is None for item in items] == [False, False, True, True]
    assert next_worker == 4, "two that had both, and one for each"


def test_p2_the_others_go_on_while_a_suspect_is_tried() -> None:
    desk = Desk(num_workers=2, depth=4)
    run = desk.run("p", pages=1)
    assert sent(desk) == {0: ["p"]}
    kill(desk, 0)
    assert sent(desk) == {1: ["p"]}
    kill(desk, 1)
    desk.offer(run, *"abcdef", pages=1)
    assert sent(desk) == {2: ["p"], 3: ["a", "b", "c", "d"]}
    desk.fetched(*numbers(desk)["a"], 1)
    assert sent(desk) == {3: ["e"]}


def test_p2_a_worker_that_is_to_try_gets_nothing_new_until_it_is_empty() -> None:
    desk = Desk(num_workers=1, depth=4)
    run = desk.run("p", pages=1)
    sent(desk)
    kill(desk, 0)
    sent(desk)
    desk.scheduler.worker_started(9)
    desk.offer(run, *"xab", pages=1)
    assert sent(desk) == {1: ["a"], 9: ["x", "b"]}
    desk.scheduler.worker_died(1)
    desk.offer(run, "c", pages=1)
    # One death is no suspicion, so a goes where it can; but c, offered later, finds the only worker reserved.
    assert sent(desk) == {9: ["a"]}
    for key in "xb":
        desk.fetched(*numbers(desk)[key], 1)
        assert sent(desk) == {}
    desk.fetched(*numbers(desk)["a"], 1)
    assert sent(desk) == {9: ["p"]}


def test_p2_what_waits_for_room_in_the_worker_that_is_to_try_comes_again() -> None:
    desk = Desk(cap_pages=40, num_workers=1)
    run = desk.run("p", pages=1)
    sent(desk)
    kill(desk, 0)
    sent(desk)
    desk.scheduler.worker_started(9)
    desk.offer(run, "large")
    assert sent(desk) == {9: ["large"]}
    _, part = numbers(desk)["large"]
    desk.wants(9, part, 40)
    desk.scheduler.worker_died(1)
    assert desk.drain() == {9: [CancelPart(part)]}
    desk.cancelled(9, part)
    assert sent(desk) == {9: ["p"]}
    desk.fetched(*numbers(desk)["p"], 1)
    assert desk.take_keys(run) == ["p"]
    [command] = desk.fetches()
    assert (command.key, command.nbytes) == ("large", 40 * PAGE)


def test_p2_a_suspect_that_wants_room_leaves_its_worker_to_others() -> None:
    desk = Desk(cap_pages=80, num_workers=1)
    run = desk.run("p")
    for worker in (0, 1):
        sent(desk)
        kill(desk, worker)
    assert sent(desk) == {2: ["p"]}
    worker, part = numbers(desk)["p"]
    desk.wants(worker, part, 50)
    assert desk.drain() == {2: [CancelPart(part)]}
    desk.cancelled(worker, part)
    [command] = desk.fetches()
    assert (command.key, command.nbytes >= 50 * PAGE) == ("p", True)
    desk.fetched(2, command.part, 50)
    assert desk.take_keys(run) == ["p"]


def test_p2_parts_of_a_large_suspect_are_tried_one_after_the_other() -> None:
    desk = Desk(num_workers=1, jobs=4)
    run = desk.run("p", pages=10, version="v1")
    for worker in (0, 1):
        assert sent(desk) == {worker: ["p", "p", "p"]}
        kill(desk, worker)
    for pages in (4, 4, 2):
        assert sent(desk) == {2: ["p"]}
        desk.fetched(*numbers(desk)["p"], pages, of=10)
    assert desk.take_keys(run) == ["p"]


def test_p2_a_suspect_whose_run_is_closed_is_forgotten_and_its_worker_serves_again() -> None:
    desk = Desk(num_workers=1)
    run, other = desk.run(*"pq", pages=1), desk.run(pages=1)
    for worker in (0, 1):
        sent(desk)
        kill(desk, worker)
    assert sent(desk) == {2: ["p"]}
    worker, part = numbers(desk)["p"]
    desk.scheduler.close_run(run)
    desk.validate()
    desk.offer(other, "a", pages=1)
    assert desk.drain() == {2: [CancelPart(part)]}
    desk.cancelled(worker, part)
    assert sent(desk) == {2: ["a"]}
    desk.fetched(*numbers(desk)["a"], 1)
    assert desk.take_keys(other) == ["a"]
    assert desk.used_pages == 0


def test_p2_trials_do_not_make_the_depth_grow() -> None:
    desk = Desk(num_workers=2, depth=4)
    run = desk.run(*"abcdefgh", pages=1)
    for worker in (0, 1, 2, 3):
        sent(desk)
        kill(desk, worker)
    desk.drain()
    for _ in range(10):
        desk.scheduler.deepen(run)
    assert desk.scheduler.depth == 4
    assert not desk.scheduler.is_stuck(run)


def test_p2_nobody_dies_of_what_the_coordinator_reads_itself() -> None:
    desk = Desk(num_workers=1)
    desk.run(*"ab", pages=1)
    for worker in range(5):
        assert sent(desk) == {worker: ["a", "b"]}
        desk.scheduler.worker_died(worker, "killed by SIGKILL", {part for _, part in numbers(desk).values()})
        desk.scheduler.worker_started(worker + 1)
        desk.validate()
    assert sent(desk) == {5: ["a", "b"]}


def test_p2_deaths_that_an_object_has_caused_do_not_count() -> None:
    books = Supervisor(3, 10.0)
    books.note_restarts(0.0, 1)
    books.note_restarts(1.0, 1)
    books.forgive(3, progress=7)
    assert books.num_restarts_allowed(2.0) == 4
    books.note_restarts(2.0, 1)
    assert books.num_restarts_allowed(2.0) == 3


def test_p2_other_deaths_go_on_to_count() -> None:
    books = Supervisor(5, 10.0)
    books.note_restarts(0.0, 4)
    books.forgive(3, progress=7)
    books.note_restarts(1.0, 1)
    assert books.num_restarts_allowed(1.0) == 3


def test_p2_without_progress_nothing_is_forgiven_twice() -> None:
    books = Supervisor(3, 10.0)
    books.forgive(3, progress=0)
    books.note_restarts(0.0, 3)
    books.forgive(3, progress=0)
    books.note_restarts(1.0, 1)
    assert books.num_restarts_allowed(2.0) == 0
    books.forgive(3, progress=1)
    assert books.num_restarts_allowed(2.0) > 0


def test_p2_where_no_restart_is_allowed_none_is_given() -> None:
    books = Supervisor(0, 10.0)
    books.forgive(3, progress=1)
    assert books.num_restarts_allowed(0.0) == 0
