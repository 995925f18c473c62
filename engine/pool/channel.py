"""How coordinator and workers talk: ZeroMQ over `ipc://`, in a private directory. The only module that imports zmq.

Rules:

* The directory is 0700 and made by `mkdtemp`; the socket in it is unlinked, and the directory removed, as soon as the expected workers
  are connected: an established connection needs no name, so nothing is left to find, to steal or to clean up (tried; `unbind` would
  close the connections, so the names are removed by hand). Workers that come later get a directory of their own.
* A send never blocks. The coordinator's queue to a worker holds at most what the scheduler lets lie there; a worker's queue to the
  coordinator holds at most one event for each of its parts.
* ZeroMQ's descriptor is edge-triggered: unless `ZMQ_EVENTS` is asked after every send and receive, a wake-up is lost and the loop
  stalls (seen: 3 000 instead of 30 000 objects/s). `receive` is therefore always called until it returns nothing, and `send` is
  followed by a look at the events.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator

import zmq

from ..errors import InternalError
from .messages import MAX_MESSAGE_BYTES

_LINGER_MS = 0
_MAX_FOLDER_BYTES = 100
"""A socket's path has at most 107 bytes (unix(7)); a longer TMPDIR is left for /tmp."""


class Hub:
    """The coordinator's end: one ROUTER socket that every worker connects to."""

    def __init__(self) -> None:
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.ROUTER)
        _configure(self._socket)
        self._folder: str | None = None

    @property
    def fd(self) -> int:
        """Readable when `receive` may have something, or when an event was not asked for yet."""
        return int(self._socket.getsockopt(zmq.FD))

    def open_door(self) -> str:
        """Returns the address that is open, or binds a fresh one: workers on their way to the open one must still find it."""
        if self._folder is None:
            # Here, so that workers, who open no door, need not import it.
            from tempfile import mkdtemp

            self._folder = mkdtemp(prefix="s3dlio-")
            if len(os.fsencode(self._folder)) > _MAX_FOLDER_BYTES:
                self.close_door()
                self._folder = mkdtemp(prefix="s3dlio-", dir="/tmp")
            self._socket.bind(f"ipc://{self._folder}/s")
        return f"ipc://{self._folder}/s"

    def close_door(self) -> None:
        """Removes the address's name; connections through it stay."""
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def send(self, worker: int, batch: bytes) -> bool:
        """Queues a batch for a worker; False if that worker is not there any more."""
        try:
            self._socket.send_multipart((_identity(worker), batch), flags=zmq.NOBLOCK)
        except (zmq.Again, zmq.ZMQError):
            return False
        return True

    def receive(self) -> Iterator[tuple[int, bytes]]:
        """Yields the batches that have arrived, by worker; to be exhausted each time."""
        while self.has_news():
            frames = self._socket.recv_multipart(flags=zmq.NOBLOCK)
            if len(frames) == 2 and len(frames[0]) == 5:
                yield _index(frames[0]), frames[1]

    def has_news(self) -> bool:
        """Whether something has arrived; also arms the descriptor after a send."""
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def close(self) -> None:
        """Closes the socket and its thread; what was not sent is dropped."""
        self.close_door()
        self._socket.close(linger=_LINGER_MS)
        self._context.term()


class Line:
    """A worker's end: one DEALER socket."""

    def __init__(self, index: int, address: str) -> None:
        if not address.startswith("ipc://"):
            raise InternalError("a worker talks over ipc only")
        self._folder = os.path.dirname(address.removeprefix("ipc://"))
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        _configure(self._socket)
        self._socket.setsockopt(zmq.IDENTITY, _identity(index))
        self._socket.connect(address)

    @property
    def fd(self) -> int:
        """As `Hub.fd`."""
        return int(self._socket.getsockopt(zmq.FD))

    def send(self, batch: bytes) -> bool:
        """Queues a batch; False if the queue is full, and it must be sent again."""
        try:
            self._socket.send(batch, flags=zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Iterator[bytes]:
        """Yields the batches that have arrived; to be exhausted each time."""
        while self.has_news():
            yield self._socket.recv(flags=zmq.NOBLOCK)

    def has_news(self) -> bool:
        """As `Hub.has_news`."""
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def remove_door(self) -> None:
        """Removes the address's name, where the coordinator died before it could."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Closes the socket; what was not sent is dropped."""
        self._socket.close(linger=_LINGER_MS)
        self._context.term()


def _configure(socket: zmq.Socket[bytes]) -> None:
    for option, value in (
        (zmq.LINGER, _LINGER_MS),
        (zmq.SNDHWM, 0),
        (zmq.RCVHWM, 0),
        (zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES),
    ):
        socket.setsockopt(option, value)
    if socket.type == zmq.ROUTER:
        # A send to a worker that is not there is an error, not silence.
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)


def _identity(worker: int) -> bytes:
    return b"W" + struct.pack(">I", worker)


def _index(identity: bytes) -> int:
    return int(struct.unpack(">I", identity[1:])[0])

