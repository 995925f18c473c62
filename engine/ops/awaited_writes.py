"""The verbs that write and delete, with `_async`: put_bytes, put_many, delete, mkdir, copy, rename, and those of buckets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, Literal

from ..memory.buffers import as_payload
from ..pool.awaited import async_fetcher
from ..pool.in_threads import in_thread
from ..pool.lanes import Lane
from ..stores.base import arun, arun_pages
from ..stores.registry import is_file_scheme
from .awaited_uploads import put_object_async
from .batch import end_puts, pairs_of
from .buckets import as_dicts, bucket_uri, containers_of, make_bucket, make_prefix, remove_bucket
from .copies import copy_one, move_one
from .objects import check_key
from .perform import Outcomes, Place, Todo, check_errors, check_in_flight
from .perform_awaited import perform_async, perform_many_async, place_of_async
from .removal import MAX_IN_FLIGHT, Batches, Removal, check_stars, delete_one, doomed, remove_trees
from .synthetic import plan_of


async def put_bytes_async(uri: str, data: Any, *, if_none_match: bool = False) -> None:
    """Writes a whole object, as `put_bytes`. `data` must not change before the call returns.

    Of a call that is cancelled nobody knows whether the object was written; it is there as a whole, or not at all.
    """
    fetcher = async_fetcher()
    store, key = await fetcher.locate(uri)
    check_key(uri, key)
    await put_object_async(store, key, as_payload(data), if_none_match)


async def put_many_async(
    items: Iterable[tuple[str, Any]], max_in_flight: int = 64, *, errors: Literal["raise", "return"] = "raise"
) -> list[Exception | None] | None:
    """Writes many objects, as `put_many`. Data must not change before the call returns."""
    is_returned, outcomes = check_errors(errors), Outcomes(keeps=errors == "return")
    await perform_many_async(pairs_of(items), check_in_flight(max_in_flight), outcomes.note, _write)
    return end_puts(outcomes, is_returned)


async def _write(place: Place, data: Any, lane: Lane) -> None:
    check_key(place.uri, place.key)
    await put_object_async(place.store, place.key, as_payload(data), lane=lane)


async def put_async(
    prefix: str,
    num: int,
    template: str | None = None,
    max_in_flight: int = 64,
    size: int | str | None = None,
    should_create_bucket: bool = False,
    object_type: str = "zeros",
    dedup_factor: int = 1,
    compress_factor: int = 1,
    data_gen_algorithm: str = "random",
    data_gen_mode: str = "streaming",
    chunk_size: int = 262_144,
) -> None:
    """Writes objects of made-up data, as `put`."""
    plan = plan_of(
        prefix, num, template, max_in_flight, size, should_create_bucket, object_type, dedup_factor, compress_factor,
        data_gen_algorithm, data_gen_mode, chunk_size,
    )  # fmt: skip
    if plan.makes_bucket:
        await perform_async(make_bucket, plan.base)
    outcomes = Outcomes(keeps=False)
    data = await in_thread(plan.data)
    await perform_many_async(plan.pairs(data), plan.max_in_flight, outcomes.note, _write)
    outcomes.raise_first()


async def delete_async(uri: str, recursive: bool = False, *, progress: bool = False) -> None:
    """Deletes an object, or with `recursive` all below it too, as `delete`. Soon after a call is cancelled nothing more is deleted."""
    if not recursive:
        await perform_async(delete_one, uri)
        return
    place = await place_of_async(uri)
    check_stars(place)
    with Removal(uri, progress=progress) as removal:
        if is_file_scheme(uri):
            try:
                await in_thread(remove_trees, place, removal)
            finally:
                removal.is_wanted = False
        else:
            await perform_many_async(_batches(place), MAX_IN_FLIGHT, removal.note)


async def mkdir_async(uri: str) -> None:
    """Makes a directory, or a marker object, as `mkdir`."""
    await perform_async(make_prefix, uri)


async def copy_async(src: str, dst: str) -> None:
    """Copies an object, as `copy`. After a call that was cancelled the copy is there as a whole, or not at all."""
    await perform_async(copy_one, src, dst)


async def rename_async(src: str, dst: str) -> None:
    """Gives an object another URI, as `rename`. After a call that was cancelled it is at one of them as a whole, or at both."""
    await perform_async(move_one, src, dst)


async def create_bucket_async(name: str | None = None, *, bucket_name: str | None = None) -> None:
    """Makes a bucket or container, as `create_bucket`."""
    await perform_async(make_bucket, bucket_uri(name, bucket_name))


async def delete_bucket_async(name: str | None = None, *, bucket_name: str | None = None) -> None:
    """Deletes an empty bucket or container, as `delete_bucket`."""
    await perform_async(remove_bucket, bucket_uri(name, bucket_name))


async def list_containers_async(uri: str) -> list[dict[str, Any]]:
    """Returns the buckets or containers of an account, as `list_containers`."""
    # What opens an account may take as long as credentials do.
    operation = await in_thread(containers_of, uri)
    return as_dicts(await arun(operation, async_fetcher().run))


async def _batches(place: Place) -> AsyncIterator[Todo]:
    batches = Batches(place)
    async for page in arun_pages(doomed(place), async_fetcher().run):
        for todo in batches.add(page):
            yield todo
    for todo in batches.rest():
        yield todo
