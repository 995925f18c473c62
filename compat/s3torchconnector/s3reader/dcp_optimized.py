"""The reader for distributed checkpoints: the ranges that a plan wants of one file, in their order, and nothing else.

Ranges with small gaps between them are a group, which is one stream; what lies in the gaps is passed over. Of a file, no more is held
than the item that is being read, and what of the group came along with it. An item that has been left cannot be gone back to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import SEEK_CUR, SEEK_END, SEEK_SET
from typing import TYPE_CHECKING, Any, Final

from ._arguments import check_size, room_in
from ._pieces import Pieces
from ._streams import OneVersion, name_of
from .s3reader import S3Reader

if TYPE_CHECKING:
    from ...s3torchconnectorclient._mountpoint_s3_client import GetObjectStream
    from .protocol import GetObjectInfo

DEFAULT_MAX_GAP_SIZE: Final = 32 * 1024 * 1024
"""Bytes."""
FIND_ITEM_ERROR_PREFIX: Final = "DCPOptimizedS3Reader only supports sequentially accessing provided ranges: "
FALLBACK_GUIDANCE: Final = (
    "If this error is encountered with the default DCP reader (S3ReaderConstructor.dcp_optimized()) "
    "added in s3torchconnector v1.5.0, please refer to the troubleshooting doc "
    "(https://github.com/awslabs/s3-connector-for-pytorch/blob/main/docs/TROUBLESHOOTING.md#dcpoptimizeds3reader-errors)."
    "\nFor unsupported or non-DCP access patterns, use the generic reader: "
    "S3StorageReader(region, path, reader_constructor=S3ReaderConstructor.default())"
)
"""The texts of these errors are upstream's, since programs compare them."""
_REST_BYTES: Final = 64 * 1024 * 1024
"""So much of a group may be held beyond the item that is read: then all that is left of it comes in one, and no byte is copied twice."""


@dataclass
class ItemRange:
    """The bytes `[start, end)` of one item."""

    start: int
    end: int


@dataclass
class RangeGroup:
    """Items that share a stream, and the bytes `[start, end)` that they reach over."""

    start: int
    end: int
    item_ranges: list[ItemRange]


class _ItemViewBuffer:
    """The bytes of one item, in pieces that are views of what came, as a file."""

    __slots__ = ("_pieces", "_position")

    def __init__(self) -> None:
        self._pieces = Pieces()
        self._position = 0

    def append_view(self, view: memoryview) -> None:
        """Adds what comes next."""
        self._pieces.append(view)

    @property
    def nbytes(self) -> int:
        return self._pieces.nbytes

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = SEEK_SET, /) -> int:
        """Moves to `offset` from where `whence` says, also behind the end; returns the new position."""
        assert isinstance(offset, int), f"integer expected, got {type(offset)!r}"
        if whence == SEEK_CUR:
            offset += self._position
        elif whence == SEEK_END:
            offset += self._pieces.nbytes
        elif whence != SEEK_SET:
            raise ValueError("Seek must be passed SEEK_CUR, SEEK_SET, or SEEK_END")
        assert offset >= 0, f"negative seek value {offset}"
        self._position = offset
        return offset

    def read(self, size: int | None = None) -> bytes:
        """Returns up to `size` bytes."""
        assert size is not None, "Size cannot be None; full read is not supported"
        assert size >= 0, "Size cannot be negative; full read is not supported"
        data = self._pieces.read(self._position, self._position + size)
        self._position += len(data)
        return data

    def readinto(self, buf: Any) -> int:
        """Fills `buf`; returns how many bytes there were."""
        nbytes = self._pieces.read_into(self._position, room_in(buf))
        self._position += nbytes
        return nbytes


class _GroupStream:
    """The stream of a group: gives its items one after the other."""

    def __init__(self, stream: Any, version: OneVersion, group: RangeGroup, start: int) -> None:
        """Begins at `start`.

        Args:
            stream: Of the bytes from `start` to the end of the group.
            version: That all streams of the object are of.
            group: Whose stream.
            start: First byte of the object that is wanted.
        """
        self.group = group
        self._stream = stream
        self._version = version
        self._chunk = memoryview(b"")
        """What came and is not used yet."""
        self._position = start
        """Where in the object that begins."""

    def take(self, item: ItemRange) -> _ItemViewBuffer:
        """Returns the bytes of `item`, which begins no earlier than the last one ended.

        Raises:
            S3Exception: The store refused, or the object has changed.
            ValueError: The stream ends too early.
        """
        buffer = _ItemViewBuffer()
        while self._position < item.end:
            chunk = self._chunk or self._next_chunk(item)
            first = min(max(item.start - self._position, 0), len(chunk))
            last = min(item.end - self._position, len(chunk))
            if first < last:
                buffer.append_view(chunk[first:last])
            self._position += last
            self._chunk = chunk[last:]
        return buffer

    def _next_chunk(self, item: ItemRange) -> memoryview:
        wanted, left = item.end - self._position, self.group.end - self._position
        read_rest = getattr(self._stream, "read_rest", None) if left <= max(wanted, _REST_BYTES) else None
        chunk = next(self._stream, None) if read_rest is None else read_rest() or None
        if chunk is None:
            goal = "before reaching" if self._position < item.start else "while reading"
            raise ValueError(f"S3 stream exhausted at position {self._position} {goal} item {item.start}-{item.end}")
        self._version.check(self._stream)
        return memoryview(chunk)


class DCPOptimizedS3Reader(S3Reader):
    """Reads the items of one file of a distributed checkpoint, one after the other; within an item, in any order.

    `S3StorageReader` has its plan sorted and tells the ranges; whoever reads otherwise takes another reader.
    """

    def __init__(
        self,
        bucket: str,
        key: str,
        item_ranges: list[ItemRange],
        get_object_info: GetObjectInfo,
        get_stream: Callable[[int | None, int | None], GetObjectStream],
        max_gap_size: float = DEFAULT_MAX_GAP_SIZE,
    ) -> None:
        """Sends nothing.

        Args:
            bucket: Not empty.
            key: Not empty.
            item_ranges: By their start, without overlap; empty ones are left out.
            get_object_info: Says the size; not asked by this reader.
            get_stream: Opens a stream of the bytes in `[start, end)`.
            max_gap_size: In bytes, between two ranges that share a stream.

        Raises:
            TypeError: `max_gap_size` is no number.
            ValueError: Something is empty or negative, or the ranges are not in order.
        """
        if not bucket:
            raise ValueError("Bucket should be specified")
        if not key:
            raise ValueError("Key should be specified")
        if not item_ranges:
            raise ValueError("item_ranges must be a non-empty List[ItemRange] object")
        if not isinstance(max_gap_size, (int, float)):
            raise TypeError(f"max_gap_size must be int or float, got {type(max_gap_size).__name__}")
        if max_gap_size < 0:
            raise ValueError("max_gap_size must be non-negative")
        self._bucket = bucket
        self._key = key
        self._get_object_info = get_object_info
        self._get_stream = get_stream
        self._max_gap_size = max_gap_size
        self._item_ranges = [item for item in item_ranges if item.end != item.start]
        if not self._item_ranges:
            raise ValueError("No non-empty ranges to read (all ranges were length 0)")
        self._range_groups = group_ranges(self._item_ranges, max_gap_size)
        self._group_of = [group for group in self._range_groups for _ in group.item_ranges]
        """Of each item."""
        self._version = OneVersion(name_of(bucket, key))
        self._stream: _GroupStream | None = None
        self._current = 0
        """Number of the item that is read."""
        self._item: _ItemViewBuffer | None = None
        """Its bytes, once one of them was asked for."""
        self._position = 0

    @property
    def bucket(self) -> str:
        return self._bucket

    @property
    def key(self) -> str:
        return self._key

    def read(self, size: int | None = None) -> bytes:
        """Returns exactly `size` bytes from the position on.

        Raises:
            S3Exception: The store refused, or the object has changed.
            TypeError: `size` is no integer.
            ValueError: `size` is None or negative; or these bytes are neither of this item nor of the next one; or the file ends
                before them.
        """
        if size is None:
            raise ValueError(f"Size cannot be None; full read not supported.\n{FALLBACK_GUIDANCE}")
        check_size(size)
        if size < 0:
            raise ValueError(f"Size cannot be negative; full read not supported.\n{FALLBACK_GUIDANCE}")
        if size == 0:
            return b""
        data = self._item_with(self._position, self._position + size).read(size)
        self._position += size
        return data

    def readinto(self, buf: Any) -> int:
        """Fills `buf` from the position on; returns its size in bytes.

        Raises:
            S3Exception: The store refused, or the object has changed.
            TypeError: `buf` is not writable memory.
            ValueError: As `read`.
        """
        room = room_in(buf)
        nbytes = self._item_with(self._position, self._position + len(room)).readinto(room)
        self._position += nbytes
        return nbytes

    def seek(self, offset: int, whence: int = SEEK_SET, /) -> int:
        """Moves to `offset` from the beginning or the position; whether it can be read there shows when it is read.

        Raises:
            TypeError: `offset` is no integer.
            ValueError: The position would be negative, or `whence` is neither SEEK_SET nor SEEK_CUR.
        """
        if not isinstance(offset, int):
            raise TypeError(f"integer argument expected, got {type(offset)!r}")
        if whence == SEEK_CUR:
            offset += self._position
        elif whence != SEEK_SET:
            raise ValueError("whence must be SEEK_CUR or SEEK_SET integers")
        if offset < 0:
            raise ValueError(f"negative seek value {offset}")
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        """Lets the stream and the bytes go; whoever reads on has them fetched again."""
        self._stream = self._item = None
        super().close()

    def _item_with(self, start: int, end: int) -> _ItemViewBuffer:
        """Returns the item that has the bytes `[start, end)`, fetched if need be, at the position of `start`."""
        number = self._find(start, end)
        item = self._item_ranges[number]
        if self._item is None or number != self._current:
            # What was read stays as it is until the next one is here, should it fail.
            self._item, self._current = self._load(number), number
        self._item.seek(start - item.start)
        return self._item

    def _find(self, start: int, end: int) -> int:
        """Returns the number of the item that has `[start, end)`: of this one, or of the next.

        Raises:
            ValueError: Neither has.
        """
        current = self._item_ranges[self._current]
        if current.start <= start and end <= current.end:
            return self._current
        text = f"{FIND_ITEM_ERROR_PREFIX}Range {start}-{end} not contained in "
        if start < current.end or self._item is None:
            raise ValueError(f"{text}current item {current.start}-{current.end}.\n{FALLBACK_GUIDANCE}")
        if self._current + 1 == len(self._item_ranges):
            raise ValueError(f"{text}last item with range {current.start}-{current.end}.\n{FALLBACK_GUIDANCE}")
        following = self._item_ranges[self._current + 1]
        if following.start <= start and end <= following.end:
            return self._current + 1
        raise ValueError(
            f"{text}current item {current.start}-{current.end} nor the "
            f"next item {following.start}-{following.end}.\n{FALLBACK_GUIDANCE}"
        )

    def _load(self, number: int) -> _ItemViewBuffer:
        group, item = self._group_of[number], self._item_ranges[number]
        # One that fails is not asked again: the next try opens another, at the item where it failed.
        stream, self._stream = self._stream, None
        if stream is None or stream.group is not group:
            stream = _GroupStream(self._get_stream(item.start, group.end), self._version, group, item.start)
        loaded = stream.take(item)
        self._stream = stream
        return loaded


def group_ranges(items: list[ItemRange], max_gap_size: float) -> list[RangeGroup]:
    """Returns the groups of ranges that share a stream.

    Raises:
        ValueError: The ranges are not in order.
    """
    groups: list[RangeGroup] = []
    for item in items:
        if item.end < item.start or (item.start < 0 and not groups):
            raise ValueError(f"Invalid range: {item.start}-{item.end}")
        last = groups[-1].item_ranges[-1] if groups else None
        if last is not None and item.start < last.end:
            order = "Unsorted" if item.start < last.start else "Overlapping"
            raise ValueError(f"{order} ranges: {last.start}-{last.end} and {item.start}-{item.end}")
        if last is not None and item.start - last.end <= max_gap_size:
            groups[-1].item_ranges.append(item)
            groups[-1].end = item.end
        else:
            groups.append(RangeGroup(item.start, item.end, [item]))
    return groups
