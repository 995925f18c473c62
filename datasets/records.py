"""Files of many samples: their records as a stream, shuffled within a buffer if the data set is, and in batches if it makes any.

The files are shared out over ranks and workers as objects are, and each worker reads its own one after another. A state stands
between two records. It names what the buffer holds by place, and reads that again; where it stands at the end of a file, and nothing is
in a buffer, it is a state of whole files, and may go on in another layout.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import msgspec

from s3dlio.engine.errors import ConfigurationError, DecodeError, S3dlioError
from s3dlio.engine.memory.view import owned_view

from .deliveries import Delivery, Judge
from .tfrecord import Records, ShuffleBuffer

if TYPE_CHECKING:
    from s3dlio.engine.memory.view import BytesView
    from s3dlio.engine.pool.items import Item

    from .tfrecord import Place

Fetch = Callable[[Sequence[int]], Iterator["Item"]]
"""Gives the files of a share by number, in the order in which they are asked for."""
_Copy: TypeAlias = "tuple[BytesView, str]"
"""A record, and the URI of its file."""
_Found: TypeAlias = "tuple[Place, Any, str, bool]"


def in_order(
    fetch: Fetch, num_files: int, position: Any, first_file: int, judge: Judge
) -> Generator[Delivery, None, None]:
    """Yields record after record; each is a view, and holds the slot of its file.

    Args:
        fetch: Gives files.
        num_files: In the share.
        position: Where to go on, as a delivery's; None for the beginning of `first_file`.
        first_file: The first one that is not delivered.
        judge: Of files that cannot be fetched, and of records that cannot be read: the rest of their file is left out then.
    """
    first_record = 0 if position is None else _record_in(position, first_file)
    source = _records(fetch, range(first_file, num_files), first_record, judge)
    for (file, number), record, uri, is_last in source:
        position = None if is_last else {"next": [file, number + 1]}
        yield Delivery(record, int(is_last), (uri,), position=position, is_empty=record is None)
        del record


def shuffled(
    fetch: Fetch, num_files: int, position: Any, buffer: ShuffleBuffer[_Copy], judge: Judge
) -> Generator[Delivery, None, None]:
    """Yields the records in the order in which they leave the buffer; they are copies, or each would hold a whole file.

    Args:
        fetch: Gives files.
        num_files: In the share.
        position: Where to go on, as a delivery's; None for the beginning.
        buffer: New.
        judge: As of `in_order`.
    """
    found = _ShuffledPosition(buffer.size) if position is None else _convert(position, _ShuffledPosition)
    if found.size != buffer.size:
        raise ConfigurationError(f"the state is of a shuffle buffer of {found.size} records, and this one has {buffer.size}")
    if found.base is not None:
        buffer.restore(found.base, lambda places: _read_again(fetch, places))
    bases = _Bases(buffer, found.base)
    file, record = buffer.next
    for _, (copy, uri) in buffer.shuffle(_copies(_records(fetch, range(file, num_files), record, judge))):
        drawn = buffer.drawn
        # What the state had delivered behind the moment of which it knows the buffer.
        if drawn > found.drawn:
            yield Delivery(copy, 0, (uri,), position=partial(bases.position, drawn))
        del copy
    yield Delivery(None, num_files, is_empty=True)


def record_batches(deliveries: Iterator[Delivery], batch_size: int, drop_last: bool) -> Generator[Delivery, None, None]:
    """Yields lists of `batch_size` records; the last one may be shorter, and is left out with `drop_last`."""
    values: list[Any] = []
    uris: list[str] = []
    num = 0
    position = None
    for delivery in deliveries:
        num += delivery.num
        position = delivery.position
        if not delivery.is_empty:
            values.append(delivery.pop())
            uris += delivery.uris
        if len(values) == batch_size:
            batch = Delivery(values, num, uris, position=position)
            values, uris, num = [], [], 0
            yield batch
    if values or num:
        is_empty = not values or drop_last
        yield Delivery(values, num, uris, position=position, is_empty=is_empty)


_Natural = Annotated[int, msgspec.Meta(ge=0)]


class _Position(msgspec.Struct, forbid_unknown_fields=True):
    """Between two records of a file."""

    next: tuple[_Natural, _Natural]
    """Of the file, and of the record in it that comes next."""


class _ShuffledPosition(msgspec.Struct, forbid_unknown_fields=True):
    """Between two draws from the buffer."""

    size: int
    """Of the buffer."""
    base: dict[str, Any] | None = None
    """The buffer at an earlier moment; None at the beginning of the epoch."""
    drawn: _Natural = 0
    """Draws until now, from the beginning of the epoch."""


class _Bases:
    """Says where a shuffled stream stands. It may have drawn more than was handed out, so a position counts draws from a moment before.

    The buffer is written down anew once it has changed all over; in between a position costs nothing.
    """

    def __init__(self, buffer: ShuffleBuffer[_Copy], base: dict[str, Any] | None) -> None:
        self._buffer = buffer
        self._base = base
        self._drawn = buffer.drawn

    def position(self, drawn: int) -> dict[str, Any]:
        """Returns the position behind draw number `drawn`."""
        buffer = self._buffer
        if drawn == buffer.drawn and drawn - self._drawn >= buffer.size:
            self._base, self._drawn = buffer.snapshot(), drawn
        return {"size": buffer.size, "base": self._base, "drawn": drawn}


_Struct = TypeVar("_Struct", _Position, _ShuffledPosition)


def _convert(position: object, kind: type[_Struct]) -> _Struct:
    try:
        return msgspec.convert(position, kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError("the state has no place between two records", cause=str(error)) from None


def _record_in(position: object, file: int) -> int:
    """Returns which record of a file comes next, of a state.

    Raises:
        ConfigurationError: It makes no sense, or is of another file.
    """
    found = _convert(position, _Position).next
    if found[0] != file:
        raise ConfigurationError(f"the state stands in file {found[0]} and has delivered {file} files")
    return found[1]


def _records(fetch: Fetch, files: Sequence[int], first_record: int, judge: Judge) -> Iterator[_Found]:
    """Yields place, record, URI, and whether it is the last of its file; a file without one gives None as its last."""
    for file, item in zip(files, fetch(files), strict=True):
        number = first_record
        first_record = 0
        waiting: Any = None
        try:
            for record in _read(item, number, judge):
                if waiting is not None:
                    yield (file, number), waiting, item.uri, False
                    number += 1
                waiting = record
                del record
        except S3dlioError:
            # The record in front of what cannot be read is good.
            if waiting is not None:
                yield (file, number), waiting, item.uri, False
            raise
        yield (file, number), waiting, item.uri, True
        waiting = None


def _read(item: Item, first: int, judge: Judge) -> Iterator[Any]:
    """Yields the records of a file that can be read."""
    if item.error is not None:
        judge.pass_over(item.error)
        return
    try:
        yield from Records(item.pop_view(), item.uri).read_from(first)
    except DecodeError as error:
        judge.pass_over(error)


def _copies(found: Iterable[_Found]) -> Iterator[tuple[Place, _Copy]]:
    for place, record, uri, _ in found:
        if record is not None:
            yield place, (owned_view(bytearray(record)), uri)


def _read_again(fetch: Fetch, places: Sequence[Place]) -> Iterator[_Copy]:
    """Yields copies of the records at some places, which are sorted."""
    wanted = {file: [number for _, number in group] for file, group in groupby(places, itemgetter(0))}
    for (_, numbers), item in zip(wanted.items(), fetch([*wanted]), strict=True):
        if item.error is not None:
            raise item.error
        wanted_here, found = set(numbers), 0
        for number, record in enumerate(Records(item.pop_view(), item.uri)):
            if number in wanted_here:
                found += 1
                yield owned_view(bytearray(record)), item.uri
            if number == numbers[-1]:
                break
        if found < len(numbers):
            raise DecodeError(f"the state names record {numbers[-1]}, and the file has fewer", uri=item.uri)
