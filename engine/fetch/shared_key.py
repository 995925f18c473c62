"""Azure's Shared Key for the Blob service: a request in, header lines out.

Rules:

* What is signed is what is sent: `path` comes encoded by `sigv4.encode_key`, and nothing here normalises it. Names and values of the query
  are signed as they are meant, not as they are encoded.
* Shared Key signs every header that changes what a request means (ranges, conditions, all of `x-ms-*`), so all of them are given here.
* No secret leaves: the key stands in two prepared hashes and in no text, and no error quotes a header's value.

This module reads no environment, opens no socket and looks at no body.

Source: "Authorize with Shared Key", Azure Storage REST API reference.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Final

from ..errors import AuthenticationError, ConfigurationError
from ..text import clean

Pairs = Sequence[tuple[str, str]]
"""Names and values: of headers (names in lower case), or of a query (not encoded)."""

_STANDARD: Final = (
    "content-encoding", "content-language", "content-length", "content-md5", "content-type", "date", "if-modified-since", "if-match",
    "if-none-match", "if-unmodified-since", "range",
)  # fmt: skip
"""The headers that are signed by their places, whether they are there or not."""
_OWN: Final = frozenset({"authorization", "content-length", "date", "host", "range", "x-ms-date", "x-ms-version"})
"""`Range` is among them since `x-ms-range` takes its place."""
_is_name: Final = re.compile(r"[a-z0-9_-]+").fullmatch
_is_value: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?").fullmatch
_NOTHING: Final = "\n" * len(_STANDARD)


class SharedKeySigner:
    """Signs requests for one account. Any number of threads may share it."""

    def __init__(
        self,
        account: str,
        key: str,
        *,
        version: str,
        clock: Callable[[], float] = time.time,
        on_second: Callable[[], object] | None = None,
    ) -> None:
        """Prepares the key.

        Args:
            account: The name of the account.
            key: Its key in base64, as the portal shows it.
            version: The `x-ms-version` of all requests.
            clock: Returns Unix time in s. Wall clock on purpose: the store compares the date with its own, and allows 15 minutes.
            on_second: Called at the first signature of each second.

        Raises:
            AuthenticationError: The key is no base64. The text does not show it.
        """
        self._account = account
        self._version = version
        self._clock = clock
        self._on_second = on_second
        block = _decode_key(key)
        del key  # a traceback may show locals
        if not block:
            raise AuthenticationError("the account key is no base64 text; copy it whole, without spaces or line ends")
        block = block.ljust(64, b"\0")
        # An HMAC by hand, as in sigv4.py: copying two prepared hashes is faster than hmac.digest. Source: RFC 2104 section 2.
        self._inner = hashlib.sha256(bytes([byte ^ 0x36 for byte in block]))
        self._outer = hashlib.sha256(bytes([byte ^ 0x5C for byte in block]))
        self._stamp = (-1, "")
        """A second and its date on the wire; replaced whole, so that a thread sees the old one or the new one."""

    def sign(
        self, method: str, path: str, query: Pairs = (), headers: Pairs = (), num_bytes: int = 0, now_s: float | None = None
    ) -> str:
        r"""Returns the header lines to send, each ended by `\r\n`: date, version, the given headers, Authorization.

        Neither `Host` nor `Content-Length` is among them; the length is signed.

        Args:
            method: In capitals.
            path: From the first `/` on, encoded by `encode_key`.
            query: What the URL has behind `?`, each name once.
            headers: More fields to send and sign, each name once.
            num_bytes: How long the body is.
            now_s: Unix time to sign for; None asks the clock.

        Raises:
            ConfigurationError: A header's name is none that can be signed, stands twice or is set here, or its value is no visible ASCII.
        """
        second = int(self._clock() if now_s is None else now_s)
        stamp = self._stamp
        if stamp[0] != second:
            stamp = self._renew_stamp(second)
        date = stamp[1]
        if headers or num_bytes:
            check_headers(headers)
            fields = dict(headers)
            if num_bytes:
                fields["content-length"] = str(num_bytes)
            standard = "".join([fields.get(name, "") + "\n" for name in _STANDARD])
            named = [("x-ms-date", date), ("x-ms-version", self._version)]
            named += [pair for pair in headers if pair[0].startswith("x-ms-")]
            own = "".join([f"{name}:{value}\n" for name, value in sorted(named, key=_rank)])
            lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        else:
            standard = _NOTHING
            own = f"x-ms-date:{date}\nx-ms-version:{self._version}\n"
            lines = ""
        resource = f"/{self._account}{path}"
        if query:
            resource += "".join([f"\n{name}:{value}" for name, value in sorted(query)])
        signature = self._hash(f"{method}\n{standard}{own}{resource}")
        return f"x-ms-date: {date}\r\nx-ms-version: {self._version}\r\n{lines}Authorization: SharedKey {self._account}:{signature}\r\n"

    def sign_read(self, path: str, range_value: str | None, if_match: str | None) -> str:
        """Returns what `sign` gives of a GET with `x-ms-range` and `If-Match`, in a third of the time.

        Args:
            path: As `sign` takes it.
            range_value: The value of `x-ms-range`, from `format_range`; None for the whole object.
            if_match: The value of `If-Match`, with its quotes.

        Raises:
            ConfigurationError: `if_match` is no visible ASCII.
        """
        if if_match is not None and not _is_value(if_match):
            raise ConfigurationError("a version must be visible ASCII")
        second = int(self._clock())
        stamp = self._stamp
        if stamp[0] != second:
            stamp = self._renew_stamp(second)
        date = stamp[1]
        signed = "" if range_value is None else f"x-ms-range:{range_value}\n"
        lines = "" if range_value is None else f"x-ms-range: {range_value}\r\n"
        if if_match is not None:
            lines += f"if-match: {if_match}\r\n"
        signature = self._hash(
            f"GET\n\n\n\n\n\n\n\n{if_match or ''}\n\n\n\nx-ms-date:{date}\n{signed}x-ms-version:{self._version}\n/{self._account}{path}"
        )
        return f"x-ms-date: {date}\r\nx-ms-version: {self._version}\r\n{lines}Authorization: SharedKey {self._account}:{signature}\r\n"

    def _hash(self, text: str) -> str:
        inner = self._inner.copy()
        inner.update(text.encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        return binascii.b2a_base64(outer.digest(), newline=False).decode()

    def _renew_stamp(self, second: int) -> tuple[int, str]:
        if self._on_second is not None:
            self._on_second()
        self._stamp = fresh = (second, http_date(second))
        return fresh


def http_date(second: int) -> str:
    """Returns a Unix time as HTTP writes it, whatever the locale is. Source: RFC 9110 §5.6.7."""
    found = time.gmtime(second)
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[found.tm_wday]
    month = "JanFebMarAprMayJunJulAugSepOctNovDec"[found.tm_mon * 3 - 3 : found.tm_mon * 3]
    return f"{day}, {found.tm_mday:02} {month} {found.tm_year:04} {found.tm_hour:02}:{found.tm_min:02}:{found.tm_sec:02} GMT"


def check_headers(headers: Pairs) -> None:
    """Refuses what cannot be sent, or cannot be signed as it is sent.

    Raises:
        ConfigurationError: As `SharedKeySigner.sign`.
    """
    names = set()
    for name, value in headers:
        if not _is_name(name):
            raise ConfigurationError(f"{clean(name)!r} cannot be the name of a header here")
        if name in _OWN:
            raise ConfigurationError(f"the header {name!r} belongs to the signature and cannot be given")
        if name in names:
            raise ConfigurationError(f"the header {name!r} is given twice")
        if not _is_value(value):
            raise ConfigurationError(f"the value of {name!r} is empty, has spaces around it, or is no visible ASCII")
        names.add(name)


def _rank(header: tuple[str, str]) -> tuple[str, list[bool]]:
    """Returns the place of a header among those that are signed.

    Hyphens count only between names that are equal but for them, and the underscore stands before digits.

    Source: azure.storage.blob._shared.authentication, which follows what the service does.
    """
    name = header[0]
    return name.replace("-", "").replace("_", " "), [letter == "-" for letter in name]


def _decode_key(key: str) -> bytes:
    """Returns the key of the HMAC, or nothing where the text is no base64."""
    try:
        found = binascii.a2b_base64(key.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        return b""
    return found if len(found) <= 64 else hashlib.sha256(found).digest()
