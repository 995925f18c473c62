"""URIs as raw text: `scheme://bucket/key`, split by hand; of Azure `az://account/container/key`, where the bucket is `account/container`.

A key is any text; `#`, `?`, `%`, `//`, `..` have no meaning in it, and nothing here decodes or normalises it (`urlparse` would).
Percent-encoding belongs to the wire and stands in `fetch/sigv4.py`.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from .errors import InvalidUriError
from .text import clean

OBJECT_SCHEMES = frozenset({"s3", "gs", "az", "memory"})
FILE_SCHEMES = frozenset({"file", "direct"})
MAX_KEY_BYTES = 1024
"""S3, GCS and Azure all end at 1024 bytes of UTF-8. Source: "Naming Amazon S3 objects"."""


class Uri(NamedTuple):
    """A URI in three raw pieces. For `file` and `direct` the bucket is empty and the key is the path; for `az` it holds one slash."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        if self.scheme in FILE_SCHEMES:
            return f"{self.scheme}://{self.key}"
        return f"{self.scheme}://{self.bucket}/{self.key}"

    @property
    def root(self) -> str:
        """The text that every URI of the same bucket begins with: `s3://bucket/`, `file://`."""
        return f"{self.scheme}://" if self.scheme in FILE_SCHEMES else f"{self.scheme}://{self.bucket}/"


def parse_uri(text: str | os.PathLike[str]) -> Uri:
    """Splits `scheme://bucket/key`; a relative file path is made absolute against the working directory.

    Raises:
        InvalidUriError: No scheme, an unknown one, no bucket (of Azure, no container), a NUL, a key too long, or no name of a file.
    """
    raw = os.fspath(text) if isinstance(text, os.PathLike) else text
    if not isinstance(raw, str):
        raise InvalidUriError(f"a URI is text, not {type(raw).__name__}")
    scheme, separator, rest = raw.partition("://")
    if not separator:
        raise InvalidUriError(
            f"{clean(raw)!r} has no scheme; write s3://bucket/key, or file:///path for a local file", uri=clean(raw)
        )
    if "\0" in rest:
        raise InvalidUriError("a URI must not hold a NUL character", uri=clean(raw))
    if scheme in FILE_SCHEMES:
        if not rest:
            raise InvalidUriError(f"{scheme}:// needs a path", uri=raw)
        _check_encodable(rest, raw)
        path = rest if rest.startswith("/") else os.path.join(os.getcwd(), rest)
        return Uri(scheme, "", path)
    if scheme not in OBJECT_SCHEMES:
        known = ", ".join(sorted(OBJECT_SCHEMES | FILE_SCHEMES))
        raise InvalidUriError(f"unknown scheme {clean(scheme)!r}; s3dlio knows {known}", uri=clean(raw))
    bucket, _, key = rest.partition("/")
    if scheme == "az":
        container, _, key = key.partition("/")
        if not bucket or not container:
            raise InvalidUriError("az:// needs an account and a container: az://account/container/key", uri=clean(raw))
        bucket = f"{bucket}/{container}"
    if not bucket:
        raise InvalidUriError(f"{scheme}:// needs a bucket: {scheme}://bucket/key", uri=clean(raw))
    # In the path of a request "." and ".." would name another place.
    if {".", ".."} & {*bucket.split("/")} or any(c <= " " or c in "?#%\\\x7f" for c in bucket):
        raise InvalidUriError(f"{clean(bucket)!r} cannot be the name of a bucket", uri=clean(raw))
    # A key is at most 1024 bytes; only a long one is worth encoding to count them.
    if len(key) > MAX_KEY_BYTES // 4 and len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise InvalidUriError(f"the key is longer than {MAX_KEY_BYTES} bytes", uri=clean(raw))
    return Uri(scheme, bucket, key)


def _check_encodable(path: str, raw: str) -> None:
    if path.isascii():
        return
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise InvalidUriError(f"no file can have this name: {error.reason}", uri=clean(raw)) from None


def as_directory(text: str) -> str:
    """Returns `text` ending in `/`: the prefix of everything below it."""
    return text if text.endswith("/") else text + "/"
