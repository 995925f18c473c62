"""I7: with `check_slots`, bytes that change in shared memory between their arrival and their delivery are an error with their URI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.pool.core import Core
from s3dlio.engine.pool.items import Item
from s3dlio.engine.pool.wanted import Group
from s3dlio.engine.types import ObjectRef
from tests.process.kit import content, wait_until

SIZE = 10_007


@pytest.fixture
def uris(tmp_path: Path) -> list[str]:
    for n in range(12):
        (tmp_path / f"f{n:02}").write_bytes(content(f"f{n:02}", SIZE))
    return [f"file://{tmp_path}/f{n:02}" for n in range(12)]


@pytest.fixture(params=[0, 2], ids=["inline", "workers"])
def pool(request: pytest.FixtureRequest) -> Iterator[s3dlio.Pool]:
    s3dlio.configure(check_slots=True)
    with s3dlio.Pool(procs=request.param, jobs=4, memory_bytes="16MiB") as pool:
        yield pool


def expected(uri: str) -> bytes:
    return content(uri.rpartition("/")[2], SIZE)


def wait_ready(core: Core, num: int) -> dict[int, Item]:
    """Waits until so many items of the only run lie ready, and returns them by number."""
    (run,) = core.scheduler._runs
    wait_until(lambda: len(run.done) >= num or (core.move(), False)[1], f"{num} items are ready")
    return run.done


def scribble(core: Core, item: Item, at: int) -> None:
    """Flips a bit of a slot, as a late write would."""
    assert item.slot is not None
    core.arena.buffer[item.slot.start + at] ^= 0x10


@pytest.mark.parametrize("at", [0, 5000, SIZE - 1])
def test_i7_what_changed_in_its_slot_is_an_error_and_the_others_are_delivered(pool: s3dlio.Pool, uris: list[str], at: int) -> None:
    found = pool.fetch(uris, errors="return")
    first = next(found)
    assert bytes(first[1]) == expected(uris[0])
    core = pool._current()
    hit = [*wait_ready(core, 2).values()][:2]
    victims = [item.uri for item in hit]
    for item in hit:
        scribble(core, item, at)
    rest = list(found)
    assert [uri for uri, _ in rest] == uris[1:]
    for uri, view in rest:
        if uri in victims:
            assert isinstance(view, s3dlio.ChecksumMismatchError)
            assert (view.uri, "shared memory" in str(view)) == (uri, True)
        else:
            assert bytes(view) == expected(uri)
    counted = pool.stats()
    assert (counted["objects"], counted["failed"]) == (10, 2)
    del first, rest, view
    wait_until(lambda: pool.stats()["memory_used_bytes"] == 0, "the slots of the failed are free")


def test_i7_what_lies_behind_an_object_may_be_anything(pool: s3dlio.Pool, uris: list[str]) -> None:
    found = pool.fetch(uris)
    next(found)
    core = pool._current()
    for item in wait_ready(core, 3).values():
        scribble(core, item, SIZE)
    assert [bytes(view) for _, view in found] == [expected(uri) for uri in uris[1:]]


def test_i7_a_member_of_a_batch_is_an_error_of_its_own(pool: s3dlio.Pool, uris: list[str]) -> None:
    stride = SIZE + 9
    groups = [Group([ObjectRef(uri) for uri in uris[at : at + 4]], stride) for at in (0, 4, 8)]
    found = pool.fetch_items(iter(groups), ordered=True)
    next(found).pop_view()
    core = pool._current()
    hit = next(iter(wait_ready(core, 1).values()))
    scribble(core, hit, 3 * stride + 7)
    (last,) = [item for item in found if item.seq == hit.seq]
    assert list(last.member_errors) == [3]
    assert isinstance(last.member_errors[3], s3dlio.ChecksumMismatchError)
    assert last.member_errors[3].uri == last.uris[3]
    assert last.sizes == [SIZE, SIZE, SIZE, 0]
    view = last.pop_view()
    assert [bytes(view[n * stride : n * stride + SIZE]) for n in range(3)] == [expected(uri) for uri in last.uris[:3]]


def test_i7_objects_that_are_only_counted_are_checked_too(pool: s3dlio.Pool, uris: list[str]) -> None:
    scribbled: list[str] = []
    real = Core.take_and_free

    def take_and_free(core: Core, run: Any) -> Any:
        for item in run.done.values():
            if item.uri == uris[3]:
                scribble(core, item, 1)
                scribbled.append(item.uri)
        return real(core, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Core, "take_and_free", take_and_free)
        items = [item for some in pool.fetch_and_free(iter(uris)) for item in some]
    assert scribbled == [uris[3]]
    assert [item.uri for item in items if item.error is not None] == [uris[3]]
    assert (pool.stats()["objects"], pool.stats()["failed"]) == (11, 1)


def test_i7_a_large_object_is_checked_in_all_its_parts(tmp_path: Path) -> None:
    data = content("large", 400_000)
    (tmp_path / "large").write_bytes(data)
    uri = f"file://{tmp_path}/large"
    s3dlio.configure(check_slots=True, part_bytes=65_536, split_above_bytes=65_536)
    pinned = next(iter(s3dlio.list_iter(uri)))
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB") as pool:
        ((_, view),) = pool.fetch([pinned])
        assert bytes(view) == data
        for at in (0, 65_536, 399_999):
            found = pool.fetch([pinned, pinned], errors="return")
            next(found)
            core = pool._current()
            scribble(core, wait_ready(core, 1)[1], at)
            assert [type(view) for _, view in found] == [s3dlio.ChecksumMismatchError]


def test_i7_without_it_nothing_is_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zlib

    def refuse(*args: object) -> int:
        raise AssertionError("a sum was made")

    monkeypatch.setattr(zlib, "crc32", refuse)
    (tmp_path / "key").write_bytes(b"data")
    with s3dlio.Pool(procs=0) as pool:
        ((_, view),) = pool.fetch([f"file://{tmp_path}/key"])
        assert bytes(view) == b"data"
