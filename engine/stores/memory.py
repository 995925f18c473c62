"""`memory://`: the reference store, objects in this process's own memory.

It is the contract in its shortest form, the oracle that other stores are compared with in tests, and a place for users' own tests. It
lives as long as the process and is seen by no other: worker processes never read it, the coordinator does so for them.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from ..errors import AlreadyExistsError, NotFoundError, ObjectChangedError, RequestRejectedError, S3dlioError
from ..fetch.request import Fetch, State
from ..types import Container, ListEntry, ObjectInfo
from ..uri import as_directory
from .base import Listing, Operation, Store, at_once, check_local_range, no_sum


class _Stored(NamedTuple):
    data: bytes
    version: str
    last_modified: str


_buckets: dict[str, dict[str, _Stored]] = {}
"""By root. A bucket is there from `create_bucket` or its first object on, until `delete_bucket`."""
_versions = itertools.count(1)


def _stored(data: bytes) -> _Stored:
    return _Stored(data, f"v{next(_versions)}", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


def forget(root: str) -> None:
    """Drops a bucket with all its objects."""
    _buckets.pop(root, None)


class MemoryWire:
    """Copies objects into slots."""

    is_local = True

    def __init__(self, root: str) -> None:
        self._root = root

    def find(self, key: str) -> _Stored:
        """Returns an object.

        Raises:
            NotFoundError: No such object.
        """
        found = _buckets.get(self._root, {}).get(key)
        if found is None:
            raise NotFoundError("no such object", uri=self._root + key)
        return found

    def read(self, fetch: Fetch, grant: Callable[[Fetch], memoryview | None]) -> None:
        """As `LocalWire.read`."""
        found = self.find(fetch.key)
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
    max_put_bytes = sys.maxsize
    max_delete_keys = 1000

    def __init__(self, root: str) -> None:
        self.root = root
        self.wire = MemoryWire(root)

    def renew(self) -> bool:
        """There is nothing that expires."""
        return False

    def expire(self) -> None:
        """There is nothing that expires."""

    @at_once
    def stat(self, key: str) -> ObjectInfo:
        """As `Store.stat`."""
        found = self.wire.find(key)
        return ObjectInfo(
            uri=self.root + key,
            size=len(found.data),
            version=found.version,
            etag=found.version,
            last_modified=found.last_modified,
        )

    find_sum = no_sum

    def list_pages(self, prefix: str, recursive: bool) -> Listing:
        """As `Store.list_pages`, in one page."""
        page: list[ListEntry] = []
        children: set[str] = set()
        for key, found in sorted(_buckets.get(self.root, {}).items()):
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
    def put(self, key: str, data: memoryview, create_only: bool = False) -> None:
        """As `Store.put`."""
        self.write(key, bytes(data), create_only)

    def write(self, key: str, data: bytes, create_only: bool) -> None:
        """Makes an object of bytes that nobody changes.

        Raises:
            AlreadyExistsError: As `Store.put`.
        """
        made, objects = _stored(data), _buckets.setdefault(self.root, {})
        # `setdefault` is one step for all threads.
        if not create_only:
            objects[key] = made
        elif objects.setdefault(key, made) is not made:
            raise AlreadyExistsError("there is an object already", uri=self.root + key)

    @at_once
    def begin_upload(self, key: str, create_only: bool = False) -> MemoryUpload:
        """As `Store.begin_upload`."""
        return MemoryUpload(self, key, create_only)

    @at_once
    def delete(self, key: str) -> None:
        """As `Store.delete`."""
        _buckets.get(self.root, {}).pop(key, None)

    def delete_many(self, keys: Sequence[str]) -> Operation[list[S3dlioError | None]]:
        """As `Store.delete_many`; none is ever refused."""
        for key in keys:
            yield from self.delete(key)
        return [None] * len(keys)

    @at_once
    def copy(self, key: str, source: Store, source_key: str) -> bool:
        """As `Store.copy`, between buckets of this memory."""
        if not isinstance(source, MemoryStore):
            return False
        self.write(key, source.wire.find(source_key).data, create_only=False)
        return True

    @at_once
    def make_prefix(self, key: str) -> None:
        """As `Store.make_prefix`: an empty object."""
        _buckets.setdefault(self.root, {}).setdefault(as_directory(key), _stored(b""))

    @at_once
    def create_bucket(self) -> None:
        """As `Store.create_bucket`; one that nobody created is made by its first object."""
        _buckets.setdefault(self.root, {})

    @at_once
    def delete_bucket(self) -> None:
        """As `Store.delete_bucket`."""
        objects = _buckets.get(self.root)
        if objects is None:
            raise NotFoundError("no such bucket", uri=self.root)
        if objects:
            raise RequestRejectedError(f"the bucket is not empty: it has {len(objects)} objects", uri=self.root)
        _buckets.pop(self.root, None)


class MemoryUpload:
    """Parts by number, until they are an object."""

    min_part_bytes = 1
    max_parts = sys.maxsize
    is_sequential = False

    def __init__(self, store: MemoryStore, key: str, create_only: bool) -> None:
        self._store = store
        self._key = key
        self._create_only = create_only
        self._parts: dict[int, bytes] = {}

    @at_once
    def put_part(self, number: int, data: memoryview, is_last: bool) -> None:
        """As `Upload.put_part`."""
        self._parts[number] = bytes(data)

    @at_once
    def complete(self) -> None:
        """As `Upload.complete`."""
        data = b"".join(part for _, part in sorted(self._parts.items()))
        self._store.write(self._key, data, self._create_only)
        self._parts.clear()

    @at_once
    def abort(self) -> None:
        """As `Upload.abort`."""
        self._parts.clear()


@at_once
def list_buckets() -> list[Container]:
    """As `registry.list_containers`."""
    return [Container(root.removeprefix("memory://").removesuffix("/"), root) for root in [*_buckets]]
