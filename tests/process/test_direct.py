"""`direct://` through everything that reads: pools with workers, batches in one slot, data sets; and while files change."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio
from s3dlio.engine.pool.wanted import Group
from s3dlio.engine.stores import direct
from s3dlio.engine.stores.base import run
from s3dlio.engine.stores.direct import DirectStore
from s3dlio.engine.stores.memory import MemoryStore
from s3dlio.engine.types import ObjectRef
from tests.process.kit import content
from tests.support.direct_disk import direct_folder, memory_folder


class Files:
    """Files of known contents, seen by plain reads and writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, nbytes: int) -> str:
        (self.folder / name).write_bytes(content(name, nbytes))
        return f"direct://{self.folder}/{name}"

    def data(self, uri: str) -> bytes:
        return Path(uri.removeprefix("direct://")).read_bytes()


@pytest.fixture
def files() -> Iterator[Files]:
    with direct_folder() as folder:
        yield Files(folder)
        s3dlio.shutdown()


SIZES = [0, 1, 511, 512, 4095, 4096, 4097, 65_536, 100_003, 1_048_577]


@pytest.mark.parametrize("procs", [0, 2])
@pytest.mark.parametrize("is_size_known", [False, True], ids=["unknown", "known"])
def test_l7_a_pool_reads_files_of_any_size(files: Files, procs: int, is_size_known: bool) -> None:
    uris = [files.add(f"f{size}", size) for size in SIZES]
    wanted = [ObjectRef(uri, len(files.data(uri))) if is_size_known else uri for uri in uris]
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        for uri, view in pool.fetch(wanted * 2):
            assert bytes(view) == files.data(uri)


@pytest.mark.parametrize("procs", [0, 2])
@pytest.mark.parametrize("stride", [100_003, 102_400])
def test_l7_the_rows_of_a_batch_lie_at_any_offset(files: Files, procs: int, stride: int) -> None:
    uris = [files.add(f"f{n}", 100_003 - 17 * (n % 3)) for n in range(12)]
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        groups = iter([Group([ObjectRef(uri) for uri in uris[at : at + 5]], stride) for at in range(0, 12, 5)])
        seen = []
        for item in pool.fetch_items(groups, ordered=True):
            view = item.pop_view()
            assert not item.member_errors
            for position, (uri, size) in enumerate(zip(item.uris, item.sizes, strict=True)):
                assert bytes(view[position * stride : position * stride + size]) == files.data(uri)
                seen.append(uri)
    assert seen == uris


def test_l7_a_large_file_is_read_in_parts_at_any_offset(files: Files) -> None:
    uri = files.add("large", 3_000_001)
    # Parts that begin and end between blocks.
    s3dlio.configure(part_bytes=70_001, split_above_bytes=100_000)
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB") as pool:
        ((_, view),) = pool.fetch([ObjectRef(uri, 3_000_001, s3dlio.stat(uri)["etag"])])
        assert bytes(view) == files.data(uri)


def test_l7_every_verb_reads_directly(files: Files) -> None:
    uris = [files.add(f"f{size}", size) for size in SIZES]
    assert [bytes(view) for view in s3dlio.get_many(uris)] == [files.data(uri) for uri in uris]
    assert [bytes(view) for view in asyncio.run(s3dlio.get_many_async(uris))] == [files.data(uri) for uri in uris]
    assert s3dlio.list(f"direct://{files.folder}/") == sorted(uris)
    result = s3dlio.mp_get(f"direct://{files.folder}/", procs=2)
    assert (result["succeeded"], result["total_bytes"]) == (len(SIZES), sum(SIZES))


def test_l7_data_sets_read_directly_in_batches(files: Files) -> None:
    uris = [files.add(f"f{n:02}", 5003) for n in range(20)]
    data_set = s3dlio.ObjectStoreIterableDataset(f"direct://{files.folder}/", batch_size=6)
    batches = [np.asarray(batch) for batch in data_set]
    assert [batch.shape for batch in batches] == [(6, 5003)] * 3 + [(2, 5003)]
    assert b"".join(batch.tobytes() for batch in batches) == b"".join(map(files.data, uris))


@pytest.mark.parametrize("procs", [0, 2])
def test_l7_a_file_system_in_memory_refuses_in_workers_too(procs: int) -> None:
    with memory_folder() as folder, s3dlio.Pool(procs=procs) as pool:
        (folder / "key").write_bytes(b"data")
        with pytest.raises(s3dlio.DirectIOUnsupportedError) as raised:
            next(pool.fetch([f"direct://{folder}/key"]))
        assert raised.value.uri == f"direct://{folder}/key"
        s3dlio.shutdown()


@pytest.mark.parametrize("is_pinned", [False, True])
def test_i1_a_file_that_changes_while_it_is_read_directly_is_read_again_or_an_error(
    files: Files, monkeypatch: pytest.MonkeyPatch, is_pinned: bool
) -> None:
    uri = files.add("key", 100_003)
    pinned = ObjectRef(uri, 100_003, s3dlio.stat(uri)["etag"])
    real, seen = direct.read_some, []

    def read_some(*args: Any) -> int:
        seen.append(args)
        if len(seen) == 1:
            files.add("key", 50_001)
        return real(*args)

    monkeypatch.setattr(direct, "read_some", read_some)
    (found,) = s3dlio.get_many([pinned if is_pinned else uri], errors="return")
    if is_pinned:
        assert isinstance(found, s3dlio.ObjectChangedError)
        assert found.uri == uri
    else:
        assert bytes(found) == content("key", 50_001)


def test_l7_uploads_in_parts_begin_at_blocks_and_end_anywhere(files: Files) -> None:
    store, key = DirectStore(), f"{files.folder}/new/key"
    upload = run(store.begin_upload(key), lambda fetch: fetch)
    least = upload.min_part_bytes
    assert least in (512, 1024, 2048, 4096)
    data = content("upload", 9 * least + 77)
    for number, at in enumerate(range(0, len(data), 3 * least)):
        run(upload.put_part(number, memoryview(data)[at : at + 3 * least], at + 3 * least >= len(data)), lambda fetch: fetch)
    assert s3dlio.list(f"direct://{files.folder}/", recursive=True) == []
    run(upload.complete(), lambda fetch: fetch)
    assert Path(key).read_bytes() == data
    assert os.listdir(Path(key).parent) == ["key"]


def test_l7_a_copy_goes_past_the_page_cache_and_is_not_for_other_stores(files: Files) -> None:
    store = DirectStore()
    uri = files.add("key", 2_100_003)
    target = f"{files.folder}/copies/key"
    assert run(store.copy(target, store, uri.removeprefix("direct://")), lambda fetch: fetch) is True
    assert Path(target).read_bytes() == files.data(uri)
    assert run(store.copy(target, MemoryStore("memory://b/"), "key"), lambda fetch: fetch) is False
    with pytest.raises(s3dlio.NotFoundError) as raised:
        run(store.copy(target, store, f"{files.folder}/missing"), lambda fetch: fetch)
    assert raised.value.uri == f"direct://{files.folder}/missing"
