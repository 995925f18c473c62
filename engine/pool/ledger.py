"""The ledger: what is where, and what becomes of an item when its parts end. Pure.

Rules:

* A slot is written by nobody once its item has no unfinished part: an event of the part itself, or the death of its worker, ends a
  part, and nothing else does. Only then is the slot delivered, freed or given to another part.
* An item that is withdrawn (dropped, failed, recalled) is cancelled once; it settles when the last of its parts has ended.
* One part of a suspect is tried at a time, and the worker that tries it has nothing else: if that worker dies, it is known of what.
* `validate` checks the conservation laws. They hold between any two calls of the scheduler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import ChecksumMismatchError, ObjectChangedError, S3dlioError
from ..fetch.delayed import MAX_MISMATCHES
from .groups import validate_groups
from .items import Item, ItemState, Part, Run, Worker
from .messages import CancelPart

if TYPE_CHECKING:
    from ..memory.slots import Slots

# An attribute of an enum costs as much as a call, and these are read several times per object.
_FETCHING: Final = ItemState.FETCHING
_READY: Final = ItemState.READY
_FAILED: Final = ItemState.FAILED
_DROPPED: Final = ItemState.DROPPED


class Ledger:
    """Runs, workers, parts and slots of one pool, and the ends of parts and items."""

    def __init__(self, slots: Slots) -> None:
        """Begins without workers and without work.

        Args:
            slots: Where objects are placed; this is its only user.
        """
        self.num_in_flight = 0
        """Parts with workers, those that want room apart."""
        self._slots = slots
        self._runs: list[Run] = []
        self._workers: dict[int, Worker] = {}
        self._parts: dict[int, Part] = {}
        """All parts with workers, by number."""
        self._unsent: list[Part] = []
        """Parts that have a place but no worker."""
        self._suspects: list[Part] = []
        """Those of suspects, in the order in which they are tried."""
        self._trial: Part | None = None
        """The one that is being tried."""
        self._reserved: Worker | None = None
        """Who tries it, or will as soon as nothing else lies with it; it gets nothing new."""

    @property
    def has_commands(self) -> bool:
        """Whether `drain` has something to send, whatever it grants."""
        return any(worker.commands for worker in self._workers.values())

    @property
    def num_ready(self) -> int:
        """Items that lie ready and were not taken yet."""
        return sum(len(run.done) for run in self._runs)

    def _end_part(self, part: Part) -> None:
        """Takes a part out of flight: from here on nobody writes for it."""
        del self._parts[part.id]
        if part is self._trial:
            self._trial = None
        worker = self._workers.get(part.worker)
        if worker is not None:
            worker.num_parts -= 1
        if part.is_wanting:
            part.is_wanting = False
            part.item.run.wanting.remove(part)
        else:
            self.num_in_flight -= 1

    def _finish_part(self, item: Item) -> None:
        """Counts a part as over; the last one settles the item."""
        item.num_unfinished -= 1
        if item.num_unfinished == 0:
            self._settle(item)

    def _settle(self, item: Item) -> None:
        """No part is unfinished: the item is ready, failed, comes again, or is gone."""
        if item.state is _FETCHING and item.error is None and not item.is_recalled:
            item.state = _READY
            item.run.done[item.seq] = item
            return
        self._free_slot(item)
        if item.state is _DROPPED:
            return
        if item.error is None or _may_begin_again(item):
            self._put_back(item)
        else:
            self._done(item, _FAILED)

    def _done(self, item: Item, state: ItemState) -> None:
        item.state = state
        item.run.done[item.seq] = item

    def _put_back(self, item: Item) -> None:
        """Makes an item pending again, at its place in the line. What is known of its size stays as a hint, its version does not."""
        run = item.run
        item.state = ItemState.PENDING
        item.error = None
        item.is_recalled = False
        item.nbytes = 0
        item.seen_version = None
        item.sums = item.whole_sum = None
        run.num_granted -= 1
        position = next((i for i, other in enumerate(run.pending) if other.seq > item.seq), len(run.pending))
        run.pending.insert(position, item)

    def _fail(self, item: Item, error: S3dlioError) -> None:
        """Withdraws an item because of `error`; the first error counts."""
        if item.error is None:
            was_withdrawn = item.is_withdrawn
            item.error = error
            if item.num_parts > 1 and not was_withdrawn:
                self._withdraw(item)

    def _fail_part(self, part: Part, error: S3dlioError) -> None:
        """Has the object of a part fail: the item, or a member of it; the first error counts."""
        if part.member is None:
            self._fail(part.item, error)
        else:
            part.member.fail(error)

    def _withdraw(self, item: Item) -> None:
        """Cancels all parts of an item; those that nobody has are over at once."""
        for queue in (self._unsent, self._suspects):
            for part in [part for part in queue if part.item is item]:
                queue.remove(part)
                item.num_unfinished -= 1
        for part in self._parts.values() if item.num_unfinished else ():
            if part.item is item:
                self._workers[part.worker].commands.append(CancelPart(part.id))
                if part.is_wanting:
                    part.is_wanting = False
                    self.num_in_flight += 1
                    item.run.wanting.remove(part)

    def _drop(self, item: Item) -> None:
        """Forgets an item whose run is closed; its slot is free as soon as nobody writes it."""
        was_withdrawn = item.is_withdrawn
        item.state = _DROPPED
        if not was_withdrawn:
            self._withdraw(item)
        if item.num_unfinished == 0:
            self._free_slot(item)

    def _recall(self, item: Item) -> None:
        """Takes the slot of an item back, for an item in front; it comes again."""
        item.is_recalled = True
        if item.state is _READY:
            del item.run.done[item.seq]
        else:
            self._withdraw(item)
        if item.num_unfinished == 0:
            self._settle(item)

    def _free_slot(self, item: Item) -> None:
        if item.slot is not None:
            self._slots.free(item.slot)
            item.slot = None

    def _placed_items(self, run: Run) -> dict[int, Item]:
        """Returns the items of a run that have unfinished parts, by number."""
        parts = (*self._parts.values(), *self._unsent, *self._suspects)
        return {part.item.seq: part.item for part in parts if part.item.run is run}

    def validate(self) -> None:
        """Checks what must always hold; for tests, since it visits everything.

        Raises:
            AssertionError: It does not.
        """
        loads = dict.fromkeys(self._workers, 0)
        for number, part in self._parts.items():
            assert number == part.id
            assert part.worker in loads, "a part lies with a dead worker"
            loads[part.worker] += 1
            assert part.item.num_unfinished > 0
            assert not part.is_wanting or part in part.item.run.wanting
            assert part.item.slot is not None or part.is_wanting or part.item.is_withdrawn, "a part has no place"
        assert loads == {index: worker.num_parts for index, worker in self._workers.items()}
        assert self.num_in_flight == sum(not part.is_wanting for part in self._parts.values())
        for run in self._runs:
            self._validate_run(run)
        self._validate_trial()

    def _validate_trial(self) -> None:
        trial, reserved = self._trial, self._reserved
        assert reserved is None or self._workers.get(reserved.index) is reserved, "a dead worker is to try a suspect"
        assert all(part.target.is_suspect and not part.is_withdrawn and part.item.slot is not None for part in self._suspects)
        assert not any(part.target.is_suspect for part in self._unsent), "a suspect would go among others"
        if trial is not None:
            assert self._parts.get(trial.id) is trial
            assert reserved is not None, "a suspect is tried by nobody"
            assert (reserved.index, reserved.num_parts) == (trial.worker, 1), "a suspect is not alone"

    def _validate_run(self, run: Run) -> None:
        parts = [part for part in (*self._parts.values(), *self._unsent, *self._suspects) if part.item.run is run]
        flying = [part.item for part in parts]
        assert all(item.num_unfinished == flying.count(item) for item in flying), "a part was lost or doubled"
        validate_groups([*flying, *run.pending, *run.done.values()], parts)
        pending = [item.seq for item in run.pending]
        assert pending == sorted(set(pending)), "pending items out of order"
        groups = [{item.seq for item in flying}, set(pending), set(run.done)]
        places = [*groups[0], *groups[1], *groups[2]]
        assert len(places) == len(set(places)), "an item is in two places"
        assert len(places) == run.num_offered - run.next_seq, "an item was lost or doubled"
        assert run.num_granted == len(groups[0]) + len(groups[2])
        assert all(part.is_wanting and self._parts[part.id] is part for part in run.wanting)
        assert not run.is_ordered or set(places) == set(range(run.next_seq, run.num_offered))


def _may_begin_again(item: Item) -> bool:
    """Whether a read in parts starts over, and notes that it does.

    Where it met a change: once, if the caller asked for no version in particular, or the store, an emulator, names none that could be
    compared. Where its bytes have not the object's checksum: as often as an object is tried that comes at once.
    """
    if item.num_parts <= 1:
        return False
    if isinstance(item.error, ChecksumMismatchError):
        item.num_mismatches += 1
        return item.num_mismatches < MAX_MISMATCHES
    may = isinstance(item.error, ObjectChangedError) and (item.version is None or item.has_no_version) and not item.was_restarted
    item.was_restarted |= may
    return may
