"""Bytes that came in pieces, read as if they were one: pieces stay as they came, and what is read is copied once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any


class Pieces:
    """The beginning of something, piece by piece. Offsets count from the beginning of the first."""

    __slots__ = ("_pieces", "_starts", "nbytes")

    def __init__(self) -> None:
        self._pieces: list[Any] = []
        """Bytes-like, with items of one byte; none is empty, but the first may be."""
        self._starts: list[int] = []
        """Where each begins."""
        self.nbytes = 0

    def append(self, piece: Any) -> None:
        """Adds what comes next; it is kept, not copied."""
        nbytes = len(piece)
        if nbytes or not self._pieces:
            self._pieces.append(piece)
            self._starts.append(self.nbytes)
            self.nbytes += nbytes

    @property
    def only(self) -> Any:
        """The piece that is all of it, as it came; None where several are, or none has come."""
        return self._pieces[0] if len(self._pieces) == 1 else None

    def spans(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yields what there is in `[start, stop)`, one view for each piece that has some of it."""
        at = bisect_right(self._starts, start) - 1
        stop = min(stop, self.nbytes)
        while start < stop:
            piece, origin = self._pieces[at], self._starts[at]
            yield memoryview(piece)[start - origin : stop - origin]
            start = origin + len(piece)
            at += 1

    def read(self, start: int, stop: int) -> bytes:
        """Returns the bytes in `[start, stop)`; fewer where the last piece ends before `stop`."""
        only = self.only
        if start == 0 and stop >= self.nbytes and isinstance(only, bytes):
            return only
        return b"".join(self.spans(start, stop))

    def read_into(self, start: int, room: memoryview) -> int:
        """Fills `room`, which has items of one byte, from `start` on; returns how many bytes there were."""
        filled = 0
        for span in self.spans(start, start + len(room)):
            room[filled : filled + len(span)] = span
            filled += len(span)
        return filled
