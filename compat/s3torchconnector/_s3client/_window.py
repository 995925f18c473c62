"""A part of an object, seen as if it were all of it."""

from __future__ import annotations

from collections.abc import Callable

from ...s3torchconnectorclient._mountpoint_s3_client import GetObjectStream, HeadObjectResult, ObjectInfo
from ..s3reader.protocol import GetStreamCallable


class Window:
    """What a reader asks for, moved to where the part begins and cut where it ends. Picklable.

    Args:
        start: Its first byte in the object.
        last: Its last one, inclusive; None for the end of the object.
        get_object_info: Of the object.
        get_stream: Of the object; the end is exclusive.

    Raises:
        ValueError: `start` and `last` are no range.
    """

    def __init__(
        self,
        start: int,
        last: int | None,
        get_object_info: Callable[[], ObjectInfo | HeadObjectResult],
        get_stream: GetStreamCallable,
    ) -> None:
        if start < 0 or (last is not None and last < start):
            raise ValueError(f"start={start} and end={last} (inclusive) are no range")
        self._start = start
        self._end = None if last is None else last + 1
        self._get_object_info = get_object_info
        self._get_stream = get_stream

    def get_object_info(self) -> HeadObjectResult:
        """Returns what is known of the object, with the size of the part."""
        found = self._get_object_info()
        end = found.size if self._end is None else min(self._end, found.size)
        size = max(0, end - self._start)
        return HeadObjectResult(found.etag, size, found.last_modified, found.storage_class, found.restore_status)

    def get_stream(self, start: int | None = None, end: int | None = None) -> GetObjectStream:
        """Returns the bytes [start, end) of the part."""
        first = self._start + (start or 0)
        last = self._end if end is None else self._start + end
        stream = self._get_stream(first, last if self._end is None or last is None else min(last, self._end))
        if isinstance(stream, GetObjectStream):
            stream.part = self._start, self._end
        return stream
