"""Fetching in the calling process, without a thread: callers drive their own requests, and those of others who wait beside them.

A caller borrows a whole fetch loop, with its warm connections, and gives it back: no lock is held while it waits, and nobody waits for
another. Only those who fetch small objects at the same time share a loop (`crowd.py`): the kernel copies theirs in microseconds, and
many threads would spend more on handing over the GIL. What it reads is the caller's: the memory comes from `rooms.py`.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from ..config import settings
from ..errors import ObjectTooLargeError, S3dlioError, StoreTimeoutError
from ..fetch.loop import FetchLoop, no_space
from ..fetch.request import Fetch
from ..stores.base import Operation, Runner, Store, advance, give_up
from ..stores.registry import locate
from ..types import ObjectRef
from .crowd import Crowd, may_share
from .parted import PartedRead, Wanted, is_long
from .rooms import ViewFetch, new_view_fetch, process_rooms
from .wanted import facts_of

if TYPE_CHECKING:
    from ..config import Settings
    from ..memory.view import BytesView

K = TypeVar("K")
T = TypeVar("T")

LEAVING_S: Final = 5.0
"""What a request may take by which something is thrown away, while somebody waits to leave."""
MAX_PARTS_IN_FLIGHT: Final = 16
"""Of one object. More share a slow line for so long that each comes to its deadline: 16 parts of 16 MiB take 215 s at 10 Mbit/s."""
_LOOK_S: Final = 1.0
_LONG_PAYLOAD_BYTES: Final = 1 << 20
"""Shorter ones are sent several at once: each by itself costs 27 us of CPU more, and SHA-256 of 1 MiB takes 700."""


class InlineFetcher:
    """The process's own loops for `get`, `get_range`, `get_many` and small requests. Thread-safe."""

    def __init__(self) -> None:
        self._rooms = process_rooms()
        self._is_closed = False
        self._next_look_s = time.monotonic() + _LOOK_S
        """When the coldest loop is looked at again."""
        self._loops: deque[FetchLoop] = deque()
        """Loops that nobody has borrowed; the warmest on the right."""
        self._crowd = self._make_crowd()

    def run(self, fetch: Fetch, limits: Settings | None = None) -> Fetch:
        """Drives one request to its end; a `Runner`. A `ViewFetch` has its view then.

        Args:
            fetch: The request.
            limits: Attempts and waits other than those of the settings in force.

        Raises:
            S3dlioError: The request's error.
        """
        if isinstance(fetch, ViewFetch):
            fetch.view = self.fetch_one(fetch, limits)
        else:
            with self.lend(1, limits) as loop:
                loop.grant = self._rooms.grant
                _run_to_end(loop, fetch)
        return fetch

    def run_briefly(self, fetch: Fetch, until_s: float | None = None) -> Fetch:
        """As `run`, for a caller who is about to leave: a silent server is given a few seconds.

        Args:
            fetch: The request.
            until_s: When the last of several such must have ended, by the monotonic clock.

        Raises:
            S3dlioError: The request's error.
        """
        left_s = LEAVING_S if until_s is None else until_s - time.monotonic()
        if left_s <= 0:
            raise StoreTimeoutError("there was no time left to ask the store", uri=fetch.uri)
        limits = settings()
        with self.lend(1, settings(deadline_s=min(left_s, limits.deadline_s), max_attempts=min(3, limits.max_attempts))) as loop:
            _run_to_end(loop, fetch)
        return fetch

    def runner_of_last_requests(self, why: BaseException) -> Runner:
        """Returns what drives the requests of a caller who is leaving because of `why`: who is interrupted waits no longer for them all."""
        return partial(self.run_briefly, until_s=None if isinstance(why, S3dlioError) else time.monotonic() + LEAVING_S)

    def fetch_one(self, fetch: ViewFetch, limits: Settings | None = None) -> BytesView:
        """Fetches one object, or a range of it, into memory of its own.

        Args:
            fetch: The request.
            limits: As of `run`. Who has others than everybody shares no loop.

        Raises:
            S3dlioError: As the store says.
        """
        if self._may_join(fetch) and (limits is None or limits == settings()):
            if self._join(fetch):
                return self._outcome(fetch)
            fetch = fetch.anew()
        with self.lend(1, limits) as loop:
            loop.grant = self._rooms.grant
            self._rooms.guess((fetch,))
            try:
                _run_to_end(loop, fetch)
            except S3dlioError:
                # The error's traceback keeps this frame, and should not keep the memory.
                fetch.forget()
                raise
        return self._rooms.result(fetch)

    def fetch_whole(self, store: Store, uri: str, key: str) -> BytesView:
        """Fetches an object: a long one in parts side by side, held against the checksum of the whole.

        Args:
            store: The object's.
            uri: For errors.
            key: Of the object.

        Raises:
            S3dlioError: As the store says.
        """
        fetch = new_view_fetch(uri, store.wire, key)
        if store.wire.is_local:
            return self.fetch_one(fetch)
        if self._may_join(fetch) and self._join(fetch):
            return self._outcome(fetch)
        read = PartedRead(Wanted(store, uri, key), settings())
        try:
            with self.lend(MAX_PARTS_IN_FLIGHT) as loop:
                return read.drive(loop)
        except BaseException:
            read.abandon()
            raise

    def _may_join(self, fetch: ViewFetch) -> bool:
        return self._rooms.is_small and may_share(fetch)

    def _join(self, fetch: ViewFetch) -> bool:
        """Has a small object fetched on the loop that many share; False where nothing has come of it, and it is to be asked for anew."""
        if self._crowd.is_stuck:
            self._crowd = self._make_crowd()
        # What turns out to be long is its caller's own affair: the others would wait while it is copied.
        return self._crowd.fetch(fetch) and not isinstance(fetch.error, ObjectTooLargeError)

    def _grant_in_crowd(self, fetch: Fetch) -> memoryview:
        if is_long(fetch.missing_space, settings()):
            raise ObjectTooLargeError("it is too long to be fetched among small ones", uri=fetch.uri)
        return self._rooms.grant(fetch)

    def _outcome(self, fetch: ViewFetch) -> BytesView:
        found = self._rooms.outcome(fetch)
        if isinstance(found, S3dlioError):
            # It may have come about in another thread, among the requests of others, and the frames of a traceback would keep those.
            found.__traceback__ = found.__context__ = found.__cause__ = None
            raise found
        return found

    def fetch_many(self, refs: Sequence[ObjectRef | str], max_in_flight: int) -> list[BytesView | S3dlioError]:
        """Fetches whole objects, at most `max_in_flight` at once; returns views and errors in the order of `refs`."""
        results: list[Any] = [None] * len(refs)
        todo = make_fetches(enumerate(refs), results)
        outcome = self._rooms.outcome
        with self.lend(max_in_flight) as loop:
            loop.grant = self._rooms.grant
            # Twice as many as can be in flight, so that a connection that gets free finds the next request in the queue.
            self._submit(loop, islice(todo, 2 * max_in_flight))
            while loop.num_unfinished:
                finished = cast("list[ViewFetch]", loop.poll(None))
                for fetch in finished:
                    results[fetch.token] = outcome(fetch)
                self._submit(loop, islice(todo, len(finished)))
        return results

    def run_many(
        self, operations: Iterable[tuple[K, Operation[T]]], max_in_flight: int, limits: Settings | None = None
    ) -> Generator[tuple[K, T | S3dlioError], None, None]:
        """Drives operations side by side, at most `max_in_flight` at once, each begun when there is room for it.

        Whoever stops asking ends what is under way: the connections are closed, uploads are aborted, and the rest is never begun.

        Args:
            operations: With what tells each from the others. The first step of one on a local store does all of its work.
            max_in_flight: Requests at once; an operation has one at a time.
            limits: As of `run`.

        Yields:
            Each with its result or its error, as they end.
        """
        under_way: dict[Fetch, tuple[K, Operation[T]]] = {}
        try:
            with self.lend(max_in_flight, limits) as loop:
                loop.grant = self._rooms.grant
                yield from self._run_many(loop, iter(operations), max_in_flight, under_way)
        except BaseException as error:
            # Their requests are gone, with the loop.
            runner = self.runner_of_last_requests(error)
            for _, operation in under_way.values():
                give_up(operation, error, runner)
            raise

    def _run_many(
        self,
        loop: FetchLoop,
        todo: Iterator[tuple[K, Operation[T]]],
        max_in_flight: int,
        under_way: dict[Fetch, tuple[K, Operation[T]]],
    ) -> Iterator[tuple[K, T | S3dlioError]]:
        is_more = True
        while True:
            if is_more and len(under_way) < max_in_flight:
                begun = next(todo, None)
                is_more = begun is not None
                moved: Iterable[tuple[K, Operation[T], Fetch | S3dlioError | None]] = [] if begun is None else [(*begun, None)]
            elif not under_way:
                return
            else:
                # One after the other, so that those that are not taken further yet are still known as under way.
                moved = ((*under_way.pop(fetch), self._end(fetch)) for fetch in loop.poll(None))
            for name, operation, done in moved:
                step = advance(operation, done)
                if isinstance(step, Fetch):
                    under_way[step] = name, operation
                    loop.submit(step)
                    if step.payload is not None and len(step.payload) >= _LONG_PAYLOAD_BYTES:
                        # It is on its way while the next one is summed, which may take milliseconds.
                        loop.start()
                else:
                    yield name, step.result

    def _end(self, fetch: Fetch) -> Fetch | S3dlioError:
        """Returns a request that has ended, a `ViewFetch` with its view, or its error."""
        if isinstance(fetch, ViewFetch):
            found = self._rooms.outcome(fetch)
            if isinstance(found, S3dlioError):
                return found
            fetch.view = found
            return fetch
        error, fetch.error = fetch.error, None
        return fetch if error is None else error

    def _submit(self, loop: FetchLoop, todo: Iterable[ViewFetch]) -> None:
        """Hands requests to the loop, with room beforehand where that can be."""
        fetches = [*todo]
        self._rooms.guess(fetches)
        for fetch in fetches:
            loop.submit(fetch)

    def close(self) -> None:
        """Closes connections."""
        self._is_closed = True
        with suppress(IndexError):  # several threads may do this at once
            while True:
                self._loops.pop().close()

    @contextmanager
    def lend(self, max_connections: int, limits: Settings | None = None) -> Iterator[FetchLoop]:
        """Lends a loop, whose `grant` has no memory to give. Whoever has it is its only user, and leaves no request in it.

        After an error it may have requests under way whose memory is gone, so it is closed instead of kept.

        Args:
            max_connections: How many it may have open at once.
            limits: As of `run`.
        """
        loop = self.borrow(max_connections, limits)
        try:
            yield loop
        except BaseException as error:
            if loop.num_unfinished or not isinstance(error, S3dlioError):
                loop.close()
                raise
            self.take_back(loop)
            raise
        self.take_back(loop)

    def borrow(self, max_connections: int, limits: Settings | None = None) -> FetchLoop:
        """As `lend`, for those who keep a loop from one call to the next: `take_back` has it in the end, or they close it."""
        if _left:
            close_left()
        limits = limits or settings()
        try:
            loop = self._loops.pop()
        except IndexError:
            return FetchLoop(limits, max_connections)
        loop.limits = limits
        loop.max_connections = max_connections
        return loop

    def _make_crowd(self) -> Crowd:
        return Crowd(self._rooms, self._take_for_crowd, self.take_back)

    def _take_for_crowd(self) -> FetchLoop:
        loop = self.borrow(1)
        loop.grant = self._grant_in_crowd
        loop.listen()
        return loop

    def take_back(self, loop: FetchLoop) -> None:
        """Takes back what `borrow` gave."""
        loop.grant = no_space
        self._loops.append(loop)
        now_s = time.monotonic()
        if now_s > self._next_look_s:
            self._next_look_s = now_s + _LOOK_S
            self._look_at_coldest()
        if self._is_closed:
            # `close` came while this loop was lent.
            self.close()

    def _look_at_coldest(self) -> None:
        """Has the loop that nobody used for longest notice what its servers closed, and ends it when it has no connection left.

        After a burst of many threads, their loops would keep dead sockets for ever: the warmest are borrowed first.
        """
        try:
            loop = self._loops.popleft()
        except IndexError:
            return
        loop.poll(0)
        if loop.num_connections:
            self._loops.appendleft(loop)
        else:
            loop.close()


def _run_to_end(loop: FetchLoop, fetch: Fetch) -> None:
    loop.submit(fetch)
    while fetch not in loop.poll(None):
        pass
    error, fetch.error = fetch.error, None
    if error is not None:
        try:
            raise error
        finally:
            # Or the traceback, which keeps this frame, and the frame would keep each other, and what the caller wrote from.
            del error


def make_fetches(refs: Iterable[tuple[int, ObjectRef | str]], results: list[Any]) -> Iterator[ViewFetch]:
    """Yields a request for each numbered reference; a URI without a store gets its error among `results`, and is passed over."""
    for index, ref in refs:
        try:
            fetch = _make_fetch(index, ref)
        except S3dlioError as error:
            results[index] = error
        else:
            yield fetch


def _make_fetch(index: int, ref: ObjectRef | str) -> ViewFetch:
    uri, size, version = (ref, None, None) if isinstance(ref, str) else facts_of(ref)
    store, key = locate(uri)
    fetch = ViewFetch(index, uri, store.wire, key, size=size, version=version)
    fetch.view = None
    return fetch


_left: deque[FetchLoop] = deque()
"""Loops whose borrower is gone. They are hung up, and have descriptors to be closed."""


def leave(loop: FetchLoop) -> None:
    """Takes the loop of a borrower that the garbage collector has found, perhaps in the middle of a call of this thread: takes no lock."""
    loop.hang_up()
    _left.append(loop)


def close_left() -> None:
    """Closes what was left of such loops."""
    with suppress(IndexError):  # several threads may do this at once
        while True:
            _left.popleft().close()


_fetcher: InlineFetcher | None = None
_making = threading.Lock()
_inherited: list[InlineFetcher | FetchLoop] = []
"""After a fork: the parent's, kept and never touched. Closing its epoll set here would be harmless, unregistering from it would not."""


def inline_fetcher() -> InlineFetcher:
    """Returns the process's own fetcher, made at the first call."""
    global _fetcher
    found = _fetcher
    if found is None:
        with _making:
            found = _fetcher = _fetcher or InlineFetcher()
    return found


def close_inline() -> None:
    """Closes the process's own fetcher; the next call makes another."""
    global _fetcher
    with _making:
        fetcher, _fetcher = _fetcher, None
    if fetcher is not None:
        fetcher.close()
    close_left()


def _abandon() -> None:
    global _fetcher, _making
    if _fetcher is not None:
        _inherited.append(_fetcher)
    _fetcher = None
    _making = threading.Lock()
    _inherited.extend(_left)
    _left.clear()


os.register_at_fork(after_in_child=_abandon)
