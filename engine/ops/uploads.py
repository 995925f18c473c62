"""Writing one whole object: by one request, or in parts where it is long. What put_bytes, put_many, upload and the writers stand on.

Rules:

* Whoever fails or is interrupted between the beginning and the end of an upload has the parts thrown away, and raises what it would have
  raised. Where that does not work either, the log says so: `s3dlio cleanup` finds what is left.
* Parts are cut out of the caller's memory, and sent from there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from ..config import settings
from ..errors import S3dlioError, TruncatedBodyError
from ..pool.inline import MAX_PARTS_IN_FLIGHT, inline_fetcher
from ..stores.base import Operation, Store, Upload, run

_log = logging.getLogger("s3dlio")


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
        run(put_whole(store, key, data, create_only), fetcher.run)
        return
    upload = run(store.begin_upload(key, create_only), fetcher.run)
    try:
        _send_parts(upload, data)
        run(upload.complete(), fetcher.run)
    except BaseException as error:
        # Who presses Ctrl-C does not wait for long.
        run(throw_away(upload, store.root + key), fetcher.run if isinstance(error, S3dlioError) else fetcher.run_briefly)
        raise


def _send_parts(upload: Upload, data: memoryview) -> None:
    parts = ((piece.number, upload.put_part(*piece)) for piece in cut(data, upload))
    with closing(inline_fetcher().run_many(parts, num_at_once(upload))) as ended:
        for _, error in ended:
            if isinstance(error, S3dlioError):
                raise error


def write_object(store: Store, key: str, data: memoryview, create_only: bool = False) -> Operation[None]:
    """Writes an object by one request at a time: for callers with many objects, which go side by side themselves.

    Raises:
        AlreadyExistsError, S3dlioError: As `put_object`.
    """
    if not is_in_parts(store, len(data)):
        yield from put_whole(store, key, data, create_only)
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


def put_whole(store: Store, key: str, data: memoryview, create_only: bool = False) -> Operation[None]:
    """Writes an object by one request, and looks at its size where `verify_writes` says so; `Upload.complete` does that always."""
    yield from store.put(key, data, create_only)
    if settings().verify_writes:
        size = (yield from store.stat(key)).size
        if size != len(data):
            raise TruncatedBodyError(f"{len(data)} bytes were written, and the object has {size}", uri=store.root + key)


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
        tell_of_left(uri, str(error))


def tell_of_left(uri: str, why: str) -> None:
    """Says that the parts of an upload are still there."""
    _log.warning("the parts of an upload to %s could not be thrown away; `s3dlio cleanup` does: %s", uri, why)


def num_at_once(upload: Upload) -> int:
    """Returns how many parts of an object are sent side by side."""
    return 1 if upload.is_sequential else min(settings().jobs, MAX_PARTS_IN_FLIGHT)
