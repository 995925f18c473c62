"""The scripted server and its faults, seen by a raw socket: what arrives, and how the connection ends."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable

import pytest

from tests.support.answers import (
    Respond,
    chunked,
    close_after_response,
    cut_after,
    extra_bytes,
    ignore_range,
    longer_than_range,
    raw,
    reset_after,
    reset_before_headers,
    s3_error,
    stall_after,
    stall_before_headers,
    without_header,
    wrong_range,
)
from tests.support.object_server import ObjectServer, parse_range
from tests.support.scripted_server import Handler, ScriptedServer, split_head

DATA = bytes(range(256)) * 40
GET = b"GET /bucket/key HTTP/1.1\r\nHost: x\r\n\r\n"


def ask(server: ScriptedServer, request: bytes = GET) -> socket.socket:
    client = socket.create_connection(server.address, timeout=10)
    client.sendall(request)
    return client


def read_all(client: socket.socket) -> tuple[bytes, bytes, str]:
    """Returns head, body and how the connection ended ("fin" or "rst"), and closes the client."""
    received = bytearray()
    ended = "fin"
    with client:
        try:
            while data := client.recv(1 << 16):
                received += data
        except ConnectionResetError:
            ended = "rst"
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    return head, body, ended


@pytest.mark.parametrize("num_bytes", [0, 1, 5000, len(DATA) - 1])
@pytest.mark.parametrize(("fault", "ended"), [(cut_after, "fin"), (reset_after, "rst")])
def test_a_broken_off_body_has_exactly_the_given_bytes_and_end(
    scripted_server: ScriptedServer, fault: Callable[..., Handler], ended: str, num_bytes: int
) -> None:
    scripted_server.then(fault(num_bytes, Respond(200, {}, DATA)))
    head, body, end = read_all(ask(scripted_server))
    assert split_head(head).headers["content-length"] == str(len(DATA))
    assert (body, end) == (DATA[:num_bytes], ended)


def test_a_reset_comes_after_megabytes_that_the_client_reads_late(scripted_server: ScriptedServer) -> None:
    data = DATA * 800
    scripted_server.then(reset_after(len(data) - 1, Respond(200, {}, data)))
    client = ask(scripted_server)
    scripted_server.wait_for_requests(1)
    assert read_all(client)[1:] == (data[:-1], "rst")


def test_a_reset_before_the_headers_sends_nothing(scripted_server: ScriptedServer) -> None:
    scripted_server.then(reset_before_headers())
    assert read_all(ask(scripted_server)) == (b"", b"", "rst")


def test_a_stalled_body_goes_on_when_the_event_is_set(scripted_server: ScriptedServer) -> None:
    event = threading.Event()
    scripted_server.then(stall_after(100, event, Respond(200, {}, DATA)))
    client = ask(scripted_server)
    received = b""
    while len(received.partition(b"\r\n\r\n")[2]) < 100:
        received += client.recv(1 << 16)
    assert received.endswith(b"\r\n\r\n" + DATA[:100])
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(10)
    event.set()
    rest = b""
    while len(rest) < len(DATA) - 100:
        rest += client.recv(1 << 16)
    client.close()
    assert rest == DATA[100:]


def test_closing_ends_a_stall_that_nobody_released() -> None:
    with ScriptedServer([stall_before_headers(threading.Event(), Respond())]) as server:
        client = ask(server)
        server.wait_for_requests(1)
    assert read_all(client)[2] in ("fin", "rst")


def test_extra_bytes_follow_a_body_of_the_announced_length(scripted_server: ScriptedServer) -> None:
    scripted_server.then(extra_bytes(7, Respond(200, {}, b"abc")), raw(b""))
    client = ask(scripted_server)
    client.sendall(GET)
    head, body, _ = read_all(client)
    assert (split_head(head).headers["content-length"], body) == ("3", b"abc" + b"\xee" * 7)


def test_chunks_are_understood_by_an_independent_client(scripted_server: ScriptedServer) -> None:
    scripted_server.then(chunked(1000, Respond(200, {"ETag": '"e"'}, DATA)))
    client = http.client.HTTPConnection(*scripted_server.address)
    client.request("GET", "/")
    answer = client.getresponse()
    assert (answer.read(), answer.headers["Content-Length"]) == (DATA, None)
    client.close()


def test_a_connection_serves_many_requests_until_it_is_closed_after_one(scripted_server: ScriptedServer) -> None:
    scripted_server.then(Respond(200, {}, b"1"), close_after_response(Respond(200, {}, b"2")))
    client = ask(scripted_server, GET + GET)
    assert read_all(client)[2] == "fin"
    assert [request.connection for request in scripted_server.requests] == [1, 1]


def test_a_request_is_kept_as_it_stood_on_the_wire(scripted_server: ScriptedServer) -> None:
    scripted_server.then(raw(b"HTTP/1.1 204 No Content\r\n\r\n"), raw(b""))
    line = b"PUT /b/%2F..//%C3%A9?a=+&b HTTP/1.1"
    read_all(ask(scripted_server, line + b"\r\nX-One: a\r\nx-one:b\r\nContent-Length: 4\r\n\r\nbody"))
    request = scripted_server.requests[0]
    assert (request.line, request.method, request.target) == (line, "PUT", "/b/%2F..//%C3%A9?a=+&b")
    assert (request.path, request.query) == ("/b/%2F..//%C3%A9", "a=+&b")
    assert (request.headers["x-one"], request.body) == ("a, b", b"body")


def test_a_chunked_request_body_is_joined(scripted_server: ScriptedServer) -> None:
    scripted_server.then(close_after_response(Respond()))
    request = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    read_all(ask(scripted_server, request))
    assert scripted_server.requests[0].body == b"abcde"


def test_a_request_beyond_the_script_fails_the_test() -> None:
    server = ScriptedServer()
    assert read_all(ask(server))[:2] == (b"", b"")
    with pytest.raises(ExceptionGroup) as caught:
        server.close()
    assert "no step left" in str(caught.value.exceptions[0])


def fetch(server: ObjectServer, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    client = http.client.HTTPConnection(*server.address)
    client.request(method, "/bucket/key", headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = client.getresponse()
    body = answer.read()
    client.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-9", (0, 10)),
        ("bytes=10230-", (10230, 10240)),
        ("bytes=-3", (10237, 10240)),
        ("bytes=5-99999", (5, 10240)),
    ],
)
def test_a_range_is_answered_by_206_and_its_content_range(
    object_server: ObjectServer, asked: str, expected: tuple[int, int]
) -> None:
    object_server.objects["/bucket/key"] = DATA
    start, end = expected
    status, headers, body = fetch(object_server, Range=asked)
    assert (status, body) == (206, DATA[start:end])
    assert headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"


def test_whole_objects_heads_and_refusals_are_those_of_a_store(object_server: ObjectServer) -> None:
    assert fetch(object_server)[0] == 404
    object_server.objects["/bucket/key"] = DATA
    etag = object_server.etag("/bucket/key")
    status, headers, body = fetch(object_server)
    assert (status, headers["etag"], headers["accept-ranges"], body) == (200, etag, "bytes", DATA)
    status, headers, body = fetch(object_server, "HEAD")
    assert (status, headers["content-length"], body) == (200, str(len(DATA)), b"")
    status, headers, _ = fetch(object_server, Range=f"bytes={len(DATA)}-")
    assert (status, headers["content-range"]) == (416, f"bytes */{len(DATA)}")
    assert fetch(object_server, If_Match=etag)[0] == 200
    object_server.objects["/bucket/key"] = DATA[::-1]
    assert fetch(object_server, If_Match=etag)[0] == 412
    object_server.objects["/bucket/key"] = b""
    assert fetch(object_server, Range="bytes=0-")[0] == 416


def test_a_path_uses_up_its_faults_and_then_is_honest(object_server: ObjectServer) -> None:
    object_server.objects["/bucket/key"] = DATA
    object_server.faults["/bucket/key"] = [
        s3_error(503, "SlowDown"),
        wrong_range("bytes 5-9/100"),
        without_header("Content-Range"),
        ignore_range(Respond(200, {}, DATA)),
        longer_than_range(2),
    ]
    answers = [fetch(object_server, Range="bytes=0-9") for _ in range(6)]
    assert [status for status, _, _ in answers] == [503, 206, 206, 200, 206, 206]
    assert [h.get("content-range") for _, h, _ in answers] == [
        None, "bytes 5-9/100", None, None, "bytes 0-9/10240", "bytes 0-9/10240",
    ]  # fmt: skip
    assert [len(body) for _, _, body in answers[1:]] == [10, 10, 10240, 12, 10]
    assert len(object_server.requests_of("/bucket/key")) == 6


def test_a_fault_on_an_object_distorts_the_answer_to_the_range_that_was_asked(object_server: ObjectServer) -> None:
    object_server.objects["/bucket/key"] = DATA
    object_server.faults["/bucket/key"] = [cut_after(4)]
    head, body, end = read_all(ask(object_server, GET[:-2] + b"Range: bytes=100-199\r\n\r\n"))
    assert split_head(head).headers["content-length"] == "100"
    assert (body, end) == (DATA[100:104], "fin")


@pytest.mark.parametrize("asked", [None, "", "bytes=-", "bytes=1-2,4-5", "items=0-1"])
def test_what_is_no_single_byte_range_is_ignored(asked: str | None) -> None:
    assert parse_range(asked, 100) is None
