"""How a fetch loop hears from other threads: a list of what has arrived, and an eventfd that wakes its epoll set."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """One loop's; any thread may post to it."""

    _is_closed = True

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable when something has arrived."""
        self._is_closed = False
        self._arrived: list[T] = []
        self._lock = threading.Lock()
        """A descriptor that is closed may be another file's a moment later, so nobody writes to it without this."""

    def post(self, item: T) -> bool:
        """Delivers; returns False if the loop is gone."""
        with self._lock:
            if self._is_closed:
                return False
            self._arrived.append(item)
            os.eventfd_write(self.fd, 1)
            return True

    def take(self) -> list[T]:
        """Returns what has arrived since the last call."""
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.fd)
            arrived, self._arrived = self._arrived, []
            return arrived

    def __del__(self) -> None:
        # Of a loop that nobody closed: Ctrl-C may come just as it is lent. Sockets and epoll sets do so by themselves.
        if not self._is_closed:
            os.close(self.fd)

    def close(self) -> list[T]:
        """Hears nothing any more; returns what had arrived."""
        with self._lock:
            self._is_closed = True
            os.close(self.fd)
            arrived, self._arrived = self._arrived, []
            return arrived
