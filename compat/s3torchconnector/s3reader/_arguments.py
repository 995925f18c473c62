"""What readers are given to read into and how much of it, looked at once for all of them."""

from __future__ import annotations

from typing import Any


def check_size(size: Any) -> None:
    """Raises TypeError for what is neither a number of bytes nor None."""
    if size is not None and not isinstance(size, int):
        raise TypeError(f"argument should be integer or None, not {type(size)!r}")


def room_in(buf: Any, wanted: str = "argument must be a writable bytes-like object") -> memoryview:
    """Returns the memory of `buf` as writable bytes, whatever its items are.

    Raises:
        TypeError: It has none, or it may not be written or is not contiguous; the text says what is `wanted`.
    """
    try:
        room = memoryview(buf)
        if not room.readonly:
            return room.cast("B") if room.nbytes else memoryview(bytearray())
    except TypeError:
        pass
    raise TypeError(f"{wanted}, not {type(buf).__name__}")
