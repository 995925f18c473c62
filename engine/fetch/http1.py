"""HTTP/1.1 without I/O: response heads, byte ranges, chunked bodies.

Rules: the head goes through `httptools` (llhttp, strict: two lengths, or a length with chunked, are errors). A body with a length
never passes a parser; it is received where it belongs. Only chunked bodies go through llhttp again. This module knows no sockets, no
stores and no retries.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from ..errors import ProtocolError
from .checksums import Checksum, find_checksum

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


class ResponseHead(msgspec.Struct, gc=False):
    """The status and headers of one response, as `parse_head` or a `HeadShape` found them."""

    raw: bytes
    """All of it, to the empty line."""
    status: int
    length: int | None
    """Of the body, where the head says so."""
    etag: str | None
    """Without quotes, as versions are written. Source: RFC 9110 §8.8.3."""
    has_range: bool
    is_persistent: bool
    """Whether the connection may be used again after this response."""
    checksum: Checksum | None = None
    """Of the whole object, where the head gives one."""
    generation: str | None = None
    """Of the object, where the store is Google's."""
    is_recoded: bool = False
    """Whether the body is not what Google has stored: unpacked on the way, or packed."""

    @property
    def version(self) -> str | None:
        """What names the version of the object: its generation, or its ETag. An ETag of Google's may be that of several generations."""
        return self.etag if self.generation is None else self.generation

    def get(self, name: bytes) -> str | None:
        """Returns a header's value as text (latin-1, RFC 9110 §5.5), or None. `name` is in lowercase."""
        value = _find(self.raw, self.raw.lower(), b"\r\n%b:" % name)
        return None if value is None else value.decode("latin-1")

    @property
    def headers(self) -> dict[bytes, bytes]:
        """All headers: lowercase names, raw values."""
        collector = _Collector()
        HttpResponseParser(collector).feed_data(self.raw)
        return collector.headers

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks, and in no other coding: then its bytes would not be those of the object."""
        lower = self.raw.lower()
        coding = _find(self.raw, lower, b"\r\ntransfer-encoding:")
        # Named twice, it is a list of two codings.
        return coding is not None and coding.lower() == b"chunked" and lower.count(b"\r\ntransfer-encoding:") == 1

    def content_range(self) -> tuple[int, int, int | None] | None:
        """Returns (start, end, total) of `Content-Range`, end exclusive, total None for `*`; None where the header is absent.

        An unsatisfied range (`bytes */total`) gives (0, 0, total).

        Raises:
            ProtocolError: The header makes no sense. Source: RFC 9110 §14.4.
        """
        value = _find(self.raw, self.raw.lower(), b"\r\ncontent-range:") if self.has_range else None
        if value is None:
            return None
        match = _CONTENT_RANGE.fullmatch(value)
        if match is None:
            raise ProtocolError(f"Content-Range makes no sense: {value[:80]!r}")
        total = None if match[3] == b"*" else int(match[3])
        if match[1] is None:
            return 0, 0, total
        start, end = int(match[1]), int(match[2]) + 1
        # An empty range at the end of the object: Azurite answers so where others say 416.
        if end == start == total:
            return start, end, total
        if end <= start or (total is not None and end > total):
            raise ProtocolError(f"Content-Range makes no sense: {value[:80]!r}")
        return start, end, total


def parse_head(raw: bytes) -> ResponseHead:
    """Returns the head that `raw` is; it ends with the empty line.

    The parser checks every byte of it. The few headers that each answer is asked for are then found by position, and all of them are
    collected only if somebody wants them: eight callbacks per answer would cost as much as the request's signature.

    Raises:
        ProtocolError: Not a response head that RFC 9112 allows.
    """
    parser = HttpResponseParser(_NOTHING)
    try:
        parser.feed_data(raw)
    except (HttpParserError, HttpParserUpgrade) as error:
        raise ProtocolError("the answer is not HTTP that was asked for", cause=f"{type(error).__name__}: {error}") from None
    lower = raw.lower()
    length = _find(raw, lower, b"\r\ncontent-length:")
    etag = _find(raw, lower, b"\r\netag:")
    generation = _find(raw, lower, b"\r\nx-goog-generation:")
    is_persistent = (raw.startswith(b"HTTP/1.1") and b"close" not in lower) or _may_persist(raw, lower)
    return ResponseHead(
        raw,
        parser.get_status_code(),
        # The parser has seen to it that there are digits, and nothing but spaces around them.
        None if length is None else int(length),
        None if etag is None else unquote_etag(etag.decode("latin-1")),
        b"\r\ncontent-range:" in lower,
        is_persistent,
        find_checksum(raw, lower),
        None if generation is None else generation.decode("latin-1"),
        generation is not None and _is_recoded(raw, lower),
    )


def _is_recoded(raw: bytes, lower: bytes) -> bool:
    """Source: "Transcoding of gzip-compressed files", Google Cloud Storage: `x-goog-stored-content-encoding` says what is stored."""
    stored = _find(raw, lower, b"\r\nx-goog-stored-content-encoding:")
    sent = _find(raw, lower, b"\r\ncontent-encoding:") or b"identity"
    return stored is not None and (stored == b"gzip") != (sent == b"gzip")


def _find(raw: bytes, lower: bytes, needle: bytes) -> bytes | None:
    """Returns the value of the first header that `needle` (a line end, a lowercase name and a colon) finds in `lower`."""
    begin = lower.find(needle)
    if begin < 0:
        return None
    begin += len(needle)
    return raw[begin : raw.find(b"\r\n", begin)].strip(b" \t")


def _may_persist(raw: bytes, lower: bytes) -> bool:
    """Whether the connection may be used again after this response. Source: RFC 9112 §9.3."""
    is_http_1_0 = not raw.startswith(b"HTTP/1.1")
    connection = _find(raw, lower, b"\r\nconnection:")
    if connection is None:
        return not is_http_1_0
    options = connection.lower()
    return b"close" not in options and (not is_http_1_0 or b"keep-alive" in options)


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
