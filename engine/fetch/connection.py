"""One keep-alive connection: connects, sends a request, and receives its answer (`answer.py`).

Owns a socket and at most one request, whose payload leaves from the caller's memory, without a copy. It never blocks, and never decides
about retries, timeouts or queues (`loop.py` does).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ConnectFailedError, ProtocolError
from .answer import AnswerReceiver, Phase
from .origin import Address, Site
from .request import Fetch

if TYPE_CHECKING:
    from ..config import Settings
    from ..errors import S3dlioError

_CONNECTING = Phase.CONNECTING
_SENDING = Phase.SENDING
_HEAD = Phase.HEAD
_IDLE = Phase.IDLE
_BODY = Phase.BODY
READS = ("GET", "HEAD")
"""Methods whose answers come at once. While S3 copies, or puts parts together, it sends a space now and then, for minutes."""


class Connection(AnswerReceiver):
    """A non-blocking socket with a request, or ready for one."""

    __slots__ = ("_address", "_payload", "_rate_bytes", "_rate_of", "_rate_since_s", "_unsent", "fd", "sent_s", "stamp_s")

    def __init__(self, site: Site, address: Address, grant: Callable[[Fetch], memoryview | None]) -> None:
        """Begins to connect to `address`, one of the site's.

        Args:
            site: Where it belongs when it has no request.
            address: Family and socket address.
            grant: Asked for memory when a body is longer than `fetch.out`; None from it parks the connection.

        Raises:
            ConnectFailedError: Refused at once, or no descriptor is left.
        """
        super().__init__(site, grant)
        self.phase = _CONNECTING
        self._address = address
        self.sent_s = 0.0
        """When the request was sent, or was to be, by the loop's clock."""
        self.stamp_s = 0.0
        """When something last moved, by the loop's clock."""
        self._unsent: bytes | memoryview = b""
        """What is still to be sent of the head."""
        self._payload: memoryview | None = None
        """What is still to be sent behind it: the caller's own memory, held no longer than it is needed."""
        self._rate_of = -1
        """The answer whose throughput is watched, by its number."""
        self._rate_bytes = 0
        self._rate_since_s = 0.0
        try:
            self.sock = socket.socket(address[0], socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise ConnectFailedError("no socket could be opened; raise `ulimit -n` or lower jobs", cause=str(error)) from None
        self.fd = self.sock.fileno()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        problem = self.sock.connect_ex(address[1])
        if problem not in (0, errno.EINPROGRESS):
            self.close()
            self.avoid_address()
            raise ConnectFailedError(f"cannot connect to {self.site}", cause=os.strerror(problem))
        # A connection that stands at once is told so by epoll like any other, so there is one way on.

    def avoid_address(self) -> bool:
        """Has the next connection try another address of the same name; returns whether there is one that was not tried."""
        return self.site.avoid(self._address)

    def start(self, fetch: Fetch, request: bytes) -> None:
        """Sends the request of `fetch`, or remembers it until the connection stands.

        Args:
            fetch: Whose answer is received then. Its payload is sent behind the request.
            request: What it builds.

        Raises:
            ConnectFailedError: The connection broke.
        """
        self.fetch = fetch
        self._unsent = request
        self._payload = fetch.payload
        if self.phase is not _CONNECTING:
            self.phase = _SENDING
            self.send()

    def send(self) -> bool:
        """Goes on sending; returns whether all of the request is out.

        Raises:
            ConnectFailedError: The connection could not be made, or broke.
        """
        if self.phase is _CONNECTING:
            problem = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if problem:
                raise ConnectFailedError(f"cannot connect to {self.site}", cause=os.strerror(problem))
            self._on_connected()
        if self.phase is not _SENDING:
            return False
        if self._payload is not None:
            return self._send_payload(self._payload)
        try:
            sent = self.sock.send(self._unsent)
        except self.would_block:
            return False
        except OSError as error:
            raise ConnectFailedError(f"the connection to {self.site} broke", cause=str(error)) from None
        if sent < len(self._unsent):
            self._unsent = memoryview(self._unsent)[sent:]
            return False
        self._unsent = b""
        self.phase = _HEAD
        return True

    def _send_payload(self, payload: memoryview) -> bool:
        """Goes on with a request that has one; returns whether all of it is out."""
        unsent = self._unsent
        try:
            sent = self._write(unsent, payload)
        except self.would_block:
            return False
        except OSError:
            # A server that refuses a body may close the connection behind its answer, which is still to be read.
            self._stop_sending()
            return True
        if sent < len(unsent):
            self._unsent = memoryview(unsent)[sent:]
            return False
        self._unsent = b""
        if sent < len(unsent) + len(payload):
            self._payload = payload[sent - len(unsent) :]
            return False
        self._payload = None
        self.phase = _HEAD
        return True

    def _write(self, head: bytes | memoryview, payload: memoryview) -> int:
        """Sends what the kernel takes of both, and returns how many bytes."""
        return self.sock.sendmsg((head, payload))

    def _on_connected(self) -> None:
        self.phase = _SENDING

    @property
    def wants_read(self) -> bool:
        """Whether `send` goes on when there is something to read."""
        return False

    def receive_early(self) -> bool:
        """Takes what comes before the server has the whole request (case N17).

        An answer ends the sending: the rest of the request is not sent, and the connection serves no other. Anything else (1xx, a TLS
        session ticket, the beginning of a head) does not.
        """
        unsent, payload = self._unsent, self._payload
        self._stop_sending()
        is_complete = self.receive()
        if self.phase is _HEAD:
            self._unsent, self._payload = unsent, payload
            self._ends_here = False
            self.phase = _SENDING
        return is_complete

    def _stop_sending(self) -> None:
        self._unsent = b""
        self._payload = None
        self._ends_here = True
        self.phase = _HEAD

    def close(self) -> None:
        """As `AnswerReceiver.close`; it lets go of the payload."""
        self._payload = None
        super().close()

    def failed_for_its_past(self, error: S3dlioError) -> bool:
        """Whether `error` tells only what this kept connection went through before its request.

        The server had closed it (case N15), or bytes that nobody announced were on their way behind the answer before (case N5): they are
        no beginning of an answer.
        """
        if self.num_uses == 0 or self.phase > _HEAD:
            return False
        if isinstance(error, ConnectFailedError):
            return self._head_used == 0
        # A head that came whole, and is refused for what it says, has left the phase behind.
        return isinstance(error, ProtocolError) and error.status is None and self.phase is _HEAD

    def forgive(self) -> None:
        """Has its throughput watched from now on only: it had no room to receive into."""
        self._rate_of = -1

    def is_too_slow(self, now_s: float, limits: Settings) -> bool:
        """Whether fewer bytes than the limit came, or were taken, in the last span of time; to be asked now and then (case N14).

        A server that sends or takes a byte whenever its silence would be noticed is as good as silent.
        """
        fetch = self.fetch
        assert fetch is not None
        moved = self._num_moved(fetch)
        if moved is None:
            return False
        if self._rate_of != self.num_uses or moved < self._rate_bytes:
            self._rate_of, self._rate_bytes, self._rate_since_s = self.num_uses, moved, now_s
            return False
        if now_s - self._rate_since_s < limits.min_throughput_s:
            return False
        is_slow = moved - self._rate_bytes < limits.min_throughput_bytes_s * (now_s - self._rate_since_s)
        self._rate_bytes, self._rate_since_s = moved, now_s
        return is_slow

    def _num_moved(self, fetch: Fetch) -> int | None:
        """Returns how many bytes were sent or received by now; None where nobody counts."""
        if self._payload is not None:
            return None if fetch.payload is None or self.phase is not _SENDING else len(fetch.payload) - len(self._payload)
        if fetch.method not in READS:
            return None
        if self.phase is not _BODY and not self._head_used:
            return None
        received = fetch.received + self._filled + self._head_used - self._skip
        return received if self._chunks is None else received + len(self._chunks.data)

    def patience(self, limits: Settings) -> tuple[str, float]:
        """Returns what it waits for, as the beginning of an error's text, and for how long it may, in seconds."""
        if self.phase is _CONNECTING:
            return f"{self.site} did not accept a connection", limits.connect_timeout_s
        if self.phase is Phase.HANDSHAKE:
            return f"{self.site} did not go on with the TLS handshake", limits.connect_timeout_s
        if self._payload is not None:
            return f"{self.site} took nothing more of the request's body", limits.silence_timeout_s
        if self.phase is _BODY and (self.fetch is None or self.fetch.method in READS):
            return f"{self.site} sent nothing more of the body", limits.silence_timeout_s
        return f"{self.site} did not answer", limits.first_byte_timeout_s
