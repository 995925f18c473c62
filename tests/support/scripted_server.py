"""A real HTTP/1.1 server whose every answer is decided by the test, down to the byte at which the connection breaks.

Owns: reading requests exactly as they came (nothing is decoded or normalised) and handing them to the script.
Never: decides what an answer means; that is `answers.py` (single answers and faults) and `object_server.py` (honest object semantics).

    with ScriptedServer([cut_after(10, Respond(200, body=data)), Respond(200, body=data)]) as server:
        ...                                 # the first request is cut, the second succeeds
        assert server.requests[1].headers["range"] == "bytes=10-"

A script is a list, used up in the order in which requests arrive, or a function of the request. A step is a `Respond`, or any
`handler(request, connection) -> None`. A request beyond the end of the list makes `close` fail.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .tcp_server import TcpServer, finish, reset

MAX_HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class Request:
    """One request as it stood on the wire."""

    line: bytes
    """The raw request line, without CRLF."""
    method: str
    target: str
    """The raw request target, latin-1, nothing decoded."""
    headers: dict[str, str]
    """Names in lower case; of a repeated header, the values joined by `, `."""
    body: bytes
    connection: int
    """Number of the connection, from 1."""
    time_s: float
    """`time.monotonic()` when the body was complete."""

    @property
    def path(self) -> str:
        """The raw target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The raw query, without `?`."""
        return self.target.partition("?")[2]


class Connection:
    """One client's connection, as a handler sees it."""

    def __init__(self, server: ScriptedServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.number = number
        self.is_open = True
        self._sock = sock
        self._unread = bytearray()

    def send(self, data: bytes | memoryview) -> None:
        """Sends all of `data`; blocks while the client does not read."""
        self._sock.sendall(data)

    def wait_for(self, event: threading.Event) -> None:
        """Waits until `event` is set or the server closes."""
        self.server.wait_for(event)

    def finish(self) -> None:
        """Ends the connection by a FIN."""
        self.is_open = False
        finish(self._sock)

    def reset(self) -> None:
        """Ends the connection by a RST, after everything sent was delivered."""
        self.is_open = False
        reset(self._sock)

    def read_head(self) -> bytes | None:
        """Returns the next request's head without its last CRLF CRLF, or None at the end of the connection."""
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            if not self._receive():
                return None
            assert len(self._unread) <= MAX_HEAD_BYTES, "the client sends a head that does not end"
        return self._take(end + 4)[:-4]

    def read_body(self, headers: Mapping[str, str]) -> bytes:
        """Returns the request's body, by its Content-Length or its chunks.

        Raises:
            ConnectionError: The client hung up in the middle.
        """
        if headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return b"".join(self._read_chunks())
        return self._read_exactly(int(headers.get("content-length", "0")))

    def _read_chunks(self) -> Iterable[bytes]:
        while True:
            while (end := self._unread.find(b"\r\n")) < 0:
                self._receive_or_raise()
            num_bytes = int(self._take(end + 2)[:-2].partition(b";")[0], 16)
            yield self._read_exactly(num_bytes + 2)[:-2]
            if num_bytes == 0:
                return

    def _read_exactly(self, num_bytes: int) -> bytes:
        while len(self._unread) < num_bytes:
            self._receive_or_raise()
        return self._take(num_bytes)

    def _take(self, num_bytes: int) -> bytes:
        taken = bytes(self._unread[:num_bytes])
        del self._unread[:num_bytes]
        return taken

    def _receive(self) -> bool:
        data = self._sock.recv(1 << 18)
        self._unread += data
        return bool(data)

    def _receive_or_raise(self) -> None:
        if not self._receive():
            raise ConnectionError("the client hung up in the middle of a request")


Handler = Callable[[Request, Connection], None]
Script = Callable[[Request], Handler]


class ScriptedServer(TcpServer):
    """The server. `requests` holds every request in order of arrival; `url` is `http://127.0.0.1:<port>`."""

    def __init__(self, script: Script | Iterable[Handler] = (), address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.requests: list[Request] = []
        self._arrived = threading.Condition()
        self._steps: list[Handler] = []
        self.script: Script
        if callable(script):
            self.script = script
        else:
            self._steps.extend(script)
            self.script = self._next_step
        super().__init__(address)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def then(self, *steps: Handler) -> None:
        """Appends steps to a script that is a list."""
        with self._arrived:
            self._steps.extend(steps)

    def wait_for_requests(self, count: int, timeout_s: float = 10.0) -> list[Request]:
        """Waits until at least `count` requests arrived, and returns all of them."""
        with self._arrived:
            arrived = self._arrived.wait_for(lambda: len(self.requests) >= count, timeout_s)
            assert arrived, f"{len(self.requests)} of {count} requests arrived in {timeout_s} s"
            return list(self.requests)

    def serve(self, sock: socket.socket, number: int) -> None:
        """Answers the requests of one connection, one after the other."""
        connection = Connection(self, sock, number)
        while connection.is_open and (head := connection.read_head()) is not None:
            request = _read_request(head, connection)
            with self._arrived:
                self.requests.append(request)
                self._arrived.notify_all()
                handler = self.script(request)
            handler(request, connection)

    def _next_step(self, request: Request) -> Handler:
        assert self._steps, f"the script has no step left for {request.line!r}"
        return self._steps.pop(0)


@dataclass
class HeadParts:
    """A request head, split but not interpreted."""

    line: bytes
    headers: dict[str, str] = field(default_factory=dict)


def split_head(head: bytes) -> HeadParts:
    """Splits the first line and the headers of a request or a response; for tests that read the wire themselves."""
    line, *fields = head.split(b"\r\n")
    parts = HeadParts(line)
    for raw in fields:
        name, _, value = raw.decode("latin-1").partition(":")
        name = name.lower()
        known = parts.headers.get(name)
        parts.headers[name] = value.strip() if known is None else f"{known}, {value.strip()}"
    return parts


def _read_request(head: bytes, connection: Connection) -> Request:
    parts = split_head(head)
    method, target, _version = parts.line.decode("latin-1").split(" ", 2)
    body = connection.read_body(parts.headers)
    return Request(parts.line, method, target, parts.headers, body, connection.number, time.monotonic())
