"""Groups end to end: a batch is one slot, every byte of it in its place, whatever dies or fails meanwhile."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import s3dlio
from s3dlio.engine.pool.items import Item
from s3dlio.engine.pool.wanted import Group
from s3dlio.engine.types import ObjectRef
from tests.process.kit import Bucket, content, wait_quiet, wait_until, worker_processes
from tests.process.test_poison import Killer
from tests.support.answers import chunked, s3_error, stall_after
from tests.support.processes import wait_gone
from tests.support.remains import socket_directories

KIB, MIB = 1 << 10, 1 << 20


def groups_of(uris: Iterable[str], num: int, stride: int, size: int | None = None) -> Iterator[Group]:
    """Yields the URIs in groups of `num`; the last one has what is left."""
    iterator = iter(uris)
    while batch := [ObjectRef(uri, size) for uri in itertools.islice(iterator, num)]:
        yield Group(batch, stride)


def check(bucket: Bucket, item: Item, stride: int, holes: Iterable[int] = ()) -> list[str]:
    """Compares every byte of a group that has come, but for its holes; returns its URIs."""
    view = item.pop_view()
    assert len(view) == len(item.uris) * stride
    assert sorted(item.member_errors) == sorted(holes)
    for position, (uri, size) in enumerate(zip(item.uris, item.sizes, strict=True)):
        if position in item.member_errors:
            assert size == 0
            assert item.member_errors[position].uri == uri
        else:
            begin = position * stride
            assert bytes(view[begin : begin + size]) == bucket.data(uri), f"wrong bytes for {uri}"
    return item.uris


def check_all(bucket: Bucket, pool: s3dlio.Pool, groups: Iterable[Group], stride: int) -> list[str]:
    """Reads groups to their end, and returns the URIs in the order of delivery."""
    return [uri for item in pool.fetch_items(iter(groups), ordered=True) for uri in check(bucket, item, stride)]


@pytest.fixture
def pool(bucket: Bucket) -> Iterator[s3dlio.Pool]:
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="64MiB") as pool:
        yield pool


def ready_workers(pool: s3dlio.Pool, bucket: Bucket) -> list[psutil.Process]:
    """Returns both workers after they have shown that they work."""
    uris = bucket.fill(8, KIB, "warm")
    wait_until(lambda: bool(bucket.check(pool.fetch(uris))) and not socket_directories(), "two workers")
    return worker_processes()


@pytest.mark.parametrize("is_size_known", [False, True], ids=["unknown", "known"])
def test_a_batch_is_one_view_with_each_object_in_its_place(bucket: Bucket, procs: int, is_size_known: bool) -> None:
    size = 5000
    uris = bucket.fill(100, size)
    groups = [*groups_of(uris, 16, size, size if is_size_known else None)]
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        for _ in range(2):
            items = pool.fetch_items(iter(groups), ordered=True)
            held = [(item, item.pop_view()) for item in items]
            assert [len(view) for _, view in held] == [16 * size] * 6 + [4 * size]
            for item, view in held:
                assert (item.error, item.member_errors, item.sizes) == (None, {}, [size] * len(item.uris))
                assert bytes(view) == b"".join(bucket.data(uri) for uri in item.uris)
            assert [uri for item, _ in held for uri in item.uris] == uris
            del held, item, view
        stats = wait_quiet(pool)
        assert (stats["objects"], stats["failed"], stats["bytes"], stats["views_held"]) == (200, 0, 200 * size, 0)


def test_objects_of_any_size_lie_at_the_stride_also_empty_ones(bucket: Bucket, procs: int) -> None:
    sizes = [0, 1, 4095, 4096, 4097, 0, 100_000, 99_999, 17, 0]
    uris = [bucket.add(f"{index}-{size}", size) for index, size in enumerate(sizes)]
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        for known in (False, True):
            refs = [ObjectRef(uri, size if known else None) for uri, size in zip(uris, sizes, strict=True)]
            [item] = pool.fetch_items(iter([Group(refs, 100_001)]), ordered=True)
            assert item.sizes == sizes
            check(bucket, item, 100_001)
        empty = [uri for uri, size in zip(uris, sizes, strict=True) if not size]
        [item] = pool.fetch_items(iter([Group([ObjectRef(uri) for uri in empty], 0)]), ordered=True)
        assert (len(item.pop_view()), item.sizes, item.member_errors) == (0, [0, 0, 0], {})


def test_groups_and_single_objects_mix_and_come_in_order_or_as_they_complete(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(60, 3000)
    wanted: list[str | Group] = [
        uris[0],
        *groups_of(uris[1:21], 10, 3001),
        *uris[21:40],
        *groups_of(uris[40:], 7, 4000),
    ]
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        for ordered in (True, False):
            seen = []
            for item in pool.fetch_items(iter(wanted), ordered=ordered):
                seen += item.uris
                stride = item.nbytes // len(item.uris)
                check(bucket, item, stride)
            assert (seen if ordered else sorted(seen)) == uris


def test_members_may_be_in_different_stores(bucket: Bucket, procs: int, tmp_path: Path) -> None:
    data = [content(f"mixed{index}", 3000 + index) for index in range(12)]
    s3dlio.put_bytes("memory://mixed/0", data[0])
    uris = []
    for index, one in enumerate(data):
        uris.append(
            [f"memory://mixed/{index}", (tmp_path / str(index)).as_uri(), bucket.add(f"m{index}", 0)][index % 3]
        )
        if index % 3 == 0:
            s3dlio.put_bytes(uris[-1], one)
        elif index % 3 == 1:
            (tmp_path / str(index)).write_bytes(one)
        else:
            bucket.server.objects[bucket.path(f"m{index}")] = one
    s3dlio.put_bytes("memory://mixed/long", bytes(5000))
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        for _ in range(2):
            [item] = pool.fetch_items(
                iter([Group([*map(ObjectRef, [*uris, "memory://mixed/long"])], 4000)]), ordered=True
            )
            assert [*item.member_errors] == [12]
            assert isinstance(item.member_errors[12], s3dlio.ObjectTooLargeError)
            view = item.pop_view()
            for index, one in enumerate(data):
                assert bytes(view[index * 4000 :][: item.sizes[index]]) == one
            del view
        assert wait_quiet(pool)["objects"] == 24


def test_a_member_is_found_in_company_as_it_is_alone(tmp_path: Path) -> None:
    path = tmp_path.as_uri()
    uris = [f"memory://one/{key}" for key in ("a", "b/c", "d//e", "f%20g", "é", "k" * 255, "k" * 256, "n\0", "")]
    uris += [
        "memory://two/a",
        f"{path}/a",
        f"{path}/b",
        "file://elsewhere/a",
        f"direct{path[4:]}/a",
        "memory://one/z",
        "nonsense",
        "x://y",
    ]
    with s3dlio.Pool(procs=1, memory_bytes="16MiB") as pool:
        core = pool._current()

        def found(refs: list[str]) -> list[tuple[object, ...]]:
            return [
                (one.uri, one.store, one.key, one.error and (type(one.error), one.error.message))
                for one in core._find(refs)
            ]

        alone = [found([uri])[0] for uri in uris]
        for company in (
            uris,
            uris[::-1],
            [uri for uri in uris for _ in range(2)],
            [one for uri in uris for one in (uris[0], uri)],
        ):
            assert found(company) == [alone[uris.index(uri)] for uri in company]


def test_members_that_fail_leave_holes_and_each_says_why(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(8, 10 * KIB)
    long = bucket.add("long", 10 * KIB + 1)
    bucket.server.faults[bucket.path("o0003")] = [s3_error(503, "InternalError")] * 9
    refs: list[Any] = [
        *map(ObjectRef, uris[:3]),
        ObjectRef("s3://bucket/missing"),
        ObjectRef(uris[3]),
        ObjectRef(uris[4], 10 * KIB - 1),
        ObjectRef(long),
        ObjectRef(long, 10 * KIB + 1),
        ObjectRef(uris[5], 10 * KIB, "another-version"),
        ObjectRef("nonsense"),
        ObjectRef("nowhere://bucket/key"),
        ObjectRef(uris[5], "7"),  # type: ignore[arg-type]
        *map(ObjectRef, uris[6:]),
    ]
    expected = {
        3: s3dlio.NotFoundError,
        4: s3dlio.ServerError,
        5: s3dlio.ObjectChangedError,
        6: s3dlio.ObjectTooLargeError,
        7: s3dlio.ObjectTooLargeError,
        8: s3dlio.ObjectChangedError,
        9: s3dlio.InvalidUriError,
        10: s3dlio.InvalidUriError,
        11: s3dlio.ConfigurationError,
    }
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        [item] = pool.fetch_items(iter([Group(refs, 10 * KIB)]), ordered=True)
        assert item.error is None
        assert {
            position: isinstance(item.member_errors[position], kind) for position, kind in expected.items()
        } == dict.fromkeys(expected, True)
        for position in (6, 7):
            text = str(item.member_errors[position])
            assert str(10 * KIB) in text
            assert str(10 * KIB + 1) in text
        check(bucket, item, 10 * KIB, expected)
        assert len(bucket.server.requests_of(bucket.path("long"))) == 1, "what is known not to fit is not asked for"
        assert bucket.check(pool.fetch(uris[:3])) == uris[:3], "the pool goes on"
        stats = wait_quiet(pool)
        assert (stats["objects"], stats["failed"], stats["workers"]) == (5 + 3, 9, procs)


def test_an_object_of_unknown_length_in_chunks_is_held_to_its_place(bucket: Bucket, procs: int) -> None:
    uris = [bucket.add("fits", 9000), bucket.add("long", 9001)]
    for key in ("fits", "long"):
        bucket.server.faults[bucket.path(key)] = [chunked(1000)]
    with s3dlio.Pool(procs=procs, jobs=2, memory_bytes="16MiB") as pool:
        [item] = pool.fetch_items(iter([Group([*map(ObjectRef, uris)], 9000)]), ordered=True)
        assert isinstance(item.member_errors[1], s3dlio.ObjectTooLargeError)
        check(bucket, item, 9000, [1])


@pytest.mark.parametrize("num", [1, 40])
def test_an_object_that_is_too_long_writes_nothing_behind_its_place(bucket: Bucket, procs: int, num: int) -> None:
    good = bucket.fill(num, 20_000)
    long = [bucket.add(f"long{index}", 20_001 + 30_000 * (index % 2)) for index in range(num)]
    refs = [ObjectRef(uri) for pair in zip(long, good, strict=True) for uri in pair]
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        for _ in range(3):
            [item] = pool.fetch_items(iter([Group(refs, 20_000)]), ordered=True)
            check(bucket, item, 20_000, range(0, 2 * num, 2))
        wait_quiet(pool)


def test_m3_a_group_larger_than_the_cap_is_an_error_of_all_its_members(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(12, 100 * KIB)
    wanted = [*groups_of(uris[:4], 4, 100 * KIB), *groups_of(uris, 12, 2 * MIB), *groups_of(uris[4:8], 4, 100 * KIB)]
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="4MiB") as pool:
        first, large, last = pool.fetch_items(iter(wanted), ordered=True)
        assert isinstance(large.error, s3dlio.ObjectTooLargeError)
        assert "memory_bytes" in str(large.error)
        assert [error.uri for error in large.member_errors.values()] == uris
        assert {type(error) for error in large.member_errors.values()} == {s3dlio.ObjectTooLargeError}
        assert check(bucket, first, 100 * KIB) + check(bucket, last, 100 * KIB) == uris[:8]
        assert pool.stats()["failed"] == 12


def test_more_batches_than_memory(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(96, 200 * KIB - 7)
    with s3dlio.Pool(procs=procs, jobs=16, memory_bytes="8MiB") as pool:
        for ordered in (True, False):
            seen = []
            for item in pool.fetch_items(groups_of(uris, 8, 200 * KIB - 7), ordered=ordered):
                seen += check(bucket, item, 200 * KIB - 7)
                assert pool.stats()["memory_reserved_bytes"] <= 8 * MIB
            assert (seen if ordered else sorted(seen)) == uris
        wait_quiet(pool)


def test_m4_batches_that_are_held_beyond_the_cap_are_an_error_and_not_a_hang(
    bucket: Bucket, procs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3dlio.engine.pool.pool._GRACE_S", 0.5)
    uris = bucket.fill(40, 100 * KIB)
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="2MiB") as pool:
        held = []
        with pytest.raises(s3dlio.ViewsHeldError):
            held.extend(item.pop_view() for item in pool.fetch_items(groups_of(uris, 4, 100 * KIB), ordered=True))
        assert len(held) == 5
        assert b"".join(bytes(view) for view in held) == b"".join(bucket.data(uri) for uri in uris[:20])
        held.clear()
        assert check_all(bucket, pool, groups_of(uris, 4, 100 * KIB), 100 * KIB) == uris


def test_a_batch_waits_for_a_large_object_in_front_of_it(bucket: Bucket, procs: int) -> None:
    # Its size is not known, so the batches behind it have the memory first, and are recalled.
    large = bucket.add("large", 7 * MIB)
    uris = bucket.fill(32, 400 * KIB)
    gate = threading.Event()
    bucket.server.faults[bucket.path("large")] = [stall_after(0, gate)]
    with s3dlio.Pool(procs=procs, jobs=8, memory_bytes="8MiB") as pool:
        items = pool.fetch_items(iter([large, *groups_of(uris, 4, 400 * KIB)]), ordered=True)
        timer = threading.Timer(0.3, gate.set)
        timer.start()
        assert bucket.check([(large, next(items).pop_view())]) == [large]
        assert [uri for item in items for uri in check(bucket, item, 400 * KIB)] == uris
        timer.join()


def test_endless_batches_are_read_no_further_than_the_window(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(32, KIB)
    num_read = 0

    def endless() -> Iterator[Group]:
        nonlocal num_read
        while True:
            num_read += 1
            yield from groups_of(uris, 32, KIB)

    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        items = pool.fetch_items(endless(), ordered=True)
        first = next(items)
        # One to fetch, one to be read, and as many as have the objects that lie with the workers: far fewer than single objects.
        assert num_read <= 8
        check(bucket, first, KIB)
        for item in itertools.islice(items, 40):
            check(bucket, item, KIB)
        assert num_read - 41 <= 64 * 4 * max(procs, 1)
        del first, item
        items.close()  # type: ignore[attr-defined]
        wait_quiet(pool)


def test_no_more_is_read_ahead_than_was_asked_for(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(64, KIB)
    num_read = 0

    def counted() -> Iterator[Group]:
        nonlocal num_read
        for group in groups_of(uris, 4, KIB):
            num_read += 1
            yield group

    with s3dlio.Pool(procs=procs, jobs=8, memory_bytes="16MiB") as pool:
        seen = []
        for number, item in enumerate(pool.fetch_items(counted(), True, 2)):
            assert num_read <= number + 1 + 2
            seen += check(bucket, item, KIB)
        assert seen == uris


def test_a_fetch_whose_consumer_knows_no_members_takes_no_groups(bucket: Bucket) -> None:
    uris = bucket.fill(2, KIB)
    wanted: list[Any] = [uris[0], *groups_of(uris, 2, KIB)]
    with s3dlio.Pool(procs=0, jobs=4, memory_bytes="16MiB") as pool:
        (_, view), (_, error) = pool.fetch(wanted, errors="return")
        assert bytes(view) == bucket.data(uris[0])
        assert isinstance(error, s3dlio.InvalidUriError)
        batches = [*pool.fetch_and_free(iter(wanted[1:]))]
        assert isinstance(batches[0][0].error, s3dlio.InvalidUriError)


def test_p1_worker_killed_within_a_batch_costs_only_what_it_had(pool: s3dlio.Pool, bucket: Bucket) -> None:
    size = 100 * KIB
    uris = bucket.fill(32, size)
    victim, _ = ready_workers(pool, bucket)
    gate = threading.Event()
    # Eight requests are in flight; four of them stall in the middle of their bodies, in both workers.
    stalled = [f"o{index:04d}" for index in (4, 5, 6, 7)]
    for key in stalled:
        bucket.server.faults[bucket.path(key)] = [stall_after(30 * KIB, gate)]

    def kill_one() -> None:
        wait_until(lambda: all(bucket.server.requests_of(bucket.path(key)) for key in stalled), "they are asked for")
        victim.kill()
        assert wait_gone([victim], 5) == []
        gate.set()

    thread = threading.Thread(target=kill_one)
    thread.start()
    [item] = pool.fetch_items(groups_of(uris, 32, size, size), ordered=True)
    thread.join()
    assert item.sizes == [size] * 32
    assert check(bucket, item, size) == uris
    asked = Counter(len(bucket.server.requests_of(bucket.path(f"o{index:04d}"))) for index in range(32))
    assert asked[2] >= 1, "what the dead one had is fetched again"
    assert asked[1] >= 8, "and nothing that was in, or lay with the other"
    assert asked[1] + asked[2] == 32
    assert pool.stats()["worker_restarts"] == 1
    del item
    assert wait_quiet(pool)["memory_used_bytes"] == 0


def test_p1_kills_during_a_whole_epoch_deliver_each_batch_once_and_right(bucket: Bucket) -> None:
    s3dlio.configure(worker_restarts_per_minute=40)
    size = 20 * KIB
    uris = bucket.fill(640, size)
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="8MiB") as pool:
        for ordered in (True, False):
            seen = []
            # Between two kills comes four times what may lie with the workers: no object meets three, which would be its own doing.
            for number, item in enumerate(pool.fetch_items(groups_of(uris, 16, size, size), ordered, prefetch=4)):
                seen += check(bucket, item, size)
                if number % 16 == 5 and (alive := worker_processes()):
                    alive[0].kill()
            assert (seen if ordered else sorted(seen)) == uris
        assert pool.stats()["worker_restarts"] >= 2
        assert pool.stats()["objects"] == 1280


def test_p1_a_batch_of_what_only_this_process_can_read_survives_the_worker_it_was_meant_for(
    pool: s3dlio.Pool, bucket: Bucket
) -> None:
    uris = [f"memory://here/{number}" for number in range(64)]
    for number, uri in enumerate(uris):
        s3dlio.put_bytes(uri, bytes([number]) * 50 * KIB)
    victim, _ = ready_workers(pool, bucket)
    items = pool.fetch_items(groups_of(uris, 8, 50 * KIB), ordered=True)
    views = [next(items).pop_view()]
    victim.kill()
    assert wait_gone([victim], 5) == []
    views += [item.pop_view() for item in items]
    for number in range(64):
        assert bytes(views[number // 8][number % 8 * 50 * KIB :][: 50 * KIB]) == bytes([number]) * 50 * KIB
    del views
    wait_quiet(pool)
    core = pool._core
    assert core is not None
    assert core._local_owners == {}


def test_p2_a_poison_member_fails_alone_and_its_batch_comes_with_the_others(bucket: Bucket) -> None:
    size = 20 * KIB
    uris = bucket.fill(64, size)
    uris[21] = poison = bucket.add("poison", size)
    killer = Killer(bucket, "poison")
    with s3dlio.Pool(procs=2, jobs=8, memory_bytes="32MiB") as pool:
        items = [*pool.fetch_items(groups_of(uris, 16, size), ordered=True)]
        [error] = items[1].member_errors.values()
        assert isinstance(error, s3dlio.WorkerLostError)
        assert (error.uri, error.attempts) == (poison, 3)
        assert len(set(killer.killed)) == 3
        for number, item in enumerate(items):
            check(bucket, item, size, [5] if number == 1 else [])
        del items, item
        assert (pool.stats()["objects"], pool.stats()["failed"]) == (63, 1)
        wait_until(
            lambda: bool(bucket.check(pool.fetch(uris[:4]))) and pool.stats()["workers"] == 2, "the pool is whole again"
        )


def test_p3_m5_a_batch_whose_worker_stands_still_has_no_late_writes(bucket: Bucket) -> None:
    s3dlio.configure(worker_silence_s=0.6)
    size = 100 * KIB
    uris = bucket.fill(4, size)
    go_on = threading.Event()
    bucket.server.faults[bucket.path("o0002")] = [stall_after(50 * KIB, go_on)]
    stopped: list[psutil.Process] = []

    def stop_it() -> None:
        wait_until(lambda: bool(bucket.server.requests_of(bucket.path("o0002"))), "it is asked for")
        stopped.extend(worker_processes())
        for worker in stopped:
            worker.suspend()
        # Its socket now gets wrong news: were it to run again, it would write into a place that another has filled.
        go_on.set()

    with s3dlio.Pool(procs=1, jobs=4, memory_bytes="16MiB") as pool:
        thread = threading.Thread(target=stop_it)
        thread.start()
        [item] = pool.fetch_items(groups_of(uris, 4, size), ordered=True)
        thread.join()
        assert wait_gone(stopped, 0) == []
        assert check(bucket, item, size) == uris
        assert pool.stats()["worker_restarts"] == 1


def test_a_batch_that_is_given_up_leaves_no_memory_and_no_request(bucket: Bucket, procs: int) -> None:
    size = 50 * KIB
    uris = bucket.fill(64, size)
    never = threading.Event()
    bucket.server.faults[bucket.path("o0013")] = [stall_after(KIB, never)]
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        items = pool.fetch_items(groups_of(uris, 8, size), ordered=True)
        assert check(bucket, next(items), size) == uris[:8]
        items.close()  # type: ignore[attr-defined]
        wait_quiet(pool)
        bucket.server.faults.clear()
        assert check_all(bucket, pool, groups_of(uris, 8, size), size) == uris
        never.set()
