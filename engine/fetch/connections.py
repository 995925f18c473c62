"""Connections that are kept: opened as needed, used again last-in first-out, closed when they are old or too many.

Owns the idle connections of one fetch loop and the addresses of its origins. It sends and receives nothing.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ..errors import ConnectFailedError
from .connection import Connection
from .request import Fetch, Origin

_ADDRESS_TTL_S: Final = 60.0

Address = tuple[int, tuple[object, ...]]
"""Family and socket address."""


class Connections:
    """The idle connections of a loop, all of them in its epoll set: a server that closes one is noticed."""

    def __init__(self, epoll: select.epoll, grant: Callable[[Fetch], memoryview | None]) -> None:
        self._epoll = epoll
        self._grant = grant
        self._idle: dict[Origin, list[Connection]] = {}
        """By origin, the warmest on the right."""
        self._by_fd: dict[int, Connection] = {}
        self._addresses: dict[Origin, tuple[float, deque[Address]]] = {}
        """By origin: until when they hold, and the addresses, the next one to try on the left."""

    def __len__(self) -> int:
        return len(self._by_fd)

    def take(self, origin: Origin, max_idle: int) -> Connection:
        """Returns an idle connection to `origin`, or a new one that is connecting; then at most `max_idle` others stay idle.

        Raises:
            ConnectFailedError: The name is unknown, the connection is refused, or no descriptor is left.
        """
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            del self._by_fd[connection.fd]
            if connection.is_clean:
                return connection
            connection.close()
        while len(self._by_fd) > max_idle:
            self._drop(next(iter(self._by_fd.values())))
        connection = Connection(origin, self._address(origin), self._grant)
        self._epoll.register(connection.fd, select.EPOLLIN)
        return connection

    def keep(self, connection: Connection, now_s: float) -> None:
        """Takes a connection back that has no request."""
        connection.stamp_s = now_s
        self._by_fd[connection.fd] = connection
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._idle[connection.origin] = []
        idle.append(connection)

    def avoid(self, origin: Origin) -> None:
        """Puts the address that was used last behind the others of the same name: it did not accept a connection."""
        known = self._addresses.get(origin)
        if known is not None:
            known[1].rotate(-1)

    def on_event(self, fd: int) -> None:
        """An idle connection became readable: the server closed it, or sent what nobody asked for."""
        connection = self._by_fd.get(fd)
        if connection is not None:
            self._drop(connection)

    def drop_older(self, than_s: float) -> None:
        """Closes what was last used before `than_s`."""
        for connection in [c for c in self._by_fd.values() if c.stamp_s < than_s]:
            self._drop(connection)

    def close(self) -> None:
        """Closes all."""
        for connection in self._by_fd.values():
            connection.close()
        self._by_fd.clear()
        self._idle.clear()

    def _drop(self, connection: Connection) -> None:
        del self._by_fd[connection.fd]
        self._idle[connection.origin].remove(connection)
        connection.close()

    def _address(self, origin: Origin) -> Address:
        now_s = time.monotonic()
        known = self._addresses.get(origin)
        if known is not None and known[0] > now_s:
            return known[1][0]
        try:
            found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConnectFailedError(f"the name {origin.host} cannot be resolved", cause=str(error)) from None
        addresses: deque[Address] = deque((int(family), address) for family, _, _, _, address in found)
        self._addresses[origin] = (now_s + _ADDRESS_TTL_S, addresses)
        return addresses[0]
