"""`gs://` on the wire: the bytes of requests to Google's JSON API, and the meaning of answers. Imports no SDK; workers run it.

Why the JSON API for reads too: a key is one segment of the path there, with every slash encoded, so that nothing on the way takes `//`
or `..` in it for a path; and reads, listings and writes have one form of conditions and refusals.

Rules:

* A read is pinned by `ifGenerationMatch`, and the answer's own generation is compared as well.
* Objects stored as gzip come as they are stored: who does not accept gzip is sent what a transcoder makes of them, of another length,
  under the checksum of the stored bytes (case N8).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..errors import ConfigurationError, ExpiredCredentialsError, NotFoundError, PermissionDeniedError, S3dlioError
from ..fetch.http1 import ResponseHead, format_range
from ..fetch.origin import Origin
from ..fetch.sigv4 import encode_component
from .gcs_config import GcsSpec
from .gcs_errors import error_from_response

if TYPE_CHECKING:
    from ..fetch.checksums import Checksum
    from .base import Operation

_RENEWAL_EVERY_S: Final = 1.0
AS_STORED: Final = "Accept-Encoding: gzip\r\n"


class GcsWire:
    """Requests to one bucket."""

    is_local = False

    def __init__(
        self, spec: GcsSpec, renew: Callable[[], object] | None = None, on_expired: Callable[[], None] | None = None
    ) -> None:
        """Opens a bucket.

        Args:
            spec: Where it is, and who asks.
            renew: Called once in a second of requests; where a token is due, it calls `use`. None in a worker, which is told.
            on_expired: Called when the store refuses the token; sooner or later somebody calls `use` then.
        """
        self._renew = renew
        self._next_renewal_s = 0.0
        self.on_expired = on_expired
        self.origin: Origin | None = Origin(spec.host, spec.port, spec.scheme == "https", spec.ca_bundle)
        self.is_unversioned = not spec.is_google
        self.use(spec)

    def use(self, spec: GcsSpec) -> None:
        """Shows the token of `spec` from now on; the place is the same."""
        self.spec = spec
        self.expires_at_s = spec.expires_at_s
        self.objects = f"{spec.path_prefix}{bucket_path(spec.bucket)}/o/"
        lines = "".join([f"{name}: {value}\r\n" for name, value in spec.headers])
        self._lines = f" HTTP/1.1\r\nHost: {spec.host_header}\r\n{lines}"

    def _head(self) -> str:
        if self._renew is not None:
            now_s = time.monotonic()
            if now_s >= self._next_renewal_s:
                self._next_renewal_s = now_s + _RENEWAL_EVERY_S
                self._renew()
        return self._lines

    def get(self, key: str, start: int, end: int | None, version: str | None, with_checksum: bool) -> bytes:
        """As `Wire.get`. Checksums come unasked."""
        target = self.media(key, version)
        span = f"Range: {format_range(start, end)}\r\n" if start or end is not None else ""
        return f"GET {target}{self._head()}{AS_STORED}{span}\r\n".encode()

    def media(self, key: str, version: str | None) -> str:
        """Returns the target of a read.

        Raises:
            NotFoundError: As `encode_name`.
            ConfigurationError: `version` is no generation.
        """
        target = f"{self.objects}{encode_name(key, self.spec.root)}?alt=media"
        if version is None:
            return target
        if not (version.isascii() and version.isdigit()):
            raise ConfigurationError("a version of an object in gs:// is its generation, which is a number")
        return f"{target}&ifGenerationMatch={version}"

    def request(self, method: str, target: str, lines: str = "", body: bytes = b"", num_bytes: int | None = None) -> bytes:
        """Returns a request for `Exchange`s.

        Args:
            method: Of HTTP.
            target: Path and query.
            lines: More headers, each with its line end.
            body: What stands behind the head.
            num_bytes: How long the body is, where others send it.
        """
        length = len(body) if num_bytes is None else num_bytes
        # Google refuses a POST or PUT without a length (411), even of nothing.
        size = "" if method == "GET" else f"Content-Length: {length}\r\n"
        return f"{method} {target}{self._head()}{lines}{size}\r\n".encode() + body

    def find_sum(self, key: str) -> Operation[tuple[str | None, Checksum] | None]:
        """As `Store.find_sum`, for who has no store."""
        from .gcs_ops import GcsOperations

        return GcsOperations(self.spec.root, self).find_sum(key)

    def successor(self) -> None:
        """There is no other way: Google does not redirect."""

    def error(self, head: ResponseHead, body: bytes, uri: str, attempts: int) -> S3dlioError:
        """As `Wire.error`."""
        error = error_from_response(head.status, head, body, uri, attempts, bool(self.spec.headers))
        return with_identity(error, self.spec, self.on_expired)


def bucket_path(bucket: str) -> str:
    """Returns the path of a bucket in the JSON API."""
    return f"/storage/v1/b/{encode_component(bucket)}"


def encode_name(key: str, root: str) -> str:
    """Returns a key as the segment of a path that it is.

    Raises:
        NotFoundError: No object is called so. At the end of a path `.` and `..` would name the bucket for whoever tidies paths up, as
            the SDK's session does, and a deletion of it would go to the bucket. Source: "About Cloud Storage objects", object names.
    """
    if not key:
        raise NotFoundError("a bucket is no object: the URI has no key", uri=root)
    if key in (".", ".."):
        raise NotFoundError("no object in gs:// has this name", uri=root + key)
    return encode_component(key)


def with_identity(error: S3dlioError, spec: GcsSpec, on_expired: Callable[[], None] | None) -> S3dlioError:
    """Returns a refusal with what there is to say of who asked, and has a token asked for if it is refused."""
    if isinstance(error, ExpiredCredentialsError):
        if on_expired is not None:
            on_expired()
        if spec.is_stale:
            # Nothing comes of trying again.
            facts = error.to_info()
            error = PermissionDeniedError(
                facts.message, uri=facts.uri, attempts=facts.attempts, status=facts.status, request_id=facts.request_id
            )
    if isinstance(error, PermissionDeniedError):
        error.message += f"; the credentials came from {spec.source}" if spec.source else "; the request was anonymous"
    return error
