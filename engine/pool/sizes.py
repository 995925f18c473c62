"""What is known of the sizes of objects, from HEADs: `get_many_stats` fills it, and whoever makes room for an object may ask.

A size here is a hint and nothing else: it decides how much room is made beforehand, and never what is read. It is forgotten after
`size_cache_s`, and the oldest half of all when there are too many. Safe for threads and forks, without a lock: each step is one access
to a dict, and what two threads overwrite for each other is a hint.
"""

from __future__ import annotations

import time
from typing import Final

from ..config import settings

_MAX_ENTRIES: Final = 1 << 17
"""In each of two generations; 200 bytes each, with the URI."""

_young: dict[str, tuple[int, float]] = {}
_old: dict[str, tuple[int, float]] = {}
"""What was noted before `_young` was full last."""


def note_size(uri: str, num_bytes: int) -> None:
    """Remembers the size of an object."""
    global _young, _old
    ttl_s = settings().size_cache_s
    if not ttl_s:
        return
    if len(_young) >= _MAX_ENTRIES:
        _old, _young = _young, {}
    _young[uri] = num_bytes, time.monotonic() + ttl_s


def hint_of(uri: str) -> int | None:
    """Returns the size that an object had when it was looked at last; None if that is not known, or too long ago."""
    if not _young:
        return None
    found = _young.get(uri) or _old.get(uri)
    if found is None or found[1] < time.monotonic():
        return None
    return found[0]


def forget_sizes() -> None:
    """Forgets all."""
    global _young, _old
    _young, _old = {}, {}
