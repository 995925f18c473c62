"""Objects that a pool reads in parts, held against the checksum that the store gives of the whole (I4, I5), in both pools."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from zlib import crc32

import pytest

import s3dlio
import s3dlio.engine.ops.lifecycle  # The kit ends the engine through it, as soon as it is loaded.
from tests.process.kit import content
from tests.support.answers import Respond, flipped, s3_error
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import Connection, Handler, Request

KIB = 1 << 10
SIZE = 600 * KIB
PATH, URI = "/bucket/key", "s3://bucket/key"
LISTED = s3dlio.ListEntry(URI, SIZE)


@pytest.fixture(params=[0, 2], ids=["inline", "workers"])
def pool(request: pytest.FixtureRequest, served: ObjectServer) -> Iterator[s3dlio.Pool]:
    served.objects[PATH] = data = content("key", SIZE)
    tell(served, data)
    s3dlio.configure(part_bytes=64 * KIB, split_above_bytes=128 * KIB)
    with s3dlio.Pool(procs=request.param, jobs=8, memory_bytes="64MiB") as pool:
        yield pool


def tell(served: ObjectServer, data: bytes) -> None:
    """Has the server name the checksum of `data`, with every answer that is not of a range."""
    honest = ObjectServer.honest

    def without_range(request: Request) -> Respond:
        answer = honest(served, request)
        if answer.status != 200:
            return answer
        return answer.with_headers(x_amz_checksum_crc32=b64encode(crc32(data).to_bytes(4, "big")).decode())

    served.honest = without_range  # type: ignore[method-assign]


@pytest.mark.parametrize("ref", [URI, LISTED], ids=["unknown", "listed"])
def test_i4_an_object_in_parts_is_verified(pool: s3dlio.Pool, served: ObjectServer, ref: object) -> None:
    [(_, view)] = pool.fetch([ref])
    assert bytes(view) == served.objects[PATH]
    assert (pool.stats()["verified"], pool.stats()["unverified"]) == (1, 0)
    ranges = [request for request in served.requests_of(PATH) if "range" in request.headers]
    assert len(ranges) >= 9
    assert [request.method for request in served.requests_of(PATH) if request not in ranges] == [
        "GET" if ref is URI else "HEAD"
    ]


@pytest.mark.parametrize("ref", [URI, LISTED], ids=["unknown", "listed"])
def test_i4_a_part_with_a_wrong_bit_is_read_anew(pool: s3dlio.Pool, served: ObjectServer, ref: object) -> None:
    spoil(served, 1)
    [(_, view)] = pool.fetch([ref])
    assert bytes(view) == served.objects[PATH]
    assert pool.stats()["verified"] == 1


def test_i4_a_part_that_is_wrong_every_time_is_an_error_that_names_the_object(
    pool: s3dlio.Pool, served: ObjectServer
) -> None:
    spoil(served, 100)
    [(_, error)] = pool.fetch([LISTED], errors="return")
    assert isinstance(error, s3dlio.ChecksumMismatchError)
    assert error.uri == URI
    assert len(served.requests_of(PATH)) == 3 * 11


def test_i5_a_server_that_does_not_know_the_question_gives_bytes_that_are_unverified(
    pool: s3dlio.Pool, served: ObjectServer
) -> None:
    served.faults[PATH] = [s3_error(501, "NotImplemented")] * 3
    s3dlio.configure(max_attempts=3, backoff_initial_s=0.001)
    [(_, view)] = pool.fetch([LISTED])
    assert bytes(view) == served.objects[PATH]
    assert (pool.stats()["verified"], pool.stats()["unverified"]) == (0, 1)


def test_i3_an_object_that_changes_after_the_question_is_read_of_one_version(
    pool: s3dlio.Pool, served: ObjectServer
) -> None:
    other = content("other", SIZE)

    def change(request: Request, connection: Connection) -> None:
        served.honest(request)(request, connection)
        served.objects[PATH] = other
        tell(served, other)

    served.faults[PATH] = [change]
    [(_, view)] = pool.fetch([LISTED])
    assert bytes(view) == other
    assert pool.stats()["verified"] == 1


def test_a_missing_object_is_not_found_by_the_question(pool: s3dlio.Pool, served: ObjectServer) -> None:
    del served.objects[PATH]
    [(_, error)] = pool.fetch([LISTED], errors="return")
    assert isinstance(error, s3dlio.NotFoundError)
    assert len(served.requests_of(PATH)) == 1


def test_who_wants_no_checksums_asks_no_question(served: ObjectServer) -> None:
    served.objects[PATH] = content("key", SIZE)
    s3dlio.configure(part_bytes=64 * KIB, split_above_bytes=128 * KIB, verify_checksums=False)
    with s3dlio.Pool(procs=0, jobs=8, memory_bytes="64MiB") as pool:
        [(_, view)] = pool.fetch([LISTED])
        assert bytes(view) == served.objects[PATH]
        assert pool.stats()["unverified"] == 1
    assert {request.method for request in served.requests_of(PATH)} == {"GET"}


def spoil(served: ObjectServer, num: int) -> None:
    """Turns a bit over in so many answers of the part that begins at 128 KiB."""
    step, left = served.script, [num]

    def spoiling(request: Request) -> Handler:
        if request.headers.get("range", "").startswith(f"bytes={128 * KIB}-") and left[0]:
            left[0] -= 1
            return flipped(5, served.honest(request))
        return step(request)

    served.script = spoiling
