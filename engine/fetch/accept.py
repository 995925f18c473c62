"""Which bytes of an answer belong where: the exactness rules of a read, without I/O.

Every object body passes `accept` before one byte of it is stored. What it refuses:

* another version than the pinned one, or none (`ObjectChangedError`), compared by ETag or generation always, whether or not the server
  honoured a condition;
* another size than the listed one (`ObjectChangedError`);
* another range than the one asked for, a `206` without `Content-Range`, lengths that contradict each other (`ProtocolError`);
* bytes that were packed or unpacked on the way, of which no range is one of the object (`ProtocolError`).

What real servers do, and is accepted: `200` with an exact `Content-Range` (rclone); `200` with the whole object for a range, of which
the bytes in front are skipped and those behind are left unread.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import InvalidRangeError, ObjectChangedError, ProtocolError
from .checksums import RunningSum
from .http1 import ResponseHead
from .request import Fetch


class BodyPlan(NamedTuple):
    """How to take a body: skip `skip` bytes, store `take`, and find `extra` bytes behind that nobody wants."""

    skip: int
    take: int
    extra: int


def accept_whole(fetch: Fetch, head: ResponseHead) -> bool:
    """Accepts what nearly every answer is: a whole object that nobody pinned, and of which nothing came before.

    The rules of `accept` say the same of it, in four times as long. False leaves everything as it is.
    """
    if fetch.version is not None or fetch.end is not None or fetch.size is not None or fetch.start or fetch.received:
        return False
    if head.status != 200 or head.has_range or head.is_recoded or head.length is None:
        return False
    fetch.version = head.version
    fetch.size = fetch.end = head.length
    return True


def accept(fetch: Fetch, head: ResponseHead) -> BodyPlan | None:
    """Checks the head of a 200 or 206 answer against what `fetch` asked for, and notes version, size and end in `fetch`.

    Returns:
        The plan for the body; None where the body is chunked, and its length is known only at its end.

    Raises:
        ObjectChangedError: Another version or size.
        ProtocolError: Another range, or a head that contradicts itself.
    """
    if head.status not in (200, 206):
        raise ProtocolError(f"the answer to a GET has status {head.status}")
    if head.is_recoded:
        raise ProtocolError("the bytes are not those that are stored: they were packed or unpacked on the way")
    length = head.length
    if length is not None and accept_whole(fetch, head):
        return BodyPlan(0, length, 0)
    _check_version(fetch, head)
    spread = head.content_range()
    if spread is not None:
        first, last, total = _check_range(fetch, spread, length)
        _note_size(fetch, total)
    elif head.status == 206:
        raise ProtocolError("206 without Content-Range")
    elif length is not None:
        first, last = 0, length
        _note_size(fetch, length)
    if length is None:
        if head.is_chunked:
            return None
        raise ProtocolError("the answer has neither a length nor chunks")
    position = fetch.start + fetch.received
    if fetch.end is None:
        raise ProtocolError("the answer does not say where the object ends")
    stop = min(last, fetch.end)
    if position > stop and spread is None and not fetch.received:
        raise InvalidRangeError(f"the range begins at {position}, the object has {last} bytes")
    if position > stop:
        raise ProtocolError(f"the answer ends at byte {last}, before the first byte that was asked for ({position})")
    return BodyPlan(position - first, stop - position, last - stop)


def _check_version(fetch: Fetch, head: ResponseHead) -> None:
    found = head.version
    if fetch.version is None:
        fetch.version = found
    elif found is None:
        if fetch.received or not getattr(fetch.wire, "is_unversioned", False):
            raise ObjectChangedError(f"the answer names no version, and {fetch.version!r} was being read")
        # So nothing can be resumed.
        fetch.version = None
    elif fetch.version != found and fetch.version.removeprefix("W/") != found.removeprefix("W/"):
        raise ObjectChangedError(f"the object changed: its version is {found!r} now, {fetch.version!r} was being read")


def _check_range(
    fetch: Fetch, spread: tuple[int, int, int | None], length: int | None
) -> tuple[int, int, int | None]:
    first, last, _ = spread
    if length is not None and length != last - first:
        raise ProtocolError(f"Content-Range holds {last - first} bytes, Content-Length says {length}")
    position = fetch.start + fetch.received
    if first != position or (fetch.end is not None and last > fetch.end):
        asked = f"[{position}, {'end' if fetch.end is None else fetch.end})"
        raise ProtocolError(f"the server sent the range [{first}, {last}) where {asked} was asked for")
    return spread


def _note_size(fetch: Fetch, total: int | None) -> None:
    if total is None:
        return
    if fetch.size is None:
        fetch.size = total
    elif fetch.size != total:
        raise ObjectChangedError(f"the object has {total} bytes now, {fetch.size} were expected")
    if fetch.end is None or fetch.end > total:
        fetch.end = total


def begin_sum(fetch: Fetch, head: ResponseHead) -> None:
    """Has the object's bytes summed, if its head says what comes of it. A head that speaks of a range says that of the range."""
    if head.checksum is not None and fetch.wants_checksum and head.status == 200 and not head.has_range and not fetch.received:
        fetch.checksum = RunningSum(head.checksum)


def check_sum(fetch: Fetch) -> None:
    """Holds a complete object against its checksum, if it has one.

    Raises:
        ChecksumMismatchError: These are not its bytes.
    """
    # A part that was cut shorter on the way is no whole object any more.
    if fetch.checksum is not None and fetch.received == fetch.size:
        assert fetch.out is not None
        fetch.checksum.check(fetch.out, fetch.received)
        fetch.is_verified = True
