"""Response heads over a real connection: in pieces, too long, with interim answers before them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import s3dlio
from tests.support.scripted_server import Connection, Request, ScriptedServer

FINAL = b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nContent-Length: 5\r\n\r\nhello'


def send(*segments: bytes) -> Callable[[Request, Connection], None]:
    """Sends each piece in a segment of its own (the server's sockets have TCP_NODELAY)."""

    def handle(_request: Request, connection: Connection) -> None:
        for segment in segments:
            connection.send(segment)

    return handle


def test_a_head_that_arrives_byte_by_byte_is_read(scripted: ScriptedServer) -> None:
    scripted.then(send(*(bytes((byte,)) for byte in FINAL)))
    assert bytes(s3dlio.get("s3://bucket/key")) == b"hello"


@pytest.mark.parametrize("num_bytes", [900, 1000, 1024, 4096, 40_000])
def test_a_head_longer_than_the_first_buffer_is_read(scripted: ScriptedServer, num_bytes: int) -> None:
    padding = "".join(f"X-Pad-{n}: {'p' * 90}\r\n" for n in range(num_bytes // 100))
    scripted.then(send(f"HTTP/1.1 200 OK\r\n{padding}Content-Length: 5\r\n\r\nhello".encode()))
    assert bytes(s3dlio.get("s3://bucket/key")) == b"hello"


def test_a_head_without_end_is_an_error(scripted: ScriptedServer) -> None:
    s3dlio.configure(max_attempts=1)
    scripted.then(send(b"HTTP/1.1 200 OK\r\nX-Endless: " + b"x" * 200_000))
    with pytest.raises(s3dlio.ProtocolError, match="head is longer"):
        s3dlio.get("s3://bucket/key")


@pytest.mark.parametrize("is_split", [False, True], ids=["one segment", "two segments"])
@pytest.mark.parametrize("status", ["100 Continue", "103 Early Hints"])
def test_an_interim_answer_is_passed_over(scripted: ScriptedServer, status: str, is_split: bool) -> None:
    interim = f"HTTP/1.1 {status}\r\nLink: </a>\r\n\r\n".encode()
    # One attempt, so that a retry cannot hide an error. Source: RFC 9110 §15.2: one or more may come before the answer.
    s3dlio.configure(max_attempts=1)
    scripted.then(send(interim, interim, FINAL) if is_split else send(interim + interim + FINAL))
    assert bytes(s3dlio.get("s3://bucket/key")) == b"hello"


def test_a_switch_of_protocols_is_an_error_of_the_tree(scripted: ScriptedServer) -> None:
    s3dlio.configure(max_attempts=1)
    scripted.then(send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"))
    with pytest.raises(s3dlio.ProtocolError):
        s3dlio.get("s3://bucket/key")


@pytest.mark.parametrize("coding", ["gzip, chunked", "xchunked"])
def test_a_body_in_another_transfer_coding_is_not_taken_for_the_object(scripted: ScriptedServer, coding: str) -> None:
    s3dlio.configure(max_attempts=1)
    scripted.then(send(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode()))
    with pytest.raises(s3dlio.ProtocolError):
        s3dlio.get("s3://bucket/key")


def test_n8_an_object_stored_as_gzip_is_delivered_as_it_is_stored(scripted: ScriptedServer) -> None:
    stored = bytes.fromhex("1f8b0800000000000003cb48cdc9c907008 6a6103605000000".replace(" ", ""))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(stored)}\r\n\r\n".encode()
    scripted.then(send(head + stored))
    assert bytes(s3dlio.get("s3://bucket/key.gz")) == stored
    assert "accept-encoding" not in scripted.requests[0].headers
