"""I10: objects of more than 5 GiB, more than 10 000 parts, sizes that no part divides: 64-bit offsets all the way, and no byte stored.

Files are sparse, and the server makes up its bytes: 8 bytes at each multiple of 8 say where they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import s3dlio
from s3dlio.engine.config import settings
from s3dlio.engine.memory.segment import HEADER_BYTES, Segment
from s3dlio.engine.pool.crew import Crew, Reported
from s3dlio.engine.pool.messages import FetchPart, OpenStore, PartFetched, WorkerStarted
from s3dlio.engine.stores.file_wire import FileSpec
from tests.process.kit import Bucket, wait_until
from tests.support.answers import Respond
from tests.support.object_server import parse_range
from tests.support.scripted_server import Connection, Request

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZE = 6 * GIB + 12_345


def made_up(start: int, end: int) -> bytes:
    """Returns bytes [start, end) of an object of any size."""
    first = start // 8
    text = b"".join(struct.pack(">Q", 8 * number) for number in range(first, -(-end // 8)))
    return text[start - 8 * first :][: end - start]


def serve_made_up(bucket: Bucket, key: str, size: int) -> str:
    """Makes an object that is never whole in memory; without a range, its answer breaks off after a mebibyte."""

    def answer(request: Request, connection: Connection) -> None:
        asked = parse_range(request.headers.get("range"), size)
        start, end = asked or (0, size)
        headers = {"ETag": '"huge"', "Content-Length": str(end - start)}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        Respond(206 if asked else 200, headers, made_up(start, min(end, start + MIB)))(request, connection)
        if end - start > MIB:
            connection.finish()

    bucket.server.objects[bucket.path(key)] = b""
    bucket.server.faults[bucket.path(key)] = [answer] * 100
    return f"s3://{bucket.name}/{key}"


OFFSETS = [5 * GIB - 5, 4 * GIB - 1000, 6 * GIB, SIZE - 12_000]


@pytest.fixture
def sparse(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "huge"
    with open(path, "wb") as file:
        file.truncate(SIZE)
        for offset in [*OFFSETS, SIZE - 10_000]:
            file.seek(offset)
            file.write(made_up(offset, offset + 10_000))
    assert path.stat().st_blocks * 512 < MIB
    yield path
    path.unlink()


@pytest.mark.parametrize("offset", OFFSETS)
def test_i10_a_range_far_behind_in_a_file_is_read_at_its_place(sparse: Path, offset: int) -> None:
    assert bytes(s3dlio.get_range(sparse.as_uri(), offset, 10_000)) == made_up(offset, offset + 10_000)


@pytest.mark.parametrize("offset", OFFSETS)
def test_i10_a_range_far_behind_in_an_object_is_asked_for_and_placed(bucket: Bucket, offset: int) -> None:
    uri = serve_made_up(bucket, "huge", SIZE)
    assert bytes(s3dlio.get_range(uri, offset, 10_000)) == made_up(offset, offset + 10_000)
    assert bucket.server.requests[-1].headers["range"] == f"bytes={offset}-{offset + 9_999}"


def test_i10_the_end_of_a_huge_object_is_exact(bucket: Bucket, sparse: Path) -> None:
    tail = made_up(SIZE - 2_000, SIZE)
    assert bytes(s3dlio.get_range(serve_made_up(bucket, "huge", SIZE), SIZE - 2_000, 2_000)) == tail
    assert bytes(s3dlio.get_range(sparse.as_uri(), SIZE - 2_000, 2_000)) == tail


@pytest.mark.parametrize("is_size_known", [False, True], ids=["unknown", "known"])
@pytest.mark.parametrize("scheme", ["file", "s3"])
def test_i10_an_object_beyond_the_cap_is_refused_before_its_bytes_are_read(
    bucket: Bucket, procs: int, sparse: Path, scheme: str, is_size_known: bool
) -> None:
    uri = sparse.as_uri() if scheme == "file" else serve_made_up(bucket, "huge", SIZE)
    small = bucket.fill(4, KIB)
    wanted = [small[0], s3dlio.ObjectRef(uri, SIZE) if is_size_known else uri, *small[1:]]
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        found = list(pool.fetch(wanted, errors="return"))
        error = found.pop(1)[1]
        assert isinstance(error, s3dlio.ObjectTooLargeError)
        assert error.uri == uri
        assert str(SIZE + -SIZE % 4096) in str(error), "in whole pages"
        assert bucket.check(found) == small
        assert pool.stats()["memory_reserved_bytes"] <= 16 * MIB
    if is_size_known:
        assert bucket.server.requests_of(bucket.path("huge")) == []


def test_i10_a_worker_reads_parts_at_64_bit_offsets_into_a_segment_at_64_bit_offsets(sparse: Path) -> None:
    segment = Segment.create(16 * GIB)
    crew = Crew(settings(), 4, segment)
    events: list[object] = []

    def hear(num: int) -> bool:
        for happened in crew.poll():
            assert isinstance(happened, Reported)
            events.extend(happened.events)
        return len(events) >= num

    try:
        crew.start(1)
        wait_until(lambda: hear(1), "the worker reports")
        assert isinstance(events[0], WorkerStarted)
        places = [HEADER_BYTES, 5 * GIB, 9 * GIB + 4096, 12 * GIB]
        key = str(sparse)
        for place in places:
            segment.reserve(place, place + 16 * KIB)
        fetches = [
            FetchPart(number, 0, key, offset, offset + 10_000, SIZE, None, place, 10_000)
            for number, (offset, place) in enumerate(zip(OFFSETS, places, strict=True))
        ]
        crew.send(0, [OpenStore(0, FileSpec()), *fetches])
        wait_until(lambda: hear(1 + len(fetches)), "all parts are in")
        assert all(isinstance(event, PartFetched) and (event.received, event.size) == (10_000, SIZE) for event in events[1:])
        for offset, place in zip(OFFSETS, places, strict=True):
            assert bytes(segment.buffer[place : place + 10_000]) == made_up(offset, offset + 10_000)
    finally:
        crew.close()
        segment.close()
