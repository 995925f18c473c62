"""`GetObjectStream`: chunks of one version, in order, from wherever it stands; and what is left, in place."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable

import pytest

from s3dlio.compat.s3torchconnectorclient import _get
from s3dlio.compat.s3torchconnectorclient._mountpoint_s3_client import GetObjectStream, MountpointS3Client, S3Exception
from s3dlio.engine.memory.view import BytesView
from tests.support.answers import cut_after, s3_error, without_header
from tests.support.moto_server import MotoServer
from tests.support.object_server import ObjectServer

PART_BYTES = 5 << 20
DATA = bytes(range(256)) * (50 << 10) + b"and a bit more"
"""12.5 MiB and a bit: three parts."""
PATH = "/bucket/key"


@pytest.fixture
def client(object_server: ObjectServer, s3_env: Callable[[str], None]) -> MountpointS3Client:
    """A client whose requests are one at a time, so that faults come where the test has put them."""
    s3_env(object_server.url)
    object_server.objects[PATH] = DATA
    return MountpointS3Client("us-east-1", part_size=PART_BYTES, throughput_target_gbps=0.1, max_attempts=2)


def rest_of(stream: GetObjectStream) -> bytes:
    return b"".join(stream)


def test_nothing_is_asked_before_the_first_chunk(client: MountpointS3Client, object_server: ObjectServer) -> None:
    stream = client.get_object("bucket", "key", 7)
    assert (stream.bucket, stream.key, stream.tell(), stream.version) == ("bucket", "key", 7, None)
    assert not object_server.requests


def test_chunks_are_parts_and_pinned_to_the_version_of_the_first(
    client: MountpointS3Client, object_server: ObjectServer
) -> None:
    stream = client.get_object("bucket", "key")
    chunks = list(stream)
    assert [type(chunk) for chunk in chunks] == [bytes] * 3
    assert [len(chunk) for chunk in chunks] == [PART_BYTES, PART_BYTES, len(DATA) - 2 * PART_BYTES]
    assert b"".join(chunks) == DATA
    assert stream.tell() == len(DATA)
    etag = object_server.etag(PATH)
    assert stream.version == etag.strip('"')
    assert [request.headers.get("if-match") for request in object_server.requests] == [None, etag, etag]


def test_a_short_object_is_one_request(client: MountpointS3Client, object_server: ObjectServer) -> None:
    object_server.objects[PATH] = b"short"
    stream = client.get_object("bucket", "key")
    assert next(stream) == b"short"
    assert next(stream, None) is None
    assert len(object_server.requests) == 1


@pytest.mark.parametrize(("start", "end"), [(None, 4), (3, None), (3, 4), (PART_BYTES - 1, 2 * PART_BYTES + 1), (9, 1 << 40)])
def test_a_range_is_half_open_and_clipped(client: MountpointS3Client, start: int | None, end: int | None) -> None:
    stream = client.get_object("bucket", "key", start, end)
    assert stream.tell() == (start or 0)
    assert rest_of(stream) == DATA[start:end]
    assert client.get_object("bucket", "key", start, end).read_rest() == DATA[start:end]


def test_an_empty_range_asks_for_nothing(client: MountpointS3Client, object_server: ObjectServer) -> None:
    assert rest_of(client.get_object("bucket", "key", 5, 5)) == b""
    assert not object_server.requests


def test_an_empty_object_has_no_chunks_and_an_empty_rest(
    client: MountpointS3Client, object_server: ObjectServer
) -> None:
    object_server.objects[PATH] = b""
    assert list(client.get_object("bucket", "key")) == []
    assert len(client.get_object("bucket", "key").read_rest()) == 0
    stream = client.get_object("bucket", "key")
    stream.prefetch()
    assert list(stream) == []


def test_a_range_that_begins_behind_the_end_is_an_error(client: MountpointS3Client) -> None:
    for read in (next, GetObjectStream.read_rest):
        with pytest.raises(S3Exception) as found:
            read(client.get_object("bucket", "key", len(DATA) + 1, len(DATA) + 9))
        assert found.value.status == 416


def test_bounds_that_are_none_are_told_at_once(client: MountpointS3Client) -> None:
    with pytest.raises(OverflowError):
        client.get_object("bucket", "key", -1)
    with pytest.raises(TypeError):
        client.get_object("bucket", "key", 0, 2.5)  # type: ignore[arg-type]
    with pytest.raises(S3Exception, match="ends before it begins"):
        client.get_object("bucket", "key", 5, 3)


def test_the_rest_is_a_view_from_wherever_the_stream_stands(client: MountpointS3Client) -> None:
    for num_chunks in range(4):
        stream = client.get_object("bucket", "key")
        begin = b"".join(next(stream) for _ in range(num_chunks))
        rest = stream.read_rest()
        assert isinstance(rest, BytesView)
        assert begin + bytes(rest) == DATA
        assert stream.tell() == len(DATA)
        assert next(stream, None) is None
        assert len(stream.read_rest()) == 0


def test_the_rest_of_a_prefetched_short_object_costs_no_other_request(
    client: MountpointS3Client, object_server: ObjectServer
) -> None:
    object_server.objects[PATH] = b"short"
    stream = client.get_object("bucket", "key")
    stream.prefetch()
    assert (stream.tell(), len(object_server.requests)) == (0, 1)
    assert stream.read_rest() == b"short"
    assert (stream.tell(), len(object_server.requests)) == (5, 1)


def test_what_was_prefetched_comes_first(client: MountpointS3Client) -> None:
    stream = client.get_object("bucket", "key")
    stream.prefetch()
    assert next(stream) == DATA[:PART_BYTES]
    stream.prefetch()
    assert stream.read_rest() == DATA[PART_BYTES:]


@pytest.mark.parametrize("kind", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_p7_a_chunk_that_was_lost_on_its_way_to_the_caller_comes_again(
    client: MountpointS3Client, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[BaseException]
) -> None:
    num_copies = 0

    def copy(view: BytesView) -> bytes:
        nonlocal num_copies
        num_copies += 1
        if num_copies == number:
            raise kind
        return bytes(view)

    monkeypatch.setattr(_get, "bytes", copy, raising=False)
    stream = client.get_object("bucket", "key")
    before = [next(stream) for _ in range(number - 1)]
    with pytest.raises(kind):
        next(stream)
    assert stream.tell() == PART_BYTES * (number - 1)
    assert b"".join(before) + rest_of(stream) == DATA


def test_nothing_is_left_behind_the_last_chunk_and_nobody_is_asked(
    client: MountpointS3Client, object_server: ObjectServer
) -> None:
    stream = client.get_object("bucket", "key")
    assert rest_of(stream) == DATA
    version, num_requests = stream.version, len(object_server.requests)
    assert version is not None
    assert stream.read_rest() == b""
    assert (stream.version, stream.tell(), len(object_server.requests)) == (version, len(DATA), num_requests)


def test_i1_an_object_that_changes_under_way_is_an_error_and_no_mixture(
    client: MountpointS3Client, object_server: ObjectServer
) -> None:
    stream = client.get_object("bucket", "key")
    next(stream)
    object_server.objects[PATH] = DATA[::-1]
    for _ in range(2):
        # An error is not the end: whoever asks again does not take what is missing for the end of the object.
        with pytest.raises(S3Exception) as found:
            rest_of(stream)
        assert found.value.status == 412
    with pytest.raises(S3Exception):
        stream.read_rest()
    object_server.objects[PATH] = DATA
    assert rest_of(stream) == DATA[PART_BYTES:]


def test_n3_a_body_that_ends_early_is_fetched_on_and_at_last_an_error(
    client: MountpointS3Client, object_server: ObjectServer
) -> None:
    object_server.faults[PATH] = [cut_after(1000)]
    stream = client.get_object("bucket", "key")
    assert next(stream) == DATA[:PART_BYTES]
    object_server.faults[PATH] = [cut_after(0), cut_after(0), cut_after(0)]
    with pytest.raises(S3Exception, match="attempts"):
        next(stream)
    object_server.faults[PATH] = []
    assert rest_of(stream) == DATA[PART_BYTES:]


def test_without_a_version_nothing_is_read_in_parts(client: MountpointS3Client, object_server: ObjectServer) -> None:
    object_server.faults[PATH] = [without_header("ETag") for _ in range(4)]
    stream = client.get_object("bucket", "key")
    assert rest_of(stream) == DATA
    assert stream.version is None
    # The first part told that there is no version; then everything came by one answer.
    assert len(object_server.requests) <= 3


def test_errors_say_what_upstream_says_and_more(client: MountpointS3Client, object_server: ObjectServer) -> None:
    for read in (next, GetObjectStream.read_rest, GetObjectStream.prefetch):
        with pytest.raises(S3Exception) as found:
            read(client.get_object("bucket", "missing"))
        assert str(found.value) == "Service error: The key does not exist"
        assert (found.value.code, found.value.status) == ("NoSuchKey", 404)
        assert isinstance(found.value.__cause__, FileNotFoundError)
        again = pickle.loads(pickle.dumps(found.value))  # noqa: TID251 (its own)
        assert (str(again), again.code, again.status) == (str(found.value), "NoSuchKey", 404)
    object_server.faults[PATH] = [s3_error(404, "NoSuchBucket")]
    with pytest.raises(S3Exception, match=r"^Service error: The bucket does not exist$"):
        next(client.get_object("bucket", "key"))
    object_server.faults[PATH] = [s3_error(403, "AccessDenied")]
    with pytest.raises(S3Exception, match=r"^Client error: Forbidden: ") as found:
        next(client.get_object("bucket", "key"))
    assert (found.value.code, found.value.status) == ("AccessDenied", 403)
    object_server.faults[PATH] = [s3_error(403, "AccessDenied")]
    with pytest.raises(S3Exception, match=r"^Client error: Forbidden: <no message>$"):
        client.head_object("bucket", "key")


def test_chunks_are_fetched_ahead_in_parallel(object_server: ObjectServer, s3_env: Callable[[str], None]) -> None:
    s3_env(object_server.url)
    object_server.objects[PATH] = DATA * 2
    stream = MountpointS3Client("us-east-1", part_size=PART_BYTES).get_object("bucket", "key")
    assert next(stream) + next(stream) == DATA[: 2 * PART_BYTES]
    object_server.wait_for_requests(6)
    assert len({request.connection for request in object_server.requests}) > 2
    assert next(stream) + stream.read_rest() == (DATA * 2)[2 * PART_BYTES :]


def test_a_forked_child_reads_on_and_leaves_the_parent_alone(moto_s3: MotoServer, s3_env: Callable[..., None]) -> None:
    s3_env(moto_s3.endpoint)
    bucket = moto_s3.endpoint.new_bucket()
    moto_s3.endpoint.client().put_object(Bucket=bucket, Key="key", Body=DATA)
    stream = MountpointS3Client("us-east-1", part_size=PART_BYTES).get_object(bucket, "key")
    begin = next(stream) + next(stream)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if begin + rest_of(stream) == DATA else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert begin + rest_of(stream) == DATA
