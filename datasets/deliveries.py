"""From fetched items to what is handed out: samples, batches in one slot, and batches of single samples.

Errors are judged here, each at its place: by default it is raised; with `on_error="skip"` it is recorded, and what it belongs to is left
out. What was handed out is held by nobody here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from s3dlio.engine.errors import (
    AuthenticationError,
    CertificateError,
    ConfigurationError,
    ConnectFailedError,
    DecodeError,
    InvalidUriError,
    MissingExtraError,
    S3dlioError,
    describe,
)

from .batch import Rows, close_gaps, npy_rows, rows_of, zero_tails
from .npy import npy_layout, read_npy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from s3dlio.engine.pool.items import Item

    from .skipped import SkipLog

Decoder = Callable[[Any, str], Any]

_log = logging.getLogger("s3dlio")
_NEVER_SKIPPED: Final = (
    AuthenticationError,
    CertificateError,
    ConfigurationError,
    ConnectFailedError,
    MissingExtraError,
)
"""What is wrong with all objects at once: skipping them would be an empty epoch."""
_NOTHING: Final = object()


class Delivery(msgspec.Struct):
    """What is handed out next: a sample, or a batch."""

    value: Any
    """A view or a decoded sample; a list of them; or the rows of a batch, an array (num, ...)."""
    num: int
    """Samples of the order that are delivered with it: also those that were skipped, in it or in front of it."""
    uris: Sequence[str] = ()
    """Of the samples in the value, in their order."""
    lengths: NDArray[np.int64] | None = None
    """Bytes of each row before it was padded, (num,); only of padded batches."""
    position: Any = None
    """Where a stream of records stands behind it."""
    is_empty: bool = False
    """Whether there is nothing to hand out: all of it was skipped."""

    def pop(self) -> Any:
        """Hands the value out, and holds it no longer."""
        value, self.value = self.value, None
        return value


class Judge:
    """Raises errors, or records them."""

    def __init__(self, is_skipping: bool, log: SkipLog) -> None:
        self._is_skipping = is_skipping
        self._log = log
        self.last: S3dlioError | None = None
        """What was recorded last."""

    def pass_over(self, error: S3dlioError) -> None:
        """Records an error whose sample is left out.

        Raises:
            S3dlioError: The error itself, if nothing is to be skipped, or if it is none of a single object.
        """
        if not self._is_skipping or (isinstance(error, _NEVER_SKIPPED) and not isinstance(error, InvalidUriError)):
            raise error
        self.last = error.with_traceback(None)
        # As text: a handler that keeps its records would keep the error, and with its traceback the memory of the whole batch.
        _log.warning("skipped: %s", str(error))
        self._log.add(error.uri or "", f"{type(error).__name__}: {error}")

    def read(self, item: Item, decode: Decoder | None) -> Any:
        """Returns the view of an item, or what `decode` makes of it; `_NOTHING` if it is left out.

        Raises:
            S3dlioError: As `pass_over`.
            Exception: What the user's own `decode` raises, unless it is to be skipped.
        """
        if item.error is not None:
            self.pass_over(item.error)
            return _NOTHING
        if decode is None:
            return item.pop_view()
        try:
            return decode(item.pop_view(), item.uri)
        except S3dlioError as error:
            self.pass_over(error)
        except Exception as error:
            if not self._is_skipping:
                raise
            self.pass_over(DecodeError("decode raised an error", uri=item.uri, cause=describe(error)))
        return _NOTHING


def samples(items: Iterable[Item], decode: Decoder | None, judge: Judge) -> Generator[Delivery, None, None]:
    """Yields one sample for each item."""
    num = 0
    for item in items:
        num += 1
        value = judge.read(item, decode)
        if value is _NOTHING:
            continue
        delivery = Delivery(value, num, item.uris)
        del value
        num = 0
        yield delivery
    if num:
        yield Delivery(None, num, is_empty=True)


def batches(
    items: Iterator[Item], sizes: Iterable[int], decode: Decoder | None, judge: Judge
) -> Generator[Delivery, None, None]:
    """Yields lists of samples, as long as `sizes` say, but for those that are skipped."""
    for num in sizes:
        values, uris = [], []
        try:
            for item in islice(items, num):
                value = judge.read(item, decode)
                if value is not _NOTHING:
                    values.append(value)
                    uris.append(item.uri)
                del value
        except BaseException:
            # Whoever keeps the error keeps this frame, and is not to keep the samples in front of the one that failed.
            values.clear()
            raise
        delivery = Delivery(values, num, uris, is_empty=not values)
        del values
        yield delivery


def row_batches(
    items: Iterable[Item], rows: Rows, is_padded: bool, is_npy: bool, judge: Judge
) -> Generator[Delivery, None, None]:
    """Yields batches that lie in one slot each."""
    for item in items:
        if item.error is not None:
            raise item.error
        errors = item.member_errors
        try:
            for _, error in sorted(errors.items()):
                judge.pass_over(error)
        except S3dlioError:
            # Whoever keeps the error keeps this frame, and is not to keep the slot of the batch with it.
            item.pop_view()
            raise
        uris = item.uris
        num = len(uris)
        array = rows_of(item.pop_view(), num, rows)
        lengths = np.array(item.sizes, np.int64) if is_padded else None
        if lengths is not None:
            zero_tails(array, lengths)
        if errors:
            array = close_gaps(array, errors)
            lengths = None if lengths is None else np.delete(lengths, [*errors])
            uris = [uri for at, uri in enumerate(uris) if at not in errors]
        value: Any = _read_npy_rows(array, uris, judge) if is_npy else array
        del array
        delivery = Delivery(value, num, uris, lengths, is_empty=not len(value))
        del value
        yield delivery


def _read_npy_rows(array: NDArray[np.uint8], uris: list[str], judge: Judge) -> NDArray[Any] | list[NDArray[Any]]:
    """Returns the arrays that the rows of a batch hold as one array over the same memory, or a list where they differ in kind.

    Those that cannot be read are taken out of `uris` too.
    """
    layouts, bad = [], []
    for at, uri in enumerate(uris):
        try:
            layouts.append(npy_layout(array[at], uri))
        except DecodeError as error:
            judge.pass_over(error)
            bad.append(at)
    if bad:
        array = close_gaps(array, bad)
        uris[:] = [uri for at, uri in enumerate(uris) if at not in bad]
    if not layouts:
        return []
    joined = npy_rows(array, layouts)
    return [read_npy(row, uri) for row, uri in zip(array, uris, strict=True)] if joined is None else joined
