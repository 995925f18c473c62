"""Whether bytes in shared memory are still those that were fetched (`check_slots`): for debugging, off by default.

Whoever fetches a part sends the CRC-32 of its bytes along. Before an item is handed out, its parts are summed up again in the process that
gets it. What differs was changed in between: by a program that keeps a view it has given back, by a late write, by bad memory.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from ..errors import ChecksumMismatchError

if TYPE_CHECKING:
    from .groups import Member
    from .items import Item


def check_slot(memory: memoryview, item: Item) -> None:
    """Has an item fail, or those of its members, whose bytes are not those that came.

    Args:
        memory: The whole segment.
        item: About to be handed out, with its slot.
    """
    if item.slot is None:
        return
    for start, nbytes, crc, member in item.sums or ():
        begin = item.slot.start + start
        if zlib.crc32(memory[begin : begin + nbytes]) != crc:
            _fail(item, member)


def _fail(item: Item, member: Member | None) -> None:
    uri = item.uri if member is None else member.uri
    error = ChecksumMismatchError("the bytes were changed in shared memory after they had been fetched", uri=uri)
    if member is not None:
        member.fail(error)
        member.nbytes = 0
    else:
        item.error = item.error or error
