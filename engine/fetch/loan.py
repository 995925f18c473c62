"""Memory lent to an SDK's thread as a file to read from, until it is taken back.

A thread may go on when its request was given up: cancelled, interrupted, past its deadline. What it reads then might be changed already,
and what it holds could not be freed. So it holds nothing: it asks for pieces, each a copy, and gets none any more once the loan is over.
"""

from __future__ import annotations

import io
import threading


class Loan:
    """Bytes to be sent, as a binary file at its beginning. One thread reads; another one may end the loan at any moment."""

    def __init__(self, payload: memoryview) -> None:
        self._payload: memoryview | None = payload
        self._length = len(payload)
        self._position = 0
        self._lock = threading.Lock()
        """Held while a piece is copied, and no longer."""
        self.ends_quietly = False
        """Whether, once the loan is over, a read says that there is nothing more, rather than raise: for those who only sum the bytes."""

    def __len__(self) -> int:
        return self._length

    def end(self) -> None:
        """Takes the memory back; whoever reads on gets an error."""
        with self._lock:
            self._payload = None

    def read(self, num: int | None = -1) -> bytes:
        """Returns a copy of the next `num` bytes, or of all that is left.

        Raises:
            ValueError: The loan is over.
        """
        with self._lock:
            if self._payload is None and self.ends_quietly:
                return b""
            if self._payload is None:
                raise ValueError("the request was given up")
            begin = self._position
            end = self._length if num is None or num < 0 else min(self._length, begin + num)
            self._position = end
            return bytes(self._payload[begin:end])

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As that of a file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """As that of a file."""
        return self._position

    def readable(self) -> bool:
        """As that of a file."""
        return True

    def seekable(self) -> bool:
        """As that of a file."""
        return True
