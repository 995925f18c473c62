"""The scheduler under any sequence of events, against model workers that write into model memory.

What is checked is what a consumer would see: every object once, in order, of one version, with its own bytes, which stay as they are
for as long as it holds them; memory under the cap; no two writers in one place; and an end, whatever happened before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from s3dlio.engine.errors import (
    InvalidUriError,
    NotFoundError,
    ObjectChangedError,
    ObjectTooLargeError,
    S3dlioError,
    ServerError,
    TruncatedBodyError,
)
from s3dlio.engine.memory.slots import Slot, Slots
from s3dlio.engine.pool.items import Item, ItemState, Run
from s3dlio.engine.pool.messages import FetchPart, PartCancelled, PartFailed, PartFetched, SpaceWanted
from s3dlio.engine.pool.scheduler import Scheduler
from tests.support.worker_model import PAGE, ModelMemory, ModelObject, ModelWorker, Request

# The scheduler's first guess for an object of unknown size is 32 pages: some are smaller, some larger, some larger than the cap.
SPLIT_ABOVE_BYTES = 24 * PAGE
KEYS = [f"key{i}" for i in range(6)]
FAULTS = [TruncatedBodyError, ServerError]
sizes = st.one_of(
    st.integers(0, 8 * PAGE), st.integers(33 * PAGE, 70 * PAGE), st.sampled_from([0, 1, 16 * PAGE, 24 * PAGE, 32 * PAGE, 48 * PAGE])
)
wishes = st.tuples(st.lists(st.sampled_from(KEYS), min_size=1, max_size=8), st.sampled_from(["", "", "", "size", "version", "both"]))
picks = st.integers(0, 63)
Wish = tuple[list[str], str]


@dataclass
class Offer:
    """What the consumer asked for, and what it knew then."""

    key: str
    size: int | None
    version: str | None
    changes_before: int
    error: S3dlioError | None = None
    faults_before: int = 0


@dataclass(eq=False)
class Consumer:
    """One run, and what came out of it."""

    run: Run
    offers: list[Offer] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Held:
    """A view that somebody reads."""

    slot: Slot
    nbytes: int
    content: object


class SchedulerMachine(RuleBasedStateMachine):
    """Rules are what can happen; invariants are what must hold after each."""

    @initialize(
        cap_pages=st.sampled_from([8, 64, 80, 100, 128, 300]),
        jobs=st.sampled_from([1, 2, 8, 8]),
        spare=st.integers(0, 4),
        object_sizes=st.lists(sizes, min_size=len(KEYS), max_size=len(KEYS)),
        part_bytes=st.sampled_from([16 * PAGE, 16 * PAGE, 40 * PAGE]),
        num_workers=st.integers(0, 2),
        runs=st.lists(st.tuples(st.sampled_from([True, True, False]), wishes, wishes), max_size=2),
    )
    def begin(
        self,
        cap_pages: int,
        jobs: int,
        spare: int,
        part_bytes: int,
        object_sizes: list[int],
        num_workers: int,
        runs: list[tuple[bool, Wish, Wish]],
    ) -> None:
        self.cap_bytes = cap_pages * PAGE
        self.jobs = jobs
        self.memory = ModelMemory()
        self.objects = {key: ModelObject(size, key != KEYS[-1]) for key, size in zip(KEYS, object_sizes, strict=True)}
        self.slots = Slots(self.memory, first=PAGE, size=1 << 30, cap_bytes=self.cap_bytes)
        self.scheduler = Scheduler(
            self.slots, jobs=jobs, depth=jobs + spare, part_bytes=part_bytes, split_above_bytes=SPLIT_ABOVE_BYTES
        )
        self.num_workers = 0
        self.workers: dict[int, ModelWorker] = {}
        self.consumers: list[Consumer] = []
        self.held: list[Held] = []
        self.released: deque[Slot] = deque()
        self.parts: set[int] = set()
        self.faults: dict[str, int] = dict.fromkeys(KEYS, 0)
        for _ in range(num_workers):
            self.start_worker()
        for is_ordered, *wanted in runs:
            self.open_run(is_ordered)
            for wish in wanted:
                self.offer(len(self.consumers) - 1, wish)

    # The consumer.

    @precondition(lambda self: len(self.consumers) < 3)
    @rule(is_ordered=st.sampled_from([True, True, False]))
    def open_run(self, is_ordered: bool) -> None:
        self.consumers.append(Consumer(self.scheduler.open_run(is_ordered)))

    @precondition(lambda self: self.consumers)
    @rule(pick=picks, wish=wishes)
    def offer(self, pick: int, wish: Wish) -> None:
        consumer = self.consumers[pick % len(self.consumers)]
        if consumer.run.is_exhausted:
            return
        keys, knows = wish
        for key in keys:
            found = self.objects[key]
            size = found.size if knows in ("size", "both") else None
            version = found.told_version if knows in ("version", "both") else None
            offer = Offer(key, size, version, found.num_changes, faults_before=self.faults[key])
            consumer.offers.append(offer)
            self.scheduler.offer(consumer.run, f"s3://b/{key}", 0, key, size, version)

    @precondition(lambda self: self.consumers)
    @rule(pick=picks)
    def offer_what_has_no_store(self, pick: int) -> None:
        consumer = self.consumers[pick % len(self.consumers)]
        if not consumer.run.is_exhausted:
            error = InvalidUriError("no scheme")
            consumer.offers.append(Offer("", None, None, 0, error))
            self.scheduler.offer_failed(consumer.run, "nonsense", error)

    @precondition(lambda self: self.consumers)
    @rule(pick=picks)
    def exhaust(self, pick: int) -> None:
        self.consumers[pick % len(self.consumers)].run.is_exhausted = True

    @precondition(lambda self: self.consumers)
    @rule(pick=picks, at_most=st.integers(1, 4), keeps=st.sampled_from([False, False, True]))
    def take(self, pick: int, at_most: int, keeps: bool) -> None:
        consumer = self.consumers[pick % len(self.consumers)]
        num_held = len(self.held)
        while at_most and self.take_one(consumer):
            at_most -= 1
        while len(self.held) > num_held and not keeps:
            self.release(self.held.pop())

    @precondition(lambda self: self.held)
    @rule(picked=st.lists(picks, min_size=1, max_size=6))
    def release_from_any_thread(self, picked: list[int]) -> None:
        for pick in picked[: len(self.held)]:
            self.release(self.held.pop(pick % len(self.held)))

    @precondition(lambda self: len(self.consumers) > 1)
    @rule(pick=picks)
    def close_run(self, pick: int) -> None:
        consumer = self.consumers.pop(pick % len(self.consumers))
        self.scheduler.close_run(consumer.run)
        assert self.scheduler.take(consumer.run) is None
        assert self.scheduler.num_wanted(consumer.run) == 0

    @precondition(lambda self: self.workers and self.consumers)
    @rule(pick=picks, answers=st.lists(st.lists(picks, max_size=4), max_size=20))
    def wait_for_the_next(self, pick: int, answers: list[list[int]]) -> None:
        """A consumer waits, whatever the others do: its next object comes, or views are in the way."""
        consumer = self.consumers[pick % len(self.consumers)]
        for picked in [*answers, *[list(range(16))] * 100]:
            if self.take_one(consumer) or not self.has_work(consumer) or self.is_stuck(consumer):
                return
            self.go_round(picked)
        raise AssertionError("the next object does not come")

    # The coordinator.

    @rule()
    def pump(self) -> None:
        while self.released:
            self.slots.free(self.released.popleft())
        for index, commands in self.scheduler.drain().items():
            assert index in self.workers, "a command for a dead worker"
            for command in commands:
                if isinstance(command, FetchPart):
                    assert command.part not in self.parts, "the number of a part was used twice"
                    self.parts.add(command.part)
            self.workers[index].inbox.extend(commands)

    @precondition(lambda self: self.workers)
    @rule(pick=picks, at_most=st.integers(1, 8))
    def report(self, pick: int, at_most: int) -> None:
        worker = self.worker(pick)
        num = min(at_most, len(worker.outbox))
        self.scheduler.handle(worker.index, [worker.outbox.popleft() for _ in range(num)])

    @precondition(lambda self: self.workers)
    @rule(pick=picks, number=st.integers(-1, 40))
    def a_late_event_comes(self, pick: int, number: int) -> None:
        worker = self.worker(pick)
        known = {*worker.requests, *(getattr(message, "part", -1) for message in (*worker.inbox, *worker.outbox))}
        if number not in known:
            late = [PartFetched(number, 5, 5, "v9", 0.1), PartCancelled(number), SpaceWanted(number, 5, 5, "v9")]
            self.scheduler.handle(worker.index, [*late, PartFailed(number, ServerError("late").to_info())])

    # Workers.

    @precondition(lambda self: len(self.workers) < 3)
    @rule()
    def start_worker(self) -> None:
        index = self.num_workers
        self.num_workers += 1
        self.workers[index] = ModelWorker(index, self.jobs, self.memory, self.objects)
        self.scheduler.worker_started(index)

    @precondition(lambda self: self.workers)
    @rule(pick=picks, hears_last_words=st.booleans())
    def worker_dies_or_hangs_and_is_killed(self, pick: int, hears_last_words: bool) -> None:
        worker = self.worker(pick)
        if hears_last_words:
            self.scheduler.handle(worker.index, worker.outbox)
        del self.workers[worker.index]
        self.scheduler.worker_died(worker.index)
        self.scheduler.handle(worker.index, worker.outbox)

    @precondition(lambda self: self.workers)
    @rule(pick=picks, at_most=st.integers(1, 8))
    def hear(self, pick: int, at_most: int) -> None:
        worker = self.worker(pick)
        for _ in range(min(at_most, len(worker.inbox))):
            worker.hear()

    @precondition(lambda self: any(worker.active() for worker in self.workers.values()))
    @rule(pick=picks)
    def finish(self, pick: int) -> None:
        worker, request = self.request(pick)
        worker.finish(request)

    @precondition(lambda self: any(worker.active() for worker in self.workers.values()))
    @rule(pick=picks)
    def write_half(self, pick: int) -> None:
        worker, request = self.request(pick)
        worker.scribble(request)

    @precondition(lambda self: any(worker.active() for worker in self.workers.values()))
    @rule(pick=picks, fault=st.sampled_from(FAULTS))
    def fail(self, pick: int, fault: type[S3dlioError]) -> None:
        worker, request = self.request(pick)
        self.faults[request.command.key] += 1
        worker.fail(request, fault("injected"))

    @precondition(lambda self: self.workers and self.consumers)
    @rule(pick=picks, answers=st.lists(st.lists(picks, max_size=6), min_size=1, max_size=4), takes=st.integers(0, 3))
    def everybody_goes_on_and_one_consumer_takes(self, pick: int, answers: list[list[int]], takes: int) -> None:
        for picked in answers:
            self.go_round(picked)
            self.take(pick, takes, False)

    @rule(pick=picks, size=st.none() | sizes)
    def change_object(self, pick: int, size: int | None) -> None:
        being_read = [request.command.key for worker in self.workers.values() for request in worker.active()]
        keys = being_read or KEYS
        self.objects[keys[pick % len(keys)]].change(size)

    # What must hold.

    @invariant()
    def the_books_are_right(self) -> None:
        self.scheduler.validate()
        self.slots.validate()
        assert self.slots.used_bytes <= self.cap_bytes

    @invariant()
    def nobody_writes_where_another_writes_or_reads(self) -> None:
        regions = sorted(region for worker in self.workers.values() for region in worker.regions())
        read = [(slot.start, slot.start + slot.nbytes, -1) for slot in self.slots_to_read()]
        for (_, end, part), (start, _, other) in pairwise(sorted([*regions, *read])):
            assert end <= start, f"parts {part} and {other} overlap"
        for start, end, part in regions:
            if end > start:
                assert {start // PAGE, (end - 1) // PAGE} <= self.memory.pages, f"part {part} has no memory"

    @invariant()
    def what_is_held_stays_as_it_is(self) -> None:
        for held in self.held:
            assert self.memory.read(held.slot.start, held.nbytes) == held.content

    @invariant()
    def workers_are_not_flooded(self) -> None:
        for worker in self.workers.values():
            assert self.scheduler.load_of(worker.index) <= self.scheduler.depth
            assert len(worker.requests) <= self.scheduler.depth

    def teardown(self) -> None:
        """Whatever has happened: with one worker and a consumer who lets go, everything comes out, and nothing stays behind."""
        if not hasattr(self, "scheduler"):
            return
        if not self.workers:
            self.start_worker()
        for consumer in self.consumers:
            consumer.run.is_exhausted = True
        for _ in range(1000):
            if all(self.scheduler.is_finished(consumer.run) for consumer in self.consumers):
                break
            self.let_everybody_go_on()
            for consumer in self.consumers:
                self.release_all()
                assert not self.is_stuck(consumer)
        for consumer in self.consumers:
            assert sorted(consumer.taken) == list(range(len(consumer.offers))), "an item is missing, or came twice"
            self.scheduler.close_run(consumer.run)
        self.let_everybody_go_on()
        self.let_everybody_go_on()
        assert self.scheduler.num_in_flight == 0
        assert self.scheduler.drain() == {}
        assert all(worker.is_idle and not worker.requests for worker in self.workers.values())
        assert self.slots.used_bytes == 0

    # Helpers.

    def worker(self, pick: int) -> ModelWorker:
        return list(self.workers.values())[pick % len(self.workers)]

    def request(self, pick: int) -> tuple[ModelWorker, Request]:
        found = [(worker, request) for worker in self.workers.values() for request in worker.active()]
        return found[pick % len(found)]

    def slots_to_read(self) -> Iterator[Slot]:
        yield from (held.slot for held in self.held)
        yield from self.released
        for consumer in self.consumers:
            yield from (item.slot for item in consumer.run.done.values() if item.slot is not None)

    def release(self, held: Held) -> None:
        self.released.append(held.slot)

    def release_all(self) -> None:
        while self.held:
            self.release(self.held.pop())

    def take_one(self, consumer: Consumer) -> bool:
        item = self.scheduler.take(consumer.run)
        if item is None:
            return False
        assert item.seq not in consumer.taken
        if consumer.run.is_ordered:
            assert item.seq == len(consumer.taken)
        consumer.taken.append(item.seq)
        offer = consumer.offers[item.seq]
        if item.error is not None:
            assert item.slot is None
            self.check_error(offer, item.error)
        else:
            self.check_bytes(offer, item)
        return True

    def check_bytes(self, offer: Offer, item: Item) -> None:
        assert item.slot is not None
        assert item.state is ItemState.DELIVERED
        assert item.nbytes <= item.slot.nbytes
        assert offer.size in (None, item.nbytes)
        content = self.memory.read(item.slot.start, item.nbytes)
        if content:
            assert content[0] is not None
            version = content[0][1]
            assert content == [(offer.key, version, cell) for cell in range(len(content))], "wrong bytes"
            assert offer.version in (None, version)
        self.held.append(Held(item.slot, item.nbytes, content))

    def check_error(self, offer: Offer, error: S3dlioError) -> None:
        """An error must have its reason outside the scheduler."""
        if offer.error is not None:
            assert error is offer.error
        elif isinstance(error, ObjectTooLargeError):
            assert error.uri == f"s3://b/{offer.key}"
        elif isinstance(error, ObjectChangedError):
            # Who pinned nothing does not care for one change: the read begins again.
            enough = 1 if (offer.size, offer.version) != (None, None) else 2
            assert self.objects[offer.key].num_changes - offer.changes_before >= enough
        else:
            assert isinstance(error, (*FAULTS, NotFoundError)), repr(error)
            assert self.faults[offer.key] > offer.faults_before

    def is_stuck(self, consumer: Consumer) -> bool:
        """As the pool asks, after it has pumped; and whether that is the truth."""
        self.pump()
        self.scheduler.deepen(consumer.run)
        if not self.scheduler.is_stuck(consumer.run):
            return False
        # Slots are granted in sequence order, so it is the first that must be the one with no room.
        first = next(offer for seq, offer in enumerate(consumer.offers) if seq not in consumer.taken)
        num_pages = max(1, -(-self.objects[first.key].largest // PAGE))
        held_bytes = sum(held.slot.nbytes for held in self.held)
        assert held_bytes + num_pages * PAGE > self.cap_bytes, "the next object would fit"
        return True

    def has_work(self, consumer: Consumer) -> bool:
        return len(consumer.taken) < len(consumer.offers)

    def go_round(self, picked: list[int]) -> None:
        """Messages go both ways, and between them workers finish some of their requests."""
        self.pump()
        for pick in range(len(self.workers)):
            self.hear(pick, 100)
        for pick in picked:
            if any(worker.active() for worker in self.workers.values()):
                self.finish(pick)
        for pick in range(len(self.workers)):
            self.report(pick, 100)
        self.the_books_are_right()
        self.nobody_writes_where_another_writes_or_reads()

    def let_everybody_go_on(self) -> None:
        self.release_all()
        self.pump()
        for worker in self.workers.values():
            while worker.inbox:
                worker.hear()
            for request in worker.active():
                worker.finish(request)
            self.scheduler.handle(worker.index, [worker.outbox.popleft() for _ in range(len(worker.outbox))])
        self.the_books_are_right()
        self.nobody_writes_where_another_writes_or_reads()
        for consumer in self.consumers:
            while self.take_one(consumer):
                self.what_is_held_stays_as_it_is()


@pytest.mark.timeout(600)  # hypothesis takes up to five minutes to make a failing example small
class TestScheduler(SchedulerMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
