"""How the objects of a batch lie in memory, and what is made of them. Pure: fetches nothing.

Rules:

* Where all objects of the listing have one known size, or `pad_to` gives them one, a batch is one slot: object i lies at `i * stride`,
  so that the batch array is there when the last byte has come, and was never copied.
* That is fixed when the iteration begins, from the listing, so that a data set gives the same kind of batch to its end.
* What lies behind a shorter object is zeroed; nothing of an earlier batch shows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from s3dlio.engine.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

_ALIGNED_BYTES: Final = 64
"""Rows of .npy begin at multiples of this: their data then has the alignment that it has in its file."""

Bytes = NDArray[np.uint8]


class Rows(NamedTuple):
    """A batch as rows of one slot."""

    stride: int
    """Bytes from the beginning of one row to that of the next."""
    nbytes: int
    """Bytes of a row."""


def plan_rows(
    sizes: NDArray[np.int64],
    batch_size: int,
    pad_to: int | None,
    is_npy: bool,
    max_bytes: int,
    uri_of: Callable[[int], str],
) -> Rows | None:
    """Returns how a batch lies in one slot; None where its objects need slots of their own.

    Args:
        sizes: Of all objects of the listing, in bytes; -1 where unknown.
        batch_size: Objects of a batch.
        pad_to: Bytes of a row, where shorter objects are to be padded; else None.
        is_npy: Whether the rows are .npy files.
        max_bytes: The most that a slot may have.
        uri_of: Gives the URI of an object, for an error.

    Raises:
        ConfigurationError: An object is known to be longer than `pad_to`, or a batch is too large for a slot.
    """
    if not len(sizes):
        return None
    largest = int(sizes.argmax())
    size = int(sizes[largest])
    if pad_to is not None:
        if size > pad_to:
            raise ConfigurationError(f"the object has {size} bytes, more than pad_to={pad_to}", uri=uri_of(largest))
        rows = Rows(pad_to, pad_to)
    elif size <= 0 or int(sizes.min()) != size:
        return None
    else:
        rows = Rows(-(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES if is_npy else size, size)
    if rows.stride * batch_size > max_bytes:
        raise ConfigurationError(
            f"a batch of {batch_size} objects of {rows.nbytes} bytes is more than half of the {2 * max_bytes} bytes that this process has "
            "for the data set (the workers of a DataLoader divide them); raise memory_bytes, or lower batch_size"
        )
    return rows


def rows_of(view: Bytes, num: int, rows: Rows) -> Bytes:
    """Returns the array (num, nbytes) over a slot; contiguous where the rows lie side by side. It holds the slot."""
    plain = np.ndarray.view(view, np.ndarray)[: num * rows.stride]
    return plain.reshape(num, rows.stride)[:, : rows.nbytes]


def zero_tails(array: Bytes, sizes: NDArray[np.int64]) -> None:
    """Zeroes what lies behind the objects of a padded batch.

    Args:
        array: (num, nbytes); row i holds an object of `sizes[i]` bytes.
        sizes: One for each row.
    """
    for row in np.flatnonzero(sizes < array.shape[1]).tolist():
        array[row, sizes[row] :] = 0


def close_gaps(array: Bytes, gaps: Collection[int]) -> Bytes:
    """Returns the rows of a batch but those in `gaps`, moved together within the same memory."""
    kept = 0
    for row in range(len(array)):
        if row in gaps:
            continue
        if row != kept:
            array[kept] = array[row]
        kept += 1
    return array[:kept]


def npy_rows(array: Bytes, layouts: Sequence[tuple[np.dtype[Any], tuple[int, ...], bool, int]]) -> NDArray[Any] | None:
    """Returns the arrays of a batch of .npy files as one, (num, *shape), over the same memory; None where they are of several kinds.

    Args:
        array: (num, nbytes), as of `rows_of`.
        layouts: dtype, shape, whether in Fortran order, and the offset of the data, of each row.
    """
    dtype, shape, is_fortran, offset = layouts[0]
    if any(other != layouts[0] for other in layouts):
        return None
    one: NDArray[Any] = np.ndarray(shape, dtype, array[0, offset:], order="F" if is_fortran else "C")
    stride = array.strides[0]
    if stride % max(1, dtype.itemsize):
        # torch knows no strides but whole elements.
        return None
    return np.lib.stride_tricks.as_strided(one, (len(array), *shape), (stride, *one.strides))
