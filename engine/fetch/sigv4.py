"""AWS Signature Version 4 for S3, and the percent-encoding that it signs: text in, header lines out.

Rules:

* What is signed is what is sent. `path` and `query` come encoded by `encode_key` and `encode_query`, and the caller writes them and
  `host` to the wire as they are; nothing here normalises a path, since `//`, `.` and `..` are ordinary parts of an S3 key.
* Everything that depends only on the second, the day, the host and the headers is made once and kept in one record, which
  is replaced whole: a thread sees the old second or the new one, never a mixture, and takes no lock. What is left per request is
  three SHA-256 runs.
* No secret leaves: credentials show their presence and not their text, do not pickle, and no error quotes a header's value.

This module reads no environment, opens no socket and decides no payload hash.

Source: "Signature Calculations for the Authorization Header" in the Amazon S3 API Reference.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from ..errors import AuthenticationError, ConfigurationError, InvalidUriError
from ..text import clean

if TYPE_CHECKING:
    from _hashlib import HASH

Headers = tuple[tuple[str, str], ...]
"""Header fields as (lowercase name, value)."""

EMPTY_SHA256 = hashlib.sha256().hexdigest()
"""The payload hash of a request without a body; what botocore sends with a GET."""
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""The payload hash of a body that the signature does not cover."""
_DIGEST_LENGTH = len(EMPTY_SHA256)

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_UNRESERVED_OR_SLASH = _UNRESERVED + b"/"
_ENCODED = tuple(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in range(256))
_ENCODED_BUT_SLASH = tuple("/" if byte == 0x2F else text for byte, text in enumerate(_ENCODED))
_MAX_SHAPES = 64
"""A store needs a handful per second; only metadata is without end. 64 shapes are about 50 KB."""

_sha256 = hashlib.sha256
_is_visible = re.compile(r"[!-~]+").fullmatch
_is_name = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+").fullmatch
_find_unsendable = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]").search
"""Control characters but the tab, and lone surrogates, which have no UTF-8."""


class Credentials(msgspec.Struct, frozen=True):
    """An identity that can sign. It travels to workers by message; its `repr` shows no secret, and it does not pickle (A5)."""

    access_key: str
    secret_key: str
    token: str | None = None
    """The session token of short-lived credentials."""
    expires_at_s: float | None = None
    """Unix time after which the store refuses them. Whoever resolved them fetches new ones; a signer does not look."""

    def __repr__(self) -> str:
        return f"Credentials({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    # rich asks this one, for pretty tracebacks with locals; msgspec's own would show every field.
    def __rich_repr__(self) -> list[tuple[str, Any]]:
        hidden_token = None if self.token is None else "…"
        return [
            ("access_key", f"{self.access_key[:4]}…"),
            ("secret_key", "…"),
            ("token", hidden_token),
            ("expires_at_s", self.expires_at_s),
        ]

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials do not pickle, so that no file and no log holds them by accident")


class _DayKey(msgspec.Struct, frozen=True):
    """The signing key of one day, as the two halves of an HMAC that wait for their message."""

    day: str
    scope: str
    inner: HASH
    outer: HASH


class _Shape(msgspec.Struct, frozen=True):
    """What requests of one second with the same host, payload hash and headers share."""

    canonical: str
    """The canonical request after the query."""
    lines: str
    """The header lines up to the signature."""


class _Stamp(msgspec.Struct, frozen=True):
    """All that a second fixes. Nothing changes in it but `shapes` and `forms`, where any thread would write the same."""

    second: int
    """Unix time in s."""
    date: str
    """The same second as the wire has it: `20130524T000000Z`."""
    key: _DayKey
    inner: HASH
    """The inner half of the HMAC, fed with the string to sign up to the hash of the canonical request."""
    shapes: dict[tuple[str, str, Headers], _Shape]
    """By host, payload hash and headers."""
    forms: dict[tuple[str, tuple[str, ...]], _Shape]
    """By host and names of headers: shapes with holes where payload hash and values belong."""


class Signer:
    """Signs requests to one region with one identity. Any number of threads may share it."""

    def __init__(
        self,
        credentials: Credentials | None,
        *,
        region: str,
        service: str = "s3",
        clock: Callable[[], float] = time.time,
        on_second: Callable[[], object] | None = None,
    ) -> None:
        """Checks that nothing in the identity can break a header.

        Args:
            credentials: None signs nothing: the store is asked anonymously.
            region: As the credential scope names it.
            service: As the credential scope names it.
            clock: Returns Unix time in s. Wall clock on purpose: the store compares the date with its own, and allows 15 minutes.
            on_second: Called at the first signature of each second, for whoever looks after the identity.

        Raises:
            ConfigurationError: Region or service is empty, or holds a space, `/` or control character.
            AuthenticationError: A key or the token holds a control character, as a line end read from a file; or access key or token is
                empty, or holds a space or a character outside ASCII.
        """
        for name, text in (("region", region), ("service", service)):
            if not _is_visible(text) or "/" in text:
                raise ConfigurationError(f"{clean(text)!r} cannot be the {name} of a signature")
        if credentials is not None:
            _check_credentials(credentials)
        self._credentials = credentials
        self._region = region
        self._service = service
        self._clock = clock
        self._on_second = on_second
        self._stamp: _Stamp | None = None

    def sign(
        self,
        method: str,
        host: str,
        path: str,
        query: str = "",
        headers: Headers = (),
        payload_hash: str = UNSIGNED_PAYLOAD,
        now_s: float | None = None,
    ) -> str:
        r"""Returns the header lines to send, each ended by `\r\n`: date, payload hash, token, the given headers, Authorization.

        The `Host` line is not among them, but it is signed. Without credentials the lines are the given headers alone.

        Args:
            method: In capitals.
            host: The value of the `Host` line: without the port where that is the scheme's own.
            path: From the first `/` on, encoded by `encode_key`.
            query: Encoded by `encode_query`, without `?`.
            headers: More fields to send and sign, each name once. To be sent as UTF-8.
            payload_hash: SHA-256 of the body in lowercase hex, `EMPTY_SHA256`, or `UNSIGNED_PAYLOAD`.
            now_s: Unix time to sign for; None asks the clock.

        Raises:
            ConfigurationError: A header's name is no lowercase token, stands twice or belongs to the signature, or its value, the host
                or the payload hash holds a line end, another control character or a lone surrogate (N19).
        """
        if self._credentials is None:
            _check_headers(headers)
            return "".join([f"{name}: {value}\r\n" for name, value in sorted(headers)])
        second = int(self._clock() if now_s is None else now_s)
        stamp = self._stamp
        if stamp is None or stamp.second != second:
            stamp = self._renew_stamp(second)
        if len(payload_hash) == _DIGEST_LENGTH and payload_hash != EMPTY_SHA256:
            shape = self._fill_form(stamp, host, payload_hash, headers)
        else:
            shape = stamp.shapes.get((host, payload_hash, headers)) or self._add_shape(stamp, host, payload_hash, headers)
        inner = stamp.inner.copy()
        inner.update(_sha256(f"{method}\n{path}\n{query}\n{shape.canonical}".encode()).hexdigest().encode())
        outer = stamp.key.outer.copy()
        outer.update(inner.digest())
        return f"{shape.lines}{outer.hexdigest()}\r\n"

    def canonical_request(
        self,
        method: str,
        host: str,
        path: str,
        query: str = "",
        headers: Headers = (),
        payload_hash: str = UNSIGNED_PAYLOAD,
        now_s: float | None = None,
    ) -> str:
        """Returns the text that `sign` hashes, to be held against the one in a store's SignatureDoesNotMatch answer.

        It holds the session token. Arguments and errors are those of `sign`; without credentials it raises AuthenticationError.
        """
        stamp = self._renew_stamp(int(self._clock() if now_s is None else now_s))
        return f"{method}\n{path}\n{query}\n{self._add_shape(stamp, host, payload_hash, headers).canonical}"

    def _renew_stamp(self, second: int) -> _Stamp:
        if self._on_second is not None:
            self._on_second()
        known = self._stamp
        # Published even when it is older than the one there: after the clock was set back, that is every second to come.
        self._stamp = fresh = self._new_stamp(second, None if known is None else known.key)
        return fresh

    def _new_stamp(self, second: int, key: _DayKey | None) -> _Stamp:
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        if key is None or key.day != date[:8]:
            key = self._new_key(date[:8])
        inner = key.inner.copy()
        inner.update(f"AWS4-HMAC-SHA256\n{date}\n{key.scope}\n".encode())
        return _Stamp(second, date, key, inner, {}, {})

    def _new_key(self, day: str) -> _DayKey:
        key = f"AWS4{self._identity().secret_key}".encode()
        for text in (day, self._region, self._service, "aws4_request"):
            key = hmac.digest(key, text.encode(), "sha256")
        # An HMAC by hand (RFC 2104 section 2): copying two prepared hashes takes 1.1 µs a message, hmac.digest takes 2.7.
        block = key.ljust(64, b"\0")
        inner = hashlib.sha256(bytes([byte ^ 0x36 for byte in block]))
        outer = hashlib.sha256(bytes([byte ^ 0x5C for byte in block]))
        return _DayKey(day, f"{day}/{self._region}/{self._service}/aws4_request", inner, outer)

    def _add_shape(self, stamp: _Stamp, host: str, payload_hash: str, headers: Headers) -> _Shape:
        if not _is_visible(host) or not _is_visible(payload_hash):
            raise ConfigurationError("the host and the payload hash of a request must be visible ASCII without spaces")
        _check_headers(headers)
        shape = self._compose(stamp, host, payload_hash, headers)
        if len(stamp.shapes) >= _MAX_SHAPES:
            stamp.shapes.clear()
        stamp.shapes[host, payload_hash, headers] = shape
        return shape

    def _fill_form(self, stamp: _Stamp, host: str, payload_hash: str, headers: Headers) -> _Shape:
        """Returns the shape of a request whose payload no other has, nor its checksum among the headers: its names only are kept.

        A form has holes for the values: a NUL and a number, which nothing that is checked can hold.
        """
        if not _is_visible(payload_hash):
            raise ConfigurationError("the payload hash of a request must be visible ASCII without spaces")
        names = tuple([name for name, _ in headers])
        form = stamp.forms.get((host, names))
        if form is None:
            if not _is_visible(host):
                raise ConfigurationError("the host of a request must be visible ASCII without spaces")
            _check_headers(headers)
            holes = tuple([(name, f"\0{number};") for number, name in enumerate(names)])
            if len(stamp.forms) >= _MAX_SHAPES:
                stamp.forms.clear()
            form = stamp.forms[host, names] = self._compose(stamp, host, "\0;", holes)
        canonical, lines = form.canonical.replace("\0;", payload_hash), form.lines.replace("\0;", payload_hash)
        for number, (name, value) in enumerate(headers):
            _check_value(name, value)
            hole = f"\0{number};"
            canonical, lines = canonical.replace(hole, _trim_all(value)), lines.replace(hole, value)
        return _Shape(canonical, lines)

    def _compose(self, stamp: _Stamp, host: str, payload_hash: str, headers: Headers) -> _Shape:
        identity = self._identity()
        added = {"x-amz-date": stamp.date, "x-amz-content-sha256": payload_hash}
        if identity.token is not None:
            added["x-amz-security-token"] = identity.token
        fields = {"host": host} | added | {name: _trim_all(value) for name, value in headers}
        signed = ";".join(sorted(fields))
        canonical = "\n".join([f"{name}:{fields[name]}" for name in sorted(fields)]) + f"\n\n{signed}\n{payload_hash}"
        lines = [f"{name}: {value}\r\n" for name, value in (*added.items(), *sorted(headers))]
        scope = f"Credential={identity.access_key}/{stamp.key.scope}, SignedHeaders={signed}, Signature="
        lines.append(f"Authorization: AWS4-HMAC-SHA256 {scope}")
        return _Shape(canonical, "".join(lines))

    def _identity(self) -> Credentials:
        if self._credentials is None:
            raise AuthenticationError("there are no credentials to sign with")
        return self._credentials


def encode_key(key: str) -> str:
    """Returns `key` percent-encoded for a request's path: all but `A-Za-z0-9-._~/` as %XX of its UTF-8, and nothing normalised.

    Raises:
        InvalidUriError: The key holds a lone surrogate, which has no UTF-8.
    """
    # Most keys are safe as they are, and then this is all: 0.2 µs.
    if key.isascii() and not key.encode().translate(None, _UNRESERVED_OR_SLASH):
        return key
    return _encode(key, _UNRESERVED_OR_SLASH, _ENCODED_BUT_SLASH)


def encode_component(text: str) -> str:
    """As `encode_key`, with slashes encoded too: for what must stay one segment of a path, or one value of a query.

    Raises:
        InvalidUriError: The text holds a lone surrogate.
    """
    return _encode(text, _UNRESERVED, _ENCODED)


def encode_query(params: Iterable[tuple[str, str]]) -> str:
    """Returns the canonical query string of decoded (name, value) pairs, without `?`: sorted by encoded name, then value.

    Raises:
        InvalidUriError: A name or value holds a lone surrogate.
    """
    if params == ():
        return ""
    pairs = [(_encode(name, _UNRESERVED, _ENCODED), _encode(value, _UNRESERVED, _ENCODED)) for name, value in params]
    return "&".join([f"{name}={value}" for name, value in sorted(pairs)])


def _encode(text: str, safe: bytes, table: tuple[str, ...]) -> str:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise InvalidUriError(f"{clean(text)!r} holds a lone surrogate, which cannot be sent") from None
    return "".join([table[byte] for byte in raw]) if raw.translate(None, safe) else text


def _trim_all(value: str) -> str:
    """Returns `value` without outer spaces and with inner runs of them made one: Trimall of the specification."""
    if " " not in value and "\t" not in value:
        return value
    return " ".join([word for word in value.replace("\t", " ").split(" ") if word])


def _check_headers(headers: Headers) -> None:
    own = {"host", "authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"}
    names = [name for name, _ in headers]
    for name, value in headers:
        if not _is_name(name):
            raise ConfigurationError(f"{clean(name)!r} cannot be the name of a header; names are lowercase here")
        if name in own:
            raise ConfigurationError(f"the header {name!r} belongs to the signature and cannot be given")
        _check_value(name, value)
    if len(set(names)) != len(names):
        raise ConfigurationError(f"a header is given twice: {', '.join(sorted(names))}")


def _check_value(name: str, value: str) -> None:
    if _find_unsendable(value):
        raise ConfigurationError(f"the value of {clean(name)!r} holds a line end, a control character or a lone surrogate")


def _check_credentials(credentials: Credentials) -> None:
    # No text of them in a local variable, which a traceback with locals would print (A5); and asked before anything is encoded, since
    # an encoding error carries its text about.
    if _find_unsendable(credentials.secret_key):
        raise AuthenticationError("the secret key holds a line end, a control character or a lone surrogate")
    if not _is_visible(credentials.access_key):
        raise AuthenticationError("the access key is empty, or holds a space, a line end or a character outside ASCII")
    if credentials.token is not None and not _is_visible(credentials.token):
        raise AuthenticationError(
            "the session token is empty, or holds a space, a line end or a character outside ASCII"
        )
