"""TLS on the fast lane: the bytes are exact, certificates are verified, a truncation is no clean end (N20, N3, N4)."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import s3dlio
from s3dlio.engine.fetch import tls
from tests.fault.conftest import PointAt
from tests.support.answers import (
    Respond,
    close_after_response,
    cut_after,
    extra_bytes,
    raw,
    reset_after,
    s3_error,
    stall_after,
)
from tests.support.tcp_server import TcpServer
from tests.support.tls_server import Authority, TlsObjectServer

URI, PATH = "s3://bucket/key", "/bucket/key"
DATA = random.Random(31).randbytes(300_000)


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    yield Authority(tmp_path)
    tls.forget_contexts()


@pytest.fixture
def secure(
    authority: Authority, s3_env: PointAt, quick_settings: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TlsObjectServer]:
    """An honest server under TLS, whose authority `AWS_CA_BUNDLE` names."""
    with TlsObjectServer(authority.context("127.0.0.1")) as server:
        s3_env(server.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", authority.bundle)
        yield server
        s3dlio.shutdown()


@pytest.mark.parametrize("procs", [0, 1], ids=["inline", "workers"])
def test_objects_of_any_size_come_exactly(secure: TlsObjectServer, procs: int) -> None:
    # Around the records of 16 KiB that TLS is made of.
    sizes = [0, 1, 700, 1024, 16_383, 16_384, 16_385, 65_536, 65_536, 65_536, 65_537, 300_000, 2_000_000]
    for number, size in enumerate(sizes):
        secure.objects[f"/bucket/{number}"] = random.Random(number).randbytes(size)
    uris = [f"s3://bucket/{number}" for number in range(len(sizes))] * 3
    expected = [secure.objects[f"/bucket/{number}"] for number in range(len(sizes))] * 3
    if procs == 0:
        for workers in (1, 8):
            assert [bytes(view) for view in s3dlio.get_many(uris, workers=workers)] == expected
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="32MiB") as pool:
        assert [bytes(view) for _, view in pool.fetch(uris)] == expected


def test_every_small_request_works(secure: TlsObjectServer) -> None:
    secure.objects[PATH] = DATA
    assert s3dlio.stat(URI)["size"] == len(DATA)
    assert s3dlio.exists(URI)
    assert not s3dlio.exists("s3://bucket/missing")
    assert bytes(s3dlio.get_range(URI, 20_000, 40_000)) == DATA[20_000:60_000]
    with pytest.raises(s3dlio.NotFoundError):
        s3dlio.get("s3://bucket/missing")
    assert secure.num_connections == 1


def test_a_large_upload_arrives_whole(secure: TlsObjectServer) -> None:
    # More than the socket's buffers take: it is sent in pieces, with the server's session tickets on the way.
    data = random.Random(5).randbytes(16 << 20)
    secure.faults[PATH] = [Respond(200, {"ETag": '"1"'})]
    s3dlio.put_bytes(URI, data)
    assert secure.requests[-1].body == data


@pytest.mark.parametrize("position", [0, 1, 16_384, 100_000, len(DATA) - 1])
@pytest.mark.parametrize("broken", [cut_after, reset_after], ids=["FIN without close_notify", "RST"])
def test_n3_n4_a_body_that_breaks_off_is_resumed_from_the_last_byte(
    secure: TlsObjectServer, position: int, broken: Callable[[int], object]
) -> None:
    secure.objects[PATH] = DATA
    secure.faults[PATH] = [broken(position)]  # type: ignore[list-item]
    assert bytes(s3dlio.get(URI)) == DATA
    assert secure.requests[1].headers["range"].split("-")[0] == f"bytes={position}" or position == 0


def test_n5_more_than_the_body_spoils_neither_it_nor_the_next(secure: TlsObjectServer) -> None:
    secure.objects[PATH] = DATA
    secure.faults[PATH] = [extra_bytes(10, Respond(200, {"ETag": '"1"'}, DATA))] * 2
    for _ in range(3):
        assert bytes(s3dlio.get(URI)) == DATA


@pytest.mark.parametrize("status", [200, 404])
def test_n5_what_stands_behind_an_answer_in_the_same_record_is_never_the_next_object(secure: TlsObjectServer, status: int) -> None:
    secure.objects["/bucket/next"] = b"GOOD"
    smuggled = Respond(200, {"ETag": '"1"'}, b"EVIL")
    answer = Respond(status, {"ETag": '"1"'}, b"<Error/>" + bytes(2000))
    secure.faults[PATH] = [raw(answer.head() + bytes(answer.body) + smuggled.head() + bytes(smuggled.body), finish=False)]
    (found,) = s3dlio.get_many([URI], errors="return")
    assert isinstance(found, s3dlio.NotFoundError) if status == 404 else len(found) == 2008
    for _ in range(3):
        assert bytes(s3dlio.get("s3://bucket/next")) == b"GOOD"


def test_n13_a_stall_is_noticed(secure: TlsObjectServer) -> None:
    secure.objects[PATH] = DATA
    never = threading.Event()
    secure.faults[PATH] = [stall_after(50_000, never)]
    assert bytes(s3dlio.get(URI)) == DATA
    assert len(secure.requests) == 2


def test_n15_a_connection_closed_while_idle_costs_no_attempt(secure: TlsObjectServer) -> None:
    s3dlio.configure(max_attempts=1)
    secure.objects[PATH] = b"data"
    secure.faults[PATH] = [close_after_response()] * 5
    assert [bytes(s3dlio.get(URI)) for _ in range(6)] == [b"data"] * 6


def test_errors_and_their_bodies_come_through(secure: TlsObjectServer) -> None:
    secure.faults[PATH] = [s3_error(503, "SlowDown"), s3_error(403, "AccessDenied")]
    with pytest.raises(s3dlio.PermissionDeniedError):
        s3dlio.get(URI)


def test_a_second_connection_resumes_the_session_of_the_first(secure: TlsObjectServer) -> None:
    secure.objects[PATH] = b"data"
    secure.faults[PATH] = [close_after_response(announce=True)] * 3
    for _ in range(4):
        assert bytes(s3dlio.get(URI)) == b"data"
    assert (secure.num_connections, secure.num_resumed) == (4, 3)


@pytest.mark.parametrize("procs", [0, 1], ids=["inline", "workers"])
def test_the_systems_certificates_are_those_of_ssl_cert_file(
    authority: Authority, s3_env: PointAt, quick_settings: None, monkeypatch: pytest.MonkeyPatch, procs: int
) -> None:
    with TlsObjectServer(authority.context("127.0.0.1")) as server:
        server.objects[PATH] = DATA
        s3_env(server.url)
        monkeypatch.setenv("SSL_CERT_FILE", authority.bundle)
        with s3dlio.Pool(procs=procs, jobs=2, memory_bytes="8MiB") as pool:
            assert [bytes(view) for _, view in pool.fetch([URI])] == [DATA]
        s3dlio.shutdown()


@pytest.mark.parametrize("trouble", ["unknown issuer", "another name", "expired"])
@pytest.mark.parametrize("procs", [0, 1], ids=["inline", "workers"])
def test_n20_a_certificate_that_does_not_hold_is_an_error_and_nothing_is_asked(
    authority: Authority, s3_env: PointAt, quick_settings: None, monkeypatch: pytest.MonkeyPatch, trouble: str, procs: int
) -> None:
    name = "other.example" if trouble == "another name" else "127.0.0.1"
    with TlsObjectServer(authority.context(name, expired=trouble == "expired")) as server:
        server.objects[PATH] = DATA
        s3_env(server.url)
        if trouble != "unknown issuer":
            monkeypatch.setenv("AWS_CA_BUNDLE", authority.bundle)
        with s3dlio.Pool(procs=procs, jobs=2, memory_bytes="8MiB") as pool:
            ((_, found),) = pool.fetch([URI], errors="return")
        assert isinstance(found, s3dlio.CertificateError)
        assert isinstance(found, ConnectionError)
        assert (found.uri, found.attempts) == (URI, 1)
        assert "AWS_CA_BUNDLE" in str(found)
        assert server.requests == []
        s3dlio.shutdown()


def test_n20_a_bundle_that_is_none_is_a_configuration_error(
    secure: TlsObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "no.pem"))
    with pytest.raises(s3dlio.ConfigurationError, match="cannot be read"):
        s3dlio.get(URI)


def test_certificates_are_read_anew_after_shutdown(secure: TlsObjectServer, authority: Authority, tmp_path: Path) -> None:
    secure.objects[PATH] = DATA
    right = Path(authority.bundle).read_bytes()
    (tmp_path / "other").mkdir()
    Path(authority.bundle).write_bytes(Path(Authority(tmp_path / "other").bundle).read_bytes())
    with pytest.raises(s3dlio.CertificateError):
        s3dlio.get(URI)
    Path(authority.bundle).write_bytes(right)
    s3dlio.shutdown()
    assert bytes(s3dlio.get(URI)) == DATA


def test_n13_a_server_that_never_shakes_hands_is_given_up(s3_env: PointAt, quick_settings: None) -> None:
    class Silent(TcpServer):
        def serve(self, sock: socket.socket, number: int) -> None:
            self.wait_for(self.closing)

    s3dlio.configure(max_attempts=1)
    with Silent() as server:
        s3_env(f"https://127.0.0.1:{server.port}")
        with pytest.raises(s3dlio.StoreTimeoutError, match="handshake"):
            s3dlio.get(URI)
        s3dlio.shutdown()


def test_what_is_no_tls_is_an_error_that_says_so(secure: TlsObjectServer, s3_env: PointAt) -> None:
    class Plain(TcpServer):
        def serve(self, sock: socket.socket, number: int) -> None:
            sock.recv(4096)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    s3dlio.configure(max_attempts=1)
    with Plain() as server:
        s3_env(f"https://127.0.0.1:{server.port}")
        with pytest.raises(s3dlio.ConnectFailedError, match="handshake"):
            s3dlio.get(URI)
        s3dlio.shutdown()


class Hasty(TcpServer):
    """Answers when it has seen the beginning of a request, and reads no more of it."""

    def __init__(self, answer: Respond, context: ssl.SSLContext | None) -> None:
        self._answer, self._context = answer.head() + bytes(answer.body), context
        super().__init__()

    def serve(self, sock: socket.socket, number: int) -> None:
        wrapped = sock if self._context is None else self._context.wrap_socket(sock, server_side=True)
        self.adopt(wrapped)
        try:
            wrapped.recv(1024)
            wrapped.sendall(self._answer)
            self.wait_for(self.closing)
        finally:
            self.release(wrapped)


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("status", [200, 403])
def test_n17_an_answer_before_the_request_is_out_is_heard_and_the_rest_is_not_sent(
    secure: TlsObjectServer, authority: Authority, s3_env: PointAt, monkeypatch: pytest.MonkeyPatch, is_tls: bool, status: int
) -> None:
    answer = Respond(200, {"ETag": '"1"'}) if status == 200 else s3_error(403, "AccessDenied")
    with Hasty(answer, authority.context("127.0.0.1") if is_tls else None) as server:
        s3_env(f"{'https' if is_tls else 'http'}://127.0.0.1:{server.port}")
        monkeypatch.setenv("AWS_CA_BUNDLE", authority.bundle)
        s3dlio.configure(multipart_above_bytes="64MiB")
        for _ in range(2):
            # A success is none before the server has the whole object; it is tried three times.
            with pytest.raises(s3dlio.ProtocolError if status == 200 else s3dlio.PermissionDeniedError):
                s3dlio.put_bytes("s3://bucket/big", bytes(32 << 20))
        # What was half sent serves no other request.
        assert server.num_connections == (6 if status == 200 else 2)
        s3dlio.shutdown()
