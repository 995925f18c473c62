"""The scheduler under any sequence of events, against model workers that write into model memory and model consumers who judge.

Rules are what can happen, one small thing at a time or a few rounds at once; invariants are what must hold after each. At the end of
every example there is one worker and consumers who let go: then everything comes out, and nothing stays behind. In some examples one
object kills every worker that fetches it (P2): it fails for that, and nothing else does. What is asked for are single objects, and
groups of them in one slot.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from s3dlio.engine.errors import InvalidUriError, S3dlioError, ServerError, TruncatedBodyError
from s3dlio.engine.memory.slots import Slots
from s3dlio.engine.pool.messages import (
    Event,
    FetchPart,
    FindSum,
    PartCancelled,
    PartFailed,
    PartFetched,
    SpaceWanted,
    SumFound,
)
from s3dlio.engine.pool.scheduler import Scheduler
from tests.support.consumer_model import ModelConsumer, World
from tests.support.worker_model import PAGE, ModelMemory, ModelObject, ModelWorker, Request

# The scheduler's first guess for an object of unknown size is 32 pages: some are smaller, some larger, some larger than the cap.
SPLIT_ABOVE_BYTES = 24 * PAGE
KEYS = [f"key{i}" for i in range(6)]
KEY_WITHOUT_VERSIONS = KEYS[-1]
sizes = st.one_of(
    st.integers(0, 8 * PAGE), st.integers(33 * PAGE, 70 * PAGE), st.sampled_from([0, 1, 16 * PAGE, 24 * PAGE, 32 * PAGE, 48 * PAGE])
)
knowledge = st.sampled_from(["", "", "", "size", "version", "both"])
# Single objects; or a group of those that fit into half of the memory together; or one with places of so many bytes, come what may.
FITTING = -1
strides = st.sampled_from([None, None, None, FITTING, FITTING, FITTING, FITTING, 0, 8 * PAGE, 33 * PAGE])
wishes = st.tuples(st.lists(st.sampled_from(KEYS), min_size=1, max_size=8), knowledge, strides)
orders = st.sampled_from([True, True, False])
prefetches = st.sampled_from([None, None, None, 1, 3])
picks = st.integers(0, 63)
Wish = tuple[list[str], str, int | None]


class SchedulerMachine(RuleBasedStateMachine):
    """One scheduler with its slots; up to three workers and three consumers."""

    @initialize(
        cap_pages=st.sampled_from([8, 64, 80, 100, 128, 300]),
        jobs=st.sampled_from([1, 2, 8, 8]),
        spare=st.integers(0, 4),
        object_sizes=st.lists(sizes, min_size=len(KEYS), max_size=len(KEYS)),
        part_bytes=st.sampled_from([16 * PAGE, 16 * PAGE, 40 * PAGE]),
        num_workers=st.integers(0, 2),
        runs=st.lists(st.tuples(orders, wishes, wishes), max_size=2),
        poison=st.sampled_from([None, None, *KEYS[:2], KEY_WITHOUT_VERSIONS]),
        asks_for_sums=st.booleans(),
        knows_sums=st.sampled_from([True, True, False]),
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
        poison: str | None,
        asks_for_sums: bool,
        knows_sums: bool,
    ) -> None:
        memory, cap_bytes = ModelMemory(), cap_pages * PAGE
        objects = {key: ModelObject(size, key != KEY_WITHOUT_VERSIONS) for key, size in zip(KEYS, object_sizes, strict=True)}
        self.jobs = jobs
        self.slots = Slots(memory, first=PAGE, size=1 << 30, cap_bytes=cap_bytes)
        self.scheduler = Scheduler(
            self.slots, jobs=jobs, depth=jobs + spare, part_bytes=part_bytes, split_above_bytes=SPLIT_ABOVE_BYTES
        )
        if asks_for_sums:
            self.scheduler.summing.add(0)
        self.knows_sums = knows_sums
        self.world = World(self.scheduler, memory, objects, cap_bytes)
        self.num_workers = 0
        self.workers: dict[int, ModelWorker] = {}
        self.consumers: list[ModelConsumer] = []
        self.parts: dict[int, str] = {}
        self.over: set[int] = set()
        self.poison = poison
        self.num_poisoned = 0
        self.num_poisons = 0
        for _ in range(num_workers):
            self.start_worker()
        for is_ordered, *wanted in runs:
            self.open_run(is_ordered)
            for wish in wanted:
                self.offer(len(self.consumers) - 1, wish)

    # Consumers.

    @precondition(lambda self: len(self.consumers) < 3)
    @rule(is_ordered=orders, prefetch=prefetches)
    def open_run(self, is_ordered: bool, prefetch: int | None = None) -> None:
        self.consumers.append(ModelConsumer(self.world, self.scheduler.open_run(is_ordered, prefetch)))

    @precondition(lambda self: self.consumers)
    @rule(pick=picks, wish=wishes)
    def offer(self, pick: int, wish: Wish) -> None:
        consumer = self.consumer(pick)
        keys, knows, stride = wish
        if consumer.run.is_exhausted:
            return
        self.num_poisons += keys.count(self.poison or "")
        if stride is None:
            for key in keys:
                consumer.offer(key, knows)
        elif stride == FITTING:
            consumer.offer_group(*self.world.fitting(keys), knows)
        else:
            consumer.offer_group(keys, stride, knows)

    @precondition(lambda self: self.consumers)
    @rule(pick=picks)
    def offer_what_has_no_store(self, pick: int) -> None:
        consumer = self.consumer(pick)
        if not consumer.run.is_exhausted:
            consumer.offer_failed(InvalidUriError("no scheme"))

    @precondition(lambda self: self.consumers)
    @rule(pick=picks)
    def exhaust(self, pick: int) -> None:
        self.consumer(pick).run.is_exhausted = True

    @precondition(lambda self: self.consumers)
    @rule(pick=picks, at_most=st.integers(1, 4), keeps=st.sampled_from([False, False, True]))
    def take(self, pick: int, at_most: int, keeps: bool) -> None:
        consumer = self.consumer(pick)
        num_held = len(self.world.held)
        while at_most and consumer.take():
            at_most -= 1
        while len(self.world.held) > num_held and not keeps:
            self.world.release(-1)

    @precondition(lambda self: self.world.held)
    @rule(picked=st.lists(picks, min_size=1, max_size=6))
    def release_from_any_thread(self, picked: list[int]) -> None:
        for pick in picked[: len(self.world.held)]:
            self.world.release(pick % len(self.world.held))

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
        consumer = self.consumer(pick)
        for picked in [*answers, *[list(range(16))] * 300]:
            if consumer.take() or not consumer.has_work:
                return
            self.pump()
            if consumer.is_stuck():
                return
            self.go_round(picked)
        raise AssertionError("the next object does not come")

    # The coordinator.

    @rule()
    def pump(self) -> None:
        while self.world.released:
            self.slots.free(self.world.released.popleft())
        for index, commands in self.scheduler.drain().items():
            assert index in self.workers, "a command for a dead worker"
            for command in commands:
                if isinstance(command, FetchPart | FindSum):
                    assert command.part not in self.parts, "the number of a part was used twice"
                    self.parts[command.part] = command.key
            self.workers[index].inbox.extend(commands)

    @precondition(lambda self: self.workers)
    @rule(pick=picks, at_most=st.integers(1, 8))
    def report(self, pick: int, at_most: int) -> None:
        worker = self.worker(pick)
        num = min(at_most, len(worker.outbox))
        self.hand_over(worker, [worker.outbox.popleft() for _ in range(num)])

    @precondition(lambda self: self.workers)
    @rule(pick=picks, number=st.integers(-1, 40))
    def a_late_event_comes(self, pick: int, number: int) -> None:
        worker = self.worker(pick)
        known = {*worker.requests, *(getattr(message, "part", -1) for message in (*worker.inbox, *worker.outbox))}
        if number not in known:
            late = [PartFetched(number, 5, 5, "v9", 0.1), PartCancelled(number), SpaceWanted(number, 5, 5, "v9")]
            late += [SumFound(number, "v9", "crc32", 5), PartFailed(number, ServerError("late").to_info())]
            self.scheduler.handle(worker.index, late)

    # Workers.

    @precondition(lambda self: len(self.workers) < 3)
    @rule()
    def start_worker(self) -> None:
        index = self.num_workers
        self.num_workers += 1
        self.workers[index] = ModelWorker(
            index, self.jobs, self.world.memory, self.world.objects, knows_sums=self.knows_sums
        )
        self.scheduler.worker_started(index)

    @precondition(lambda self: self.workers)
    @rule(pick=picks, hears_last_words=st.booleans())
    def worker_dies_or_hangs_and_is_killed(self, pick: int, hears_last_words: bool) -> None:
        self.die(self.worker(pick), hears_last_words)

    @precondition(lambda self: self.workers)
    @rule(pick=picks, at_most=st.integers(1, 8))
    def hear(self, pick: int, at_most: int) -> None:
        worker = self.worker(pick)
        for _ in range(min(at_most, len(worker.inbox))):
            worker.hear()

    @precondition(lambda self: self.requests())
    @rule(pick=picks)
    def finish(self, pick: int) -> None:
        worker, request = self.request(pick)
        if request.command.key == self.poison:
            self.num_poisoned += 1
            self.die(worker, False)
            self.start_worker()
        else:
            worker.finish(request)

    @precondition(lambda self: self.requests())
    @rule(pick=picks)
    def write_half(self, pick: int) -> None:
        worker, request = self.request(pick)
        worker.scribble(request)

    @precondition(lambda self: self.requests())
    @rule(pick=picks, fault=st.sampled_from([TruncatedBodyError, ServerError]))
    def fail(self, pick: int, fault: type[S3dlioError]) -> None:
        worker, request = self.request(pick)
        key = request.command.key
        self.world.num_faults[key] = self.world.num_faults.get(key, 0) + 1
        worker.fail(request, fault("injected"))

    @precondition(lambda self: self.workers)
    @rule(pick=picks, num=st.sampled_from([1, 1, 2, 9]))
    def bytes_of_parts_change_on_their_way(self, pick: int, num: int) -> None:
        self.worker(pick).num_spoilt += num
        self.world.num_spoilt += num

    @precondition(lambda self: self.workers and self.consumers)
    @rule(pick=picks, answers=st.lists(st.lists(picks, max_size=6), min_size=1, max_size=4), takes=st.integers(0, 3))
    def everybody_goes_on_and_one_consumer_takes(self, pick: int, answers: list[list[int]], takes: int) -> None:
        for picked in answers:
            self.go_round(picked)
            self.take(pick, takes, False)

    @rule(pick=picks, size=st.none() | sizes)
    def change_object(self, pick: int, size: int | None) -> None:
        keys = [request.command.key for _, request in self.requests()] or KEYS
        self.world.objects[keys[pick % len(keys)]].change(size)

    # What must hold.

    @invariant()
    def the_books_are_right(self) -> None:
        self.scheduler.validate()
        self.slots.validate()
        assert self.slots.used_bytes <= self.world.cap_bytes

    @invariant()
    def nobody_writes_where_another_writes_or_reads(self) -> None:
        ready = [item.slot for consumer in self.consumers for item in consumer.run.done.values() if item.slot is not None]
        slots = [*(held.slot for held in self.world.held), *self.world.released, *ready]
        read = [(slot.start, slot.start + slot.nbytes, -1) for slot in slots]
        written = [region for worker in self.workers.values() for region in worker.regions()]
        for (_, end, part), (start, _, other) in pairwise(sorted([*written, *read])):
            assert end <= start, f"parts {part} and {other} overlap"
        for start, end, part in written:
            if end > start:
                assert {start // PAGE, (end - 1) // PAGE} <= self.world.memory.pages, f"part {part} has no memory"

    @invariant()
    def what_is_held_stays_as_it_is(self) -> None:
        self.world.check_views()

    @invariant()
    def workers_are_not_flooded(self) -> None:
        for worker in self.workers.values():
            assert self.scheduler.load_of(worker.index) <= self.scheduler.depth
            assert len(worker.requests) <= self.scheduler.depth

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        if not self.workers:
            self.start_worker()
        for consumer in self.consumers:
            consumer.run.is_exhausted = True
        for _ in range(1000):
            if all(self.scheduler.is_finished(consumer.run) for consumer in self.consumers):
                break
            self.go_on_and_let_go()
        for consumer in self.consumers:
            assert sorted(consumer.taken) == list(range(len(consumer.offers))), "an item is missing, or came twice"
            self.scheduler.close_run(consumer.run)
        # Two make it a suspect, two more may have parts of it by then, and one tries it.
        assert self.num_poisoned <= 5 * self.num_poisons, "an object kills for ever"
        counts = (self.scheduler.num_delivered, self.scheduler.num_failed, self.scheduler.num_bytes)
        assert counts == (self.world.num_delivered, self.world.num_failed, self.world.num_bytes)
        self.go_on_and_let_go()
        self.go_on_and_let_go()
        assert (self.scheduler.num_in_flight, self.slots.used_bytes) == (0, 0)
        assert self.scheduler.drain() == {}
        assert all(worker.is_idle and not worker.requests for worker in self.workers.values())

    # Helpers.

    def consumer(self, pick: int) -> ModelConsumer:
        return self.consumers[pick % len(self.consumers)]

    def worker(self, pick: int) -> ModelWorker:
        return list(self.workers.values())[pick % len(self.workers)]

    def requests(self) -> list[tuple[ModelWorker, Request]]:
        return [(worker, request) for worker in self.workers.values() for request in worker.active()]

    def request(self, pick: int) -> tuple[ModelWorker, Request]:
        found = self.requests()
        return found[pick % len(found)]

    def hand_over(self, worker: ModelWorker, events: list[Event]) -> None:
        self.scheduler.handle(worker.index, events)
        final = (PartFetched, PartFailed, PartCancelled, SumFound)
        self.over |= {event.part for event in events if isinstance(event, final)}

    def die(self, worker: ModelWorker, hears_last_words: bool) -> None:
        if hears_last_words:
            self.hand_over(worker, list(worker.outbox))
        known = {*worker.requests, *(getattr(message, "part", -1) for message in (*worker.inbox, *worker.outbox))}
        self.world.deaths.append([self.parts[part] for part in known & self.parts.keys() - self.over])
        del self.workers[worker.index]
        self.scheduler.worker_died(worker.index, "killed by SIGSEGV")
        self.scheduler.handle(worker.index, worker.outbox)

    def go_round(self, picked: list[int]) -> None:
        """Messages go both ways, and between them workers finish some of their requests."""
        self.pump()
        for pick in range(len(self.workers)):
            self.hear(pick, 100)
        for pick in picked:
            if self.requests():
                self.finish(pick)
        for pick in range(len(self.workers)):
            self.report(pick, 100)
        self.the_books_are_right()
        self.nobody_writes_where_another_writes_or_reads()

    def go_on_and_let_go(self) -> None:
        """A round in which every request is finished, and all that came is taken and released."""
        self.go_round(list(range(len(self.requests()) + 100)))
        for consumer in self.consumers:
            while consumer.take():
                self.world.check_views()
        self.world.release_all()
        self.pump()
        for consumer in self.consumers:
            assert not consumer.is_stuck(), "nobody holds a view"


@pytest.mark.timeout(600)  # hypothesis takes up to five minutes to make a failing example small
class TestScheduler(SchedulerMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
