"""The reader for pieces of large objects: each read is a request of its own, small ones through a buffer."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from s3dlio.engine.memory.view import BytesView

from ...s3torchconnectorclient import S3Exception
from ._arguments import check_size, room_in
from ._buffered import BufferedS3Reader
from ._streams import OneVersion, name_of

if TYPE_CHECKING:
    from ...s3torchconnectorclient._mountpoint_s3_client import GetObjectStream
    from .protocol import GetObjectInfo

DEFAULT_BUFFER_SIZE: Final = 8 * 1024 * 1024
_LINES_BUFFER_BYTES: Final = 64 * 1024
"""What is asked for at once where lines are read without a buffer: a request for each would cost far more than these bytes."""


class _OtherSizeError(Exception):
    """The object is longer or shorter than was thought; what is asked for has to be reckoned again."""


class RangedS3Reader(BufferedS3Reader):
    """Reads what is asked for and little else. It needs the object's size, from a listing or by a HEAD, before the first read.

    A read of at least `buffer_size` bytes is one request for them; a smaller one fetches `buffer_size` bytes, of which later
    reads take what they find. A read that begins in the buffer and goes on behind it asks only for the rest.

    `read()` of a whole object gives a `BytesView`; if the object is smaller than the buffer, that is the buffer itself, so what
    is changed in it is changed for later reads too. All else that is read is `bytes`.
    """

    def __init__(
        self,
        bucket: str,
        key: str,
        get_object_info: GetObjectInfo,
        get_stream: Callable[[int | None, int | None], GetObjectStream],
        buffer_size: int | None = None,
    ) -> None:
        """Sends nothing.

        Args:
            bucket: Not empty.
            key: The object.
            get_object_info: Says the size.
            get_stream: Opens a stream of the bytes in `[start, end)`.
            buffer_size: In bytes; None is 8 MiB, 0 none.
        """
        super().__init__(bucket, key, get_object_info, get_stream)
        self._buffer_size = DEFAULT_BUFFER_SIZE if buffer_size is None else operator.index(buffer_size)
        self._version = OneVersion(name_of(bucket, key))
        self._is_sure = False
        """Whether the store has confirmed the size, which may be that of an old listing."""
        self._buffer: Any = b""
        """What the last request that was buffered brought, as it came."""
        self._buffer_start = 0
        self._buffer_end = 0

    def read(self, size: int | None = None) -> Any:
        check_size(size)
        if self._position_at_end():
            return b""
        start, pieces = self._take(size)
        is_whole = start == 0 and (size is None or size < 0)
        if is_whole and len(pieces) == 1 and isinstance(pieces[0], BytesView):
            return pieces[0]
        return b"".join(pieces)

    def readinto(self, buf: Any) -> int:
        """Fills `buf` from the position on; returns how many bytes there were, 0 at the end.

        Raises:
            S3Exception: The store refused, the object has changed, or fewer bytes came than it has.
            TypeError: `buf` is not writable memory.
        """
        room = room_in(buf)
        if self._position_at_end() or not room:
            return 0
        filled = 0
        for piece in self._take(len(room))[1]:
            room[filled : filled + len(piece)] = memoryview(piece)
            filled += len(piece)
        return filled

    def _reach(self, offset: int) -> int:
        return min(offset, self._get_size())

    def _window(self) -> memoryview:
        start = self._position
        if start >= self._get_size():
            return memoryview(b"")
        if not self._buffer_start <= start < self._buffer_end:
            nbytes = max(self._buffer_size, _LINES_BUFFER_BYTES)
            try:
                self._fill_buffer(start, nbytes)
            except _OtherSizeError:
                return self._window()
        return memoryview(self._buffer)[start - self._buffer_start :]

    def _take(self, size: int | None) -> tuple[int, list[Any]]:
        """Moves over the next `size` bytes, those of them that the object has; returns where they begin, and them, in pieces."""
        start, total = self._position, self._get_size()
        end = total if size is None or size < 0 else min(start + size, total)
        if start >= end:
            return start, []
        try:
            pieces = self._fetch(start, end)
        except _OtherSizeError:
            return self._take(size)
        self._position = end
        return start, pieces

    def _fetch(self, start: int, end: int) -> list[Any]:
        """Returns the bytes in `[start, end)`, of which there are some, in one or two pieces."""
        pieces = []
        if self._buffer_start <= start < self._buffer_end:
            pieces.append(self._buffered(start, end))
            start = self._buffer_end
        if start < end:
            if end - start >= self._buffer_size:
                pieces.append(self._ask(start, end))
            else:
                self._fill_buffer(start, self._buffer_size)
                pieces.append(self._buffered(start, end))
        return pieces

    def _fill_buffer(self, start: int, nbytes: int) -> None:
        end = min(start + nbytes, self._get_size())
        self._buffer = self._ask(start, end)
        self._buffer_start, self._buffer_end = start, end

    def _ask(self, start: int, end: int) -> Any:
        stream = self._get_stream(start, end)
        try:
            data = self._version.read(stream, start, end)
        except S3Exception:
            self._check_size(stream)
            raise
        self._check_size(stream)
        return data

    def _check_size(self, stream: Any) -> None:
        """Takes over the size that the first answer says.

        Raises:
            _OtherSizeError: It is not what a listing said.
        """
        size = getattr(stream, "size", None)
        if self._is_sure or size is None:
            return
        self._is_sure = True
        if size != self._size:
            self._size = size
            raise _OtherSizeError

    def _buffered(self, start: int, end: int) -> Any:
        """Returns what the buffer has of `[start, end)`: all of it as it came, a piece as a memoryview."""
        first, last = start - self._buffer_start, min(end, self._buffer_end) - self._buffer_start
        if first == 0 and last == len(self._buffer):
            return self._buffer
        return memoryview(self._buffer)[first:last]
