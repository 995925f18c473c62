"""`.npy` files as arrays over the bytes that were fetched: nothing is copied, and nothing in them can execute code.

Rules:

* The header is a Python literal, and is read as one. Numbers, text, dates and structures of them are known; arrays of Python objects,
  which numpy would unpickle, are refused, and so is every dtype whose bytes would be pointers.
* The array fills the rest of the file, exactly. What a header claims is compared with the bytes that are there before anything is
  made of it, so that a claim costs no memory, and a file that was cut is never taken for a smaller array.
* Byte order and Fortran order stay as they are in the file.

Source: the docstring of `numpy.lib.format`, versions 1.0 to 3.0.
"""

from __future__ import annotations

import ast
import math
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from s3dlio.engine.errors import DecodeError, describe

Bytes: TypeAlias = NDArray[np.uint8] | memoryview
"""What is decoded: one-dimensional, contiguous, uint8; a `BytesView`, a row of a batch, or a piece of either."""

_MAGIC: Final = b"\x93NUMPY"
_ENCODINGS: Final = {1: "latin-1", 2: "latin-1", 3: "utf-8"}
_MAX_HEADER_BYTES: Final = 10_000
"""As numpy's own limit: Python's parser is not made for long hostile texts."""
_MAX_DIMENSIONS: Final = 32
"""Of numpy 1; numpy 2 has 64."""
_KINDS: Final = frozenset("biufcmMSUV")
_RAISED_BY_PARSERS: Final = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError, Warning,
)  # fmt: skip
"""By Python's parser and by `numpy.dtype`, of texts that they do not know."""


class NpyLayout(NamedTuple):
    """What the header of a file says."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool
    """Whether the first index changes fastest in memory."""
    offset: int
    """Of the data, in bytes from the beginning of the file."""


def read_npy(view: Bytes, uri: str | None = None) -> NDArray[Any]:
    """Returns the array of a `.npy` file, over the same memory; it holds the slot, and can be written to if the view can.

    It is a copy only where its elements do not lie at multiples of their size, as numpy and the frameworks want them; in files that
    numpy wrote, at the beginning of a slot, they always do.

    Args:
        view: The whole file.
        uri: Where it came from, for errors.

    Raises:
        DecodeError: It is no such file, holds Python objects, or is shorter or longer than its header says.
    """
    dtype, shape, is_fortran, offset = npy_layout(view, uri)
    array: NDArray[Any] = np.ndarray(shape, dtype, view, offset, order="F" if is_fortran else "C")
    return array if array.flags.aligned else array.copy("K")


def npy_layout(view: Bytes, uri: str | None = None) -> NpyLayout:
    """Returns how the array lies in a `.npy` file; equal for files that differ only in their data.

    Args:
        view: The whole file.
        uri: Where it came from, for errors.

    Raises:
        DecodeError: As of `read_npy`.
    """
    try:
        header = _cut_header(memory_of(view))
        layout = _parse_header(header)
        _check_length(layout, len(view))
    except DecodeError as error:
        error.uri = uri
        raise
    return layout


def memory_of(view: Bytes) -> memoryview:
    """Returns the same memory as what the standard library reads; it holds the slot."""
    return view if isinstance(view, memoryview) else view.data


def _cut_header(data: memoryview) -> bytes:
    """Returns the file up to its data."""
    head = bytes(data[:12])
    if not head.startswith(_MAGIC):
        raise DecodeError("it does not begin as a .npy file does")
    major = head[6] if len(head) > 6 else 0
    if len(head) < 12 or major not in _ENCODINGS or head[7] != 0:
        raise DecodeError(f"the .npy version at byte 6 is unknown, or the file ends before it: {head[6:8].hex(' ')}")
    # "The next 2 bytes form a little-endian unsigned short int: the length of the header data"; 4 from version 2.0 on.
    num = 2 if major == 1 else 4
    offset = 8 + num + int.from_bytes(head[8 : 8 + num], "little")
    if offset > len(data):
        raise DecodeError(f"the header at byte 8 claims to end at byte {offset}; the file has {len(data)} bytes")
    if offset > _MAX_HEADER_BYTES:
        raise DecodeError(
            f"the header is {offset} bytes long, more than {_MAX_HEADER_BYTES}; give fields shorter names"
        )
    return bytes(data[:offset])


@lru_cache(maxsize=256)
def _parse_header(header: bytes) -> NpyLayout:
    """Returns what a header says. Kept for the next file: measured, parsing takes 22 µs, and a data set has few headers."""
    fields = _read_literal(header)
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise DecodeError("the header is no dictionary of descr, fortran_order and shape")
    shape, is_fortran = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or any(type(length) is not int or length < 0 for length in shape):
        raise DecodeError(f"the shape in the header is {shape!r}, not a tuple of lengths")
    if type(is_fortran) is not bool:
        raise DecodeError(f"fortran_order in the header is {is_fortran!r}, not a bool")
    dtype = _read_dtype(fields["descr"])
    # numpy counts what an array would have were none of its lengths 0.
    if len(shape) > _MAX_DIMENSIONS or math.prod(length or 1 for length in shape) * (dtype.itemsize or 1) >= 1 << 63:
        raise DecodeError(f"the header claims the shape {shape!r} of {dtype}, which numpy cannot hold")
    return NpyLayout(dtype, shape, is_fortran, len(header))


def _read_literal(header: bytes) -> Any:
    num = 10 if header[6] == 1 else 12
    try:
        # No code can come of it: literal_eval knows literals only.
        return ast.literal_eval(header[num:].decode(_ENCODINGS[header[6]]))
    except _RAISED_BY_PARSERS as error:
        raise DecodeError(f"the header at byte {num} is no Python literal", cause=describe(error)) from None


def _read_dtype(descr: Any) -> np.dtype[Any]:
    try:
        dtype = np.lib.format.descr_to_dtype(descr)
    except _RAISED_BY_PARSERS as error:
        raise DecodeError(f"numpy knows no dtype {descr!r}", cause=describe(error)) from None
    if dtype.hasobject:
        raise DecodeError(
            f"it holds Python objects (dtype {descr!r}), which would have to be unpickled; save numbers or text instead"
        )
    if dtype.subdtype is not None or not _is_plain(dtype):
        raise DecodeError(f"arrays of the dtype {descr!r} are not read from files")
    return dtype


def _is_plain(dtype: np.dtype[Any]) -> bool:
    """Returns whether any bytes are values of it."""
    if dtype.fields is not None:
        return all(_is_plain(field[0]) for field in dtype.fields.values())
    return dtype.base.kind in _KINDS and (dtype.subdtype is None or _is_plain(dtype.base))


def _check_length(layout: NpyLayout, num_bytes: int) -> None:
    dtype, shape, _, offset = layout
    count = math.prod(shape)
    # Elements of no bytes are as many as a header likes; whoever loops over them would not come to an end.
    if count * dtype.itemsize != num_bytes - offset or (not dtype.itemsize and count > num_bytes):
        raise DecodeError(
            f"the header claims {count} elements of {dtype.itemsize} bytes from byte {offset} on; "
            f"the file has {num_bytes - offset} bytes there"
        )
