"""The default reader: one GET of the whole object, and everything that came is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from s3dlio.engine.memory.view import BytesView

from ...s3torchconnectorclient import S3Exception
from ._arguments import check_size, room_in
from ._buffered import BufferedS3Reader
from ._pieces import Pieces
from ._streams import name_of

if TYPE_CHECKING:
    from ...s3torchconnectorclient._mountpoint_s3_client import GetObjectStream
    from .protocol import GetObjectInfo


class SequentialS3Reader(BufferedS3Reader):
    """Reads the object from its beginning on and keeps it, so that going back asks for nothing again. Right for most uses.

    `read()` of a whole object gives a `BytesView`: the reader's own memory, so what is changed in it is changed for later reads
    too. All else that is read is `bytes`.
    """

    _stream: Iterator[bytes] | None = None
    _is_complete = False
    _failure: str | None = None
    """Why an iterator broke off. Asked again it might say that it has ended; and another one might be of another version.
    One of the client's goes on where it was."""

    def __init__(
        self, bucket: str, key: str, get_object_info: GetObjectInfo, get_stream: Callable[[], GetObjectStream]
    ) -> None:
        """Sends nothing.

        Args:
            bucket: Not empty.
            key: The object.
            get_object_info: Says the size, where a seek from the end asks for it before the end was seen.
            get_stream: Opens the stream of the whole object. Any iterator of bytes will do; where it has `read_rest`, that
                gives all that is left at once.
        """
        super().__init__(bucket, key, get_object_info, get_stream)
        self._pieces = Pieces()

    def prefetch(self) -> None:
        """Opens the stream, unless it was opened before, and has it fetch its first bytes, where it can.

        Raises:
            S3Exception: The store refused.
        """
        if self._stream is None:
            self._open()
            getattr(self._stream, "prefetch", _nothing)()

    def _open(self) -> None:
        if self._stream is None:
            self._stream = self._get_stream()

    def read(self, size: int | None = None) -> Any:
        check_size(size)
        start = self._position
        if start == self._size:
            return b""
        if self._stream is None:
            self._open()
        if size is None or size < 0:
            if not self._is_complete:
                self._fetch_to(sys.maxsize)
            only = self._pieces.only
            whole = start == 0 and isinstance(only, BytesView)
            data = only if whole else self._pieces.read(start, self._pieces.nbytes)
        else:
            self._fetch_to(start + size)
            data = self._pieces.read(start, start + size)
        self._position = start + len(data)
        return data

    def readinto(self, buf: Any) -> int:
        """Fills `buf` from the position on; returns how many bytes there were, 0 at the end.

        Raises:
            S3Exception: The store refused, or the object broke off.
            TypeError: `buf` is not writable memory.
        """
        room = room_in(buf, "readinto() argument must be read-write bytes-like object")
        if self._position_at_end() or not room:
            return 0
        self._fetch_to(self._position + len(room))
        nbytes = self._pieces.read_into(self._position, room)
        self._position += nbytes
        return nbytes

    def _reach(self, offset: int) -> int:
        self._fetch_to(offset)
        return offset if self._size is None else min(offset, self._size)

    def _window(self) -> memoryview:
        self._fetch_to(self._position + 1)
        return next(self._pieces.spans(self._position, self._pieces.nbytes), memoryview(b""))

    def _fetch_to(self, stop: int) -> None:
        """Fetches until the bytes before `stop` are here, or the object has ended."""
        while self._pieces.nbytes < stop and not self._is_complete:
            if self._failure is not None:
                name = name_of(self._bucket, self._key)
                raise S3Exception(f"Reading {name} broke off before: {self._failure}")
            if self._stream is None:
                self._open()
            try:
                self._fetch(self._stream, stop)
            except BaseException as error:
                if not self._pieces.nbytes:
                    # Nobody has seen a byte of it, so the next read may begin anew.
                    self._stream = None
                elif not hasattr(self._stream, "read_rest"):
                    self._failure = f"{type(error).__name__}: {error}"
                raise

    def _fetch(self, stream: Any, stop: int) -> None:
        """Takes the next chunk; or all that is left, where most of it is wanted."""
        read_rest = getattr(stream, "read_rest", None)
        if read_rest is not None and self._wants_all(stop):
            piece, is_last = read_rest(), True
        else:
            piece = next(stream, None)
            is_last = piece is None
        if piece is not None:
            self._pieces.append(piece)
            if self._size is not None:
                # What a listing said may be old.
                self._size = getattr(stream, "size", None) or self._size
        if is_last:
            self._is_complete = True
            self._size = self._pieces.nbytes
            self._stream = iter(())

    def _wants_all(self, stop: int) -> bool:
        fetched = self._pieces.nbytes
        return stop == sys.maxsize or (self._size is not None and 2 * (stop - fetched) >= self._size - fetched)


def _nothing() -> None:
    """What a stream does that cannot prefetch."""
