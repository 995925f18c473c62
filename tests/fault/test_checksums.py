"""Whole objects are held against the store's own checksum: a flipped bit is never delivered (I4, I5, I6)."""

from __future__ import annotations

import base64
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from awscrt import checksums

import s3dlio
import s3dlio.engine.ops.lifecycle  # The kit ends the engine through it, as soon as it is loaded.
from tests.support.answers import Respond, chunked, cut_after, flip, flipped, reset_after, without_header
from tests.support.moto_server import MotoServer
from tests.support.object_server import ObjectServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Connection, Request

PATH, URI = "/bucket/key", "s3://bucket/key"
SMALL = random.Random(1).randbytes(30_000)
LARGE = random.Random(2).randbytes(3_000_001)
ALGORITHMS: dict[str, tuple[Callable[[bytes], int], int]] = {
    "crc32": (zlib.crc32, 4),
    "crc32c": (checksums.crc32c, 4),
    "crc64nvme": (checksums.crc64nvme, 8),
}


def checksum_headers(data: bytes, algorithm: str) -> dict[str, str]:
    function, num_bytes = ALGORITHMS[algorithm]
    value = base64.b64encode(function(data).to_bytes(num_bytes, "big")).decode()
    return {f"x-amz-checksum-{algorithm}": value, "x-amz-checksum-type": "FULL_OBJECT"}


def serve(server: ObjectServer, data: bytes, algorithm: str = "crc32c", path: str = PATH) -> None:
    server.objects[path] = data
    server.headers[path] = checksum_headers(data, algorithm)


def _get() -> Request:
    return Request("", "GET", PATH, {}, b"", 1, 0.0)


Read = Callable[[str], Any]


@pytest.fixture(params=["get", "inline", "workers"])
def read(request: pytest.FixtureRequest, served: ObjectServer) -> Iterator[Read]:
    """Reads one object: by `get`, by the inline pool, or by worker processes."""
    if request.param == "get":
        yield s3dlio.get
        return
    with s3dlio.Pool(procs=2 * (request.param == "workers"), jobs=4, memory_bytes="64MiB") as pool:
        yield lambda uri: next(iter(pool.fetch([uri])))[1]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("where", [0, -1])
def test_i4_a_flipped_bit_is_noticed_and_the_object_read_again(
    served: ObjectServer, read: Read, algorithm: str, data: bytes, where: int
) -> None:
    serve(served, data, algorithm)
    assert bytes(read(URI)) == data
    served.faults[PATH] = [flipped(where), flipped(where)]
    # Read twice, so that the flipped answer comes on a connection that expects its head, and once again after that.
    for _ in range(2):
        assert bytes(read(URI)) == data
    assert len(served.requests_of(PATH)) == 5
    assert all(request.headers["x-amz-checksum-mode"] == "ENABLED" for request in served.requests)


def test_i4_bytes_that_stay_wrong_are_a_checksum_mismatch(served: ObjectServer, read: Read) -> None:
    serve(served, SMALL)
    served.faults[PATH] = [flipped(7)] * 20
    with pytest.raises(s3dlio.ChecksumMismatchError) as caught:
        read(URI)
    assert caught.value.uri == URI
    assert caught.value.attempts == 3
    assert f"{checksums.crc32c(SMALL):08x}" in str(caught.value)
    assert len(served.requests_of(PATH)) == 3


def test_i4_the_rest_of_a_broken_body_is_summed_with_what_came_before(served: ObjectServer, read: Read) -> None:
    serve(served, LARGE)
    # The first answer breaks off with a bit turned over: its rest is fetched, and only then is it all wrong.
    served.faults[PATH] = [cut_after(700_000, flip(served.honest(_get()), 1000)), cut_after(300_000)]
    assert bytes(read(URI)) == LARGE
    assert [request.headers.get("range") for request in served.requests_of(PATH)][-1] is None


@pytest.mark.parametrize("etag", [None, 'W/"1"'], ids=["no ETag", "a weak one"])
def test_i4_what_must_begin_anew_is_asked_for_whole_and_verified(served: ObjectServer, read: Read, etag: str | None) -> None:
    serve(served, LARGE)
    if etag is not None:
        served.headers[PATH]["ETag"] = etag
    answer = served.honest(_get()).with_headers(etag=etag)
    served.faults[PATH] = [cut_after(700_000, answer), flip(answer, 1000), answer]
    assert bytes(read(URI)) == LARGE
    assert ["range" in request.headers for request in served.requests_of(PATH)] == [False] * 3


def test_i4_another_success_than_200_is_not_the_object(served: ObjectServer, read: Read) -> None:
    served.objects[PATH] = SMALL
    served.faults[PATH] = [Respond(202, {"ETag": '"1"'}, b"not yet")]
    assert bytes(read(URI)) == SMALL


@pytest.mark.parametrize("at", [1, 1_000_000, 3_000_000])
def test_i4_a_resumed_body_is_verified_once_and_whole(served: ObjectServer, at: int) -> None:
    serve(served, LARGE)
    served.faults[PATH] = [reset_after(at)]
    with s3dlio.Pool(procs=0, memory_bytes="64MiB") as pool:
        [(_, view)] = pool.fetch([URI])
        assert bytes(view) == LARGE
        assert (pool.stats()["verified"], pool.stats()["unverified"]) == (1, 0)


def test_i4_a_chunked_object_is_verified_too(served: ObjectServer, read: Read) -> None:
    serve(served, SMALL)
    served.faults[PATH] = [chunked(1000, flip(served.honest(_get()), 1000)), chunked(1000)]
    assert bytes(read(URI)) == SMALL
    served.objects[PATH] = SMALL[:-1] + bytes([SMALL[-1] ^ 1])
    served.faults[PATH] = [chunked(1000)] * 20
    with pytest.raises(s3dlio.ChecksumMismatchError):
        read(URI)


def test_i4_an_object_replaced_while_it_is_read_is_held_against_its_own_checksum(served: ObjectServer) -> None:
    serve(served, LARGE)
    new = random.Random(5).randbytes(len(LARGE) - 17)

    def replace_midway(request: Request, connection: Connection) -> None:
        answer = served.honest(request)
        serve(served, new)
        reset_after(1_000_000, answer)(request, connection)

    served.faults[PATH] = [replace_midway]
    assert bytes(s3dlio.get(URI)) == new


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-amz-checksum-crc32c": "AAAAAA==-3"},
        {"x-amz-checksum-crc32c": "AAAAAA==", "x-amz-checksum-type": "COMPOSITE"},
        {"x-amz-checksum-crc32c": "AAAAAA==", "x-amz-checksum-type": "  composite"},
        {"x-amz-checksum-crc32c": "AAAAAAAAAAA="},
        {"x-amz-checksum-crc32c": "not base64"},
        {"x-amz-checksum-sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},
    ],
    ids=["none", "composite", "composite-type", "composite-type-spaced", "of-another-length", "nonsense", "another-kind"],
)
def test_i5_without_a_checksum_of_the_whole_object_it_is_unverified_and_no_alarm(
    served: ObjectServer, headers: dict[str, str]
) -> None:
    served.objects[PATH], served.headers[PATH] = SMALL, headers
    serve(served, SMALL, path="/bucket/other")
    for procs in (0, 1):
        with s3dlio.Pool(procs=procs, memory_bytes="64MiB") as pool:
            assert [bytes(view) for _, view in pool.fetch([URI, "s3://bucket/other", URI])] == [SMALL] * 3
            assert (pool.stats()["verified"], pool.stats()["unverified"]) == (1, 2)


def test_i5_a_range_is_never_held_against_the_checksum_of_the_whole(served: ObjectServer) -> None:
    # As rclone does: the checksum of the whole object comes with every part of it.
    serve(served, SMALL)
    assert bytes(s3dlio.get_range(URI, 100, 1000)) == SMALL[100:1100]
    assert bytes(s3dlio.get_range(URI, 0, 1000)) == SMALL[:1000]
    assert not any("x-amz-checksum-mode" in request.headers for request in served.requests)


def test_i5_verification_can_be_switched_off(served: ObjectServer) -> None:
    s3dlio.configure(verify_checksums=False)
    serve(served, SMALL)
    served.headers[PATH]["x-amz-checksum-crc32c"] = "AAAAAA=="
    assert bytes(s3dlio.get(URI)) == SMALL
    assert not any("x-amz-checksum-mode" in request.headers for request in served.requests)


def test_i5_an_empty_object_has_a_checksum_like_any_other(served: ObjectServer) -> None:
    serve(served, b"")
    assert bytes(s3dlio.get(URI)) == b""
    served.headers[PATH] = checksum_headers(b"x", "crc32c")
    with pytest.raises(s3dlio.ChecksumMismatchError):
        s3dlio.get(URI)


def test_i6_an_etag_that_is_no_hash_of_the_bytes_is_only_a_version(served: ObjectServer, read: Read) -> None:
    served.objects[PATH] = SMALL
    served.headers[PATH] = {"ETag": '"d41d8cd98f00b204e9800998ecf8427e-3"'}
    assert bytes(read(URI)) == SMALL
    served.faults[PATH] = [without_header("etag")]
    assert bytes(read(URI)) == SMALL


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
def test_i4_what_a_real_client_uploads_with_a_checksum_is_verified(
    moto_s3: MotoServer, s3_env: Callable[[S3Endpoint | str], None], algorithm: Literal["CRC32", "CRC32C", "CRC64NVME"]
) -> None:
    bucket = moto_s3.endpoint.new_bucket()
    moto_s3.endpoint.client().put_object(Bucket=bucket, Key="key", Body=SMALL, ChecksumAlgorithm=algorithm)
    s3_env(moto_s3.endpoint)
    with s3dlio.Pool(procs=0, memory_bytes="64MiB") as pool:
        [(_, view)] = pool.fetch([f"s3://{bucket}/key"])
        assert bytes(view) == SMALL
        assert pool.stats()["verified"] == 1
    s3dlio.shutdown()
