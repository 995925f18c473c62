"""What would stop an event loop, done in the threads of its own executor: whatever blocks, and reads of local files, piece by piece."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from ..config import settings
from ..fetch.local import read_piece
from ..fetch.request import State
from .rooms import Rooms, ViewFetch

T = TypeVar("T")
P = ParamSpec("P")

_LOCAL_THREADS: Final = 4
"""Threads that one call on many local files reads from at once."""


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls `function` in the executor of the running event loop, which bounds its threads and ends them with itself."""
    return await asyncio.get_running_loop().run_in_executor(None, partial(function, *args, **kwargs))


class _LocalReads:
    """Reads of local files, piece by piece, by as many threads as call `work`, until nobody wants them any more."""

    def __init__(self, rooms: Rooms, todo: deque[ViewFetch], results: list[Any]) -> None:
        self._rooms = rooms
        self._todo = todo
        self._results = results
        self.is_wanted = True

    def work(self) -> None:
        """Reads what is left; runs in a thread."""
        limits = settings()
        with suppress(IndexError):  # nothing is left
            while self.is_wanted:
                fetch = self._todo.popleft()
                self._rooms.guess((fetch,))
                while self.is_wanted:
                    read_piece(fetch, self._rooms.grant, limits)
                    if fetch.state >= State.DONE:
                        self._results[fetch.token] = self._rooms.outcome(fetch)
                        break


async def read_locally(rooms: Rooms, todo: deque[ViewFetch], results: list[Any], max_threads: int) -> None:
    """Reads local files into memory of their own; views and errors go to their places among `results`."""
    reads = _LocalReads(rooms, todo, results)
    try:
        await side_by_side(*(in_thread(reads.work) for _ in range(min(len(todo), max_threads, _LOCAL_THREADS))))
    finally:
        reads.is_wanted = False


async def side_by_side(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Runs coroutines as tasks. Where one raises, or the caller is cancelled, the others are cancelled; it returns when all have ended."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
