"""Writing one whole object: by one request, or in parts where it is long. What put_bytes, put_many, upload and the writers stand on.

Rules:

* Whoever fails or is interrupted between the beginning and the end of an upload has the parts thrown away, and raises what it would have
  raised. Where that does not work either, the log says so: `s3dlio cleanup` finds what is left.
* Parts are cut out of the caller's memory, and sent from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Final, NamedTuple

from ..config import settings
from ..errors import S3dlioError
from ..pool.awaited import async_fetcher
from ..pool.in_threads import in_thread, side_by_side
from ..pool.inline import inline_fetcher
from ..pool.lanes import Lane
from ..stores.base import Operation, Store, T, Upload, arun, run

_log = logging.getLogger("s3dlio")
MAX_PARTS_IN_FLIGHT: Final = 16
"""Of one object. More share a slow line for so long that each comes to its deadline: 16 parts of 16 MiB take 215 s at 10 Mbit/s."""
_SUMMED_AT_ONCE_BYTES: Final = 1 << 20
"""What is longer is signed in a thread: SHA-256 takes 0.6 ms per MiB."""


class Piece(NamedTuple):
    """A part that is to be sent."""

    number: int
    data: memoryview
    is_last: bool


def put_object(store: Store, key: str, data: memoryview, create_only: bool = False) -> None:
    """Writes an object, its parts side by side.

    Raises:
        AlreadyExistsError: There is one, and `create_only` was asked for.
        S3dlioError: As the store says.
    """
    fetcher = inline_fetcher()
    if not is_in_parts(store, len(data)):
        run(store.put(key, data, create_only), fetcher.run)
        return
    upload = run(store.begin_upload(key, create_only), fetcher.run)
    try:
        _send_parts(upload, data)
        run(upload.complete(), fetcher.run)
    except BaseException:
        run(throw_away(upload, store.root + key), fetcher.run)
        raise


def _send_parts(upload: Upload, data: memoryview) -> None:
    parts = ((piece.number, upload.put_part(*piece)) for piece in cut(data, upload))
    with closing(inline_fetcher().run_many(parts, _num_at_once(upload))) as ended:
        for _, error in ended:
            if isinstance(error, S3dlioError):
                raise error


async def put_object_async(store: Store, key: str, data: memoryview, create_only: bool = False) -> None:
    """As `put_object`, for callers who await; `data` must not change before it returns.

    Raises:
        AlreadyExistsError, S3dlioError: As `put_object`.
    """
    fetcher = async_fetcher()
    if store.wire.is_local:
        # A copy: the thread goes on where the caller is cancelled, and the caller may then do with its buffer what it likes.
        await in_thread(put_object, store, key, memoryview(bytes(data)), create_only)
        return
    if not is_in_parts(store, len(data)):
        await _send(store.put(key, data, create_only), len(data), None)
        return
    upload = await _begin(store, key, create_only)
    try:
        num_at_once = _num_at_once(upload)
        todo = cut(data, upload)
        with fetcher.lane(num_at_once) as lane:

            async def work() -> None:
                for piece in todo:
                    await _send(upload.put_part(*piece), len(piece.data), lane)

            await side_by_side(*(work() for _ in range(num_at_once)))
        await arun(upload.complete(), async_fetcher().run)
    except BaseException:
        await arun(throw_away(upload, store.root + key), async_fetcher().run)
        raise


async def _begin(store: Store, key: str, create_only: bool) -> Upload:
    """Begins an upload. Of one whose caller is cancelled meanwhile the answer is awaited for a moment, so that it can be aborted."""
    begun = asyncio.ensure_future(arun(store.begin_upload(key, create_only), async_fetcher().run))
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        await asyncio.wait((begun,), timeout=settings().connect_timeout_s)
        if not begun.done():
            begun.cancel()
        elif not begun.cancelled() and begun.exception() is None:
            await arun(throw_away(begun.result(), store.root + key), async_fetcher().run)
        raise


async def _send(operation: Operation[T], num_bytes: int, lane: Lane | None) -> T:
    """Drives an operation whose first step sums what it sends."""
    runner = async_fetcher().run if lane is None else lane.run
    return await arun(operation, runner, in_thread if num_bytes > _SUMMED_AT_ONCE_BYTES else None)


def write_object(store: Store, key: str, data: memoryview, create_only: bool = False) -> Operation[None]:
    """Writes an object by one request at a time: for callers with many objects, which go side by side themselves.

    Raises:
        AlreadyExistsError, S3dlioError: As `put_object`.
    """
    if not is_in_parts(store, len(data)):
        yield from store.put(key, data, create_only)
        return
    upload = yield from store.begin_upload(key, create_only)
    try:
        for piece in cut(data, upload):
            yield from upload.put_part(*piece)
        yield from upload.complete()
    except GeneratorExit:
        raise  # nobody drives it any more
    except BaseException:
        yield from throw_away(upload, store.root + key)
        raise


def is_in_parts(store: Store, size: int) -> bool:
    """Whether an object of `size` bytes is sent in parts."""
    if store.wire.is_local:
        return False
    return size > min(settings().multipart_above_bytes, store.max_put_bytes)


def cut(data: memoryview, upload: Upload) -> Iterator[Piece]:
    """Yields the parts of an object, one at least."""
    size = part_size(len(data), upload)
    last = max(0, len(data) - 1) // size
    for number in range(last + 1):
        yield Piece(number, data[number * size : (number + 1) * size], number == last)


def part_size(size: int, upload: Upload) -> int:
    """Returns the bytes of each part but the last of an object of `size` bytes: as is configured, or more where the store wants more."""
    least = upload.min_part_bytes
    wanted = max(settings().put_part_bytes, least, -(-size // upload.max_parts))
    return -(-wanted // least) * least if upload.is_sequential else wanted


def throw_away(upload: Upload, uri: str) -> Operation[None]:
    """Aborts an upload; the caller has an error of its own to raise."""
    try:
        yield from upload.abort()
    except S3dlioError as error:
        _log.warning("the parts of an upload to %s could not be thrown away; `s3dlio cleanup` does: %s", uri, str(error))


def _num_at_once(upload: Upload) -> int:
    return 1 if upload.is_sequential else min(settings().jobs, MAX_PARTS_IN_FLIGHT)
