"""Connections that are kept: opened as needed, used again last-in first-out, closed when they are old or too many.

Owns the sites of one fetch loop, with their idle connections and addresses. It sends and receives nothing.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from ..errors import ConnectFailedError
from . import names
from .connection import Connection
from .mailbox import Mailbox
from .origin import Address, Origin, Site
from .request import Fetch


class Connections:
    """The idle connections of a loop, all of them in its epoll set: a server that closes one is noticed."""

    def __init__(
        self, epoll: select.epoll, grant: Callable[[Fetch], memoryview | None], watch: Callable[[Mailbox[names.Name]], None]
    ) -> None:
        """Begins with none.

        Args:
            epoll: The loop's set.
            grant: As of a `Connection`.
            watch: Called with the mailbox, once there is one.
        """
        self._epoll = epoll
        self._grant = grant
        self._watch = watch
        self.mailbox: Mailbox[names.Name] | None = None
        """Hears when names have been looked up; None as long as there was nothing to look up."""
        self._sites: dict[Origin, Site] = {}
        self._by_fd: dict[int, Connection] = {}
        self.oldest_s = 0.0
        """What was used last before this, by the monotonic clock, is not used again."""

    def __len__(self) -> int:
        return len(self._by_fd)

    def take(self, origin: Origin, max_idle: int) -> Connection | None:
        """Returns an idle connection to `origin`, or a new one that is connecting; then at most `max_idle` others stay idle.

        None says that the name is being looked up: `mailbox` hears when that is over.

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
        address = self._address(site)
        if address is None:
            return None
        connection = self._make(site, address)
        self._epoll.register(connection.fd, select.EPOLLIN)
        return connection

    def _address(self, site: Site) -> Address | None:
        """Returns the address to try next; None where it is not known yet.

        Raises:
            ConnectFailedError: The name is unknown.
        """
        origin = site.origin
        found = names.known(origin)
        is_old = found is None or found.until_s <= time.monotonic()
        if is_old:
            if self.mailbox is None:
                self.mailbox = Mailbox()
                self._watch(self.mailbox)
            names.ask(origin, self.mailbox)
        if found is None or (is_old and not found.addresses):
            return None
        if not found.addresses:
            raise ConnectFailedError(f"the name {origin.host} cannot be resolved", cause=found.problem)
        return site.use(found.addresses)

    def _make(self, site: Site, address: Address) -> Connection:
        if not site.origin.is_tls:
            return Connection(site, address, self._grant)
        from .tls import TlsConnection

        return TlsConnection(site, address, self._grant)

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
        if self.mailbox is not None:
            self.mailbox.close()
            self.mailbox = None

    def _drop(self, connection: Connection) -> None:
        del self._by_fd[connection.fd]
        connection.site.idle.remove(connection)
        connection.close()
