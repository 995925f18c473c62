"""What the readers of arbitrary access have in common: the position, and lines.

A position is never behind the end: a seek that would go there stops at the end.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from functools import cached_property
from io import SEEK_CUR, SEEK_END, SEEK_SET
from typing import TYPE_CHECKING, Any, Final

from ._arguments import check_size
from .s3reader import S3Reader

if TYPE_CHECKING:
    from .protocol import GetObjectInfo

_LINE_END: Final = re.compile(b"\n")
"""A pattern searches in any buffer, where `bytes.find` would need a copy of it."""


class BufferedS3Reader(S3Reader):
    """A reader that has some of the object in hand, and fetches more where that is needed."""

    _size: int | None = None
    """Bytes; None until somebody needed it, or the end was seen."""
    _position = 0

    def __init__(self, bucket: str, key: str, get_object_info: GetObjectInfo, get_stream: Any) -> None:
        if not bucket:
            raise ValueError("Bucket should be specified")
        self._bucket = bucket
        self._key = key
        self._get_object_info = get_object_info
        self._get_stream = get_stream

    @property
    def bucket(self) -> str:
        return self._bucket

    @property
    def key(self) -> str:
        return self._key

    @cached_property
    def _object_info(self) -> Any:
        return self._get_object_info()

    def _get_size(self) -> int:
        if self._size is None:
            self._size = self._object_info.size
        return self._size

    def _position_at_end(self) -> bool:
        """Returns whether nothing is left, as far as is known without asking."""
        return self._position == self._size

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = SEEK_SET, /) -> int:
        """Moves to `offset` from where `whence` says, at most to the end; returns the new position.

        Raises:
            S3Exception: The store was asked for the size, or for bytes up to there, and refused.
            TypeError: An argument is no integer.
            ValueError: The position would be negative, or `whence` is none of SEEK_SET, SEEK_CUR, SEEK_END.
        """
        if not isinstance(offset, int):
            raise TypeError(f"integer argument expected, got {type(offset)!r}")
        if whence == SEEK_END:
            if offset >= 0:
                self._position = self._get_size()
                return self._position
            offset += self._get_size()
        elif whence == SEEK_CUR:
            if self._position_at_end() and offset >= 0:
                return self._position
            offset += self._position
        elif whence != SEEK_SET:
            if isinstance(whence, int):
                raise ValueError("Seek must be passed SEEK_CUR, SEEK_SET, or SEEK_END")
            raise TypeError(f"integer argument expected, got {type(whence)!r}")
        if offset < 0:
            raise ValueError(f"negative seek value {offset}")
        self._position = self._reach(offset)
        return self._position

    def readall(self) -> bytes:
        """Returns all that is left, as `bytes`: what `io.BufferedReader` over this asks for, which takes nothing else.

        Raises:
            S3Exception: As `read`.
        """
        return bytes(self.read())

    def read1(self, size: int | None = -1, /) -> bytes:
        """Returns some of the bytes from the position on, at most `size` unless it is None or negative; none only at the end.

        It fetches where there are none at hand, and then once. `io.TextIOWrapper` reads by this.

        Raises:
            S3Exception: As `read`.
            TypeError: `size` is no integer.
        """
        check_size(size)
        if size == 0:
            return b""
        window = self._window()
        data = bytes(window if size is None or size < 0 else window[:size])
        self._position += len(data)
        return data

    @abstractmethod
    def _reach(self, offset: int) -> int:
        """Returns `offset`, or the end where that comes first."""

    @abstractmethod
    def _window(self) -> memoryview:
        """Returns some of the bytes from the position on, fetching where there are none at hand; empty only at the end."""

    def readline(self, size: int | None = -1, /) -> bytes:
        """Returns the bytes up to the next line end, with it, or up to the end; at most `size`, unless it is None or negative."""
        check_size(size)
        line: list[bytes] = []
        left = -1 if size is None or size < 0 else size
        while left:
            window = self._window()
            if left > 0:
                window = window[:left]
            found = _LINE_END.search(window)
            line.append(bytes(window[: found.end()] if found else window))
            self._position += len(line[-1])
            if found or not window:
                break
            left -= len(window) if left > 0 else 0
        return b"".join(line)
