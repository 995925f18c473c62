"""`mp_get`: what it reads, what it says about it, and what it leaves warm."""

from __future__ import annotations

import pytest

import s3dlio
from tests.process.kit import Bucket, content, worker_processes
from tests.support.rclone_server import RcloneServer

KIB = 1 << 10
KEYS = {
    "attempted", "succeeded", "failed", "total_bytes", "bytes_source", "duration_seconds", "throughput_mb_s", "throughput_mib_s",
    "ops_per_sec", "total_objects", "startup_seconds", "time_to_first_object_seconds", "latency_ms", "errors", "workers",
}  # fmt: skip
WORKER_KEYS = {"worker_id", "attempted", "succeeded", "failed", "bytes", "objects", "throughput_mb_s"}


def test_result_has_its_keys_and_they_agree(bucket: Bucket) -> None:
    uris = bucket.fill(200, 10 * KIB)
    found = s3dlio.mp_get(procs=2, jobs=8, uris=uris, memory_bytes="32MiB")
    assert found.keys() == KEYS
    assert (found["attempted"], found["succeeded"], found["failed"], found["total_objects"]) == (200, 200, 0, 200)
    assert found["total_bytes"] == 200 * 10 * KIB
    assert found["bytes_source"] == "Observed"
    assert found["errors"] == []
    duration_s = found["duration_seconds"]
    assert found["throughput_mb_s"] == pytest.approx(found["total_bytes"] / 1e6 / duration_s)
    assert found["throughput_mib_s"] == pytest.approx(found["total_bytes"] / 2**20 / duration_s)
    assert found["ops_per_sec"] == pytest.approx(200 / duration_s)
    assert 0 < found["startup_seconds"] <= found["time_to_first_object_seconds"]
    latency = found["latency_ms"]
    assert latency.keys() == {"p50", "p95", "p99", "max"}
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    assert all(row.keys() == WORKER_KEYS for row in found["workers"])
    assert sum(row["succeeded"] for row in found["workers"]) == 200
    assert sum(row["bytes"] for row in found["workers"]) == found["total_bytes"]


def test_template_names_num_objects(bucket: Bucket) -> None:
    expected = [bucket.add(f"data/shard_{index:05d}.bin", KIB + index) for index in range(25)]
    seen: dict[str, bytes] = {}
    found = s3dlio.mp_get("s3://bucket/data", 2, 8, 25, "shard_{:05d}.bin", sink=lambda uri, view: seen.update({uri: bytes(view)}))
    assert sorted(seen) == expected
    assert all(seen[uri] == bucket.data(uri) for uri in expected)
    assert found["succeeded"] == 25


def test_listing_is_recursive_and_stops_at_num(rclone_s3: RcloneServer, s3_env: object) -> None:
    s3_env(rclone_s3.endpoint)  # type: ignore[operator]
    name = rclone_s3.endpoint.new_bucket()
    keys = [f"set/{folder}/{index}" for folder in ("a", "b/c") for index in range(10)]
    for key in [*keys, "settle/no"]:
        rclone_s3.endpoint.client().put_object(Bucket=name, Key=key, Body=content(key, 500))
    seen: dict[str, bytes] = {}
    found = s3dlio.mp_get(f"s3://{name}/set", procs=1, jobs=8, sink=lambda uri, view: seen.update({uri: bytes(view)}))
    assert seen == {f"s3://{name}/{key}": content(key, 500) for key in keys}
    assert found["succeeded"] == 20
    assert s3dlio.mp_get(f"s3://{name}/set/", procs=1, jobs=8, num=7)["succeeded"] == 7
    assert s3dlio.mp_get(f"s3://{name}/nothing/", procs=1, jobs=8)["attempted"] == 0


def test_missing_objects_are_counted_and_named(bucket: Bucket) -> None:
    good = bucket.fill(10, KIB)
    missing = [f"s3://bucket/missing{index}" for index in range(30)]
    found = s3dlio.mp_get(procs=1, jobs=8, uris=[*missing[:15], *good, *missing[15:]])
    assert (found["attempted"], found["succeeded"], found["failed"]) == (40, 10, 30)
    assert len(found["errors"]) == 20
    for entry in found["errors"]:
        assert entry["uri"] in missing
        assert "NotFoundError" in entry["error"]
    assert sum(row["failed"] for row in found["workers"]) == 30


def test_names_without_a_scheme_are_relative_to_the_uri(bucket: Bucket) -> None:
    bucket.fill(3, KIB, "dir/o")
    seen: list[str] = []
    s3dlio.mp_get("s3://bucket/dir", procs=1, uris=["o0001", "s3://bucket/dir/o0002"], sink=lambda uri, view: seen.append(uri))
    assert sorted(seen) == ["s3://bucket/dir/o0001", "s3://bucket/dir/o0002"]


def test_progress_grows_and_ends_at_the_total(bucket: Bucket) -> None:
    uris = bucket.fill(300, KIB)
    told = []
    s3dlio.mp_get(procs=1, jobs=8, uris=uris, progress=told.append)
    assert told
    assert [p.attempted for p in told] == sorted(p.attempted for p in told)
    assert (told[-1].attempted, told[-1].succeeded, told[-1].total_objects, told[-1].total_bytes) == (300, 300, 300, 300 * KIB)


def test_second_call_uses_the_same_workers_until_shutdown(bucket: Bucket) -> None:
    uris = bucket.fill(20, KIB)
    s3dlio.mp_get(procs=2, jobs=4, uris=uris, memory_bytes="8MiB")
    first = worker_processes()
    assert len(first) == 2
    warm = s3dlio.mp_get(procs=2, jobs=4, uris=uris, memory_bytes="8MiB")
    assert worker_processes() == first
    assert warm["startup_seconds"] == 0
    s3dlio.shutdown()
    assert worker_processes() == []
    assert s3dlio.mp_get(procs=2, jobs=4, uris=uris, memory_bytes="8MiB")["succeeded"] == 20


def test_sink_that_raises_ends_the_call_and_leaks_no_memory(bucket: Bucket) -> None:
    uris = bucket.fill(60, 100 * KIB)

    def refuse(uri: str, view: object) -> None:
        raise ArithmeticError(uri)

    def refuse_progress(progress: object) -> None:
        raise LookupError("no more")

    for _ in range(60):
        with pytest.raises(ArithmeticError):
            s3dlio.mp_get(procs=1, jobs=4, uris=uris, sink=refuse, memory_bytes="4MiB")
    for _ in range(60):
        with pytest.raises(LookupError):
            s3dlio.mp_get(procs=1, jobs=4, uris=uris, progress=refuse_progress, memory_bytes="4MiB")
    assert s3dlio.mp_get(procs=1, jobs=4, uris=uris, memory_bytes="4MiB")["succeeded"] == 60


def test_sink_may_keep_views_within_the_memory(bucket: Bucket) -> None:
    uris = bucket.fill(30, 100 * KIB)
    kept = []
    s3dlio.mp_get(procs=1, jobs=4, uris=uris, sink=lambda uri, view: kept.append((uri, view)), memory_bytes="16MiB")
    assert sorted(bucket.check(kept)) == uris
    s3dlio.shutdown()
    assert sorted(bucket.check(kept)) == uris


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"uri": "s3://bucket/", "procs": 0},
        {"uri": "s3://bucket/", "jobs": 0},
        {"uri": "s3://bucket/", "num": -1},
        {"uri": "s3://bucket/", "template": "a_{}"},
        {"uri": "s3://bucket/", "template": "a", "num": 3},
        {"uri": "s3://bucket/", "template": "{0.__class__}", "num": 3},
        {"uri": "s3://bucket/", "template": "{name}", "num": 3},
        {"uri": "s3://bucket/", "template": "{:xyz}", "num": 3},
        {"uri": "s3://bucket/", "template": "a_{}", "num": 3, "uris": ["x"]},
        {"uris": "s3://bucket/key"},
        {"uris": ["no-scheme"]},
    ],
    ids=str,
)
def test_arguments_that_say_nothing_are_errors(bucket: Bucket, arguments: dict[str, object]) -> None:
    with pytest.raises(s3dlio.ConfigurationError):
        s3dlio.mp_get(**{"procs": 1, **arguments})  # type: ignore[arg-type]


def test_entries_of_a_listing_are_read_as_they_were_listed(rclone_s3: RcloneServer, s3_env: object) -> None:
    s3_env(rclone_s3.endpoint)  # type: ignore[operator]
    name = rclone_s3.endpoint.new_bucket()
    for index in range(5):
        rclone_s3.endpoint.client().put_object(Bucket=name, Key=f"set/{index}", Body=content(str(index), 500))
    found = s3dlio.mp_get(f"s3://{name}/set", procs=1, jobs=4, uris=s3dlio.list_iter(f"s3://{name}/set/", recursive=True))
    assert (found["succeeded"], found["total_bytes"]) == (5, 2500)


def test_what_has_no_store_is_counted_and_belongs_to_no_worker(bucket: Bucket) -> None:
    found = s3dlio.mp_get(procs=1, jobs=4, uris=[*bucket.fill(3, KIB), "nonsense://x/y"])
    assert (found["attempted"], found["failed"]) == (4, 1)
    assert [row["worker_id"] for row in found["workers"]] == [0]


def test_pools_of_many_shapes_are_not_kept_for_ever(bucket: Bucket) -> None:
    uris = bucket.fill(4, KIB)
    for jobs in (2, 4, 8, 16):
        assert s3dlio.mp_get(procs=1, jobs=jobs, uris=uris, memory_bytes="8MiB")["succeeded"] == 4
    assert len(worker_processes()) == 2
    # The last ones are warm still.
    before = {process.pid for process in worker_processes()}
    for jobs in (8, 16, 8):
        s3dlio.mp_get(procs=1, jobs=jobs, uris=uris, memory_bytes="8MiB")
    assert {process.pid for process in worker_processes()} == before
