"""Connections that are kept: opened as needed, used again last-in first-out, closed when they are old or too many.

Owns the sites of one fetch loop, with their idle connections and addresses. It sends and receives nothing.
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
from .origin import Address, Origin, Site
from .request import Fetch

_ADDRESS_TTL_S: Final = 60.0

class Connections:
    """The idle connections of a loop, all of them in its epoll set: a server that closes one is noticed."""

    def __init__(self, epoll: select.epoll, grant: Callable[[Fetch], memoryview | None]) -> None:
        self._epoll = epoll
        self._grant = grant
        self._sites: dict[Origin, Site] = {}
        self._by_fd: dict[int, Connection] = {}
        self.oldest_s = 0.0
        """What was used last before this, by the monotonic clock, is not used again."""

    def __len__(self) -> int:
        return len(self._by_fd)

    def take(self, origin: Origin, max_idle: int) -> Connection:
        """Returns an idle connection to `origin`, or a new one that is connecting; then at most `max_idle` others stay idle.

        Raises:
            ConnectFailedError: The name is unknown, the connection is refused, or no descriptor is left.
        """
        site = self._site(origin)
        if site.idle:
            connection = site.idle.pop()
            del self._by_fd[connection.fd]
            if connection.stamp_s >= self.oldest_s:
                return connection
            # The warmest is too old, and so are all.
            connection.close()
            self.drop_old()
        while len(self._by_fd) > max_idle:
            self._drop(next(iter(self._by_fd.values())))
        connection = self._make(site)
        self._epoll.register(connection.fd, select.EPOLLIN)
        return connection

    def _make(self, site: Site) -> Connection:
        address = _address(site)
        if not site.origin.is_tls:
            return Connection(site, address, self._grant)
        from .tls import TlsConnection

        return TlsConnection(site, address, self._grant)

    def knows(self, origin: Origin) -> bool:
        """Whether the addresses of `origin` are at hand, so that `take` asks nobody for them."""
        site = self._sites.get(origin)
        return site is not None and site.addresses_until_s > time.monotonic()

    def learn(self, origin: Origin, addresses: list[Address]) -> None:
        """Takes addresses that somebody else has looked up by `resolve`."""
        _note(self._site(origin), addresses)

    def _site(self, origin: Origin) -> Site:
        site = self._sites.get(origin)
        if site is None:
            site = self._sites[origin] = Site(origin)
        return site

    def keep(self, connection: Connection, now_s: float) -> None:
        """Takes a connection back that has no request; from now on its stamp is of the monotonic clock, which no caller stops."""
        connection.stamp_s = now_s
        self._by_fd[connection.fd] = connection
        connection.site.idle.append(connection)

    def avoid(self, site: Site) -> None:
        """Puts the address that was used last behind the others of the same name: it did not accept a connection."""
        site.addresses.rotate(-1)

    def on_event(self, fd: int) -> None:
        """An idle connection became readable: the server closed it, or sent what nobody asked for."""
        connection = self._by_fd.get(fd)
        if connection is not None:
            self._drop(connection)

    def drop_old(self) -> None:
        """Closes what was last used before `oldest_s`."""
        for connection in [c for c in self._by_fd.values() if c.stamp_s < self.oldest_s]:
            self._drop(connection)

    def close(self) -> None:
        """Closes all."""
        for connection in self._by_fd.values():
            connection.close()
        self._by_fd.clear()
        self._sites.clear()

    def _drop(self, connection: Connection) -> None:
        del self._by_fd[connection.fd]
        connection.site.idle.remove(connection)
        connection.close()


def _address(site: Site) -> Address:
    """Returns the address to try next.

    Raises:
        ConnectFailedError: The name is unknown.
    """
    if site.addresses_until_s <= time.monotonic():
        _note(site, resolve(site.origin))
    return site.addresses[0]


def _note(site: Site, addresses: list[Address]) -> None:
    site.addresses = deque(addresses)
    site.addresses_until_s = time.monotonic() + _ADDRESS_TTL_S


def resolve(origin: Origin) -> list[Address]:
    """Returns the addresses of an origin; blocks for as long as the resolver takes.

    Raises:
        ConnectFailedError: The name is unknown.
    """
    try:
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectFailedError(f"the name {origin.host} cannot be resolved", cause=str(error)) from None
    return [(int(family), address) for family, _, _, _, address in found]
