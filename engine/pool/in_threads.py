"""What would stop an event loop, done in the threads of its own executor: whatever blocks, and reads of local files, piece by piece."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from ..config import settings
from ..errors import InternalError
from ..fetch.local import read_piece
from ..fetch.request import Fetch, State
from ..stores.base import Operation, run
from .rooms import Rooms, ViewFetch, process_rooms

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


class _LocalRunner:
    """A `Runner` of reads of local files, piece by piece, until nobody wants them any more."""

    def __init__(self) -> None:
        self.is_wanted = True

    def __call__(self, fetch: Fetch) -> Fetch:
        """Reads to the end.

        Raises:
            S3dlioError: As the file system says.
        """
        grant, limits = process_rooms().grant, settings()
        while fetch.state < State.DONE:
            if not self.is_wanted:
                raise InternalError("nobody waits for this any more", uri=fetch.uri)
            read_piece(fetch, grant, limits)
        if fetch.error is not None:
            raise fetch.error
        return fetch


async def to_its_end(operation: Operation[T]) -> T:
    """Drives an operation that reads from a local store into memory of the caller's, in the event loop's executor.

    A caller who is cancelled gets away when the piece is read that is being read: from then on nobody writes to that memory.

    Raises:
        S3dlioError: As the operation says.
    """
    runner = _LocalRunner()
    done = asyncio.ensure_future(in_thread(run, operation, runner))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        runner.is_wanted = False
        while not done.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((done,))
        if not done.cancelled():
            done.exception()  # taken, so that asyncio does not complain
        raise


async def side_by_side(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Runs coroutines as tasks. Where one raises, or the caller is cancelled, the others are cancelled; it returns when all have ended."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
