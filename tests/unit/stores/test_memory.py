"""The reference store keeps the whole contract: parts, create-only, copies, markers, buckets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.errors import InternalError, RequestRejectedError
from s3dlio.engine.stores.base import Operation, run
from s3dlio.engine.stores.file import FileStore
from s3dlio.engine.stores.memory import MemoryStore, _buckets, list_buckets

_numbers = itertools.count()


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    made = MemoryStore(f"memory://contract-{next(_numbers)}/")
    yield made
    _buckets.pop(made.root, None)


def do(operation: Operation[Any]) -> Any:
    """Drives an operation that asks nobody."""

    def refuse(fetch: object) -> Any:
        raise InternalError("a memory asks for nothing")

    return run(operation, refuse)


def list_roots() -> list[str]:
    return [found.uri for found in do(list_buckets())]


def read(store: MemoryStore, key: str) -> bytes:
    return bytes(s3dlio.get(store.root + key))


def test_u5_create_only_never_replaces(store: MemoryStore) -> None:
    do(store.put("key", memoryview(b"first"), create_only=True))
    with pytest.raises(s3dlio.AlreadyExistsError) as raised:
        do(store.put("key", memoryview(b"second"), create_only=True))
    assert raised.value.uri == store.root + "key"
    upload = do(store.begin_upload("key", create_only=True))
    do(upload.put_part(0, memoryview(b"third"), is_last=True))
    with pytest.raises(FileExistsError):
        do(upload.complete())
    do(upload.abort())
    assert read(store, "key") == b"first"


def test_parts_come_in_any_order_and_again_and_are_invisible_until_the_end(store: MemoryStore) -> None:
    upload = do(store.begin_upload("key"))
    for number, text in ((2, b"c"), (0, b"wrong"), (1, b"b"), (0, b"a")):
        do(upload.put_part(number, memoryview(text), is_last=number == 2))
        assert not s3dlio.exists(store.root + "key")
    do(upload.complete())
    assert read(store, "key") == b"abc"


def test_u1_an_upload_that_is_aborted_leaves_nothing(store: MemoryStore) -> None:
    upload = do(store.begin_upload("key"))
    do(upload.put_part(0, memoryview(b"a"), is_last=False))
    do(upload.abort())
    do(upload.abort())
    assert s3dlio.list(store.root) == []


def test_a_caller_may_change_its_buffer_after_put(store: MemoryStore) -> None:
    buffer = bytearray(b"data")
    do(store.put("key", memoryview(buffer)))
    buffer[:] = b"DATA"
    assert read(store, "key") == b"data"


def test_delete_many_says_none_for_each_also_for_missing_ones(store: MemoryStore) -> None:
    do(store.put("a", memoryview(b"1")))
    do(store.put("b", memoryview(b"2")))
    assert do(store.delete_many(["a", "missing"])) == [None, None]
    assert s3dlio.list(store.root) == [store.root + "b"]


def test_copy_is_another_version_and_not_for_other_kinds_of_stores(store: MemoryStore) -> None:
    do(store.put("a", memoryview(b"data")))
    assert do(store.copy("b", store, "a")) is True
    assert read(store, "b") == b"data"
    assert do(store.stat("a")).version != do(store.stat("b")).version
    assert do(store.copy("c", FileStore(), "/etc/hostname")) is False
    assert not s3dlio.exists(store.root + "c")
    with pytest.raises(s3dlio.NotFoundError) as raised:
        do(store.copy("c", store, "missing"))
    assert raised.value.uri == store.root + "missing"


def test_a_prefix_is_an_empty_object_and_may_be_made_twice(store: MemoryStore) -> None:
    for key in ("dir", "dir/"):
        do(store.make_prefix(key))
    assert s3dlio.list(store.root, recursive=True) == [store.root + "dir/"]
    do(store.put("dir/", memoryview(b"kept")))
    do(store.make_prefix("dir/"))
    assert read(store, "dir/") == b"kept"


def test_a_bucket_is_made_by_its_first_object_or_by_name_and_deleted_when_empty(store: MemoryStore) -> None:
    with pytest.raises(s3dlio.NotFoundError):
        do(store.delete_bucket())
    do(store.create_bucket())
    do(store.create_bucket())
    assert store.root in list_roots()
    do(store.put("key", memoryview(b"")))
    with pytest.raises(RequestRejectedError, match="1 objects"):
        do(store.delete_bucket())
    do(store.delete("key"))
    do(store.delete_bucket())
    assert store.root not in list_roots()
    # An open store goes on as one that was never opened.
    do(store.put("key", memoryview(b"again")))
    assert read(store, "key") == b"again"
