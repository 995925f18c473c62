"""Objects that are written by one request: sent from where they are, checked on their way, new where they are to be new (N17, U5)."""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.config import settings
from s3dlio.engine.fetch import tls
from s3dlio.engine.fetch.loop import FetchLoop
from s3dlio.engine.fetch.origin import Origin
from s3dlio.engine.fetch.request import Exchange, State
from s3dlio.engine.ops.awaited_uploads import put_object_async
from s3dlio.engine.ops.uploads import put_object
from s3dlio.engine.stores.registry import locate
from tests.fault.conftest import PointAt, Run
from tests.support.answers import Respond, s3_error
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Connection, Request, ScriptedServer, split_head
from tests.support.tcp_server import TcpServer
from tests.support.tls_server import Authority
from tests.support.write_server import WriteServer, answered, lost, sum_of

URI, PATH = "s3://bucket/key", "/bucket/key"
DATA = random.Random(41).randbytes(300_000)
LONG = bytes(24 << 20)
"""More than the sockets' buffers take."""
WRITE_ID = "s3dlio-write-id"
Early = Callable[[Connection, int], None]
"""Answers a request on its connection, before it has read any of its body of so many bytes."""


@pytest.fixture(params=["fast", "sdk"])
def lane(request: pytest.FixtureRequest) -> str:
    """Which of the two makes the requests of this test."""
    name: str = request.param
    return name


@pytest.fixture
def store(lane: str, s3_env: PointAt, quick_settings: None) -> Iterator[WriteServer]:
    """A strict server for `s3://bucket/`, asked by one of the lanes."""
    s3dlio.configure(fast_lane=lane == "fast", multipart_above_bytes="64MiB", first_byte_timeout_s=5)
    with WriteServer() as server:
        s3_env(server.url)
        yield server
        s3dlio.shutdown()


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    """Vouches for the servers of a test."""
    yield Authority(tmp_path)
    tls.forget_contexts()


def create(data: bytes) -> None:
    s3dlio.put_bytes(URI, data, if_none_match=True)


# What is sent.


@pytest.mark.parametrize("size", [0, 1, 1024, 65_536, 3_000_001])
def test_an_object_arrives_whole_with_its_checksum(store: WriteServer, size: int) -> None:
    data = bytearray(random.Random(size).randbytes(size))
    s3dlio.put_bytes(URI, data)
    written = store.objects[PATH]
    assert written.data == data
    assert written.sums == {"x-amz-checksum-crc64nvme": sum_of("crc64nvme", data)}
    # Over http the signature covers the bytes, as botocore's does.
    assert store.requests[0].headers["x-amz-content-sha256"] == hashlib.sha256(data).hexdigest()
    assert store.log == ["PUT"]
    data.append(1)  # nobody holds it any more


@pytest.mark.parametrize("data", [memoryview(DATA)[7:70_001], memoryview(DATA)[::1].cast("I", shape=[len(DATA) // 4])])
def test_any_contiguous_buffer_is_sent_as_the_bytes_that_it_is(store: WriteServer, data: memoryview) -> None:
    s3dlio.put_bytes(URI, data)
    assert store.objects[PATH].data == data.tobytes()


def test_bytes_that_were_changed_on_their_way_are_sent_again(store: WriteServer) -> None:
    store.faults.append(answered("PUT", s3_error(400, "BadDigest")))
    s3dlio.put_bytes(URI, DATA)
    assert store.objects[PATH].data == DATA
    assert store.log == ["PUT", "PUT"]


def test_a_server_without_crc64nvme_is_sent_crc32c_from_then_on(store: WriteServer) -> None:
    def refuse(request: Request) -> Respond | None:
        message = "The algorithm type you specified in x-amz-checksum- header is invalid."
        body = f"<Error><Code>InvalidRequest</Code><Message>{message}</Message></Error>"
        return Respond(400, {}, body.encode()) if "x-amz-checksum-crc64nvme" in request.headers else None

    store.faults.append(refuse)
    s3dlio.put_bytes(URI, DATA)
    s3dlio.put_bytes(URI, DATA)
    assert store.log == ["PUT", "PUT", "PUT"]
    assert store.objects[PATH].sums == {"x-amz-checksum-crc32c": sum_of("crc32c", DATA)}


@pytest.mark.parametrize("server", ["moto_s3", "rclone_s3"])
def test_a_real_server_has_what_was_written(
    server: str, lane: str, request: pytest.FixtureRequest, s3_env: PointAt, quick_settings: None
) -> None:
    endpoint: S3Endpoint = request.getfixturevalue(server).endpoint
    s3_env(endpoint)
    s3dlio.configure(fast_lane=lane == "fast", first_byte_timeout_s=20, silence_timeout_s=20)
    bucket, client = endpoint.new_bucket(), endpoint.client()
    for data in (b"", b"x", DATA):
        s3dlio.put_bytes(f"s3://{bucket}/a b/é", data)
        assert client.get_object(Bucket=bucket, Key="a b/é")["Body"].read() == data
    # This one keeps the sum that it was told, and tells it to readers.
    if server == "rclone_s3":
        assert client.head_object(Bucket=bucket, Key="a b/é", ChecksumMode="ENABLED")["ChecksumCRC64NVME"] == sum_of("crc64nvme", DATA)
    s3dlio.shutdown()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nothing_of_an_object_is_copied_on_its_way(
    scheme: str, authority: Authority, s3_env: PointAt, quick_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3dlio.configure(multipart_above_bytes="64MiB", first_byte_timeout_s=10, silence_timeout_s=10, deadline_s=60)
    with SinkServer(authority if scheme == "https" else None) as server:
        s3_env(f"{scheme}://127.0.0.1:{server.port}")
        monkeypatch.setenv("AWS_CA_BUNDLE", authority.bundle)
        s3dlio.put_bytes(URI, b"first")
        tracemalloc.start()
        s3dlio.put_bytes(URI, LONG)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert server.num_bytes == [5, len(LONG)]
        assert peak_bytes < 1 << 20
        s3dlio.shutdown()


class SinkServer(TcpServer):
    """Reads what comes into one small buffer, and says that all is well; `num_bytes` has the lengths of the bodies."""

    def __init__(self, authority: Authority | None) -> None:
        self._context = None if authority is None else authority.context("127.0.0.1")
        self.num_bytes: list[int] = []
        super().__init__()

    def serve(self, sock: socket.socket, number: int) -> None:
        """Answers the requests of one connection."""
        if self._context is not None:
            sock = self._context.wrap_socket(sock, server_side=True)
            self.adopt(sock)
        buffer = bytearray(64 << 10)
        used = 0
        try:
            while num := sock.recv_into(memoryview(buffer)[used:]):
                used += num
                end = buffer.find(b"\r\n\r\n", 0, used) + 4
                if end < 4:
                    continue
                length = int(split_head(bytes(buffer[: end - 4])).headers["content-length"])
                left = length - (used - end)
                while left:
                    left -= sock.recv_into(buffer)
                self.num_bytes.append(length)
                sock.sendall(b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 0\r\n\r\n')
                used = 0
        except OSError as error:
            raise ConnectionError("the client hung up") from error
        finally:
            if self._context is not None:
                self.release(sock)


def test_under_tls_the_signature_leaves_the_bytes_out(
    authority: Authority, s3_env: PointAt, quick_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TlsWriteServer(authority) as server:
        s3_env(server.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", authority.bundle)
        for size in (0, 1, 65_535, 65_536, 65_537, 5_000_001):
            data = random.Random(size).randbytes(size)
            s3dlio.put_bytes(URI, data)
            assert server.objects[PATH].data == data
            assert server.requests[-1].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
            assert server.objects[PATH].sums == {"x-amz-checksum-crc64nvme": sum_of("crc64nvme", data)}
        assert server.requests[-1].connection == 1
        s3dlio.shutdown()


class TlsWriteServer(WriteServer):
    """Takes objects under TLS."""

    def __init__(self, authority: Authority) -> None:
        self._context = authority.context("127.0.0.1")
        super().__init__()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def serve(self, sock: socket.socket, number: int) -> None:
        """Shakes hands, and serves."""
        wrapped = self._context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=True)
        self.adopt(wrapped)
        try:
            super().serve(wrapped, number)
        except OSError as error:
            raise ConnectionError("the client hung up") from error
        finally:
            self.release(wrapped)


# Answers that come early (N17).


class EarlyServer(ScriptedServer):
    """Answers requests when their head is there, each by the next of its `answers`; notes what it read of their bodies."""

    def __init__(self, answers: list[Early]) -> None:
        self.answers = answers
        self.bodies: list[bytes] = []
        super().__init__()

    def serve(self, sock: socket.socket, number: int) -> None:
        """Answers the requests of one connection."""
        connection = Connection(self, sock, number)
        while connection.is_open and (head := connection.read_head()) is not None:
            self.answers.pop(0)(connection, int(split_head(head).headers["content-length"]))


def says(answer: Respond, *, ends: bool) -> Early:
    def early(connection: Connection, _length: int) -> None:
        connection.send(answer.head() + bytes(answer.body))
        if ends:
            connection.finish()
        else:
            connection.wait_for(threading.Event())
            connection.is_open = False

    return early


def takes_it(connection: Connection, length: int) -> None:
    server = connection.server
    assert isinstance(server, EarlyServer)
    server.bodies.append(connection.read_body({"content-length": str(length)}))
    connection.send(Respond(200, {"ETag": '"1"'}).head())


@pytest.fixture
def early(s3_env: PointAt, quick_settings: None) -> Iterator[EarlyServer]:
    """A server for `s3://bucket/` that answers before it has read anything."""
    s3dlio.configure(multipart_above_bytes="64MiB", first_byte_timeout_s=10, silence_timeout_s=10, deadline_s=60)
    with EarlyServer([]) as server:
        s3_env(server.url)
        yield server
        s3dlio.shutdown()


@pytest.mark.parametrize("ends", [True, False], ids=["and closes", "and waits"])
def test_n17_an_early_refusal_stops_the_upload(early: EarlyServer, ends: bool) -> None:
    early.answers.append(says(s3_error(403, "AccessDenied"), ends=ends))
    with pytest.raises(s3dlio.PermissionDeniedError) as raised:
        s3dlio.put_bytes(URI, LONG)
    assert raised.value.attempts == 1
    assert early.answers == []


@pytest.mark.parametrize("ends", [True, False], ids=["and closes", "and waits"])
def test_n17_after_an_early_503_all_of_it_is_sent_by_another_connection(early: EarlyServer, ends: bool) -> None:
    early.answers += [says(s3_error(503, "ServiceUnavailable"), ends=ends), takes_it]
    s3dlio.put_bytes(URI, LONG)
    assert early.bodies == [LONG]


def test_n17_a_success_that_comes_too_early_is_none(early: EarlyServer) -> None:
    early.answers += [says(Respond(200, {"ETag": '"1"'}), ends=False), takes_it]
    s3dlio.put_bytes(URI, LONG)
    assert early.bodies == [LONG]


def test_n17_an_interim_answer_does_not_stop_the_upload(early: EarlyServer) -> None:
    def says_102(connection: Connection, length: int) -> None:
        connection.send(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hi")
        takes_in_part = connection.read_body({"content-length": "1000000"})
        connection.send(b"nts\r\n\r\n")
        rest = connection.read_body({"content-length": str(length - len(takes_in_part))})
        early.bodies.append(takes_in_part + rest)
        connection.send(Respond(200, {"ETag": '"1"'}).head())

    early.answers.append(says_102)
    s3dlio.put_bytes(URI, LONG)
    assert early.bodies == [LONG]


@pytest.mark.parametrize("status", [403, 503])
def test_n17_so_it_is_under_tls(
    status: int, authority: Authority, s3_env: PointAt, quick_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3dlio.configure(multipart_above_bytes="64MiB", first_byte_timeout_s=10, silence_timeout_s=10, deadline_s=60)
    answer = s3_error(status, "AccessDenied" if status == 403 else "ServiceUnavailable")
    with TlsEarlyServer(authority, [says(answer, ends=False), takes_it]) as server:
        s3_env(f"https://127.0.0.1:{server.port}")
        monkeypatch.setenv("AWS_CA_BUNDLE", authority.bundle)
        if status == 403:
            with pytest.raises(s3dlio.PermissionDeniedError):
                s3dlio.put_bytes(URI, LONG)
            assert server.bodies == []
        else:
            s3dlio.put_bytes(URI, LONG)
            assert server.bodies == [LONG]
        s3dlio.shutdown()


class TlsEarlyServer(EarlyServer):
    """Does so under TLS."""

    def __init__(self, authority: Authority, answers: list[Early]) -> None:
        self._context = authority.context("127.0.0.1")
        super().__init__(answers)

    def serve(self, sock: socket.socket, number: int) -> None:
        """Shakes hands, and serves."""
        wrapped = self._context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=True)
        self.adopt(wrapped)
        try:
            super().serve(wrapped, number)
        except OSError as error:
            raise ConnectionError("the client hung up") from error
        finally:
            self.release(wrapped)


# Servers that take nothing more, and callers who leave.


class PlainWire:
    """A wire to a port on this machine."""

    is_local, expires_at_s = False, None

    def __init__(self, port: int) -> None:
        self.origin = Origin("127.0.0.1", port, False, None)


def test_n14_a_server_that_takes_too_little_is_left(clean_aws_env: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop = FetchLoop(settings(silence_timeout_s=1000, min_throughput_s=30, max_attempts=1, deadline_s=5000), 1)
        wire = PlainWire(listener.getsockname()[1])
        fetch = Exchange(None, URI, wire, "PUT", lambda: b"PUT / HTTP/1.1\r\n\r\n", payload=memoryview(LONG))
        loop.submit(fetch)
        loop.poll(0.1)
        with listener.accept()[0]:
            while fetch.state is not State.FAILED:
                loop.note_wait(40)
                loop.poll(0.01)
        assert isinstance(fetch.error, s3dlio.StoreTimeoutError)
        assert "took fewer than 1024 bytes/s" in fetch.error.message
        loop.close()


def test_n13_what_the_server_takes_is_a_sign_of_life(clean_aws_env: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop = FetchLoop(settings(silence_timeout_s=10, max_attempts=1, deadline_s=1000), 1)
        wire = PlainWire(listener.getsockname()[1])
        fetch = Exchange(None, URI, wire, "PUT", lambda: b"PUT / HTTP/1.1\r\n\r\n", payload=memoryview(LONG))
        loop.submit(fetch)
        loop.poll(0.1)
        with listener.accept()[0] as sock:
            for _ in range(8):
                # By the loop's own clock, which nobody but this test moves so fast.
                assert loop.poll(0.05) == []
                loop.note_wait(8)
                num = 0
                while num < 1 << 20:
                    num += len(sock.recv(1 << 20))
                assert loop.poll(0.05) == []
            loop.poll(0.05)
            loop.note_wait(30)
            while fetch.state is not State.FAILED:
                loop.poll(0.3)
        assert isinstance(fetch.error, s3dlio.StoreTimeoutError)
        assert "took nothing more" in fetch.error.message
        assert fetch.payload is None
        loop.close()


@pytest.mark.parametrize("way", ["fast", "sdk"])
def test_a_cancelled_write_lets_go_of_its_callers_memory_at_once(
    way: str, scripted_server: ScriptedServer, s3_env: PointAt, quick_settings: None, run: Run
) -> None:
    s3dlio.configure(
        fast_lane=way == "fast", multipart_above_bytes="64MiB", first_byte_timeout_s=30, silence_timeout_s=30, deadline_s=60
    )
    release = threading.Event()
    begun = threading.Event()

    def stall(_request: Request, connection: Connection) -> None:
        begun.set()
        connection.wait_for(release)
        connection.finish()

    scripted_server.script = lambda _: stall
    s3_env(scripted_server.url)
    data = bytearray(DATA)

    async def main() -> None:
        store, key = locate(URI)
        task = asyncio.create_task(put_object_async(store, key, memoryview(data)))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    data.append(1)  # a BufferError, where anybody holds it
    release.set()
    s3dlio.shutdown()


def test_a_failed_write_lets_go_of_its_callers_memory(store: WriteServer) -> None:
    store.faults.append(answered("PUT", s3_error(500, "InternalError"), times=3))
    data = bytearray(DATA)
    with suppress(s3dlio.ServerError):
        s3dlio.put_bytes(URI, data)
    data.append(1)
    assert store.log == ["PUT"] * 3


# Create-only (U5).


def test_u5_a_second_writer_is_refused(store: WriteServer) -> None:
    create(b"first")
    with pytest.raises(s3dlio.AlreadyExistsError) as raised:
        create(b"second")
    assert isinstance(raised.value, FileExistsError)
    assert raised.value.uri == URI
    assert store.objects[PATH].data == b"first"
    s3dlio.put_bytes(URI, b"third")
    assert store.objects[PATH].data == b"third"


def test_u5_a_writer_whose_answer_was_lost_knows_its_own_object_again(store: WriteServer) -> None:
    store.faults.append(lost(store, "PUT"))
    create(DATA)
    assert store.objects[PATH].data == DATA
    assert store.log == ["HEAD", "PUT", "PUT", "HEAD"]


def test_u5_a_writer_whose_every_answer_was_lost_knows_its_own_object_again(store: WriteServer) -> None:
    store.faults.append(lost(store, "PUT", times=99))
    create(DATA)
    assert store.objects[PATH].data == DATA
    # The first one may have been lost with an idle connection, and counts for nothing then (N15).
    assert store.log in (["HEAD", *["PUT"] * num, "HEAD"] for num in (3, 4))


def refuse_head(request: Request) -> Respond | None:
    return s3_error(403, "AccessDenied") if request.method == "HEAD" else None


@pytest.mark.parametrize("is_kept", [False, True], ids=["on a new connection", "on a kept one"])
def test_u5_whoever_may_not_look_is_not_told_that_an_object_of_its_own_is_another_ones(store: WriteServer, is_kept: bool) -> None:
    if is_kept:
        s3dlio.put_bytes("s3://bucket/other", b"")
    store.faults += [lost(store, "PUT"), refuse_head]
    with pytest.raises(s3dlio.PermissionDeniedError, match="nobody says"):
        create(DATA)
    assert store.objects[PATH].data == DATA


def test_u5_whoever_may_not_look_is_refused_all_the_same(store: WriteServer) -> None:
    s3dlio.put_bytes(URI, b"first")
    store.faults.append(refuse_head)
    with pytest.raises(s3dlio.AlreadyExistsError):
        create(DATA)


def test_u5_the_same_bytes_by_somebody_else_are_not_ones_own(store: WriteServer) -> None:
    def sneak_in(request: Request) -> None:
        if request.method == "PUT" and not store.objects:
            s3dlio_like = Request(request.line, "PUT", request.target, {}, DATA, 0, 0)
            store.carry_out(s3dlio_like)

    store.faults.append(sneak_in)
    with pytest.raises(s3dlio.AlreadyExistsError):
        create(DATA)
    assert store.objects[PATH].metadata == {}


def test_u5_a_writer_is_not_told_of_success_where_another_has_replaced_its_object(store: WriteServer) -> None:
    def replace(request: Request) -> None:
        if request.method == "PUT" and store.objects:
            store.carry_out(Request(request.line, "PUT", request.target, {}, b"other", 0, 0))

    store.faults += [lost(store, "PUT"), replace]
    with pytest.raises(s3dlio.AlreadyExistsError):
        create(DATA)
    assert store.objects[PATH].data == b"other"


def test_u5_of_many_writers_one_succeeds_whichever_answers_are_lost(store: WriteServer) -> None:
    chance = random.Random(7)
    s3dlio.configure(max_attempts=10)

    def lose_some(request: Request) -> Any:
        return lost(store, "PUT|HEAD")(request) if chance.random() < 0.3 else None

    store.faults.append(lose_some)

    def write(number: int) -> int | None:
        try:
            create(b"%d" % number)
        except s3dlio.AlreadyExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as crew:
        (winner,) = [number for number in crew.map(write, range(8)) if number is not None]
    assert store.objects[PATH].data == b"%d" % winner


def test_u5_a_real_server_refuses_the_second_writer(
    lane: str, moto_s3: Any, s3_env: PointAt, quick_settings: None
) -> None:
    s3_env(moto_s3.endpoint)
    s3dlio.configure(fast_lane=lane == "fast", first_byte_timeout_s=20, silence_timeout_s=20)
    bucket = moto_s3.endpoint.new_bucket()
    store, key = locate(f"s3://{bucket}/key")
    put_object(store, key, memoryview(b"first"), create_only=True)
    with pytest.raises(s3dlio.AlreadyExistsError):
        put_object(store, key, memoryview(b"second"), create_only=True)
    found = moto_s3.endpoint.client().get_object(Bucket=bucket, Key="key")
    assert found["Body"].read() == b"first"
    assert set(found["Metadata"]) == {WRITE_ID}
    s3dlio.shutdown()


def test_an_interrupted_write_leaves_no_connection_behind(early: EarlyServer) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def interrupts(connection: Connection, _length: int) -> None:
        signal.pthread_kill(main, signal.SIGINT)
        connection.wait_for(threading.Event())
        connection.is_open = False

    early.answers += [interrupts, takes_it]
    with pytest.raises(KeyboardInterrupt):
        s3dlio.put_bytes(URI, LONG)
    s3dlio.put_bytes(URI, b"next")
    assert early.bodies == [b"next"]
