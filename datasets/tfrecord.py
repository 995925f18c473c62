"""TFRecord files record by record, and the buffer in which their records are shuffled. Pure: fetches nothing.

A file is a run of records: length (uint64), CRC of the length, data, CRC of the data (uint32 each), all little-endian. The CRCs are
CRC32C, masked. A record is handed out after both of its CRCs were compared; nothing behind a record that does not hold is read, since
nobody knows where the next one begins.

The buffer draws by a counter: which of n records draw number t takes depends only on seed, epoch, worker and t. So a buffer that is
filled with the same records again goes on exactly where it was.

Source: tensorflow/core/lib/io/record_writer.h and core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Final, Generic, TypeAlias, TypeVar

import msgspec
import numpy as np

from s3dlio.engine.errors import ConfigurationError, DecodeError
from s3dlio.engine.fetch.checksums import sum_function

from .npy import Bytes, memory_of

Place: TypeAlias = tuple[int, int]
"""Of a record: the position of its file in the order of the epoch, and its number within the file, both from 0."""
Record = TypeVar("Record")

_HEAD: Final = struct.Struct("<QI")
_TAIL: Final = struct.Struct("<I")
_GZIP: Final = b"\x1f\x8b"


class Records:
    """The records of a TFRecord file; each is a slice of the view, and holds the slot.

    Args:
        view: The whole file.
        uri: Where it came from, for errors.
    """

    def __init__(self, view: Bytes, uri: str | None = None) -> None:
        self._view = view
        self._data = memory_of(view)
        self._uri = uri

    def __iter__(self) -> Iterator[Bytes]:
        return self.read_from(0)

    def read_from(self, first: int) -> Iterator[Bytes]:
        """Yields the records from number `first` on; of those before it only the lengths are read and checked.

        Raises:
            DecodeError: A CRC does not hold, or the file ends within a record; the text names the byte. The records before it were good.
        """
        crc32c = sum_function("crc32c")
        data, num_bytes = self._data, len(self._data)
        number = at = 0
        while at < num_bytes:
            begin = at + _HEAD.size
            if begin > num_bytes:
                raise self._error(number, at, f"the file ends within its length, at byte {num_bytes}")
            length, crc = _HEAD.unpack_from(data, at)
            if _mask(crc32c(data[at : at + 8], 0)) != crc:
                is_packed = at == 0 and bytes(data[:2]) == _GZIP
                hint = "; the file is compressed by gzip, which is not read here" if is_packed else ""
                raise self._error(number, at, f"the CRC of its length, at byte {at + 8}, does not hold{hint}")
            end = begin + length
            if end + _TAIL.size > num_bytes:
                raise self._error(number, at, f"it claims {length} bytes, and the file ends at byte {num_bytes}")
            if number >= first:
                if _mask(crc32c(data[begin:end], 0)) != _TAIL.unpack_from(data, end)[0]:
                    raise self._error(number, at, f"the CRC of its data, at byte {end}, does not hold")
                yield self._view[begin:end]
            number, at = number + 1, end + _TAIL.size
        if number < first:
            raise DecodeError(f"the state stands before record {first}, and the file has {number}", uri=self._uri)

    def _error(self, number: int, at: int, text: str) -> DecodeError:
        return DecodeError(f"record {number} at byte {at}: {text}", uri=self._uri)


def _mask(crc: int) -> int:
    """Returns the form in which a CRC32C stands in the file: a CRC of data that holds CRCs would be weak."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62) - 1)]
_Place = tuple[_Count, _Count]


class _Snapshot(msgspec.Struct, forbid_unknown_fields=True):
    """A buffer between two draws, as it comes from outside."""

    size: _Count
    drawn: _Count
    entries: list[_Place]
    """Of the records in the buffer, in its order."""
    next: _Place
    """Of the record that is read next."""


class ShuffleBuffer(Generic[Record]):
    """Shuffles a stream within a window: each record that comes takes the place of one that is drawn.

    Args:
        size: Records that it holds.
        seed: Any whole number.
        epoch: Any whole number.
        worker_key: What tells this stream from others of the same epoch: rank and worker.
    """

    def __init__(self, size: int, seed: int, epoch: int, worker_key: tuple[int, ...]) -> None:
        self._size = size
        self._draws = _Draws(f"{seed} {epoch} {worker_key}")
        self._drawn = 0
        self._entries: list[tuple[Place, Record]] = []
        self._next: Place = (0, 0)

    @property
    def size(self) -> int:
        """The records that it holds."""
        return self._size

    @property
    def drawn(self) -> int:
        """How often it was drawn from."""
        return self._drawn

    @property
    def next(self) -> Place:
        """The place of the first record that was not read yet: behind the last one of a file, if its end was not met."""
        return self._next

    def shuffle(self, source: Iterable[tuple[Place, Record]]) -> Iterator[tuple[Place, Record]]:
        """Yields the records of `source` in another order, and those that the buffer holds; it is empty at the end.

        Between two records, `snapshot` tells the state in which those that were yielded are gone.

        Args:
            source: The records from `next` on, each with its place.
        """
        entries = self._entries
        for place, record in source:
            self._next = (place[0], place[1] + 1)
            if len(entries) < self._size:
                entries.append((place, record))
            else:
                yield self._exchange((place, record))
            # The buffer alone says how long its slot is held.
            del record
        while entries:
            index = self._draw()
            entries[index], entries[-1] = entries[-1], entries[index]
            yield entries.pop()

    def snapshot(self) -> dict[str, Any]:
        """Returns what `restore` needs, of numbers and lists: fit for JSON."""
        places = [list(place) for place, _ in self._entries]
        return {"size": self._size, "drawn": self._drawn, "entries": places, "next": list(self._next)}

    def restore(self, snapshot: object, read: Callable[[Sequence[Place]], Iterable[Record]]) -> None:
        """Takes on the state of a snapshot; `shuffle` then goes on with the records from `next`.

        Args:
            snapshot: As of `snapshot`.
            read: Gives the records at some places, in the order in which they are asked for: file by file, and within a file in its
                order.

        Raises:
            ConfigurationError: It is no snapshot, or one of a buffer of another size.
        """
        found = _check(snapshot, self._size)
        places = sorted(found.entries)
        records = dict(zip(places, read(places), strict=True))
        self._entries[:] = [(place, records[place]) for place in found.entries]
        self._drawn = found.drawn
        self._next = found.next

    def _exchange(self, entry: tuple[Place, Record]) -> tuple[Place, Record]:
        index = self._draw()
        drawn = self._entries[index]
        self._entries[index] = entry
        return drawn

    def _draw(self) -> int:
        self._drawn += 1
        return self._draws.below(len(self._entries), self._drawn - 1)


def _check(snapshot: object, size: int) -> _Snapshot:
    try:
        found = msgspec.convert(snapshot, _Snapshot)
    except msgspec.ValidationError as error:
        raise ConfigurationError("the state of the shuffle buffer makes no sense", cause=str(error)) from None
    if found.size != size:
        raise ConfigurationError(f"the state is of a shuffle buffer of {found.size} records, and this one has {size}")
    if len(found.entries) > size or len(set(found.entries)) < len(found.entries):
        raise ConfigurationError("the state of the shuffle buffer holds a record twice, or more than it has room for")
    if any(place >= found.next for place in found.entries):
        raise ConfigurationError("the state of the shuffle buffer holds records that were not read yet")
    return found


class _Draws:
    """Numbers by their place in a sequence that only its name decides.

    Source: NEP 19: the raw output of numpy's bit generators never changes. Philox is made of a key and a counter, so any piece of the
    sequence is made without those before it.
    """

    _NUM: Final = 1024

    def __init__(self, name: str) -> None:
        self._key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
        self._block = -1
        self._raw: list[int] = []

    def below(self, limit: int, number: int) -> int:
        """Returns draw `number` as one of `range(limit)`."""
        block, index = divmod(number, self._NUM)
        if block != self._block:
            # A step of the counter gives four numbers of 64 bits.
            generator = np.random.Philox(key=self._key, counter=block * self._NUM // 4)
            self._raw, self._block = generator.random_raw(self._NUM).tolist(), block
        return self._raw[index] * limit >> 64
