"""`s3://` on the wire: the bytes of requests, signed, and the meaning of answers. Imports no SDK; workers run it."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import (
    BucketElsewhereError,
    ConfigurationError,
    ExpiredCredentialsError,
    NotFoundError,
    PermissionDeniedError,
    S3dlioError,
)
from ..fetch.http1 import ResponseHead, format_range
from ..fetch.origin import Origin
from ..fetch.sigv4 import EMPTY_SHA256, UNSIGNED_PAYLOAD, Credentials, Headers, Signer, encode_key, encode_query
from .s3_spec import S3Spec
from .s3_xml import error_from_response

if TYPE_CHECKING:
    from ..fetch.checksums import Checksum
    from .base import Operation

_log = logging.getLogger("s3dlio")
_lock = threading.Lock()
"""Held while a successor is made: microseconds."""
_told: set[tuple[str, str]] = set()
ELSEWHERE = "it is in another region, or the store redirects"
"""Why a bucket came to the SDK lane that had begun on the fast one."""
_WITH_CHECKSUM: Headers = (("x-amz-checksum-mode", "ENABLED"),)


class S3Wire:
    """Requests to one bucket."""

    is_local = False

    def __init__(
        self, spec: S3Spec, renew: Callable[[], object] | None = None, on_expired: Callable[[], None] | None = None
    ) -> None:
        """Opens a bucket.

        Args:
            spec: Where it is, and who asks.
            renew: Called once in a second of requests; where credentials are due, it calls `use`. None in a worker, which is told.
            on_expired: Called when the store refuses the credentials as expired; sooner or later somebody calls `use` then.
        """
        self._renew = renew
        self.on_expired = on_expired
        self.origin = Origin(spec.host, spec.port, spec.scheme == "https", spec.ca_bundle)
        self._host = spec.host_header
        agent = "" if spec.user_agent is None else f"\r\nUser-Agent: {spec.user_agent}"
        self._opening = f" HTTP/1.1\r\nHost: {self._host}{agent}\r\n"
        """What follows the target of every request."""
        self._base = spec.path_prefix + "/"
        self._spec = spec
        self._successor: Any = None
        """The wire that a bucket in another region is reached by, once it turned out to be there."""
        self._is_elsewhere = False
        self.use(spec)

    def use(self, spec: S3Spec) -> None:
        """Signs with the credentials of `spec` from now on; the place is the same.

        Raises:
            AuthenticationError, ConfigurationError: As `Signer`; what was used before is used on.
        """
        credentials = None
        if spec.access_key is not None and spec.secret_key is not None:
            credentials = Credentials(spec.access_key, spec.secret_key, spec.token, spec.expires_at_s)
        self._signer = Signer(credentials, region=spec.region, on_second=self._renew)
        self._spec = spec
        self.expires_at_s = spec.expires_at_s
        self._is_elsewhere |= spec.slow_because is not None
        if self._successor is not None:
            self._successor.use(msgspec.structs.replace(spec, slow_because=ELSEWHERE))

    @property
    def spec(self) -> S3Spec:
        """Where the bucket is, and who asks now."""
        return self._spec

    def _sign(self, method: str, path: str, query: str, payload_hash: str, headers: Headers = ()) -> str:
        signer = self._signer
        lines = signer.sign(method, self._host, path, query, headers, payload_hash)
        if signer is not self._signer:
            # `renew` has just brought other credentials: the old ones may have expired hours ago, if nothing was asked since.
            lines = self._signer.sign(method, self._host, path, query, headers, payload_hash)
        return lines

    def get(self, key: str, start: int, end: int | None, version: str | None, with_checksum: bool) -> bytes:
        """As `Wire.get`. Range and If-Match need no signature, so they cost the signer nothing."""
        if self._is_elsewhere:
            raise BucketElsewhereError("the bucket is in another region")
        if not key:
            raise NotFoundError("a bucket is no object: the URI has no key")
        # Before anything is signed: a traceback with locals would show the signature.
        if version is not None and not version.isprintable():
            raise ConfigurationError("a version must be printable text")
        path = self._base + encode_key(key)
        lines = self._sign("GET", path, "", EMPTY_SHA256, _WITH_CHECKSUM if with_checksum else ())
        if start or end is not None:
            lines += f"Range: {format_range(start, end)}\r\n"
        # If-Match compares strongly, so a weak ETag would never match. Source: RFC 9110 §13.1.1.
        if version is not None and not version.startswith("W/"):
            lines += f'If-Match: "{version}"\r\n'
        return f"GET {path}{self._opening}{lines}\r\n".encode()

    def request(self, method: str, key: str, params: Iterable[tuple[str, str]] = (), headers: Headers = ()) -> bytes:
        """Returns a request without a body, for `Exchange`s."""
        path = self._base + encode_key(key)
        query = encode_query(params)
        lines = self._sign(method, path, query, EMPTY_SHA256, headers)
        target = f"{path}?{query}" if query else path
        # DELETE without Content-Length: allowed by RFC 9112 §6.3, but some servers wait for a body.
        length = "Content-Length: 0\r\n" if method == "DELETE" else ""
        return f"{method} {target}{self._opening}{lines}{length}\r\n".encode()

    def document(
        self, method: str, key: str = "", params: Iterable[tuple[str, str]] = (), headers: Headers = (), body: bytes = b""
    ) -> bytes:
        """Returns a request with headers of its own and a small body, which the signature covers."""
        path = self._base + encode_key(key)
        query = encode_query(params)
        payload_hash = hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256
        lines = self._sign(method, path, query, payload_hash, headers)
        target = f"{path}?{query}" if query else path
        head = f"{method} {target}{self._opening}{lines}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def payload_hash(self, data: memoryview) -> str:
        """Returns what the signature covers of a payload: all of it, or nothing where TLS sees to it that nobody changes it.

        So does botocore. SHA-256 sums 1.8 GB/s; whoever may not take long calls this elsewhere. The checksum header is signed always.
        """
        is_signed = self._spec.signs_payloads and not self.origin.is_tls
        return hashlib.sha256(data).hexdigest() if is_signed else UNSIGNED_PAYLOAD

    def put(self, key: str, params: Iterable[tuple[str, str]], headers: Headers, length: int, payload_hash: str) -> bytes:
        """Returns the head of a request that writes an object or a part of one; `length` bytes follow it."""
        path = self._base + encode_key(key)
        query = encode_query(params)
        lines = self._sign("PUT", path, query, payload_hash, headers)
        target = f"{path}?{query}" if query else path
        return f"PUT {target}{self._opening}{lines}Content-Length: {length}\r\n\r\n".encode()

    def find_sum(self, key: str) -> Operation[tuple[str | None, Checksum] | None]:
        """As `Store.find_sum`, for who has no store."""
        from .s3_ops import S3Operations

        if self._is_elsewhere and (other := self.successor()) is not None:
            return other.find_sum(key)  # type: ignore[no-any-return]
        return S3Operations(self._spec.root, self).find_sum(key)

    def successor(self) -> Any:
        """As `Wire.successor`: the SDK lane, which finds buckets in other regions."""
        from .s3_sdk import S3SdkWire

        with _lock:
            if self._successor is None and self._spec.sdk is not None:
                spec = msgspec.structs.replace(self._spec, slow_because=ELSEWHERE)
                self._successor = S3SdkWire(spec, self._renew, self.on_expired)
        self._is_elsewhere = True
        return self._successor

    def error(self, head: ResponseHead, body: bytes, uri: str, attempts: int) -> S3dlioError:
        """As `Wire.error`."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers.items()}
        error = error_from_response(head.status, headers, body, uri, attempts)
        error.retry_after = headers.get("retry-after")
        return with_identity(error, self._spec, self.on_expired)


def with_identity(error: S3dlioError, spec: S3Spec, on_expired: Callable[[], None] | None) -> S3dlioError:
    """Returns a refusal with what there is to say of who asked, and has credentials asked for anew if they have expired."""
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
        error.message += f"; the credentials came from {spec.source}" if spec.source else "; the request went unsigned"
    return error


def log_slow_lane(root: str, why: str) -> None:
    """Says, once per bucket and process, that its requests go by the SDK, and why."""
    if (root, why) not in _told:
        _told.add((root, why))
        _log.info("requests to %s are made by botocore, in threads, which costs more time: %s", root, why)


def _renew_lock() -> None:
    # Another thread may hold it at the moment of a fork; the child would wait for ever.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
