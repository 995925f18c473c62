"""HTTP/1.1 without I/O: response heads, byte ranges, chunked bodies.

Rules: the head goes through `httptools` (llhttp, strict: two lengths, or a length with chunked, are errors). A body with a length
never passes a parser; it is received where it belongs. Only chunked bodies go through llhttp again. This module knows no sockets, no
stores and no retries.
"""

from __future__ import annotations

import re
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from ..errors import ProtocolError

MAX_HEAD_BYTES: Final = 64 << 10
"""A response head that is longer is an error; S3's are below 1 KiB (with metadata, below 4)."""

_CONTENT_RANGE = re.compile(rb"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")


class _Nothing:
    """What the parser reports to when only its verdict is wanted: no callback, no cost."""


class _Collector:
    """What the parser reports to when all headers are wanted."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser for each header; repeated ones are joined by a comma."""
        key = name.lower()
        if key in self.headers:
            value = self.headers[key] + b"," + value
        self.headers[key] = value


_NOTHING: Final = _Nothing()


class ResponseHead:
    """The status and headers of one response.

    The parser checks every byte of the head. The few headers that each answer is asked for are then found in it by position, and all
    of them are collected only if somebody wants them: eight callbacks per answer would cost as much as the request's signature.
    """

    __slots__ = ("_lower", "_raw", "has_range", "is_persistent", "length", "status")

    def __init__(self, raw: bytes) -> None:
        """Parses `raw`, which ends with the empty line.

        Raises:
            ProtocolError: Not a response head that RFC 9112 allows.
        """
        parser = HttpResponseParser(_NOTHING)
        try:
            parser.feed_data(raw)
        except (HttpParserError, HttpParserUpgrade) as error:
            raise ProtocolError("the answer is not HTTP that was asked for", cause=f"{type(error).__name__}: {error}") from None
        self.status: int = parser.get_status_code()
        self._raw = raw
        lower = self._lower = raw.lower()
        self.length: int | None = None
        begin = lower.find(b"\r\ncontent-length:")
        if begin >= 0:
            # The parser has seen to it that there are digits, and nothing but spaces around them.
            self.length = int(lower[begin + 17 : lower.find(b"\r\n", begin + 17)])
        self.has_range = b"\r\ncontent-range:" in lower
        self.is_persistent = (raw.startswith(b"HTTP/1.1") and b"close" not in lower) or self._is_persistent()

    def _find(self, needle: bytes) -> bytes | None:
        """Returns the value of the first header that `needle` (a line end, a lowercase name and a colon) finds."""
        lower = self._lower
        begin = lower.find(needle)
        if begin < 0:
            return None
        begin += len(needle)
        return self._raw[begin : lower.find(b"\r\n", begin)].strip()

    def get(self, name: bytes) -> str | None:
        """Returns a header's value as text (latin-1, RFC 9110 §5.5), or None. `name` is in lowercase."""
        value = self._find(b"\r\n" + name + b":")
        return None if value is None else value.decode("latin-1")

    @property
    def headers(self) -> dict[bytes, bytes]:
        """All headers: lowercase names, raw values."""
        collector = _Collector()
        HttpResponseParser(collector).feed_data(self._raw)
        return collector.headers

    def _is_persistent(self) -> bool:
        """Whether the connection may be used again after this response. Source: RFC 9112 §9.3."""
        is_http_1_0 = not self._raw.startswith(b"HTTP/1.1")
        connection = self._find(b"\r\nconnection:")
        if connection is None:
            return not is_http_1_0
        options = connection.lower()
        return b"close" not in options and (not is_http_1_0 or b"keep-alive" in options)

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks, and in no other coding: then its bytes would not be those of the object."""
        coding = self._find(b"\r\ntransfer-encoding:")
        # Named twice, it is a list of two codings.
        return coding is not None and coding.lower() == b"chunked" and self._lower.count(b"\r\ntransfer-encoding:") == 1

    @property
    def etag(self) -> str | None:
        """The ETag without quotes, as versions are written. Source: RFC 9110 §8.8.3."""
        lower = self._lower
        begin = lower.find(b'\r\netag: "')
        if begin < 0:
            value = self._find(b"\r\netag:")
            return None if value is None else unquote_etag(value.decode("latin-1"))
        end = lower.find(b"\r\n", begin + 9)
        return self._raw[begin + 9 : end].rstrip(b' \t"').decode("latin-1")

    def content_range(self) -> tuple[int, int, int | None] | None:
        """Returns (start, end, total) of `Content-Range`, end exclusive, total None for `*`; None where the header is absent.

        An unsatisfied range (`bytes */total`) gives (0, 0, total).

        Raises:
            ProtocolError: The header makes no sense. Source: RFC 9110 §14.4.
        """
        value = self._find(b"\r\ncontent-range:") if self.has_range else None
        if value is None:
            return None
        match = _CONTENT_RANGE.fullmatch(value)
        if match is None:
            raise ProtocolError(f"Content-Range makes no sense: {value[:80]!r}")
        total = None if match[3] == b"*" else int(match[3])
        if match[1] is None:
            return 0, 0, total
        start, end = int(match[1]), int(match[2]) + 1
        if end <= start or (total is not None and end > total):
            raise ProtocolError(f"Content-Range makes no sense: {value[:80]!r}")
        return start, end, total


class ChunkedBody:
    """A chunked body, de-chunked by llhttp into private memory.

    Args:
        head: The response head again; llhttp takes framing from it.
        max_bytes: More than this is a `ProtocolError`.
    """

    __slots__ = ("_max_bytes", "_parser", "data", "is_complete")

    def __init__(self, head: bytes, max_bytes: int) -> None:
        self.data = bytearray()
        self.is_complete = False
        self._max_bytes = max_bytes
        self._parser = HttpResponseParser(self)
        self._parser.feed_data(head)

    def feed(self, data: bytes | memoryview) -> None:
        """Takes the next bytes of the wire.

        Raises:
            ProtocolError: Bad framing, or too long.
        """
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            if len(self.data) > self._max_bytes:
                raise ProtocolError(f"the body is longer than {self._max_bytes} bytes") from None
            raise ProtocolError("the chunked body is misframed", cause=f"{type(error).__name__}: {error}") from None

    def on_body(self, data: bytes) -> None:
        """Called by the parser for each piece."""
        self.data += data
        if len(self.data) > self._max_bytes:
            raise ProtocolError("too long")

    def on_message_begin(self) -> None:
        """Called by the parser before each message; a second one has no place here."""
        if self.is_complete:
            raise ProtocolError("more behind the last chunk")

    def on_message_complete(self) -> None:
        """Called by the parser after the last chunk."""
        self.is_complete = True


def format_range(start: int, end: int | None) -> str:
    """Returns the value of a `Range` header for the half-open [start, end); the one place where an end is inclusive."""
    return f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"


def unquote_etag(value: str) -> str:
    """Returns an ETag as versions are written: without quotes; a weak one keeps its `W/`, since `If-Match` must not be sent for it."""
    text = value.strip()
    return "W/" + text[2:].strip('"') if text.startswith("W/") else text.strip('"')


def has_body(method: str, status: int) -> bool:
    """Whether a response carries a body at all. Source: RFC 9112 §6.3."""
    return method != "HEAD" and status >= 200 and status not in (204, 304)
