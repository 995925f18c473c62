"""The bytes of one version of an object, in order: chunk by chunk, or all that is left at once.

Rules:

* The first answer says of which version and size the object is; everything else is asked of that one.
* What fails may be asked for again, and goes on where it was. No chunk is ever left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import index
from typing import TYPE_CHECKING, Final

from s3dlio.engine.errors import InvalidRangeError, S3dlioError
from s3dlio.engine.ops.objects import is_at_end
from s3dlio.engine.ops.perform import Place as EnginePlace
from s3dlio.engine.ops.whole import FoundRange, find_range_in_parts
from s3dlio.engine.pool.ahead import Ahead
from s3dlio.engine.pool.parted import Wanted, is_strong
from s3dlio.engine.pool.rooms import new_view_fetch, process_rooms

from ._errors import KEY_MISSING, S3Exception, translated

if TYPE_CHECKING:
    from s3dlio.engine.memory.view import BytesView

    from ._client import MountpointS3Client, Place

_AHEAD_BYTES: Final = 64 << 20
"""What chunks may take that nobody has asked for yet; two of them may always."""


class GetObjectStream:
    """An iterator of chunks, as long as a part each. Nothing is asked of the store before the first. For one thread at a time.

    Args:
        client: Whose limits hold.
        place: The object.
        bucket: As the caller named it.
        start: The first byte.
        end: One past the last; None for the end of the object.

    Raises:
        OverflowError: A bound is negative.
        S3Exception: The range ends before it begins.
        TypeError: A bound is no integer.
    """

    def __init__(self, client: MountpointS3Client, place: Place, bucket: str, start: int, end: int | None) -> None:
        if index(start) < 0 or (end is not None and index(end) < 0):
            raise OverflowError("can't convert negative int to unsigned")
        if end is not None and end < start:
            raise S3Exception(f"Client error: the range from {start} to {end} ends before it begins")
        self.bucket = bucket
        self.key = place.key
        self._client = client
        self._place = place
        self.part: tuple[int, int | None] = (0, None)
        """First byte, and one past the last, of what its reader takes for the whole object."""
        self._position = start
        self._end = end
        """Where the last chunk ends; None for the end of the object, as long as nobody has said where that is."""
        self._size: int | None = None
        """Of the object, and `_version` with it; None before the first answer."""
        self._version: str | None = None
        self._chunk: BytesView | None = None
        """The next one, where `prefetch` has fetched it."""
        self._ahead: Ahead | None = None
        self._ahead_begin = 0
        """Where the first chunk of `_ahead` begins."""

    def __iter__(self) -> GetObjectStream:
        return self

    def __next__(self) -> bytes:
        """Returns the next chunk.

        Raises:
            S3Exception: As the store says.
        """
        if self._is_over:
            raise StopIteration
        with translated(KEY_MISSING):
            view = self._next()
        if view is None:
            raise StopIteration
        chunk = bytes(view)
        self._position += len(chunk)
        return chunk

    def tell(self) -> int:
        """Returns where in the object the next chunk begins."""
        return self._position

    def prefetch(self) -> None:
        """Fetches the next chunk, which is waited for, and kept until it is taken.

        Raises:
            S3Exception: As the store says.
        """
        if not self._is_over:
            with translated(KEY_MISSING):
                self._chunk = self._next()

    def read_rest(self) -> BytesView:
        """Returns all that is left, in place: no byte of it is copied.

        Raises:
            S3Exception: As the store says.
        """
        chunk, self._chunk = self._chunk, None
        if chunk is not None and self._position + len(chunk) == self._end:
            self._position = self._end
            return chunk
        self._drop_ahead()
        with translated(KEY_MISSING):
            if self._size is not None and self._is_over:
                return process_rooms().empty_view()
            found = self._rest()
        self._note(found)
        self._position += len(found.view)
        return found.view

    @property
    def version(self) -> str | None:
        """The version of the object that the bytes are of; None before they have come, or where the store has none."""
        return self._version

    @property
    def size(self) -> int | None:
        """Bytes of what its reader takes for the whole object; None before some have come."""
        if self._size is None:
            return None
        start, end = self.part
        return max(0, (self._size if end is None else min(end, self._size)) - start)

    @property
    def _is_over(self) -> bool:
        return self._end is not None and self._position >= self._end

    def _rest(self) -> FoundRange:
        return find_range_in_parts(
            *self._place,
            start=self._position,
            end=self._end,
            size=self._size,
            version=self._version,
            limits=self._client.limits,
            max_in_flight=self._client.max_in_flight,
        )

    def _next(self) -> BytesView | None:
        chunk, self._chunk = self._chunk, None
        if chunk is not None:
            return chunk
        return self._first() if self._size is None else self._following()

    def _note(self, found: FoundRange) -> None:
        """Notes what all that was left has told."""
        self._size, self._version = found.size, found.version
        self._end = self._position + len(found.view)

    def _first(self) -> BytesView | None:
        """Returns the first chunk, and learns what the object is; None for no bytes."""
        (store, uri, key), start = self._place, self._position
        stop = start + self._client.limits.part_bytes
        fetch = new_view_fetch(uri, store.wire, key, start=start, end=stop if self._end is None else min(stop, self._end))
        try:
            self._client.drive(fetch)
        except InvalidRangeError as error:
            # An empty object has no range at all.
            if not self._client.run(is_at_end(EnginePlace(uri, store, key), start, error)):
                raise
            self._end = start
            return None
        view = fetch.view
        assert view is not None
        size, version = fetch.size, fetch.version
        end = size if self._end is None or (size is not None and size < self._end) else self._end
        if end is None or (start + len(view) < end and not is_strong(version)):
            # Nobody could say whether the next chunk is of the same version.
            found = self._rest()
            self._note(found)
            return found.view or None
        self._size, self._version, self._end = size, version, end
        return view or None

    def _following(self) -> BytesView:
        part_bytes = self._client.limits.part_bytes
        try:
            try:
                ahead = self._ahead or self._begin_ahead(part_bytes)
                return ahead.take((self._position - self._ahead_begin) // part_bytes)
            except LookupError:
                # It was taken, and lost on its way to the caller: by Ctrl-C, or for want of memory.
                self._drop_ahead()
                return self._begin_ahead(part_bytes).take(0)
        except S3dlioError:
            self._drop_ahead()
            raise

    def _begin_ahead(self, part_bytes: int) -> Ahead:
        num = min(self._client.max_in_flight, max(2, _AHEAD_BYTES // part_bytes))
        requests, self._ahead_begin = self._requests(part_bytes), self._position
        self._ahead = Ahead(requests, max_in_flight=num, max_bytes=num * part_bytes, limits=self._client.limits)
        return self._ahead

    def _requests(self, part_bytes: int) -> Iterator[Wanted]:
        assert self._end is not None
        place, size, version, end = self._place, self._size, self._version, self._end
        # It keeps no reference to the stream, which would be to itself.
        return (
            Wanted(*place, start, min(start + part_bytes, end), size, version)
            for start in range(self._position, end, part_bytes)
        )

    def _drop_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()
