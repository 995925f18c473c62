"""Jobs: what threads do for them, how errors reach them, and how they end when nobody drives them any more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from s3dlio.engine.errors import NotFoundError, S3dlioError
from s3dlio.engine.fetch.loop import FetchLoop
from s3dlio.engine.pool import helpers
from s3dlio.engine.pool.helpers import Work
from s3dlio.engine.pool.jobs import Job, Jobs, Stop, Stopped, carry_out, of_store
from s3dlio.engine.stores.memory import MemoryStore


def drive(jobs: Jobs[Any], *todo: Job[Any]) -> list[Any]:
    """Drives jobs to their ends and returns what they came to, in the order in which they ended."""
    ended: list[Any] = []
    for job in todo:
        jobs.begin(job, ended.append)
    while len(jobs):
        jobs.poll()
    return ended


def working(call: Callable[[], Any]) -> Job[Any]:
    return (yield Work(call))


def raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def test_work_is_done_by_other_threads_side_by_side_and_jobs_go_on_in_the_callers() -> None:
    both = threading.Barrier(2, timeout=20)
    seen: set[threading.Thread] = set()

    def meet() -> int:
        both.wait()
        seen.add(threading.current_thread())
        return 1

    def job() -> Job[threading.Thread]:
        assert (yield Work(meet)) == 1
        return threading.current_thread()

    with Jobs[Any](1, 4) as jobs:
        assert drive(jobs, job(), job()) == [threading.current_thread()] * 2
    assert len(seen) == 2
    assert threading.current_thread() not in seen
    assert not any(thread.is_alive() for thread in seen)


def test_no_more_threads_than_allowed_do_all_of_the_work() -> None:
    names = set()

    def note() -> None:
        names.add(threading.current_thread())

    with Jobs[Any](1, 2) as jobs:
        assert drive(jobs, *(working(note) for _ in range(50))) == [None] * 50
    assert 1 <= len(names) <= 2


def test_an_error_of_work_is_thrown_into_its_job_alone() -> None:
    error = NotFoundError("no such thing")

    def tolerant() -> Job[str]:
        with pytest.raises(NotFoundError):
            yield Work(raising(error))
        return "went on"

    with Jobs[Any](1, 2) as jobs:
        ended = drive(jobs, working(raising(NotFoundError("nor this"))), tolerant(), working(lambda: 3))
    assert {str(one) for one in ended} == {"nor this", "went on", "3"}
    [failed] = [one for one in ended if isinstance(one, S3dlioError)]
    # An error that is kept keeps no frames, and so none of the memory of its job.
    assert failed.__traceback__ is None


def test_what_is_no_error_of_a_store_is_a_fault_and_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError), Jobs[Any](1, 2) as jobs:
        drive(jobs, working(raising(ZeroDivisionError())))


@pytest.mark.parametrize("why", [KeyboardInterrupt, Stopped, NotFoundError])
def test_what_interrupts_the_caller_is_thrown_into_every_job_once_the_threads_have_ended(why: type[BaseException]) -> None:
    log: list[str] = []
    is_begun, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        is_begun.set()
        assert may_end.wait(20)
        log.append("work done")

    def job() -> Job[None]:
        try:
            yield Work(slow)
        except BaseException:
            log.append("told")
            yield Work(lambda: log.append("thrown away"))
            raise

    never: list[int] = []

    def interrupted() -> None:
        with Jobs[Any](1, 1) as jobs:
            jobs.begin(job(), log.append)
            jobs.begin(working(lambda: never.append(1)), log.append)
            assert is_begun.wait(20)
            threading.Timer(0.05, may_end.set).start()
            raise why("now")

    with pytest.raises(why):
        interrupted()
    assert log == ["work done", "told", "thrown away"]
    assert never == []


def test_threads_have_ended_also_where_the_way_out_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    close = FetchLoop.close

    def interrupted(loop: FetchLoop) -> None:
        close(loop)
        raise KeyboardInterrupt

    monkeypatch.setattr(FetchLoop, "close", interrupted)
    with pytest.raises(KeyboardInterrupt), Jobs[Any](1, 1) as jobs:
        [thread] = drive(jobs, working(threading.current_thread))
    assert not thread.is_alive()


def test_somebody_else_may_stop_a_caller_who_waits() -> None:
    stop, may_end = Stop(), threading.Event()
    threading.Timer(0.02, stop.set).start()
    threading.Timer(0.1, may_end.set).start()
    with pytest.raises(Stopped), Jobs[Any](1, 1, stop) as jobs:
        drive(jobs, working(lambda: may_end.wait(20)))


def test_what_is_done_on_the_way_out_passes_errors_over() -> None:
    done = []

    def throwing_away() -> Job[None]:
        with pytest.raises(NotFoundError):
            yield Work(raising(NotFoundError("gone")))
        yield Work(lambda: done.append(1))
        yield Work(raising(NotFoundError("gone too")))

    carry_out([throwing_away()], KeyboardInterrupt())
    assert done == [1]


def test_the_operation_of_a_local_store_is_work() -> None:
    store = MemoryStore("memory://jobs/")
    with Jobs[Any](1, 1) as jobs:
        ended = drive(jobs, of_store(store, store.stat("none")))
    assert isinstance(ended[0], NotFoundError)


def test_where_no_thread_can_be_started_the_first_work_is_an_error_and_later_work_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = threading.Thread.start
    allowed = [1]

    def start(thread: threading.Thread) -> None:
        if not allowed:
            raise RuntimeError("can't start new thread")
        allowed.pop()
        honest(thread)

    monkeypatch.setattr(helpers.threading.Thread, "start", start)
    with Jobs[Any](1, 4) as jobs:
        assert drive(jobs, *(working(lambda: 1) for _ in range(5))) == [1] * 5
    with pytest.raises(MemoryError, match="ulimit"), Jobs[Any](1, 4) as jobs:
        drive(jobs, working(lambda: 1))
