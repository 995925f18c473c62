"""`.npz` files as dictionaries of arrays: stored members over the bytes that were fetched, compressed ones inflated up to a limit.

Rules:

* A member's name is a key of the dictionary and nothing else: no file is ever named by it. Two members of one name are refused.
* Every member's CRC-32 is checked.
* What compressed members claim to become is added up and held against the limit before memory is taken for it, and inflating one ends
  at its claim.

Source: the docstring of `numpy.savez`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from s3dlio.engine.errors import DecodeError, describe

from .npy import Bytes, memory_of, read_npy
from .zip_members import Member, read_members

_MAX_RATIO: Final = 1032
"""Deflate makes at most 258 bytes of 2 bits. Source: RFC 1951, 3.2.5."""
_PACKED_BYTES: Final = 64 << 10
_PIECE_BYTES: Final = 1 << 20
"""What is inflated at once, of this much: a piece is in the cache when it is put to its place."""


def read_npz(view: Bytes, uri: str | None = None, *, max_bytes: int) -> dict[str, NDArray[Any]]:
    """Returns the arrays of a `.npz` file by name, in the order in which they lie in it.

    A stored member is an array over the same memory and holds the slot, if its elements are aligned there, as of `read_npy`; numpy
    does not see to that when it writes, so that many are copies. A member whose name does not end in `.npy` is its bytes, uint8.

    Args:
        view: The whole file.
        uri: Where it came from, for errors.
        max_bytes: The most that its compressed members may become together.

    Raises:
        DecodeError: It is no such file, was cut or changed, holds Python objects, has a name twice, or would become more than
            `max_bytes`.
    """
    try:
        return _read(memory_of(view), max_bytes)
    except DecodeError as error:
        error.uri = uri
        raise


def _read(data: memoryview, max_bytes: int) -> dict[str, NDArray[Any]]:
    members = read_members(data)
    num_bytes = sum(member.num_bytes for member in members if member.is_deflated)
    if num_bytes > max_bytes:
        raise DecodeError(f"its members claim to become {num_bytes} bytes, more than max_decoded_bytes={max_bytes}")
    found: dict[str, NDArray[Any]] = {}
    for member in members:
        name = member.name.removesuffix(".npy")
        if name in found:
            raise DecodeError(f"it has two members of the name {name!r}, the second at byte {member.start}")
        try:
            found[name] = _read_member(member)
        except DecodeError as error:
            raise DecodeError(
                f"member {member.name!r} at byte {member.start}: {error.message}", cause=error.cause
            ) from None
    return found


def _read_member(member: Member) -> NDArray[Any]:
    content = _inflate(member.packed, member.num_bytes) if member.is_deflated else np.asarray(member.packed)
    if len(content) != member.num_bytes or zlib.crc32(content.data) != member.crc:
        raise DecodeError("its bytes have not the length or the CRC-32 that the archive gives")
    return read_npy(content) if member.name.endswith(".npy") else content


def _inflate(packed: memoryview, num_bytes: int) -> NDArray[np.uint8]:
    """Returns what the bytes become, which must be `num_bytes`."""
    if num_bytes > _MAX_RATIO * len(packed):
        raise DecodeError(f"it claims to become {num_bytes} bytes, which {len(packed)} cannot")
    out = np.empty(num_bytes, np.uint8)
    position = 0
    try:
        # One byte more, to see that there is more.
        for piece in _pieces(packed, num_bytes + 1):
            if position + len(piece) > num_bytes:
                raise DecodeError(f"it becomes more than the {num_bytes} bytes that it claims")
            out[position : position + len(piece)] = np.frombuffer(piece, np.uint8)
            position += len(piece)
    except zlib.error as error:
        raise DecodeError("its compressed bytes make no sense", cause=describe(error)) from None
    if position < num_bytes:
        raise DecodeError(f"it becomes {position} bytes, not the {num_bytes} that it claims")
    return out


def _pieces(packed: memoryview, most: int) -> Iterator[bytes]:
    """Yields what the bytes become, piece by piece, and at most `most` bytes of it."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    for start in range(0, len(packed), _PACKED_BYTES):
        rest: memoryview | bytes = packed[start : start + _PACKED_BYTES]
        is_full = True
        while most and (rest or is_full):
            limit = min(_PIECE_BYTES, most)
            piece = inflater.decompress(rest, limit)
            most -= len(piece)
            rest, is_full = inflater.unconsumed_tail, len(piece) == limit
            yield piece
        if inflater.eof or not most:
            return
