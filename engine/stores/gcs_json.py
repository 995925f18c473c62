"""What Google's JSON API says in answers below 300: objects, pages of listings, rewrites, buckets. Pure.

Rule: an answer is whole or an error. One that is no such document, lacks what it must have, or holds an `error` under a 200 (case N12), is
a failure of the server, which is tried again.
"""

from __future__ import annotations

import base64
from typing import Any, Final, TypeVar

import msgspec

from ..errors import ChecksumMismatchError, InvalidUriError, ProtocolError, ServerError
from ..fetch.http1 import ResponseHead
from ..text import clean
from ..types import Container, ListEntry, ObjectInfo

T = TypeVar("T")
Number = str | int
"""Google sends 64-bit numbers as text; emulators are less strict."""


class _Customer(msgspec.Struct, rename="camel"):
    encryption_algorithm: str | None = None


class Resource(msgspec.Struct, rename="camel", kw_only=True):
    """The metadata of one object. Source: "Objects" of the JSON API."""

    name: str = ""
    size: Number
    generation: Number | None = None
    updated: str | None = None
    etag: str | None = None
    crc32c: str | None = None
    content_type: str | None = None
    content_language: str | None = None
    content_encoding: str | None = None
    cache_control: str | None = None
    content_disposition: str | None = None
    storage_class: str | None = None
    kms_key_name: str | None = None
    customer_encryption: _Customer | None = None
    metadata: dict[str, str | None] | None = None

    def describe(self, uri: str) -> ObjectInfo:
        """Returns what is to be said of the object. Google encrypts all objects; only other keys than its own are worth a word."""
        generation = None if self.generation is None else str(self.generation)
        return ObjectInfo(
            uri=uri,
            size=_size(self.size),
            version=generation,
            last_modified=_seconds(self.updated),
            etag=self.etag,
            content_type=self.content_type,
            content_language=self.content_language,
            content_encoding=self.content_encoding,
            cache_control=self.cache_control,
            content_disposition=self.content_disposition,
            storage_class=self.storage_class or "STANDARD",
            server_side_encryption="cloud-kms" if self.kms_key_name else None,
            ssekms_key_id=self.kms_key_name,
            sse_customer_algorithm=self.customer_encryption.encryption_algorithm if self.customer_encryption else None,
            version_id=generation,
            metadata={name: value or "" for name, value in (self.metadata or {}).items()},
        )


class _Item(msgspec.Struct, gc=False):
    name: str
    size: Number
    generation: Number | None = None
    updated: str | None = None


class _Page(msgspec.Struct, rename="camel"):
    items: list[_Item] = []
    prefixes: list[str] = []
    next_page_token: str | None = None
    error: msgspec.Raw | None = None


class Rewrite(msgspec.Struct, rename="camel"):
    """How far a copy has come. Source: objects.rewrite."""

    done: bool
    rewrite_token: str | None = None
    """By which it goes on; there is one where it is not done."""
    total_bytes_rewritten: Number = 0

    @property
    def num_bytes(self) -> int:
        """Bytes that are copied."""
        return _size(self.total_bytes_rewritten)


class _Bucket(msgspec.Struct, rename="camel"):
    name: str
    time_created: str | None = None


class _Buckets(msgspec.Struct, rename="camel"):
    items: list[_Bucket] = []
    next_page_token: str | None = None
    error: msgspec.Raw | None = None


LIST_FIELDS: Final = "items(name,size,generation,updated),prefixes,nextPageToken"
"""All that is read of a page; the rest would be most of it."""
BUCKET_FIELDS: Final = "items(name,timeCreated),nextPageToken"
_object: Final = msgspec.json.Decoder(Resource)
_page: Final = msgspec.json.Decoder(_Page)
_rewrite: Final = msgspec.json.Decoder(Rewrite)
_buckets: Final = msgspec.json.Decoder(_Buckets)


def _read(decoder: msgspec.json.Decoder[T], body: bytes | bytearray) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if body[:200].lstrip().startswith(b'{"error"') or b'"error"' in body[:200]:
            raise ServerError("the store says that it succeeded, and sends an error") from None
        raise ProtocolError("the answer is not the document that was asked for", cause=clean(str(error))) from None


def read_object(body: bytes | bytearray) -> Resource:
    """Returns the metadata of an object.

    Raises:
        ProtocolError, ServerError: It is no such document. Retryable.
    """
    found = _read(_object, body)
    _size(found.size)
    return found


def read_page(body: bytes | bytearray, root: str) -> tuple[list[ListEntry], str | None]:
    """Returns the entries of a page of a listing, child prefixes behind the objects, and the token of the next page. 2 us per key.

    Raises:
        ProtocolError, ServerError: As `read_object`.
    """
    page = _read(_page, body)
    if page.error is not None:
        raise ServerError("the store says that it succeeded, and sends an error", uri=root)
    try:
        entries = [
            ListEntry(
                root + item.name,
                int(item.size),
                None if item.generation is None else str(item.generation),
                item.updated[:19] + "Z" if item.updated else None,
            )
            for item in page.items
        ]
    except ValueError:
        raise ProtocolError("an entry of the listing has no size", uri=root) from None
    if any(entry.size is None or entry.size < 0 for entry in entries):
        raise ProtocolError("an entry of the listing has a size below 0", uri=root)
    entries += [ListEntry(root + prefix) for prefix in page.prefixes]
    return entries, page.next_page_token or None


def read_rewrite(body: bytes | bytearray) -> Rewrite:
    """Returns how far a copy has come.

    Raises:
        ProtocolError, ServerError: As `read_object`.
    """
    found = _read(_rewrite, body)
    if not found.done and not found.rewrite_token:
        raise ProtocolError("the copy is not complete, and the store does not say how to go on")
    _size(found.total_bytes_rewritten)
    return found


def read_buckets(body: bytes | bytearray) -> tuple[list[Container], str | None]:
    """Returns a page of buckets, and the token of the next one.

    Raises:
        ProtocolError, ServerError: As `read_object`.
    """
    page = _read(_buckets, body)
    if page.error is not None:
        raise ServerError("the store says that it succeeded, and sends an error")
    return [Container(one.name, f"gs://{one.name}/", _seconds(one.time_created)) for one in page.items], page.next_page_token or None


def encode_crc32c(value: int) -> str:
    """Returns a CRC32C as Google writes it: big-endian, in base64."""
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def encode_json(document: Any) -> bytes:
    """Returns the bytes of a document.

    Raises:
        InvalidUriError: The name in it holds a lone surrogate.
    """
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError as error:
        raise InvalidUriError(f"no object can have this name: {error.reason}") from None


def check_written(found: Resource, uri: str, size: int, sum_: int) -> None:
    """Compares what the store says it has with what was sent.

    Raises:
        ChecksumMismatchError: It is something else.
    """
    if int(found.size) != size or (found.crc32c is not None and found.crc32c != encode_crc32c(sum_)):
        raise ChecksumMismatchError(
            f"the store has {int(found.size)} bytes with CRC32C {found.crc32c}, {size} with {encode_crc32c(sum_)} were sent", uri=uri
        )


def resource_of(_head: ResponseHead, body: bytes | bytearray) -> Resource:
    """As `read_object`, of an answer."""
    return read_object(body)


def _size(size: Number) -> int:
    try:
        found = int(size)
    except ValueError:
        found = -1
    if found < 0:
        raise ProtocolError("the store gives an object a size that is none")
    return found


def _seconds(time: str | None) -> str | None:
    """Returns Google's time, which is in UTC with fractions of seconds, without these."""
    return time[:19] + "Z" if time else None
