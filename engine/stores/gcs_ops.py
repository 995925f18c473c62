"""`gs://` in the calling process: the operations on a bucket as requests to Google's JSON API, and their meaning.

As they stand here they go by the fast lane; `gcs_sdk.py` has the same requests made by Google's SDK, and everything else is one text.

Writes carry their CRC32C, so that the store refuses other bytes before anything is visible; what it says it has is compared as well.
A create-only write (`ifGenerationMatch=0`) puts a random mark into the object's metadata, by which it knows its own object again when an
answer was lost and the next attempt is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from ..errors import (
    AlreadyExistsError,
    ConfigurationError,
    NotFoundError,
    ObjectChangedError,
    ProtocolError,
    RequestRejectedError,
    S3dlioError,
    ServerError,
)
from ..fetch.checksums import Checksum, decode, sum_function
from ..fetch.http1 import ResponseHead
from ..fetch.request import Exchange, Fetch
from ..fetch.sigv4 import encode_query
from ..types import Container, ListEntry, ObjectInfo
from .base import Listing, Operation
from .gcs_json import (
    BUCKET_FIELDS,
    LIST_FIELDS,
    Resource,
    Rewrite,
    check_written,
    encode_crc32c,
    encode_json,
    read_buckets,
    read_page,
    read_rewrite,
    resource_of,
)
from .gcs_upload import MAX_STALLS, GcsUpload, Session
from .gcs_wire import bucket_path, encode_name

T = TypeVar("T")
Query = list[tuple[str, str]]
MARK: Final = "s3dlio-writer"
"""The metadata of an object that was made create-only."""
_MAX_COPIED_BYTES: Final = 1 << 20
"""A longer object goes from where it is, by two requests; to copy this takes 0.1 ms, and a request more than that on any network."""
_JSON: Final = "Content-Type: application/json; charset=UTF-8\r\n"
_AGAIN: Final = "the store gives a token for the next page that it has given before"


class GcsOperations:
    """The operations on one bucket, or, under the root `gs://`, on the account."""

    def __init__(self, root: str, wire: Any) -> None:
        self.root = root
        self.wire = wire

    # How a request is made. The SDK lane has others.

    def ask(
        self,
        uri: str,
        method: str,
        target: str,
        read: Callable[[ResponseHead, bytes | bytearray], T],
        lines: str = "",
        body: bytes = b"",
        payload: memoryview | None = None,
        then: tuple[str, str] | None = None,
    ) -> Operation[T]:
        """Makes a request, and returns what `read` makes of its answer; where `read` raises what is retryable, it is made again.

        Args:
            uri: What is asked for, for errors.
            method: Of HTTP.
            target: Path and query.
            read: Is given head and body of an answer below 300.
            lines: More headers, each with its line end.
            body: What is sent behind the head.
            payload: In its place, bytes that are sent from where they are.
            then: Method and headers of what is sent, without a body, in place of further attempts.
        """
        results: list[T] = []
        make = partial(self.wire.request, method, target, lines, body, None if payload is None else len(payload))
        instead = None if then is None else partial(self.wire.request, then[0], target, then[1])
        exchange = _Request(uri, self.wire, method, make, instead, payload)

        def check(fetch: Fetch) -> None:
            assert fetch.reply is not None
            results[:] = [read(fetch.reply, fetch.body)]

        exchange.check = check
        yield exchange
        return results[0]

    def _target(self, path: str, query: Query | None = None) -> str:
        text = encode_query(query or ())
        return f"{self.wire.spec.path_prefix}{path}?{text}" if text else f"{self.wire.spec.path_prefix}{path}"

    def _object(self, key: str, query: Query | None = None) -> str:
        text = encode_query(query or ())
        return f"{self.wire.objects}{encode_name(key, self.root)}" + (f"?{text}" if text else "")

    @property
    def _bucket(self) -> str:
        return bucket_path(self.wire.spec.bucket)

    # Reading.

    def stat(self, key: str) -> Operation[ObjectInfo]:
        """As `Store.stat`."""
        return (yield from self._resource(key)).describe(self.root + key)

    def find_sum(self, key: str) -> Operation[tuple[str | None, Checksum] | None]:
        """As `Store.find_sum`."""
        found = yield from self._resource(key)
        value = None if found.crc32c is None else decode("crc32c", found.crc32c.encode("ascii", "replace"))
        return None if value is None else (found.describe(self.root + key).version, Checksum("crc32c", value))

    def _resource(self, key: str) -> Operation[Resource]:
        return self.ask(self.root + key, "GET", self._object(key, [("projection", "noAcl")]), resource_of)

    def list_pages(self, prefix: str, recursive: bool) -> Listing:
        """As `Store.list_pages`; pages come when they are asked for, and may be empty before the last.

        Raises:
            ProtocolError: The store gave a token twice, so the listing would never end.
        """
        query = [("fields", LIST_FIELDS), ("maxResults", "1000"), ("prefix", prefix)]
        if not recursive:
            query.append(("delimiter", "/"))
        read = partial(_page_of, self.root)
        token: str | None = None
        seen: set[str] = set()
        while True:
            more = [] if token is None else [("pageToken", token)]
            target = self._target(f"{self._bucket}/o", query + more)
            entries, token = yield from self.ask(self.root + prefix, "GET", target, read)
            if entries:
                yield entries
            if token is None:
                return
            if token in seen:
                raise ProtocolError(_AGAIN, uri=self.root + prefix)
            seen.add(token)

    def list_buckets(self) -> Operation[list[Container]]:
        """Returns the buckets of the project.

        Raises:
            ConfigurationError: There is no project.
        """
        found: list[Container] = []
        token: str | None = None
        seen: set[str] = set()
        query = [("fields", BUCKET_FIELDS), ("maxResults", "1000"), *self._project()]
        while True:
            more = [] if token is None else [("pageToken", token)]
            page, token = yield from self.ask(self.root, "GET", self._target("/storage/v1/b", query + more), _buckets_of)
            found += page
            if token is None:
                return found
            if token in seen:
                raise ProtocolError(_AGAIN, uri=self.root)
            seen.add(token)

    def _project(self) -> Query:
        spec = self.wire.spec
        if spec.project is None and spec.is_google:
            raise ConfigurationError("buckets belong to a project; name it in GOOGLE_CLOUD_PROJECT", uri=self.root)
        return [] if spec.project is None else [("project", spec.project)]

    # Writing.

    def put(self, key: str, data: memoryview, create_only: bool = False) -> Operation[None]:
        """As `Store.put`: in one request with what is said of the object, or, where that would copy much, by a session of one piece."""
        sum_ = sum_function("crc32c")(data, 0)
        mark = secrets.token_hex(8) if create_only else None
        about = _about(key, mark) | {"crc32c": encode_crc32c(sum_)}
        try:
            if len(data) <= _MAX_COPIED_BYTES:
                found = yield from self._put_at_once(key, about, data, create_only)
            else:
                session = yield from self._begin(key, about, create_only)
                found = yield from Session(self, key, session).finish(0, data, sum_)
        except S3dlioError as error:
            found = yield from self.find_own(key, mark, error)
        check_written(found, self.root + key, len(data), sum_)

    def _put_at_once(self, key: str, about: dict[str, Any], data: memoryview, create_only: bool) -> Operation[Resource]:
        """Source: objects.insert, uploadType=multipart; RFC 2387."""
        boundary = secrets.token_hex(16)
        parts = f"--{boundary}\r\n{_JSON}\r\n".encode(), encode_json(about), f"\r\n--{boundary}\r\n{_BYTES}\r\n".encode()
        body = b"".join((*parts, data, f"\r\n--{boundary}--\r\n".encode()))
        lines = f"Content-Type: multipart/related; boundary={boundary}\r\n"
        return (yield from self.ask(self.root + key, "POST", self._upload("multipart", create_only), resource_of, lines, body))

    def _begin(self, key: str, about: dict[str, Any], create_only: bool) -> Operation[str]:
        """Begins a resumable upload, and returns the target of its pieces. Whoever has it may write: it is never shown."""
        target = self._upload("resumable", create_only)
        lines = f"{_JSON}X-Upload-Content-Type: application/octet-stream\r\n"
        return (yield from self.ask(self.root + key, "POST", target, _session_of, lines, encode_json(about)))

    def _upload(self, kind: str, create_only: bool) -> str:
        conditions = [("ifGenerationMatch", "0")] if create_only else []
        return self._target(f"/upload{self._bucket}/o", [("uploadType", kind), *conditions])

    def begin_upload(self, key: str, create_only: bool = False) -> Operation[GcsUpload]:
        """As `Store.begin_upload`, by a resumable upload: one piece after the other."""
        mark = secrets.token_hex(8) if create_only else None
        try:
            session = yield from self._begin(key, _about(key, mark), create_only)
        except ObjectChangedError:
            if not create_only:
                raise
            # Of this upload nothing is written yet, so the object is another's.
            raise AlreadyExistsError("there is such an object already", uri=self.root + key) from None
        return GcsUpload(self, key, session, mark)

    def find_own(self, key: str, mark: str | None, error: S3dlioError) -> Operation[Resource]:
        """Returns the object that a write has made although it ended in `error`: one whose answer was lost, create-only, with this mark.

        Raises:
            AlreadyExistsError: The write met another's.
            S3dlioError: It has not come about; or nobody says whether the object that it met is its own.
        """
        is_refused = isinstance(error, ObjectChangedError)
        if mark is None or not (is_refused or error.retryable):
            raise error
        try:
            found = yield from self._resource(key)
        except S3dlioError as unknown:
            if is_refused and error.attempts > 1 and not isinstance(unknown, NotFoundError):
                unknown.message = f"nobody says whether the object is the one that was written: {unknown.message}"
                raise
        else:
            if (found.metadata or {}).get(MARK) == mark:
                return found
        if is_refused:
            raise AlreadyExistsError("there is such an object already", uri=self.root + key) from None
        raise error

    def delete(self, key: str) -> Operation[None]:
        """As `Store.delete`."""
        try:
            yield from self.ask(self.root + key, "DELETE", self._object(key), _nothing)
        except NotFoundError as error:
            # What is said of an object names it, and may hold any words.
            if "bucket does not exist" in error.message and "No such object" not in error.message:
                raise

    def delete_many(self, keys: Sequence[str]) -> Operation[list[S3dlioError | None]]:
        """As `Store.delete_many`, one by one."""
        results: list[S3dlioError | None] = []
        for key in keys:
            try:
                yield from self.delete(key)
            except S3dlioError as error:
                results.append(error)
            else:
                results.append(None)
        return results

    def copy(self, key: str, source_bucket: str, source_key: str) -> Operation[None]:
        """Copies an object of a bucket that the same identity reaches at the same endpoint; a large one takes several requests.

        Raises:
            NotFoundError: There is no such object.
            ServerError: The store says again and again that there is more to do, and does none of it.
        """
        uri = f"gs://{source_bucket}/{source_key}"
        source = f"{bucket_path(source_bucket)}/o/{encode_name(source_key, f'gs://{source_bucket}/')}"
        path = f"{source}/rewriteTo{self._bucket.removeprefix('/storage/v1')}/o/{encode_name(key, self.root)}"
        query = [("fields", "done,rewriteToken,totalBytesRewritten")]
        num_bytes, num_stalls = 0, 0
        while num_stalls < MAX_STALLS:
            found = yield from self.ask(uri, "POST", self._target(path, query), _rewrite_of, _JSON)
            if found.done:
                return
            query[1:] = [("rewriteToken", found.rewrite_token or "")]
            num_stalls = 0 if found.num_bytes > num_bytes else num_stalls + 1
            num_bytes = max(num_bytes, found.num_bytes)
        raise ServerError(f"the store does not go on with the copy behind byte {num_bytes}", uri=uri)

    def make_prefix(self, key: str) -> Operation[None]:
        """As `Store.make_prefix`: an empty object; whatever is there stays as it is."""
        try:
            yield from self.put(key if key.endswith("/") else key + "/", memoryview(b""), create_only=True)
        except AlreadyExistsError:
            return

    def create_bucket(self) -> Operation[None]:
        """As `Store.create_bucket`, in the project, where its rules put it."""
        try:
            document = encode_json({"name": self.wire.spec.bucket})
            yield from self.ask(self.root, "POST", self._target("/storage/v1/b", self._project()), _nothing, _JSON, document)
        except RequestRejectedError as error:
            if error.status != 409:
                raise
            # Source: "Bucket naming": names are of all projects together.
            if "already own" not in error.message:
                raise AlreadyExistsError("somebody else has a bucket of this name", uri=self.root, status=409) from None

    def delete_bucket(self) -> Operation[None]:
        """As `Store.delete_bucket`."""
        try:
            yield from self.ask(self.root, "DELETE", self._target(self._bucket), _nothing)
        except NotFoundError as error:
            # An attempt before this one may have done it.
            if error.attempts < 2:
                raise


class _Request(Exchange):
    """A request that asks something else where an attempt before this one may have come about."""

    __slots__ = ("_instead",)

    def __init__(
        self,
        uri: str,
        wire: Any,
        method: str,
        make: Callable[[], bytes],
        instead: Callable[[], bytes] | None,
        payload: memoryview | None,
    ) -> None:
        """The arguments are those of `Exchange`.

        Args:
            instead: Makes what is sent after the first attempt; None for the same again.
        """
        super().__init__(None, uri, wire, method, make, payload=payload)
        self._instead = instead

    def build(self) -> bytes:
        if self._instead is None or self.attempts < 2:
            return self.make()
        self.payload = None
        return self._instead()


_BYTES: Final = "Content-Type: application/octet-stream\r\n"


def _about(key: str, mark: str | None) -> dict[str, Any]:
    """Returns what is said of a new object."""
    about: dict[str, Any] = {"name": key, "contentType": "application/octet-stream"}
    return about if mark is None else about | {"metadata": {MARK: mark}}


def _nothing(_head: ResponseHead, _body: bytes | bytearray) -> None:
    """Nothing is to be learnt of the answer."""


def _page_of(root: str, _head: ResponseHead, body: bytes | bytearray) -> tuple[list[ListEntry], str | None]:
    return read_page(body, root)


def _buckets_of(_head: ResponseHead, body: bytes | bytearray) -> tuple[list[Container], str | None]:
    return read_buckets(body)


def _rewrite_of(_head: ResponseHead, body: bytes | bytearray) -> Rewrite:
    return read_rewrite(body)


def _session_of(head: ResponseHead, _body: bytes | bytearray) -> str:
    """Returns path and query of a session; whatever host it names, the pieces go to ours (case N16)."""
    text = head.get(b"location") or ""
    _, slashes, rest = text.partition("://")
    target = "/" + rest.partition("/")[2] if slashes else text
    if not target.startswith("/") or not target.isascii() or not target.isprintable() or " " in target or "upload_id=" not in target:
        raise ProtocolError("the store has begun an upload, and does not say where it goes on")
    return _Hidden(target)


class _Hidden(str):
    """Text that a traceback with its locals does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"
