"""Lanes: requests of one event loop that share a limit, each awaited by itself (`Lane.run`) or many by one future (`Batch`)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from ..fetch.request import Fetch
from .rooms import Rooms, ViewFetch

if TYPE_CHECKING:
    from .awaited import AsyncFetcher


class Lane:
    """Requests that share a limit. `run` is an `AsyncRunner`."""

    def __init__(self, fetcher: AsyncFetcher, limit: int) -> None:
        self.fetcher = fetcher
        self.limit = limit
        self.num_under_way = 0
        self.waiting: OrderedDict[Fetch, Callable[[Fetch], None]] = OrderedDict()
        """Requests that are to be started, with who is to be told of their end."""

    async def run(self, fetch: Fetch) -> Fetch:
        """Drives one request to its end and returns it; a `ViewFetch` has its view then.

        Raises:
            S3dlioError: The request's error.
        """
        fetcher = self.fetcher
        if fetcher.is_closed:
            # `shutdown` came between two requests of a call.
            return await fetcher.successor().run(fetch)
        future = asyncio.get_running_loop().create_future()
        self.waiting[fetch] = partial(_wake, future)
        try:
            fetcher.kick()
            await future
        except BaseException:
            fetcher.cancel(self, fetch)
            raise
        error, fetch.error = fetch.error, None
        if error is None and isinstance(fetch, ViewFetch):
            fetch.view = fetcher.rooms.result(fetch)
        if error is not None:
            if isinstance(fetch, ViewFetch):
                # The error's traceback keeps this frame, and should not keep the memory.
                fetch.forget()
            raise error
        return fetch


class Batch:
    """A call on many objects: one future for all, since a task that is woken for each costs half as much as the object itself.

    It must be no part of a cycle: the results' memory would wait for the collector, and the next batch for fresh memory (twice the time).
    """

    def __init__(self, rooms: Rooms, lane: Lane, todo: Iterator[ViewFetch], results: list[Any]) -> None:
        self._rooms = rooms
        self._lane = lane
        self._todo = todo
        self._results = results
        self.is_done = asyncio.get_running_loop().create_future()

    def begin(self) -> bool:
        """Puts the first requests into the lane; returns whether there are any."""
        for fetch in islice(self._todo, self._lane.limit):
            self._lane.waiting[fetch] = self._on_end
        return bool(self._lane.waiting)

    def _on_end(self, fetch: Fetch) -> None:
        self._results[fetch.token] = self._rooms.outcome(cast("ViewFetch", fetch))
        lane = self._lane
        following = None if lane.fetcher.is_closed else next(self._todo, None)
        if following is not None:
            lane.waiting[following] = self._on_end
        elif not lane.num_under_way and not lane.waiting:
            _wake(self.is_done)


def _wake(future: asyncio.Future[None], _fetch: Fetch | None = None) -> None:
    # Not if it was cancelled in this very turn.
    if not future.done():
        future.set_result(None)
