"""Small files that claim, or become, more than a machine has."""

from __future__ import annotations

import struct
import zlib

_BLOCK_BYTES = 8 << 20


def deflated_zeros(num_bytes: int, wbits: int = -zlib.MAX_WBITS) -> bytes:
    """Returns what inflates to so many zero bytes, a multiple of 8 MiB, without compressing all of them."""
    assert num_bytes % _BLOCK_BYTES == 0
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # After a full flush nothing refers to what was before, so that the block can be repeated.
    block = packer.compress(bytes(_BLOCK_BYTES)) + packer.flush(zlib.Z_FULL_FLUSH)
    body = block * (num_bytes // _BLOCK_BYTES) + zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS).flush()
    # Of zeros the Adler-32 is 1 + 0 and, n times 1, n. Source: RFC 1950.
    return body if wbits < 0 else b"\x78\xda" + body + struct.pack(">HH", num_bytes % 65521, 1)


def zip_of(members: list[tuple[str, int, bytes, int, int]]) -> bytes:
    """Returns an archive of members, each as name, method, packed bytes, claimed size and claimed CRC-32."""
    body, directory = b"", b""
    for name, method, packed, num_bytes, crc in members:
        facts = struct.pack("<3H3I2H", method, 0, 0, crc, len(packed), num_bytes, len(name), 0)
        directory += (
            b"PK\1\2"
            + struct.pack("<3H", 20, 20, 0)
            + facts
            + struct.pack("<3H2I", 0, 0, 0, 0, len(body))
            + name.encode()
        )
        body += b"PK\3\4" + struct.pack("<2H", 20, 0) + facts + name.encode() + packed
    end = struct.pack("<4H2IH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + b"PK\5\6" + end


def png_of_zeros(width: int, height: int) -> bytes:
    """Returns a black RGB image; its bytes with one more for each line must be a multiple of 8 MiB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    pixels = deflated_zeros(height * (3 * width + 1), zlib.MAX_WBITS)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
