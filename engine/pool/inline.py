"""Fetching in the calling process, without a thread: each caller drives its own requests.

A caller borrows a whole fetch loop, with its warm connections, and gives it back: no lock is held while it waits, and nobody waits for
another. (Tried: as fast as a leader/follower scheme with 16 and 128 threads, and far simpler.) What it reads is the caller's: slots
are granted beyond the cap, as large as the object, in one arena of the process.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from ..config import settings
from ..errors import InsufficientMemoryError, S3dlioError
from ..fetch.loop import FetchLoop, no_space
from ..fetch.request import Fetch
from ..memory.arena import Arena
from ..stores.registry import locate
from ..types import ObjectRef

if TYPE_CHECKING:
    from ..memory.view import BytesView

_LOOK_S: Final = 1.0
_MAX_GUESS_BYTES: Final = 256 << 10
"""A larger object gains nothing from room that it has before its head is here."""


class InlineFetcher:
    """The process's own loops and memory for `get`, `get_range`, `get_many` and small requests. Thread-safe."""

    def __init__(self) -> None:
        limits = settings()
        self._lock = threading.Lock()
        """Guards the arena's books; held for a microsecond, or while the kernel reserves new pages (290 ms/GiB)."""
        self._arena = Arena(limits.memory_bytes, limits.poison_freed, self._lock)
        self._is_closed = False
        self._next_look_s = time.monotonic() + _LOOK_S
        """When the coldest loop is looked at again."""
        self._loops: deque[FetchLoop] = deque()
        """Loops that nobody has borrowed; the warmest on the right."""
        self._last_bytes = -1
        self._guess_bytes = 0
        """The size of the last object if the one before had the same, else 0: the next one is given that much room beforehand. A hint
        only, so threads that overwrite it for each other do no harm."""

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
        views: list[Any] = [None]
        fetch.token = 0
        with self._borrow(1) as loop:
            loop.grant = partial(self._grant, views)
            self._guess(views, [fetch])
            try:
                _run_to_end(loop, fetch)
            except S3dlioError:
                # The error's traceback keeps this frame, and should not keep the memory.
                views[0] = fetch.out = None
                raise
        return self._view(views, fetch)

    def fetch_many(self, refs: Sequence[ObjectRef | str], max_in_flight: int) -> list[BytesView | S3dlioError]:
        """Fetches whole objects, at most `max_in_flight` at once; returns views and errors in the order of `refs`."""
        results: list[Any] = [None] * len(refs)
        todo = _make_fetches(refs, results)
        with self._borrow(max_in_flight) as loop:
            loop.grant = partial(self._grant, results)
            # Twice as many as can be in flight, so that a connection that gets free finds the next request in the queue.
            self._submit(loop, results, islice(todo, 2 * max_in_flight))
            while loop.num_unfinished:
                finished = loop.poll(None)
                for fetch in finished:
                    results[fetch.token] = self._view(results, fetch) if fetch.error is None else fetch.error
                self._submit(loop, results, islice(todo, len(finished)))
        return results

    def _submit(self, loop: FetchLoop, results: list[Any], todo: Iterable[Fetch]) -> None:
        """Hands requests to the loop, with room beforehand where that can be."""
        fetches = [*todo]
        self._guess(results, fetches)
        for fetch in fetches:
            loop.submit(fetch)

    def empty_view(self) -> BytesView:
        """Returns a view of no bytes."""
        return self._exact_view([None], 0, 0)

    def _exact_view(self, views: list[Any], index: int, num: int) -> BytesView:
        with self._lock:
            self._room(views, index, num)
        view: BytesView = views[index]
        return view

    def close(self) -> None:
        """Closes connections and the segment's descriptor; views that exist stay readable."""
        self._is_closed = True
        with suppress(IndexError):  # several threads may do this at once
            while True:
                self._loops.pop().close()
        with self._lock:
            self._arena.close()

    def _grant(self, views: list[Any], fetch: Fetch) -> memoryview:
        with self._lock:
            return self._room(views, fetch.token, fetch.missing_space)

    def _guess(self, views: list[Any], fetches: Iterable[Fetch]) -> None:
        """Gives room beforehand to whole objects, so that head and body come by one call into the kernel."""
        guess = self._guess_bytes
        with self._lock:
            for fetch in fetches:
                num = guess if fetch.size is None else fetch.size
                if 0 < num <= _MAX_GUESS_BYTES and fetch.end is None and not fetch.start:
                    # Where memory is short, the request itself finds out how much it needs, and fails by itself if it must.
                    with suppress(InsufficientMemoryError):
                        fetch.out = self._room(views, fetch.token, num)

    def _room(self, views: list[Any], index: int, num: int) -> memoryview:
        """Makes the view before its bytes are there: whatever becomes of the request, dropping it gives the memory back."""
        arena = self._arena
        try:
            if arena.released:
                arena.collect()
            slot = arena.slots.allocate(num, beyond_cap=True)
            assert slot is not None
            views[index] = arena.lease(slot, num)
        except S3dlioError:
            raise
        except BaseException:
            # Ctrl-C in the middle of the books: nobody may go on with them. What was read from them stays readable.
            self._arena = Arena(settings().memory_bytes, settings().poison_freed, self._lock)
            arena.close()
            raise
        return arena.buffer[slot.start : slot.start + num]

    def _view(self, views: list[Any], fetch: Fetch) -> BytesView:
        """Returns the view of a request that is done."""
        view: BytesView | None = views[fetch.token]
        num = fetch.received
        self._guess_bytes = num if num == self._last_bytes else 0
        self._last_bytes = num
        if view is not None and len(view) == num:
            return view
        try:
            # An empty object never asked for room, and one that is smaller than its guess moves to memory of its own size.
            exact = self._exact_view(views, fetch.token, num)
        except InsufficientMemoryError:
            if view is None:
                raise
            part: BytesView = view[:num]
            return part
        if view is not None:
            exact.data[:] = view[:num].data
        return exact

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
        raise error


def _make_fetches(refs: Sequence[ObjectRef | str], results: list[Any]) -> Iterator[Fetch]:
    """Yields a request for each of `refs`; a URI without a store gets its error at once, and is passed over."""
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


def _abandon() -> None:
    global _fetcher, _making
    if _fetcher is not None:
        _inherited.append(_fetcher)
    _fetcher = None
    _making = threading.Lock()


os.register_at_fork(after_in_child=_abandon)
