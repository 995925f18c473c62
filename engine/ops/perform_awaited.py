"""As `perform.py`, for callers who await.

What touches a local store runs in the event loop's executor, whole: its steps block. A call that is cancelled has its operation throw
away what it began; one that runs in the executor goes on there to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import aclosing
from typing import TypeVar

from ..pool.awaited import async_fetcher
from ..pool.in_threads import in_thread
from ..pool.inline import inline_fetcher
from ..pool.lanes import Lane
from ..stores.base import Operation, arun, run
from .perform import ITEM_ERRORS, OnEnd, Place, Todo

T = TypeVar("T")


async def perform_async(make: Callable[..., Operation[T]], *uris: str) -> T:
    """Does what `make` makes of the places of `uris`, in the lane of single verbs, and returns its result.

    Raises:
        S3dlioError: As the operation says.
    """
    return await _perform(make, uris, None)


async def perform_many_async(todos: Iterable[Todo] | AsyncIterable[Todo], max_in_flight: int, on_end: OnEnd) -> None:
    """Does many things side by side, as `perform_many`, in a lane of their own."""
    room = asyncio.Semaphore(max_in_flight)

    async def one(number: int, todo: Todo) -> None:
        uri, make = todo
        try:
            result = await _perform(make, (uri,), lane)
        except ITEM_ERRORS as error:
            result = error
        room.release()
        on_end(number, result)

    try:
        with async_fetcher().lane(max_in_flight) as lane:
            async with aclosing(_numbered(todos)) as numbered, asyncio.TaskGroup() as group:
                await room.acquire()
                async for number, todo in numbered:
                    group.create_task(one(number, todo))
                    await room.acquire()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _perform(make: Callable[..., Operation[T]], uris: Iterable[str], lane: Lane | None) -> T:
    fetcher = async_fetcher()
    places = [Place(uri, *(await fetcher.locate(uri))) for uri in uris]
    operation = make(*places)
    if any(place.store.wire.is_local for place in places):
        return await in_thread(run, operation, inline_fetcher().run)
    return await arun(operation, fetcher.run if lane is None else lane.run)


async def _numbered(todos: Iterable[Todo] | AsyncIterable[Todo]) -> AsyncGenerator[tuple[int, Todo]]:
    number = 0
    if isinstance(todos, AsyncIterable):
        async for todo in todos:
            yield number, todo
            number += 1
    else:
        for todo in todos:
            yield number, todo
            number += 1
