"""The address space of a segment as buddy blocks: which are free, and how they split and merge.

Owns the lists of free blocks. Pure: no I/O, and no knowledge of caps, users or the kernel; `slots.py` decides, this file finds.

A block of order k is 2**k pages of address space, aligned to its size. Only a prefix of it, `nbytes`, has memory behind it. A free
block with such a prefix is *warm*: its pages are touched, which is worth more than anything else here (receiving into fresh memory is
up to nine times slower). A free block without one is *cold*: address space only, and there is plenty of that.

Rules:

* Warm lists are in order of release, oldest on the left: taken from the right (the working set stays small), trimmed from the left.
* Buddies merge only when somebody needs a larger block. Merging at each release, as textbooks do, would split and merge the same
  blocks again and again in a steady state of one size.
* `(start, generation)` is granted once in the life of a segment: a split copies the generation, a merge takes the larger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise

from ..errors import InternalError
from .limits import PAGE_BYTES

PAGE_BITS = PAGE_BYTES.bit_length() - 1

NUM_ORDERS = 64 - PAGE_BITS

FREE, GRANTED, BEYOND, RETIRED, GONE = range(5)
"""States of a slot: on a free list; granted within the cap; granted beyond it; granted, and never to be granted again; merged into
its buddy, or retired and freed."""


class Slot:
    """A piece of a segment; only `Slots` changes it.

    Attributes:
        start: First byte, from the beginning of the segment; a multiple of the page size.
        nbytes: Bytes from `start` that are reserved and may be used; a multiple of the page size, at least what was asked for.
        order: The block has 2**order pages of address space.
        generation: How often this address was released before; tells a late message from a current one.
        state: One of the states above.
        freed_at: Tick of the last release; orders the warm blocks by age.
    """

    __slots__ = ("freed_at", "generation", "nbytes", "order", "start", "state")

    def __init__(self, start: int, nbytes: int, order: int, generation: int = 0, freed_at: int = 0) -> None:
        self.start = start
        self.nbytes = nbytes
        self.order = order
        self.generation = generation
        self.state = FREE
        self.freed_at = freed_at

    def __repr__(self) -> str:
        return f"Slot(start={self.start}, nbytes={self.nbytes}, order={self.order}, generation={self.generation})"


def order_of(nbytes: int) -> int:
    """Returns the order of the smallest block that holds `nbytes` (at least 1)."""
    return ((nbytes - 1) >> PAGE_BITS).bit_length()


class Blocks:
    """The free blocks of `[first, first + size)`.

    Attributes:
        warm: For each order, free blocks with memory behind them, by `freed_at`.
        cold: For each order, free blocks without memory, in no order.
        largest_bytes: Size of the largest block there can ever be.
    """

    def __init__(self, first: int, size: int) -> None:
        self.warm: list[deque[Slot]] = [deque() for _ in range(NUM_ORDERS)]
        self.cold: list[list[Slot]] = [[] for _ in range(NUM_ORDERS)]
        self._first = first
        num_pages = size >> PAGE_BITS
        self.largest_bytes = PAGE_BYTES << num_pages.bit_length() - 1 if num_pages else 0
        # Largest first, so that each is aligned to its own size: a block's buddy is then found by flipping one bit of its offset.
        for order in range(num_pages.bit_length() - 1, -1, -1):
            if num_pages >> order & 1:
                self.cold[order].append(Slot(first, 0, order))
                first += PAGE_BYTES << order

    def put(self, slot: Slot) -> None:
        """Adds a free block as the one released last."""
        (self.warm if slot.nbytes else self.cold)[slot.order].append(slot)

    def take_warm(self, order: int) -> Slot | None:
        """Removes and returns a block of `order` that has memory: the last released, else a half of the next larger."""
        return self._take(self.warm, order)

    def take_cold(self, order: int) -> Slot | None:
        """Removes and returns a block of `order` without memory, cut from the smallest that holds it."""
        return self._take(self.cold, order)

    def _take(self, lists: list[deque[Slot]] | list[list[Slot]], order: int) -> Slot | None:
        for found in lists[order:]:
            if found:
                slot = found.pop()
                while slot.order > order:
                    self._split(slot)
                return slot
        return None

    def _split(self, slot: Slot) -> None:
        slot.order -= 1
        half = PAGE_BYTES << slot.order
        self.put(Slot(slot.start + half, max(0, slot.nbytes - half), slot.order, slot.generation, slot.freed_at))
        slot.nbytes = min(slot.nbytes, half)

    def merge(self, order: int, cut: Callable[[Slot, int], None] | None) -> None:
        """Merges free buddies into blocks of up to `order`; takes time for each free block that is smaller.

        Args:
            order: The order that is needed.
            cut: Gives up that many bytes at the end of a slot's memory. A merged block has one prefix, so where the left buddy is not
                full, the right one must lose its memory. None leaves such pairs alone.
        """
        for below in range(order):
            merged = self._merge_pairs(below, cut)
            if merged:
                self.warm[below] = deque(slot for slot in self.warm[below] if slot.order == below and slot.state == FREE)
                self.cold[below] = [slot for slot in self.cold[below] if slot.order == below and slot.state == FREE]
                self.cold[below + 1] += [slot for slot in merged if not slot.nbytes]
                warm = [*self.warm[below + 1], *(slot for slot in merged if slot.nbytes)]
                self.warm[below + 1] = deque(sorted(warm, key=lambda slot: slot.freed_at))

    def _merge_pairs(self, order: int, cut: Callable[[Slot, int], None] | None) -> list[Slot]:
        size = PAGE_BYTES << order
        lefts = [slot for slot in (*self.warm[order], *self.cold[order]) if not slot.start - self._first & size]
        rights = {slot.start: slot for slot in (*self.warm[order], *self.cold[order]) if slot.start - self._first & size}
        merged = []
        for left in lefts:
            right = rights.get(left.start + size)
            if right is None:
                continue
            if left.nbytes < size and right.nbytes:
                if cut is None:
                    continue
                cut(right, right.nbytes)
            _join(left, right)
            merged.append(left)
        return merged

    def oldest(self) -> Slot | None:
        """Returns the warm block that was released first, without removing it."""
        fronts = [found[0] for found in self.warm if found]
        return min(fronts, key=lambda slot: slot.freed_at) if fronts else None

    def cool(self, slot: Slot) -> None:
        """Moves the oldest warm block, which has lost its memory, to the cold ones."""
        if self.warm[slot.order].popleft() is not slot or slot.nbytes:
            raise InternalError(f"{slot!r} is not the oldest block, or still warm")
        self.cold[slot.order].append(slot)

    def laws(self) -> dict[str, bool]:
        """Returns what must be true of the free blocks, and whether it is; for tests, since it visits all of them."""
        warm = [slot for found in self.warm for slot in found]
        cold = [slot for found in self.cold for slot in found]
        free = sorted([*warm, *cold], key=lambda slot: slot.start)
        lists = [*enumerate(self.warm), *enumerate(self.cold)]
        return {
            "warm blocks have memory, and only within themselves": all(0 < one.nbytes <= PAGE_BYTES << one.order for one in warm),
            "cold blocks have none": not any(slot.nbytes for slot in cold),
            "free blocks are free": all(slot.state == FREE for slot in free),
            "blocks do not overlap": all(a.start + (PAGE_BYTES << a.order) <= b.start for a, b in pairwise(free)),
            "warm blocks are in order of release": all(a.freed_at <= b.freed_at for one in self.warm for a, b in pairwise(one)),
            "a block is in the list of its order": all(slot.order == order for order, found in lists for slot in found),
        }


def _join(left: Slot, right: Slot) -> None:
    left.order += 1
    left.nbytes += right.nbytes
    left.generation = max(left.generation, right.generation)
    left.freed_at = max(left.freed_at, right.freed_at)
    right.state = GONE
