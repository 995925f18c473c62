"""Checksums of whole objects: the one that a response head gives, and whether the bytes have it.

Rules:

* Only a checksum of the whole object counts. A composite one (of the checksums of an upload's parts), one of another kind than the
  three below, one that is given twice or makes no sense, is passed over: the object is then "unverified", which is counted and is no
  error. An ETag is never taken for a checksum.
* Google's `x-goog-hash` is of the whole object always, of one composed of others too, and of what is stored, not of what a transcoder
  makes of it; it is one header with a list, or one header for each sum.
* Bytes are summed where they lie, while they are still in the processor's cache, and never after they were handed out.

awscrt sums CRC32C and CRC64NVME at 24 GB/s; it is imported at the first checksum that needs it (40 ms).

Source: "Checking object integrity", Amazon S3 User Guide; "Hashes and ETags", Google Cloud Storage.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from ..errors import ChecksumMismatchError

_PREFIX: Final = b"\r\nx-amz-checksum-"
Algorithm = Literal["crc64nvme", "crc32c", "crc32"]
_NUM_BYTES: Final[dict[Algorithm, int]] = {"crc64nvme": 8, "crc32c": 4, "crc32": 4}
_is_composite: Final = re.compile(rb"\r\nx-amz-checksum-type:[ \t]*composite").search
_GOOGLE: Final = b"\r\nx-goog-hash:"
_google_crc32c: Final = re.compile(rb"\r\nx-goog-hash:(?:[^\r\n]*[ \t,])?crc32c=([^\r\n, \t]*)").finditer
_CHUNK_BYTES: Final = 256 << 10
"""What is summed at once of a large object: it is still in the cache then, and the call costs nothing beside it."""

Sum = Callable[[memoryview, int], int]


class Checksum(NamedTuple):
    """What a head says of the whole object."""

    algorithm: Algorithm
    value: int


def find_checksum(raw: bytes, lower: bytes) -> Checksum | None:
    """Returns the checksum of the whole object that a head gives, or None.

    Args:
        raw: The head.
        lower: The same in lower case.
    """
    if _PREFIX not in lower:
        return _read(raw, _find_google(lower), "crc32c") if _GOOGLE in lower else None
    if _is_composite(lower):
        return None
    for algorithm in _NUM_BYTES:
        found = _read(raw, find_value(raw, lower, algorithm), algorithm)
        if found is not None:
            return found
    return None


def _read(raw: bytes, span: tuple[int, int] | None, algorithm: Algorithm) -> Checksum | None:
    value = None if span is None else decode(algorithm, raw[span[0] : span[1]])
    return None if value is None else Checksum(algorithm, value)


def _find_google(lower: bytes) -> tuple[int, int] | None:
    found = list(_google_crc32c(lower))
    return found[0].span(1) if len(found) == 1 else None


def find_value(raw: bytes, lower: bytes, algorithm: str) -> tuple[int, int] | None:
    """Returns where the value of a checksum stands in a head, if it is given once."""
    if _PREFIX not in lower:
        return _find_google(lower) if algorithm == "crc32c" else None
    name = b"%b%b:" % (_PREFIX, algorithm.encode())
    line = lower.find(name)
    if line < 0 or lower.count(name) != 1:
        return None
    begin = line + len(name)
    end = raw.find(b"\r\n", begin)
    text = raw[begin:end]
    return begin + len(text) - len(text.lstrip(b" \t")), begin + len(text.rstrip(b" \t"))


def decode(algorithm: Algorithm, text: bytes) -> int | None:
    """Returns the number that a header's value stands for: big-endian, in base64; None where it is none, as the `...-3` of a composite."""
    try:
        value = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return None
    return int.from_bytes(value, "big") if len(value) == _NUM_BYTES[algorithm] else None


class RunningSum:
    """The sum of an object's beginning, and what the whole must have."""

    __slots__ = ("_position", "_sum", "_value", "expected")

    def __init__(self, expected: Checksum) -> None:
        self.expected = expected
        self._sum = sum_function(expected.algorithm)
        self._position = 0
        self._value = 0

    def add(self, out: memoryview, stop: int) -> None:
        """Sums what lies in `out` up to `stop`, once that is worth a call."""
        if stop - self._position >= _CHUNK_BYTES:
            self._add(out, stop)

    def check(self, out: memoryview, size: int) -> None:
        """Sums the rest of the object, which is `size` bytes long.

        Raises:
            ChecksumMismatchError: These are not its bytes.
        """
        if self.finish(out, size) != self.expected.value:
            raise_mismatch(self.expected, self._value)

    def finish(self, out: memoryview, stop: int) -> int:
        """Returns the sum of what lies in `out` up to `stop`."""
        self._add(out, stop)
        return self._value

    def _add(self, out: memoryview, stop: int) -> None:
        self._value = self._sum(out[self._position : stop], self._value)
        self._position = stop


def mismatch(expected: Checksum, value: int) -> ChecksumMismatchError:
    """Returns what is to be said of bytes with another checksum."""
    digits = 2 * _NUM_BYTES[expected.algorithm]
    return ChecksumMismatchError(
        f"the bytes have the {expected.algorithm.upper()} {value:0{digits}x}, the store says {expected.value:0{digits}x}"
    )


def raise_mismatch(expected: Checksum, value: int) -> None:
    """Raises what is to be said of bytes with another checksum.

    Raises:
        ChecksumMismatchError: Always.
    """
    raise mismatch(expected, value)


_functions: dict[str, Sum] = {}


def sum_function(algorithm: str) -> Sum:
    """Returns what sums: `sum(bytes, sum so far)`."""
    found = _functions.get(algorithm)
    if found is None:
        found = _functions[algorithm] = _load(algorithm)
    return found


def _load(algorithm: str) -> Sum:
    if algorithm == "crc32":
        # Measured: zlib sums CRC32 at 4.4 GB/s, awscrt at 2.9.
        from zlib import crc32

        return crc32
    from awscrt import checksums

    function: Sum = getattr(checksums, algorithm)
    return function
