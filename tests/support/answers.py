"""What a scripted server can say: one honest answer, and the ways in which an answer breaks.

Every factory here returns a handler for `ScriptedServer`. A fault distorts an answer: the one it is given, or, on an
`ObjectServer`, the honest answer to the very request (so the head of a cut answer announces the right range and length).
Counts of bytes are counts of body bytes; the head is always sent whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from .scripted_server import Connection, Handler, Request


@dataclass(frozen=True)
class Respond:
    """An honest answer, and the handler that sends it. `Content-Length` is added where it is missing; HEAD gets no body."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""

    def __call__(self, request: Request, connection: Connection) -> None:
        connection.send(self.head())
        if request.method != "HEAD":
            connection.send(self.body)

    def head(self) -> bytes:
        """Returns status line, headers and the empty line."""
        headers = dict(self.headers)
        names = {name.lower() for name in headers}
        # RFC 9112 §6: no Content-Length beside Transfer-Encoding. RFC 9110 §8.6: none with 1xx and 204.
        if not names & {"content-length", "transfer-encoding"} and self.status not in (100, 204):
            headers["Content-Length"] = str(len(self.body))
        lines = [f"HTTP/1.1 {self.status} {_reason(self.status)}", *(f"{k}: {v}" for k, v in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def with_headers(self, **headers: str | None) -> Respond:
        """Returns a copy with headers set (`content_range=...`) or, by None, removed; names are matched without case."""
        given = {name.replace("_", "-").lower(): value for name, value in headers.items()}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in given}
        return replace(self, headers=kept | {name: value for name, value in given.items() if value is not None})


def s3_error(status: int, code: str, headers: Mapping[str, str] | None = None) -> Respond:
    """Returns S3's XML error. Source: "Error responses" of the Amazon S3 API reference."""
    body = f"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{code}</Code><Message>scripted</Message></Error>"
    return Respond(
        status, {"Content-Type": "application/xml", "x-amz-request-id": "SCRIPTED", **(headers or {})}, body.encode()
    )


def cut_after(num_bytes: int, answer: Respond | None = None) -> Handler:
    """Announces the whole body, sends `num_bytes` of it, then a clean FIN (N4)."""
    return _broken_off(num_bytes, Connection.finish, answer)


def reset_after(num_bytes: int, answer: Respond | None = None) -> Handler:
    """Announces the whole body, sends `num_bytes` of it, then a RST (N3)."""
    return _broken_off(num_bytes, Connection.reset, answer)


def reset_before_headers() -> Handler:
    """Reads the request and answers by a RST (N2)."""
    return lambda _request, connection: connection.reset()


def close_before_headers() -> Handler:
    """Reads the request and answers by a FIN, as a server does whose keep-alive timeout has just passed (N15)."""
    return lambda _request, connection: connection.finish()


def stall_after(num_bytes: int, event: threading.Event, answer: Respond | None = None) -> Handler:
    """Sends head and `num_bytes` of the body, and the rest when `event` is set (N13)."""

    def handle(request: Request, connection: Connection) -> None:
        found = _answer(request, connection, answer)
        body = memoryview(found.body)
        connection.send(found.head())
        connection.send(body[:num_bytes])
        connection.wait_for(event)
        connection.send(body[num_bytes:])

    return handle


def stall_before_headers(event: threading.Event, answer: Respond | None = None) -> Handler:
    """Answers only when `event` is set (N13)."""

    def handle(request: Request, connection: Connection) -> None:
        connection.wait_for(event)
        _answer(request, connection, answer)(request, connection)

    return handle


def extra_bytes(num_bytes: int, answer: Respond | None = None) -> Handler:
    """Sends `num_bytes` of 0xEE after the announced body (N5)."""

    def handle(request: Request, connection: Connection) -> None:
        found = _answer(request, connection, answer)
        found(request, connection)
        connection.send(b"\xee" * num_bytes)

    return handle


def longer_than_range(num_bytes: int, answer: Respond | None = None) -> Handler:
    """Announces and sends `num_bytes` of 0xEE more than the range holds; Content-Length is true to the body (N5)."""
    return _distorted(
        lambda a: replace(a, body=bytes(a.body) + b"\xee" * num_bytes).with_headers(content_length=None), answer
    )


def wrong_range(content_range: str, answer: Respond | None = None) -> Handler:
    """Sends the honest body under another `Content-Range`, as `bytes 5-9/100` (N6)."""
    return _distorted(lambda a: a.with_headers(content_range=content_range), answer)


def without_header(name: str, answer: Respond | None = None) -> Handler:
    """Sends the honest answer without one of its headers (N6: a 206 with no Content-Range)."""
    return _distorted(lambda a: a.with_headers(**{name: None}), answer)


def ignore_range(answer: Respond) -> Handler:
    """Answers 200 with the whole object, whatever range was asked for (N6)."""
    return answer


def chunked(chunk_bytes: int, answer: Respond | None = None) -> Handler:
    """Sends the honest body in chunks, with no Content-Length (N7). Source: RFC 9112 §7.1."""

    def handle(request: Request, connection: Connection) -> None:
        found = _answer(request, connection, answer).with_headers(content_length=None, transfer_encoding="chunked")
        body = memoryview(found.body)
        connection.send(found.head())
        for start in range(0, len(body), chunk_bytes):
            chunk = body[start : start + chunk_bytes]
            connection.send(b"%x\r\n%b\r\n" % (len(chunk), bytes(chunk)))
        connection.send(b"0\r\n\r\n")

    return handle


def raw(data: bytes, *, finish: bool = True) -> Handler:
    """Sends `data` as it stands, and then (unless `finish` is False) a FIN."""

    def handle(_request: Request, connection: Connection) -> None:
        connection.send(data)
        if finish:
            connection.finish()

    return handle


def flipped(position: int, answer: Respond | None = None) -> Handler:
    """Sends the honest answer with one bit of the body's byte at `position` turned over (I4)."""
    return _distorted(lambda a: flip(a, position), answer)


def flip(answer: Respond, position: int) -> Respond:
    """Returns `answer` with one bit of the body's byte at `position` turned over."""
    body = bytearray(answer.body)
    body[position] ^= 0x10
    return replace(answer, body=bytes(body))


def close_after_response(answer: Respond | None = None, *, announce: bool = False) -> Handler:
    """Sends the honest answer and closes the connection; only with `announce` does the head say so (N15)."""

    def handle(request: Request, connection: Connection) -> None:
        found = _answer(request, connection, answer)
        if announce:
            found = found.with_headers(connection="close")
        found(request, connection)
        connection.finish()

    return handle


def _broken_off(num_bytes: int, end: Callable[[Connection], None], answer: Respond | None) -> Handler:
    def handle(request: Request, connection: Connection) -> None:
        found = _answer(request, connection, answer)
        connection.send(found.head())
        connection.send(memoryview(found.body)[:num_bytes])
        end(connection)

    return handle


def _distorted(change: Callable[[Respond], Respond], answer: Respond | None) -> Handler:
    return lambda request, connection: change(_answer(request, connection, answer))(request, connection)


def _answer(request: Request, connection: Connection, answer: Respond | None) -> Respond:
    if answer is not None:
        return answer
    honest = getattr(connection.server, "honest", None)
    assert honest is not None, "a fault on a plain ScriptedServer needs the answer that it distorts"
    found = honest(request)
    assert isinstance(found, Respond)
    return found


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Scripted"
