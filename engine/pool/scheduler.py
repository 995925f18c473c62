"""The scheduler: which object goes into which slot, through which worker, and when. Pure: events in, commands out.

Rules:

* All state changes here. There is no I/O, no clock and no thread; the caller (`pool.py`) serialises the calls.
* An object is granted a slot in sequence order, so the head of the line can always be delivered. Where it cannot have one because later
  items fill the memory, the latest of those are recalled and come again.
* A slot is written by nobody once its item has no unfinished part: an event of the part itself, or the death of its worker, ends a
  part, and nothing else does. Only then is the slot delivered, freed or given to another part.
* A part's number is never used twice; an event with a number that is not in flight is late, and ignored.
* At most `depth` parts lie with a worker, and as many items per worker are in flight or ready together. It begins small, so that the
  memory in use stays small and warm, and doubles when the consumer waits while a worker has run dry.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ..errors import InternalError, ObjectChangedError, S3dlioError, rebuild_error
from .items import Item, ItemState, Part, Run, Worker
from .messages import (
    CancelPart,
    Command,
    Event,
    FetchPart,
    PartCancelled,
    PartFailed,
    PartFetched,
    SpaceWanted,
    SupplySpace,
)

if TYPE_CHECKING:
    from ..memory.slots import Slots

_FIRST_GUESS_BYTES: Final = 128 << 10
_MAX_DEPTH: Final = 1 << 16


class Scheduler:
    """The state of one pool's work."""

    def __init__(
        self, slots: Slots, *, jobs: int, depth: int, part_bytes: int, split_above_bytes: int
    ) -> None:
        """Begins without workers and without work.

        Args:
            slots: Where objects are placed; this is its only user.
            jobs: Requests that a worker has in flight at once.
            depth: Parts that lie with a worker at first.
            part_bytes: Ranges of large objects.
            split_above_bytes: What a large object is.
        """
        self.depth = depth
        self.num_in_flight = 0
        """Parts with workers, those that want room apart."""
        self.num_delivered = 0
        self.num_failed = 0
        self.num_bytes = 0
        self._slots = slots
        self._jobs = jobs
        self._part_bytes = part_bytes
        self._split_above_bytes = split_above_bytes
        self._guess_bytes = _FIRST_GUESS_BYTES
        """Room for an object of unknown size: the largest of late, forgotten by 1/64 per object."""
        self._runs: list[Run] = []
        self._workers: dict[int, Worker] = {}
        self._parts: dict[int, Part] = {}
        """All parts with workers, by number."""
        self._unsent: list[Part] = []
        """Parts that have a place but no worker."""
        self._last_part = 0
        self._commands: dict[int, list[Command]] = {}

    # The consumer's side.

    def open_run(self, is_ordered: bool) -> Run:
        """Begins a run."""
        run = Run(is_ordered)
        self._runs.append(run)
        return run

    def offer(self, run: Run, uri: str, store: int, key: str, size: int | None = None, version: str | None = None) -> None:
        """Adds the next item of a run."""
        run.pending.append(Item(run, run.num_offered, uri, store, key, size, version))
        run.num_offered += 1

    def offer_failed(self, run: Run, uri: str, error: S3dlioError) -> None:
        """Adds an item that failed before it could be asked for: its URI means nothing."""
        item = Item(run, run.num_offered, uri, -1, "", None, None)
        item.error = error
        run.num_offered += 1
        run.num_granted += 1
        self._done(item, ItemState.FAILED)

    def num_wanted(self, run: Run) -> int:
        """Returns how many more items the run could use now."""
        if run.is_exhausted:
            return 0
        return max(len(self._workers), 1) * self.depth - run.num_granted - len(run.pending)

    def take(self, run: Run) -> Item | None:
        """Returns the next item, READY (its slot is the caller's now) or FAILED; None if it is not there yet."""
        done = run.done
        seq = run.next_seq if run.is_ordered else next(iter(done), -1)
        item = done.pop(seq, None)
        if item is None:
            return None
        run.next_seq += 1
        run.num_granted -= 1
        if item.error is None:
            self.num_delivered += 1
            self.num_bytes += item.nbytes
        else:
            self.num_failed += 1
        item.state = ItemState.DELIVERED
        return item

    def is_finished(self, run: Run) -> bool:
        """Whether everything that was offered has been taken, and no more will be offered."""
        return run.is_exhausted and run.next_seq == run.num_offered

    def close_run(self, run: Run) -> None:
        """Drops what a run has not delivered; its slots are free as soon as nobody writes them."""
        if run.is_closed:
            return
        run.is_closed = run.is_exhausted = True
        self._runs.remove(run)
        items = {id(item): item for item in [*run.pending, *run.done.values()]}
        items.update((id(part.item), part.item) for part in [*self._parts.values(), *self._unsent] if part.item.run is run)
        for item in items.values():
            item.state = ItemState.DROPPED
            self._withdraw(item)
        run.pending.clear()
        run.done.clear()
        run.wanting.clear()
        run.num_granted = 0

    def deepen(self, run: Run) -> None:
        """Told that the consumer waits for `run`: a worker that has run dry while there was work should have had more."""
        if self.depth >= _MAX_DEPTH or not (run.pending or not run.is_exhausted):
            return
        if run.num_granted + len(self._workers) < len(self._workers) * self.depth:
            return
        if any(worker.num_parts < (self._jobs + 1) // 2 for worker in self._workers.values()):
            self.depth *= 2

    def is_stuck(self, run: Run) -> bool:
        """Whether nothing is under way that could ever let `run` go on: only a slot that somebody releases can."""
        return not run.done and bool(run.pending or run.wanting) and self.num_in_flight == 0 and not self._unsent and bool(self._workers)

    # The workers' side.

    def load_of(self, index: int) -> int:
        """Returns how many parts lie with a worker."""
        worker = self._workers.get(index)
        return 0 if worker is None else worker.num_parts

    def worker_started(self, index: int) -> None:
        """A worker is ready for parts."""
        self._workers[index] = Worker(index)

    def worker_died(self, index: int) -> list[str]:
        """A worker's process has ended: nothing writes for it any more, and its parts go to others, into the same places.

        Returns:
            The URIs that it had begun or was to fetch.
        """
        self._workers.pop(index, None)
        self._commands.pop(index, None)
        lost = [part for part in self._parts.values() if part.worker == index]
        for part in lost:
            self._end_part(part)
            item = part.item
            if part.is_wanting:
                item.run.wanting = [other for other in item.run.wanting if other is not part]
                part.is_wanting = False
            if item.state is not ItemState.FETCHING or item.error is not None or item.is_recalled:
                self._finish_part(item)
            elif item.slot is None:
                item.num_unfinished -= 1
                self._put_back(item)
            else:
                self._unsent.append(part)
        return [part.item.uri for part in lost]

    def handle(self, worker: int, events: Iterable[Event]) -> None:
        """Takes a batch of a worker's events, in order."""
        for event in events:
            part = self._parts.get(getattr(event, "part", -1))
            if part is None or part.worker != worker:
                continue
            kind = type(event)
            if kind is PartFetched:
                self._on_fetched(part, event)  # type: ignore[arg-type]
            elif kind is SpaceWanted:
                self._on_space_wanted(part, event)  # type: ignore[arg-type]
            elif kind is PartFailed:
                self._on_failed(part, rebuild_error(event.error))  # type: ignore[union-attr]
            elif kind is PartCancelled:
                self._end_part(part)
                self._finish_part(part.item)

    def drain(self) -> dict[int, list[Command]]:
        """Grants what can be granted and returns all commands since the last time, by worker."""
        if self._unsent:
            self._send_unsent()
        for run in self._runs:
            self._grant(run)
        if len(self._runs) > 1:
            self._runs.append(self._runs.pop(0))
        commands, self._commands = self._commands, {}
        return commands

    # Events.

    def _on_fetched(self, part: Part, event: PartFetched) -> None:
        self._end_part(part)
        item = part.item
        item.nbytes += event.received
        item.worker = part.worker
        item.elapsed_s = max(item.elapsed_s, event.elapsed_s)
        if item.num_parts == 1:
            guess = self._guess_bytes
            self._guess_bytes = event.size if event.size > guess else max(guess - (guess >> 6), event.size, 4096)
            item.version = event.version
        elif item.error is None:
            self._check_same_version(item, event)
        self._finish_part(item)

    def _check_same_version(self, item: Item, event: PartFetched) -> None:
        """Parts of one object must be of one version, also where nobody pinned it."""
        if item.version is None:
            item.version = event.version
        elif event.version is not None and event.version != item.version:
            self._fail(item, ObjectChangedError("the object changed while its parts were read", uri=item.uri))

    def _on_failed(self, part: Part, error: S3dlioError) -> None:
        self._end_part(part)
        part.item.worker = part.worker
        if part.item.error is None:
            self._fail(part.item, error)
        self._finish_part(part.item)

    def _fail(self, item: Item, error: S3dlioError) -> None:
        item.error = error
        self._withdraw(item)

    def _on_space_wanted(self, part: Part, event: SpaceWanted) -> None:
        item = part.item
        if item.state is not ItemState.FETCHING or item.error is not None or item.is_recalled:
            return  # a CancelPart is on its way to it
        if item.num_parts != 1:
            self._fail(item, InternalError(f"a part of a split object asked for {event.end} bytes", uri=item.uri))
            return
        # The worker writes nothing before it gets the new place, so the old one is free at once: no two wants can starve each other.
        self._free_slot(item)
        item.room = event.end
        part.end = event.end
        part.version = event.version
        part.is_wanting = True
        self.num_in_flight -= 1
        item.run.wanting.append(part)

    def _end_part(self, part: Part) -> None:
        """Takes a part out of flight: from here on nobody writes for it."""
        del self._parts[part.id]
        worker = self._workers.get(part.worker)
        if worker is not None:
            worker.num_parts -= 1
        if not part.is_wanting:
            self.num_in_flight -= 1

    def _finish_part(self, item: Item) -> None:
        """Counts a part as over; the last one settles the item."""
        item.num_unfinished -= 1
        if item.num_unfinished == 0:
            self._settle(item)

    def _settle(self, item: Item) -> None:
        """No part is unfinished: the item is ready, failed, comes again, or is gone."""
        if item.state is ItemState.DROPPED:
            self._free_slot(item)
        elif item.error is not None:
            self._free_slot(item)
            if isinstance(item.error, ObjectChangedError) and item.num_parts > 1 and item.size is None and not item.was_restarted:
                item.was_restarted = True
                self._put_back(item)
            else:
                self._done(item, ItemState.FAILED)
        elif item.is_recalled:
            self._free_slot(item)
            self._put_back(item)
        else:
            self._done(item, ItemState.READY)

    def _done(self, item: Item, state: ItemState) -> None:
        item.state = state
        item.run.done[item.seq] = item

    def _put_back(self, item: Item) -> None:
        """Makes an item pending again, at its place in the line."""
        run = item.run
        if item.was_restarted and item.error is not None:
            item.room = item.size
            item.version = None
        item.state = ItemState.PENDING
        item.error = None
        item.is_recalled = False
        item.nbytes = 0
        run.num_granted -= 1
        position = next((i for i, other in enumerate(run.pending) if other.seq > item.seq), len(run.pending))
        run.pending.insert(position, item)

    def _withdraw(self, item: Item) -> None:
        """Cancels all parts of an item; those that nobody has are over at once."""
        for part in [part for part in self._unsent if part.item is item]:
            self._unsent.remove(part)
            item.num_unfinished -= 1
        if item.num_unfinished:
            for part in self._parts.values():
                if part.item is item:
                    self._command(part.worker, CancelPart(part.id))
                    if part.is_wanting:
                        part.is_wanting = False
                        self.num_in_flight += 1
                        item.run.wanting = [other for other in item.run.wanting if other is not part]
        elif item.state is ItemState.DROPPED:
            self._free_slot(item)

    def _free_slot(self, item: Item) -> None:
        if item.slot is not None:
            self._slots.free(item.slot)
            item.slot = None

    # Grants.

    def _grant(self, run: Run) -> None:
        if run.wanting:
            run.wanting.sort(key=lambda part: part.item.seq)
            while run.wanting:
                if not self._supply(run.wanting[0]):
                    self._relieve(run, run.wanting[0].item)
                    return
                del run.wanting[0]
        limit = len(self._workers) * self.depth
        pending = run.pending
        while pending and run.num_granted < limit:
            worker = self._least_loaded()
            if worker is None:
                return
            item = pending[0]
            if not self._place(item):
                self._relieve(run, item)
                return
            pending.popleft()
            run.num_granted += 1
            if item.state is ItemState.FETCHING:
                self._send_item(item, worker)

    def _least_loaded(self) -> Worker | None:
        best = None
        for worker in self._workers.values():
            if best is None or worker.num_parts < best.num_parts:
                best = worker
        return best if best is not None and best.num_parts < self.depth else None

    def _place(self, item: Item) -> bool:
        """Gives an item a slot, or its error; False if there is no room now."""
        room = item.room
        try:
            if room is None:
                room = min(self._guess_bytes, self._slots.cap_bytes)
            slot = self._slots.allocate(room)
        except S3dlioError as error:
            error.uri = item.uri
            item.error = error
            self._done(item, ItemState.FAILED)
            return True
        if slot is None:
            return False
        item.slot = slot
        item.state = ItemState.FETCHING
        return True

    def _supply(self, part: Part) -> bool:
        """Gives a part that wants it a slot, or fails its item; False if there is no room now."""
        item = part.item
        if not self._place(item):
            return False
        part.is_wanting = False
        self.num_in_flight += 1
        if item.slot is None:
            # `_place` has declared the item failed, but its part still waits in the worker: first that must end.
            del item.run.done[item.seq]
            item.state = ItemState.FETCHING
            self._command(part.worker, CancelPart(part.id))
            return True
        end = part.end
        assert end is not None
        if self._is_worth_splitting(end, len(item.run.pending)):
            part.end = self._part_bytes
            self._add_parts(item, part.end, end, part.version)
        self._command(part.worker, SupplySpace(part.id, item.slot.start, item.slot.nbytes, part.end or 0))
        return True

    def _send_item(self, item: Item, worker: Worker) -> None:
        item.num_parts = item.num_unfinished = 1
        size = item.size
        part = Part(item, 0, size, item.version)
        if size is not None and self._is_worth_splitting(size, len(item.run.pending)):
            part.end = self._part_bytes
            self._add_parts(item, part.end, size, item.version)
        self._send(part, worker)

    def _is_worth_splitting(self, size: int, num_pending: int) -> bool:
        """Whether an object is large, and connections would be idle otherwise: whole objects are faster where there are enough."""
        if size <= self._split_above_bytes:
            return False
        return self.num_in_flight + num_pending < len(self._workers) * self._jobs

    def _add_parts(self, item: Item, begin: int, end: int, version: str | None) -> None:
        for start in range(begin, end, self._part_bytes):
            self._unsent.append(Part(item, start, min(start + self._part_bytes, end), version))
            item.num_parts += 1
            item.num_unfinished += 1

    def _send_unsent(self) -> None:
        unsent, self._unsent = self._unsent, []
        for position, part in enumerate(unsent):
            worker = self._least_loaded()
            if worker is None:
                self._unsent.extend(unsent[position:])
                return
            self._send(part, worker)

    def _send(self, part: Part, worker: Worker) -> None:
        item = part.item
        slot = item.slot
        assert slot is not None
        self._last_part += 1
        part.id = self._last_part
        part.worker = worker.index
        self._parts[part.id] = part
        worker.num_parts += 1
        self.num_in_flight += 1
        if item.num_parts == 1:
            # The end is left open where the item is one part: a plain GET, without a Range header.
            command = FetchPart(part.id, item.store, item.key, 0, None, item.size, part.version, slot.start, slot.nbytes)
        else:
            assert part.end is not None
            room = part.end - part.start
            command = FetchPart(
                part.id, item.store, item.key, part.start, part.end, item.size, part.version, slot.start + part.start, room
            )
        self._command(worker.index, command)

    def _command(self, worker: int, command: Command) -> None:
        if worker in self._workers:
            self._commands.setdefault(worker, []).append(command)

    def _relieve(self, run: Run, starved: Item) -> None:
        """Recalls the latest items of an ordered run whose head of the line finds no room: none of them can be delivered before it."""
        if not run.is_ordered or starved.seq != run.next_seq:
            return
        later = {part.item.seq: part.item for part in [*self._parts.values(), *self._unsent] if part.item.run is run}
        later.update((seq, item) for seq, item in run.done.items())
        holders = sorted((item for item in later.values() if item.slot is not None), key=lambda item: -item.seq)
        missing = starved.room if starved.room is not None else self._guess_bytes
        for item in holders:
            if missing <= 0:
                return
            assert item.slot is not None
            missing -= item.slot.nbytes
            if not item.is_recalled:
                self._recall(item)

    def _recall(self, item: Item) -> None:
        item.is_recalled = True
        if item.state is ItemState.READY:
            del item.run.done[item.seq]
            self._settle(item)
            return
        self._withdraw(item)
        if item.num_unfinished == 0:
            self._settle(item)

    # Conservation laws, for tests.

    def validate(self) -> None:
        """Checks what must always hold.

        Raises:
            AssertionError: It does not.
        """
        loads = dict.fromkeys(self._workers, 0)
        for number, part in self._parts.items():
            assert number == part.id
            assert part.worker in loads, "a part lies with a dead worker"
            loads[part.worker] += 1
            assert part.item.num_unfinished > 0
            assert (part.item.slot is None) == part.is_wanting or part.item.state is ItemState.DROPPED or part.item.error is not None
        for index, worker in self._workers.items():
            assert worker.num_parts == loads[index] <= max(self.depth, 1)
        assert self.num_in_flight == sum(not part.is_wanting for part in self._parts.values())
        for run in self._runs:
            self._validate_run(run)

    def _validate_run(self, run: Run) -> None:
        flying = {part.item.seq for part in [*self._parts.values(), *self._unsent] if part.item.run is run}
        pending = [item.seq for item in run.pending]
        assert pending == sorted(set(pending)), "pending items out of order"
        groups = [flying, set(pending), set(run.done)]
        assert sum(map(len, groups)) == len(set().union(*groups)), "an item is in two places"
        assert run.num_granted == len(flying) + len(run.done)
        undelivered = run.num_offered - run.next_seq
        assert undelivered == sum(map(len, groups)), "an item was lost or doubled"
        if run.is_ordered:
            assert set().union(*groups) == set(range(run.next_seq, run.num_offered))
