"""One pool, put together: scheduler, memory, crew and stores. Not thread-safe; `pool.py` serialises its calls.

`move` is the only place where commands leave and events enter. It never waits.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import (
    InsufficientMemoryError,
    S3dlioError,
    ViewsHeldError,
    WorkerLostError,
)
from ..memory.arena import Arena
from ..memory.limits import available_memory
from ..stores.registry import locate
from .crew import Crew, Reported, WorkerDied
from .groups import Member
from .local_crew import LocalCrew
from .messages import CancelPart, Command, CredentialsExpired, Event, OpenStore, SpaceWanted, WorkerStarted
from .scheduler import Scheduler
from .sizes import hint_of
from .slot_checks import check_slot
from .supervisor import Supervisor
from .wanted import Group, Wanted, check_sendable, facts_of

if TYPE_CHECKING:
    from ..config import Settings
    from ..stores.base import Store
    from .items import Item, Run

_log = logging.getLogger("s3dlio")
_LOOK_S = 1.0
"""How often stores are asked whether their credentials are due."""
_LOOK_SOON_S = 0.05
"""The same while others are on their way: workers wait for them."""
_QUIET_S = 0.2
"""After so long a wait the connections to the workers are looked at: far longer than a wait lasts where anything moves."""
_JUDGED_S = 0.01
"""Workers are judged after so long a wait, or several: it costs as much as to take what one of them says."""
_TAKES_PER_MOVE = 64
"""Commands are sent in batches: after so many objects taken, or a quarter of what is in flight. A message costs what ten objects do."""
_NO_ROOT = "\0"
"""No URI begins with it."""
_MAX_PLAIN_KEY = 256
"""Longer keys are looked at closely."""


class Core:
    """The working parts of a pool."""

    finalizer: weakref.finalize[..., Any]
    """Closes it, once; set by the pool that owns it."""

    def __init__(self, settings: Settings, procs: int, jobs: int, lock: threading.Lock) -> None:
        """Maps the segment and starts the workers, without waiting for them.

        Args:
            settings: Of the pool.
            procs: Worker processes; 0 fetches in this one.
            jobs: Requests in flight per worker.
            lock: Held by whoever calls any other method than `wait`.
        """
        _check_memory(settings.memory_bytes)
        self._settings = settings
        self._num_procs = procs
        self.waiting: set[Run] = set()
        """Runs whose consumers are in `wait`, or on their way to it or back. A set, since a Ctrl-C on the way may have both leave twice."""
        self.is_doomed = False
        """Whether it is to be closed by the last thread that leaves."""
        self.arena = Arena(settings.memory_bytes, settings.poison_freed, lock)
        # Twice what is in flight lies ready: a worker never waits for the coordinator's answer.
        depth = 2 * jobs if procs else jobs + max(1, jobs // 4)
        try:
            self._crew: Crew | LocalCrew = (Crew if procs else LocalCrew)(settings, jobs, self.arena.segment)
        except BaseException:
            self.arena.close()
            raise
        self._here: LocalCrew | None = self._crew if isinstance(self._crew, LocalCrew) else None
        """Who reads stores that no other process can read."""
        self.scheduler = Scheduler(
            self.arena.slots,
            jobs=jobs,
            depth=depth,
            part_bytes=settings.part_bytes,
            split_above_bytes=settings.split_above_bytes,
        )
        if settings.check_slots:
            self.scheduler.inspect = partial(check_slot, self.arena.buffer)
        self._supervisor = Supervisor(settings.worker_restarts_per_minute, settings.worker_silence_s)
        self._stores: dict[int, tuple[int, Store]] = {}
        """By identity: the number of a store, and the store."""
        self._told: dict[int, Any] = {}
        """By number: the spec of a store that the workers know."""
        self._next_look_s = 0.0
        """When the stores are looked at again."""
        self._local_stores: set[int] = set()
        self._local_owners: dict[int, int] = {}
        """By part that is read here: the worker that the scheduler gave it to."""
        self._num_takes = 0
        self._unjudged_s = 0.0
        """Time waited since workers were last judged."""
        self._last_death: WorkerDied | None = None
        self._last_uri: str | None = None
        self.num_restarts = 0
        self.started_s: float | None = None
        """When the first worker was ready, by the monotonic clock."""
        try:
            self._crew.start(max(procs, 1))
        except BaseException:
            self.close()
            raise

    @property
    def num_waiting(self) -> int:
        """Threads in `wait`."""
        return len(self.waiting)

    @property
    def num_workers(self) -> int:
        """Worker processes that live."""
        return len(self._crew.indices) if self._num_procs else 0

    def close(self) -> None:
        """Ends the workers; views that exist stay readable."""
        try:
            self._crew.close()
        finally:
            if self._here is not None and self._here is not self._crew:
                self._here.close()
            self.arena.close()

    def abandon(self) -> None:
        """In a forked child: lets go without a word to the parent's workers."""
        self._crew.abandon()

    # Items in and out.

    def offer(self, run: Run, wanted: Iterable[Wanted | Group]) -> None:
        """Adds items to a run. What has no store fails as an item of its own, or as a member."""
        stores, offer = self._stores, self.scheduler.offer
        for one in wanted:
            size, version = None, None
            if type(one) is str:
                uri = one
            elif type(one) is Group and run.takes_groups:
                self.scheduler.offer_group(run, self._find(one.refs), one.stride)
                continue
            else:
                uri = str(getattr(one, "uri", one))
            try:
                if uri is not one:
                    uri, size, version = facts_of(one)
                store, key = locate(uri)
                if self._num_procs and not uri.isascii():
                    check_sendable(uri, version)
                known = stores.get(id(store)) or self._open(store)
            except S3dlioError as error:
                self.scheduler.offer_failed(run, uri, error)
            else:
                offer(run, uri, known[0], key, size, version, hint_of(uri) if size is None else None)

    def _find(self, refs: Iterable[Wanted]) -> list[Member]:
        """Returns the members of a group; those that mean nothing have failed."""
        members, root, number, is_sent = [], _NO_ROOT, -1, self._num_procs > 0
        for one in refs:
            uri = one if type(one) is str else str(getattr(one, "uri", one))
            try:
                uri, size, version = (one, None, None) if type(one) is str else facts_of(one)
                key = uri[len(root) :]
                # Most have the store of the one before. What `locate` would look at in such a case is looked at here.
                if not (uri.startswith(root) and 0 < len(key) < _MAX_PLAIN_KEY and "\0" not in key):
                    store, key = locate(uri)
                    number = (self._stores.get(id(store)) or self._open(store))[0]
                    root = uri[: len(uri) - len(key)]
                    if not uri.endswith(key) or not root.endswith("/") or root.endswith("//"):
                        root = _NO_ROOT
                if is_sent and not uri.isascii():
                    check_sendable(uri, version)
            except S3dlioError as error:
                error.uri = error.uri or uri
                members.append(Member(uri, -1, "", None, None, error))
            else:
                members.append(Member(uri, number, key, size, version))
        return members

    def take(self, run: Run) -> Item | None:
        """Returns the next item with its view, or FAILED, if it is there."""
        if self.arena.released:
            self.arena.collect()
        item = self.scheduler.take(run)
        if item is not None:
            self._num_takes += 1
            if item.slot is not None:
                item.view = self.arena.lease(item.slot, item.nbytes)
        return item

    def take_and_free(self, run: Run) -> list[Item] | None:
        """Returns what an unordered run has ready, its slots being free again; None if there is nothing."""
        items = self.scheduler.take_all(run)
        free = self.arena.free
        for item in items:
            if item.slot is not None:
                free(item.slot)
        self._num_takes += len(items)
        return items or None

    def is_move_due(self, run: Run) -> bool:
        """Whether enough has been taken for the next batch of commands."""
        return self._num_takes >= min(_TAKES_PER_MOVE, 1 + (run.num_granted >> 2))

    # Commands out, events in.

    def move(self) -> bool:
        """Sends what can be sent and takes what has arrived; returns whether anything has."""
        self._num_takes = 0
        self.arena.collect()
        if self._stores and time.monotonic() >= self._next_look_s:
            self._renew_stores()
        self._send()
        has_moved = False
        for happened in self._poll():
            has_moved = True
            if isinstance(happened, WorkerDied):
                self._on_death(happened)
            else:
                self._on_report(happened)
        if has_moved:
            self._send()
        return has_moved

    def has_news(self) -> bool:
        """Whether `move` would find something; asked before `wait`."""
        return self._crew.has_news() or (self._here is not None and self._here.has_news())

    def wait(self, timeout_s: float) -> None:
        """Waits for the crew, at most `timeout_s`; the one method that needs no serialising."""
        self._crew.wait(timeout_s)

    def wake(self) -> None:
        """Ends the `wait` of all threads."""
        if self.num_waiting:
            self._crew.wake(self.num_waiting)

    def note_wait(self, seconds: float) -> None:
        """Counts time waited in vain, and acts on workers that hang or do not start."""
        if not self._num_procs:
            return  # nothing here hangs without its caller hanging
        self._supervisor.note_wait(seconds)
        self._unjudged_s += seconds
        if self._unjudged_s < _JUDGED_S:
            return
        self._unjudged_s = 0.0
        for worker in self._crew.indices:
            starting_s = self._crew.starting_for_s(worker)
            if starting_s is not None:
                if starting_s > self._settings.worker_start_s:
                    self._crew.kill(worker, f"it did not start within {starting_s:.0f} s")
            elif self._supervisor.is_hanging(worker, self.scheduler.load_of(worker) > 0, self._crew.progress(worker)):
                self._crew.kill(worker, "it stood still with work in hand")
            elif seconds > _QUIET_S:
                self._crew.check_line(worker)

    def check_views(self, run: Run) -> bool:
        """Looks whether `run` can go on only when somebody releases views; returns whether room was found meanwhile.

        Raises:
            ViewsHeldError: Nothing is ready or in flight, and no slot can be granted.
        """
        if not self.scheduler.is_stuck(run):
            return False
        # Objects of unknown size may have got more room than they needed.
        if self.arena.collect() or self.scheduler.shrink_ready() + self.arena.shrink_leased():
            return True
        slots = self.arena.slots
        raise ViewsHeldError(
            f"no memory for the next object: {self.arena.num_leased} views with {self.arena.leased_bytes} bytes are held, and the cap "
            f"is {slots.cap_bytes} bytes; release views (del; a loop's own variable holds one while the next is fetched), copy what "
            "you keep (bytes(view)), or raise memory_bytes"
        )

    def _send(self) -> None:
        for worker, commands in self.scheduler.drain().items():
            remote = self._keep_local(worker, commands) if self._local_stores else commands
            if remote:
                self._crew.send(worker, remote)

    def _keep_local(self, worker: int, commands: list[Command]) -> list[Command]:
        """Carries out here what only this process can do; returns the rest."""
        assert self._here is not None
        rest = []
        for command in commands:
            part = getattr(command, "part", -1)
            if getattr(command, "store", -1) in self._local_stores:
                self._local_owners[part] = worker
            if part in self._local_owners:
                self._here.send(worker, [command])
            else:
                rest.append(command)
        return rest

    def _poll(self) -> Iterable[Reported | WorkerDied]:
        yield from self._crew.poll()
        if self._here is not None and self._here is not self._crew:
            for happened in self._here.poll():
                if isinstance(happened, Reported):
                    yield from (Reported(self._owner_of(event), [event]) for event in happened.events)

    def _owner_of(self, event: Event) -> int:
        """Returns the worker that the scheduler gave a part to which was read here; most events are the last of their part."""
        part = getattr(event, "part", -1)
        owners = self._local_owners
        return owners.get(part, -1) if isinstance(event, SpaceWanted) else owners.pop(part, -1)

    def _cancel_local(self, worker: int) -> None:
        """Ends what is read here on behalf of a worker that has died: its parts go to others, and the places with them."""
        if self._here is not None:
            parts = [part for part, owner in self._local_owners.items() if owner == worker]
            self._here.send(worker, [CancelPart(part) for part in parts])

    def _on_report(self, report: Reported) -> None:
        if isinstance(report.events[0], WorkerStarted):
            self._crew.send(report.worker, [c for c in map(self._opening, self._stores.values()) if c is not None])
            self.scheduler.worker_started(report.worker)
            self.started_s = self.started_s or time.monotonic()
        if CredentialsExpired in map(type, report.events):
            self._expire_stores(report.events)
        why = self.scheduler.handle(report.worker, report.events)
        if why is not None:
            self._crew.kill(report.worker, why)

    def _on_death(self, death: WorkerDied) -> None:
        self._cancel_local(death.worker)
        num_explained = self.scheduler.num_deaths_explained
        lost = self.scheduler.worker_died(death.worker, death.reason, self._local_owners)
        num_explained = self.scheduler.num_deaths_explained - num_explained
        if num_explained:
            self._supervisor.forgive(num_explained, self.scheduler.num_fetched)
        self._supervisor.forget(death.worker)
        self._last_death = death
        self._last_uri = lost[0] if lost else self._last_uri
        _log.warning("worker %d %s; %d objects are fetched again", death.worker, death.reason, len(lost))
        self._refill()

    def _refill(self) -> None:
        """Starts workers in place of those that have died, as many as the budget allows now."""
        now_s = time.monotonic()
        num = min(self._num_procs - len(self._crew.indices), self._supervisor.num_restarts_allowed(now_s))
        if num <= 0:
            return
        self._supervisor.note_restarts(now_s, num)
        self.num_restarts += num
        try:
            self._crew.start(num)
        except S3dlioError as error:
            # The others can go on without it, and the next refill tries again.
            if not self._crew.indices:
                raise
            # Its text alone: whoever keeps the record would keep the memory of the pool, by the traceback.
            _log.warning("no worker could be started in place of one that died: %s", str(error))

    def check_workers(self) -> None:
        """Sees to it that there are workers.

        Raises:
            WorkerLostError: None is left, and none may be started. It names the last death and what was being fetched.
        """
        if self._last_death is None or len(self._crew.indices) == self._num_procs:
            return
        self._refill()
        if self._crew.indices:
            return
        raise WorkerLostError(
            f"all workers have died, {self.num_restarts} were started again; the last one, worker {self._last_death.worker}, "
            f"was {self._last_death.reason}".replace("was exited", "exited"),
            uri=self._last_uri,
        )

    # Stores.

    def _renew_stores(self) -> None:
        """Has credentials renewed that will expire soon, once for all workers, and tells them."""
        is_coming = False
        for known in self._stores.values():
            number, store = known
            # Ahead of the expiry it does not wait; what came since the last look is told now.
            is_coming |= store.renew()
            if number in self._told and self._told[number] is not store.spec:
                self._open_everywhere(known)
        self._next_look_s = time.monotonic() + (_LOOK_SOON_S if is_coming else _LOOK_S)

    def _expire_stores(self, events: list[Event]) -> None:
        """Has credentials asked for anew that a store refuses; workers try again meanwhile."""
        refused = {event.store for event in events if isinstance(event, CredentialsExpired)}
        for number, store in self._stores.values():
            if number in refused:
                store.expire()
        self._next_look_s = 0.0

    def _open(self, store: Store) -> tuple[int, Store]:
        known = self._stores[id(store)] = (len(self._stores), store)
        if self._settings.verify_checksums and hasattr(store.wire, "find_sum"):
            self.scheduler.summing.add(known[0])
        self._open_everywhere(known)
        return known

    def _open_everywhere(self, known: tuple[int, Store]) -> None:
        number, store = known
        opening = self._opening(known)
        if opening is None:
            if self._here is None:
                self._here = LocalCrew(self._settings, 1, self.arena.segment)
            if self._here is not self._crew:
                self._local_stores.add(number)
        else:
            self._told[number] = store.spec
            for worker in self._crew.indices:
                if self._crew.starting_for_s(worker) is None:
                    self._crew.send(worker, [opening])
        if self._here is not None:
            self._here.open(number, store.root, store.wire)

    def _opening(self, known: tuple[int, Store]) -> OpenStore | None:
        number, store = known
        if store.spec is None or isinstance(self._crew, LocalCrew):
            return None
        return OpenStore(number, store.spec)


def _check_memory(cap_bytes: int) -> None:
    """Raises at once what would otherwise come in the middle of an epoch."""
    available = available_memory()
    if cap_bytes > available:
        raise InsufficientMemoryError(
            f"memory_bytes asks for {cap_bytes} bytes and {available} are available; lower memory_bytes or free memory"
        )
