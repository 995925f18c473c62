"""How coordinator and workers talk: ZeroMQ over `ipc://`, in a private directory. The only module that imports zmq.

Rules:

* The directory is 0700 and made by `mkdtemp`; the socket in it is unlinked, and the directory removed, as soon as the expected workers
  are connected: an established connection needs no name, so nothing is left to find, to steal or to clean up (tried; `unbind` would
  close the connections, so the names are removed by hand). Workers that come later inherit the door itself, an O_PATH descriptor of
  the socket, and connect through `/proc/self/fd`: so the pool listens on one socket for as long as it lives, however many restarts.
* A send never blocks. The coordinator's queue to a worker holds at most what the scheduler lets lie there; a worker's queue to the
  coordinator holds at most one event for each of its parts, and no more than 1000 batches are taken in ahead of being read (S4).
* ZeroMQ aborts the whole process where it is refused a descriptor at the wrong moment, so what it will need is asked for before (P13).
* ZeroMQ's descriptor is edge-triggered: unless `ZMQ_EVENTS` is asked after every send and receive, a wake-up is lost and the loop
  stalls (seen: 3 000 instead of 30 000 objects/s). `receive` is therefore always called until it returns nothing, and `send` is
  followed by a look at the events.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
from collections.abc import Iterator

import zmq

from ..errors import InternalError
from .messages import MAX_MESSAGE_BYTES

_LINGER_MS = 0
_MAX_WAITING_BATCHES = 1000
"""Taken in and not yet read, from each worker; the rest stays with the worker. ZeroMQ's own default."""
_NUM_FDS = 16
"""A context with one socket takes eight descriptors (tried), and one for each connection."""
_MAX_FOLDER_BYTES = 100
"""A socket's path has at most 107 bytes (unix(7)); a longer TMPDIR is left for /tmp."""


class Hub:
    """The coordinator's end: one ROUTER socket that every worker connects to."""

    def __init__(self) -> None:
        """Opens no door yet.

        Raises:
            OSError: The process has no descriptors left.
        """
        _require_fds()
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.ROUTER)
        _configure(self._socket)
        self._folder: str | None = None
        self.is_armed = False
        """Whether the descriptor tells of all that arrives from now on: nothing had when it was looked last, and nothing was sent since."""
        self._door_fd = -1
        """The socket behind the first door, after it has lost its name."""

    @property
    def fd(self) -> int:
        """Readable when `receive` may have something, or when an event was not asked for yet."""
        return int(self._socket.getsockopt(zmq.FD))

    def open_door(self) -> tuple[str, tuple[int, ...]]:
        """Returns the address that is open, or opens one: workers on their way to the open one must still find it.

        Returns:
            The address, and the descriptors that a worker must inherit to reach it.

        Raises:
            OSError: No directory can be made, or no socket in it.
        """
        if self._folder is None and self._door_fd >= 0 and os.path.exists(f"/proc/self/fd/{self._door_fd}"):
            return f"ipc:///proc/self/fd/{self._door_fd}", (self._door_fd,)
        if self._folder is None:
            # Here, so that workers, who open no door, need not import it.
            from tempfile import mkdtemp

            self._folder = mkdtemp(prefix="s3dlio-")
            if len(os.fsencode(self._folder)) > _MAX_FOLDER_BYTES:
                self.close_door()
                self._folder = mkdtemp(prefix="s3dlio-", dir="/tmp")
            try:
                self._socket.bind(f"ipc://{self._folder}/s")
                if self._door_fd < 0:
                    self._door_fd = os.open(f"{self._folder}/s", os.O_PATH | os.O_CLOEXEC)
            except (zmq.ZMQError, OSError) as error:
                self.close_door()
                raise OSError(error.errno, f"no socket can be made for workers: {error}") from error
        return f"ipc://{self._folder}/s", ()

    def close_door(self) -> None:
        """Removes the address's name; connections through it stay."""
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def send(self, worker: int, batch: bytes) -> bool:
        """Queues a batch for a worker; False if that worker is not there any more."""
        self.is_armed = False
        try:
            self._socket.send_multipart((_identity(worker), batch), flags=zmq.NOBLOCK)
        except (zmq.Again, zmq.ZMQError):
            return False
        return True

    def receive(self) -> Iterator[tuple[int, bytes]]:
        """Yields the batches that have arrived, by worker; to be exhausted each time."""
        while self.has_news():
            frames = self._socket.recv_multipart(flags=zmq.NOBLOCK)
            if len(frames) == 2 and len(frames[0]) == 5 and frames[0].startswith(b"W"):
                yield _index(frames[0]), frames[1]

    def has_news(self) -> bool:
        """Whether something has arrived; also arms the descriptor after a send."""
        has_news = bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
        self.is_armed = not has_news
        return has_news

    def close(self) -> None:
        """Closes the socket and its thread; what was not sent is dropped."""
        self.close_door()
        if self._door_fd >= 0:
            os.close(self._door_fd)
            self._door_fd = -1
        self._socket.close(linger=_LINGER_MS)
        self._context.term()


class Line:
    """A worker's end: one DEALER socket."""

    def __init__(self, index: int, address: str) -> None:
        if not address.startswith("ipc://"):
            raise InternalError("a worker talks over ipc only")
        self._folder = os.path.dirname(address.removeprefix("ipc://"))
        self._has_name = not self._folder.startswith("/proc/")
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
        if self._has_name:
            shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Closes the socket; what was not sent is dropped."""
        self._socket.close(linger=_LINGER_MS)
        self._context.term()


def _configure(socket: zmq.Socket[bytes]) -> None:
    for option, value in (
        (zmq.LINGER, _LINGER_MS),
        (zmq.SNDHWM, 0),
        (zmq.RCVHWM, _MAX_WAITING_BATCHES if socket.type == zmq.ROUTER else 0),
        (zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES),
    ):
        socket.setsockopt(option, value)
    if socket.type == zmq.ROUTER:
        # A send to a worker that is not there is an error, not silence.
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)


def _require_fds() -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(_NUM_FDS):
            stack.callback(os.close, os.eventfd(0, os.EFD_CLOEXEC))


def _identity(worker: int) -> bytes:
    return b"W" + struct.pack(">I", worker)


def _index(identity: bytes) -> int:
    return int(struct.unpack(">I", identity[1:])[0])

