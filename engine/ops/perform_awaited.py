"""As `perform.py`, for callers who await.

What touches a local store runs in the event loop's executor, whole: its steps block. A call that is cancelled has its operation throw
away what it began; in the executor, when the step has ended that it is at.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Any, TypeVar

from ..fetch.request import Fetch
from ..pool.awaited import async_fetcher
from ..pool.in_threads import in_thread
from ..pool.inline import inline_fetcher
from ..pool.lanes import Lane
from ..stores.base import GivenUp, Operation, arun, run
from .perform import ITEM_ERRORS, Make, OnEnd, Place

T = TypeVar("T")


async def perform_async(make: Callable[..., Operation[T]], *uris: str) -> T:
    """Does what `make` makes of the places of `uris`, in the lane of single verbs, and returns its result.

    Raises:
        S3dlioError: As the operation says.
    """
    places = [await place_of_async(uri) for uri in uris]
    return await _drive(make(*places), any(place.store.wire.is_local for place in places), None)


async def operate(place: Place, make: Make[T], lane: Lane) -> T:
    """Does what `make` makes of a place, in a lane; what `perform_many_async` does where it is told nothing else.

    Raises:
        S3dlioError: As the operation says.
    """
    return await _drive(make(place), place.store.wire.is_local, lane)


async def perform_many_async(
    todos: Iterable[tuple[str, Any]] | AsyncIterable[tuple[str, Any]],
    max_in_flight: int,
    on_end: OnEnd,
    do: Callable[[Place, Any, Lane], Awaitable[Any]] = operate,
) -> None:
    """Does many things side by side, as `perform_many`, in a lane of their own.

    Args:
        todos: URIs, each with what `do` is to be told.
        max_in_flight: How many are under way at once.
        on_end: Told of each.
        do: Does one.
    """
    room = asyncio.Semaphore(max_in_flight)

    async def one(number: int, uri: str, what: Any) -> None:
        try:
            result = await do(await place_of_async(uri), what, lane)
        except ITEM_ERRORS as error:
            result = error
        room.release()
        on_end(number, result)

    try:
        with async_fetcher().lane(max_in_flight) as lane:
            async with aclosing(_numbered(todos)) as numbered, asyncio.TaskGroup() as group:
                await room.acquire()
                async for number, (uri, what) in numbered:
                    group.create_task(one(number, uri, what))
                    await room.acquire()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def place_of_async(uri: str) -> Place:
    """Returns where a URI is; what takes long is done in a thread.

    Raises:
        S3dlioError: As `registry.locate`.
    """
    return Place(uri, *(await async_fetcher().locate(uri)))


async def _drive(operation: Operation[T], is_local: bool, lane: Lane | None) -> T:
    fetcher = async_fetcher()
    if is_local:
        runner = _ThreadRunner()
        try:
            return await in_thread(run, operation, runner)
        finally:
            runner.is_wanted = False
    return await arun(operation, fetcher.run if lane is None else lane.run)


class _ThreadRunner:
    """A `Runner` for an operation in a thread, which is told at its next request when nobody waits for it any more."""

    def __init__(self) -> None:
        self.is_wanted = True
        self._is_told = False

    def __call__(self, fetch: Fetch) -> Fetch:
        """Drives a request to its end.

        Raises:
            GivenUp: Nobody waits any more; what the operation then asks for is done.
            S3dlioError: As the store says.
        """
        if self.is_wanted:
            return inline_fetcher().run(fetch)
        if self._is_told:
            return inline_fetcher().run_briefly(fetch)
        self._is_told = True
        raise GivenUp


async def _numbered(todos: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[tuple[int, T]]:
    number = 0
    if isinstance(todos, AsyncIterable):
        async for todo in todos:
            yield number, todo
            number += 1
    else:
        for todo in todos:
            yield number, todo
            number += 1
