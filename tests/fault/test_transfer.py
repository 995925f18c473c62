"""Uploads and downloads against real S3, and against servers that break."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import s3dlio
from tests.support.answers import Respond, reset_before_headers, s3_error, stall_after, stall_before_headers
from tests.support.moto_server import MotoServer
from tests.support.object_server import ObjectServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Connection, Request, ScriptedServer

PointAt = Callable[[S3Endpoint | str], None]
MIB = 1 << 20
PART_BYTES = 5 * MIB
"""The least that S3 takes."""


@pytest.fixture
def bucket(moto_s3: MotoServer, s3_env: PointAt) -> Iterator[str]:
    """The URI of an empty bucket on moto; objects above 5 MiB go in parts."""
    s3_env(moto_s3.endpoint)
    s3dlio.configure(part_bytes=PART_BYTES, split_above_bytes=PART_BYTES, put_part_bytes=PART_BYTES, multipart_above_bytes=PART_BYTES)
    s3dlio.configure(max_attempts=3, backoff_initial_s=0.01)
    yield f"s3://{moto_s3.endpoint.new_bucket()}/"
    s3dlio.shutdown()


@pytest.fixture(params=[True, False], ids=["fast", "sdk"])
def both_lanes(request: pytest.FixtureRequest, bucket: str) -> None:
    s3dlio.configure(fast_lane=request.param)


def name_of(bucket: str) -> str:
    return bucket.removeprefix("s3://").rstrip("/")


def objects(moto_s3: MotoServer, bucket: str) -> dict[str, bytes]:
    """Returns what is in the bucket, by boto3."""
    client, name = moto_s3.endpoint.client(), name_of(bucket)
    found = client.list_objects_v2(Bucket=name).get("Contents", [])
    return {one["Key"]: client.get_object(Bucket=name, Key=one["Key"])["Body"].read() for one in found}


def uploads(moto_s3: MotoServer, bucket: str) -> list[object]:
    """Returns the multipart uploads that are neither complete nor aborted, by boto3."""
    return list(moto_s3.endpoint.client().list_multipart_uploads(Bucket=name_of(bucket)).get("Uploads", []))


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def fill(root: Path, sizes: dict[str, int]) -> dict[str, bytes]:
    contents = {name: random.Random(name).randbytes(size) for name, size in sizes.items()}
    for name, data in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        os.utime(root / name, (1_600_000_000, 1_600_000_000))
    return contents


def test_a_tree_with_large_files_goes_up_and_comes_down(
    moto_s3: MotoServer, bucket: str, both_lanes: None, tmp_path: Path
) -> None:
    contents = fill(tmp_path / "in", {"a": 10, "b/empty": 0, "b/large": 12 * MIB + 1, "ü/ +%2F": 7, "exact": 2 * PART_BYTES})
    assert s3dlio.upload(tmp_path / "in", f"{bucket}p").bytes == sum(map(len, contents.values()))
    assert objects(moto_s3, bucket) == {f"p/{name}": data for name, data in contents.items()}
    assert uploads(moto_s3, bucket) == []
    assert s3dlio.download(f"{bucket}p/", tmp_path / "out").files == 5
    assert files(tmp_path / "out") == contents
    assert s3dlio.upload(tmp_path / "in", f"{bucket}p", skip_existing=True).skipped == 5
    assert s3dlio.download(f"{bucket}p/", tmp_path / "out", skip_existing=True).skipped == 5


def test_l4_k3_hostile_keys_of_a_real_store_are_refused_one_by_one(
    moto_s3: MotoServer, bucket: str, tmp_path: Path
) -> None:
    good = {"p/good": b"1", "p/deep/good": b"2", "p/a/b": b"3"}
    bad = ["../x", "a/../../x", "/etc/x", "..\\x", "C:/x", "a"]
    client = moto_s3.endpoint.client()
    for key, data in (good | {f"p/{key}": b"evil" for key in bad}).items():
        client.put_object(Bucket=name_of(bucket), Key=key, Body=data)
    summary = s3dlio.download(f"{bucket}p/", tmp_path / "deep" / "out", errors="return")
    assert files(tmp_path) == {f"deep/out/{key[2:]}": data for key, data in good.items()}
    assert sorted(uri.removeprefix(f"{bucket}p/") for uri, _ in summary.failed) == sorted(bad)


def test_u1_an_upload_whose_source_fails_is_not_visible_and_leaves_no_parts(
    moto_s3: MotoServer, bucket: str, both_lanes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3dlio.engine.ops import transfer_run

    fill(tmp_path, {"bad": 4 * PART_BYTES})
    honest = transfer_run.read_item

    def read_after_change(item, start=0, end=None):  # type: ignore[no-untyped-def]
        if start == 2 * PART_BYTES:
            (tmp_path / "bad").write_bytes(b"shorter")
        return honest(item, start, end)

    monkeypatch.setattr(transfer_run, "read_item", read_after_change)
    with pytest.raises(s3dlio.ObjectChangedError) as caught:
        s3dlio.upload(tmp_path, f"{bucket}p", 2)
    assert caught.value.uri == f"file://{tmp_path}/bad"
    assert objects(moto_s3, bucket) == {}
    assert uploads(moto_s3, bucket) == []


def test_a_bucket_that_is_missing_is_made_or_an_error(moto_s3: MotoServer, bucket: str, tmp_path: Path) -> None:
    contents = fill(tmp_path, {"a": 10})
    other = f"{bucket[:-1]}-new/"
    with pytest.raises(s3dlio.NotFoundError):
        s3dlio.upload(tmp_path, other)
    assert s3dlio.upload(tmp_path, other, create_bucket=True).files == 1
    assert s3dlio.upload(tmp_path, other, create_bucket=True).files == 1
    assert objects(moto_s3, other) == contents


def test_from_bucket_to_bucket_the_store_copies_and_from_store_to_store_the_bytes_come_by(
    moto_s3: MotoServer, bucket: str, tmp_path: Path
) -> None:
    contents = fill(tmp_path / "in", {"a": 10, "b/large": 12 * MIB})
    s3dlio.upload(tmp_path / "in", f"{bucket}p")
    s3dlio.upload(f"{bucket}p/", f"{bucket}q/")
    assert objects(moto_s3, bucket) == {f"{p}/{name}": data for p in "pq" for name, data in contents.items()}
    s3dlio.upload(f"{bucket}q/", "memory://transfer/r")
    s3dlio.upload("memory://transfer/r/", f"{bucket}s")
    assert {f"s/{name}": data for name, data in contents.items()}.items() <= objects(moto_s3, bucket).items()


def test_an_object_that_is_overwritten_after_the_listing_is_an_error_and_no_file(
    moto_s3: MotoServer, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3dlio.engine.ops import transfer_run

    client, name = moto_s3.endpoint.client(), name_of(bucket)
    for key, size in {"p/small": 10, "p/large": 2 * PART_BYTES, "p/z": 5}.items():
        client.put_object(Bucket=name, Key=key, Body=bytes(size))
    honest = transfer_run.read_item

    def read_after_change(item, start=0, end=None):  # type: ignore[no-untyped-def]
        if item.name != "z" and start in (0, PART_BYTES):
            client.put_object(Bucket=name, Key=item.key, Body=b"x" * item.size)
        return honest(item, start, end)

    monkeypatch.setattr(transfer_run, "read_item", read_after_change)
    summary = s3dlio.download(f"{bucket}p/", tmp_path, errors="return")
    assert files(tmp_path) == {"z": bytes(5)}
    assert {uri: type(error) for uri, error in summary.failed} == {
        f"{bucket}p/large": s3dlio.ObjectChangedError,
        f"{bucket}p/small": s3dlio.ObjectChangedError,
    }


def test_a_listing_that_fails_ends_the_transfer(scripted: ScriptedServer, tmp_path: Path) -> None:
    scripted.script = lambda request: s3_error(403, "AccessDenied")
    with pytest.raises(s3dlio.PermissionDeniedError):
        s3dlio.download("s3://bucket/p/", tmp_path, errors="return")
    with pytest.raises(s3dlio.PermissionDeniedError):
        s3dlio.upload(tmp_path, "s3://bucket/p/", errors="return", skip_existing=True)


def fail_one(served: ObjectServer, answer: Callable[[Request, Connection], None], number: int) -> None:
    """Has the GET of that number answered so, and all others honestly."""
    seen = 0
    honest = served.honest

    def step(request: Request) -> Callable[[Request, Connection], None]:
        nonlocal seen
        seen += request.method == "GET"
        return answer if seen == number and request.method == "GET" else honest(request)

    served.script = step


def test_a_part_that_is_refused_leaves_the_old_file_and_a_part_that_breaks_is_asked_for_again(
    served: ObjectServer, tmp_path: Path
) -> None:
    s3dlio.configure(part_bytes=65536, split_above_bytes=65536)
    served.objects["/bucket/k"] = random.Random(1).randbytes(500_000)
    (tmp_path / "k").write_bytes(b"old")
    fail_one(served, s3_error(403, "AccessDenied"), 3)
    with pytest.raises(s3dlio.PermissionDeniedError):
        s3dlio.download("s3://bucket/k", tmp_path, 2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"k": b"old"}
    fail_one(served, reset_before_headers(), 3)
    s3dlio.download("s3://bucket/k", tmp_path, 2)
    assert files(tmp_path) == {"k": served.objects["/bucket/k"]}


def test_a_cancelled_download_ends_at_once_and_leaves_the_old_file(served: ObjectServer, tmp_path: Path) -> None:
    s3dlio.configure(part_bytes=65536, split_above_bytes=65536, silence_timeout_s=30, first_byte_timeout_s=30, deadline_s=60)
    served.objects["/bucket/k"] = random.Random(1).randbytes(500_000)
    (tmp_path / "k").write_bytes(b"old")
    is_stalled, is_over = threading.Event(), threading.Event()
    stall = stall_after(0, is_over)

    def stalled(request: Request, connection: Connection) -> None:
        is_stalled.set()
        stall(request, connection)

    fail_one(served, stalled, 3)

    async def main() -> float:
        under_way = asyncio.ensure_future(s3dlio.download_async("s3://bucket/k", tmp_path, 4))
        await asyncio.to_thread(is_stalled.wait, 20)
        begun_s = time.monotonic()
        under_way.cancel()
        with pytest.raises(asyncio.CancelledError):
            await under_way
        is_over.set()
        return time.monotonic() - begun_s

    assert asyncio.run(main()) < 10
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"k": b"old"}


def test_u1_a_cancelled_upload_is_aborted(scripted: ScriptedServer, tmp_path: Path) -> None:
    """The server begins the upload, and is silent over its parts; the abort reaches it all the same."""
    s3dlio.configure(put_part_bytes=PART_BYTES, multipart_above_bytes=PART_BYTES)
    s3dlio.configure(silence_timeout_s=30, first_byte_timeout_s=30, deadline_s=60)
    fill(tmp_path, {"k": 3 * PART_BYTES})
    is_stalled, is_over = threading.Event(), threading.Event()
    begun = b"<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>k</Key><UploadId>ID</UploadId></InitiateMultipartUploadResult>"

    def step(request: Request) -> Callable[[Request, Connection], None]:
        if request.method == "POST":
            return Respond(200, {"Content-Type": "application/xml"}, begun)
        if request.method == "PUT":
            is_stalled.set()
            return stall_before_headers(is_over, Respond(200))
        if request.method == "GET":  # ListParts
            return Respond(404, {}, b"<Error><Code>NoSuchUpload</Code></Error>")
        return Respond(204)

    scripted.script = step

    async def main() -> None:
        under_way = asyncio.ensure_future(s3dlio.upload_async(tmp_path / "k", "s3://bucket/k"))
        await asyncio.to_thread(is_stalled.wait, 20)
        under_way.cancel()
        with pytest.raises(asyncio.CancelledError):
            await under_way
        is_over.set()

    asyncio.run(main())
    assert [request.query for request in scripted.requests if request.method == "DELETE"] == ["uploadId=ID"]
