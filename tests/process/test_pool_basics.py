"""`Pool.fetch` from outside: what goes in, what comes out, in which order, in both pools."""

from __future__ import annotations

import gc
import itertools
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.pool.messages import MAX_MESSAGE_BYTES, FetchPart, encode
from s3dlio.engine.types import ObjectRef
from tests.process.kit import Bucket, alternate, content, wait_quiet, wait_until
from tests.support.answers import stall_after

KIB, MIB = 1 << 10, 1 << 20


def test_ordered_is_the_order_of_the_uris_with_duplicates(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(50, 3 * KIB)
    wanted = [*reversed(uris), *uris[:10], uris[0], uris[0]]
    with s3dlio.Pool(procs=procs, jobs=8, memory_bytes="32MiB") as pool:
        assert bucket.check(pool.fetch(wanted)) == wanted


def test_completion_order_delivers_each_once(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(80, 5 * KIB)
    wanted = [*uris, *uris[:20]]
    with s3dlio.Pool(procs=procs, jobs=8, memory_bytes="32MiB") as pool:
        assert Counter(bucket.check(pool.fetch(wanted, ordered=False))) == Counter(wanted)


def test_completion_order_does_not_wait_for_a_slow_object(bucket: Bucket, procs: int) -> None:
    from tests.support.answers import stall_before_headers

    slow, *rest = uris = bucket.fill(10, KIB)
    go_on = threading.Event()
    bucket.server.faults[bucket.path("o0000")] = [stall_before_headers(go_on)]
    seen = []
    with s3dlio.Pool(procs=procs, jobs=8, memory_bytes="32MiB") as pool:
        for uri, view in pool.fetch(uris, ordered=False):
            assert bytes(view) == bucket.data(uri)
            seen.append(uri)
            if len(seen) == len(rest):
                go_on.set()
    assert sorted(seen[:-1]) == rest
    assert seen[-1] == slow


def test_errors_return_puts_errors_in_their_places(bucket: Bucket, procs: int) -> None:
    good = bucket.fill(6, KIB)
    wanted = [good[0], "s3://bucket/missing", good[1], "nonsense://x/y", good[2], "s3://bucket/gone", *good[3:]]
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        found = list(pool.fetch(wanted, errors="return"))
        assert [uri for uri, _ in found] == wanted
        for uri, result in found:
            if uri in good:
                assert bytes(result) == bucket.data(uri)
            elif uri.startswith("s3://"):
                assert isinstance(result, s3dlio.NotFoundError)
                assert result.uri == uri
                assert result.status == 404
            else:
                assert isinstance(result, s3dlio.ConfigurationError | s3dlio.UnsupportedError)
        assert pool.stats()["failed"] == 3


def test_errors_raise_in_their_turn(bucket: Bucket, procs: int) -> None:
    good = bucket.fill(5, KIB)
    seen = []
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        with pytest.raises(s3dlio.NotFoundError) as caught:
            seen.extend(uri for uri, _ in pool.fetch([*good, "s3://bucket/missing", *good]))
        assert seen == good
        assert caught.value.uri == "s3://bucket/missing"
        assert bucket.check(pool.fetch(good)) == good


def test_endless_generator_is_read_no_further_than_the_window(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(4, KIB)
    num_read = 0

    def endless() -> itertools.cycle[str]:
        nonlocal num_read
        for uri in itertools.cycle(uris):
            num_read += 1
            yield uri

    jobs, wanted = 2, 40
    with s3dlio.Pool(procs=procs, jobs=jobs, memory_bytes="16MiB") as pool:
        assert num_read == 0
        pairs = pool.fetch(endless())
        assert num_read == 0
        assert bucket.check(itertools.islice(pairs, wanted)) == list(itertools.islice(itertools.cycle(uris), wanted))
        # The window may double while the consumer waits; it must not grow with what was delivered or with what could come.
        assert num_read - wanted <= 64 * jobs * max(procs, 1)
        pairs.close()


@pytest.mark.parametrize("is_size_known", [False, True], ids=["unknown", "known"])
def test_mixed_sizes_from_nothing_to_40_mib(bucket: Bucket, procs: int, is_size_known: bool) -> None:
    sizes = [0, 1, 4095, 4096, 4097, 128 * KIB - 1, 128 * KIB + 1, MIB, 8 * MIB, 8 * MIB + 1, 40 * MIB, 0, 17, 300 * KIB]
    uris = [bucket.add(f"{index}-{size}", size) for index, size in enumerate(sizes)]
    wanted = [s3dlio.ObjectRef(uri, size) for uri, size in zip(uris, sizes, strict=True)] if is_size_known else uris
    with s3dlio.Pool(procs=procs, jobs=8, memory_bytes="128MiB") as pool:
        assert bucket.check(pool.fetch(wanted)) == uris
        assert Counter(bucket.check(pool.fetch(wanted, ordered=False))) == Counter(uris)
        assert pool.stats()["bytes"] == 2 * sum(sizes)
        assert pool.stats()["objects"] == 2 * len(sizes)
        # Alone, so that connections are idle whatever came first above.
        assert bucket.check(pool.fetch(wanted[10:11])) == uris[10:11]
    ranges = {request.headers["range"] for request in bucket.server.requests_of("/bucket/10-41943040") if "range" in request.headers}
    # A plain GET that is cut after the first part has no Range header; the others have.
    assert len(ranges) >= 4, "an object of 40 MiB, with connections idle, is read in parts"


def test_size_that_is_not_so_is_an_error(bucket: Bucket, procs: int) -> None:
    uri = bucket.add("grown", 5000)
    with s3dlio.Pool(procs=procs, jobs=2, memory_bytes="16MiB") as pool:
        for claimed in (4999, 5001):
            with pytest.raises(s3dlio.S3dlioError) as caught:
                list(pool.fetch([s3dlio.ObjectRef(uri, claimed)]))
            assert caught.value.uri == uri
        assert bucket.check(pool.fetch([uri])) == [uri]


def test_more_data_than_memory(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(48, MIB - 7)
    with s3dlio.Pool(procs=procs, jobs=16, memory_bytes="8MiB") as pool:
        for ordered in (True, False):
            seen = []
            for uri, view in pool.fetch(uris, ordered=ordered):
                assert bytes(view) == bucket.data(uri)
                seen.append(uri)
                assert pool.stats()["memory_reserved_bytes"] <= 8 * MIB
                del view
            assert sorted(seen) == uris


def test_schemes_mix_in_one_fetch(bucket: Bucket, procs: int, tmp_path: Path) -> None:
    expected: dict[str, bytes] = {}
    for index in range(12):
        data = content(f"mixed{index}", 3000 * index)
        expected[f"memory://mixed/{index}"] = expected[(tmp_path / str(index)).as_uri()] = data
        s3dlio.put_bytes(f"memory://mixed/{index}", data)
        (tmp_path / str(index)).write_bytes(data)
        bucket.server.objects[f"/bucket/{index}"] = data
        expected[f"s3://bucket/{index}"] = data
    wanted = list(expected)
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        assert [(uri, bytes(view)) for uri, view in pool.fetch(wanted)] == list(expected.items())
        assert {uri: bytes(view) for uri, view in pool.fetch(wanted, ordered=False)} == expected


def test_iterable_that_raises_ends_the_fetch_and_not_the_pool(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(8, KIB)

    def broken() -> object:
        yield from uris[:3]
        raise LookupError("the index is broken")

    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        with pytest.raises(LookupError, match="the index is broken"):
            list(pool.fetch(broken()))
        assert bucket.check(pool.fetch(uris)) == uris
        wait_quiet(pool)


def test_iterable_may_use_the_pool_itself(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(6, KIB)

    def via_the_pool() -> object:
        for uri, view in pool.fetch(uris):
            assert bytes(view) == bucket.data(uri)
            yield uri

    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        assert bucket.check(pool.fetch(via_the_pool())) == uris


def test_two_fetches_interleave(bucket: Bucket, procs: int) -> None:
    one, two = bucket.fill(30, 2 * KIB, "a"), bucket.fill(20, 9 * KIB, "b")
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        seen = bucket.check(alternate(pool.fetch(one), pool.fetch(two, ordered=False)))
    assert [uri for uri in seen if uri in one] == one
    assert sorted(uri for uri in seen if uri in two) == two


@pytest.mark.timeout(30)
def test_two_fetches_interleave_within_memory_for_a_few_objects(bucket: Bucket, procs: int) -> None:
    one, two = bucket.fill(24, MIB, "a"), bucket.fill(24, MIB, "b")
    with s3dlio.Pool(procs=procs, jobs=8, memory_bytes="6MiB") as pool:
        seen = bucket.check(alternate(pool.fetch(one), pool.fetch(two)))
    assert [uri for uri in seen if uri in one] == one
    assert [uri for uri in seen if uri in two] == two


def test_two_pools_live_side_by_side(bucket: Bucket, procs: int) -> None:
    one, two = bucket.fill(20, 2 * KIB, "a"), bucket.fill(20, 9 * KIB, "b")
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as a, s3dlio.Pool(procs=1, jobs=2, memory_bytes="8MiB") as b:
        seen = bucket.check(alternate(a.fetch(one), b.fetch(two)))
        assert sorted(seen) == sorted(one + two)
        assert (a.stats()["objects"], b.stats()["objects"]) == (20, 20)
        a.close()
        assert bucket.check(b.fetch(one)) == one


def test_eight_threads_share_a_pool(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(160, 20 * KIB)
    seen: list[list[str]] = [[] for _ in range(8)]
    failures: list[BaseException] = []

    def read(number: int) -> None:
        try:
            mine = uris[number::8]
            seen[number] = bucket.check(pool.fetch(mine * 3, ordered=bool(number % 2)))
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            failures.append(error)

    with s3dlio.Pool(procs=procs, jobs=8, memory_bytes="32MiB") as pool:
        threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not failures
        for number in range(8):
            assert sorted(seen[number]) == sorted(uris[number::8] * 3)
            if number % 2:
                assert seen[number] == uris[number::8] * 3
        wait_quiet(pool)


def test_closing_while_another_thread_waits_is_an_error_there(bucket: Bucket, procs: int) -> None:
    from tests.support.answers import stall_before_headers

    never = threading.Event()
    uris = bucket.fill(3, KIB)
    bucket.server.faults[bucket.path("o0001")] = [stall_before_headers(never)]
    caught: list[BaseException] = []
    first = threading.Event()
    pool = s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB")

    def read() -> None:
        try:
            for _ in pool.fetch(uris):
                first.set()
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert first.wait(20)
    bucket.server.wait_for_requests(3)
    pool.close()
    thread.join(10)
    assert not thread.is_alive()
    assert [type(error) for error in caught] == [s3dlio.PoolClosedError]


def test_p7_an_interrupted_thread_takes_nothing_away_under_one_that_waits(
    bucket: Bucket, procs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The core is thrown away by a Ctrl-C inside of it, and closed by the last thread that leaves it, never under that thread.
    never = threading.Event()
    stalled, uris = bucket.add("stalled", 50 * KIB), bucket.fill(8, KIB)
    bucket.server.faults[bucket.path("stalled")] = [stall_after(KIB, never)]
    caught: list[BaseException] = []
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        assert bucket.check(pool.fetch(uris)) == uris

        def read() -> None:
            try:
                next(pool.fetch([stalled]))
            except BaseException as error:  # noqa: BLE001 (the test looks at it)
                caught.append(error)

        core = pool._core
        assert core is not None
        thread = threading.Thread(target=read)
        thread.start()
        bucket.server.wait_for_requests(9)
        wait_until(lambda: core.num_waiting == 1, "the thread waits")

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(core.scheduler, "handle", interrupted)
        monkeypatch.setattr(core.scheduler, "drain", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(pool.fetch(uris))
        thread.join(10)
        never.set()
        assert not thread.is_alive()
        assert [type(error) for error in caught] == [s3dlio.PoolClosedError]
        assert not core.finalizer.alive
        assert bucket.check(pool.fetch(uris)) == uris


def test_closed_pool_refuses_and_closes_again(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(3, KIB)
    pool = s3dlio.Pool(procs=procs, jobs=2, memory_bytes="16MiB")
    begun = pool.fetch(uris)
    next(begun)
    pool.close()
    pool.close()
    with pytest.raises(s3dlio.PoolClosedError):
        next(begun)
    with pytest.raises(s3dlio.PoolClosedError):
        pool.fetch(uris)
    with pytest.raises(s3dlio.PoolClosedError):
        pool.stats()


def test_arguments_that_make_no_sense_are_errors_at_once(bucket: Bucket) -> None:
    for arguments in ({"procs": -1}, {"jobs": 0}, {"memory_bytes": "much"}):
        with pytest.raises(s3dlio.ConfigurationError):
            s3dlio.Pool(**arguments)  # type: ignore[arg-type]
    with s3dlio.Pool(procs=0, memory_bytes="16MiB") as pool:
        with pytest.raises(s3dlio.ConfigurationError, match="errors must be"):
            pool.fetch([], errors="ignore")  # type: ignore[arg-type]
        with pytest.raises(s3dlio.ConfigurationError, match="list of URIs"):
            pool.fetch("s3://bucket/key")
        assert list(pool.fetch([])) == []


def test_stats_count_what_happened(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(10, 1000)
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        before = pool.stats()
        assert (before["objects"], before["failed"], before["bytes"], before["views_held"]) == (0, 0, 0, 0)
        held = [view for _, view in pool.fetch([*uris, "s3://bucket/missing"], errors="return")]
        stats = pool.stats()
        assert (stats["objects"], stats["failed"], stats["bytes"], stats["views_held"]) == (10, 1, 10_000, 10)
        assert stats["workers"] == procs
        assert stats["memory_cap_bytes"] == 16 * MIB
        assert stats["memory_used_bytes"] >= 10_000
        del held
        assert wait_quiet(pool)["views_held"] == 0


def test_nothing_to_fetch_is_not_waited_for(bucket: Bucket, procs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        bucket.check(pool.fetch(bucket.fill(8, KIB)))
        core = pool._core
        assert core is not None

        def never(timeout_s: float) -> None:
            raise AssertionError("it waited")

        with monkeypatch.context() as patch:
            patch.setattr(core, "wait", never)
            assert list(pool.fetch([])) == []
            assert list(pool.fetch(iter(()), ordered=False)) == []


def test_what_is_no_reference_fails_alone(bucket: Bucket, procs: int) -> None:
    good = bucket.add("good", KIB)
    bad: list[Any] = [
        Path("/no/scheme"),
        ObjectRef(good, "7"),  # type: ignore[arg-type]
        ObjectRef(good, -1),
        ObjectRef(good, KIB, 123),  # type: ignore[arg-type]
        ObjectRef(None),  # type: ignore[arg-type]
        17,
    ]
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        found = [one for _, one in pool.fetch([*bad, good], errors="return")]
        assert [isinstance(one, s3dlio.ConfigurationError) for one in found] == [True] * len(bad) + [False]
        assert bytes(found[-1]) == bucket.data(good)  # type: ignore[arg-type]
        assert pool.stats()["worker_restarts"] == 0


def test_small_objects_after_a_large_one_do_not_fill_the_memory_with_empty_room(bucket: Bucket, procs: int) -> None:
    uris = [bucket.add("large", 2 * MIB), *bucket.fill(400, KIB)]
    with s3dlio.Pool(procs=procs, jobs=2, memory_bytes="4MiB") as pool:
        pairs = pool.fetch(uris)
        uri, view = next(pairs)
        assert bytes(view) == bucket.data(uri)
        del view
        held = [*pairs]
        assert all(bytes(view) == bucket.data(uri) for uri, view in held)


def test_m4_views_that_only_garbage_holds_are_collected_before_that_is_an_error(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(40, MIB)
    gc.disable()
    try:
        with s3dlio.Pool(procs=procs, jobs=2, memory_bytes="8MiB") as pool:
            for uri, view in pool.fetch(uris):
                cycle: dict[str, Any] = {"view": view}
                cycle["self"] = cycle
                assert bytes(view) == bucket.data(uri)
    finally:
        gc.enable()


def test_a_message_never_holds_more_commands_than_it_may(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    # ZeroMQ drops the peer that gets too long a message, and nobody would notice.
    assert len(encode([FetchPart(1 << 60, 1 << 30, "k" * 4200, 1 << 50, 1 << 50, 1 << 50, "v" * 100, 1 << 50, 1 << 50)] * 1024)) < (
        MAX_MESSAGE_BYTES // 2
    )
    monkeypatch.setattr("s3dlio.engine.pool.crew._MAX_COMMANDS", 3)
    uris = bucket.fill(100, KIB)
    with s3dlio.Pool(procs=1, jobs=32, memory_bytes="16MiB") as pool:
        assert bucket.check(pool.fetch(uris)) == uris


def test_a_pool_and_its_iteration_that_are_collected_together_end_without_a_word(
    bucket: Bucket, capfd: pytest.CaptureFixture[str]
) -> None:
    uris = bucket.fill(50, KIB)

    class Holder:
        pass

    def iterate() -> None:
        holder: Any = Holder()
        holder.pool = s3dlio.Pool(procs=1)
        holder.iteration = holder.pool.fetch(uris)
        next(holder.iteration)
        holder.itself = holder

    iterate()
    gc.collect()
    assert capfd.readouterr().err == ""
