"""Jobs: operations that besides requests ask for work that blocks, such as writing a file, driven side by side by one caller.

A job is a generator. It yields a `Fetch` and is sent it back when it is done, or a `Work` and is sent what that returned; the error of
either is thrown into it.

Rules:

* Jobs run in the caller's thread, one after the other. Only what a `Work` holds runs in threads.
* What interrupts the caller (Ctrl-C) is thrown into every job under way, so that it throws away what it began. Before that the
  connections are closed and the threads have ended, so nobody writes any more to what is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from ..config import settings
from ..errors import S3dlioError
from ..fetch.local import read_piece
from ..fetch.loop import FetchLoop
from ..fetch.request import Fetch, State
from ..stores.base import Operation, Store, finish, give_up, run
from .helpers import Helpers, Work
from .inline import inline_fetcher
from .rooms import ViewFetch, process_rooms

if TYPE_CHECKING:
    from ..memory.view import BytesView

T = TypeVar("T")

Job = Generator[Fetch | Work, Any, T]
"""Yields requests and work, is sent what became of each, and returns its result."""


class Stop:
    """Ends jobs from another thread."""

    def __init__(self) -> None:
        self.is_set = False
        self._wake: Callable[[], None] | None = None

    def set(self) -> None:
        """Has `Jobs.poll` raise `Stopped` soon."""
        self.is_set = True
        if self._wake is not None:
            self._wake()

    def attach(self, wake: Callable[[], None]) -> None:
        """Says how the caller of `poll` is woken."""
        self._wake = wake


class Stopped(BaseException):
    """Somebody set the `Stop` of these jobs."""


class Jobs(Generic[T]):
    """Jobs under way, and what drives them. The end of a job is told to whoever began it, from `poll`."""

    def __init__(self, max_requests: int, max_threads: int, stop: Stop | None = None) -> None:
        self._rooms = process_rooms()
        self._loop = FetchLoop(settings(), max_requests)
        self._loop.grant = self._rooms.grant
        self._loop.listen()
        self._threads = Helpers(max_threads, self._loop.wake)
        self._under_way: dict[Any, tuple[Callable[[T | S3dlioError], None], Job[T]]] = {}
        """By what each waits for, a `Fetch` or `Work`."""
        self._stop = stop or Stop()
        self._stop.attach(self._loop.wake)

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, job: Job[T], on_end: Callable[[T | S3dlioError], None]) -> None:
        """Begins a job; `on_end` is told its result or its error, at once if it asks for nothing."""
        self._move(on_end, job, None)

    def poll(self) -> None:
        """Waits until something has happened, and takes the jobs concerned further.

        Raises:
            Stopped: The `Stop` is set.
        """
        finished = self._loop.poll(0 if self._threads.has_done else None)
        if self._stop.is_set:
            raise Stopped
        for fetch in finished:
            self._move(*self._under_way.pop(fetch), self._outcome(fetch))
        while (work := self._threads.take()) is not None:
            if work.error is not None and not isinstance(work.error, S3dlioError):
                raise work.error
            self._move(*self._under_way.pop(work), work.error or work.result)

    def _move(self, on_end: Callable[[T | S3dlioError], None], job: Job[T], done: Any) -> None:
        try:
            step = job.throw(done) if isinstance(done, S3dlioError) else job.send(done)
        except StopIteration as end:
            on_end(end.value)
        except S3dlioError as error:
            on_end(_without_frames(error))
        else:
            self._start(on_end, job, step)

    def _start(self, on_end: Callable[[T | S3dlioError], None], job: Job[T], step: Fetch | Work) -> None:
        self._under_way[step] = on_end, job
        if isinstance(step, Work):
            self._threads.give(step)
            return
        if isinstance(step, ViewFetch):
            self._rooms.guess((step,))
        self._loop.submit(step)

    def _outcome(self, fetch: Fetch) -> Fetch | S3dlioError:
        if isinstance(fetch, ViewFetch):
            found = self._rooms.outcome(fetch)
            if isinstance(found, S3dlioError):
                return found
            fetch.view = found
            return fetch
        error, fetch.error = fetch.error, None
        return fetch if error is None else error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._loop.close()
        finally:
            self._end_threads()
        jobs = [job for _, job in self._under_way.values()]
        self._under_way.clear()
        why = error or Stopped()
        runner = _runner_of_last_steps(why)
        for job in jobs:
            give_up(job, why, runner)

    def _end_threads(self) -> None:
        interrupt = None
        while True:
            try:
                self._threads.end()
                break
            except KeyboardInterrupt as again:
                # Not before they are at their end: descriptors that they write to are closed next, and would be other files' then.
                interrupt = again
        if interrupt is not None:
            raise interrupt


def carry_out(jobs: Iterable[Job[Any]], why: BaseException) -> None:
    """Does jobs in the caller's thread, which is leaving because of `why`: it takes a few seconds at most, and errors are left out."""
    runner = _runner_of_last_steps(why)
    for job in jobs:
        with suppress(S3dlioError, StopIteration, type(why)):
            finish(job, next(job), why, runner)


def _runner_of_last_steps(why: BaseException) -> Callable[[Fetch | Work], Any]:
    fetch_briefly = inline_fetcher().runner_of_last_requests(why)
    return lambda step: step.call() if isinstance(step, Work) else fetch_briefly(step)


def of_store(store: Store, operation: Operation[T]) -> Job[T]:
    """The job of an operation: that of a local store is done by a thread."""
    if store.wire.is_local:
        found: T = yield Work(lambda: run(operation, inline_fetcher().run))
        return found
    return (yield from operation)


def read(fetch: ViewFetch) -> Job[BytesView]:
    """The job of reading bytes into a view of their own: those of local stores are read by a thread."""
    fetch.view = None
    if fetch.wire.is_local:
        read_by_thread: BytesView = yield Work(lambda: _read_locally(fetch))
        return read_by_thread
    yield fetch
    return _taken(fetch)


def _taken(fetch: ViewFetch) -> BytesView:
    view, fetch.view, fetch.out = fetch.view, None, None
    assert view is not None
    return view


def _read_locally(fetch: ViewFetch) -> BytesView:
    rooms, limits = process_rooms(), settings()
    rooms.guess((fetch,))
    while fetch.state < State.DONE:
        read_piece(fetch, rooms.grant, limits)
    found = rooms.outcome(fetch)
    if isinstance(found, S3dlioError):
        raise found
    return found


def _without_frames(error: S3dlioError) -> S3dlioError:
    """Takes from an error that is kept what would keep the memory of its job: the frames that it came through."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error
