"""The contract of a store, in one file.

A store has two halves. Its *wire* is what the fetch loop needs (bytes of requests, meaning of answers, or a local read) and can be made
anew in a worker from `spec`. The rest are the operations below: small, rare, run in the calling process.

Every operation that needs the network is given a `Runner` and makes `Exchange`s for it; no store owns a connection. Every error is one
of `engine/errors.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ..errors import InvalidRangeError
from ..fetch.request import Fetch
from ..types import ListEntry, ObjectInfo

Runner = Callable[[Fetch], Fetch]
"""Drives one request to its end and returns it, or raises its error."""


class Store(Protocol):
    """One bucket, or the file system, opened."""

    root: str
    """What every URI of this store begins with: `s3://bucket/`, `file://`."""
    wire: Any
    """A `Wire` or a `LocalWire`."""
    spec: Any
    """What `open_wire` makes the same wire of in a worker; None where only this process can read (`memory://`)."""

    def renew(self) -> None:
        """Has credentials fetched anew that will expire soon; `spec` and `wire` hold them then. Costs nothing where none are due."""
        ...

    def stat(self, run: Runner, key: str) -> ObjectInfo:
        """Returns what a HEAD says.

        Raises:
            NotFoundError: No such object; a prefix is none.
        """
        ...

    def list_pages(self, run: Runner, prefix: str, recursive: bool) -> Iterator[list[ListEntry]]:
        """Yields pages of the listing below `prefix`, in the store's order; child prefixes too where not `recursive`.

        On object stores `prefix` is a raw text prefix; on file systems a directory (a file lists itself, a missing one nothing).
        """
        ...

    def put(self, run: Runner, key: str, data: memoryview) -> None:
        """Writes a whole object; it is visible complete or not at all."""
        ...

    def delete(self, run: Runner, key: str) -> None:
        """Deletes an object; a missing one is no error."""
        ...


def check_local_range(size: int, start: int, end: int | None, uri: str) -> int:
    """Returns the end of [start, end) clipped to `size`, for stores that know the size before they read.

    Raises:
        InvalidRangeError: `start` is beyond the end of the object.
    """
    if start > size:
        raise InvalidRangeError(f"the range begins at {start}, the object has {size} bytes", uri=uri)
    return size if end is None else min(end, size)
