"""An object server under TLS, and the certificates of a test's own authority."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from .object_server import ObjectServer


class Authority:
    """Issues certificates; `bundle` is the PEM file that vouches for them."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.bundle = str(folder / "authority.pem")
        self._ca.cert_pem.write_to_path(self.bundle)

    def context(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        """Returns the context of a server that is called `names`."""
        ends = datetime.now(UTC) + timedelta(days=-1 if expired else 1)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names, not_before=ends - timedelta(days=2), not_after=ends).configure_cert(context)
        return context


class TlsObjectServer(ObjectServer):
    """Serves its objects under TLS.

    Attributes:
        num_resumed: Connections that resumed a session.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.num_resumed = 0
        super().__init__()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def serve(self, sock: socket.socket, number: int) -> None:
        """Shakes hands, and serves; a client that refuses the certificate has hung up."""
        try:
            wrapped = self._context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=True)
        except (ssl.SSLError, OSError) as error:
            raise ConnectionError("no handshake") from error
        self.num_resumed += bool(wrapped.session_reused)
        self.adopt(wrapped)
        try:
            super().serve(wrapped, number)
        except ssl.SSLError as error:
            raise ConnectionError("the client hung up") from error
        finally:
            self.release(wrapped)
