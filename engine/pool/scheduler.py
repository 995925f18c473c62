"""The scheduler: which object goes into which slot, through which worker, and when. Pure: events in, commands out.

Rules:

* All state changes here, and in the two modules below it: `grants.py` decides who gets what, `ledger.py` keeps account. There is no
  I/O, no clock and no thread; the caller (`core.py`) serialises the calls.
* A part's number is never used twice; an event with a number that is not in flight is late, and ignored.
* An event is believed only as far as it fits: an object is READY when all its bytes are in, of one version.
* An object that a worker dies of, while it has nothing else and after others died with it too, fails. Whatever else they had comes again.
* `depth` begins small, so that the memory in use stays small and warm, and doubles when the consumer waits while a worker has run dry.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING, Final

from ..errors import (
    InternalError,
    ObjectChangedError,
    S3dlioError,
    TruncatedBodyError,
    WorkerLostError,
    rebuild_error,
)
from ..fetch.checksums import Checksum
from .grants import Grants
from .groups import GroupItem, Member
from .items import Item, ItemState, Part, Run, Worker, is_strong
from .messages import CancelPart, Event, PartFailed, PartFetched, SpaceWanted, SumFound, WorkerStarted
from .whole_sum import WholeSum

if TYPE_CHECKING:
    from ..memory.slots import Slots

_MAX_DEPTH: Final = 1 << 16
_MIN_GUESS_BYTES: Final = 4096
_DELIVERED: Final = ItemState.DELIVERED
_DROPPED: Final = ItemState.DROPPED


class Scheduler(Grants):
    """The state of one pool's work."""

    def __init__(self, slots: Slots, *, jobs: int, depth: int, part_bytes: int, split_above_bytes: int) -> None:
        """As `Grants`."""
        super().__init__(slots, jobs=jobs, depth=depth, part_bytes=part_bytes, split_above_bytes=split_above_bytes)
        self.num_delivered = 0
        """Objects; those of groups are counted like any others."""
        self.num_failed = 0
        self.num_bytes = 0
        self.num_verified = 0
        """Delivered objects whose bytes have the store's checksum."""
        self.num_fetched = 0
        """Parts that came in: whether the workers achieve anything at all."""
        self.num_deaths_explained = 0
        """Deaths of workers that are known to be the doing of objects, which have failed for it."""
        self.inspect: Callable[[Item], None] | None = None
        """Looks at an item before it is delivered, and may have it fail, or its members."""

    # The consumer's side.

    def open_run(self, is_ordered: bool, prefetch: int | None = None, takes_groups: bool = False) -> Run:
        """Begins a run.

        Args:
            is_ordered: Whether its items are delivered in the order in which they are offered.
            prefetch: The most items that may be in flight or ready together, at least 1.
            takes_groups: Whether groups may be offered.
        """
        run = Run(is_ordered, prefetch, takes_groups)
        self._runs.append(run)
        return run

    def offer(
        self,
        run: Run,
        uri: str,
        store: int,
        key: str,
        size: int | None = None,
        version: str | None = None,
        hint: int | None = None,
    ) -> None:
        """Adds the next item of a run. `hint` is how large it probably is, where nobody knows its size."""
        seq = run.num_offered
        run.num_offered = seq + 1
        run.pending.append(Item(run, seq, uri, store, key, size, version, size, hint))

    def offer_group(self, run: Run, members: list[Member], stride: int) -> None:
        """Adds the next item of a run, a group. Members may have failed already; one that is known not to fit fails now.

        Args:
            run: One that takes groups.
            members: At least one; in the order of their places.
            stride: Bytes of each place.
        """
        for member in members:
            if member.size is not None and member.size > stride:
                member.refuse_space(member.size, stride)
        room = len(members) * stride
        run.pending.append(
            GroupItem(run, run.num_offered, members[0].uri, -1, "", None, None, room, members=members, stride=stride)
        )
        run.num_offered += 1
        run.group_size = max(run.group_size, len(members))

    def offer_failed(self, run: Run, uri: str, error: S3dlioError) -> None:
        """Adds an item that failed before it could be asked for: its URI means nothing."""
        item = Item(run, run.num_offered, uri, -1, "", None, None, None, error=error)
        run.num_offered += 1
        run.num_granted += 1
        self._done(item, ItemState.FAILED)

    def num_wanted(self, run: Run) -> int:
        """Returns how many more objects the run could use now; groups as large as its largest are counted by their members."""
        if run.is_exhausted:
            return 0
        return max(0, self._limit(run) - run.num_granted - len(run.pending)) * run.group_size

    def take(self, run: Run) -> Item | None:
        """Returns the next item, READY (its slot is the caller's now) or FAILED; None if it is not there yet."""
        done = run.done
        if not done:
            return None
        item = done.pop(run.next_seq if run.is_ordered else next(iter(done)), None)
        if item is None:
            return None
        if self.inspect is not None:
            self._inspect(item)
        run.next_seq += 1
        run.num_granted -= 1
        if item.num_parts and item.error is None:
            self.num_delivered += 1
            self.num_bytes += item.nbytes
            self.num_verified += item.is_verified
        else:
            self._count(item)
        item.state = _DELIVERED
        return item

    def _inspect(self, item: Item) -> None:
        assert self.inspect is not None
        self.inspect(item)
        if item.error is not None:
            self._free_slot(item)

    def _count(self, item: Item) -> None:
        """Counts what is delivered of a group, or of an item that failed."""
        num_failed = len(item.member_errors)
        self.num_failed += num_failed
        if isinstance(item, GroupItem):
            self.num_delivered += len(item.members) - num_failed
            self.num_bytes += sum(item.sizes)
            self.num_verified += sum([member.is_verified for member in item.members])

    def take_all(self, run: Run) -> list[Item]:
        """Returns all that an unordered run without groups has ready now, as `take` does one by one."""
        items = [*run.done.values()]
        run.done.clear()
        if self.inspect is not None:
            for item in items:
                self._inspect(item)
        run.next_seq += len(items)
        run.num_granted -= len(items)
        for item in items:
            item.state = _DELIVERED
            if item.error is None:
                self.num_bytes += item.nbytes
                self.num_verified += item.is_verified
            else:
                self.num_failed += 1
                self.num_delivered -= 1
        self.num_delivered += len(items)
        return items

    def is_finished(self, run: Run) -> bool:
        """Whether everything that was offered has been taken, and no more will be offered."""
        return run.is_exhausted and run.next_seq == run.num_offered

    def close_run(self, run: Run) -> None:
        """Drops what a run has not delivered; its slots are free as soon as nobody writes them."""
        if run not in self._runs:
            return
        run.is_exhausted = True
        self._runs.remove(run)
        if self._starved is run:
            self._starved = None
        for item in (*self._placed_items(run).values(), *run.done.values()):
            self._drop(item)
        run.pending.clear()
        run.done.clear()
        run.num_granted = 0

    def deepen(self, run: Run) -> None:
        """Told that the consumer waits for `run`, which then goes before others.

        Where memory is full of objects that other runs have ready, some come again later. Where a worker has run dry while there was
        work, it should have had more.
        """
        if run.is_starved and self._starved is None:
            self._starved = run
        if self.is_stuck(run):
            self._make_way(run)
        if self.depth >= _MAX_DEPTH or not (run.pending or not run.is_exhausted):
            return
        if run.num_granted + len(self._workers) // run.group_size < self._limit_of_depth(run) or self._reserved is not None:
            return
        if any(worker.num_parts < (self._jobs + 1) // 2 for worker in self._workers.values()):
            self.depth *= 2

    def is_stuck(self, run: Run) -> bool:
        """Whether nothing is under way that could ever let `run` go on: after `deepen`, only a slot that somebody releases can."""
        if self.num_in_flight or self._unsent or self._suspects or not self._workers:
            return False
        return not run.is_next_done and bool(run.pending or run.wanting)

    def shrink_ready(self) -> int:
        """Gives back what ready objects have of room that they do not fill; returns how many bytes."""
        items = [item for run in self._runs for item in run.done.values() if item.slot is not None]
        return sum(self._slots.shrink(item.slot, item.nbytes) for item in items if item.slot is not None)

    # The workers' side.

    def load_of(self, index: int) -> int:
        """Returns how many parts lie with a worker."""
        worker = self._workers.get(index)
        return 0 if worker is None else worker.num_parts

    def worker_started(self, index: int) -> None:
        """A worker is ready for parts."""
        self._workers[index] = Worker(index)

    def worker_died(self, index: int, reason: str = "dead", spared: Container[int] = ()) -> list[str]:
        """A worker's process has ended: nothing writes for it any more, and its parts go to others, into the same places.

        Args:
            index: Of the worker.
            reason: What it died of, as `killed by SIGSEGV`.
            spared: Parts that it cannot have died of, since somebody else did its work on them.

        Returns:
            The URIs that it had begun or was to fetch.
        """
        dead = self._workers.pop(index, None)
        trial = self._trial
        if self._reserved is dead:
            self._reserved = None
        lost = [part for part in self._parts.values() if part.worker == index]
        for target in {id(part.target): part.target for part in lost if part.id not in spared}.values():
            target.num_deaths += 1
        for part in lost:
            self._end_part(part)
            item = part.item
            if part is trial and part.target.error is None and item.state is not _DROPPED:
                self._convict(part, reason)
            elif part.is_withdrawn:
                self._finish_part(item)
            elif item.slot is None:
                item.num_unfinished -= 1
                self._put_back(item)
            else:
                self._unsent.append(part)
        if any(part.target.is_suspect for part in lost):
            self._suspects += [part for part in self._unsent if part.target.is_suspect]
            self._unsent = [part for part in self._unsent if not part.target.is_suspect]
        return [part.target.uri for part in lost]

    def _convict(self, part: Part, reason: str) -> None:
        """The worker that died had nothing but this part."""
        target = part.target
        part.item.worker = part.worker
        num = target.num_deaths
        self.num_deaths_explained += num
        text = f"{num} workers died with it; the last one, worker {part.worker}, had nothing else to fetch and was {reason}"
        self._fail_part(part, WorkerLostError(text.replace("was exited", "exited"), uri=target.uri, attempts=num))
        self._finish_part(part.item)

    def handle(self, worker: int, events: Iterable[Event]) -> str | None:
        """Takes a batch of a worker's events, in order.

        Returns:
            Why the worker is to be killed: it gives up what nobody has cancelled, so it is broken, and may still write there. Its part
            ends with it. None where all is well.
        """
        parts = self._parts
        why: str | None = None
        for event in events:
            kind = type(event)
            if kind is WorkerStarted:
                continue
            part = parts.get(event.part)  # type: ignore[union-attr]
            if part is None or part.worker != worker:
                continue
            if kind is PartFetched:
                self._on_fetched(part, event)  # type: ignore[arg-type]
            elif kind is SpaceWanted:
                self._on_space_wanted(part, event)  # type: ignore[arg-type]
            elif kind is PartFailed:
                self._on_failed(part, rebuild_error(event.error))  # type: ignore[union-attr]
            elif kind is SumFound:
                self._on_sum_found(part, event)  # type: ignore[arg-type]
            elif part.is_withdrawn:
                self._end_part(part)
                self._finish_part(part.item)
            else:
                why = "it gave up a part that nobody had cancelled"
        return why

    def _on_fetched(self, part: Part, event: PartFetched) -> None:
        self._end_part(part)
        self.num_fetched += 1
        item = part.item
        item.worker = part.worker
        if event.crc is not None:
            item.sums = item.sums or []
            item.sums.append((part.start, event.received, event.crc, part.member))
        if event.elapsed_s > item.elapsed_s:
            item.elapsed_s, item.first_byte_s = event.elapsed_s, event.first_byte_s
        if item.num_parts == 1:
            item.nbytes = event.received
            item.is_verified = event.is_verified
            size, guess = event.size, self._guess_bytes
            self._guess_bytes = min(size, self._max_guess_bytes) if size > guess else max(guess - (guess >> 6), _MIN_GUESS_BYTES)
            slot = item.slot
            if event.received != size:
                self._fail(item, TruncatedBodyError(f"{event.received} of {size} bytes came", uri=item.uri))
            elif slot is None or not 0 <= size <= slot.nbytes:
                self._fail(item, InternalError(f"a worker claims {size} bytes where there is no room for them", uri=item.uri))
        elif item.num_parts:
            self._check_part(item, part, event)
        elif part.member is None:
            self._fail(item, InternalError("a worker claims to have fetched what it was only asked about", uri=item.uri))
        else:
            assert part.end is not None
            part.member.settle(event, part.end - part.start)
        item.num_unfinished -= 1
        if not item.num_unfinished:
            self._settle(item)

    def _check_part(self, item: Item, part: Part, event: PartFetched) -> None:
        """Parts of one object must be as long as they are wide, and of one version, which each of them must name."""
        assert part.end is not None
        item.nbytes += event.received
        if item.seen_version is None:
            item.seen_version = event.version
        item.has_no_version |= not is_strong(event.version)
        is_same_version = is_strong(event.version) and event.version == item.seen_version
        if not is_same_version or event.received != part.end - part.start:
            self._fail(item, ObjectChangedError("the object changed while its parts were read", uri=item.uri))
        whole = item.whole_sum
        if whole is None or event.sum is None:
            return
        whole.add(part.start, event.received, event.sum)
        if item.num_unfinished == 1 and not item.is_withdrawn and whole.is_complete(item.nbytes):
            error = whole.check(item.uri)
            item.is_verified = error is None
            if error is not None:
                self._fail(item, error)

    def _on_sum_found(self, part: Part, event: SumFound) -> None:
        """The store has answered: the object is asked for in parts, of the version that it spoke of."""
        item = part.item
        if not part.is_question:
            return
        self._end_part(part)
        item.worker = part.worker
        item.num_unfinished -= 1
        if item.is_withdrawn:
            self._settle(item)
            return
        assert item.size is not None
        version = item.version
        if event.algorithm is not None and is_strong(event.version) and version in (None, event.version):
            item.whole_sum = WholeSum(Checksum(event.algorithm, event.value))
            version = event.version
        self._add_parts(item, 0, item.size, version)
        if item.is_suspect:
            self._suspects += self._unsent[-item.num_parts :]
            del self._unsent[-item.num_parts :]

    def _on_failed(self, part: Part, error: S3dlioError) -> None:
        self._end_part(part)
        part.item.worker = part.worker
        self._fail_part(part, error)
        self._finish_part(part.item)

    def _on_space_wanted(self, part: Part, event: SpaceWanted) -> None:
        item = part.item
        if part.is_withdrawn or part.is_wanting or part.is_question:
            return  # a CancelPart or a SupplySpace is on its way to it; to a question belongs no space
        if part.member is not None or event.end < 0:
            self._refuse_space(part, event.end)
            return
        if item.is_suspect and item.num_parts == 1:
            # It would keep its worker from all others for as long as there is no room. It comes again when there is.
            item.room = event.end
            self._recall(item)
            return
        if item.num_parts > 1:
            # A part has the room for its range: the worker met another version, and reads from the beginning.
            self._fail(item, ObjectChangedError("the object changed while its parts were read", uri=item.uri))
            return
        if event.algorithm is not None:
            item.whole_sum = WholeSum(Checksum(event.algorithm, event.value))
        # The worker writes nothing before it gets the new place, so the old one is free at once.
        self._free_slot(item)
        item.room = part.end = event.end
        part.version = event.version
        part.is_wanting = True
        self.num_in_flight -= 1
        insort(item.run.wanting, part, key=lambda part: part.item.seq)

    def _refuse_space(self, part: Part, wanted: int) -> None:
        """Has the object of a part fail. The part still waits in the worker, and must end before its place is anybody's."""
        member = part.member
        if member is None:
            self._fail(part.item, InternalError(f"a worker wants room for {wanted} bytes", uri=part.item.uri))
        else:
            assert part.end is not None
            member.refuse_space(wanted, part.end - part.start)
        self._workers[part.worker].commands.append(CancelPart(part.id))
