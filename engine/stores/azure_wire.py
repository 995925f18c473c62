r"""`az://` on the wire: the bytes of requests, signed, and the meaning of answers. Imports no SDK; workers run it.

What Azure makes of a key's text is not always the key: it takes `\` for `/`, and resolves `.` and `..` between slashes, so such keys are
refused before anything is sent; and it may drop dots before a slash or at the end, so nothing is written under such names.

Source: "Naming and Referencing Containers, Blobs, and Metadata", Azure Storage REST API reference; Azurite 3.37 does the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NoReturn, Protocol

from ..errors import (
    AuthenticationError,
    ExpiredCredentialsError,
    InvalidUriError,
    NotFoundError,
    PermissionDeniedError,
    S3dlioError,
)
from ..fetch.http1 import ResponseHead, format_range
from ..fetch.origin import Origin
from ..fetch.shared_key import Pairs, SharedKeySigner, check_headers, http_date
from ..fetch.sigv4 import encode_key, encode_query
from .azure_config import AzureSpec
from .azure_xml import error_from_refusal

_log = logging.getLogger("s3dlio")
_told: set[tuple[str, str]] = set()
VERSION: Final = "2021-12-02"
"""Of the service. Names that XML cannot hold are encoded in listings since 2021-02-12; blocks of 4000 MiB came with 2019-12-12."""
OF_CONTAINER: Final = ("restype", "container")
"""What the query of a request about a container has."""
_is_odd: Final = re.compile(r"(?:^|/)\.\.?(?:/|$)|\\").search
_is_dotted: Final = re.compile(r"\.(?:/|$)").search
_is_token: Final = re.compile(r"[!-~]+").fullmatch


class Hidden(str):
    """Text that is sent, and that no traceback with locals shows (A5)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class Signer(Protocol):
    """Who asks, as header lines."""

    def sign(self, method: str, path: str, query: Pairs = (), headers: Pairs = (), num_bytes: int = 0) -> str:
        """As `SharedKeySigner.sign`."""
        ...

    def sign_read(self, path: str, range_value: str | None, if_match: str | None) -> str:
        """As `SharedKeySigner.sign_read`."""
        ...


class _Bearer:
    """Requests with a token, or with none: anonymous, or with a SAS in the URL."""

    def __init__(self, token: str | None, on_second: Callable[[], object] | None) -> None:
        if token is not None and not _is_token(token):
            del token  # a traceback may show locals
            raise AuthenticationError("the bearer token is empty, or holds a space, a line end or a character outside ASCII")
        self._end = f"x-ms-version: {VERSION}\r\n" + (f"Authorization: Bearer {token}\r\n" if token else "")
        self._on_second = on_second
        self._second = -1

    def sign(self, method: str, path: str, query: Pairs = (), headers: Pairs = (), num_bytes: int = 0) -> str:
        """Returns the lines; nothing of the request is signed."""
        second = int(datetime.now(UTC).timestamp())
        if second != self._second:
            self._second = second
            if self._on_second is not None:
                self._on_second()
        check_headers(headers)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        return f"x-ms-date: {http_date(second)}\r\n{lines}{self._end}"

    def sign_read(self, path: str, range_value: str | None, if_match: str | None) -> str:
        """Returns the lines of a GET."""
        given = (("x-ms-range", range_value), ("if-match", if_match))
        return self.sign("GET", path, (), [(name, value) for name, value in given if value is not None])


class AzureWire:
    """Requests to one container."""

    is_local = False

    def __init__(
        self, spec: AzureSpec, renew: Callable[[], object] | None = None, on_expired: Callable[[], None] | None = None
    ) -> None:
        """Opens a container; the arguments are those of `S3Wire`."""
        self._renew = renew
        self.on_expired = on_expired
        self.origin = Origin(spec.host, spec.port, spec.scheme == "https", spec.ca_bundle)
        self._host = spec.host_header
        self._base = f"{spec.path}/{spec.container}"
        self.use(spec)

    def use(self, spec: AzureSpec) -> None:
        """Asks with the credentials of `spec` from now on; the place is the same.

        Raises:
            AuthenticationError: They cannot be sent; what was used before is used on.
        """
        self._signer: Signer
        if spec.account_key is not None:
            self._signer = SharedKeySigner(spec.account, spec.account_key, version=VERSION, on_second=self._renew)
        else:
            self._signer = _Bearer(spec.token, self._renew)
        self._sas = spec.sas
        self.spec = spec
        self.expires_at_s = spec.expires_at_s

    def get(self, key: str, start: int, end: int | None, version: str | None, with_checksum: bool) -> bytes:
        """As `Wire.get`. Azure has no checksum of whole objects but MD5, which costs more than all the rest of a read (0.4 GB/s)."""
        if not key:
            refuse_container(self.spec.root)
        check_key(key, self.spec.root)
        path = f"{self._base}/{encode_key(key)}"
        range_value, if_match = read_conditions(start, end, version)
        signer = self._signer
        lines = signer.sign_read(path, range_value, if_match)
        if signer is not self._signer:
            lines = self._signer.sign_read(path, range_value, if_match)
        target = path if self._sas is None else f"{path}?{self._sas}"
        return f"GET {target} HTTP/1.1\r\nHost: {self._host}\r\n{lines}\r\n".encode()

    def request(self, method: str, key: str, query: Pairs = (), headers: Pairs = (), num_bytes: int = 0) -> bytes:
        """Returns a request about an object, or, by the empty key, the container; where it has a payload, its head.

        Raises:
            NotFoundError: The key is empty, and the request is not about the container.
            InvalidUriError: The key would be another one at the store.
            ConfigurationError: A header cannot be sent.
        """
        if not key and OF_CONTAINER not in query:
            refuse_container(self.spec.root)
        check_key(key, self.spec.root)
        return self._request(method, f"{self._base}/{encode_key(key)}" if key else self._base, query, headers, num_bytes)

    def request_list(self, query: Pairs) -> bytes:
        """Returns a GET about the container, or, where there is none, the account."""
        return self._request("GET", self._base, query, (), 0)

    def _request(self, method: str, path: str, query: Pairs, headers: Pairs, num_bytes: int) -> bytes:
        # First, since it refuses text that cannot be sent.
        text = encode_query(query) if query else ""
        signer = self._signer
        lines = signer.sign(method, path, query, headers, num_bytes)
        if signer is not self._signer:
            # `renew` has just brought other credentials: the old ones may have expired hours ago, if nothing was asked since.
            lines = self._signer.sign(method, path, query, headers, num_bytes)
        if self._sas is not None:
            text = f"{text}&{self._sas}" if text else self._sas
        target = f"{path}?{text}" if text else path
        length = "" if method in {"GET", "HEAD"} else f"Content-Length: {num_bytes}\r\n"
        return f"{method} {target} HTTP/1.1\r\nHost: {self._host}\r\n{lines}{length}\r\n".encode()

    def url(self, key: str) -> Hidden:
        """Returns where an object is, for a copy; with the SAS, where there is one."""
        return url_of(self.spec, key)

    def successor(self) -> None:
        """There is no other way."""

    def error(self, head: ResponseHead, body: bytes, uri: str, attempts: int) -> S3dlioError:
        """As `Wire.error`."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers.items()}
        error = error_from_refusal(head.status, headers, body, uri, attempts, self.spec.token is not None)
        error.retry_after = headers.get("retry-after")
        return with_identity(error, self.spec, self.on_expired)


def url_of(spec: AzureSpec, key: str) -> Hidden:
    """Returns the URL of an object; with the SAS, where there is one.

    Raises:
        InvalidUriError: As `check_key`.
    """
    check_key(key, spec.root)
    path = f"{spec.scheme}://{spec.host_header}{spec.path}/{spec.container}/{encode_key(key)}"
    return Hidden(path if spec.sas is None else f"{path}?{spec.sas}")


def read_conditions(start: int, end: int | None, version: str | None) -> tuple[str | None, str | None]:
    """Returns the values of `x-ms-range` and `If-Match` for a GET of bytes [start, end) of one version; None for what is not sent."""
    range_value = format_range(start, end) if start or end is not None else None
    # If-Match compares strongly, so a weak ETag would never match. Source: RFC 9110 §13.1.1.
    return range_value, None if version is None or version.startswith("W/") else f'"{version}"'


def refuse_container(root: str) -> NoReturn:
    """Refuses a request about an object whose key is empty: Azure would take the container's name for that of an object.

    Raises:
        NotFoundError: Always.
    """
    raise NotFoundError("a container is no object: the URI has no key", uri=root)


def check_key(key: str, root: str, is_new: bool = False) -> None:
    """Refuses a key that Azure takes for another one, or, if it is new, may keep as another one.

    Raises:
        InvalidUriError: It is one of these.
    """
    if _is_odd(key):
        text = "Azure takes '\\' for '/', and resolves '.' and '..' between slashes: another object would be meant"
        raise InvalidUriError(text, uri=root + key)
    if is_new and _is_dotted(key):
        raise InvalidUriError("Azure may drop dots at the end or before a slash; take another name", uri=root + key)


def with_identity(error: S3dlioError, spec: AzureSpec, on_expired: Callable[[], None] | None) -> S3dlioError:
    """Returns a refusal with what there is to say of who asked, and has a token asked for anew if it has expired."""
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


def log_slow_lane(root: str, why: str) -> None:
    """Says, once per container and process, that its requests go by the SDK, and why."""
    if (root, why) not in _told:
        _told.add((root, why))
        _log.info("requests to %s are made by azure-storage-blob, in threads, which costs more time: %s", root, why)
