"""`get_into`: reads into memory of the caller's."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..errors import ConfigurationError, InvalidRangeError
from ..memory.buffers import as_room
from ..pool.into import into_fetch
from ..stores.base import Operation
from .objects import check_range, is_at_end, look_at_nothing
from .perform import Place, perform


def get_into(uri: str, buffer: Any, offset: int = 0, length: int | None = None) -> int:
    """Reads bytes [offset, offset + length) of an object to the beginning of `buffer`, straight from the socket or file.

    Args:
        uri: The object.
        buffer: Writable and contiguous memory, of any element type: a bytearray, mmap, numpy array, torch tensor on the CPU, `BytesView`.
            After an error, what it holds is undefined; nothing is written to it once the call has ended, however it ended.
        offset: The first byte of the object to read.
        length: At most so many bytes, clipped at the end of the object; all that is left, if absent.

    Returns:
        How many bytes were read. What lies behind them in `buffer` is as it was.

    Raises:
        ConfigurationError: The buffer is too small; the text says how many bytes are needed.
        TypeError: `buffer` cannot be written to, or is not contiguous.
        InvalidRangeError: `offset` is negative or beyond the end (a `ValueError`).
        NotFoundError, PermissionDeniedError, S3dlioError: As `get`.
    """
    # Released at the end, since an error's traceback keeps frames, and should not keep the caller from resizing or closing what is theirs.
    with check_into(uri, buffer, offset, length) as room:
        return perform(partial(read_into, room=room, offset=offset, length=length), uri)


def check_into(uri: str, buffer: Any, offset: int, length: int | None) -> memoryview:
    """Checks the arguments of `get_into`, and returns the bytes of its buffer, which are to be released.

    Raises:
        ConfigurationError, TypeError, InvalidRangeError: As `get_into`.
    """
    check_range(uri, offset, length)
    room = as_room(buffer)
    num = len(room)
    if length is not None and length > num:
        room.release()
        raise ConfigurationError(f"the buffer has {num} bytes, and {length} are needed", uri=uri)
    return room


def read_into(place: Place, room: memoryview, offset: int, length: int | None) -> Operation[int]:
    """The operation of `get_into`."""
    uri, store, key = place
    if length == 0:
        yield from look_at_nothing(place, offset)
        return 0
    fetch = into_fetch(uri, store.wire, key, room, start=offset, end=None if length is None else offset + length)
    try:
        yield fetch
    except InvalidRangeError as error:
        if not (yield from is_at_end(place, offset, error)):
            raise
        return 0
    finally:
        fetch.out = None
    return fetch.received
