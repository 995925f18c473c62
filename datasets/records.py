"""Files of many samples: their records as a stream, shuffled within a buffer if the data set is, and in batches if it makes any.

The files are shared out over ranks and workers as objects are, and each worker reads its own one after another. A state stands
between two records. It names what the buffer holds by place, and reads that again; where it stands at the end of a file, and nothing is
in a buffer, it is a state of whole files, and may go on in another layout.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from s3dlio.engine.errors import ConfigurationError, DecodeError
from s3dlio.engine.memory.view import owned_view

from .deliveries import Delivery, Judge
from .tfrecord import Records, ShuffleBuffer

if TYPE_CHECKING:
    from s3dlio.engine.memory.view import BytesView
    from s3dlio.engine.pool.items import Item

    from .tfrecord import Place

Fetch = Callable[[Sequence[int]], Iterator["Item"]]
"""Gives the files of a share by number, in the order in which they are asked for."""


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
    for (file, number), record, is_last in source:
        position = None if is_last else {"next": [file, number + 1]}
        yield Delivery(record, int(is_last), position=position, is_empty=record is None)
        del record


def shuffled(
    fetch: Fetch, num_files: int, position: Any, buffer: ShuffleBuffer[BytesView], judge: Judge
) -> Generator[Delivery, None, None]:
    """Yields the records in the order in which they leave the buffer; they are copies, or each would hold a whole file.

    Args:
        fetch: Gives files.
        num_files: In the share.
        position: Where to go on, as a delivery's; None for the beginning.
        buffer: New.
        judge: As of `in_order`.
    """
    if position is not None:
        buffer.restore(position, lambda places: _read_again(fetch, places))
    file, record = buffer.next
    for _, copy in buffer.shuffle(_copies(_records(fetch, range(file, num_files), record, judge))):
        yield Delivery(copy, 0, position=buffer.snapshot)
    yield Delivery(None, num_files, is_empty=True)


def record_batches(deliveries: Iterator[Delivery], batch_size: int, drop_last: bool) -> Generator[Delivery, None, None]:
    """Yields lists of `batch_size` records; the last one may be shorter, and is left out with `drop_last`."""
    values: list[Any] = []
    num = 0
    position = None
    for delivery in deliveries:
        num += delivery.num
        position = delivery.position
        if not delivery.is_empty:
            values.append(delivery.pop())
        if len(values) == batch_size:
            batch = Delivery(values, num, position=position)
            values, num = [], 0
            yield batch
    if values or num:
        is_empty = not values or drop_last
        yield Delivery(values, num, position=position, is_empty=is_empty)


class _Position(msgspec.Struct, forbid_unknown_fields=True):
    next: tuple[int, Annotated[int, msgspec.Meta(ge=0)]]


def _record_in(position: object, file: int) -> int:
    """Returns which record of a file comes next, of a state.

    Raises:
        ConfigurationError: It makes no sense, or is of another file.
    """
    try:
        found = msgspec.convert(position, _Position).next
    except msgspec.ValidationError as error:
        raise ConfigurationError("the state has no place in a file", cause=str(error)) from None
    if found[0] != file:
        raise ConfigurationError(f"the state stands in file {found[0]} and has delivered {file} files")
    return found[1]


def _records(fetch: Fetch, files: Sequence[int], first_record: int, judge: Judge) -> Iterator[tuple[Place, Any, bool]]:
    """Yields place, record and whether it is the last of its file; a file without one gives None as its last."""
    for file, item in zip(files, fetch(files), strict=True):
        number = first_record
        first_record = 0
        waiting: Any = None
        for record in _read(item, number, judge):
            if waiting is not None:
                yield (file, number), waiting, False
                number += 1
            waiting = record
            del record
        yield (file, number), waiting, True
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


def _copies(found: Iterable[tuple[Place, Any, bool]]) -> Iterator[tuple[Place, BytesView]]:
    for place, record, _ in found:
        if record is not None:
            yield place, owned_view(bytearray(record))


def _read_again(fetch: Fetch, places: Sequence[Place]) -> Iterator[BytesView]:
    """Yields copies of the records at some places, which are sorted."""
    wanted = {file: [number for _, number in group] for file, group in groupby(places, itemgetter(0))}
    for (_, numbers), item in zip(wanted.items(), fetch([*wanted]), strict=True):
        if item.error is not None:
            raise item.error
        wanted_here, found = set(numbers), 0
        for number, record in enumerate(Records(item.pop_view(), item.uri)):
            if number in wanted_here:
                found += 1
                yield owned_view(bytearray(record))
            if number == numbers[-1]:
                break
        if found < len(numbers):
            raise DecodeError(f"the state names record {numbers[-1]}, and the file has fewer", uri=item.uri)
