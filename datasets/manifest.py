"""A manifest: a file that names the objects of a data set, one a line.

A line is a URI, or a JSON object: `{"uri": "s3://bucket/key", "size": 4096, "version": "..."}`, where `etag` may stand for `version`, and
other fields say nothing here. Empty lines, and those that begin with `#`, are passed over.

The file is read in pieces, each of the version that the first one had, so that a manifest of any length needs little memory and is never
half the old and half the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from s3dlio.engine.errors import ConfigurationError
from s3dlio.engine.fetch.http1 import unquote_etag
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.pool.rooms import ViewFetch
from s3dlio.engine.stores.base import run
from s3dlio.engine.stores.registry import locate
from s3dlio.engine.types import ObjectRef

from .entries import Entry, entry_of

_PIECE_BYTES: Final = 4 << 20
_MAX_LINE_BYTES: Final = 64 << 10
"""What is longer is another kind of file."""


class _Line(msgspec.Struct):
    uri: str
    size: int | None = None
    version: str | None = None
    etag: str | None = None


def read_manifest(uri: str) -> Iterator[Entry]:
    """Yields what a manifest names, in its order.

    Raises:
        ConfigurationError: A line is none of what may stand there; the text has its number.
        NotFoundError: There is no such file.
        ObjectChangedError: The file changed while it was read.
        S3dlioError: As the store says.
    """
    for number, line in enumerate(_lines(uri), start=1):
        if line and not line.startswith(b"#"):
            try:
                yield _read_line(line)
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"line {number} of the manifest: {error.message}", uri=uri, cause=error.cause
                ) from None


def _read_line(line: bytes) -> Entry:
    if not line.startswith(b"{"):
        try:
            return entry_of(line.decode())
        except UnicodeDecodeError:
            raise ConfigurationError("it is not UTF-8") from None
    try:
        found = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            "it is not a JSON object with a URI, its size and its version", cause=str(error)
        ) from None
    version = found.version
    if version is None and found.etag is not None:
        version = unquote_etag(found.etag)
    return entry_of(ObjectRef(found.uri, found.size, version or None))


_decoder = msgspec.json.Decoder(_Line)


def _lines(uri: str) -> Iterator[bytes]:
    """Yields the lines without their ends, and without the mark of UTF-8 that some editors write."""
    rest = b""
    number = 0
    for piece in _pieces(uri):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            number += 1
            yield _bare(line, number, uri)
        if len(rest) > _MAX_LINE_BYTES:
            break
    yield _bare(rest, number + 1, uri)


def _bare(line: bytes, number: int, uri: str) -> bytes:
    if len(line) > _MAX_LINE_BYTES:
        raise ConfigurationError(f"line {number} is longer than {_MAX_LINE_BYTES} bytes: this is no manifest", uri=uri)
    if number == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")
    return line.removesuffix(b"\r").lstrip(b" \t")


def _pieces(uri: str) -> Iterator[bytes]:
    store, key = locate(uri)
    fetcher = inline_fetcher()
    info = run(store.stat(key), fetcher.run)
    for start in range(0, info.size, _PIECE_BYTES):
        fetch = ViewFetch(
            None, uri, store.wire, key, start=start, end=min(start + _PIECE_BYTES, info.size), version=info.version
        )
        fetch.view = None
        yield bytes(fetcher.fetch_one(fetch))
