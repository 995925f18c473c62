"""The verbs that read, with `_async`: get, get_range, get_into, get_many, stat, stat_many, get_many_stats, exists and list.

They take the arguments of the verbs without `_async`, and give the same results and errors. A call that is cancelled frees its memory and
closes its connection at once.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ..pool.awaited import async_fetcher
from ..pool.in_threads import in_thread, to_its_end
from ..pool.rooms import new_view_fetch
from ..stores.base import arun, arun_pages
from . import objects
from .batch import Sizes, check_batch, check_stats, hand_out, looks
from .into import check_into, read_into
from .objects import check_range, find, look_up, read_range, selection
from .perform import Outcomes
from .perform_awaited import perform_async, perform_many_async, place_of_async

if TYPE_CHECKING:
    from ..memory.view import BytesView


async def get_async(uri: str) -> BytesView:
    """Returns a whole object, as `get`.

    However many tasks call this at once, `jobs` requests of an event loop are in flight (64 unless configured), in the order of the calls.
    """
    fetcher = async_fetcher()
    store, key = await fetcher.locate(uri)
    return await fetcher.fetch_one(new_view_fetch(uri, store.wire, key))


async def get_range_async(uri: str, offset: int, length: int | None = None) -> BytesView:
    """Returns bytes [offset, offset + length) of an object, as `get_range`."""
    check_range(uri, offset, length)
    return await perform_async(partial(read_range, offset=offset, length=length), uri)


async def get_into_async(uri: str, buffer: Any, offset: int = 0, length: int | None = None) -> int:
    """Reads bytes [offset, offset + length) of an object to the beginning of `buffer`, as `get_into`.

    A call that is cancelled writes nothing to `buffer` any more: of a local file it first reads the piece to its end that it is at.
    """
    with check_into(uri, buffer, offset, length) as room:
        place = await place_of_async(uri)
        operation = read_into(place, room, offset, length)
        if place.store.wire.is_local:
            return await to_its_end(operation)
        return await arun(operation, async_fetcher().run)


async def get_many_async(
    uris: Iterable[str],
    workers: int | None = None,
    *,
    max_in_flight: int | None = None,
    with_uris: bool = False,
    errors: Literal["raise", "return"] = "raise",
) -> builtins.list[Any]:
    """Returns whole objects in the order of `uris`, as `get_many`.

    `workers` (or `max_in_flight`) counts for this call alone: two calls at once have twice as many requests in flight.
    """
    wanted, in_flight = check_batch(uris, workers, max_in_flight, errors)
    return hand_out(wanted, await async_fetcher().fetch_many(wanted, in_flight), with_uris, errors)


async def stat_async(uri: str) -> dict[str, Any]:
    """Returns the facts of an object, as `stat`."""
    return await perform_async(look_up, uri)


async def stat_many_async(
    uris: Iterable[str],
    workers: int | None = None,
    *,
    max_in_flight: int | None = None,
    errors: Literal["raise", "return"] = "raise",
) -> builtins.list[Any]:
    """Returns the facts of many objects, in the order of `uris`.

    Args:
        uris: Any URIs, also of several schemes.
        workers: Requests in flight at once, 64 by default; `max_in_flight` is another name for it.
        max_in_flight: As `workers`.
        errors: "raise" raises the first error in input order, after all were tried; "return" puts errors in their places.

    Raises:
        ConfigurationError: An argument makes no sense.
        S3dlioError: As `stat`, unless `errors="return"`.
    """
    wanted, in_flight = check_batch(uris, workers, max_in_flight, errors)
    outcomes = Outcomes(keeps=True)
    await perform_many_async(((uri, look_up) for uri in wanted), in_flight, outcomes.note)
    return hand_out(wanted, outcomes.in_order(), False, errors)


async def get_many_stats_async(
    uris: Iterable[str], concurrency: int | None = None, *, max_in_flight: int | None = None
) -> tuple[int, int]:
    """Returns how many objects there are, and their bytes together, as `get_many_stats`."""
    in_flight, sizes = check_stats(uris, concurrency, max_in_flight), Sizes()
    await perform_many_async(looks(uris), in_flight, sizes.note)
    return sizes.total()


async def exists_async(uri: str) -> bool:
    """Whether the object exists, as `exists`."""
    return await perform_async(find, uri)


async def list_async(
    uri: str, recursive: bool = False, pattern: str | re.Pattern[str] | None = None
) -> builtins.list[str]:
    """Returns the sorted URIs below `uri`, as `list`."""
    fetcher = async_fetcher()
    store, key = await fetcher.locate(uri)
    if store.wire.is_local:
        return await in_thread(objects.list, uri, recursive, pattern)
    select = selection(store, key, uri, pattern)
    found: builtins.list[str] = []
    async for page in arun_pages(store.list_pages(key, recursive), fetcher.run):
        found += [entry.uri for entry in select(page)]
    return sorted(found)
