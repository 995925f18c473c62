"""One object as bytes: a head of two bytes, its version, and its URI without the text that its neighbours' URIs begin with too. Pure.

    [ number of the beginning << 2 | form of the version: u16 | version | rest of the URI in UTF-8 ]

Rules:

* Lone surrogates (in the names of files that are not UTF-8) are kept as they are.
* A version is shortened only if what is read back is the same text: ETags of 32 hex digits, and the `size-mtime-inode` of files.
* The size of the object lies elsewhere, where all sizes are one array.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from s3dlio.engine.errors import ConfigurationError
from s3dlio.engine.text import clean

from .entries import Entry

UTF8: Final = ("utf-8", "surrogatepass")
NONE, ETAG, FILE, TEXT = range(4)
"""The forms of a version: there is none, 16 bytes, mtime and inode, a length and a text."""
_FORM_BITS: Final = 2
MAX_BEGINNINGS: Final = 1 << 16 - _FORM_BITS

_MAX_SIZE: Final = 2**63 - 1
_MAX_VERSION_BYTES: Final = 2**16 - 1
_HEAD: Final = struct.Struct("<H")
_PAIR: Final = struct.Struct("<QQ")
_LENGTH: Final = struct.Struct("<H")


def heads(number: int) -> list[bytes]:
    """Returns the head of a row for each form, where the URI begins with text `number`."""
    return [_HEAD.pack(number << _FORM_BITS | form) for form in range(1 << _FORM_BITS)]


def pack_version(entry: Entry) -> tuple[int, bytes]:
    """Returns the form of a version, and its bytes.

    Raises:
        ConfigurationError: The size or the version is beyond what a row holds.
    """
    uri, size, version = entry
    if size is not None and size > _MAX_SIZE:
        raise ConfigurationError(f"an object cannot have {size} bytes", uri=clean(uri))
    if version is None:
        return NONE, b""
    if len(version) == 32:
        try:
            packed = bytes.fromhex(version)
        except ValueError:
            packed = b""
        if packed.hex() == version:
            return ETAG, packed
    pin = pack_file_version(size, version)
    if pin is not None:
        return FILE, pin
    text = version.encode(*UTF8)
    if len(text) > _MAX_VERSION_BYTES:
        raise ConfigurationError(f"a version cannot have {len(text)} bytes", uri=clean(uri))
    return TEXT, _LENGTH.pack(len(text)) + text


def pack_file_version(size: int | None, version: str) -> bytes | None:
    """Returns mtime and inode of a file's version; None if it is not one."""
    begin, _, rest = version.partition("-")
    if size is None or not rest or begin != str(size):
        return None
    mtime_ns, _, inode = rest.partition("-")
    try:
        pair = int(mtime_ns), int(inode)
        return _PAIR.pack(*pair) if f"{size}-{pair[0]}-{pair[1]}" == version else None
    except (ValueError, struct.error):
        return None


def read_rows(
    rows: memoryview, places: Iterable[tuple[int, int, int]], beginnings: tuple[str, ...]
) -> list[tuple[str, int | None, str | None]]:
    """Returns URI, size and version of objects: what an `Entry` has, and is too slow to be made of.

    Args:
        rows: All of them.
        places: Of each that is asked for, where it begins and ends, and the size of its object, -1 where unknown.
        beginnings: What URIs begin with, by number.
    """
    found = []
    for start, end, size in places:
        row = bytes(rows[start:end])
        head = row[0] | row[1] << 8
        form = head & 3
        version: str | None
        if form == NONE:
            version, rest = None, row[2:]
        elif form == ETAG:
            version, rest = row[2:18].hex(), row[18:]
        elif form == FILE:
            mtime_ns, inode = _PAIR.unpack_from(row, 2)
            version, rest = f"{size}-{mtime_ns}-{inode}", row[18:]
        else:
            stop = 4 + _LENGTH.unpack_from(row, 2)[0]
            version, rest = row[4:stop].decode(*UTF8), row[stop:]
        found.append((beginnings[head >> _FORM_BITS] + rest.decode("utf-8", "surrogatepass"), None if size < 0 else size, version))
    return found
