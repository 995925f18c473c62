"""`Pool`: the public face of the engine, safe for threads and forks.

Threads: one lock guards the core and is held for microseconds. Whoever waits does so outside it; what arrives meanwhile is taken by
whoever comes first, and the others are woken. A generator that is dropped anywhere, even by the garbage collector while this thread
holds the lock, only notes that its run is over.

Forks: a child inherits a copy of everything and may use none of it. It forgets the core without a word, and makes its own at first use.

The end of the interpreter: pools are closed before modules go. Daemon threads that read go on until then, and never learn of it.
"""

from __future__ import annotations

import atexit
import gc
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from ..config import settings
from ..errors import ConfigurationError, PoolClosedError, S3dlioError, ViewsHeldError
from .core import Core
from .wanted import Group

if TYPE_CHECKING:
    from ..memory.view import BytesView
    from .items import Item, Run
    from .wanted import Wanted

T = TypeVar("T")

_WAIT_S = 0.25
"""A wait is cut into pieces of this length, so that Ctrl-C, other threads and stopped workers are noticed."""
_PULL_S = 0.005
"""How long the caller's iterable is read before what it gave is fetched: a slow one delays nothing but itself."""
_GRACE_S = 10.0
"""How long views that other threads may hold can delay a pool before that is an error: longer than most training steps."""

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """Worker processes that fetch objects into shared memory, or, with `procs=0`, the same without processes.

    `with s3dlio.Pool(procs=2, jobs=64, memory_bytes="1GiB") as pool: for uri, view in pool.fetch(uris): ...`
    """

    def __init__(
        self, procs: int | None = None, jobs: int | None = None, memory_bytes: int | str | None = None
    ) -> None:
        """Starts the workers, without waiting for them.

        Args:
            procs: Worker processes; 0 fetches in the calling process, whenever it asks for the next object.
            jobs: Requests in flight per worker process.
            memory_bytes: Cap of the shared memory, in bytes or as "1GiB".

        Raises:
            ConfigurationError: An argument makes no sense.
            InsufficientMemoryError: The machine has not the memory.
            UnsupportedError: Not Linux.
        """
        self._settings = settings(procs=procs, jobs=jobs, memory_bytes=memory_bytes)
        self._lock = threading.Lock()
        self._has_left = threading.Condition(self._lock)
        """Told by the last thread that leaves a core which was thrown away."""
        self._over: deque[Run] = deque()
        """Runs that are over and not yet closed."""
        self._waited_until_s = 0.0
        """The end of the last wait of any thread: time in which several wait counts once."""
        self._core: Core | None = None
        self._is_closed = False
        self._open()
        _pools.add(self)

    def _open(self) -> Core:
        core = Core(self._settings, self._settings.procs, self._settings.jobs, self._lock)
        core.finalizer = weakref.finalize(self, _close_core, core, os.getpid())
        core.finalizer.atexit = False  # `_close_all` does it, for pools, which then know that they are closed
        self._core = core
        return core

    def fetch(
        self,
        uris: Iterable[Wanted],
        ordered: bool = True,
        errors: Literal["raise", "return"] = "raise",
    ) -> Iterator[tuple[str, BytesView | S3dlioError]]:
        """Yields (uri, view) for each URI, fetched ahead within the memory cap.

        Args:
            uris: Any iterable, also an endless generator; it is read as far as needed, in the thread that iterates. Duplicates are
                fetched each time. An `ObjectRef`, `ObjectInfo` or `ListEntry` in place of a URI pins size and version.
            ordered: Whether objects come in the order of `uris`; otherwise as they complete.
            errors: "raise" ends the iteration at the first error, in its turn; "return" yields (uri, error) and goes on.

        Yields:
            The URI as given, and a view as of `s3dlio.get`: its slot is free for another object when the view and everything
            derived from it are gone.

        Raises:
            ViewsHeldError: All memory is held by views.
            WorkerLostError: Workers die faster than they may be started again.
            PoolClosedError: The pool was closed.
            S3dlioError: As `s3dlio.get`.
        """
        if errors not in ("raise", "return"):
            raise ConfigurationError(f"errors must be 'raise' or 'return', not {errors!r}")
        if isinstance(uris, str):
            raise ConfigurationError("uris is a list of URIs, not one text; write [uri]", uri=uris)
        self._check_open()
        return self._iterate(iter(uris), ordered, errors)

    def _iterate(
        self, wanted: Iterator[Wanted], ordered: bool, errors: str
    ) -> Iterator[tuple[str, BytesView | S3dlioError]]:
        for item in self._run(wanted, Core.take, ordered):
            if item.error is None:
                yield item.uri, item.pop_view()
            elif errors == "return":
                yield item.uri, item.error
            else:
                raise item.error

    def fetch_items(self, wanted: Iterator[Wanted | Group], ordered: bool, prefetch: int | None = None) -> Iterator[Item]:
        """Yields items, with their views or FAILED.

        Args:
            wanted: As of `fetch`, and groups. A group is one item, whose view has all its places; `sizes` and `member_errors` say what
                is in them. It has an `error` of its own, and no view, only where all its members failed at once.
            ordered: As of `fetch`.
            prefetch: The most items that are in flight or ready at once; None leaves that to the pool.
        """
        return self._run(wanted, Core.take, ordered, prefetch, takes_groups=True)

    def fetch_and_free(self, wanted: Iterator[Wanted]) -> Iterator[list[Item]]:
        """Yields items as they complete, or have failed, many at once; their slots are free again, unread."""
        return self._run(wanted, Core.take_and_free, False)

    def _run(
        self,
        wanted: Iterator[Wanted | Group],
        take: Callable[[Core, Run], T | None],
        ordered: bool,
        prefetch: int | None = None,
        takes_groups: bool = False,
    ) -> Iterator[T]:
        """Runs through all that is wanted, and yields what `take` gives of it."""
        core = self._current()
        with self._lock:
            run = core.scheduler.open_run(ordered, prefetch, takes_groups)
        try:
            while (taken := self._next(core, run, wanted, take)) is not None:
                if takes_groups and run.next_seq == 1:
                    # Now, and not when the loop has done its first step, which is often its longest.
                    self._fill(core, run, wanted)
                yield taken
                # What was handed out is the caller's alone: nothing here may keep a view.
                del taken
        except PoolClosedError:
            _rest_at_exit()
            raise
        finally:
            self._over.append(run)
            if run in core.waiting:
                # Ctrl-C struck on its way into `_wait`.
                self._leave(core, run)
            self._close_runs(core)

    def _next(
        self, core: Core, run: Run, wanted: Iterator[Wanted | Group], take: Callable[[Core, Run], T | None]
    ) -> T | None:
        """Returns what is next in a run, waiting for it; None at the end."""
        patience = _Patience()
        while True:
            with self._lock:
                try:
                    self._check_use(core)
                    taken = None if core.is_move_due(run) else take(core, run)
                    if taken is not None:
                        return taken
                    if core.scheduler.is_finished(run):
                        return None
                    num = core.scheduler.num_wanted(run)
                except BaseException as error:
                    self._break(core, error)
                    raise
            # The user's own code runs outside the lock: it may be slow, and may use this pool.
            more, is_last, is_cut = _pull(wanted, num)
            with self._lock:
                try:
                    self._check_use(core)
                    core.offer(run, more)
                    run.is_exhausted |= is_last
                    has_moved = self._move(core)
                    taken = take(core, run)
                    if taken is not None:
                        return taken
                    # What has come may be no use to this run: then there is nothing more to offer, and all that was granted is sent.
                    is_through = not has_moved or not core.scheduler.num_wanted(run)
                    must_wait = is_through and not is_cut and self._must_wait(core, run, patience)
                    if must_wait:
                        core.waiting.add(run)
                except BaseException as error:
                    self._break(core, error)
                    raise
            if must_wait:
                self._wait(core, run, _WAIT_S if patience.since_s is None else 0.01)
            elif patience.must_collect:
                # Views in reference cycles are held by nobody. Outside the lock: a collection may run any code.
                patience.must_collect = False
                gc.collect()

    def _fill(self, core: Core, run: Run, wanted: Iterator[Wanted | Group]) -> None:
        """Asks for all that a run may have in flight."""
        more, is_last, _ = _pull(wanted, core.scheduler.num_wanted(run))
        with self._lock:
            try:
                self._check_use(core)
                core.offer(run, more)
                run.is_exhausted |= is_last
                self._move(core)
            except BaseException as error:
                self._break(core, error)
                raise

    def _move(self, core: Core) -> bool:
        """Sends and takes what can be, for all runs; returns whether anything has come."""
        while self._over:
            core.scheduler.close_run(self._over.popleft())
        has_moved = core.move()
        if has_moved:
            core.wake()
        return has_moved

    def _must_wait(self, core: Core, run: Run, patience: _Patience) -> bool:
        """Returns whether there is nothing left to do for `run` but to wait.

        Raises:
            ViewsHeldError: Waiting is in vain.
            WorkerLostError: So it is.
        """
        if core.scheduler.is_finished(run) or core.has_news():
            return False
        core.scheduler.deepen(run)
        if core.scheduler.has_commands:
            return False
        core.check_workers()
        try:
            has_room = core.check_views(run)
        except ViewsHeldError:
            if not patience.has_collected:
                patience.has_collected = patience.must_collect = True
                return False
            now_s = time.monotonic()
            patience.since_s = patience.since_s or now_s
            # At once, if no other thread could release a view.
            if threading.active_count() == 1 or now_s - patience.since_s > _GRACE_S:
                raise
            return True
        patience.since_s = None
        return not has_room

    def _break(self, core: Core, error: BaseException) -> None:
        """Throws the core away if Ctrl-C struck inside: a command or an event may have been lost between two lines.

        The next use makes another core. Errors of our own are raised where nothing is lost.
        """
        if not isinstance(error, S3dlioError):
            self._throw_away(core)

    def _throw_away(self, core: Core) -> None:
        """Closes a core, at once or by the last thread that waits on it: its descriptors may be another file's a moment later."""
        if self._core is core:
            self._core = None
        core.is_doomed = True
        core.wake()
        if not core.waiting:
            core.finalizer()

    def _wait(self, core: Core, run: Run, timeout_s: float) -> None:
        begun_s = time.monotonic()
        try:
            core.wait(timeout_s)
        finally:
            now_s = time.monotonic()
            self._leave(core, run)
            with self._lock:
                if not core.is_doomed:
                    core.note_wait(now_s - max(begun_s, self._waited_until_s))
                self._waited_until_s = now_s

    def _leave(self, core: Core, run: Run) -> None:
        """Ends the wait of a run's consumer; the last one closes a core that was thrown away."""
        with self._lock:
            core.waiting.discard(run)
            if core.is_doomed and not core.waiting:
                core.finalizer()
                self._has_left.notify_all()

    def _close_runs(self, core: Core) -> None:
        """Closes the runs that are over, now if the lock is free; otherwise whoever works next does."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            # A collection may have ended the core before the generator that used it.
            if self._core is core and core.finalizer.alive:
                self._move(core)
        except BaseException as error:
            self._break(core, error)
            raise
        finally:
            self._lock.release()

    @property
    def started_s(self) -> float | None:
        """When the first worker was ready, by the monotonic clock; None before."""
        return self._current().started_s

    def stats(self) -> dict[str, Any]:
        """Returns counts since the pool was made: objects, bytes, failures, restarts, and the state of its memory.

        `verified` objects have the checksum that their store gave; of the `unverified` it gave none, or they were read in parts.
        """
        core = self._current()
        with self._lock:
            try:
                self._check_use(core)
                self._move(core)
                return self._counts(core)
            except BaseException as error:
                self._break(core, error)
                raise

    def _counts(self, core: Core) -> dict[str, Any]:
        slots = core.arena.slots
        return {
            "objects": core.scheduler.num_delivered,
            "failed": core.scheduler.num_failed,
            "bytes": core.scheduler.num_bytes,
            "verified": core.scheduler.num_verified,
            "unverified": core.scheduler.num_delivered - core.scheduler.num_verified,
            "in_flight": core.scheduler.num_in_flight,
            "ready": core.scheduler.num_ready,
            "views_held": core.arena.num_leased,
            "workers": core.num_workers,
            "worker_restarts": core.num_restarts,
            "memory_cap_bytes": slots.cap_bytes,
            "memory_reserved_bytes": slots.reserved_bytes,
            "memory_used_bytes": slots.used_bytes,
        }

    def close(self) -> None:
        """Ends the workers and closes everything; views that exist stay readable. May be called again."""
        with self._lock:
            self._is_closed = True
            core = self._core
            if core is not None:
                self._throw_away(core)
                if not self._has_left.wait_for(lambda: not core.finalizer.alive, 2 * _WAIT_S):
                    core.finalizer()
        _pools.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"Pool(procs={self._settings.procs}, jobs={self._settings.jobs}, {state})"

    def _check_open(self) -> None:
        if self._is_closed:
            _rest_at_exit()
            raise PoolClosedError("the pool was closed")

    def _check_use(self, core: Core) -> None:
        if self._is_closed:
            raise PoolClosedError("the pool was closed")
        if self._core is not core:
            raise PoolClosedError("this iteration cannot go on, after a fork or an interruption of the pool; fetch anew")

    def _current(self) -> Core:
        """Returns the core, made anew in a forked child."""
        self._check_open()
        with self._lock:
            core = self._core
            return core if core is not None else self._open()

    def _abandon(self) -> None:
        """After a fork, in the child: keeps the parent's core for the views on it, and never uses it again."""
        if self._core is not None:
            self._core.finalizer.detach()
            self._core.abandon()
            _inherited.append(self._core)
        self._core = None
        self._lock = threading.Lock()
        self._has_left = threading.Condition(self._lock)
        self._over.clear()


class _Patience:
    """What a consumer has tried against memory that only views hold."""

    def __init__(self) -> None:
        self.since_s: float | None = None
        """Since when there is nothing to try any more."""
        self.must_collect = False
        self.has_collected = False


def _pull(wanted: Iterator[Wanted | Group], num: int) -> tuple[list[Wanted | Group], bool, bool]:
    """Returns what is wanted, up to `num` objects or the group that reaches them; whether there is no more; whether that took too long."""
    more: list[Wanted | Group] = []
    begun_s = time.monotonic()
    left = num
    for one in islice(wanted, num):
        more.append(one)
        left -= len(one.refs) if type(one) is Group else 1
        if left <= 0 or time.monotonic() - begun_s > _PULL_S:
            return more, False, left > 0
    return more, num > 0, False


def _close_core(core: Core, pid: int) -> None:
    if os.getpid() == pid:
        core.close()


_is_exiting = threading.Event()


def _close_all() -> None:
    """At the end of the interpreter, when all threads but daemons have ended."""
    _is_exiting.set()
    for pool in list(_pools):
        pool.close()


def _rest_at_exit() -> None:
    """Lets a daemon thread wait for its end, which is near: an error would be all that the user saw of it, as a traceback.

    Python does the same to a daemon thread that wants the GIL a moment later. Source: `PyEval_RestoreThread`.
    """
    if _is_exiting.is_set() and threading.current_thread().daemon:
        threading.Event().wait()


atexit.register(_close_all)

_inherited: list[Core] = []


def _abandon_all() -> None:
    for pool in list(_pools):
        pool._abandon()


os.register_at_fork(after_in_child=_abandon_all)
