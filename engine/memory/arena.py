"""A segment with its slots and its leases: the memory of one pool, or of the calls that have no pool.

Owns the way of a slot from grant to release. Not thread-safe: its user serialises the calls. Only `released` is appended to from
anywhere, by leases that end.

At a fork, slots that are leased are retired: the child may read them for as long as it lives. The child itself inherits the mapping
and abandons everything else (`core.py` does): its copy of the books would grant memory that the parent uses.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .blocks import RETIRED
from .limits import default_memory_bytes
from .segment import HEADER_BYTES, Segment
from .slots import Slot, Slots

if TYPE_CHECKING:
    from .view import BytesView, Lease

_arenas: weakref.WeakSet[Arena] = weakref.WeakSet()


class Arena:
    """Grants slots, leases views on them, and takes them back."""

    def __init__(self, cap_bytes: int, poison: bool, lock: threading.Lock) -> None:
        """Maps a new segment.

        Args:
            cap_bytes: As `Slots`; 0 stands for "auto".
            poison: Whether freed slots are overwritten.
            lock: What its user serialises the calls by. A fork takes it too, so that it does not meet books half written.

        Raises:
            UnsupportedError, InsufficientMemoryError: As `Segment.create`.
        """
        self.lock = lock
        self.segment = Segment.create()
        self.buffer = self.segment.buffer
        """All of it; a slot is the piece from its `start` on."""
        size = self.segment.size - HEADER_BYTES
        self.slots = Slots(self.segment, first=HEADER_BYTES, size=size, cap_bytes=cap_bytes or default_memory_bytes())
        self.released: deque[Lease] = deque()
        self._leased: dict[Slot, Lease] = {}
        self._lease_view: Callable[..., tuple[BytesView, Lease]] | None = None
        self.free: Callable[[Slot], None] = self._free_poisoned if poison else self.slots.free
        """Takes back a slot that was granted, and is not leased."""
        _arenas.add(self)

    @property
    def num_leased(self) -> int:
        """Views that somebody holds, as far as `collect` knows."""
        return len(self._leased)

    @property
    def leased_bytes(self) -> int:
        """Memory of those views."""
        return sum(slot.nbytes for slot in self._leased)

    def lease(self, slot: Slot, nbytes: int) -> BytesView:
        """Returns the view of the first `nbytes` of a granted slot; the slot comes back when nothing of it is left."""
        make = self._lease_view
        if make is None:
            # numpy, 100 ms: a run that looks at no view (`mp_get`) never pays for it.
            from .view import lease_view

            make = self._lease_view = lease_view
        view, self._leased[slot] = make(self.buffer, slot, 0, nbytes, self.released)
        return view

    def _free_poisoned(self, slot: Slot) -> None:
        # A retired slot stays as it is: a forked child reads it.
        if slot.state != RETIRED:
            self.segment.poison(slot.start, slot.start + slot.nbytes)
        self.slots.free(slot)

    def collect(self) -> int:
        """Takes back the slots of the leases that have ended; returns how many."""
        released, leased = self.released, self._leased
        num = 0
        while released:
            lease = released.popleft()
            slot = lease.slot
            if slot.generation == lease.generation and leased.pop(slot, None) is not None:
                self.free(slot)
                num += 1
        return num

    def shrink_leased(self) -> int:
        """Gives back what leased slots have of room behind their views; returns how many bytes."""
        views = [(slot, lease()) for slot, lease in self._leased.items()]
        return sum(self.slots.shrink(slot, len(view)) for slot, view in views if view is not None)

    def close(self) -> None:
        """Closes the descriptor; views that exist stay readable."""
        self.segment.close()
        _arenas.discard(self)

    def retire_leased(self) -> None:
        """Before a fork: what is leased now is never granted again."""
        self.collect()
        for slot in self._leased:
            self.slots.retire(slot)


_LOCK_PATIENCE_S = 1.0
"""How long a fork waits for a lock: it is held for microseconds, or while the kernel reserves pages; but the thread that forks may hold it
itself, in a signal handler."""

_held_by_fork: list[threading.Lock] = []


def _before_fork() -> None:
    for arena in list(_arenas):
        # Until the fork is over: what is leased in between would not be retired.
        if arena.lock not in _held_by_fork and arena.lock.acquire(timeout=_LOCK_PATIENCE_S):
            _held_by_fork.append(arena.lock)
        arena.retire_leased()


def _after_fork() -> None:
    while _held_by_fork:
        _held_by_fork.pop().release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
