"""`s3://` on the fast lane, in the calling process: stat, list, put and delete as requests and their meaning."""

from __future__ import annotations

import hashlib
from email.utils import parsedate_to_datetime
from functools import partial

from ..errors import NotFoundError, ProtocolError
from ..fetch.http1 import ResponseHead
from ..fetch.request import Exchange
from ..types import ListEntry, ObjectInfo
from .base import Listing, Operation
from .s3_wire import S3Wire
from .s3_xml import parse_list_page

_METADATA = b"x-amz-meta-"


class S3Operations:
    """The operations on one bucket."""

    def __init__(self, root: str, wire: S3Wire) -> None:
        self.root = root
        self.wire = wire

    def _exchange(self, method: str, key: str, params: tuple[tuple[str, str], ...] = ()) -> Exchange:
        make = partial(self.wire.request, method, key, params)
        return Exchange(None, self.root + key, self.wire, method, make)

    def stat(self, key: str) -> Operation[ObjectInfo]:
        """As `Store.stat`, by HEAD."""
        if not key:
            raise NotFoundError("a bucket is no object: the URI has no key", uri=self.root)
        fetch = yield self._exchange("HEAD", key)
        assert fetch.reply is not None
        return describe_object(self.root + key, fetch.reply)

    def list_pages(self, prefix: str, recursive: bool) -> Listing:
        """As `Store.list_pages`, by ListObjectsV2; pages come when they are asked for.

        Raises:
            ProtocolError: The server gave a continuation token twice, so the listing would never end.
        """
        base: tuple[tuple[str, str], ...] = (("encoding-type", "url"), ("list-type", "2"), ("prefix", prefix))
        if not recursive:
            base += (("delimiter", "/"),)
        token: str | None = None
        seen: set[str] = set()
        while True:
            params = base if token is None else (*base, ("continuation-token", token))
            fetch = yield self._exchange("GET", "", params)
            assert fetch is not None
            page = parse_list_page(bytes(fetch.body), self.root)
            entries = page.entries + [ListEntry(child) for child in page.prefixes]
            if entries:
                yield entries
            token = page.next_token
            if token is None:
                return
            if token in seen:
                raise ProtocolError("the server repeats a continuation token", uri=self.root + prefix)
            seen.add(token)

    def put(self, key: str, data: memoryview) -> Operation[None]:
        """As `Store.put`, by one PUT: 5 GiB at most, which the store enforces."""
        payload_hash = hashlib.sha256(data).hexdigest()
        make = partial(self.wire.put, key, data, payload_hash)
        yield Exchange(None, self.root + key, self.wire, "PUT", make)

    def delete(self, key: str) -> Operation[None]:
        """As `Store.delete`."""
        try:
            yield self._exchange("DELETE", key)
        except NotFoundError as error:
            # S3 answers 204 for a missing key, others 404; a missing bucket is an error on all of them.
            if error.message.startswith("NoSuchBucket"):
                raise


def describe_object(uri: str, head: ResponseHead) -> ObjectInfo:
    """Returns what the head of an answer to HEAD says."""
    get = head.get
    if head.length is None:
        raise ProtocolError("the answer to HEAD has no Content-Length", uri=uri, status=head.status)
    modified = get(b"last-modified")
    etag = head.etag
    return ObjectInfo(
        uri=uri,
        size=head.length,
        version=etag,
        etag=etag,
        last_modified=parsedate_to_datetime(modified).strftime("%Y-%m-%dT%H:%M:%SZ") if modified else None,
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
