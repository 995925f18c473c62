"""Writing one whole object, for callers who await: as `uploads.py`, by its rules.

A module of its own, since asyncio takes as long to import as all the rest.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Final

from ..config import settings
from ..errors import S3dlioError
from ..pool.awaited import async_fetcher
from ..pool.in_threads import in_thread, side_by_side
from ..pool.inline import LEAVING_S
from ..pool.lanes import Lane
from ..stores.base import AsyncRunner, Operation, Store, T, Upload, arun
from . import uploads

_SUMMED_AT_ONCE_BYTES: Final = 1 << 20
"""What is longer is signed in a thread: SHA-256 takes 0.6 ms per MiB."""


async def put_object_async(
    store: Store, key: str, data: memoryview, create_only: bool = False, lane: Lane | None = None
) -> None:
    """As `put_object`, for callers who await; `data` must not change before it returns.

    What goes by one request goes in `lane`, and so do parts; if absent, in that of single verbs, and parts have one of their own.

    Raises:
        AlreadyExistsError, S3dlioError: As `put_object`.
    """
    fetcher = async_fetcher()
    if store.wire.is_local:
        # A copy of what can change: the thread goes on where the caller is cancelled, who may then do with its buffer what it likes.
        kept = data if type(data.obj) is bytes else memoryview(bytes(data))
        await in_thread(uploads.put_object, store, key, kept, create_only)
        return
    if not uploads.is_in_parts(store, len(data)):
        await _send(uploads.put_whole(store, key, data, create_only), len(data), lane)
        return
    upload = await _begin(store, key, create_only, lane)
    try:
        num_at_once = uploads.num_at_once(upload)
        todo = uploads.cut(data, upload)
        with fetcher.lane(num_at_once) if lane is None else nullcontext(lane) as of_parts:

            async def work() -> None:
                for piece in todo:
                    await _send(upload.put_part(*piece), len(piece.data), of_parts)

            await side_by_side(*(work() for _ in range(num_at_once)))
        await arun(upload.complete(), _runner(lane))
    except BaseException as error:
        await _throw_away(upload, store.root + key, None if isinstance(error, S3dlioError) else LEAVING_S)
        raise


async def _begin(store: Store, key: str, create_only: bool, lane: Lane | None) -> Upload:
    """Begins an upload. Of one whose caller is cancelled meanwhile the answer is awaited for a moment, so that it can be aborted."""
    begun = asyncio.ensure_future(arun(store.begin_upload(key, create_only), _runner(lane)))
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        await asyncio.wait((begun,), timeout=settings().connect_timeout_s)
        if not begun.done():
            begun.cancel()
        elif not begun.cancelled() and begun.exception() is None:
            await _throw_away(begun.result(), store.root + key, LEAVING_S)
        raise


async def _throw_away(upload: Upload, uri: str, limit_s: float | None) -> None:
    """Aborts an upload; whoever is cancelled does not wait for a silent server longer than `limit_s`."""
    try:
        async with asyncio.timeout(limit_s):
            await arun(uploads.throw_away(upload, uri), async_fetcher().run)
    except TimeoutError:
        uploads.tell_of_left(uri, "the store did not answer in time")


async def _send(operation: Operation[T], num_bytes: int, lane: Lane | None) -> T:
    """Drives an operation whose first step sums what it sends."""
    return await arun(operation, _runner(lane), in_thread if num_bytes > _SUMMED_AT_ONCE_BYTES else None)


def _runner(lane: Lane | None) -> AsyncRunner:
    return async_fetcher().run if lane is None else lane.run
