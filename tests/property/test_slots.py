"""Any sequence of grants and releases, against an oracle that keeps a set of committed pages and a list of grants.

The space is small (96 pages, one of 64 and one of 32), so that splits, merges, trims and a full address space all happen.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from s3dlio.engine.errors import InsufficientMemoryError, InternalError, ObjectTooLargeError
from s3dlio.engine.memory.slots import Slot, Slots

PAGE = 4096
FIRST = 3
SPACE = 96
CAP = 40


@dataclass(eq=False)
class Grant:
    slot: Slot
    first_page: int
    block_pages: int
    beyond: bool
    retired: bool = False

    @property
    def pages(self) -> set[int]:
        return set(range(self.first_page, self.first_page + self.slot.nbytes // PAGE))


class SlotsMachine(RuleBasedStateMachine):
    granted = Bundle("granted")

    def __init__(self) -> None:
        super().__init__()
        self.committed: set[int] = set()
        self.refusing = False
        self.live: list[Grant] = []
        self.dead: list[Grant] = []
        self.given: set[tuple[int, int]] = set()
        self.slots = Slots(self, first=FIRST * PAGE, size=SPACE * PAGE, cap_bytes=CAP * PAGE)

    def reserve(self, start: int, end: int) -> None:
        pages = set(range(start // PAGE, end // PAGE))
        assert start % PAGE == end % PAGE == 0
        assert pages
        assert not pages & self.committed
        assert pages <= set(range(FIRST, FIRST + SPACE))
        if self.refusing:
            raise InsufficientMemoryError("refused")
        self.committed |= pages

    def release(self, start: int, end: int) -> None:
        pages = set(range(start // PAGE, end // PAGE))
        assert pages
        assert pages <= self.committed
        assert not any(pages & grant.pages for grant in [*self.live, *self.dead] if grant.retired)
        self.committed -= pages

    def within_cap(self) -> int:
        return sum(len(grant.pages) for grant in self.live if not grant.beyond and not grant.retired)

    def has_address_space(self, num_pages: int) -> bool:
        taken = {
            page
            for grant in [*self.live, *self.dead]
            for page in range(grant.first_page, grant.first_page + grant.block_pages)
        }
        size = 1 << (num_pages - 1).bit_length()
        places = (range(FIRST + at, FIRST + at + size) for at in range(0, SPACE - size + 1, size))
        return any(taken.isdisjoint(place) for place in places)

    @rule(target=granted, nbytes=st.integers(0, 70 * PAGE) | st.integers(1, 9 * PAGE), beyond=st.booleans())
    def allocate(self, nbytes: int, beyond: bool):  # type: ignore[no-untyped-def]
        num_pages = max(1, -(-nbytes // PAGE))
        before = self.within_cap()
        try:
            slot = self.slots.allocate(nbytes, beyond_cap=beyond)
        except ObjectTooLargeError:
            assert num_pages > (64 if beyond else CAP)
            return multiple()
        except InsufficientMemoryError:
            assert self.refusing or (beyond and not self.has_address_space(num_pages))
            return multiple()
        if slot is None:
            assert not beyond
            assert before + num_pages > CAP or not self.has_address_space(num_pages)
            return multiple()
        assert slot.nbytes >= nbytes
        assert (slot.start, slot.generation) not in self.given
        self.given.add((slot.start, slot.generation))
        grant = Grant(slot, slot.start // PAGE, 1 << (num_pages - 1).bit_length(), beyond)
        assert grant.pages <= self.committed
        self.live.append(grant)
        return grant

    @rule(grant=consumes(granted))
    def free(self, grant: Grant) -> None:
        generation = grant.slot.generation
        kept = grant.pages if grant.retired else set()
        self.slots.free(grant.slot)
        assert grant.slot.generation == generation + 1
        with pytest.raises(InternalError):
            self.slots.free(grant.slot)
        self.live.remove(grant)
        if grant.retired:
            assert kept <= self.committed
            self.dead.append(grant)

    @rule(grant=granted)
    def free_and_allocate_the_same_size(self, grant: Grant) -> None:
        if grant.beyond or grant.retired:
            return
        self.slots.free(grant.slot)
        again = self.slots.allocate(grant.slot.nbytes)
        # The block released last comes first; a block that had shrunk is now too large for its own memory.
        if again is not None and 1 << (grant.slot.nbytes // PAGE - 1).bit_length() == grant.block_pages:
            assert again is grant.slot
        assert again is not None
        self.given.add((again.start, again.generation))
        grant.slot, grant.first_page = again, again.start // PAGE
        grant.block_pages = 1 << again.order

    @rule(grant=granted, nbytes=st.integers(0, 40 * PAGE))
    def shrink(self, grant: Grant, nbytes: int) -> None:
        if grant.retired:
            return
        expected = min(grant.slot.nbytes, max(1, -(-nbytes // PAGE)) * PAGE)
        self.slots.shrink(grant.slot, nbytes)
        assert grant.slot.nbytes == expected

    @precondition(lambda self: len(self.dead) < 4)
    @rule(grant=granted)
    def retire(self, grant: Grant) -> None:
        self.slots.retire(grant.slot)
        grant.retired = True

    @rule(num_pages=st.none() | st.integers(0, 20))
    def trim(self, num_pages: int | None) -> None:
        before = len(self.committed)
        freed = self.slots.trim(None if num_pages is None else num_pages * PAGE)
        assert freed == (before - len(self.committed)) * PAGE
        assert num_pages is None or freed <= num_pages * PAGE

    @rule(refusing=st.booleans())
    def the_machine_runs_short_or_recovers(self, refusing: bool) -> None:
        self.refusing = refusing

    @invariant()
    def granted_slots_do_not_overlap_and_are_committed(self) -> None:
        seen: set[int] = set()
        for grant in [*self.live, *self.dead]:
            assert grant.slot.start == grant.first_page * PAGE
            assert seen.isdisjoint(grant.pages)
            seen |= grant.pages
        assert seen <= self.committed

    @invariant()
    def the_books_agree_with_the_oracle(self) -> None:
        self.slots.validate()
        retired = {page for grant in [*self.live, *self.dead] if grant.retired for page in grant.pages}
        beyond = {page for grant in self.live if grant.beyond and not grant.retired for page in grant.pages}
        assert self.slots.reserved_bytes == len(self.committed) * PAGE
        assert self.slots.retired_bytes == len(retired) * PAGE
        assert self.slots.beyond_bytes == len(beyond) * PAGE
        assert self.slots.used_bytes == (self.within_cap() + len(beyond)) * PAGE
        assert len(self.committed) - len(retired) - len(beyond) <= CAP

    def teardown(self) -> None:
        self.refusing = False
        for grant in self.live:
            self.slots.free(grant.slot)
        retired = {page for grant in [*self.live, *self.dead] if grant.retired for page in grant.pages}
        self.slots.trim()
        assert self.committed == retired
        if not retired:
            whole = self.slots.allocate(64 * PAGE, beyond_cap=True)
            assert whole is not None
            assert whole.nbytes == 64 * PAGE


TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
