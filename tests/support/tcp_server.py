"""A thread-per-connection TCP listener on 127.0.0.1, and the few socket tricks that faults are made of.

Owns: the listening socket, every accepted socket, every thread, and their end. Knows nothing of HTTP.

Rules:

* What a thread of the server raises is kept and raised again by `close`, so a broken script fails its test. A client that hangs up
  (`ConnectionError`) is no failure.
* `close` returns when every thread is joined and every socket is closed, whatever the threads were waiting for.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

JOIN_TIMEOUT_S = 10.0
_TICK_S = 0.002


class TcpServer(ABC):
    """Accepts connections, on a free port of 127.0.0.1 unless told otherwise, and runs `serve` in one thread for each.

    Attributes:
        port: The port the kernel gave.
        closing: Set by `close`; whoever waits in a thread of the server must watch it.
        failures: What threads raised, in order.
    """

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.closing = threading.Event()
        self.failures: list[BaseException] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._num_accepted = 0
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(address, family=family, backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = self._start(self._accept_all, ())

    @abstractmethod
    def serve(self, sock: socket.socket, number: int) -> None:
        """Speaks with one client until it returns; the socket is closed afterwards. `number` counts connections from 1."""

    @property
    def num_connections(self) -> int:
        """How many connections were accepted so far."""
        return self._num_accepted

    def adopt(self, sock: socket.socket) -> None:
        """Makes `close` shut `sock` down as well, so that a thread blocked in it wakes up."""
        with self._lock:
            self._open.add(sock)
        if self.closing.is_set():
            shut_down(sock)

    def release(self, sock: socket.socket) -> None:
        """Closes an adopted socket and forgets it."""
        # Under the lock, since close() may be shutting down the very same descriptor number.
        with self._lock:
            self._open.discard(sock)
            sock.close()

    def wait_for(self, event: threading.Event) -> None:
        """Waits, in a thread of the server, until `event` is set or the server closes."""
        while not event.wait(_TICK_S) and not self.closing.is_set():
            pass

    def wait_for_silence(self) -> None:
        """Waits until every connection that was served has been closed, and its thread is gone."""
        for thread in self._snapshot():
            if thread is not self._acceptor:
                thread.join(JOIN_TIMEOUT_S)
                assert not thread.is_alive(), f"{thread.name} still serves a connection"

    def close(self) -> None:
        """Shuts everything down, joins all threads, and raises what they raised."""
        self.closing.set()
        with self._lock:
            for sock in (self._listener, *self._open):
                shut_down(sock)
        # The acceptor first: until it is gone it may start another thread.
        self._acceptor.join(JOIN_TIMEOUT_S)
        for thread in self._snapshot():
            thread.join(JOIN_TIMEOUT_S)
        self._listener.close()
        alive = [thread.name for thread in self._snapshot() if thread.is_alive()]
        assert not alive, f"threads of the server did not end: {alive}"
        if self.failures:
            raise ExceptionGroup("a thread of the server raised", [_as_exception(e) for e in self.failures])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, target: Callable[..., None], args: tuple[object, ...]) -> threading.Thread:
        name = f"{type(self).__name__}:{self.port}"
        thread = threading.Thread(target=self._guarded, args=(target, args), name=name, daemon=True)
        with self._lock:
            self._threads = [t for t in self._threads if t.is_alive()]
            # Started under the lock: a thread that is in the list but not yet started would look dead to the line above.
            thread.start()
            self._threads.append(thread)
        return thread

    def _snapshot(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._threads)

    def _accept_all(self) -> None:
        while not self.closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self.closing.is_set():
                    return
                raise
            self._num_accepted += 1
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.adopt(sock)
            self._start(self._serve_one, (sock, self._num_accepted))

    def _serve_one(self, sock: socket.socket, number: int) -> None:
        try:
            self.serve(sock, number)
        except ConnectionError:
            # The client hung up, or close() shut the socket down; both are part of the game.
            return
        finally:
            self.release(sock)

    def _guarded(self, target: Callable[..., None], args: tuple[object, ...]) -> None:
        try:
            target(*args)
        except BaseException as error:  # noqa: BLE001 (close raises it again)
            self.failures.append(error)


def shut_down(sock: socket.socket) -> None:
    """Wakes whoever is blocked in `sock`; a socket that is already gone is fine."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def reset(sock: socket.socket) -> None:
    """Delivers what was sent, and then a RST in place of a FIN."""
    wait_until_delivered(sock)
    # Source: socket(7), SO_LINGER: l_onoff=1 with l_linger=0 makes close() drop the connection with a RST.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def finish(sock: socket.socket) -> None:
    """Sends a clean FIN after what was sent."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        raise ConnectionError("the client is already gone") from error


def wait_until_delivered(sock: socket.socket, timeout_s: float = 5.0) -> None:
    """Waits until the peer's kernel holds all sent bytes: a RST throws away what is still in our send queue.

    Raises:
        TimeoutError: The client does not read, so the fault cannot happen at the byte that was asked for.
    """
    deadline = time.monotonic() + timeout_s
    queued = bytearray(4)
    tick = threading.Event()
    while time.monotonic() < deadline:
        # Source: tcp(7), SIOCOUTQ (the same number as TIOCOUTQ): bytes not yet acknowledged.
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, queued)
        if not any(queued):
            return
        tick.wait(_TICK_S)
    raise TimeoutError("the client did not take the bytes that come before a reset")


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
