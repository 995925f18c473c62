"""Connections under TLS, by the standard `ssl`. Verification is always on.

Owns the handshake, the contexts and the sessions; everything else is `connection.py` and `answer.py`. What is different here:

* OpenSSL may hold decrypted bytes that epoll knows nothing of, so an answer is received until there are none (`pending`).
* An end without a close_notify is an error (`suppress_ragged_eofs=False`): a truncated body must not look like a clean end.
* A readable socket may hold a session ticket and no answer.
* There is no scattered read or write, so head and body come, and go, by calls of their own; of a payload, so much at a time that others
  get their turn.

`ssl` is imported with this module, that is when the first https origin is met.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable
from ssl import SSLContext
from typing import cast

from ..errors import CertificateError, ConfigurationError, ConnectFailedError, describe
from .answer import Phase
from .connection import Connection

_MAX_RECORDS = 64
"""Records of one connection that are read in a row: 1 MiB."""
_PIECE_BYTES = 64 << 10
"""What is encrypted by one call. After a write that blocked, OpenSSL wants the same bytes again: pieces begin where the last ended."""
_MAX_PIECES = 16
"""Pieces of a payload that are sent in a row: 1 MiB."""
_IDLE = Phase.IDLE
_HEAD = Phase.HEAD
_BODY = Phase.BODY
_SENDING = Phase.SENDING
_HANDSHAKE = Phase.HANDSHAKE


class TlsConnection(Connection):
    """A connection whose bytes are encrypted, after a handshake that does not block either."""

    __slots__ = ("_wants_read",)

    would_block = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

    @property
    def wants_read(self) -> bool:
        return self.phase is _HANDSHAKE and self._wants_read

    @property
    def _tls(self) -> ssl.SSLSocket:
        return cast("ssl.SSLSocket", self.sock)

    def send(self) -> bool:
        """As `Connection.send`, behind the handshake.

        Raises:
            CertificateError: The server's certificate is refused.
            ConnectFailedError: As `Connection.send`.
        """
        if self.phase is _HANDSHAKE:
            self._go_on_with_handshake()
        return super().send()

    def _write(self, head: bytes | memoryview, payload: memoryview) -> int:
        write = self._tls.send
        sent = write(head) if head else 0
        if sent < len(head):
            return sent
        done = 0
        try:
            for _ in range(_MAX_PIECES):
                if done == len(payload):
                    break
                done += write(payload[done : done + _PIECE_BYTES])
        except self.would_block:
            if not sent and not done:
                raise
        return sent + done

    def _on_connected(self) -> None:
        origin = self.site.origin
        context = tls_context(origin.ca_bundle)
        try:
            self.sock = context.wrap_socket(
                self.sock,
                server_hostname=origin.host,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
                session=self.site.session,
            )
        except (OSError, ValueError) as error:
            self.site.session = None
            raise ConnectFailedError(f"no TLS with {self.site}", cause=describe(error)) from None
        self._wants_read = False
        self.phase = _HANDSHAKE
        self._go_on_with_handshake()

    def _go_on_with_handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._wants_read = True
        except ssl.SSLWantWriteError:
            self._wants_read = False
        except ssl.SSLCertVerificationError as error:
            raise CertificateError(
                f"the certificate of {self.site} is refused; if it is your own, name its issuer in AWS_CA_BUNDLE or SSL_CERT_FILE",
                cause=error.verify_message,
            ) from None
        except OSError as error:
            # A session that the server refuses may be the reason; the next attempt goes without.
            self.site.session = None
            raise ConnectFailedError(f"the TLS handshake with {self.site} failed", cause=describe(error)) from None
        else:
            self.phase = _SENDING

    def receive(self) -> bool:
        return self._drain(super().receive())

    def resume(self) -> bool:
        return self._drain(super().resume())

    def _drain(self, is_complete: bool) -> bool:
        while not is_complete and (self.phase is _HEAD or self.phase is _BODY) and self._tls.pending():
            is_complete = super().receive()
        return is_complete

    def _complete(self) -> bool:
        try:
            return super()._complete()
        finally:
            # Also behind an answer that was an error.
            if self.phase is _IDLE:
                if self._tls.pending():
                    # More than the answer: the connection serves no other request.
                    self.close()
                elif self.site.session is None:
                    self.site.session = self._tls.session

    def _receive_body(self) -> bool:
        sink = self._sink
        if sink is None or self._skip or self._chunks is not None:
            return super()._receive_body()
        # Record after record, as long as there are any: each call gives 16 KiB at most. Others get their turn after a while; what is left
        # then is in the socket, where epoll sees it, or is seen by `pending`.
        read = cast("Callable[[int, memoryview], int]", self._tls.read)
        for _ in range(_MAX_RECORDS):
            num = read(self._left, sink[self._filled :])
            if not num:
                return super()._receive_body()
            self._filled += num
            self._left -= num
            if not self._left:
                return self._complete()
        self._add_to_sum()
        return False

    def close(self) -> None:
        if self.num_uses:
            self.site.session = self._tls.session or self.site.session
        elif self.phase is _HANDSHAKE:
            # The session may be why it came to nothing.
            self.site.session = None
        super().close()

    def _expect(self, num: int) -> None:
        super()._expect(num)
        self._expected = None


_contexts: dict[str | None, SSLContext] = {}
_lock = threading.Lock()


def tls_context(ca_bundle: str | None) -> SSLContext:
    """Returns the context for servers whose certificates `ca_bundle` vouches for; read once (10 to 30 ms).

    Args:
        ca_bundle: A PEM file, or a directory of them as OpenSSL has it; None takes those of the system (`SSL_CERT_FILE` and
            `SSL_CERT_DIR` change them).

    Raises:
        ConfigurationError: The bundle cannot be read.
    """
    found = _contexts.get(ca_bundle)
    if found is None:
        with _lock:
            found = _contexts[ca_bundle] = _contexts.get(ca_bundle) or _make_context(ca_bundle)
    return found


def _make_context(ca_bundle: str | None) -> SSLContext:
    try:
        if ca_bundle is None:
            made = ssl.create_default_context()
        elif os.path.isdir(ca_bundle):
            made = ssl.create_default_context(capath=ca_bundle)
        else:
            made = ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the certificates in {ca_bundle!r} cannot be read", cause=describe(error)) from None
    made.set_alpn_protocols(["http/1.1"])
    return made


def forget_contexts() -> None:
    """Forgets all contexts, so that certificates are read anew; connections that stand go on with theirs."""
    with _lock:
        _contexts.clear()


def _renew_lock() -> None:
    # Another thread may hold it at the moment of a fork; the child would wait for ever.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
