"""Objects that are written to S3 in parts: whole or not at all, whatever fails, and nothing left behind (N12, U1, U3, U4, U5)."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

import s3dlio
from s3dlio.engine.config import settings
from s3dlio.engine.fetch.crc_combine import combine
from s3dlio.engine.ops import awaited_uploads
from s3dlio.engine.ops.uploads import put_object, write_object
from s3dlio.engine.pool import inline
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.stores.base import Operation, run
from s3dlio.engine.stores.registry import locate
from tests.fault.conftest import PointAt
from tests.support.answers import Respond, s3_error
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Connection, Handler, Request
from tests.support.write_server import WriteServer, Written, answered, lost, name_of, sum_of

if TYPE_CHECKING:
    from s3dlio.engine.stores.s3 import S3Store
    from s3dlio.engine.stores.s3_upload import S3Upload

URI, PATH = "s3://bucket/key", "/bucket/key"
PART = 5 << 20
DATA = random.Random(51).randbytes(2 * PART + 12_345)
PARTS = ["PUT part 1", "PUT part 2", "PUT part 3"]
WRITE_ID = "s3dlio-write-id"
BUSY = Respond(
    200, {}, b"<?xml version='1.0'?>\n \n \n<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
)


@pytest.fixture(params=["fast", "sdk"])
def lane(request: pytest.FixtureRequest, quick_settings: None) -> str:
    """Which of the two makes the requests of this test; what is longer than 5 MiB goes in parts."""
    s3dlio.configure(
        fast_lane=request.param == "fast",
        put_part_bytes=PART,
        multipart_above_bytes=PART,
        first_byte_timeout_s=20,
        silence_timeout_s=20,
        deadline_s=60,
    )
    name: str = request.param
    return name


@pytest.fixture
def store(lane: str, s3_env: PointAt) -> Iterator[WriteServer]:
    """A strict server for `s3://bucket/`."""
    with WriteServer() as server:
        s3_env(server.url)
        yield server
        s3dlio.shutdown()


@pytest.fixture(params=["moto_s3", "rclone_s3"])
def real(request: pytest.FixtureRequest, lane: str, s3_env: PointAt) -> Iterator[S3Endpoint]:
    """A real server."""
    endpoint: S3Endpoint = request.getfixturevalue(request.param).endpoint
    s3_env(endpoint)
    yield endpoint
    s3dlio.shutdown()


def perform(operation: Operation[Any]) -> Any:
    return run(operation, inline_fetcher().run)


def opened(bucket: str = "bucket") -> S3Store:
    found: Any = locate(f"s3://{bucket}/")[0]
    return found


def begun(*parts: bytes, create_only: bool = False) -> S3Upload:
    """Returns an upload to `URI` that has `parts`."""
    upload: S3Upload = perform(opened().begin_upload("key", create_only))
    for number, part in enumerate(parts):
        perform(upload.put_part(number, memoryview(part), number == len(parts) - 1))
    return upload


def is_clean(server: WriteServer) -> bool:
    """Whether nothing is left of an upload that failed, and nothing is visible."""
    return not server.objects and not server.uploads


# What is sent.


@pytest.mark.parametrize("algorithm", ["crc64nvme", "crc32c"])
def test_sums_of_parts_make_that_of_the_whole(algorithm: str) -> None:
    import base64

    def value(data: bytes) -> int:
        return int.from_bytes(base64.b64decode(sum_of(algorithm, data)), "big")

    for first, second in ((0, 0), (0, 5), (5, 0), (1, 1), (1000, 70_001), (70_001, 3)):
        a, b = DATA[:first], DATA[first : first + second]
        assert combine(algorithm, value(a), value(b), len(b)) == value(a + b)


def test_an_object_in_parts_arrives_whole_and_is_looked_at(store: WriteServer) -> None:
    data = bytearray(DATA)
    s3dlio.put_bytes(URI, data)
    written = store.objects[PATH]
    assert written.data == DATA
    assert written.sums == {"x-amz-checksum-crc64nvme": sum_of("crc64nvme", DATA)}
    assert store.uploads == {}
    assert (store.log[0], sorted(store.log[1:4]), store.log[4:]) == ("POST begin", PARTS, ["POST end", "HEAD"])
    parts = {name_of(request): request for request in store.requests}
    assert parts["PUT part 3"].headers["x-amz-checksum-crc64nvme"] == sum_of("crc64nvme", DATA[2 * PART :])
    end = parts["POST end"]
    assert end.headers["x-amz-mp-object-size"] == str(len(DATA))
    assert end.body.count(b"<ChecksumCRC64NVME>") == 3
    data.append(1)  # nobody holds it any more


@pytest.mark.parametrize("size", [PART, PART + 1, 2 * PART])
def test_what_is_longer_than_the_threshold_goes_in_parts(store: WriteServer, size: int) -> None:
    s3dlio.put_bytes(URI, DATA[:size])
    assert store.objects[PATH].data == DATA[:size]
    assert store.log.count("POST begin") == (size > PART)


def test_real_servers_put_the_parts_together(real: S3Endpoint) -> None:
    bucket, client = real.new_bucket(), real.client()
    s3dlio.put_bytes(f"s3://{bucket}/a b/é", DATA)
    asyncio.run(s3dlio.put_bytes_async(f"s3://{bucket}/awaited", DATA))
    perform(write_object(opened(bucket), "one by one", memoryview(DATA)))
    for key in ("a b/é", "awaited", "one by one"):
        assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == DATA
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def test_an_upload_is_aborted_on_real_servers(real: S3Endpoint) -> None:
    bucket, client = real.new_bucket(), real.client()
    upload = perform(opened(bucket).begin_upload("key"))
    perform(upload.put_part(0, memoryview(DATA)[:PART], False))
    assert [found["Key"] for found in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["key"]
    perform(upload.abort())
    perform(upload.abort())
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)


def test_an_end_that_is_asked_for_twice_is_one_on_real_servers(real: S3Endpoint) -> None:
    bucket = real.new_bucket()
    upload = perform(opened(bucket).begin_upload("key"))
    perform(upload.put_part(0, memoryview(b"one"), True))
    perform(upload.complete())
    perform(upload.complete())
    assert real.client().get_object(Bucket=bucket, Key="key")["Body"].read() == b"one"


def test_a_part_that_is_sent_again_replaces_the_first(store: WriteServer) -> None:
    upload = begun(DATA[:PART], b"wrong")
    perform(upload.put_part(1, memoryview(b"right"), True))
    perform(upload.complete())
    assert store.objects[PATH].data == DATA[:PART] + b"right"


def test_an_upload_with_a_hole_is_not_ended(store: WriteServer) -> None:
    upload = begun(b"first")
    perform(upload.put_part(2, memoryview(b"third"), True))
    with pytest.raises(s3dlio.ProtocolError):
        perform(upload.complete())
    assert "POST end" not in store.log


def test_a_server_without_crc64nvme_is_sent_crc32c_of_each_part(store: WriteServer) -> None:
    def refuse(request: Request) -> Handler | None:
        body = b"<Error><Code>InvalidRequest</Code><Message>Checksum algorithm provided is unsupported.</Message></Error>"
        return Respond(400, {}, body) if request.headers.get("x-amz-checksum-algorithm") == "CRC64NVME" else None

    store.faults.append(refuse)
    s3dlio.put_bytes(URI, DATA)
    assert store.objects[PATH].data == DATA
    assert store.log[:2] == ["POST begin", "POST begin"]
    assert all("x-amz-checksum-crc32c" in request.headers for request in store.requests if "part" in name_of(request))
    end = next(request for request in store.requests if name_of(request) == "POST end")
    # The sum of the whole would be one of sums, which nobody can hold the bytes against.
    assert b"<ChecksumCRC32C>" in end.body
    assert "x-amz-checksum-crc32c" not in end.headers


def elsewhere(request: Request) -> Handler | None:
    """Says to whoever signs for us-east-1 that the bucket is in another region."""
    if "/us-east-1/s3/" in request.headers["authorization"]:
        return s3_error(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-3"})
    return None


@pytest.mark.parametrize("is_new", [False, True])
def test_n16_writes_go_to_the_region_that_the_bucket_is_in(store: WriteServer, is_new: bool) -> None:
    store.faults.append(elsewhere)
    s3dlio.put_bytes(URI, DATA, if_none_match=is_new)
    s3dlio.put_bytes("s3://bucket/short", DATA[:1000], if_none_match=is_new)
    assert store.objects[PATH].data == DATA
    assert store.objects["/bucket/short"].data == DATA[:1000]
    # Once it is known, nobody asks in the wrong region.
    assert sum("/us-east-1/s3/" in request.headers["authorization"] for request in store.requests) <= 3


def test_whoever_pays_and_a_customer_key_go_with_every_request_of_a_write(
    store: WriteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    monkeypatch.setenv("S3DLIO_SSE_CUSTOMER_KEY", key)
    s3dlio.configure(s3_requester_pays=True)
    s3dlio.put_bytes(URI, DATA)
    s3dlio.put_bytes("s3://bucket/short", DATA[:1000])
    assert store.objects[PATH].data == DATA
    assert all(request.headers["x-amz-request-payer"] == "requester" for request in store.requests)
    told = {name_of(request) for request in store.requests if request.headers.get("x-amz-server-side-encryption-customer-key") == key}
    # The end of an upload needs none. Source: API reference, CompleteMultipartUpload.
    assert told >= {"POST begin", *PARTS, "HEAD", "PUT"}


# What fails.


@pytest.mark.parametrize("failing", [*PARTS, "POST end"])
def test_u1_an_object_of_which_anything_fails_is_not_visible_and_leaves_nothing(store: WriteServer, failing: str) -> None:
    store.faults.append(answered(failing, s3_error(403, "AccessDenied"), times=99))
    with pytest.raises(s3dlio.PermissionDeniedError):
        s3dlio.put_bytes(URI, DATA)
    assert is_clean(store)


def test_u1_so_it_is_for_callers_who_await_and_for_one_request_at_a_time(store: WriteServer) -> None:
    store.faults.append(answered("PUT part 2", s3_error(403, "AccessDenied"), times=99))
    with pytest.raises(s3dlio.PermissionDeniedError):
        asyncio.run(s3dlio.put_bytes_async(URI, DATA))
    with pytest.raises(s3dlio.PermissionDeniedError):
        perform(write_object(opened(), "key", memoryview(DATA)))
    assert is_clean(store)
    assert store.log.count("DELETE upload") == 2


@pytest.mark.parametrize("kind", ["PUT part 2", "POST end"])
def test_answers_of_parts_and_ends_may_be_lost(store: WriteServer, kind: str) -> None:
    store.faults.append(lost(store, kind))
    s3dlio.put_bytes(URI, DATA)
    assert store.objects[PATH].data == DATA
    assert store.uploads == {}


def test_u1_an_interrupt_aborts(store: WriteServer) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(_request: Request, connection: Connection) -> None:
        signal.pthread_kill(main, signal.SIGINT)
        connection.wait_for(threading.Event())
        connection.is_open = False

    store.faults.append(answered("PUT part 3", interrupt))
    with pytest.raises(KeyboardInterrupt):
        s3dlio.put_bytes(URI, DATA)
    assert is_clean(store)


def test_u1_whoever_stops_asking_for_results_leaves_no_upload_behind(store: WriteServer) -> None:
    arrived, release = threading.Event(), threading.Event()

    def stall(_request: Request, connection: Connection) -> None:
        arrived.set()
        connection.wait_for(release)
        connection.is_open = False

    store.faults.append(answered("PUT part 2", stall))
    # As many short ones as end before the second part of the long one is asked for.
    short: Iterator[tuple[Any, Operation[None]]] = ((n, opened().put("short", memoryview(b"x"))) for n in itertools.count())
    many = inline_fetcher().run_many(itertools.chain([("long", write_object(opened(), "key", memoryview(DATA)))], short), 2)
    for _ in many:
        if arrived.is_set():
            break
    many.close()
    release.set()
    assert arrived.is_set()
    assert store.uploads == {}
    assert PATH not in store.objects


@pytest.mark.parametrize("kind", ["POST begin", "PUT part 2", "POST end"])
def test_u1_a_cancel_aborts(store: WriteServer, kind: str) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def stall(request: Request) -> Handler | None:
        if name_of(request) != kind:
            return None

        def handle(request: Request, connection: Connection) -> None:
            arrived.set()
            connection.wait_for(go_on)
            if kind == "POST begin":
                store.carry_out(request)(request, connection)
            else:
                connection.finish()

        return handle

    store.faults.append(stall)

    async def main() -> None:
        task = asyncio.create_task(s3dlio.put_bytes_async(URI, DATA))
        await asyncio.to_thread(arrived.wait)
        task.cancel()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    go_on.set()
    assert is_clean(store)


@pytest.mark.parametrize("way", ["Ctrl-C", "cancel"])
def test_u1_whoever_leaves_does_not_wait_for_a_silent_server_for_long(
    store: WriteServer, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inline, "LEAVING_S", 0.3)
    monkeypatch.setattr(awaited_uploads, "LEAVING_S", 0.3)
    main = threading.main_thread().ident
    assert main is not None
    arrived = threading.Event()

    def fall_silent(request: Request, connection: Connection) -> None:
        if name_of(request) == "PUT part 2":
            arrived.set()
            if way == "Ctrl-C":
                signal.pthread_kill(main, signal.SIGINT)
        connection.wait_for(threading.Event())
        connection.is_open = False

    store.faults.append(answered("PUT part 2|DELETE upload", fall_silent, times=99))

    async def leave() -> None:
        task = asyncio.create_task(s3dlio.put_bytes_async(URI, DATA))
        await asyncio.to_thread(arrived.wait)
        task.cancel()
        await task

    begun_s = time.monotonic()
    if way == "Ctrl-C":
        with pytest.raises(KeyboardInterrupt):
            s3dlio.put_bytes(URI, DATA)
    else:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(leave())
    assert time.monotonic() - begun_s < settings().first_byte_timeout_s
    assert "could not be thrown away" in caplog.text


def test_an_abort_that_fails_is_told_to_the_log_and_hides_no_error(
    store: WriteServer, caplog: pytest.LogCaptureFixture
) -> None:
    store.faults.append(answered("PUT part 1", s3_error(403, "AccessDenied"), times=99))
    store.faults.append(answered("DELETE upload", s3_error(500, "InternalError"), times=99))
    with pytest.raises(s3dlio.PermissionDeniedError):
        s3dlio.put_bytes(URI, DATA)
    assert "could not be thrown away" in caplog.text
    assert URI in caplog.text


@pytest.mark.parametrize("is_new", [False, True])
def test_u4_an_end_that_may_have_come_about_is_not_called_a_missing_upload(store: WriteServer, is_new: bool) -> None:
    store.faults += [lost(store, "POST end"), answered("HEAD", s3_error(403, "AccessDenied"), times=99)]
    with pytest.raises(s3dlio.PermissionDeniedError, match="nobody says"):
        s3dlio.put_bytes(URI, DATA, if_none_match=is_new)
    assert store.objects[PATH].data == DATA


def test_an_abort_by_whoever_may_not_list_parts_is_one(store: WriteServer, caplog: pytest.LogCaptureFixture) -> None:
    store.faults.append(answered("PUT part 1|GET parts", s3_error(403, "AccessDenied"), times=99))
    with pytest.raises(s3dlio.PermissionDeniedError):
        s3dlio.put_bytes(URI, DATA)
    assert is_clean(store)
    assert "could not be thrown away" not in caplog.text


def test_u3_an_upload_that_comes_back_by_a_late_part_is_aborted_again(store: WriteServer) -> None:
    upload = begun(b"part")
    # A part that was on its way: the first abort does not hold.
    store.faults.append(answered("DELETE upload", Respond(204)))
    perform(upload.abort())
    assert is_clean(store)
    assert store.log[-4:] == ["DELETE upload", "GET parts", "DELETE upload", "GET parts"]


def test_u3_a_store_that_never_lets_go_of_an_upload_is_an_error(store: WriteServer) -> None:
    upload = begun(b"part")
    store.faults.append(answered("DELETE upload", Respond(204), times=99))
    with pytest.raises(s3dlio.ProtocolError, match="aborted"):
        perform(upload.abort())


# The end of an upload.


@pytest.mark.parametrize("busy", [BUSY, s3_error(500, "InternalError"), s3_error(503, "SlowDown")])
def test_n12_a_200_with_an_error_is_tried_again_like_any_failure(store: WriteServer, busy: Respond) -> None:
    upload = begun(DATA[:PART], b"end")
    store.faults.append(answered("POST end", busy))
    perform(upload.complete())
    assert store.objects[PATH].data == DATA[:PART] + b"end"
    assert store.log.count("POST end") == 2


def test_n12_a_200_with_an_error_that_lasts_is_that_error(store: WriteServer) -> None:
    store.faults.append(answered("POST end", BUSY, times=99))
    with pytest.raises(s3dlio.ServerError, match="InternalError"):
        s3dlio.put_bytes(URI, DATA)
    assert is_clean(store)


@pytest.mark.parametrize("body", [b"", b"<Complete", b"<html>OK</html>", b"<CompleteMultipartUploadResult/>"])
def test_n12_a_200_that_says_nothing_is_no_success(store: WriteServer, body: bytes) -> None:
    upload = begun(b"part")
    store.faults.append(answered("POST end", Respond(200, {}, body), times=99))
    with pytest.raises(s3dlio.S3dlioError):
        perform(upload.complete())
    assert store.objects == {}


def test_an_end_for_which_the_store_takes_its_time_is_waited_for(store: WriteServer, lane: str) -> None:
    if lane == "sdk":
        s3dlio.configure(silence_timeout_s=20)
    else:
        # As S3 would, but quickly: a space every 0.2 s, where a read may be silent for 0.1 s and must bring 1 MB/s.
        s3dlio.configure(silence_timeout_s=0.1, min_throughput_bytes_s=1_000_000, min_throughput_s=0.2)
    upload = begun(b"part")

    def take_time(request: Request, connection: Connection) -> None:
        declaration, _, rest = bytes(store.carry_out(request).body).partition(b"\n")
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for data in (declaration, *[b" "] * 5, rest):
            threading.Event().wait(0.2)
            connection.send(b"%x\r\n%b\r\n" % (len(data), data))
        connection.send(b"0\r\n\r\n")

    store.faults.append(answered("POST end", take_time))
    perform(upload.complete())
    assert store.log.count("POST end") == 1


def test_u4_an_end_that_answered_500_and_worked_is_a_success(store: WriteServer) -> None:
    upload = begun(DATA[:PART], b"end")

    def ends_and_says_500(request: Request) -> Handler | None:
        if name_of(request) == "POST end" and store.uploads:
            store.carry_out(request)
            return s3_error(500, "InternalError")
        return None

    store.faults.append(ends_and_says_500)
    perform(upload.complete())
    assert store.objects[PATH].data == DATA[:PART] + b"end"
    assert store.log[-4:] == ["POST end", "POST end", "HEAD", "HEAD"]


def test_u4_an_end_whose_every_answer_was_lost_is_a_success(store: WriteServer) -> None:
    upload = begun(b"part")
    store.faults.append(lost(store, "POST end", times=99))
    perform(upload.complete())
    assert store.objects[PATH].data == b"part"


def test_u4_an_upload_that_somebody_aborted_is_an_error_whatever_object_stands_there(store: WriteServer) -> None:
    upload = begun(b"part")
    store.objects[PATH] = Written(b"part", {}, '"other"')
    store.uploads.clear()
    with pytest.raises(s3dlio.NotFoundError, match="NoSuchUpload"):
        perform(upload.complete())


@pytest.mark.parametrize("ends", ["whole", "lost"])
def test_u4_a_store_that_lost_bytes_is_found_out(store: WriteServer, ends: str) -> None:
    upload = begun(DATA[:PART], b"the end")

    def lose(request: Request) -> Handler | None:
        if name_of(request) == "HEAD" and PATH in store.objects:
            store.objects[PATH].data = DATA[:PART]
        return None

    store.faults.append(lose)
    if ends == "lost":
        store.faults.append(lost(store, "POST end"))
    with pytest.raises(s3dlio.TruncatedBodyError) as raised:
        perform(upload.complete())
    assert raised.value.uri == URI


def test_u4_a_store_that_mixed_up_the_parts_is_found_out(store: WriteServer) -> None:
    upload = begun(DATA[:PART], b"the end")

    def mix_up(request: Request) -> Handler | None:
        if name_of(request) == "HEAD" and PATH in store.objects:
            store.objects[PATH].sums = {"x-amz-checksum-crc64nvme": sum_of("crc64nvme", b"the end" + DATA[:PART])}
        return None

    store.faults.append(mix_up)
    with pytest.raises(s3dlio.ChecksumMismatchError, match="CRC64NVME"):
        perform(upload.complete())


def test_an_identity_that_may_only_write_is_told_nothing_and_trusts_the_store(store: WriteServer) -> None:
    store.faults.append(answered("HEAD", Respond(403), times=99))
    s3dlio.put_bytes(URI, DATA)
    s3dlio.put_bytes("s3://bucket/new", DATA, if_none_match=True)
    assert store.objects["/bucket/new"].data == store.objects[PATH].data == DATA


# Create-only.


def test_u5_parts_of_a_second_writer_are_not_even_sent(store: WriteServer) -> None:
    s3dlio.put_bytes(URI, b"first")
    with pytest.raises(s3dlio.AlreadyExistsError):
        s3dlio.put_bytes(URI, DATA, if_none_match=True)
    assert store.log == ["PUT", "HEAD"]


def test_u5_a_writer_who_came_later_and_ended_earlier_wins(store: WriteServer) -> None:
    upload = begun(b"slow", create_only=True)
    s3dlio.put_bytes(URI, b"quick", if_none_match=True)
    # Its own look would find it first.
    store.faults.append(answered("HEAD", s3_error(404, "NoSuchKey")))
    with pytest.raises(s3dlio.AlreadyExistsError) as raised:
        perform(upload.complete())
    assert raised.value.uri == URI
    perform(upload.abort())
    assert store.objects[PATH].data == b"quick"
    assert store.uploads == {}


@pytest.mark.parametrize("times", [1, 99])
def test_u5_an_end_whose_answer_was_lost_knows_its_own_object_again(store: WriteServer, times: int) -> None:
    store.faults.append(lost(store, "POST end", times=times))
    s3dlio.put_bytes(URI, DATA, if_none_match=True)
    assert store.objects[PATH].data == DATA
    assert set(store.objects[PATH].metadata) == {WRITE_ID}


def test_u5_a_server_that_ignores_the_condition_is_asked_what_there_is(lane: str, rclone_s3: Any, s3_env: PointAt) -> None:
    s3_env(rclone_s3.endpoint)
    bucket, client = rclone_s3.endpoint.new_bucket(), rclone_s3.endpoint.client()
    store = opened(bucket)
    for key, data in (("short", b"data"), ("long", DATA)):
        put_object(store, key, memoryview(data), create_only=True)
        with pytest.raises(s3dlio.AlreadyExistsError):
            put_object(store, key, memoryview(data[::-1]), create_only=True)
        assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == data
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    s3dlio.shutdown()
