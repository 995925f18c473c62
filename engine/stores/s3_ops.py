"""`s3://` in the calling process: stat, list, put and delete as requests and their meaning.

As they stand here they go by the fast lane; `s3_sdk.py` has other requests made, and takes the same meaning from the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import (
    ConfigurationError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    ProtocolError,
    S3dlioError,
)
from ..fetch.checksums import Checksum
from ..fetch.http1 import ResponseHead
from ..fetch.request import Exchange, Fetch
from ..fetch.sigv4 import Headers
from ..types import ObjectDetails, ObjectInfo
from .base import Operation
from .s3_details import WITH_RESTORES, DetailsPage, details_of_head, parse_details_page
from .s3_sums import Sums
from .s3_write import IF_NEW, WRITE_ID, exists_already, knows_conditions, new_write_id
from .s3_xml import ListPage, error_from_response, iso_of_http, parse_list_page

if TYPE_CHECKING:
    from ..fetch.sdk_lane import Call

Params = tuple[tuple[str, str], ...]

_METADATA = b"x-amz-meta-"
_MAX_PROLOGUE_BYTES = 256
"""Before the first element of a document: its declaration, and the spaces that S3 sends while an operation lasts."""


class S3Operations:
    """The operations on one bucket."""

    is_slow = False
    """Whether an SDK makes the requests."""

    def __init__(self, root: str, wire: Any) -> None:
        self.root = root
        self.wire = wire
        self.sums = Sums()

    def _exchange(self, method: str, key: str, params: Params = (), headers: Headers = ()) -> Exchange:
        make = partial(self.wire.request, method, key, params, headers)
        exchange = Exchange(None, self.root + key, self.wire, method, make)
        exchange.check = lambda fetch: refuse_error(bytes(fetch.body), fetch.uri)
        return exchange

    def stat(self, key: str) -> Operation[ObjectInfo]:
        """As `Store.stat`, by HEAD."""
        return _describe_object(self.root + key, (yield from self._head_of_object(key)))

    def stat_details(self, key: str) -> Operation[ObjectDetails]:
        """Returns what a HEAD says, word for word.

        Raises:
            NotFoundError: As `stat`.
        """
        return details_of_head(key, (yield from self._head_of_object(key)), self.root + key)

    def _head_of_object(self, key: str) -> Operation[ResponseHead]:
        if not key:
            raise NotFoundError("a bucket is no object: the URI has no key", uri=self.root)
        return (yield from self.head(key))

    def find_sum(self, key: str) -> Operation[tuple[str | None, Checksum] | None]:
        """As `Store.find_sum`."""
        head = yield from self.head(key, with_checksum=True)
        return None if head.checksum is None else (head.version, head.checksum)

    def head(self, key: str, with_checksum: bool = False) -> Operation[ResponseHead]:
        """Returns the head that a HEAD gives."""
        fetch = yield self._exchange("HEAD", key, (), (("x-amz-checksum-mode", "ENABLED"),) if with_checksum else ())
        assert fetch.reply is not None
        return fetch.reply

    def list_page(self, prefix: str, recursive: bool, token: str | None) -> Operation[ListPage]:
        """Returns the page of a listing that `token` stands for, or the first."""
        params = _listing(prefix, "" if recursive else "/", token)
        pages: list[ListPage] = []
        yield from self._page(params, (), lambda document: pages.append(parse_list_page(document, self.root)))
        return pages[-1]

    def list_details(self, prefix: str, delimiter: str, max_keys: int, token: str | None) -> Operation[DetailsPage]:
        """Returns the page of a listing that `token` stands for, or the first, with all that the store says.

        Raises:
            ProtocolError: The next token is this one, so the listing would never end.
        """
        params = (*_listing(prefix, delimiter, token), ("max-keys", str(max_keys)))
        pages: list[DetailsPage] = []
        yield from self._page(params, WITH_RESTORES, lambda document: pages.append(parse_details_page(document, self.root)))
        if token is not None and pages[-1].next_token == token:
            raise ProtocolError("the server repeats a continuation token", uri=self.root + prefix)
        return pages[-1]

    def _page(self, params: Params, headers: Headers, take: Callable[[bytes], None]) -> Operation[None]:
        """Has a listing's document taken; what `take` raises is a failure of the request, and tried again."""
        exchange = self._exchange("GET", "", params, headers)
        exchange.check = lambda fetch: take(bytes(fetch.body))
        yield exchange

    def put(self, key: str, data: memoryview, create_only: bool = False, headers: Headers = ()) -> Operation[None]:
        """As `Store.put`, by one PUT: 5 GiB at most, which the store enforces; `headers` say more of the object."""
        if create_only:
            yield from self._create(key, data, headers)
        else:
            yield from self.sums.send(data, lambda sums: self.writing(key, data, sums + headers))

    def _create(self, key: str, data: memoryview, headers: Headers) -> Operation[None]:
        """Writes an object that must be new.

        Raises:
            AlreadyExistsError: There is one, and it is not what an earlier attempt of this very call has written.
        """
        write_id = new_write_id()
        headers += (IF_NEW, (WRITE_ID, write_id))
        # Summed before anything is asked: an operation's first step is the one that may take long.
        request = self.writing(key, data, self.sums.of(data) + headers)
        yield from self.refuse_existing(key)
        try:
            yield from self.sums.send(data, lambda sums: self.writing(key, data, sums + headers), request)
        except S3dlioError as error:
            if (isinstance(error, ObjectChangedError) or error.retryable) and (yield from self.has_written(key, write_id, error)):
                return
            if isinstance(error, ObjectChangedError):
                raise exists_already(self.root + key) from None
            raise

    def refuse_existing(self, key: str, write_id: str = "") -> Operation[None]:
        """Looks for an object where a new one is to be: for servers that may not know `If-None-Match`. AWS does, and is not asked twice.

        Raises:
            AlreadyExistsError: There is one, and it does not bear `write_id`.
        """
        if knows_conditions(self.wire.spec):
            return
        try:
            head = yield from self.head(key)
        except (NotFoundError, PermissionDeniedError):
            return
        if head.get(WRITE_ID.encode()) != write_id:
            raise exists_already(self.root + key)

    def has_written(self, key: str, write_id: str, error: S3dlioError) -> Operation[bool]:
        """Whether a write that ended in `error` has come about: whether the object is the one that bears its id.

        Where nobody says what there is, it is taken at its word.

        Raises:
            S3dlioError: Nobody says, and what it met may be its own doing, by an attempt whose answer was lost.
        """
        try:
            head = yield from self.head(key)
        except NotFoundError:
            return False
        except S3dlioError as unknown:
            if error.attempts > 1 and not error.retryable:
                unknown.message = f"nobody says whether the object is the one that was written: {unknown.message}"
                raise
            return False
        return head.get(WRITE_ID.encode()) == write_id

    def writing(self, key: str, data: memoryview, headers: Headers, params: Params = ()) -> Exchange | Call:
        """Returns a request that sends an object, or a part of one; `answer` has the head of what comes."""
        make = partial(self.wire.put, key, params, headers, len(data), self.wire.payload_hash(data))
        return Exchange(None, self.root + key, self.wire, "PUT", make, payload=data)

    def answer(self, fetch: Fetch) -> ResponseHead:
        """Returns the head of the answer to a request that is done."""
        assert fetch.reply is not None
        return fetch.reply

    def delete(self, key: str) -> Operation[None]:
        """As `Store.delete`."""
        if not key:
            # The same request without a key deletes the bucket.
            raise ConfigurationError("an object needs a key", uri=self.root)
        try:
            yield from self._delete(key)
        except NotFoundError as error:
            # S3 answers 204 for a missing key, others 404; a missing bucket is an error on all of them.
            if error.message.startswith("NoSuchBucket"):
                raise

    def _delete(self, key: str) -> Operation[None]:
        yield self._exchange("DELETE", key)


def _listing(prefix: str, delimiter: str, token: str | None) -> Params:
    params: Params = (("encoding-type", "url"), ("list-type", "2"), ("prefix", prefix))
    if delimiter:
        params += (("delimiter", delimiter),)
    return params if token is None else (*params, ("continuation-token", token))


def refuse_error(document: bytes, uri: str) -> None:
    """Raises what an `<Error>` document says that came as a success (case N12); all others pass."""
    if b"<Error>" in document[:_MAX_PROLOGUE_BYTES]:
        raise error_from_response(200, {}, document, uri, 1)


def _describe_object(uri: str, head: ResponseHead) -> ObjectInfo:
    """Returns what the head of an answer to HEAD says."""
    get = head.get
    if head.length is None:
        raise ProtocolError("the answer to HEAD has no Content-Length", uri=uri, status=head.status)
    etag = head.etag
    return ObjectInfo(
        uri=uri,
        size=head.length,
        version=etag,
        etag=etag,
        last_modified=iso_of_http(get(b"last-modified")),
        content_type=get(b"content-type"),
        content_language=get(b"content-language"),
        content_encoding=get(b"content-encoding"),
        cache_control=get(b"cache-control"),
        content_disposition=get(b"content-disposition"),
        expires=get(b"expires"),
        storage_class=get(b"x-amz-storage-class") or "STANDARD",
        server_side_encryption=get(b"x-amz-server-side-encryption"),
        ssekms_key_id=get(b"x-amz-server-side-encryption-aws-kms-key-id"),
        sse_customer_algorithm=get(b"x-amz-server-side-encryption-customer-algorithm"),
        version_id=get(b"x-amz-version-id"),
        replication_status=get(b"x-amz-replication-status"),
        metadata={
            name[len(_METADATA) :].decode("latin-1"): value.decode("utf-8", "replace")
            for name, value in head.headers.items()
            if name.startswith(_METADATA)
        },
    )
