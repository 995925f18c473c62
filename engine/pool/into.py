"""Reads into memory of the caller's: a request whose room is given from the beginning, and never grows."""

from __future__ import annotations

from typing import Any, NoReturn

from ..errors import ConfigurationError
from ..fetch.request import Fetch


class IntoFetch(Fetch):
    """A request for bytes [start, end) of an object whose place is `out`. What does not fit is an error before its first byte is placed."""

    __slots__ = ()

    def refuse(self) -> NoReturn:
        """Told that `out` has not room enough.

        Raises:
            ConfigurationError: Always; it says how many bytes are needed.
        """
        num = 0 if self.out is None else len(self.out)
        raise ConfigurationError(f"the buffer has {num} bytes, and {self.missing_space} are needed", uri=self.uri)


def into_fetch(
    uri: str,
    wire: Any,
    key: str,
    out: memoryview,
    *,
    start: int = 0,
    end: int | None = None,
    size: int | None = None,
    version: str | None = None,
) -> IntoFetch:
    """Returns a request for bytes [start, end), up to the end of the object where `end` is None or beyond it.

    Args:
        uri: For errors.
        wire: Of the object's store.
        key: Of the object.
        out: Writable, contiguous, of bytes; undefined after an error.
        start: The first byte.
        end: One past the last.
        size: Of the whole object; where given, another size is an error.
        version: Where given, another version is an error.
    """
    return IntoFetch(None, uri, wire, key, start=start, end=end, size=size, version=version, out=out)
