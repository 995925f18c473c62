"""Bytes past the page cache (`O_DIRECT`), wherever they lie in the file and in memory.

The kernel moves whole blocks only, at multiples of them, to and from aligned memory. What is aligned goes straight to its place; the edges,
and whatever lies in memory at another distance from a block than in the file (the rows of a batch), go by a small aligned buffer.

Nothing is ever read or written by the page cache instead: a file system that would do so is refused (tmpfs takes `O_DIRECT`, and ignores
it).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from ..errors import DirectIOUnsupportedError
from ..memory.segment import private_pages
from .file_wire import check_regular

_BUFFER_BYTES: Final = 1 << 20
"""Large enough that a disk is busy, small enough to stay in a processor's cache between the two copies."""
_KEPT_BUFFERS: Final = 4
_DEFAULT_BYTES: Final = 4096
"""Where the kernel does not tell (before Linux 6.1, or of this file system): no block of any disk is larger."""

# Source: linux/stat.h, linux/magic.h; struct statx is the same on every architecture.
_AT_EMPTY_PATH: Final = 0x1000
_STATX_DIOALIGN: Final = 0x2000
_STATX_BYTES: Final = 256
_MASK_AT, _ALIGN_AT = 0, 152
_MEMORY_FILE_SYSTEMS: Final = frozenset({0x01021994, 0x858458F6, 0x958458F6})
"""tmpfs, ramfs, hugetlbfs: their files are the page cache."""

_libc = ctypes.CDLL(None, use_errno=True)


class Alignment(NamedTuple):
    """What the kernel asks of direct reads and writes of one file, in bytes; powers of two."""

    memory: int
    """Of addresses."""
    block: int
    """Of offsets and lengths."""


def alignment_of(fd: int) -> Alignment:
    """Returns what direct access to an open file must keep to.

    Raises:
        DirectIOUnsupportedError: There is none, though the file may be open for it.
    """
    found = ctypes.create_string_buffer(_STATX_BYTES)
    statx = getattr(_libc, "statx", None)
    if statx is not None and statx(fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, found) == 0:
        (mask,) = struct.unpack_from("=I", found, _MASK_AT)
        if mask & _STATX_DIOALIGN:
            memory, block = struct.unpack_from("=II", found, _ALIGN_AT)
            if not memory or not block:
                raise unsupported()
            return Alignment(memory, block)
    if _libc.fstatfs(fd, found) == 0 and struct.unpack_from("@l", found)[0] & 0xFFFFFFFF in _MEMORY_FILE_SYSTEMS:
        raise unsupported()
    return Alignment(_DEFAULT_BYTES, _DEFAULT_BYTES)


def unsupported() -> DirectIOUnsupportedError:
    """Returns the error for a file that can only be read by way of the page cache."""
    return DirectIOUnsupportedError("the file system has no direct access to this file (O_DIRECT); file:// goes by the page cache")


def open_direct(path: str, flags: int, mode: int = 0o666) -> int:
    """Opens a file for direct access.

    Raises:
        DirectIOUnsupportedError: The file system refuses.
        IsADirectoryUriError, UnsupportedError: It is no file.
        OSError: Anything else that the file system says.
    """
    try:
        return os.open(path, flags | os.O_DIRECT, mode)
    except OSError as error:
        if error.errno != errno.EINVAL or flags & os.O_TMPFILE == os.O_TMPFILE:
            raise
        if not flags & os.O_CREAT:
            # Of what is no file, that is the better answer.
            check_regular(os.stat(path), "")
        raise unsupported() from error


class Buffers:
    """Aligned memory that is used again. Thread-safe: each borrower has one of its own."""

    def __init__(self) -> None:
        self._idle: deque[memoryview] = deque()

    @contextlib.contextmanager
    def lend(self) -> Iterator[memoryview]:
        """Lends a buffer, whose contents are anything."""
        try:
            buffer = self._idle.pop()
        except IndexError:
            buffer = private_pages(_BUFFER_BYTES)
        try:
            yield buffer
        finally:
            if len(self._idle) < _KEPT_BUFFERS:
                self._idle.append(buffer)


def read_some(fd: int, out: memoryview, offset: int, alignment: Alignment, buffer: memoryview) -> int:
    """Reads bytes of a file from `offset` on to the beginning of `out`, by one call into the kernel; writes nothing else.

    Args:
        fd: Open for direct access.
        out: Not empty; of any address and length.
        offset: Any.
        alignment: Of the file.
        buffer: From `Buffers`.

    Returns:
        How many came: fewer than `len(out)` where the kernel had fewer, or `buffer` is shorter; 0 at the end of the file.
    """
    block = alignment.block
    end = offset + len(out)
    start = offset - offset % block
    first, last = _round_up(offset, block), end - end % block
    if first < last and (_address(out) + first - offset) % alignment.memory == 0:
        tail_at = max(alignment)
        head, tail = buffer[:block], buffer[tail_at : tail_at + block]
        pieces = [out[first - offset : last - offset]]
        if first != offset:
            pieces.insert(0, head)
        if last != end:
            pieces.append(tail)
        num = _good(os.preadv(fd, pieces, start) + start - offset, len(out))
        if first != offset:
            in_head = min(num, first - offset)
            out[:in_head] = head[offset - start : offset - start + in_head]
        if num > last - offset:
            out[last - offset : num] = tail[: num - (last - offset)]
        return num
    length = min(_round_up(end, block) - start, len(buffer))
    num = _good(os.preadv(fd, [buffer[:length]], start) + start - offset, len(out))
    out[:num] = buffer[offset - start : offset - start + num]
    return num


def write_all(fd: int, data: memoryview, offset: int, alignment: Alignment, buffer: memoryview) -> None:
    """Writes all of `data`, from `offset` on, a multiple of the block; zeros fill the last block, for the caller to cut off.

    Raises:
        OSError: As the file system says.
    """
    block = alignment.block
    address = 1 if data.readonly or not data else _address(data)
    done = 0
    while done < len(data):
        whole = (len(data) - done) // block * block
        if whole and (address + done) % alignment.memory == 0:
            num = os.pwrite(fd, data[done : done + whole], offset + done)
        else:
            num = min(len(data) - done, len(buffer))
            padded = _round_up(num, block)
            buffer[:num] = data[done : done + num]
            buffer[num:padded] = bytes(padded - num)
            num = min(num, os.pwrite(fd, buffer[:padded], offset + done))
        # What was written of a block is written again with the rest of it.
        done += num if done + num == len(data) else num - num % block


def _good(num: int, most: int) -> int:
    return max(0, min(num, most))


def _round_up(num: int, block: int) -> int:
    return (num + block - 1) // block * block


def _address(memory: memoryview) -> int:
    # The exported buffer is let go of with the object, at once.
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
