"""`s3://` in the calling process: what is rare. Many deletions at once, copies, markers of prefixes, buckets, uploads that were left.

As they stand here they go by the fast lane; `s3_rare_sdk.py` has other requests made, and takes the same meaning from the answers.

Rule: a 200 is no success before its document says so. What it says of a failure is tried again by the loop, like any other (case N12).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from ..errors import (
    ConfigurationError,
    NotFoundError,
    ProtocolError,
    RequestRejectedError,
    S3dlioError,
    UnsupportedError,
)
from ..fetch.request import Exchange
from ..fetch.sigv4 import Headers, encode_key
from ..types import Container, PendingUpload
from .base import Operation
from .s3_ops import Params, S3Operations, refuse_error
from .s3_parts import Parts, parts_document
from .s3_rare_xml import (
    BucketsPage,
    UploadsPage,
    bucket_document,
    check_copied,
    deletions_document,
    fits_xml,
    parse_buckets,
    parse_deletions,
    parse_uploads,
)
from .s3_wire import with_identity

MAX_DELETE_KEYS: Final = 1000
"""Source: API reference, DeleteObjects."""


class S3RareOperations(S3Operations):
    """All operations on one bucket, or, under the root `s3://`, on the account."""

    def delete_many(self, keys: Sequence[str]) -> Operation[list[S3dlioError | None]]:
        """As `Store.delete_many`, by DeleteObjects; what XML cannot name goes by requests of its own."""
        batch = Deletions(self.root, self.wire, keys)
        if batch.left:
            try:
                yield from self._delete_batch(batch)
            except UnsupportedError:
                pass  # a server that speaks like S3, but not that; each goes by itself below
            except S3dlioError as error:
                batch.give_up(error)
        for key in dict.fromkeys(keys):
            if key not in batch.results:
                batch.results[key] = yield from self._delete_one(key)
        return [batch.results[key] for key in keys]

    def _delete_one(self, key: str) -> Operation[S3dlioError | None]:
        try:
            yield from self.delete(key)
        except S3dlioError as error:
            return error
        return None

    def copy(self, key: str, source_bucket: str, source_key: str) -> Operation[None]:
        """Copies an object of a bucket that the same identity reaches at the same endpoint, by one request.

        Raises:
            NotFoundError: There is no such object, or no such bucket.
            RequestRejectedError: Among other reasons, it is longer than 5 GiB.
        """
        try:
            yield from self._copy(key, source_bucket, source_key)
        except NotFoundError as error:
            if error.message.startswith("NoSuchKey"):
                error.uri = f"s3://{source_bucket}/{source_key}"
            raise

    def create_bucket(self) -> Operation[None]:
        """As `Store.create_bucket`."""
        try:
            yield from self._create_bucket()
        except RequestRejectedError as error:
            if not error.message.startswith("BucketAlreadyOwnedByYou"):
                raise

    def delete_bucket(self) -> Operation[None]:
        """As `Store.delete_bucket`."""
        try:
            yield from self._delete_bucket()
        except NotFoundError as error:
            # It was there at the first attempt, whose answer was lost.
            if error.attempts < 2:
                raise

    def list_buckets(self) -> Operation[list[Container]]:
        """Returns the buckets of the account; an operation of the root `s3://`.

        Raises:
            ProtocolError: The server gave a continuation token twice.
        """
        pages: list[BucketsPage] = []
        token: str | None = None
        seen: set[str | None] = set()
        while token not in seen:
            seen.add(token)
            yield from self._buckets_page(token, lambda document: pages.append(parse_buckets(document)))
            token = pages[-1].next_token
            if token is None:
                return [bucket for page in pages for bucket in page.buckets]
        raise ProtocolError("the server repeats a continuation token", uri="s3://")

    def list_uploads(self, prefix: str) -> Operation[list[PendingUpload]]:
        """Returns the multipart uploads below a raw text prefix that were begun and not ended, by anybody.

        Raises:
            ProtocolError: The server gave a page twice, so the list would never end.
        """
        pages: list[UploadsPage] = []
        markers: tuple[str, str] | None = None
        seen: set[tuple[str, str] | None] = set()
        while markers not in seen:
            seen.add(markers)
            yield from self._uploads_page(prefix, markers, lambda document: pages.append(parse_uploads(document, self.root)))
            markers = pages[-1].next_markers
            if markers is None:
                return [upload for page in pages for upload in page.uploads]
        raise ProtocolError("the server repeats a page of its list of uploads", uri=self.root + prefix)

    def abort_upload(self, key: str, upload_id: str) -> Operation[None]:
        """Throws the parts of an upload away; one that has ended is no error."""
        try:
            yield from self._abort_upload(key, upload_id)
        except NotFoundError as error:
            if error.message.startswith("NoSuchBucket"):
                raise

    # By the fast lane. What `take` raises of a document is a failure of the request, and tried again.

    def begin_parts(self, key: str, headers: Headers, take: Callable[[bytes], None]) -> Operation[None]:
        """Has a multipart upload begun; `take` is given the document that names it."""
        make = partial(self.wire.document, "POST", key, (("uploads", ""),), headers)
        yield self._asked("POST", key, make, take)

    def end_parts(self, key: str, upload_id: str, parts: Parts, headers: Headers, take: Callable[[bytes], None]) -> Operation[None]:
        """Has the object made of its parts, in their order; `take` is given the document that says whether it is."""
        make = partial(self.wire.document, "POST", key, (("uploadId", upload_id),), headers, parts_document(parts))
        yield self._asked("POST", key, make, take)

    def find_parts(self, key: str, upload_id: str) -> Operation[None]:
        """Asks for the parts of an upload, of which there may be none.

        Raises:
            NotFoundError: The upload is gone.
        """
        yield self._exchange("GET", key, (("max-parts", "1"), ("uploadId", upload_id)))

    def _delete_batch(self, batch: Deletions) -> Operation[None]:
        def make() -> bytes:
            document = batch.document()
            # The older of the two ways, which every server knows. Source: API reference, DeleteObjects.
            digest = base64.b64encode(hashlib.md5(document, usedforsecurity=False).digest()).decode()
            headers = ("content-md5", digest), ("content-type", "application/xml")
            body: bytes = self.wire.document("POST", "", (("delete", ""),), headers, document)
            return body

        yield self._asked("POST", "", make, batch.take)

    def _copy(self, key: str, source_bucket: str, source_key: str) -> Operation[None]:
        make = partial(self.wire.document, "PUT", key, (), (_copy_source(source_bucket, source_key),))
        yield self._asked("PUT", key, make, partial(check_copied, uri=self.root + key))

    def copy_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        source: tuple[str, str],
        span: tuple[int, int],
        etag: str,
        take: Callable[[bytes], None],
    ) -> Operation[None]:
        """Has one part of an upload made of bytes [start, end) of a version of an object; `take` is given the document about it.

        Args:
            key: Of the upload.
            upload_id: As the store names it.
            number: Of the part, from 1.
            source: Bucket and key.
            span: The bytes.
            etag: The version, without quotes.
            take: What it raises is a failure, and tried again.
        """
        headers: Headers = (
            _copy_source(*source),
            ("x-amz-copy-source-range", f"bytes={span[0]}-{span[1] - 1}"),
            ("x-amz-copy-source-if-match", f'"{etag}"'),
        )
        params: Params = (("partNumber", str(number)), ("uploadId", upload_id))
        yield self._asked("PUT", key, partial(self.wire.document, "PUT", key, params, headers), take)

    def _create_bucket(self) -> Operation[None]:
        make = partial(self.wire.document, "PUT", body=bucket_document(self.wire.spec.region))
        yield self._asked("PUT", "", make, partial(refuse_error, uri=self.root))

    def _delete_bucket(self) -> Operation[None]:
        yield self._exchange("DELETE", "")

    def _buckets_page(self, token: str | None, take: Callable[[bytes], None]) -> Operation[None]:
        params: Params = () if token is None else (("continuation-token", token),)
        yield self._asked("GET", "", partial(self.wire.request, "GET", "", params), take)

    def _uploads_page(self, prefix: str, markers: tuple[str, str] | None, take: Callable[[bytes], None]) -> Operation[None]:
        params: Params = (("encoding-type", "url"), ("prefix", prefix), ("uploads", ""))
        if markers is not None:
            params += (("key-marker", markers[0]), ("upload-id-marker", markers[1]))
        yield self._asked("GET", "", partial(self.wire.request, "GET", "", params), take)

    def _abort_upload(self, key: str, upload_id: str) -> Operation[None]:
        yield self._exchange("DELETE", key, (("uploadId", upload_id),))

    def _asked(self, method: str, key: str, make: Callable[[], bytes], take: Callable[[bytes], None]) -> Exchange:
        """Returns a request; `take` is given its document and raises what that says."""
        exchange = Exchange(None, self.root + key, self.wire, method, make)
        exchange.check = lambda fetch: take(bytes(fetch.body))
        return exchange


def _copy_source(bucket: str, key: str) -> tuple[str, str]:
    between = "/object/" if bucket.startswith("arn:") else "/"
    return "x-amz-copy-source", encode_key(f"{bucket}{between}{key}")


class Deletions:
    """Keys that are to be deleted by one request, and what became of each. What passes is asked for again, and nothing else."""

    def __init__(self, root: str, wire: Any, keys: Iterable[str]) -> None:
        self._root = root
        self._wire = wire
        self._is_answered = False
        self.left: dict[str, S3dlioError | None] = {}
        """What is still to be deleted, with the last error of each."""
        self.results: dict[str, S3dlioError | None] = {}
        """The end of all others."""
        for key in keys:
            if not key:
                self.results[key] = ConfigurationError("an object needs a key", uri=root)
            elif fits_xml(key):
                self.left[key] = None

    def document(self) -> bytes:
        """Returns the body of the next request."""
        return deletions_document(self.left)

    def take(self, body: bytes) -> None:
        """Takes an answer.

        Raises:
            S3dlioError: The first of the errors that pass.
        """
        found = parse_deletions(body, self._root)
        self._is_answered = True
        for key in list(self.left):
            error = found[key] if key in found else _unnamed(self._root + key)
            if error is not None:
                error = with_identity(error, self._wire.spec, self._wire.on_expired)
            if error is not None and error.retryable:
                self.left[key] = error
            else:
                del self.left[key]
                self.results[key] = error
        for error in self.left.values():
            assert error is not None
            raise error

    def give_up(self, error: S3dlioError) -> None:
        """Takes the error that ended the request: it is that of each key that is left.

        Raises:
            S3dlioError: `error` itself, if nothing was said of any key.
        """
        if not self._is_answered:
            raise error
        for key, last in self.left.items():
            told = last or type(error)(error.message, uri=self._root + key, status=error.status, cause=error.cause)
            told.attempts = error.attempts
            # A traceback would keep what the request held.
            self.results[key] = told.with_traceback(None)
        self.left.clear()


def _unnamed(uri: str) -> S3dlioError:
    return ProtocolError("the store does not say what became of this key", uri=uri)
