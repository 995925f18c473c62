"""Objects that are stored compressed come as they are stored, by both lanes and by workers; nothing is decoded on the way (N8)."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator

import pytest

import s3dlio
from tests.support.moto_server import MotoServer
from tests.support.object_server import ObjectServer
from tests.support.s3_endpoint import S3Endpoint

PointAt = Callable[[S3Endpoint | str], None]
TEXT = bytes(range(256)) * 400
STORED = {
    "gzip": gzip.compress(TEXT),
    "deflate": zlib.compress(TEXT),
    "br": b"no brotli at all",
    "aws-chunked": TEXT[:1000],
    "gzip, gzip": gzip.compress(gzip.compress(TEXT)),
}
"""By Content-Encoding; what is no such thing is stored all the same."""


@pytest.fixture(params=["fast", "sdk"])
def encoded(request: pytest.FixtureRequest, served: ObjectServer) -> ObjectServer:
    """An object for each encoding, and a lane."""
    s3dlio.configure(fast_lane=request.param == "fast")
    for name, data in STORED.items():
        served.objects["/bucket/" + name] = data
        served.headers["/bucket/" + name] = {"Content-Encoding": name, "Content-Type": "text/plain"}
    return served


@pytest.mark.parametrize("name", STORED)
def test_n8_a_compressed_object_comes_as_it_is_stored(encoded: ObjectServer, name: str) -> None:
    data, uri = STORED[name], "s3://bucket/" + name
    assert bytes(s3dlio.get(uri)) == data
    assert bytes(s3dlio.get_range(uri, 3, 20)) == data[3:23]
    assert [bytes(view) for view in s3dlio.get_many([uri] * 3)] == [data] * 3
    assert s3dlio.stat(uri)["content_encoding"] == name
    assert s3dlio.stat(uri)["size"] == len(data)
    # Whoever asks for an encoding gets one that nobody stored.
    asked = {request.headers.get("accept-encoding", "identity") for request in encoded.requests}
    assert asked == {"identity"}


def test_n8_workers_deliver_what_is_stored(encoded: ObjectServer) -> None:
    wanted = [f"s3://bucket/{name}" for name in STORED]
    with s3dlio.Pool(procs=1, jobs=4, memory_bytes="16MiB") as pool:
        found = {uri: bytes(view) for uri, view in pool.fetch(wanted)}
    assert found == dict(zip(wanted, STORED.values(), strict=True))


@pytest.fixture(params=["fast", "sdk"])
def moto(request: pytest.FixtureRequest, moto_s3: MotoServer, s3_env: PointAt) -> Iterator[S3Endpoint]:
    """A real server, and a lane."""
    s3dlio.configure(fast_lane=request.param == "fast")
    s3_env(moto_s3.endpoint)
    yield moto_s3.endpoint
    s3dlio.shutdown()


def test_n8_what_boto3_stores_compressed_is_read_byte_by_byte(moto: S3Endpoint) -> None:
    bucket = moto.new_bucket()
    moto.client().put_object(Bucket=bucket, Key="k", Body=STORED["gzip"], ContentEncoding="gzip")
    uri = f"s3://{bucket}/k"
    assert bytes(s3dlio.get(uri)) == STORED["gzip"]
    assert bytes(s3dlio.get_range(uri, 1)) == STORED["gzip"][1:]
    assert s3dlio.stat(uri)["content_encoding"] == "gzip"
