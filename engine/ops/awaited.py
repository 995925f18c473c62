"""The verbs for callers who await: get, get_range, get_many, put_bytes, stat, exists and list, each with `_async`, and stat_many_async.

They take the arguments of the verbs without `_async`, and give the same results and errors. A call that is cancelled frees its memory and
closes its connection at once.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from ..errors import S3dlioError
from ..pool.awaited import async_fetcher
from ..pool.in_threads import in_thread, side_by_side
from ..pool.rooms import new_view_fetch
from ..stores.base import arun_pages
from . import objects
from .batch import check_batch, hand_out
from .objects import as_payload, check_key, check_range, find, read_range, selection

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
    fetcher = async_fetcher()
    store, key = await fetcher.locate(uri)
    return await fetcher.operate(store, read_range(store, key, uri, offset, length))


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


async def put_bytes_async(uri: str, data: Any) -> None:
    """Writes a whole object, as `put_bytes`. `data` must not change before the call returns.

    Of a call that is cancelled nobody knows whether the object was written; it is there as a whole, or not at all.
    """
    fetcher = async_fetcher()
    store, key = await fetcher.locate(uri)
    check_key(uri, key)
    await fetcher.put(store, key, as_payload(data))


async def stat_async(uri: str) -> dict[str, Any]:
    """Returns the facts of an object, as `stat`."""
    fetcher = async_fetcher()
    store, key = await fetcher.locate(uri)
    return (await fetcher.operate(store, store.stat(key))).as_stat()


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
    results: builtins.list[Any] = [None] * len(wanted)
    todo = iter(enumerate(wanted))
    fetcher = async_fetcher()
    with fetcher.lane(in_flight) as lane:

        async def work() -> None:
            for index, uri in todo:
                try:
                    store, key = await fetcher.locate(uri)
                    results[index] = (await fetcher.operate(store, store.stat(key), lane)).as_stat()
                except S3dlioError as error:
                    results[index] = error

        await side_by_side(*(work() for _ in range(min(in_flight, len(wanted)))))
    return hand_out(wanted, results, False, errors)


async def exists_async(uri: str) -> bool:
    """Whether the object exists, as `exists`."""
    fetcher = async_fetcher()
    store, key = await fetcher.locate(uri)
    return await fetcher.operate(store, find(store, key))


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
