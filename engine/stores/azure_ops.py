"""`az://` in the calling process: every operation as requests and their meaning.

As they stand here they go by the fast lane; `azure_sdk.py` sends the same requests by the SDK.

Rules:

* What is sent has its CRC64 with it, which the service holds against the bytes before it keeps them. It is the polynomial of CRC64NVME, and
  costs nothing beside the sending (7 GB/s and more); MD5 would cost more than all the rest.
* A create-only write carries a tag of its own as metadata. If its answer was lost, and it meets an object, the tag says whose that is.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ..errors import (
    AlreadyExistsError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    ProtocolError,
    RequestRejectedError,
    S3dlioError,
    StoreTimeoutError,
)
from ..fetch.checksums import sum_function
from ..fetch.http1 import ResponseHead
from ..fetch.request import Exchange
from ..fetch.shared_key import Pairs
from ..types import Container, ObjectInfo
from .azure_wire import OF_CONTAINER, Hidden, check_key
from .azure_xml import ListPage, normalise_time, parse_container_page, parse_list_page
from .base import Operation

MAX_PUT_BYTES: Final = 5000 << 20
"""Source: REST API reference, Put Blob."""
Check = Callable[[Any], None]
_METADATA: Final = b"x-ms-meta-"
_TAG: Final = "x-ms-meta-s3dlio_write"
_MAX_WAITS: Final = 60
"""For a copy that is not done at once, as within an account it is. Each takes as long as all attempts of a request: 10 s by default."""


class _CopyPendingError(StoreTimeoutError):
    """An answer says that a copy has not ended; which has the loop ask again, with its pauses. It leaves no operation."""


class AzureOperations:
    """The operations on one container, or, under the root `az://account/`, the list of the account's containers."""

    def __init__(self, root: str, wire: Any) -> None:
        self.root = root
        self.wire = wire

    def ask(
        self, method: str, key: str, query: Pairs = (), headers: Pairs = (), payload: memoryview | None = None, check: Check | None = None
    ) -> Operation[ResponseHead]:
        """Sends one request, with its retries, and returns the head of its answer.

        Args:
            method: In capitals.
            key: Of the object; empty for the container.
            query: Not encoded.
            headers: More of them.
            payload: What is sent.
            check: Called with the head; what it raises makes a failure of the answer, which is asked for again.
        """
        num_bytes = 0 if payload is None else payload.nbytes
        make = partial(self.wire.request, method, key, query, headers, num_bytes)
        exchange = Exchange(None, self.root + key, self.wire, method, make, payload=payload)
        if check is not None:
            exchange.check = lambda fetch: check(fetch.reply)
        fetch = yield exchange
        assert fetch.reply is not None
        return fetch.reply

    def ask_for_list(self, query: Pairs, take: Callable[[bytes], None]) -> Operation[None]:
        """Sends a GET about the container, or, where there is none, the account.

        Args:
            query: What it is about.
            take: Called with the answer's body; what it raises makes a failure of the answer, which is asked for again.
        """
        exchange = Exchange(None, self.root, self.wire, "GET", partial(self.wire.request_list, query))
        exchange.check = lambda fetch: take(bytes(fetch.body))
        yield exchange

    def stat(self, key: str) -> Operation[ObjectInfo]:
        """As `Store.stat`, by Get Blob Properties."""
        head = yield from self._head(key)
        if head.get(b"x-ms-meta-hdi_isfolder") == "true" or head.get(b"x-ms-resource-type") == "directory":
            raise NotFoundError("it is a directory of a hierarchical namespace", uri=self.root + key)
        return _describe_object(self.root + key, head)

    def _head(self, key: str) -> Operation[ResponseHead]:
        return (yield from self.ask("HEAD", key))

    def list_page(self, prefix: str, recursive: bool, marker: str | None, max_results: int | None = None) -> Operation[ListPage]:
        """Returns the page of a listing that `marker` stands for, or the first."""
        given = {"prefix": prefix, "delimiter": "" if recursive else "/", "marker": marker, "maxresults": max_results}
        query = (OF_CONTAINER, ("comp", "list"), *((name, str(value)) for name, value in given.items() if value))
        pages: list[ListPage] = []
        yield from self.ask_for_list(query, lambda body: pages.append(parse_list_page(body, self.root)))
        return pages[-1]

    def put(self, key: str, data: memoryview, create_only: bool) -> Operation[None]:
        """As `Store.put`, by Put Blob."""
        check_key(key, self.root, is_new=True)
        headers = [("x-ms-blob-type", "BlockBlob"), ("x-ms-content-crc64", crc64(data))]
        yield from self._create(key, (), headers, data, create_only)

    def _create(
        self, key: str, query: Pairs, headers: Pairs, data: memoryview, create_only: bool
    ) -> Operation[ResponseHead | None]:
        """Makes an object by one request; returns its answer's head, or None where that was lost."""
        if not create_only:
            return (yield from self.ask("PUT", key, query, headers, data))
        tag = secrets.token_hex(16)
        conditions = (("if-none-match", "*"), (_TAG, tag))
        try:
            return (yield from self.ask("PUT", key, query, (*headers, *conditions), data))
        except S3dlioError as error:
            is_refused = _has_met_one(error)
            if (is_refused or error.retryable) and (yield from self._is_ours(key, tag, is_refused and error.attempts > 1)):
                return None
            if is_refused and not isinstance(error, AlreadyExistsError):
                raise AlreadyExistsError(error.message, uri=self.root + key, attempts=error.attempts, status=error.status) from None
            raise

    def _is_ours(self, key: str, tag: str, may_be: bool) -> Operation[bool]:
        """Whether the object bears this tag.

        Raises:
            S3dlioError: Nobody says (some SAS tokens let write and not read), and it may be: an answer was lost.
        """
        try:
            head = yield from self._head(key)
        except NotFoundError:
            return False
        except S3dlioError as unknown:
            if may_be:
                unknown.message = f"nobody says whether the object is the one that was written: {unknown.message}"
                raise
            return False
        return head.get(_TAG.encode()) == tag

    def put_block(self, key: str, block: str, data: memoryview) -> Operation[None]:
        """Sends a part of an object, by Put Block."""
        query = (("comp", "block"), ("blockid", block))
        yield from self.ask("PUT", key, query, [("x-ms-content-crc64", crc64(data))], data)

    def put_block_list(self, key: str, blocks: list[str], num_bytes: int, create_only: bool) -> Operation[None]:
        """Makes an object of its parts, by Put Block List.

        Raises:
            ProtocolError: The object has another size than the parts together.
        """
        names = "".join([f"<Latest>{block}</Latest>" for block in blocks])
        document = memoryview(f'<?xml version="1.0" encoding="utf-8"?><BlockList>{names}</BlockList>'.encode())
        headers = [("content-type", "application/xml"), ("x-ms-content-crc64", crc64(document))]
        made = yield from self._create(key, (("comp", "blocklist"),), headers, document, create_only)
        try:
            head = yield from self._head(key)
        except (NotFoundError, PermissionDeniedError):
            # Deleted by others meanwhile; or who may write and not read, as by some SAS tokens, trusts the blocks' CRC64.
            return
        if head.length != num_bytes and (made is None or made.etag == head.etag):
            raise ProtocolError(f"the object has {head.length} bytes, and {num_bytes} were sent", uri=self.root + key)

    def delete(self, key: str) -> Operation[None]:
        """As `Store.delete`."""
        try:
            yield from self.ask("DELETE", key)
        except NotFoundError as error:
            if not error.message.startswith("BlobNotFound"):
                raise

    def copy(self, key: str, source_uri: str, source_url: Hidden) -> Operation[None]:
        """Copies an object within the account, by Copy Blob.

        Raises:
            NotFoundError: There is no such object, or no such container.
            ProtocolError: The service gave the copy up.
        """
        check_key(key, self.root, is_new=True)
        try:
            head = yield from self.ask("PUT", key, (), [("x-ms-copy-source", source_url)])
        except NotFoundError as error:
            if error.message.startswith(("BlobNotFound", "CannotVerifyCopySource")):
                error.uri = source_uri
            raise
        copy_id = head.get(b"x-ms-copy-id")
        if head.get(b"x-ms-copy-status") == "pending":
            head = yield from self._wait_for_copy(key, copy_id)
        status = head.get(b"x-ms-copy-status")
        if status != "success" and head.get(b"x-ms-copy-id") == copy_id:
            raise ProtocolError(f"the store gave the copy up: {status}", uri=source_uri)

    def _wait_for_copy(self, key: str, copy_id: str | None) -> Operation[ResponseHead]:
        """Returns the head of the object when the copy has ended, or another one has come."""

        def check(head: ResponseHead) -> None:
            if head.get(b"x-ms-copy-status") == "pending" and head.get(b"x-ms-copy-id") == copy_id:
                raise _CopyPendingError("the store has not ended the copy")

        for _ in range(_MAX_WAITS):
            try:
                return (yield from self.ask("HEAD", key, check=check))
            except _CopyPendingError:
                continue
        raise StoreTimeoutError("the store has not ended the copy", uri=self.root + key)

    def make_prefix(self, key: str) -> Operation[None]:
        """As `Store.make_prefix`; of the empty key the container is asked for, and nothing is made."""
        if not key:
            yield from self.ask("HEAD", "", (OF_CONTAINER,))
            return
        headers = [("x-ms-blob-type", "BlockBlob"), ("if-none-match", "*")]
        name = key if key.endswith("/") else key + "/"
        check_key(name, self.root, is_new=True)
        try:
            yield from self.ask("PUT", name, (), headers, memoryview(b""))
        except (AlreadyExistsError, ObjectChangedError):
            return

    def create_bucket(self) -> Operation[None]:
        """As `Store.create_bucket`. A container of this name in this account is always ours."""
        try:
            yield from self.ask("PUT", "", (OF_CONTAINER,))
        except AlreadyExistsError:
            return

    def delete_bucket(self) -> Operation[None]:
        """As `Store.delete_bucket`. Azure deletes full containers too, so it is asked first whether this one is empty."""
        marker: str | None = None
        seen: set[str] = set()
        while True:
            page = yield from self.list_page("", True, marker, 1)
            if page.entries:
                raise RequestRejectedError("the container is not empty", uri=self.root)
            marker = page.next_marker
            if marker is None:
                break
            note_marker(marker, seen, self.root)
        try:
            yield from self.ask("DELETE", "", (OF_CONTAINER,))
        except NotFoundError:
            # It was there a moment ago: the answer to another attempt of ours was lost, or somebody else was faster.
            return

    def list_containers(self) -> Operation[list[Container]]:
        """Returns the containers of the account.

        Raises:
            ProtocolError: The server gave a marker twice.
        """
        found: list[Container] = []
        pages: list[tuple[list[Container], str | None]] = []
        marker: str | None = None
        seen: set[str] = set()
        while True:
            query = (("comp", "list"), *((("marker", marker),) if marker else ()))
            yield from self.ask_for_list(query, lambda body: pages.append(parse_container_page(body, self.root)))
            page, marker = pages[-1]
            found += page
            if marker is None:
                return found
            note_marker(marker, seen, self.root)


class AzureUpload:
    """Blocks of an object to be. Those of an upload that was given up stay with Azure, unseen and unpaid for, for a week."""

    min_part_bytes = 1
    max_parts = 50_000
    is_sequential = False

    def __init__(self, lane: AzureOperations, key: str, create_only: bool) -> None:
        self._lane = lane
        self._key = key
        self._create_only = create_only
        self._nonce = secrets.token_hex(16)
        self._sizes: dict[int, int] = {}
        """Bytes of each part that was sent, by its number."""

    def _name(self, number: int) -> str:
        # 46 characters, as the SDK's: all blocks of one name must have ids of one length, also those that another program left.
        return base64.b64encode(f"{self._nonce}{number:014}".encode()).decode()

    def put_part(self, number: int, data: memoryview, is_last: bool) -> Operation[None]:
        """As `Upload.put_part`."""
        yield from self._lane.put_block(self._key, self._name(number), data)
        self._sizes[number] = data.nbytes

    def complete(self) -> Operation[None]:
        """As `Upload.complete`."""
        names = [self._name(number) for number in sorted(self._sizes)]
        return self._lane.put_block_list(self._key, names, sum(self._sizes.values()), self._create_only)

    def abort(self) -> Operation[None]:
        """As `Upload.abort`: nothing is to be done, and nothing could be, since only a finished upload to the same name drops blocks."""
        yield from ()


def _has_met_one(error: S3dlioError) -> bool:
    """Whether a create-only write was refused since there is an object.

    Azure says BlobAlreadyExists; or ConditionNotMet (source: azure.storage.blob._upload_helpers, _convert_mod_error); or, to a SAS that
    lets create and not write, UnauthorizedBlobOverwrite (source: REST API reference, Blob service error codes).
    """
    return isinstance(error, AlreadyExistsError | ObjectChangedError) or error.message.startswith("UnauthorizedBlobOverwrite")


def note_marker(marker: str, seen: set[str], uri: str) -> None:
    """Adds the marker of a next page to those that a listing has seen.

    Raises:
        ProtocolError: It is among them, so the listing would never end.
    """
    if marker in seen:
        raise ProtocolError("the server repeats a marker", uri=uri)
    seen.add(marker)


def crc64(data: memoryview) -> str:
    """Returns what `x-ms-content-crc64` says of bytes: little-endian, in base64."""
    value = sum_function("crc64nvme")(data, 0)
    return base64.b64encode(value.to_bytes(8, "little")).decode()


def _describe_object(uri: str, head: ResponseHead) -> ObjectInfo:
    """Returns what the head of an answer to HEAD says."""
    get = head.get
    if head.length is None:
        raise ProtocolError("the answer to HEAD has no Content-Length", uri=uri, status=head.status)
    modified, key_hash = get(b"last-modified"), get(b"x-ms-encryption-key-sha256")
    try:
        last_modified = normalise_time(modified) if modified else None
    except (ValueError, KeyError):
        last_modified = None
    return ObjectInfo(
        uri=uri,
        size=head.length,
        version=head.etag,
        etag=head.etag,
        last_modified=last_modified,
        content_type=get(b"content-type"),
        content_language=get(b"content-language"),
        content_encoding=get(b"content-encoding"),
        cache_control=get(b"cache-control"),
        content_disposition=get(b"content-disposition"),
        expires=get(b"x-ms-expiry-time"),
        storage_class=get(b"x-ms-access-tier"),
        server_side_encryption="AES256" if get(b"x-ms-server-encrypted") == "true" else None,
        sse_customer_algorithm="AES256" if key_hash else None,
        version_id=get(b"x-ms-version-id"),
        metadata={
            name[len(_METADATA) :].decode("latin-1"): value.decode("utf-8", "replace")
            for name, value in head.headers.items()
            if name.startswith(_METADATA) and name != _TAG.encode()
        },
    )
