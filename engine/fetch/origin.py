"""Where to connect, and what a loop knows of a place: its addresses, its idle connections, the shape of its heads."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from .head_shape import HeadShape

if TYPE_CHECKING:
    from ssl import SSLSession

    from .connection import Connection
    from .http1 import ResponseHead

_LESSONS: Final = 8
_LATER_LESSON_EVERY: Final = 256
"""Heads that are new each time are not worth their shapes (0.3 ms each); but what a server says may change for good."""

Address = tuple[int, tuple[object, ...]]
"""Family and socket address."""


class Origin(NamedTuple):
    """Where to connect."""

    host: str
    """Name or address, IPv6 without brackets."""
    port: int
    is_tls: bool = False
    ca_bundle: str | None = None
    """Of a TLS origin: where the certificates are that vouch for it; None for the system's."""


class Site:
    """One origin, as one loop knows it."""

    __slots__ = ("_known", "_num_unknown", "addresses", "idle", "origin", "session", "shape")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.idle: list[Connection] = []
        """Connections without a request, the warmest on the right."""
        self.addresses: deque[Address] = deque()
        """Those that accept connections, as far as is known, the next one to try on the left."""
        self._known: tuple[Address, ...] = ()
        """All of them."""
        self.session: SSLSession | None = None
        """The TLS session that the next connection resumes, which spares it most of the handshake."""
        self.shape: HeadShape | None = None
        """Of the head that was parsed last."""
        self._num_unknown = 0
        """Heads that had to be parsed although they had the length of the last."""

    def __str__(self) -> str:
        return f"{self.origin.host}:{self.origin.port}"

    def use(self, known: tuple[Address, ...]) -> Address:
        """Returns the address for the next connection: each of a name's in turn, so that they share the work.

        Args:
            known: All addresses that the name has now.
        """
        if known is not self._known:
            self._known = known
            self.addresses = deque(known)
        address = self.addresses[0]
        self.addresses.rotate(-1)
        return address

    def avoid(self, address: Address) -> bool:
        """Passes over an address that did not accept a connection, until the others have not either or the name is looked up anew.

        Returns:
            Whether there are others.
        """
        if address in self.addresses:
            self.addresses.remove(address)
        if self.addresses:
            return True
        self.addresses = deque(self._known)
        return False

    def learn(self, head: ResponseHead) -> None:
        """Expects heads like this one."""
        self._num_unknown += 1
        if self._num_unknown <= _LESSONS or self._num_unknown % _LATER_LESSON_EVERY == 0:
            self.shape = HeadShape(head)
