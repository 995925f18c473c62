"""Batches as arrays, for frameworks that know nothing else: every sample of a batch has one shape. Knows no framework.

Rules:

* Where the listing says that the objects cannot be rows of one array, the data set is refused when it is made. Where it does not say, the
  first batch that is none is an error. Nothing is cut, and nothing padded that was not asked for.
* What a framework is given it may keep, and lay its own arrays over, for as long as it likes. So it is lent slots as long as few are out,
  and copies after that: neither is an array ever changed, nor does a loop that keeps many of them run out of memory for the next.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

import numpy as np

from s3dlio.engine.errors import ConfigurationError
from s3dlio.engine.memory.view import BytesView
from s3dlio.engine.text import clean

from .arguments import make_options

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .listing import Listing
    from .options import Options

_LENT_SHARE: Final = 4
"""Of the memory of a data set, this part at most is lent: the rest has room for the largest batch, and for what is fetched ahead."""


def dense_options(given: Mapping[str, Any], loader_opts: Mapping[str, Any] | None, older: Mapping[str, Any]) -> Options:
    """Returns the options of a data set that has a batch size in any case; arguments as of `make_options`.

    Raises:
        ConfigurationError: One makes no sense, is replaced by something else, or is given twice.
    """
    if given["batch_size"] == 1 and isinstance(loader_opts, Mapping) and "batch_size" in loader_opts:
        given = {**given, "batch_size": loader_opts["batch_size"]}
    if given["batch_size"] is None:
        raise ConfigurationError("batch_size is a whole number from 1 on, not None")
    return make_options(given, loader_opts, older)


def check_sizes(listing: Listing, options: Options) -> None:
    """Returns unless the bytes of the objects are known to be no rows of one array.

    Raises:
        ConfigurationError: They are.
    """
    assert options.batch_size is not None
    if options.batch_size == 1 or options.pad_to is not None or options.decode is not None:
        return
    known = listing.sizes[listing.sizes >= 0]
    if len(known) and known.min() != known.max():
        raise ConfigurationError(
            f"the objects have {known.min()} to {known.max()} bytes, and a batch is one array; give pad_to=, the bytes of a row, or "
            "decode=, what makes arrays of one shape of them, or batch_size=1",
            uri=listing.name,
        )


def stack(samples: Sequence[Any], uris: Sequence[str]) -> NDArray[Any]:
    """Returns a new array (num, *shape) of the samples of a batch: arrays or numbers, all of one shape.

    Raises:
        ConfigurationError: Their shapes differ; it names the first that is not like the one in front of all.
    """
    try:
        return native(np.stack([*samples]))
    except ValueError:
        shapes = [np.shape(sample) for sample in samples]
        other = next(at for at, shape in enumerate(shapes) if shape != shapes[0])
        raise ConfigurationError(
            f"its shape is {shapes[other]}, and that of {clean(uris[0])}, in the same batch, is {shapes[0]}; give pad_to=, the bytes of a "
            "row, or decode=, what makes arrays of one shape of all objects, or batch_size=1",
            uri=uris[other],
        ) from None


def native(array: NDArray[Any]) -> NDArray[Any]:
    """Returns an array in the byte order of the machine, the only one that frameworks know; itself if it has that."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


class Loans:
    """The slots that arrays of a framework may still lie over. Thread-safe."""

    def __init__(self, cap_bytes: int) -> None:
        """Begins with none.

        Args:
            cap_bytes: The memory of the data set.
        """
        self._most = cap_bytes // _LENT_SHARE
        self._lent: list[tuple[ref[Any], int]] = []
        self._lock = threading.Lock()

    def lend(self, array: NDArray[Any]) -> NDArray[Any]:
        """Returns the array itself, to be kept by whoever gets it, or a copy of it, if too much is out.

        Args:
            array: Over a slot, and then nobody else's; or over memory of its own, which is always lent.
        """
        view = _slot_of(array)
        if view is None:
            return array
        with self._lock:
            if self._sum_bytes() + view.nbytes > self._most:
                # JAX lets go of what it has no more use for when the collector runs. Source: `_xla_gc_callback`.
                gc.collect(0)
                if self._sum_bytes() + view.nbytes > self._most:
                    return array.copy()
            self._lent.append((ref(view), view.nbytes))
        return array

    def _sum_bytes(self) -> int:
        self._lent = [(view, nbytes) for view, nbytes in self._lent if view() is not None]
        return sum(nbytes for _, nbytes in self._lent)


def _slot_of(array: NDArray[Any]) -> BytesView | None:
    """Returns the view that an array was made of, which everything derived from it holds; None if its memory is its own."""
    owner: Any = array
    while owner is not None and not isinstance(owner, BytesView):
        owner = getattr(owner, "base", None)
    while isinstance(owner, BytesView) and isinstance(owner.base, BytesView):
        owner = owner.base
    found: BytesView | None = owner
    return found
