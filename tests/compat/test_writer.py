"""`S3Writer`: an object is there when `close` has returned, and otherwise never."""

from __future__ import annotations

import array
import gc
import io
import logging
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import s3dlio
from s3dlio.compat.s3torchconnector import S3Client, S3ClientConfig, S3Exception, S3Writer
from s3dlio.compat.s3torchconnector._s3client import MockS3Client
from tests.support.answers import Respond, s3_error
from tests.support.moto_server import MotoServer
from tests.support.scripted_server import ScriptedServer

LONG = bytes(range(256)) * (44 << 10)
"""11 MiB: more than one request takes here."""


@pytest.fixture(autouse=True)
def short_requests(clean_aws_env: None) -> None:
    """Has objects written in parts from 6 MiB on."""
    s3dlio.configure(multipart_above_bytes="6MiB")


class Place:
    """One key of a bucket of moto, and what is there."""

    def __init__(self, server: MotoServer) -> None:
        self.bucket = server.endpoint.new_bucket()
        self._moto = server.endpoint.client()

    def writer(self) -> S3Writer:
        client = S3Client("us-east-1", s3client_config=S3ClientConfig(part_size=5 << 20))
        return client.put_object(self.bucket, "key")

    def content(self) -> bytes | None:
        listed = self._moto.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return self._moto.get_object(Bucket=self.bucket, Key="key")["Body"].read() if listed else None

    def num_uploads(self) -> int:
        return len(self._moto.list_multipart_uploads(Bucket=self.bucket).get("Uploads", []))


@pytest.fixture
def place(moto_s3: MotoServer, s3_env: Callable[..., None]) -> Place:
    s3_env(moto_s3.endpoint)
    return Place(moto_s3)


@pytest.fixture
def writer() -> Iterator[S3Writer]:
    with MockS3Client("us-east-1", "bucket").put_object("bucket", "key") as made:
        yield made


@pytest.mark.parametrize("data", [b"", b"short", LONG], ids=["empty", "short", "long"])
def test_what_was_written_is_there_after_close_and_not_before(place: Place, data: bytes) -> None:
    with place.writer() as writer:
        for start in range(0, len(data), 3 << 20):
            assert writer.write(data[start : start + (3 << 20)]) == min(3 << 20, len(data) - start)
        assert place.content() is None
        assert writer.tell() == len(data)
    assert place.content() == data
    assert place.num_uploads() == 0


def test_one_large_write_is_sent_in_parts(place: Place) -> None:
    with place.writer() as writer:
        assert writer.write(memoryview(LONG)) == len(LONG)
        assert place.num_uploads() == 1
    assert place.content() == LONG


class OopsError(Exception):
    pass


@pytest.mark.parametrize("data", [b"short", LONG], ids=["short", "long"])
def test_u1_an_exception_inside_commits_nothing_not_even_at_collection(
    place: Place, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with suppress(OopsError), place.writer() as writer:
        writer.write(data)
        raise OopsError("no more")
    assert "Exception occurred before closing stream: OopsError: no more" in caplog.messages
    assert writer.closed
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"more")
    writer.close()
    del writer
    gc.collect()
    assert place.content() is None
    assert place.num_uploads() == 0


@pytest.mark.parametrize("is_in_a_cycle", [False, True])
def test_u1_a_writer_that_is_forgotten_commits_nothing(place: Place, is_in_a_cycle: bool) -> None:
    writer = place.writer()
    writer.write(LONG)
    assert place.num_uploads() == 1
    if is_in_a_cycle:
        writer.cycle = writer  # type: ignore[attr-defined]
    del writer
    gc.collect()
    # What the collector finds is thrown away by whoever writes next.
    with place.writer() as other:
        other.write(b"another")
    assert place.num_uploads() == 0
    assert place.content() == b"another"


def test_u1_a_forked_child_leaves_the_parents_upload_alone(place: Place) -> None:
    writer = place.writer()
    writer.write(LONG)
    pid = os.fork()
    if pid == 0:
        del writer
        gc.collect()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert place.num_uploads() == 1
    writer.close()
    assert place.content() == LONG


def test_close_is_done_once_whoever_calls_it(place: Place) -> None:
    writer = place.writer()
    writer.write(b"data")
    threads = [threading.Thread(target=writer.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert writer.closed
    assert place.content() == b"data"


def test_a_refusal_is_an_s3_exception_and_nothing_is_there(
    scripted_server: ScriptedServer, s3_env: Callable[[str], None]
) -> None:
    s3_env(scripted_server.url)
    client = S3Client("us-east-1")
    scripted_server.then(s3_error(404, "NoSuchBucket"), s3_error(403, "AccessDenied"))
    writer = client.put_object("bucket", "key")
    assert not scripted_server.requests
    with pytest.raises(S3Exception, match=r"^Service error: The bucket does not exist$") as found:
        writer.close()
    assert (found.value.code, found.value.status) == ("NoSuchBucket", 404)
    assert writer.closed
    with pytest.raises(S3Exception, match="Forbidden"), client.put_object("bucket", "key") as writer:
        writer.write(b"data")
    assert [request.method for request in scripted_server.requests] == ["PUT", "PUT"]


def test_after_a_part_that_failed_nothing_can_be_written_or_closed(
    scripted_server: ScriptedServer, s3_env: Callable[[str], None]
) -> None:
    s3_env(scripted_server.url)
    scripted_server.then(s3_error(403, "AccessDenied"))
    writer = S3Client("us-east-1", s3client_config=S3ClientConfig(max_attempts=1)).put_object("bucket", "key")
    with pytest.raises(S3Exception, match="Forbidden"):
        writer.write(LONG)
    with pytest.raises(S3Exception, match="Cannot write to closed object"):
        writer.write(b"more")
    with pytest.raises(S3Exception, match="Forbidden"):
        writer.close()
    writer.close()


def test_a_small_object_is_one_request(scripted_server: ScriptedServer, s3_env: Callable[[str], None]) -> None:
    s3_env(scripted_server.url)
    scripted_server.then(Respond(200, {"ETag": '"e"'}))
    with S3Client("us-east-1").put_object("bucket", "key") as writer:
        writer.write(b"da")
        writer.write(b"ta")
    (request,) = scripted_server.requests
    assert (request.method, request.body) == ("PUT", b"data")


@pytest.mark.parametrize(
    "data",
    [b"1234", bytearray(b"1234"), memoryview(b"1234"), memoryview(b"12345678")[::2], np.arange(3.0), array.array("i", [1])],
)
def test_any_buffer_is_counted_in_bytes_and_may_be_changed_afterwards(writer: S3Writer, data: Any) -> None:
    num = memoryview(data).nbytes
    assert writer.write(data) == num
    assert writer.tell() == num


def test_what_is_no_buffer_is_a_type_error(writer: S3Writer) -> None:
    for nonsense in ("text", [1, 2], None, 5):
        with pytest.raises(TypeError):
            writer.write(nonsense)
    assert writer.tell() == 0


def test_a_writer_is_a_file_that_is_only_written(writer: S3Writer) -> None:
    assert isinstance(writer, io.BufferedIOBase)
    writer.write(b"1234")
    writer.flush()
    assert (writer.readable(), writer.writable(), writer.seekable(), writer.closed) == (False, True, False, False)
    with writer as same:
        assert (same is writer, writer.tell()) == (True, 0)
    assert (writer.writable(), writer.closed) == (False, True)
    with pytest.raises(io.UnsupportedOperation):
        writer.read()
    with pytest.raises(TypeError):
        pickle.dumps(writer)


class Foreign:
    """A stream as users' tests have it: nothing but write and close."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def write(self, data: Any) -> None:
        self.seen.append(data)

    def close(self) -> None:
        self.seen.append("closed")


def test_a_foreign_stream_gets_what_upstream_gives_it() -> None:
    stream = Foreign()
    with S3Writer(stream) as writer:  # type: ignore[arg-type]
        assert [writer.write(b"ab"), writer.write(memoryview(b"cd")), writer.write([1, 2, 3])] == [2, 2, 3]
        assert writer.stream is stream
    assert stream.seen == [b"ab", b"cd", [1, 2, 3], "closed"]


def test_u1_a_foreign_stream_is_not_closed_after_an_exception_nor_when_forgotten() -> None:
    stream, other = Foreign(), Foreign()
    with pytest.raises(OopsError), S3Writer(stream) as writer:  # type: ignore[arg-type]
        raise OopsError
    del writer
    writer = S3Writer(other)  # type: ignore[arg-type]
    del writer
    gc.collect()
    assert (stream.seen, other.seen) == ([], [])
