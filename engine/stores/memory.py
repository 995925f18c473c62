"""`memory://`: the reference store, objects in this process's own memory.

It is the contract in its shortest form, the oracle that other stores are compared with in tests, and a place for users' own tests. It
lives as long as the process and is seen by no other: worker processes never read it, the coordinator does so for them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from ..errors import NotFoundError, ObjectChangedError
from ..fetch.request import Fetch, State
from ..types import ListEntry, ObjectInfo
from .base import Listing, at_once, check_local_range


class _Stored(NamedTuple):
    data: bytes
    version: str
    last_modified: str


_buckets: dict[str, dict[str, _Stored]] = {}
_versions = itertools.count(1)


class MemoryWire:
    """Copies objects into slots."""

    is_local = True

    def __init__(self, root: str) -> None:
        self._objects = _buckets.setdefault(root, {})

    def read(self, fetch: Fetch, grant: Callable[[Fetch], memoryview | None]) -> None:
        """As `LocalWire.read`."""
        found = self._objects.get(fetch.key)
        if found is None:
            raise NotFoundError("no such object", uri=fetch.uri)
        if fetch.version not in (None, found.version) or fetch.size not in (None, len(found.data)):
            raise ObjectChangedError(f"the object is version {found.version} now", uri=fetch.uri)
        fetch.end = check_local_range(len(found.data), fetch.start, fetch.end, fetch.uri)
        fetch.size, fetch.version = len(found.data), found.version
        num = fetch.missing_space
        if num > (0 if fetch.out is None else len(fetch.out)):
            fetch.out = grant(fetch)
            if fetch.out is None:
                fetch.state = State.WANTS_SPACE
                return
        if num:
            assert fetch.out is not None
            fetch.out[:num] = memoryview(found.data)[fetch.start : fetch.end]
        fetch.received = num


class MemoryStore:
    """One bucket of this process's memory."""

    spec = None

    def __init__(self, root: str) -> None:
        self.root = root
        self.wire = MemoryWire(root)
        self._objects = _buckets[root]

    def renew(self) -> bool:
        """There is nothing that expires."""
        return False

    def expire(self) -> None:
        """There is nothing that expires."""

    @at_once
    def stat(self, key: str) -> ObjectInfo:
        """As `Store.stat`."""
        found = self._objects.get(key)
        if found is None:
            raise NotFoundError("no such object", uri=self.root + key)
        return ObjectInfo(
            uri=self.root + key,
            size=len(found.data),
            version=found.version,
            etag=found.version,
            last_modified=found.last_modified,
        )

    def list_pages(self, prefix: str, recursive: bool) -> Listing:
        """As `Store.list_pages`, in one page."""
        page: list[ListEntry] = []
        children: set[str] = set()
        for key, found in sorted(self._objects.items()):
            if not key.startswith(prefix):
                continue
            child, slash, _ = key[len(prefix) :].partition("/")
            if recursive or not slash:
                page.append(ListEntry(self.root + key, len(found.data), found.version, found.last_modified))
            elif child not in children:
                children.add(child)
                page.append(ListEntry(f"{self.root}{prefix}{child}/"))
        if page:
            yield page

    @at_once
    def put(self, key: str, data: memoryview) -> None:
        """As `Store.put`."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._objects[key] = _Stored(bytes(data), f"v{next(_versions)}", now)

    @at_once
    def delete(self, key: str) -> None:
        """As `Store.delete`."""
        self._objects.pop(key, None)
