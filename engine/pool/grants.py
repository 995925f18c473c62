"""Grants: which item gets which slot, and which worker; and what is taken back when memory is short. Pure.

Rules:

* Slots are granted in sequence order, so the head of the line can always be delivered. Where it cannot have one because later items
  of its run fill the memory, the latest of those are recalled and come again; where the objects of a run that nobody reads fill it,
  the same happens to them, but only when somebody waits and it helps. Where other runs take all that gets free, they get nothing
  until the one that somebody waits for is served: a large object would never come beside a stream of small ones.
* A part that wants more room gives its slot back first, so that no two of them can starve each other, and waits in the worker, its
  connection open. At most `jobs` wait so in one worker, and never all the parts that it may have: what is granted always moves.
* At most `depth` parts lie with a worker, and as many objects per worker are in flight or ready together, in groups a little more; the
  head of the line is never held up by that.
* What workers died with again and again is tried by one worker, one part at a time, which then has nothing else: so only what kills
  that one can be blamed, and nothing that was merely in flight beside it. Until it is empty, the worker gets nothing new. The others
  go on.
* A large object is split where connections would be idle otherwise: whole objects are faster where there are enough. Before that the
  store is asked for its checksum, where it may have one: of a range no answer tells it.
* The members of a group go to whoever has the least to do, so that all workers fill one slot. None of them is given more room than its
  place: an object that is longer fails, and the worker is told to let go of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ..errors import S3dlioError
from .groups import GroupItem
from .items import SUSPECT_DEATHS, Item, ItemState, Part, Run, Worker, is_strong
from .ledger import Ledger
from .messages import CancelPart, Command, FetchPart, FindSum, SupplySpace

if TYPE_CHECKING:
    from ..memory.slots import Slot, Slots
    from .groups import Member

_FIRST_GUESS_BYTES: Final = 128 << 10
_FIRST_OBJECTS: Final = 32
"""So many objects are in flight until a data set's first item is there. With rclone a warm first batch of 32 then took 37 ms, before 46."""
_FETCHING: Final = ItemState.FETCHING


class Grants(Ledger):
    """Decides in `drain`, and makes the commands."""

    def __init__(self, slots: Slots, *, jobs: int, depth: int, part_bytes: int, split_above_bytes: int) -> None:
        """Begins without workers and without work.

        Args:
            slots: Where objects are placed; this is its only user.
            jobs: Requests that a worker has in flight at once.
            depth: Parts that lie with a worker at first; at least `jobs`.
            part_bytes: Ranges of large objects.
            split_above_bytes: What a large object is.
        """
        super().__init__(slots)
        self.depth = depth
        self._jobs = jobs
        self._part_bytes = part_bytes
        self._split_above_bytes = split_above_bytes
        self._max_guess_bytes = min(max(_FIRST_GUESS_BYTES, slots.cap_bytes // (4 * jobs)), slots.cap_bytes)
        """One large object must not have the small ones after it fill the memory with empty room."""
        self._guess_bytes = min(_FIRST_GUESS_BYTES, slots.cap_bytes)
        """Room for an object of unknown size: the largest of late, forgotten by 1/64 per object."""
        self.summing: set[int] = set()
        """Stores that are asked for the checksums of objects."""
        self._starved: Run | None = None
        """A run whose consumer waits, and whose next object finds no room: what gets free is kept for it."""
        self._last_part = 0

    def drain(self) -> dict[int, list[Command]]:
        """Grants what can be granted and returns all commands since the last time, by worker."""
        if self._unsent:
            self._send_unsent()
        if self._suspects or self._reserved is not None:
            self._try_suspects()
        if self._starved is not None and not self._grant(self._starved):
            self._starved = None
        for run in self._runs:
            # Where nothing is in flight, nothing gets free by itself: then keeping it for one would only hold up the others.
            if self._starved is None or not self.num_in_flight:
                run.is_starved = self._grant(run)
        if len(self._runs) > 1:
            self._runs.append(self._runs.pop(0))
        if len(self._parts) > self.num_in_flight:
            self._unpark()
        if self._suspects:
            self._try_suspects()
        batches = {}
        for worker in self._workers.values():
            if worker.commands:
                batches[worker.index], worker.commands = worker.commands, []
        return batches

    def _grant(self, run: Run) -> bool:
        """Serves a run in sequence order, until memory or workers are used up; returns whether it was memory."""
        limit = self._limit(run)
        pending = run.pending
        while pending:
            item = pending[0]
            if run.wanting and run.wanting[0].item.seq < item.seq:
                if not self._supply_first(run):
                    return True
                continue
            if run.num_granted >= limit and not (run.is_ordered and item.seq == run.next_seq):
                break
            worker = self._least_loaded()
            if worker is None:
                break
            if not self._place(item):
                if self._relieve(run, item):
                    continue
                return True
            pending.popleft()
            run.num_granted += 1
            if item.error is None:
                self._send_item(item, worker)
            else:
                self._done(item, ItemState.FAILED)
        while run.wanting:
            if not self._supply_first(run):
                return True
        return False

    def _limit(self, run: Run) -> int:
        """Returns how many items of a run may be in flight or ready together."""
        limit = self._limit_of_depth(run)
        if run.is_beginning:
            # What comes first is waited for. Asked for beside many others, it would have a share of the network only.
            limit = min(limit, max(1, _FIRST_OBJECTS // run.group_size))
        return limit if run.prefetch is None else min(limit, run.prefetch)

    def _limit_of_depth(self, run: Run) -> int:
        """The same, as far as the depth counts: in groups, as many as have that many members, and one to fetch and one to be read."""
        limit = max(len(self._workers), 1) * self.depth
        return limit if run.group_size == 1 else limit // run.group_size + 2

    def _least_loaded(self) -> Worker | None:
        best, reserved = None, self._reserved
        for worker in self._workers.values():
            if (best is None or worker.num_parts < best.num_parts) and worker is not reserved:
                best = worker
        return best if best is not None and best.num_parts < self.depth else None

    # Slots.

    def _place(self, item: Item) -> bool:
        """Gives an item a slot, or its error; False if there is no room now."""
        room = item.room
        try:
            slot = self._slots.allocate(self._guess(item) if room is None else room)
            if slot is None and room is None:
                slot = self._allocate_rest(item.run)
        except S3dlioError as error:
            error.uri = item.uri
            if isinstance(item, GroupItem):
                item.fail(error)
            else:
                item.error = error
            return True
        item.slot = slot
        return slot is not None

    def _guess(self, item: Item) -> int:
        """Returns the room for an item whose size nobody knows. Beyond the cap only a try can tell."""
        hint = item.hint
        return self._guess_bytes if hint is None else min(hint, self._slots.cap_bytes)

    def _allocate_rest(self, run: Run) -> Slot | None:
        """Views may leave less than the guess, and the object may be small: when nothing else moves, only a try can tell."""
        if self.num_in_flight or run.is_next_done:
            return None
        left = self._slots.cap_bytes - self._slots.used_bytes
        return self._slots.allocate(left) if left > 0 else None

    def _supply_first(self, run: Run) -> bool:
        """Serves the first part of a run that wants room; False if that must wait."""
        part = run.wanting[0]
        item = part.item
        if not self._place(item):
            return self._relieve(run, item)
        del run.wanting[0]
        part.is_wanting = False
        self.num_in_flight += 1
        slot = item.slot
        if slot is None:
            # There will never be room. The part still waits in the worker, and must end before the item has failed.
            self._workers[part.worker].commands.append(CancelPart(part.id))
            return True
        end = part.end
        assert end is not None
        if is_strong(part.version) and self._may_split(end, item):
            part.end = min(self._part_bytes, end)
            self._add_parts(item, part.end, end, part.version)
        # No more room than it may write: the rest of the slot is for other parts, perhaps in other workers.
        room = part.end if item.num_parts > 1 else slot.nbytes
        self._workers[part.worker].commands.append(SupplySpace(part.id, slot.start, room or 0, part.end or 0))
        self._send_unsent()
        return True

    def _relieve(self, run: Run, starved: Item) -> bool:
        """Recalls the latest items of an ordered run whose head of the line finds no room: none of them can be delivered before it.

        Returns:
            Whether room has come of that at once. Items in flight give theirs back when their parts have ended.
        """
        if not run.is_ordered or starved.seq != run.next_seq:
            return False
        items = self._placed_items(run)
        missing = self._missing_bytes(starved)
        has_freed = False
        for item in _latest_first((*items.values(), *run.done.values())):
            if missing <= 0:
                break
            assert item.slot is not None
            missing -= item.slot.nbytes
            if not item.is_withdrawn:
                self._recall(item)
                has_freed = has_freed or item.slot is None
        return has_freed

    def _make_way(self, run: Run) -> None:
        """Recalls ready objects of other runs for one whose consumer waits, if that gives room enough, and grants that at once."""
        waiting = [*(part.item for part in run.wanting[:1]), *([run.pending[0]] if run.pending else [])]
        first = min(waiting, key=lambda item: item.seq)
        missing = self._missing_bytes(first)
        enough = []
        for item in _latest_first(item for other in self._runs if other is not run for item in other.done.values()):
            if missing <= 0:
                break
            assert item.slot is not None
            missing -= item.slot.nbytes
            enough.append(item)
        # Of an object of unknown size nobody can say what is enough.
        if missing <= 0 or first.room is None:
            for item in enough:
                self._recall(item)
            self._grant(run)

    def _missing_bytes(self, starved: Item) -> int:
        """Returns how much more must be free before `starved` can have its slot."""
        cap = self._slots.cap_bytes
        room = starved.room if starved.room is not None else self._guess(starved)
        return max(1, room) - (cap - self._slots.used_bytes)

    def _unpark(self) -> None:
        """Recalls the latest parts that want room where too many of them lie with one worker."""
        num_kept = min(self._jobs, self.depth - 1)
        wanting: dict[int, list[Part]] = {}
        for run in self._runs:
            for part in run.wanting:
                wanting.setdefault(part.worker, []).append(part)
        for parts in wanting.values():
            for part in sorted(parts, key=lambda part: part.item.seq)[num_kept:]:
                self._recall(part.item)

    # Parts.

    def _send_item(self, item: Item, worker: Worker) -> None:
        item.state = _FETCHING
        if type(item) is GroupItem:
            self._send_group(item)
            return
        item.num_parts = item.num_unfinished = 1
        size = item.size
        part = Part(item, 0, size, item.version)
        if item.num_deaths >= SUSPECT_DEATHS:
            self._suspects.append(part)
            return
        if size is not None and size > self._split_above_bytes and self._may_split(size, item):
            if item.store in self.summing and size > self._part_bytes:
                item.num_parts = 0
            else:
                part.end = min(self._part_bytes, size)
                self._add_parts(item, part.end, size, item.version)
        self._send(part, worker)
        if item.num_parts > 1:
            self._send_unsent()

    def _send_group(self, item: GroupItem) -> None:
        parts = item.begin()
        item.num_unfinished += len(parts)
        if item.has_suspects:
            self._suspects += [part for part in parts if part.target.is_suspect]
            parts = [part for part in parts if not part.target.is_suspect]
        self._unsent += parts
        if item.num_unfinished:
            self._send_unsent()
        else:
            self._settle(item)

    def _try_suspects(self) -> None:
        """Sends the first suspect to the worker with the least to do, as soon as that one has nothing else."""
        if self._trial is not None:
            return
        if not self._suspects:
            self._reserved = None
            return
        worker = self._reserved = min(self._workers.values(), key=lambda worker: worker.num_parts, default=None)
        if worker is None:
            return
        if worker.num_parts == 0:
            part = self._trial = self._suspects.pop(0)
            self._send(part, worker)
            return
        # What it does ends by itself, but what waits for room may wait for long, perhaps for the suspect.
        for item in [part.item for run in self._runs for part in run.wanting if part.worker == worker.index]:
            self._recall(item)

    def _may_split(self, size: int, item: Item) -> bool:
        """Whether an object is large, connections would be idle otherwise, and its parts can be told to be of one version."""
        if size <= self._split_above_bytes or item.has_no_version or item.is_suspect:
            return False
        if item.version is not None and not is_strong(item.version):
            return False
        return self.num_in_flight + len(item.run.pending) < len(self._workers) * self._jobs

    def _add_parts(self, item: Item, begin: int, end: int, version: str | None) -> None:
        for start in range(begin, end, self._part_bytes):
            self._unsent.append(Part(item, start, min(start + self._part_bytes, end), version))
            item.num_parts += 1
            item.num_unfinished += 1

    def _send_unsent(self) -> None:
        unsent = self._unsent
        workers = self._choose(len(unsent))
        self._unsent = unsent[len(workers) :]
        for part, worker in zip(unsent, workers, strict=False):
            if part.member is None:
                self._send(part, worker)
            else:
                self._send_member(part, part.member, worker)

    def _choose(self, num: int) -> list[Worker]:
        """Returns who gets the next `num` parts, or as many as may be sent: whoever has the least to do by then, as `_least_loaded`."""
        workers = [worker for worker in self._workers.values() if worker is not self._reserved]
        loads = [worker.num_parts for worker in workers]
        chosen: list[Worker] = []
        while len(chosen) < num and (least := min(loads, default=self.depth)) < self.depth:
            lowest = [worker for worker, load in zip(workers, loads, strict=True) if load == least]
            above = min([load for load in loads if load > least], default=self.depth)
            # They take turns until they have as many as the next one.
            chosen += lowest * min(above - least, -((len(chosen) - num) // len(lowest)))
            loads = [max(load, above) for load in loads]
        return chosen[:num]

    def _send(self, part: Part, worker: Worker) -> None:
        if part.member is not None:
            self._send_member(part, part.member, worker)
            return
        item = part.item
        slot = item.slot
        assert slot is not None
        self._last_part = part.id = number = self._last_part + 1
        part.worker = worker.index
        self._parts[number] = part
        worker.num_parts += 1
        self.num_in_flight += 1
        command: Command
        if item.num_parts == 1:
            # A plain GET, without a Range header. Nothing of the object is in yet, so only the caller's own version counts.
            command = FetchPart(number, item.store, item.key, 0, None, item.size, item.version, slot.start, slot.nbytes)
        elif part.is_question:
            command = FindSum(number, item.store, item.key)
        else:
            start, end = part.start, part.end
            assert end is not None
            algorithm = None if item.whole_sum is None else item.whole_sum.expected.algorithm
            offset, room = slot.start + start, end - start
            command = FetchPart(
                number, item.store, item.key, start, end, item.size, part.version, offset, room, algorithm=algorithm
            )
        worker.commands.append(command)

    def _send_member(self, part: Part, member: Member, worker: Worker) -> None:
        """As `_send`, in fewer steps: there is one for each sample of a batch."""
        slot, start, end = part.item.slot, part.start, part.end
        assert slot is not None
        assert end is not None
        self._last_part = part.id = number = self._last_part + 1
        part.worker = worker.index
        self._parts[number] = part
        worker.num_parts += 1
        self.num_in_flight += 1
        place, group = slot.start + start, slot.start
        worker.commands.append(
            FetchPart(number, member.store, member.key, 0, None, member.size, member.version, place, end - start, group)
        )


def _latest_first(items: Iterable[Item]) -> list[Item]:
    """Returns the items that have a slot, the last to be delivered first."""
    return sorted((item for item in items if item.slot is not None), key=lambda item: -item.seq)
