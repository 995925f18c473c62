"""The checksum of a whole, from those of its parts: nothing is summed twice, and the parts may have come in any order.

A CRC is the remainder of a polynomial over GF(2). Behind b come `len(b)` bytes, so the sum of a is multiplied by x^(8 len(b)) and the sum
of b is added. Numbers are reflected, as the checksums are: the highest bit is the lowest power.

Source: `crc32_combine` of zlib. Newer versions of awscrt have the same functions; nothing else here needs so new a one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_POLYNOMIALS: Final = {
    "crc64nvme": (64, 0x9A6C9329AC4BC9B5),
    "crc32c": (32, 0x82F63B78),
    "crc32": (32, 0xEDB88320),
}


def combine(algorithm: str, first: int, second: int, second_length: int) -> int:
    """Returns the checksum of a followed by b.

    Args:
        algorithm: `crc64nvme`, `crc32c` or `crc32`.
        first: The checksum of a.
        second: That of b.
        second_length: Bytes of b.
    """
    bits, polynomial = _POLYNOMIALS[algorithm]
    return _multiply(_shift(algorithm, second_length), first, bits, polynomial) ^ second


@lru_cache(maxsize=64)
def _shift(algorithm: str, length: int) -> int:
    """Returns x^(8 length). Parts have few lengths, and it takes 0.3 ms."""
    bits, polynomial = _POLYNOMIALS[algorithm]
    result, square, left = 1 << (bits - 1), 1 << (bits - 2), 8 * length
    while left:
        if left & 1:
            result = _multiply(square, result, bits, polynomial)
        square = _multiply(square, square, bits, polynomial)
        left >>= 1
    return result


def _multiply(one: int, other: int, bits: int, polynomial: int) -> int:
    """Returns the product modulo the polynomial."""
    product = 0
    for power in range(bits - 1, -1, -1):
        if one >> power & 1:
            product ^= other
        other = other >> 1 ^ polynomial if other & 1 else other >> 1
    return product
