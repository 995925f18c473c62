"""A proxy in a process of its own that writes down every request which passes, and says so to whoever asks.

Owns: the listening ports, one for each client under test, and their lists of requests. It forwards bytes as they come and changes none.

A process of its own, so that neither its threads nor the connections that clients keep alive belong to a test.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httptools

from .processes import ScriptProcess
from .tcp_server import TcpServer, finish

_PROGRAM = (
    "import sys; from tests.support.recorder import serve; serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
)
_CHUNK_BYTES = 1 << 18
_QUESTION = b"GET /--sent "


class Recorder:
    """Runs until `close`.

    Args:
        url: `http://host:port` of the server behind.
        count: How many ports to open.

    Attributes:
        urls: Where the clients go.
    """

    def __init__(self, url: str, count: int) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._process = ScriptProcess(_PROGRAM, [host, port, str(count)], dict(os.environ))
        try:
            self.urls = [f"http://127.0.0.1:{port}" for port in self._process.expect("READY")]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def take_sent(url: str) -> list[dict[str, Any]]:
    """Returns the requests that passed the port of `url` since this was asked last, in order of their ends.

    Each has `method`, `target` (as sent: path and query) and `headers` (names in lower case).
    """
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(_QUESTION + b"HTTP/1.0\r\n\r\n")
        with sock.makefile("rb") as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())
            return found


def serve(host: str, port: int, count: int) -> None:
    """Is the proxy, until standard input ends."""
    lines = [_Line((host, port)) for _ in range(count)]
    print("READY", *(line.port for line in lines), flush=True)  # noqa: T201 (that is how it talks)
    sys.stdin.read()
    os._exit(0)


class _Line(TcpServer):
    """One port."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._sent: list[dict[str, Any]] = []
        self._book = threading.Lock()
        super().__init__()

    def serve(self, sock: socket.socket, number: int) -> None:
        first = sock.recv(_CHUNK_BYTES)
        if first.startswith(_QUESTION):
            sock.sendall(json.dumps(self._take()).encode())
            return
        server = socket.create_connection(self._target)
        self.adopt(server)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._forward(first, sock, server)
        finally:
            self.release(server)

    def _forward(self, first: bytes, client: socket.socket, server: socket.socket) -> None:
        reading = _Reading(self._write_down)
        parser = reading.parser = httptools.HttpRequestParser(reading)
        data, sides = first, [client, server]
        while data:
            # Written down before the server sees the end of it, so that nobody has an answer to what is not in the list.
            parser.feed_data(data)
            server.sendall(data)
            data = b""
            while not data:
                ready = select.select(sides, [], [])[0]
                if server in ready:
                    back = server.recv(_CHUNK_BYTES)
                    if not back:
                        finish(client)
                        return
                    client.sendall(back)
                if client in ready:
                    data = client.recv(_CHUNK_BYTES)
                    if not data:
                        return

    def _write_down(self, request: dict[str, Any]) -> None:
        with self._book:
            self._sent.append(request)

    def _take(self) -> list[dict[str, Any]]:
        with self._book:
            found, self._sent = self._sent, []
            return found


class _Reading:
    """What httptools calls while it reads the requests of one connection."""

    parser: httptools.HttpRequestParser

    def __init__(self, done: Callable[[dict[str, Any]], None]) -> None:
        self._done = done
        self.on_message_begin()

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_message_complete(self) -> None:
        self._done(
            {
                "method": self.parser.get_method().decode(),
                "target": self._target.decode(),
                "headers": self._headers,
            }
        )
