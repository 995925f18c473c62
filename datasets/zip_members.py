"""Where the members of a ZIP archive lie in a view of it. Pure: inflates nothing, opens no file.

What an archive says twice must agree: the directory and the headers of the members, the number of entries and the entries. So what is
read here is what every other reader reads. Members that overlap, as in small archives that become huge, are refused. The standard
library's `zipfile` reads files, through copies, and lets more pass.

Source: APPNOTE.TXT 6.3.10 (.ZIP File Format Specification); its section numbers stand below.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from s3dlio.engine.errors import DecodeError

STORED: Final = 0
DEFLATED: Final = 8
_METHODS: Final = (STORED, DEFLATED)

_LOCAL: Final = struct.Struct("<4s5H3I2H")
"""4.3.7: signature, version, flags, method, time, date, CRC, packed size, size, lengths of name and extra."""
_ENTRY: Final = struct.Struct("<4s6H3I5H2I")
"""4.3.12: signature, 2 versions, flags, method, time, date, CRC, packed size, size, lengths of name, extra and comment, disk, attributes
inside and outside, offset of the local header."""
_END: Final = struct.Struct("<4s4H2IH")
"""4.3.16: signature, 2 disks, entries here, entries in all, size and offset of the directory, length of the comment."""
_END_64: Final = struct.Struct("<4sQ2H2I4Q")
"""4.3.14: signature, size of the record, 2 versions, 2 disks, entries here, entries in all, size and offset of the directory."""
_LOCATOR: Final = struct.Struct("<4sIQI")
"""4.3.15: signature, disk, offset of the record above, number of disks."""
_ENCRYPTED: Final = 0x2041
"""4.4.4: bits 0, 6 and 13."""
_STREAMED: Final = 0x8
"""4.4.4: the local header has no CRC and no sizes."""
_UTF8: Final = 0x800
_MAX_16: Final = 0xFFFF
_MAX_32: Final = 0xFFFFFFFF
"""4.4.1.4: the value stands in a field of ZIP64."""


class Member(NamedTuple):
    """One member of an archive."""

    name: str
    is_deflated: bool
    crc: int
    """CRC-32 of what it becomes."""
    num_bytes: int
    """What it claims to become."""
    start: int
    """Of its local header, in bytes from the beginning of the archive."""
    packed: memoryview
    """Its bytes in the archive, stored or deflated."""


class _Entry(NamedTuple):
    """A member as the directory has it."""

    name: bytes
    flags: int
    method: int
    crc: int
    num_packed: int
    num_bytes: int
    start: int


def read_members(data: memoryview) -> list[Member]:
    """Returns the members of an archive, in the order in which they lie in it.

    Args:
        data: The whole archive.

    Raises:
        DecodeError: It was cut, contradicts itself, or has members that overlap, are encrypted, or packed by another way than deflate.
    """
    end, num_entries, num_bytes, start = _read_end(data)
    if start + num_bytes != end:
        raise DecodeError(
            f"the directory claims {num_bytes} bytes from byte {start} on; the archive's end begins at byte {end}"
        )
    entries = list(_read_entries(data[start:end], start))
    if len(entries) != num_entries:
        raise DecodeError(
            f"the directory at byte {start} has {len(entries)} members; the archive's end says {num_entries}"
        )
    found: list[Member] = []
    free = 0
    for entry in sorted(entries, key=lambda entry: entry.start):
        begin = _check_local(data[:start], entry)
        if entry.start < free:
            raise DecodeError(f"two members overlap at byte {entry.start}")
        free = begin + entry.num_packed
        if free > start:
            raise DecodeError(
                f"the member at byte {entry.start} claims to end at byte {free}, behind the beginning of the directory"
            )
        found.append(
            Member(
                _decode_name(entry), entry.method == DEFLATED, entry.crc, entry.num_bytes, entry.start, data[begin:free]
            )
        )
    return found


def _read_end(data: memoryview) -> tuple[int, int, int, int]:
    """Returns where the directory must end, its number of entries, and its size and offset in bytes."""
    at = _find_end(data)
    _, disk, other, here, num_entries, num_bytes, start, _ = _END.unpack_from(data, at)
    locator = at - _LOCATOR.size
    if locator >= 0 and bytes(data[locator : locator + 4]) == b"PK\6\7":
        at = _LOCATOR.unpack_from(data, locator)[2]
        if at + _END_64.size > locator or bytes(data[at : at + 4]) != b"PK\6\6":
            raise DecodeError(f"the archive's ZIP64 end is not at byte {at}, where byte {locator} has it")
        disk, other, here, num_entries, num_bytes, start = _END_64.unpack_from(data, at)[4:]
    if disk or other or here != num_entries:
        raise DecodeError(f"the archive's end at byte {at} speaks of several disks")
    return at, num_entries, num_bytes, start


def _find_end(data: memoryview) -> int:
    # Behind the record comes a comment, of a length that the record names.
    first = max(0, len(data) - _END.size - _MAX_16)
    tail = bytes(data[first:])
    at = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - _END.size + 4))
    while at >= 0:
        if at + _END.size + int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail):
            return first + at
        at = tail.rfind(b"PK\5\6", 0, at + 3)
    raise DecodeError("the end of a ZIP archive is missing: it is none, or was cut")


def _read_entries(directory: memoryview, start: int) -> list[_Entry]:
    found: list[_Entry] = []
    at = 0
    while at < len(directory):
        if at + _ENTRY.size > len(directory) or bytes(directory[at : at + 4]) != b"PK\1\2":
            raise DecodeError(f"the directory has no entry at byte {start + at}")
        fields = _ENTRY.unpack_from(directory, at)
        flags, method, crc, packed, size, num_name, num_extra, num_comment = fields[3], fields[4], *fields[7:13]
        name = at + _ENTRY.size
        extra = name + num_name
        at = extra + num_extra + num_comment
        if at > len(directory):
            raise DecodeError(f"the directory ends within the entry at byte {start + name - _ENTRY.size}")
        if flags & _ENCRYPTED or method not in _METHODS or fields[13] not in (0, _MAX_16):
            raise DecodeError(
                f"the member of the entry at byte {start + name - _ENTRY.size} is encrypted, or not stored and not deflated"
            )
        wide = _widen((size, packed, fields[16]), bytes(directory[extra : extra + num_extra]))
        found.append(_Entry(bytes(directory[name:extra]), flags, method, crc, wide[1], wide[0], wide[2]))
    return found


def _widen(values: tuple[int, ...], extra: bytes) -> list[int]:
    """Returns the values, with those that do not fit into 32 bits from the ZIP64 field (4.5.3): it has them in this order."""
    at = 0
    field = b""
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
            break
        at += 4 + length
    found = []
    for value in values:
        if value == _MAX_32:
            if len(field) < 8:
                raise DecodeError("a member's ZIP64 field is missing or too short")
            value, field = int.from_bytes(field[:8], "little"), field[8:]  # noqa: PLW2901
        found.append(value)
    return found


def _check_local(data: memoryview, entry: _Entry) -> int:
    """Returns where the bytes of a member begin, once its header says what the directory says."""
    at = entry.start
    if at + _LOCAL.size > len(data) or bytes(data[at : at + 4]) != b"PK\3\4":
        raise DecodeError(f"no member begins at byte {at}, where the directory has one")
    _, _, flags, method, _, _, crc, packed, size, num_name, num_extra = _LOCAL.unpack_from(data, at)
    name = at + _LOCAL.size
    extra = name + num_name
    is_same = method == entry.method and flags == entry.flags and bytes(data[name:extra]) == entry.name
    if is_same and not flags & _STREAMED:
        wide = _widen((size, packed), bytes(data[extra : extra + num_extra]))
        is_same = (crc, *wide) == (entry.crc, entry.num_bytes, entry.num_packed)
    if not is_same:
        raise DecodeError(f"the header of the member at byte {at} contradicts the directory")
    begin: int = extra + num_extra
    return begin


def _decode_name(entry: _Entry) -> str:
    try:
        return entry.name.decode("utf-8" if entry.flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        raise DecodeError(f"the name of the member at byte {entry.start} is not UTF-8") from None
