"""The checksum of an object that comes in parts: what the store says of the whole, and the sums of the parts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..fetch.checksums import Checksum, mismatch
from ..fetch.crc_combine import combine

if TYPE_CHECKING:
    from ..errors import ChecksumMismatchError


class WholeSum:
    """Put together from the sums of parts, in whatever order they come."""

    __slots__ = ("_parts", "expected")

    def __init__(self, expected: Checksum) -> None:
        self.expected = expected
        """Of the whole object, as the store says it."""
        self._parts: list[tuple[int, int, int]] = []

    def add(self, start: int, length: int, value: int) -> None:
        """Notes the sum of bytes [start, start + length)."""
        self._parts.append((start, length, value))

    def is_complete(self, size: int) -> bool:
        """Whether the sums of all parts of an object of `size` bytes are here."""
        return sum(length for _, length, _ in self._parts) == size

    def check(self, uri: str) -> ChecksumMismatchError | None:
        """Returns what is to be said of the object at `uri`, whose parts are complete, if they are not the bytes that the store has."""
        total = 0
        for start, length, value in sorted(self._parts):
            total = combine(self.expected.algorithm, total, value, length) if start else value
        if total == self.expected.value:
            return None
        error = mismatch(self.expected, total)
        error.uri = uri
        return error
