"""Slots over a model of a backing that keeps a set of pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from s3dlio.engine.errors import InsufficientMemoryError, InternalError, ObjectTooLargeError
from s3dlio.engine.memory.slots import Slot, Slots

PAGE = 4096


class Pages:
    """A backing that remembers which pages are committed, and what it was asked."""

    def __init__(self, limit: int = 1 << 40) -> None:
        self.committed: set[int] = set()
        self.calls: list[tuple[str, int, int]] = []
        self.limit = limit

    def reserve(self, start: int, end: int) -> None:
        self.calls.append(("reserve", start, end))
        pages = set(range(start // PAGE, end // PAGE))
        assert not pages & self.committed
        if (len(self.committed) + len(pages)) * PAGE > self.limit:
            raise InsufficientMemoryError("full")
        self.committed |= pages

    def release(self, start: int, end: int) -> None:
        self.calls.append(("release", start, end))
        pages = set(range(start // PAGE, end // PAGE))
        assert pages <= self.committed
        self.committed -= pages


def make(cap_pages: int, *, space_pages: int = 1024, limit_pages: int = 1 << 30) -> tuple[Slots, Pages]:
    pages = Pages(limit_pages * PAGE)
    return Slots(pages, first=PAGE, size=space_pages * PAGE, cap_bytes=cap_pages * PAGE), pages


def grant(slots: Slots, num_pages: int, *, beyond_cap: bool = False) -> Slot:
    slot = slots.allocate(num_pages * PAGE, beyond_cap=beyond_cap)
    assert slot is not None
    return slot


def test_the_slot_freed_last_is_granted_first_without_a_call_into_the_kernel() -> None:
    slots, pages = make(64)
    held = [grant(slots, 4) for _ in range(3)]
    for slot in held:
        slots.free(slot)
    pages.calls.clear()
    assert [grant(slots, 4).start for _ in range(3)] == [slot.start for slot in reversed(held)]
    assert pages.calls == []


def test_a_generation_grows_with_each_release() -> None:
    slots, _ = make(64)
    seen = []
    for _ in range(4):
        slot = grant(slots, 1)
        seen.append(slot.generation)
        slots.free(slot)
    assert seen == sorted(set(seen))


def test_freeing_twice_is_refused_and_changes_nothing() -> None:
    slots, _ = make(64)
    slot = grant(slots, 1)
    slots.free(slot)
    with pytest.raises(InternalError, match="freed twice"):
        slots.free(slot)
    slots.validate()
    assert slots.used_bytes == 0


def test_only_the_pages_asked_for_count_and_not_the_power_of_two_around_them() -> None:
    slots, pages = make(64)
    for _ in range(3):
        grant(slots, 17)
    assert slots.reserved_bytes == len(pages.committed) * PAGE == 51 * PAGE
    assert slots.allocate(17 * PAGE) is None


def test_at_the_cap_nothing_is_granted_until_something_is_freed() -> None:
    slots, _ = make(8)
    first, _second = grant(slots, 4), grant(slots, 4)
    assert slots.allocate(1) is None
    slots.free(first)
    assert slots.allocate(1) is not None


def test_at_the_cap_the_oldest_free_memory_makes_room() -> None:
    slots, pages = make(12)
    old, young = grant(slots, 4), grant(slots, 2)
    slots.free(old)
    slots.free(young)
    pages.calls.clear()
    grant(slots, 8)
    assert pages.calls[0] == ("release", old.start + 2 * PAGE, old.start + 4 * PAGE)
    assert slots.reserved_bytes == 12 * PAGE


def test_m3_an_object_above_the_cap_is_refused_and_the_error_names_cap_and_knob() -> None:
    slots, _ = make(8)
    with pytest.raises(ObjectTooLargeError, match=rf"cap is {8 * PAGE}; raise memory_bytes"):
        slots.allocate(8 * PAGE + 1)
    assert grant(slots, 8).nbytes == 8 * PAGE


def test_m3_an_object_above_the_address_space_is_refused_even_beyond_the_cap() -> None:
    slots, _ = make(8)
    for nbytes in (1024 * PAGE + 1, 10**30):
        with pytest.raises(ObjectTooLargeError):
            slots.allocate(nbytes, beyond_cap=True)


def test_m3_fragments_do_not_keep_a_large_object_out_once_they_are_freed() -> None:
    slots, _ = make(256, space_pages=256)
    held = [grant(slots, 1) for _ in range(256)]
    for slot in held:
        slots.free(slot)
    assert grant(slots, 256).nbytes == 256 * PAGE


def test_an_empty_object_gets_a_slot_like_any_other() -> None:
    slots, _ = make(8)
    slot = slots.allocate(0)
    assert slot is not None
    assert slot.nbytes == PAGE


def test_a_negative_size_is_a_bug_of_the_caller() -> None:
    slots, _ = make(8)
    with pytest.raises(InternalError):
        slots.allocate(-1)


def test_warm_small_blocks_merge_into_a_large_one_without_reserving_anything() -> None:
    slots, pages = make(64)
    held = [grant(slots, 4) for _ in range(16)]
    for slot in held:
        slots.free(slot)
    pages.calls.clear()
    assert grant(slots, 64).nbytes == 64 * PAGE
    assert pages.calls == []


def test_a_warm_large_block_is_cut_for_a_small_object() -> None:
    slots, pages = make(64)
    large = grant(slots, 16)
    slots.free(large)
    pages.calls.clear()
    assert [grant(slots, 4).nbytes for _ in range(4)] == [4 * PAGE] * 4
    assert pages.calls == []


def test_where_address_space_is_short_a_merge_gives_back_memory_behind_a_gap() -> None:
    slots, pages = make(8, space_pages=8)
    held = [grant(slots, 3), grant(slots, 3)]
    for slot in held:
        slots.free(slot)
    pages.calls.clear()
    assert grant(slots, 7).nbytes == 7 * PAGE
    assert ("release", held[1].start, held[1].start + 3 * PAGE) in pages.calls
    slots.validate()


def test_memory_beyond_the_cap_does_not_starve_the_work_within_it() -> None:
    slots, _ = make(8)
    grant(slots, 100, beyond_cap=True)
    assert grant(slots, 8).nbytes == 8 * PAGE
    assert slots.beyond_bytes == 100 * PAGE
    assert slots.reserved_bytes == 108 * PAGE


def test_memory_beyond_the_cap_goes_back_as_soon_as_it_is_freed() -> None:
    slots, pages = make(8)
    slot = grant(slots, 100, beyond_cap=True)
    slots.free(slot)
    assert slots.reserved_bytes == len(pages.committed) * PAGE == 8 * PAGE
    slots.validate()


def test_results_that_fit_under_the_cap_stay_warm_for_the_next_call() -> None:
    slots, pages = make(8)
    slots.free(grant(slots, 4, beyond_cap=True))
    pages.calls.clear()
    grant(slots, 4, beyond_cap=True)
    assert pages.calls == []


def test_a_refused_reservation_changes_nothing() -> None:
    slots, pages = make(64, limit_pages=10)
    held = grant(slots, 8)
    with pytest.raises(InsufficientMemoryError):
        slots.allocate(4 * PAGE)
    slots.validate()
    assert slots.used_bytes == held.nbytes == len(pages.committed) * PAGE


def test_m1_where_the_machine_is_full_free_slots_give_their_memory_up_first() -> None:
    slots, _ = make(64, limit_pages=10)
    small = grant(slots, 6)
    keeper = grant(slots, 1)
    slots.free(small)
    assert grant(slots, 9).nbytes == 9 * PAGE
    assert keeper.nbytes == PAGE


def test_a_slot_that_was_guessed_too_large_gives_its_tail_back() -> None:
    slots, pages = make(16)
    slot = grant(slots, 16)
    slots.shrink(slot, 3 * PAGE + 1)
    assert slot.nbytes == slots.reserved_bytes == len(pages.committed) * PAGE == 4 * PAGE
    assert grant(slots, 12).nbytes == 12 * PAGE
    slots.free(slot)
    with pytest.raises(InternalError):
        slots.shrink(slot, 1)


def test_p10_a_retired_slot_is_never_granted_again_and_keeps_its_memory() -> None:
    slots, pages = make(8)
    slot = grant(slots, 8)
    kept = set(range(slot.start // PAGE, slot.start // PAGE + 8))
    slots.retire(slot)
    slots.retire(slot)
    slots.free(slot)
    assert slots.retired_bytes == 8 * PAGE
    assert grant(slots, 8).start != slot.start
    slots.trim()
    assert kept <= pages.committed
    with pytest.raises(InternalError):
        slots.free(slot)


def test_p10_retired_memory_does_not_count_against_the_cap() -> None:
    slots, _ = make(8)
    for _ in range(5):
        slots.retire(grant(slots, 8))
    assert grant(slots, 8).nbytes == 8 * PAGE
    slots.validate()


def test_only_a_granted_slot_can_retire() -> None:
    slots, _ = make(8)
    slot = grant(slots, 1)
    slots.free(slot)
    with pytest.raises(InternalError):
        slots.retire(slot)


def test_trimming_gives_back_no_more_than_asked() -> None:
    slots, pages = make(64)
    for slot in [grant(slots, 8), grant(slots, 8)]:
        slots.free(slot)
    assert slots.trim(3 * PAGE) == 3 * PAGE
    assert len(pages.committed) == 13
    assert slots.trim() == 13 * PAGE
    assert pages.committed == set()


def test_slots_need_neither_numpy_nor_mmap() -> None:
    script = "import sys, s3dlio.engine.memory.slots as s; print({'numpy', 'mmap', 'ctypes'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"


def test_an_address_and_a_generation_are_granted_once_across_merges_and_splits() -> None:
    slots, _ = make(8, space_pages=8)
    left, right = grant(slots, 4), grant(slots, 4)
    seen = {(left.start, left.generation)}
    for _ in range(5):
        seen.add((right.start, right.generation))
        slots.free(right)
        right = grant(slots, 4)
    seen.add((right.start, right.generation))
    slots.free(right)
    slots.free(left)
    slots.free(grant(slots, 8))
    again = {(slot.start, slot.generation) for slot in (grant(slots, 4), grant(slots, 4))}
    assert {start for start, _ in again} == {start for start, _ in seen}
    assert not again & seen
