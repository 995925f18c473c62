"""Whole objects, fetched ahead of whoever takes them, in the calling process and without a thread.

`Ahead` has a fetch loop of its own, which moves whenever somebody takes an object; between two takes the kernel's socket buffers go on
filling.

Rules:

* Nothing is asked for before the first take.
* What is fetched ahead has `max_bytes` at most, and is `2 * max_in_flight` objects at most; the object that is waited for always may be
  fetched. One whose size nobody knew waits in its socket, when its head is here, until there is room for it.
* Objects are begun a quarter of `max_in_flight` at once, unless their bytes are what is short: that takes less than one by one. There are
  more than `max_in_flight` at any time, so no connection waits for it.
* What is passed over is given up. Whoever wants it all the same fetches it by itself.
* The garbage collector may find it at any moment, also in the middle of another call of the same thread: then nothing is waited for.
* A forked child fetches by itself what its copy was to fetch, and touches nothing of its parent's. A pickle holds nothing.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..config import settings
from ..errors import ConfigurationError, InsufficientMemoryError
from ..fetch.request import Fetch, State
from .inline import InlineFetcher, inline_fetcher, leave
from .parted import PartedRead, Wanted
from .rooms import ViewFetch, process_rooms

if TYPE_CHECKING:
    from ..config import Settings
    from ..fetch.loop import FetchLoop
    from ..memory.view import BytesView

_WANTS_SPACE: Final = State.WANTS_SPACE


class _Entry:
    """An object that was asked for, and is not taken yet."""

    __slots__ = ("is_put_off", "num_bytes", "read", "waiting", "wanted")

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.read: PartedRead | None = None
        """None while it is to be begun, for the first time or anew."""
        self.waiting: Fetch | None = None
        """Its request that waits for room."""
        self.num_bytes = 0
        """What it has, or is expected to have."""
        self.is_put_off = False
        """Whether it is begun only when somebody waits for it, since memory was short."""

    def reset(self) -> None:
        """Has it begun anew."""
        self.read = self.waiting = None


class Ahead:
    """Objects in the order in which they will be wanted. Threads may share it; one waits for the other then.

    Args:
        requests: What will be wanted, number 0 first; asked for more as there is room. An error of its own is raised to whoever takes a
            number that it did not come to.
        max_in_flight: Requests at once.
        max_bytes: What may be here that nobody has taken yet, in bytes. Objects of unknown size count as the last one that was seen.
        limits: Parts, attempts and waits; None for the settings in force.

    Raises:
        ConfigurationError: A limit is no number of at least 1.
    """

    def __init__(
        self, requests: Iterator[Wanted], *, max_in_flight: int, max_bytes: int, limits: Settings | None = None
    ) -> None:
        self._loop: FetchLoop | None = None
        """Borrowed from the first take until there is nothing left to fetch."""
        for name, given in (("max_in_flight", max_in_flight), ("max_bytes", max_bytes)):
            if type(given) is not int or given < 1:
                raise ConfigurationError(f"{name} must be an int of at least 1, not {given!r}")
        self._requests: Iterator[Wanted] | None = requests
        """None when there are no more."""
        self._next: Wanted | None = None
        """What was taken from it, and for which there is no room yet."""
        self._max_in_flight = max_in_flight
        self._num_plenty = 2 * max_in_flight - max(1, max_in_flight // 4)
        """While there are more entries, no others are begun."""
        self._max_bytes = max_bytes
        self._limits = limits or settings()
        self._error: Exception | None = None
        """What `requests` ended with."""
        self._entries: dict[int, _Entry] = {}
        """By number, in order."""
        self._num_begun = 0
        """Numbers that were begun or passed over: the next one is this."""
        self._seen_bytes = 0
        """The size that was seen last."""
        self._held_bytes = 0
        """The sum over all entries."""
        self._has_stalled = False
        """Whether there are entries that wait for room, or to be begun."""
        self._wanted = -1
        """The number that somebody waits for."""
        self._fetcher: InlineFetcher | None = None
        """Who the loop belongs to."""
        self._lock = threading.Lock()
        self._num_forks = _num_forks
        """As it was where this was made: a child's is another."""
        self._is_closed = False

    def take(self, n: int) -> BytesView:
        """Returns object `n`, waiting for it if it must; those before it that nobody took are given up.

        Raises:
            LookupError: It is not here: it was taken or passed over, there are not so many, or `close` came.
            S3dlioError: That object's error.
        """
        return self.take_read(n).outcome()

    def take_read(self, n: int) -> PartedRead:
        """As `take`, with the read itself: it knows size and version too, and its `outcome` has the bytes or the object's error."""
        if self._num_forks != _num_forks:
            self._begin_in_child()
        try:
            with self._lock:
                read = self._take(n)
                error = self._error if n >= self._num_begun else None
        finally:
            if self._is_closed:
                self.close()
        if read is not None:
            return read
        if error is not None:
            raise error
        raise LookupError(f"object {n} is not fetched ahead")

    def close(self) -> None:
        """Ends what is under way, and gives everything back. It waits for nobody: where somebody is in `take`, that is done behind it."""
        self._is_closed = True
        if self._num_forks != _num_forks:
            self._begin_in_child()
        if self._lock.acquire(blocking=False):
            try:
                self._give_up()
            finally:
                self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return _closed, ()

    def __del__(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None or self._num_forks != _num_forks:
            return
        leave(loop)
        _loops.discard(loop)
        for entry in self._entries.values():
            if entry.read is not None:
                entry.read.abandon()

    def _take(self, n: int) -> PartedRead | None:
        if self._is_closed or (n < self._num_begun and n not in self._entries):
            return None
        try:
            return self._wait_for(n, self._loop or self._borrow())
        except BaseException:
            # Ctrl-C, perhaps in the middle of the loop's books: what is here is kept, what is under way begins anew.
            self._break()
            raise
        finally:
            if not self._entries and self._requests is None:
                self._give_back()

    def _wait_for(self, n: int, loop: FetchLoop) -> PartedRead | None:
        self._wanted = n
        self._pass_over(n, loop)
        self._fill(loop)
        entry = self._entries.get(n)
        if entry is None:
            return None
        while entry.read is None or not entry.read.is_over:
            # One for which the others have just given way has asked for nothing yet, and nothing else may be under way to wait for.
            for fetch in loop.poll(0 if entry.read is None else None):
                if fetch.token is not None:
                    self._go_on(fetch, loop)
            self._fill(loop)
        self._hold(entry, 0)
        if self._fill(loop):
            loop.start()
        # Last, so that who is interrupted before finds it here.
        del self._entries[n]
        return entry.read

    # What is begun.

    def _pass_over(self, n: int, loop: FetchLoop) -> None:
        entries = self._entries
        while entries and (number := next(iter(entries))) < n:
            entry = entries.pop(number)
            self._held_bytes -= entry.num_bytes
            if entry.read is not None:
                entry.read.cancel(loop)

    def _fill(self, loop: FetchLoop) -> bool:
        """Begins what there is room for, in order; returns whether there was any."""
        begun: list[ViewFetch] = []
        has_moved, entries = self._has_stalled, self._entries
        if has_moved:
            self._has_stalled = False
            for number, entry in entries.items():
                if entry.read is None:
                    self._begin(number, entry, loop, begun)
                elif entry.waiting is not None:
                    self._supply(number, entry, entry.read, loop)
        if len(entries) <= self._num_plenty:
            while (wanted := self._next or self._peek()) is not None:
                known, number = wanted.num_bytes, self._num_begun
                num_bytes = self._seen_bytes if known is None else known
                is_many = len(entries) >= 2 * self._max_in_flight or self._held_bytes + num_bytes > self._max_bytes
                if number > self._wanted and is_many:
                    break
                if number >= self._wanted:
                    entry = entries[number] = _Entry(wanted)
                    self._hold(entry, num_bytes)
                    self._begin(number, entry, loop, begun)
                    has_moved = True
                self._next = None
                self._num_begun += 1
        if begun:
            process_rooms().guess(begun)
        return has_moved

    def _peek(self) -> Wanted | None:
        """Returns the next request; None where there are no more."""
        if self._next is None and self._requests is not None:
            try:
                self._next = next(self._requests, None)
            except Exception as error:  # noqa: BLE001 (for whoever wants what would have come)
                self._error = error
            if self._next is None:
                self._requests = None
        return self._next

    def _begin(self, number: int, entry: _Entry, loop: FetchLoop, begun: list[ViewFetch]) -> None:
        """Hands its first requests to the loop. One that is alone is added to `begun`: before it is sent it may be given room."""
        if entry.is_put_off and number != self._wanted:
            self._has_stalled = True
            return
        entry.read = PartedRead(entry.wanted, self._limits, number)
        first = entry.read.begin_apart(loop)
        if first is not None:
            loop.submit(first)
            begun.append(first)
        elif entry.read.is_over:
            self._note_end(number, entry, entry.read, loop)

    def _supply(self, number: int, entry: _Entry, read: PartedRead, loop: FetchLoop) -> None:
        """Gives room to a request that waits for it, if there is any."""
        fetch = entry.waiting
        assert fetch is not None
        num_bytes = read.needed(fetch)
        if not self._has_room(number, entry, num_bytes):
            self._has_stalled = True
            return
        entry.waiting = None
        self._hold(entry, num_bytes)
        read.go_on(loop, fetch)
        if read.is_over:
            self._note_end(number, entry, read, loop)

    def _has_room(self, number: int, entry: _Entry, num_bytes: int) -> bool:
        if number == self._wanted or num_bytes <= entry.num_bytes:
            return True
        return self._held_bytes - entry.num_bytes + num_bytes <= self._max_bytes

    def _hold(self, entry: _Entry, num_bytes: int) -> None:
        self._held_bytes += num_bytes - entry.num_bytes
        entry.num_bytes = num_bytes

    def _grant(self, fetch: Fetch) -> memoryview | None:
        read: PartedRead = fetch.token
        entry, num_bytes = self._entries[read.number], read.needed(fetch)
        if not self._has_room(read.number, entry, num_bytes):
            return None
        self._hold(entry, num_bytes)
        return read.grant(fetch)

    # What has ended.

    def _go_on(self, fetch: Fetch, loop: FetchLoop) -> None:
        read: PartedRead = fetch.token
        number, entry = read.number, self._entries[read.number]
        if fetch.state is _WANTS_SPACE:
            entry.waiting = fetch
            self._supply(number, entry, read, loop)
            return
        read.go_on(loop, fetch)
        if read.is_over:
            self._note_end(number, entry, read, loop)

    def _note_end(self, number: int, entry: _Entry, read: PartedRead, loop: FetchLoop) -> None:
        if read.view is not None:
            self._seen_bytes = num_bytes = len(read.view)
            if num_bytes != entry.num_bytes:
                self._hold(entry, num_bytes)
        elif isinstance(read.error, InsufficientMemoryError):
            self._make_room(number, entry, loop)
        else:
            self._hold(entry, 0)

    def _make_room(self, number: int, entry: _Entry, loop: FetchLoop) -> None:
        """There was no memory for an object: it waits until it is wanted. If it is, all others give way, and it has one try more."""
        if number == self._wanted:
            others = [other for other in self._entries.values() if other is not entry and other.read is not None]
            for other in others:
                assert other.read is not None
                other.read.cancel(loop)
                other.reset()
                other.is_put_off = True
            if not others:
                return
        entry.is_put_off = True
        entry.reset()
        self._has_stalled = True

    # The loop.

    def _borrow(self) -> FetchLoop:
        self._fetcher = inline_fetcher()
        self._loop = loop = self._fetcher.borrow(self._max_in_flight, self._limits)
        # By a weak reference: or they would keep each other, and all memory, until the garbage collector comes.
        loop.grant = partial(_grant, weakref.ref(self))
        _loops.add(loop)
        return loop

    def _give_back(self) -> None:
        loop, self._loop = self._loop, None
        fetcher, self._fetcher = self._fetcher, None
        if loop is None or fetcher is None:
            return
        _loops.discard(loop)
        # What was given up is still to be told of.
        loop.poll(0)
        if loop.num_unfinished:
            loop.close()
        else:
            fetcher.take_back(loop)

    def _give_up(self) -> None:
        loop = self._loop
        for entry in self._entries.values():
            if entry.read is not None and loop is not None:
                entry.read.cancel(loop)
        self._entries.clear()
        self._held_bytes = 0
        self._requests = self._next = None
        self._give_back()

    def _break(self) -> None:
        loop, self._loop = self._loop, None
        self._fetcher = None
        if loop is not None:
            _loops.discard(loop)
            loop.close()
        for entry in self._entries.values():
            if entry.read is not None and not entry.read.is_over:
                entry.read.abandon()
                entry.reset()
        self._has_stalled = True
        self._held_bytes = sum(entry.num_bytes for entry in self._entries.values())

    def _begin_in_child(self) -> None:
        """After a fork: everything anew, and what the parent has is kept and never touched."""
        with _moving:
            if self._num_forks == _num_forks:
                return
            self._loop = self._fetcher = None
            for entry in self._entries.values():
                if entry.read is not None:
                    entry.read.abandon()
                entry.reset()
            self._has_stalled = True
            self._lock = threading.Lock()
            self._num_forks = _num_forks


def _grant(reference: weakref.ref[Ahead], fetch: Fetch) -> memoryview | None:
    ahead = reference()
    return None if ahead is None else ahead._grant(fetch)


def _closed() -> Ahead:
    """Returns what a pickle holds of one."""
    ahead = Ahead(iter(()), max_in_flight=1, max_bytes=1)
    ahead.close()
    return ahead


_loops: set[FetchLoop] = set()
"""Those of all that there are, so that the garbage collector never finds one, and closes its sockets in its own order. A forked child has
those of its parent here for ever, and touches none."""
_moving = threading.Lock()
"""Held while one is made a child's own."""


_num_forks = 0
"""How many forks lie between this process and the one that loaded this module. To ask the system who one is takes longer."""


def _count_fork() -> None:
    global _moving, _num_forks
    _num_forks += 1
    _moving = threading.Lock()


os.register_at_fork(after_in_child=_count_fork)
