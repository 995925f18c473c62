"""`s3://` in the calling process: stat, list, put and delete as requests and their meaning.

As they stand here they go by the fast lane; `s3_sdk.py` has other requests made, and takes the same meaning from the answers.
"""

from __future__ import annotations

import hashlib
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

from ..errors import NotFoundError, ProtocolError
from ..fetch.http1 import ResponseHead
from ..fetch.request import Exchange
from ..types import ObjectInfo
from .base import Operation
from .s3_xml import ListPage, parse_list_page

_METADATA = b"x-amz-meta-"


class S3Operations:
    """The operations on one bucket."""

    is_slow = False
    """Whether an SDK makes the requests."""

    def __init__(self, root: str, wire: Any) -> None:
        self.root = root
        self.wire = wire

    def _exchange(self, method: str, key: str, params: tuple[tuple[str, str], ...] = ()) -> Exchange:
        make = partial(self.wire.request, method, key, params)
        return Exchange(None, self.root + key, self.wire, method, make)

    def stat(self, key: str) -> Operation[ObjectInfo]:
        """As `Store.stat`, by HEAD."""
        if not key:
            raise NotFoundError("a bucket is no object: the URI has no key", uri=self.root)
        return _describe_object(self.root + key, (yield from self._head(key)))

    def _head(self, key: str) -> Operation[ResponseHead]:
        """Returns the head that a HEAD gives."""
        fetch = yield self._exchange("HEAD", key)
        assert fetch.reply is not None
        return fetch.reply

    def list_page(self, prefix: str, recursive: bool, token: str | None) -> Operation[ListPage]:
        """Returns the page of a listing that `token` stands for, or the first."""
        params: tuple[tuple[str, str], ...] = (("encoding-type", "url"), ("list-type", "2"), ("prefix", prefix))
        if not recursive:
            params += (("delimiter", "/"),)
        if token is not None:
            params += (("continuation-token", token),)
        return parse_list_page((yield from self._page(params)), self.root)

    def _page(self, params: tuple[tuple[str, str], ...]) -> Operation[bytes]:
        """Returns the document that a listing gives."""
        fetch = yield self._exchange("GET", "", params)
        return bytes(fetch.body)

    def put(self, key: str, data: memoryview) -> Operation[None]:
        """As `Store.put`, by one PUT: 5 GiB at most, which the store enforces."""
        payload_hash = hashlib.sha256(data).hexdigest()
        make = partial(self.wire.put, key, len(data), payload_hash)
        yield Exchange(None, self.root + key, self.wire, "PUT", make, payload=data)

    def delete(self, key: str) -> Operation[None]:
        """As `Store.delete`."""
        try:
            yield from self._delete(key)
        except NotFoundError as error:
            # S3 answers 204 for a missing key, others 404; a missing bucket is an error on all of them.
            if error.message.startswith("NoSuchBucket"):
                raise

    def _delete(self, key: str) -> Operation[None]:
        yield self._exchange("DELETE", key)


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
        last_modified=_iso(get(b"last-modified")),
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


def _iso(date: str | None) -> str | None:
    """Returns an HTTP date as ISO-8601 in UTC; None for none, and for what is no date."""
    try:
        return parsedate_to_datetime(date).strftime("%Y-%m-%dT%H:%M:%SZ") if date else None
    except (ValueError, OverflowError):
        return None
