"""A sample as a file to read from."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from s3dlio.engine.memory.view import BytesView

_WHENCE: Final = (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END)


class ViewReader(io.RawIOBase):
    """A seekable, read-only binary file over the bytes of an object; `len` is its size. What `read` returns is a copy."""

    def __init__(self, view: BytesView) -> None:
        """Begins at byte 0.

        Args:
            view: The bytes; held until `close`, or until the reader is gone.
        """
        self._bytes: memoryview | None = view.data
        self._position = 0

    def __len__(self) -> int:
        return len(self._open())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves to `offset` from the beginning, the position or the end, as `whence` says; returns the new position."""
        size = len(self._open())
        if whence not in _WHENCE:
            raise ValueError(f"whence is 0, 1 or 2, not {whence!r}")
        position = offset + (0, self._position, size)[whence]
        if position < 0:
            raise ValueError(f"position {position} is before the beginning")
        self._position = position
        return position

    def readinto(self, buffer: Any, /) -> int:
        """Fills `buffer` from the position on; returns how many bytes there were."""
        with memoryview(buffer).cast("B") as room:
            piece = self._open()[self._position : self._position + len(room)]
            room[: len(piece)] = piece
            self._position += len(piece)
            return len(piece)

    def read(self, size: int | None = -1, /) -> bytes:
        """Returns up to `size` bytes, all that are left if it is negative or None."""
        stop = None if size is None or size < 0 else self._position + size
        piece = bytes(self._open()[self._position : stop])
        self._position += len(piece)
        return piece

    def readall(self) -> bytes:
        """Returns all that is left."""
        return self.read()

    read_all = readall

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (bytes(self._open()), self._position)

    def close(self) -> None:
        """Lets the bytes go."""
        self._bytes = None
        super().close()

    def _open(self) -> memoryview:
        if self._bytes is None:
            raise ValueError("I/O operation on closed file")
        return self._bytes


def _reopen(data: bytes, position: int) -> ViewReader:
    from s3dlio.engine.memory.view import owned_view

    reader = ViewReader(owned_view(data))
    reader.seek(position)
    return reader
