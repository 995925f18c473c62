"""What every reader is."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from typing import Any


class S3Reader(ABC, io.BufferedIOBase):
    """One object as a read-only, seekable binary file. Not safe for several threads at once.

    Building one sends nothing; the first read does. Unread ones can be pickled where what they were made of can.
    """

    @property
    @abstractmethod
    def bucket(self) -> str:
        """The bucket that the object is in."""

    @property
    @abstractmethod
    def key(self) -> str:
        """The object's key, as raw text."""

    @abstractmethod
    def read(self, size: int | None = None) -> Any:
        """Returns up to `size` bytes from the position on; all that are left, if it is None or negative.

        They are `bytes`, or, where all of an object is read in one, a `BytesView` of them, which is no copy.
        """

    @abstractmethod
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves to `offset` from where `whence` says; returns the new position."""

    @abstractmethod
    def tell(self) -> int:
        """Returns the position, in bytes from the beginning of the object."""

    @abstractmethod
    def readinto(self, buf: Any) -> int:
        """Fills `buf` from the position on; returns how many bytes there were, 0 at the end."""

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False
