"""Fetching for callers who await: each running event loop has a fetch loop of its own, and no thread.

The descriptor of the fetch loop's epoll set stands in the event loop as a reader; beside it there is one timer at most, for timeouts and
for retries. Whoever awaits holds a future; a future is never given an error (nobody may be left to take it), only its request is.

Rules:

* Requests belong to *lanes*. Each lane has at most `limit` of its requests under way, in the order in which they came. Single verbs share
  one lane per event loop, as wide as `jobs`; a call on many objects has a lane of its own, as wide as it was asked to be. So a thousand
  `get_async` open as many connections as one `get_many_async`, and neither waits behind the other.
* A request that nobody awaits any more is cancelled at once: its connection is closed first, then its memory is given back, so that no
  late write finds the memory of somebody else.
* The fetch loop's clock counts what the event loop has waited, and no more of a callback of the user's than one interval of the timer.
* What blocks (local files, opening a bucket) runs in the event loop's own executor.
* A fetcher lives as long as its event loop is open: see `_Reader`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..config import settings
from ..errors import InternalError, S3dlioError, describe
from ..fetch.loop import FetchLoop
from ..fetch.request import Fetch
from ..stores.base import AsyncRunner, Operation, Store, arun, run
from ..stores.registry import is_open, locate, open_store
from ..types import ObjectRef
from ..uri import parse_uri
from .in_threads import in_thread, read_locally, side_by_side
from .inline import inline_fetcher, make_fetches
from .lanes import Batch, Lane
from .rooms import ViewFetch, process_rooms
from .wanted import facts_of

if TYPE_CHECKING:
    from ..memory.view import BytesView

T = TypeVar("T")
P = ParamSpec("P")


class AsyncFetcher:
    """The connections of one event loop. Used by the loop's own thread only, but for `retire`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self.rooms = process_rooms()
        self._fetch_loop = FetchLoop(settings(), 1)
        self._fetch_loop.grant = self.rooms.grant
        self._lanes: list[Lane] = []
        self._under_way: dict[Fetch, tuple[Lane, Callable[[Fetch], None]]] = {}
        """What the fetch loop owes, and who is to be told of its end."""
        self._seen_s = 0.0
        """When the fetch loop was polled last."""
        self._due_s = 0.0
        """When the timer fires that fires next; in the past, if there is none."""
        self._is_pump_due = False
        self._is_retired = False
        self.is_closed = False
        """Whether it drives no request any more, and another is to be asked for."""
        self._broken_by: BaseException | None = None
        """Why all that was under way came to nothing."""
        self._asked: dict[Hashable, asyncio.Future[Any]] = {}
        """What runs in a thread now, for all who need it."""
        self._singles = self._open_lane(settings().jobs)
        loop.add_reader(self._fetch_loop.fileno(), _Reader(self))

    # What the verbs call.

    def successor(self) -> AsyncFetcher:
        """Returns the one to go on with, where this one is closed."""
        return async_fetcher()

    @property
    def run(self) -> AsyncRunner:
        """The runner of single verbs."""
        return self._singles.run

    async def locate(self, uri: str) -> tuple[Store, str]:
        """As `registry.locate`; what may take long is done in a thread: opening a bucket, replacing credentials that have expired.

        Raises:
            S3dlioError: As `registry.locate`.
        """
        if not is_open(uri):
            await self._open(uri)
        store, key = locate(uri)
        if _has_expired(store):
            await self._once(("renew", store.root), store.renew)
        return store, key

    async def _open(self, uri: str) -> Store:
        """Opens the store of `uri`: once for all who need it, whatever the rest of their URIs is like."""
        parts = parse_uri(uri)
        return await self._once(("open", parts.root), open_store, parts.scheme, parts.root)

    async def operate(self, store: Store, operation: Operation[T], lane: Lane | None = None) -> T:
        """Drives an operation of `store` to its end, in the lane of single verbs or in `lane`, and returns its result.

        Raises:
            S3dlioError: As the operation says.
        """
        if store.wire.is_local:
            return await in_thread(run, operation, inline_fetcher().run)
        return await arun(operation, (lane or self._singles).run)

    async def fetch_one(self, fetch: ViewFetch) -> BytesView:
        """Fetches one object into memory of its own.

        Raises:
            S3dlioError: As the store says.
        """
        if fetch.wire.is_local:
            results: list[Any] = [None]
            fetch.token = 0
            await read_locally(self.rooms, deque((fetch,)), results, 1)
            if isinstance(results[0], S3dlioError):
                raise results[0]
            found: BytesView = results[0]
            return found
        await self._singles.run(fetch)
        assert fetch.view is not None
        return fetch.view

    async def fetch_many(self, uris: Sequence[ObjectRef | str], max_in_flight: int) -> list[BytesView | S3dlioError]:
        """Fetches whole objects, at most `max_in_flight` at once; returns views and errors in the order of `uris`."""
        results: list[Any] = [None] * len(uris)
        are_some_local = await self._open_all(uris)
        todo = make_fetches(enumerate(uris), results)
        if not are_some_local:
            await self._fetch_remote(todo, results, max_in_flight)
            return results
        fetches = [*todo]
        remote = iter([fetch for fetch in fetches if not fetch.wire.is_local])
        local = deque(fetch for fetch in fetches if fetch.wire.is_local)
        del fetches
        await side_by_side(
            self._fetch_remote(remote, results, max_in_flight), read_locally(self.rooms, local, results, max_in_flight)
        )
        return results

    @contextmanager
    def lane(self, limit: int) -> Iterator[Lane]:
        """Opens a lane for a call on many objects; what is in it at the end is cancelled."""
        lane = self._open_lane(limit)
        try:
            yield lane
        finally:
            lane.waiting.clear()
            for fetch in [fetch for fetch, (its_lane, _) in self._under_way.items() if its_lane is lane]:
                self.cancel(lane, fetch)
            self._lanes.remove(lane)
            self._limit()

    def cancel(self, lane: Lane, fetch: Fetch) -> None:
        """Ends a request that nobody awaits any more, if it has not ended by itself."""
        if lane.waiting.pop(fetch, None) is None and self._under_way.pop(fetch, None) is not None:
            lane.num_under_way -= 1
            if not self.is_closed:
                self._fetch_loop.cancel(fetch)
                self.kick()
        if isinstance(fetch, ViewFetch):
            fetch.forget()

    def kick(self) -> None:
        """Has what waits in a lane started: at once where nothing is under way, else together with what else comes in this turn."""
        if self.is_closed:
            return
        if not self._under_way:
            self._guarded(self._begin)
        elif not self._is_pump_due:
            loop = self._open_loop()
            if loop is not None:
                self._is_pump_due = True
                loop.call_soon(self.pump)

    async def _fetch_remote(self, todo: Iterator[ViewFetch], results: list[Any], max_in_flight: int) -> None:
        if self.is_closed:
            # `shutdown` came while the buckets were opened.
            await self.successor()._fetch_remote(todo, results, max_in_flight)
            return
        with self.lane(max_in_flight) as lane:
            batch = Batch(self.rooms, lane, todo, results)
            if batch.begin():
                self.kick()
                await batch.is_done
        if self._broken_by is not None:
            raise _broken_off(None, self._broken_by)

    async def _open_all(self, refs: Sequence[ObjectRef | str]) -> bool:
        """Opens the stores of all; returns whether any is local. What cannot be opened fails later, each URI by itself."""
        opened: set[str] = set()
        are_some_local = False
        for ref in refs:
            with suppress(S3dlioError):
                uri = ref if isinstance(ref, str) else facts_of(ref)[0]
                beginning = uri[: uri.find("/", uri.find("://") + 3) + 1]
                if beginning and beginning in opened:
                    continue
                root = parse_uri(uri).root
                opened.add(beginning)
                store = await self._open(uri)
                are_some_local |= store.wire.is_local
                if _has_expired(store):
                    await self._once(("renew", root), store.renew)
        return are_some_local

    async def _once(self, key: Hashable, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `function` in a thread, once for all who ask for `key` meanwhile; one who is cancelled does not take it from the others."""
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = asyncio.ensure_future(in_thread(function, *args, **kwargs))
            asked.add_done_callback(partial(self._forget_asked, key))
        found: T = await asyncio.shield(asked)
        return found

    def _forget_asked(self, key: Hashable, asked: asyncio.Future[Any]) -> None:
        del self._asked[key]
        if not asked.cancelled():
            # Taken, so that asyncio does not complain where all who asked were cancelled.
            asked.exception()

    # What the event loop calls.

    def pump(self) -> None:
        """Moves everything that can move, and plans the next look."""
        self._is_pump_due = False
        if not self.is_closed:
            self._guarded(self._pump)

    def _on_timer(self, due_s: float) -> None:
        if due_s == self._due_s:
            # uvloop's timers may fire early, by a millisecond or by the length of a callback.
            self._due_s = min(due_s, time.monotonic())
        self.pump()

    def _guarded(self, turn: Callable[[], None]) -> None:
        try:
            turn()
        except BaseException as error:
            self._give_up(error)
            raise

    def _begin(self) -> None:
        """Starts the first requests after a pause. What was configured meanwhile holds from here on."""
        limits = settings()
        self._fetch_loop.limits = limits
        self._singles.limit = limits.jobs
        self._limit()
        # Nobody has waited for anything since the last poll.
        self._seen_s = time.monotonic()
        self._fill()
        self._fetch_loop.start()
        self._plan()

    def _pump(self) -> None:
        fetch_loop = self._fetch_loop
        # An event loop that waits comes here by `_due_s`: what is beyond was spent in callbacks, and is no fault of the server's.
        waited_s = min(time.monotonic(), self._due_s) - self._seen_s
        if waited_s > 0:
            fetch_loop.note_wait(waited_s)
        self._fill()
        finished = fetch_loop.poll(0)
        self._seen_s = time.monotonic()
        under_way = self._under_way
        for fetch in finished:
            entry = under_way.pop(fetch, None)
            if entry is not None:
                lane, on_end = entry
                lane.num_under_way -= 1
                on_end(fetch)
        if finished:
            # What takes the place of the finished ones is sent together.
            self._fill()
            fetch_loop.start()
        self._plan()

    def _fill(self) -> None:
        """Hands to the fetch loop what the lanes have room for."""
        for lane in self._lanes:
            waiting = lane.waiting
            room = lane.limit - lane.num_under_way
            if room <= 0 or not waiting:
                continue
            fetches = []
            for _ in range(min(room, len(waiting))):
                fetch, on_end = waiting.popitem(last=False)
                self._under_way[fetch] = (lane, on_end)
                fetches.append(fetch)
            lane.num_under_way += len(fetches)
            self.rooms.guess([fetch for fetch in fetches if isinstance(fetch, ViewFetch)])
            for fetch in fetches:
                self._fetch_loop.submit(fetch)

    def _plan(self) -> None:
        """Sets the timer, if the next look is due before it fires.

        A timer that came too early fires all the same, which does no harm; its handle is not kept, since it would keep the event loop.
        """
        loop = self._open_loop()
        if loop is None:
            return
        if not self._under_way and not self._fetch_loop.has_work:
            if self._is_retired:
                self.retire(loop)
            return
        wait_s = self._fetch_loop.wait_s(None)
        now_s = time.monotonic()
        if not now_s < self._due_s <= now_s + wait_s:
            self._due_s = now_s + wait_s
            loop.call_later(wait_s, self._on_timer, self._due_s)

    def _open_loop(self) -> asyncio.AbstractEventLoop | None:
        """Returns the event loop, running or standing still; None if it is closed, as when its last tasks are swept up."""
        loop = self._loop()
        return None if loop is None or loop.is_closed() else loop

    def _give_up(self, error: BaseException) -> None:
        """An interrupt, or a fault of our own, came in the middle of the books: nobody may go on with them, and whoever waits is told."""
        _forget_fetcher(self)
        self._broken_by = error
        loop = self._open_loop()
        if loop is not None:
            self._leave(loop)
        self.close()
        ended = [(fetch, on_end) for fetch, (_, on_end) in self._under_way.items()]
        for lane in self._lanes:
            ended += lane.waiting.items()
            lane.waiting.clear()
            lane.num_under_way = 0
        self._under_way.clear()
        for fetch, on_end in ended:
            fetch.error = _broken_off(fetch.uri, error)
            on_end(fetch)

    # Beginning and end.

    def retire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Has the connections closed as soon as nothing is under way. Called in the thread of `loop`, or while it does not run."""
        self._is_retired = True
        if not self._under_way and not any(lane.waiting for lane in self._lanes):
            self._leave(loop)

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        # Before the descriptor is closed, for the event loop would be left with one that is somebody else's next.
        if not self.is_closed and not loop.is_closed():
            loop.remove_reader(self._fetch_loop.fileno())
        self.close()

    def close(self) -> None:
        """Closes connections at once; what is under way is forgotten."""
        if not self.is_closed:
            self.is_closed = True
            self._fetch_loop.close()

    def abandon(self) -> None:
        """In a forked child: lets go of the connections without touching them."""
        self.is_closed = True

    def _open_lane(self, limit: int) -> Lane:
        lane = Lane(self, limit)
        self._lanes.append(lane)
        self._limit()
        return lane

    def _limit(self) -> None:
        self._fetch_loop.max_connections = max(1, sum(lane.limit for lane in self._lanes))


class _Reader:
    """What stands in the event loop for the fetch loop's descriptor.

    Nobody but the event loop holds it, and there is no other way to hear that an event loop is closed: closing lets go of all readers,
    this one's end closes the connections. The same goes for an event loop that is dropped without being closed. (An async generator,
    which `asyncio.run` ends before it closes the loop, hears of no plain `loop.close()`, and ends too early for what others do in
    theirs.)
    """

    __slots__ = ("_fetcher",)

    def __init__(self, fetcher: AsyncFetcher) -> None:
        self._fetcher = fetcher

    def __call__(self) -> None:
        self._fetcher.pump()

    def __del__(self) -> None:
        self._fetcher.close()


def _broken_off(uri: str | None, cause: BaseException) -> InternalError:
    return InternalError("what this event loop had under way was broken off", uri=uri, cause=describe(cause))


def _has_expired(store: Store) -> bool:
    """Whether the credentials of `store` are of no use any more. Those that are only about to expire it renews by itself."""
    expires_at_s = getattr(store.spec, "expires_at_s", None)
    return expires_at_s is not None and datetime.now(UTC).timestamp() >= expires_at_s


_fetchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[AsyncFetcher]] = weakref.WeakKeyDictionary()
"""By event loop, and weakly: an event loop holds its fetcher, by `_Reader`."""
_alive: weakref.WeakSet[AsyncFetcher] = weakref.WeakSet()
"""All of them, also those that only end what is under way."""
_making = threading.Lock()
_inherited: list[AsyncFetcher] = []
"""After a fork: the parent's, kept and never touched."""


def async_fetcher() -> AsyncFetcher:
    """Returns the fetcher of the running event loop, made at the first call.

    Raises:
        RuntimeError: No event loop is running.
    """
    loop = asyncio.get_running_loop()
    known = _fetchers.get(loop)
    found = None if known is None else known()
    if found is None:
        with _making:
            found = AsyncFetcher(loop)
            _alive.add(found)
            _fetchers[loop] = weakref.ref(found)
    return found


def close_awaited() -> None:
    """Has every event loop's connections closed as soon as nothing is under way; the next call begins anew."""
    with _making:
        found = [(loop, fetcher) for loop, known in _fetchers.items() if (fetcher := known()) is not None]
        _fetchers.clear()
    for loop, fetcher in found:
        if loop.is_running() and asyncio._get_running_loop() is not loop:
            with suppress(RuntimeError):  # it was closed just now
                loop.call_soon_threadsafe(fetcher.retire, loop)
        else:
            fetcher.retire(loop)


def _forget_fetcher(fetcher: AsyncFetcher) -> None:
    with _making:
        for loop, known in list(_fetchers.items()):
            if known() is fetcher:
                del _fetchers[loop]


def _abandon() -> None:
    global _making
    _making = threading.Lock()
    for fetcher in list(_alive):
        fetcher.abandon()
        _inherited.append(fetcher)
    _fetchers.clear()


os.register_at_fork(after_in_child=_abandon)
