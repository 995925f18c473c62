"""`s3://` by botocore: the SDK lane, for what the fast lane does not do.

Rules:

* botocore makes one attempt; retries, deadlines and what is exact about a read are the loop's. It neither decodes nor verifies bodies.
* A redirect is followed once, to another region of the same store, and signed anew; never to a host that an answer names (case N16).
* A client is made of what the `S3Spec` says, and of nothing that stands in the environment: so it is the same in every process.
* At DEBUG botocore logs requests with their signatures and tokens; what it logs in the threads of this lane is dropped (case A5).

Everything here blocks, and runs in the threads of `fetch/threads.py`.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec

from ..errors import (
    AuthenticationError,
    BucketElsewhereError,
    CertificateError,
    ConfigurationError,
    ConnectFailedError,
    NotFoundError,
    ProtocolError,
    S3dlioError,
    StoreTimeoutError,
    TruncatedBodyError,
)
from ..fetch.answer import MAX_CHUNKED_BYTES
from ..fetch.http1 import ResponseHead, format_range, parse_head, unquote_etag
from ..fetch.sdk_lane import Call, Stream
from ..fetch.threads import NAME
from ..types import ListEntry, ObjectInfo
from .base import Listing, Operation
from .s3_config import S3Spec
from .s3_ops import describe_object
from .s3_wire import log_slow_lane, with_identity
from .s3_xml import Refusal, error_from_refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3.client import S3Client

T = TypeVar("T")

_LOGGERS: Final = (
    "auth", "awsrequest", "client", "configprovider", "credentials", "endpoint", "handlers", "hooks", "httpchecksum", "httpsession",
    "loaders", "parsers", "regions", "response", "retryhandler", "retries.standard", "session", "utils",
)  # fmt: skip


class S3SdkWire:
    """Requests to one bucket, made by botocore."""

    is_local = False
    origin = None

    def __init__(
        self, spec: S3Spec, renew: Callable[[], object] | None = None, on_expired: Callable[[], None] | None = None
    ) -> None:
        """Opens a bucket; the arguments are those of `S3Wire`."""
        self._renew = renew
        self.on_expired = on_expired
        self._lock = threading.Lock()
        self._spec = spec
        self._has_moved = False
        """Whether the bucket turned out to be in another region than the one configured."""
        self.use(spec)

    def use(self, spec: S3Spec) -> None:
        """Signs with the credentials of `spec` from now on."""
        options = spec.sdk
        assert options is not None
        if self._has_moved:
            assert self._spec.sdk is not None
            options = msgspec.structs.replace(options, region=self._spec.sdk.region)
            spec = msgspec.structs.replace(spec, sdk=options)
        self._spec = spec
        self._client: S3Client | None = None
        self.pays: dict[str, Any] = {"Bucket": options.bucket}
        """Arguments of every request."""
        if options.requester_pays:
            self.pays["RequestPayer"] = "requester"
        self.reads: dict[str, Any] = dict(self.pays)
        """Arguments of requests about an object's bytes."""
        if options.sse_customer_key is not None:
            self.reads |= {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": base64.b64decode(options.sse_customer_key)}

    def successor(self) -> None:
        """There is no other way."""

    def client(self) -> S3Client:
        """Returns the client for the credentials in force, made at the first call (0.3 s)."""
        if self._renew is not None:
            self._renew()
        with self._lock:
            if self._client is None:
                self._client = _make_client(self._spec)
            return self._client

    def open(self, key: str, start: int, end: int | None, version: str | None, with_checksum: bool) -> tuple[ResponseHead, Stream]:
        """As `SdkWire.open`."""
        uri = self._spec.root + key
        if not key:
            raise NotFoundError("a bucket is no object: the URI has no key", uri=uri)
        arguments = {**self.reads, "Key": key}
        if start or end is not None:
            arguments["Range"] = format_range(start, end)
        if version is not None and not version.startswith("W/"):
            arguments["IfMatch"] = f'"{version}"'
        if with_checksum:
            arguments["ChecksumMode"] = "ENABLED"
        found = cast("dict[str, Any]", self.request(uri, lambda client: client.get_object(**arguments)))
        body = found["Body"]
        if "content-length" not in _headers(found):
            with self._translated(uri):
                body = _read_chunks(found)
        return _head_of(found), _Body(body, uri)

    def request(self, uri: str, function: Callable[[S3Client], T]) -> T:
        """Returns what `function` has botocore do; where the bucket is in another region, there.

        Raises:
            S3dlioError: As the store says.
        """
        try:
            with self._translated(uri):
                return function(self.client())
        except BucketElsewhereError as error:
            if not self._move_to(error.region):
                raise
        with self._translated(uri):
            return function(self.client())

    def _move_to(self, region: str | None) -> bool:
        with self._lock:
            options = self._spec.sdk
            assert options is not None
            # A thread may find that another one has moved meanwhile.
            if region is None or (self._has_moved and region != options.region):
                return False
            if not self._has_moved:
                self._has_moved = True
                self._spec = msgspec.structs.replace(self._spec, sdk=msgspec.structs.replace(options, region=region))
                self._client = None
            return True

    @contextmanager
    def _translated(self, uri: str) -> Iterator[None]:
        """Maps what botocore raises to errors of this package."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            found = error_from_refusal(_refusal(error), uri, 1)
            found.retry_after = _headers(error.response).get("retry-after")
            raise with_identity(found, self._spec, self.on_expired) from None
        except BotoCoreError as error:
            raise _translate(error, uri) from None


class _Body:
    """A body as botocore gives it."""

    def __init__(self, body: Any, uri: str) -> None:
        self._body = body
        self._uri = uri

    def read(self, num: int) -> bytes:
        """As `Stream.read`."""
        from botocore.exceptions import BotoCoreError

        try:
            return bytes(self._body.read(num))
        except BotoCoreError as error:
            raise _translate(error, self._uri) from None

    def close(self) -> None:
        """As `Stream.close`."""
        self._body.close()


class S3SdkOperations:
    """The operations on one bucket."""

    def __init__(self, root: str, wire: S3SdkWire) -> None:
        self.root = root
        self.wire = wire

    def _call(self, key: str, function: Callable[[S3Client], Any]) -> Call:
        uri = self.root + key
        return Call(uri, self.wire, partial(self.wire.request, uri, function))

    def stat(self, key: str) -> Operation[ObjectInfo]:
        """As `Store.stat`."""
        if not key:
            raise NotFoundError("a bucket is no object: the URI has no key", uri=self.root)
        done = yield self._call(key, lambda client: client.head_object(**self.wire.reads, Key=key))
        assert isinstance(done, Call)
        return describe_object(self.root + key, _head_of(done.result))

    def list_pages(self, prefix: str, recursive: bool) -> Listing:
        """As `Store.list_pages`.

        Raises:
            ProtocolError: The server gave a continuation token twice, so the listing would never end.
        """
        arguments = {**self.wire.pays, "Prefix": prefix} | ({} if recursive else {"Delimiter": "/"})
        seen: set[str] = set()
        while True:
            done = yield self._call(prefix, partial(_list, arguments=dict(arguments)))
            assert isinstance(done, Call)
            page = done.result
            entries = [self._entry(entry) for entry in page.get("Contents", ())]
            entries += [ListEntry(self.root + child["Prefix"]) for child in page.get("CommonPrefixes", ())]
            if entries:
                yield entries
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated"):
                return
            if not token or token in seen:
                raise ProtocolError("the listing is truncated, and gives no new token", uri=self.root + prefix)
            seen.add(token)
            arguments["ContinuationToken"] = token

    def _entry(self, entry: dict[str, Any]) -> ListEntry:
        etag, modified = entry.get("ETag"), entry.get("LastModified")
        when = modified.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if isinstance(modified, datetime) else None
        return ListEntry(self.root + entry["Key"], entry["Size"], (unquote_etag(etag) or None) if etag else None, when)

    def put(self, key: str, data: memoryview) -> Operation[None]:
        """As `Store.put`."""
        yield self._call(key, lambda client: client.put_object(**self.wire.reads, Key=key, Body=bytes(data)))

    def delete(self, key: str) -> Operation[None]:
        """As `Store.delete`."""
        try:
            yield self._call(key, lambda client: client.delete_object(**self.wire.pays, Key=key))
        except NotFoundError as error:
            if error.message.startswith("NoSuchBucket"):
                raise


def _list(client: S3Client, arguments: dict[str, Any]) -> Any:
    return client.list_objects_v2(**arguments)


def _make_client(spec: S3Spec) -> S3Client:
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config

    options = spec.sdk
    assert options is not None
    assert spec.slow_because is not None
    log_slow_lane(spec.root, spec.slow_because)
    _hush()
    session = botocore.session.Session()
    # The files of this process may not be those of the one that resolved the bucket.
    session.set_config_variable("config_file", os.devnull)
    session.set_config_variable("credentials_file", os.devnull)
    arguments: dict[str, Any] = {
        "s3": options.section or None,
        "proxies": options.proxies,
        "signature_version": UNSIGNED if spec.access_key is None else None,
        "retries": {"total_max_attempts": 1},
        "connect_timeout": options.connect_timeout_s,
        "read_timeout": options.read_timeout_s,
        "max_pool_connections": 64,
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "ignore_configured_endpoint_urls": options.endpoint_url is None,
    }
    made = session.create_client(
        "s3",
        region_name=options.region,
        endpoint_url=options.endpoint_url,
        verify=spec.ca_bundle or True,
        aws_access_key_id=spec.access_key,
        aws_secret_access_key=spec.secret_key,
        aws_session_token=spec.token,
        config=Config(**arguments),
    )
    # botocore's own way to other regions asks where the bucket is, by requests that may be redirected in turn, without end.
    made.meta.events.register_first("needs-retry.s3", _follow_nothing)
    return cast("S3Client", made)


def _follow_nothing(request_dict: dict[str, Any], **_: object) -> None:
    request_dict.get("context", {}).setdefault("s3_redirect", {})["redirected"] = True


def _is_fit_to_log(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG or not (record.threadName or "").startswith(NAME)


def _hush() -> None:
    # A filter of a parent is not asked about the records of its children, so each gets it; a second time changes nothing.
    for name in _LOGGERS:
        logging.getLogger(f"botocore.{name}").addFilter(_is_fit_to_log)
    for name in ("urllib3.connectionpool", "urllib3.util.retry"):
        logging.getLogger(name).addFilter(_is_fit_to_log)


def _headers(response: Any) -> dict[str, str]:
    found: dict[str, str] = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return found


def _head_of(response: dict[str, Any]) -> ResponseHead:
    """Returns the head that botocore has taken apart, as the fast lane would have read it."""
    status = response["ResponseMetadata"]["HTTPStatusCode"]
    lines = "".join(f"{name}: {value}\r\n" for name, value in _headers(response).items() if name != "transfer-encoding")
    return parse_head(f"HTTP/1.1 {status} OK\r\n{lines}\r\n".encode("latin-1", "replace"))


def _read_chunks(response: dict[str, Any]) -> io.BytesIO:
    """Reads a body of unknown length, as a proxy may send it, and notes its length in the headers."""
    data = response["Body"].read(MAX_CHUNKED_BYTES + 1)
    response["Body"].close()
    if len(data) > MAX_CHUNKED_BYTES:
        raise ProtocolError(f"the body is longer than {MAX_CHUNKED_BYTES} bytes")
    _headers(response)["content-length"] = str(len(data))
    return io.BytesIO(data)


def _refusal(error: Any) -> Refusal:
    response = error.response
    found = response.get("Error", {})
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = found.get("Code")
    # Of a HEAD there is no document, and botocore puts the status in its place.
    is_code = code is not None and not str(code).isdigit()
    return Refusal(
        status,
        code if is_code else None,
        str(found.get("Message", "")) if is_code else "",
        _headers(response),
        response.get("ResponseMetadata", {}).get("RequestId"),
        found.get("ServerTime"),
        is_code,
    )


def _translate(error: Any, uri: str) -> S3dlioError:
    """Returns what an error of botocore means. Its own text may hold a URL with a password, or what was sent, and is not passed on."""
    names = [cls.__name__ for cls in type(error).__mro__]
    for cause, (kind, text) in _MEANINGS.items():
        if cause in names:
            return kind(text, uri=uri, cause=names[0])
    return ConnectFailedError("botocore could not make the request", uri=uri, cause=names[0])


_MEANINGS: Final[dict[str, tuple[type[S3dlioError], str]]] = {
    "ConnectTimeoutError": (StoreTimeoutError, "the store did not accept a connection in time"),
    "ReadTimeoutError": (StoreTimeoutError, "the store sent nothing in time"),
    "SSLError": (CertificateError, "the TLS connection was refused; if the certificate is your own, name its issuer in AWS_CA_BUNDLE"),
    "ProxyConnectionError": (ConnectFailedError, "the proxy cannot be reached; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"),
    "IncompleteReadError": (TruncatedBodyError, "the body ended too early"),
    "ResponseStreamingError": (TruncatedBodyError, "the connection broke in the middle of the body"),
    "FlexibleChecksumError": (ProtocolError, "the bytes do not have the checksum that the store gave for them"),
    "NoCredentialsError": (AuthenticationError, "there are no credentials"),
    "PartialCredentialsError": (AuthenticationError, "the credentials are incomplete"),
    "ParamValidationError": (ConfigurationError, "botocore refuses the bucket's name or the key"),
    "HTTPClientError": (ConnectFailedError, "the connection could not be made, or broke"),
}
