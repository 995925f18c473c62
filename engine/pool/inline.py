"""Fetching in the calling process, without a thread: each caller drives its own requests.

A caller borrows a whole fetch loop, with its warm connections, and gives it back: no lock is held while it waits, and nobody waits for
another. (Tried: as fast as a leader/follower scheme with 16 and 128 threads, and far simpler.) What it reads is the caller's: slots
are granted beyond the cap, exactly as large as the object, in one arena of the process.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from ..config import settings
from ..errors import S3dlioError
from ..fetch.loop import FetchLoop, no_space
from ..fetch.request import Fetch
from ..memory.arena import Arena
from ..stores.registry import locate
from ..types import ObjectRef

if TYPE_CHECKING:
    from ..memory.slots import Slot
    from ..memory.view import BytesView

class InlineFetcher:
    """The process's own loops and memory for `get`, `get_range`, `get_many` and small requests. Thread-safe."""

    def __init__(self) -> None:
        limits = settings()
        self._arena = Arena(limits.memory_bytes, limits.poison_freed)
        self._lock = threading.Lock()
        """Guards the arena's books; held for a microsecond at a time, never while waiting."""
        self._is_closed = False
        self._loops: deque[FetchLoop] = deque()
        """Loops that nobody has borrowed; the warmest on the right."""

    def run(self, fetch: Fetch) -> Fetch:
        """Drives one small request to its end; a `Runner`.

        Raises:
            S3dlioError: The request's error.
        """
        with self._borrow(1) as loop:
            _run_to_end(loop, fetch)
        return fetch

    def fetch_one(self, fetch: Fetch) -> BytesView:
        """Fetches one object, or a range of it, into memory of its own.

        Raises:
            S3dlioError: As the store says.
        """
        slots: list[Slot | None] = [None]
        fetch.token = 0
        try:
            with self._borrow(1) as loop:
                loop.grant = partial(self._grant, slots)
                _run_to_end(loop, fetch)
        except BaseException:
            self._free(slots)
            raise
        return self._lease(slots, fetch)

    def fetch_many(self, refs: Sequence[ObjectRef | str], max_in_flight: int) -> list[BytesView | S3dlioError]:
        """Fetches whole objects, at most `max_in_flight` at once; returns views and errors in the order of `refs`."""
        slots: list[Slot | None] = [None] * len(refs)
        results: list[BytesView | S3dlioError | None] = [None] * len(refs)
        try:
            with self._borrow(max_in_flight) as loop:
                loop.grant = partial(self._grant, slots)
                todo = _make_fetches(refs, results)
                # Twice as many as can be in flight, so that a connection that gets free finds the next request in the queue.
                for fetch in islice(todo, 2 * max_in_flight):
                    loop.submit(fetch)
                while loop.num_unfinished:
                    for fetch in loop.poll(None):
                        results[fetch.token] = self._result(slots, fetch)
                        following = next(todo, None)
                        if following is not None:
                            loop.submit(following)
        except BaseException:
            self._free(slots)
            raise
        return results  # type: ignore[return-value]

    def empty_view(self) -> BytesView:
        """Returns a view of no bytes."""
        return self._lease([None], Fetch(0, "", None, ""))

    def close(self) -> None:
        """Closes connections and the segment's descriptor; views that exist stay readable."""
        self._is_closed = True
        while self._loops:
            self._loops.pop().close()
        self._arena.close()

    def _grant(self, slots: list[Slot | None], fetch: Fetch) -> memoryview:
        with self._lock:
            if self._arena.released:
                self._arena.collect()
            old = slots[fetch.token]
            if old is not None:
                self._arena.free(old)
                slots[fetch.token] = None
            slot = slots[fetch.token] = self._arena.slots.allocate(fetch.missing_space, beyond_cap=True)
        assert slot is not None
        return self._arena.room(slot, fetch.missing_space)

    def _result(self, slots: list[Slot | None], fetch: Fetch) -> BytesView | S3dlioError:
        if fetch.error is None:
            return self._lease(slots, fetch)
        slot, slots[fetch.token] = slots[fetch.token], None
        self._free([slot])
        return fetch.error

    def _lease(self, slots: list[Slot | None], fetch: Fetch) -> BytesView:
        slot = slots[fetch.token]
        with self._lock:
            if slot is None:  # an empty object never asked for space
                slot = self._arena.slots.allocate(0, beyond_cap=True)
                assert slot is not None
            slots[fetch.token] = None
            return self._arena.lease(slot, fetch.received)

    def _free(self, slots: list[Slot | None]) -> None:
        with self._lock:
            for slot in slots:
                if slot is not None:
                    self._arena.free(slot)

    @contextmanager
    def _borrow(self, max_connections: int) -> Iterator[FetchLoop]:
        """Lends a loop. After an error it may have requests under way whose memory is gone, so it is closed instead of kept."""
        try:
            loop = self._loops.pop()
        except IndexError:
            loop = FetchLoop(settings(), max_connections)
        else:
            loop.limits = settings()
            loop.max_connections = max_connections
        try:
            yield loop
        except BaseException as error:
            if loop.num_unfinished or not isinstance(error, S3dlioError):
                loop.close()
                raise
            self._give_back(loop)
            raise
        self._give_back(loop)

    def _give_back(self, loop: FetchLoop) -> None:
        loop.grant = no_space
        self._loops.append(loop)
        if self._is_closed:
            # `close` came while this loop was lent.
            self.close()


def _run_to_end(loop: FetchLoop, fetch: Fetch) -> None:
    loop.submit(fetch)
    while fetch not in loop.poll(None):
        pass
    if fetch.error is not None:
        raise fetch.error


def _make_fetches(refs: Sequence[ObjectRef | str], results: list[BytesView | S3dlioError | None]) -> Iterator[Fetch]:
    """Yields a request for each of `refs`; a URI without a store gets its error at once."""
    for index, ref in enumerate(refs):
        try:
            fetch = _make_fetch(index, ref)
        except S3dlioError as error:
            results[index] = error
        else:
            yield fetch


def _make_fetch(token: int, ref: ObjectRef | str) -> Fetch:
    if isinstance(ref, str):
        store, key = locate(ref)
        return Fetch(token, ref, store.wire, key)
    store, key = locate(ref.uri)
    return Fetch(token, ref.uri, store.wire, key, size=ref.size, version=ref.version)


_fetcher: InlineFetcher | None = None
_making = threading.Lock()
_inherited: list[InlineFetcher] = []
"""After a fork: the parent's, kept and never touched. Closing its epoll set here would be harmless, unregistering from it would not."""


def inline_fetcher() -> InlineFetcher:
    """Returns the process's own fetcher, made at the first call."""
    global _fetcher
    if _fetcher is None:
        with _making:
            if _fetcher is None:
                _fetcher = InlineFetcher()
    return _fetcher


def close_inline() -> None:
    """Closes the process's own fetcher; the next call makes another."""
    global _fetcher
    with _making:
        fetcher, _fetcher = _fetcher, None
    if fetcher is not None:
        fetcher.close()


def _abandon() -> None:
    global _fetcher, _making
    if _fetcher is not None:
        _inherited.append(_fetcher)
    _fetcher = None
    _making = threading.Lock()


os.register_at_fork(after_in_child=_abandon)
