"""Grants pieces of a segment, within a cap that counts reserved memory.

Owns the state of every slot: `Slots` is the only writer, and lives in one thread of one process. Pure: what touches the kernel is
behind `Backing`. It never reads or writes the bytes of a slot.

The arithmetic, in bytes (`validate` checks it; `counted` is what the cap is held against):

    reserved = granted + beyond + retired + free          counted = granted + free = reserved - beyond - retired <= cap

* `granted`: slots of a pool's own work. `beyond`: slots whose memory belongs to the caller (`get`, `get_many`), who may hold as much
  as the machine has without starving the pool. `retired`: slots that a forked child may still read. `free`: warm blocks, kept so
  that the next slot needs no system call and no page fault.
* Only the pages that were asked for are reserved, not the power of two around them, so neither rounding nor fragmentation of address
  space keeps a large object out: one that fits under the cap is granted as soon as the slots before it are freed.
* Where the cap is reached, memory of free blocks goes back to the kernel, the block released longest ago first.

A request looks, in this order, for: the block of its size that was released last (no call into the kernel, about 1 us); half of a
larger warm block; warm buddies to merge; fresh address space, which must be reserved; any free buddies at all.
"""

from __future__ import annotations

from typing import Protocol

from ..errors import InsufficientMemoryError, InternalError, ObjectTooLargeError
from .blocks import BEYOND, FREE, GONE, GRANTED, PAGE_BITS, RETIRED, Blocks, Slot, order_of
from .limits import PAGE_BYTES

__all__ = ["Backing", "Slot", "Slots"]

_MAX_MERGE_PAUSE = 63
"""Misses between two vain merges, at most; the pause doubles each time. A merge visits every smaller free block."""


class Backing(Protocol):
    """What commits memory; `Segment`, or a model of it."""

    def reserve(self, start: int, end: int) -> None:
        """Commits the pages of the byte range, or raises and changes nothing."""

    def release(self, start: int, end: int) -> None:
        """Gives the pages of the byte range back."""


class Slots:
    """The slots of `[first, first + size)` of a backing.

    Args:
        backing: Commits and gives back memory.
        first: First byte that may be granted; a multiple of the page size.
        size: Bytes of address space from there.
        cap_bytes: The most that may be reserved for granted and free slots together; rounded up to whole pages.
    """

    def __init__(self, backing: Backing, *, first: int, size: int, cap_bytes: int) -> None:
        self._backing = backing
        self._blocks = Blocks(first, size)
        self._warm = self._blocks.warm
        self._largest = self._blocks.largest_bytes
        self._cap = _round_up(cap_bytes)
        self._reserved = 0
        self._granted = 0
        self._beyond = 0
        self._retired = 0
        self._clock = 0
        self._merge_pause = 0
        self._merges_to_skip = 0

    @property
    def cap_bytes(self) -> int:
        """The cap, in whole pages."""
        return self._cap

    @property
    def reserved_bytes(self) -> int:
        """All memory that is reserved, whoever it is counted for."""
        return self._reserved

    @property
    def used_bytes(self) -> int:
        """Reserved memory of slots that are granted now, within the cap or beyond it."""
        return self._granted + self._beyond

    @property
    def beyond_bytes(self) -> int:
        """The part of `used_bytes` that belongs to callers."""
        return self._beyond

    @property
    def retired_bytes(self) -> int:
        """Reserved memory that stays as it is because a forked child may read it."""
        return self._retired

    @property
    def free_bytes(self) -> int:
        """Reserved memory of free slots, ready to be granted again."""
        return self._reserved - self._granted - self._beyond - self._retired

    def allocate(self, nbytes: int, *, beyond_cap: bool = False) -> Slot | None:
        """Grants a slot whose `nbytes` are reserved, or returns None as long as the cap does not allow it.

        Args:
            nbytes: Bytes needed. 0 gives a slot of one page like any other, so that no caller needs a special case.
            beyond_cap: The memory belongs to the caller and does not count.

        Raises:
            ObjectTooLargeError: Larger than the cap, or than the address space: waiting would not help (fault M3).
            InsufficientMemoryError: The machine has not that much; every grant stands as before.
        """
        if not 0 < nbytes <= self._largest:
            nbytes = self._vet(nbytes)
        warm = self._warm[((nbytes - 1) >> PAGE_BITS).bit_length()]
        if warm and warm[-1].nbytes >= nbytes:
            slot = warm.pop()
        else:
            found = self._allocate_slowly(_round_up(nbytes), beyond_cap)
            if found is None:
                return None
            slot = found
        if beyond_cap:
            slot.state = BEYOND
            self._beyond += slot.nbytes
        else:
            slot.state = GRANTED
            self._granted += slot.nbytes
        return slot

    def free(self, slot: Slot) -> None:
        """Takes a granted slot back, memory and all, as the first to be granted again; its generation goes up by one.

        Who holds a (slot, generation) pair compares the two before calling: a newer generation belongs to somebody else.

        Raises:
            InternalError: The slot is not granted: it was freed before.
        """
        if slot.state == GRANTED:
            self._granted -= slot.nbytes
            self._warm[slot.order].append(slot)
            slot.state = FREE
        elif slot.state == BEYOND:
            # The slot's bytes count from now on. What is too much goes back at once, from this slot: the warm blocks are the pool's.
            self._beyond -= slot.nbytes
            excess = self._reserved - self._beyond - self._retired - self._cap
            if excess > 0:
                self._cut(slot, excess)
            slot.state = FREE
            self._blocks.put(slot)
        elif slot.state == RETIRED:
            slot.state = GONE
        else:
            raise InternalError(f"{slot!r} was freed twice")
        slot.generation += 1
        self._clock = slot.freed_at = self._clock + 1

    def shrink(self, slot: Slot, nbytes: int) -> int:
        """Gives back what a granted slot has above `nbytes`, in whole pages, where a guess was too large; returns how many bytes.

        One page stays. A retired slot stays as it is.
        """
        surplus = slot.nbytes - _round_up(max(nbytes, 1))
        if surplus <= 0 or slot.state == RETIRED:
            return 0
        if slot.state == GRANTED:
            self._granted -= surplus
        elif slot.state == BEYOND:
            self._beyond -= surplus
        else:
            raise InternalError(f"{slot!r} is not granted and cannot shrink")
        self._cut(slot, surplus)
        return surplus

    def retire(self, slot: Slot) -> None:
        """Takes a granted slot out of circulation for ever: called before a fork, for what the child may read (fault P10).

        The consumer goes on using it and frees it as ever, but its memory is neither granted again nor given back, and no longer
        counts against the cap, so that the pool does not starve. The child has its own copy of every Python object, the leases and
        their deque included: what it drops reaches nobody, and it must not use the `Slots` that it inherited.
        """
        if slot.state == GRANTED:
            self._granted -= slot.nbytes
        elif slot.state == BEYOND:
            self._beyond -= slot.nbytes
        elif slot.state != RETIRED:
            raise InternalError(f"{slot!r} is not granted and cannot be retired")
        if slot.state != RETIRED:
            self._retired += slot.nbytes
            slot.state = RETIRED

    def trim(self, nbytes: int | None = None) -> int:
        """Gives memory of free slots back to the kernel, oldest first; returns how many bytes.

        Args:
            nbytes: No more than this, in whole pages. None means all.
        """
        wanted = self.free_bytes if nbytes is None else min(nbytes, self.free_bytes)
        left = wanted
        while left > 0 and (slot := self._blocks.oldest()):
            size = min(left, slot.nbytes)
            self._cut(slot, size)
            left -= size
            if not slot.nbytes:
                self._blocks.cool(slot)
        return wanted - left

    def validate(self) -> None:
        """Checks the arithmetic and every free block; for tests, since it visits all of them.

        Raises:
            InternalError: Something is inconsistent; the text says what.
        """
        warm_bytes = sum(slot.nbytes for found in self._warm for slot in found)
        laws = {
            "free blocks hold what is reserved and not granted": warm_bytes == self.free_bytes,
            "no counter is negative": min(self._granted, self._beyond, self._retired, self.free_bytes) >= 0,
            "the cap holds": self._reserved - self._beyond - self._retired <= self._cap,
            **self._blocks.laws(),
        }
        broken = [law for law, holds in laws.items() if not holds]
        if broken:
            raise InternalError(f"the slots are inconsistent: not true that {'; '.join(broken)}")

    def _vet(self, nbytes: int) -> int:
        if nbytes == 0:
            return 1
        if nbytes < 0:
            raise InternalError(f"a slot of {nbytes} bytes was asked for")
        raise ObjectTooLargeError(f"{nbytes} bytes were asked for; one slot of this machine has at most {self._largest}")

    def _allocate_slowly(self, need: int, beyond_cap: bool) -> Slot | None:
        if not beyond_cap:
            if need > self._cap:
                raise ObjectTooLargeError(f"{need} bytes are needed at once, and the cap is {self._cap}; raise memory_bytes")
            if self._granted + need > self._cap:
                return None
        slot = self._find(need)
        if slot is None:
            if beyond_cap:
                raise InsufficientMemoryError(f"no {need} bytes of address space in one piece are left; release views or copy them")
            return None
        try:
            self._extend(slot, need, beyond_cap)
        except BaseException:
            self._blocks.put(slot)
            raise
        return slot

    def _find(self, need: int) -> Slot | None:
        """Returns a free block of the right order, taken off its list; the cheapest to make usable."""
        order = order_of(need)
        return (
            self._blocks.take_warm(order)
            or self._merge_warm(order, need)
            or self._blocks.take_cold(order)
            or self._merge_all(order)
        )

    def _merge_warm(self, order: int, need: int) -> Slot | None:
        # When the work turns from small objects to large ones, merging saves the reserving and the first touch of their memory
        # (up to 3 s/GiB). When it finds nothing, it was in vain for as many blocks as are free, hence the growing pause.
        if self.free_bytes < need:
            return None
        if self._merges_to_skip:
            self._merges_to_skip -= 1
            return None
        self._blocks.merge(order, None)
        slot = self._warm[order].pop() if self._warm[order] else None
        self._merge_pause = 0 if slot else min(2 * self._merge_pause + 1, _MAX_MERGE_PAUSE)
        self._merges_to_skip = self._merge_pause
        return slot

    def _merge_all(self, order: int) -> Slot | None:
        self._blocks.merge(order, self._cut)
        return self._blocks.take_warm(order) or self._blocks.take_cold(order)

    def _extend(self, slot: Slot, need: int, beyond_cap: bool) -> None:
        """Reserves what a block lacks of `need` bytes, making room under the cap first."""
        extra = need - slot.nbytes
        if extra <= 0:
            return
        if not beyond_cap:
            # What is granted leaves room for `need`, so the free blocks hold enough to trim.
            self.trim(self._reserved - self._beyond - self._retired + extra - self._cap)
        start, end = slot.start + slot.nbytes, slot.start + need
        try:
            self._backing.reserve(start, end)
        except InsufficientMemoryError:
            # The machine is short of memory while free slots hold some: give that back, and ask once more.
            if not self.trim():
                raise
            self._backing.reserve(start, end)
        slot.nbytes = need
        self._reserved += extra

    def _cut(self, slot: Slot, nbytes: int) -> None:
        """Gives the last `nbytes` of a slot's memory back to the kernel."""
        end = slot.start + slot.nbytes
        self._backing.release(end - nbytes, end)
        slot.nbytes -= nbytes
        self._reserved -= nbytes


def _round_up(nbytes: int) -> int:
    return (nbytes + PAGE_BYTES - 1) & -PAGE_BYTES
