"""Threads that fetch small objects at the same time, and share one fetch loop: the leader drives it, the others wait.

Each on a loop of its own, 128 threads spend their time on handing over the GIL: every call into the kernel lets go of it, and whoever
takes it then is another thread's context switch (ten an object). Here one thread makes all the calls, in batches, and nobody wants the
GIL meanwhile.

Rules:

* There is no thread for it: the leader is one of the callers. When its own request has ended it makes another the leader, and goes.
* Whoever comes puts his request in the inbox first and tries to lead then; a leader who goes looks into it afterwards. So nobody waits
  without a leader.
* No lock is held while somebody waits, and no caller's code runs in the leader.
* A signal handler that fetches in the leader's own thread does so alone.
* An exception that comes out of nowhere (Ctrl-C, a signal handler) is the leader's own. It may have come in the middle of the books, so
  the loop is closed, and whoever waits goes on alone.
* A leader may be held up all the same, as by a signal handler that takes its time. Whoever sees no progress for `_PATIENCE_S` goes on
  alone, and nobody joins this crowd any more.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

from ..fetch.request import Fetch, State
from .rooms import ViewFetch

if TYPE_CHECKING:
    from ..fetch.loop import FetchLoop
    from .rooms import Rooms

_PATIENCE_S: Final = 2.0
_TURN_S: Final = 0.5
"""A leader shows progress at least this often."""
_DONE: Final = State.DONE
_FAILED: Final = State.FAILED


class Crowd:
    """The callers of one fetcher who share a loop, at most one loop at a time. Thread-safe."""

    def __init__(self, rooms: Rooms, borrow: Callable[[], FetchLoop], give_back: Callable[[FetchLoop], None]) -> None:
        """Begins without anybody.

        Args:
            rooms: Where the memory comes from.
            borrow: Lends a loop that others can wake.
            give_back: Takes it back, when nobody is left and nothing is under way.
        """
        self._rooms = rooms
        self._borrow = borrow
        self._give_back = give_back
        self.is_stuck = False
        """Whether somebody saw no progress; nobody should join any more."""
        self._leading = threading.Lock()
        """Held while there is a leader; it passes from one to the next without being released."""
        self._changing = threading.RLock()
        """Held for a microsecond, while a leader is chosen or a follower leaves; again by a signal handler, perhaps."""
        self._leader: ViewFetch | None = None
        """The leader's request."""
        self._thread = 0
        """Of the leader."""
        self._loop: FetchLoop | None = None
        """The leader's; it passes to the next one."""
        self._inbox: deque[ViewFetch] = deque()
        """Requests of followers that the loop does not have yet."""
        self._waiting: dict[ViewFetch, threading.Lock] = {}
        """The followers' requests that have not ended, in the inbox or the loop, and what each waits for; the last to come is the last."""
        self._left: deque[ViewFetch] = deque()
        """Requests that nobody waits for any more, to be cancelled."""
        self._is_doubtful = False
        """Whether the loop may have requests that nobody waits for."""
        self._is_asleep = False
        """Whether the leader must be woken to look into the inbox."""
        self._num_turns = 0

    def fetch(self, fetch: ViewFetch) -> bool:
        """Has a request driven to its end, which its state and its error tell.

        Returns:
            False says that nothing came of it, and that it is to be made anew, elsewhere.
        """
        try:
            if self._leading.acquire(blocking=False):
                self._leader = fetch
                self._loop = loop = self._borrow()
                self._rooms.guess((fetch,))
                loop.submit(fetch)
                self._lead(fetch, loop)
            elif self._thread != threading.get_ident() and self._follow(fetch):
                if self._loop is None:
                    self._loop = self._borrow()
                self._lead(fetch, self._loop)
        except BaseException:
            # Until the books are in order again: another Ctrl-C may come in the middle of that.
            was_stuck, self.is_stuck = self.is_stuck, True
            self._leave(fetch)
            self.is_stuck = was_stuck
            raise
        return fetch.state is _DONE or fetch.state is _FAILED

    def _lead(self, fetch: ViewFetch, loop: FetchLoop) -> None:
        """Drives everybody's requests until the leader's own has ended."""
        self._thread = threading.get_ident()
        while fetch.state < _DONE:
            while self._left:
                loop.cancel(self._left.popleft())
            if self._inbox:
                self._take_in(loop)
            self._turn(loop)
        self._step_down()

    def _take_in(self, loop: FetchLoop) -> None:
        inbox, waiting = self._inbox, self._waiting
        fetches = []
        while inbox:
            fetch = inbox.popleft()
            # Else its caller has gone.
            if fetch in waiting or fetch is self._leader:
                fetches.append(fetch)
        self._rooms.guess(fetches)
        loop.max_connections = len(waiting) + 1
        for fetch in fetches:
            loop.submit(fetch)

    def _turn(self, loop: FetchLoop) -> None:
        loop.start()
        # In this order: whoever comes behind the look into the inbox wakes the loop.
        self._is_asleep = True
        ended = loop.poll(0 if self._inbox else _TURN_S)
        self._is_asleep = False
        self._num_turns += 1
        waiting = self._waiting
        for fetch in cast("list[ViewFetch]", ended):
            seat = waiting.pop(fetch, None)
            if seat is not None:
                seat.release()

    def _follow(self, fetch: ViewFetch) -> bool:
        """Waits; returns whether to lead now. Otherwise the request has ended, or is to be made alone."""
        seat = threading.Lock()
        seat.acquire()
        self._waiting[fetch] = seat
        self._inbox.append(fetch)
        if self._leading.acquire(blocking=False):
            # The leader has just gone, perhaps without a look into the inbox.
            self._leader = fetch
            self._waiting.pop(fetch, None)
            return True
        if self._is_asleep:
            self._is_asleep = False
            loop = self._loop
            if loop is not None:
                loop.wake()
        seen = self._num_turns
        while not seat.acquire(timeout=_PATIENCE_S):
            if self._leader is fetch:
                break
            if seen == self._num_turns and self._give_up(fetch):
                self.is_stuck = True
                return False
            seen = self._num_turns
        return self._leader is fetch

    def _give_up(self, fetch: ViewFetch) -> bool:
        """Takes a follower out; returns False if he is the leader by now."""
        with self._changing:
            if self._leader is fetch:
                return False
            if self._waiting.pop(fetch, None) is not None:
                self._is_doubtful = True
                self._left.append(fetch)
            return True

    def _leave(self, fetch: ViewFetch) -> None:
        """A caller was interrupted."""
        if self._give_up(fetch):
            return
        # The loop may be in the middle of its books. What it writes to is let go of when it is closed, and not before.
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()
        with self._changing:
            while self._waiting:
                one, seat = self._waiting.popitem()
                if one.state < _DONE:
                    one.forget()
                seat.release()
        self._left.clear()
        fetch.forget()
        self._step_down()

    def _step_down(self) -> None:
        """Makes somebody else the leader, or gives the loop back if there is nobody."""
        while not (self._waiting and self._promote()):
            loop, self._loop = self._loop, None
            if loop is not None:
                self._let_go(loop)
            self._leader = None
            self._thread = 0
            self._leading.release()
            if not self._waiting or not self._leading.acquire(blocking=False):
                return

    def _promote(self) -> bool:
        self._thread = 0
        with self._changing:
            try:
                # The last to come, since he will have to wait longest.
                fetch, seat = self._waiting.popitem()
            except KeyError:
                return False
            self._leader = fetch
        seat.release()
        return True

    def _let_go(self, loop: FetchLoop) -> None:
        if self._is_doubtful:
            self._is_doubtful = False
            self._left.clear()
            loop.close()
        else:
            self._give_back(loop)


def may_share(fetch: Fetch) -> bool:
    """Whether a request will hold up nobody who shares its loop: not by reading files, nor by waiting for credentials.

    Requests of the SDK lane would not either, but nothing is won for them: they are made in threads.
    """
    wire = fetch.wire
    if wire.is_local or wire.origin is None:
        return False
    return wire.expires_at_s is None or datetime.now(UTC).timestamp() < wire.expires_at_s
