"""`s3://` by botocore: the SDK lane, for what the fast lane does not do.

Rules:

* botocore makes one attempt; retries, deadlines and what is exact about a read are the loop's. It neither decodes nor verifies bodies.
* A redirect is followed once, to another region of the same store, and signed anew; never to a host that an answer names (case N16).
* A client is made of what the `S3Spec` says, and of nothing that stands in the environment: so it is the same in every process.
* At DEBUG botocore logs requests with their signatures and tokens; what it logs here is dropped (`quiet.py`, case A5).

Everything here blocks, and runs in the threads of `fetch/threads.py`.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from ..errors import (
    AuthenticationError,
    BucketElsewhereError,
    ConfigurationError,
    ConnectFailedError,
    NotFoundError,
    ProtocolError,
    S3dlioError,
    StoreTimeoutError,
    TruncatedBodyError,
)
from ..fetch.answer import MAX_CHUNKED_BYTES
from ..fetch.http1 import ResponseHead, format_range
from ..fetch.loan import Loan
from ..fetch.request import Fetch
from ..fetch.sdk_lane import Call, Stream
from ..fetch.sigv4 import Headers
from ..text import clean
from .base import Operation
from .quiet import quiet
from .s3_ops import Params, S3Operations
from .s3_spec import S3Spec
from .s3_wire import log_slow_lane, with_identity
from .s3_xml import Refusal, error_from_refusal
from .sdk_common import KeptClient, Meanings, head_of, meaning_of, read_bounded

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from ..fetch.checksums import Checksum

T = TypeVar("T")

_REGION: Final = re.compile(r"[a-z]{2,10}(-[a-z0-9]{1,20}){2,5}")


class _Setup(NamedTuple):
    """What one `use` fixes; replaced whole, so that a thread sees the old or the new one."""

    spec: S3Spec
    pays: dict[str, Any]
    """Arguments of every request."""
    reads: dict[str, Any]
    """Arguments of requests about an object's bytes."""


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
        self._clients = KeptClient(_make_client)
        self._region: str | None = None
        """Where the bucket turned out to be, if that is not where it was configured."""
        self.use(spec)

    def use(self, spec: S3Spec) -> None:
        """Signs with the credentials of `spec` from now on."""
        options = spec.sdk
        assert options is not None
        pays: dict[str, Any] = {"Bucket": options.bucket}
        if options.requester_pays:
            pays["RequestPayer"] = "requester"
        reads = dict(pays)
        if options.sse_customer_key is not None:
            reads |= {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": base64.b64decode(options.sse_customer_key)}
        self.setup = _Setup(spec, pays, reads)

    @property
    def spec(self) -> S3Spec:
        """Where the bucket is, and who asks now."""
        return self.setup.spec

    def find_sum(self, key: str) -> Operation[tuple[str | None, Checksum] | None]:
        """As `S3Wire.find_sum`."""
        return S3SdkOperations(self.spec.root, self).find_sum(key)

    def successor(self) -> None:
        """There is no other way."""

    def open(self, key: str, start: int, end: int | None, version: str | None, with_checksum: bool) -> tuple[ResponseHead, Stream]:
        """As `SdkWire.open`."""
        uri = self.setup.spec.root + key
        if not key:
            raise NotFoundError("a bucket is no object: the URI has no key", uri=uri)
        arguments = {**self.setup.reads, "Key": key}
        if start or end is not None:
            arguments["Range"] = format_range(start, end)
        if version is not None and not version.startswith("W/"):
            arguments["IfMatch"] = f'"{version}"'
        if with_checksum:
            arguments["ChecksumMode"] = "ENABLED"
        found = cast("dict[str, Any]", self.request(uri, lambda client: client.get_object(**arguments)))
        body = found["Body"]
        if _headers(found).get("transfer-encoding", "").lower() == "chunked":
            with _translated(uri, self.setup.spec, None):
                body = _read_chunks(found)
        return _head_of(found), _Body(body, uri)

    def request(self, uri: str, function: Callable[[S3Client], T]) -> T:
        """Returns what `function` has botocore do; where the bucket is in another region, there.

        Raises:
            S3dlioError: As the store says.
        """
        if self._renew is not None:
            self._renew()
        setup, region = self.setup, self._region
        try:
            with _translated(uri, setup.spec, self.on_expired):
                return function(self._clients.get(setup.spec, region))
        except BucketElsewhereError as error:
            other = error.region
            if other is None or region is not None or _REGION.fullmatch(other) is None:
                raise
        with _translated(uri, setup.spec, self.on_expired):
            found = function(self._clients.get(setup.spec, other))
        self._region = other
        return found


@contextmanager
def _translated(uri: str, spec: S3Spec, on_expired: Callable[[], None] | None) -> Iterator[None]:
    """Maps what botocore raises to errors of this package, and has it log nothing that nobody may see."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        with quiet():
            yield
    except S3dlioError:
        raise
    except ClientError as error:
        found = error_from_refusal(_refusal(error), uri, 1)
        found.retry_after = _headers(error.response).get("retry-after")
        raise with_identity(found, spec, on_expired) from None
    except BotoCoreError as error:
        raise _translate(error, uri) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError("botocore can make no sense of the answer", uri=uri, cause=type(error).__name__) from None


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


class S3SdkOperations(S3Operations):
    """The operations on one bucket, by botocore. What answers mean is read from the answers themselves, as on the fast lane."""

    is_slow = True

    def _call(self, key: str, function: Callable[[S3Client], Any]) -> Call:
        uri = self.root + key
        return Call(uri, self.wire, partial(self.wire.request, uri, function))

    def head(self, key: str, with_checksum: bool = False) -> Operation[ResponseHead]:
        """As `S3Operations.head`."""
        given: dict[str, Any] = {**self.wire.setup.reads, "Key": key}
        if with_checksum:
            given["ChecksumMode"] = "ENABLED"
        done = yield self._call(key, lambda client: client.head_object(**given))
        return self.answer(done)

    def _page(self, params: Params, headers: Headers, take: Callable[[bytes], None]) -> Operation[None]:
        given: dict[str, Any] = {_LIST_ARGUMENTS[name]: value for name, value in params if name in _LIST_ARGUMENTS}
        if "MaxKeys" in given:
            given["MaxKeys"] = int(given["MaxKeys"])
        if headers:
            given["OptionalObjectAttributes"] = [value for _, value in headers]
        yield self._looked_into("", lambda client: client.list_objects_v2(**self.wire.setup.pays, **given), take)

    def _looked_into(self, key: str, ask: Callable[[S3Client], Any], take: Callable[[bytes], None]) -> Call:
        """Returns a call whose document is given to `take`; what that raises is a failure of the call, and tried again."""
        call = self._call(key, ask)
        call.check = lambda done: take(done.result[DOCUMENT])
        return call

    def writing(self, key: str, data: memoryview, headers: Headers, params: Params = ()) -> Call:
        """As `S3Operations.writing`."""
        uri = self.root + key
        given: dict[str, Any] = {**self.wire.setup.reads, "Key": key, **sdk_arguments(headers)}
        if params:
            (_, number), (_, upload_id) = params
            given |= {"PartNumber": int(number), "UploadId": upload_id}

        def call(loan: Loan) -> Any:
            def ask(client: S3Client) -> Any:
                # It may be asked twice, the second time in another region.
                loan.seek(0)
                # Where awscrt signs, it prints a traceback of its own for what a read raises.
                loan.ends_quietly = True
                body = cast("Any", loan)
                return client.upload_part(**given, Body=body) if params else client.put_object(**given, Body=body)

            return self.wire.request(uri, ask)

        return Call(uri, self.wire, call, data)

    def answer(self, fetch: Fetch) -> ResponseHead:
        """As `S3Operations.answer`."""
        assert isinstance(fetch, Call)
        return _head_of(fetch.result)

    def _delete(self, key: str) -> Operation[None]:
        yield self._call(key, lambda client: client.delete_object(**self.wire.setup.pays, Key=key))


def sdk_arguments(headers: Headers) -> dict[str, Any]:
    """Returns headers as botocore's arguments; metadata among them under its own name."""
    found: dict[str, Any] = {}
    for name, value in headers:
        if name.startswith(_METADATA):
            found.setdefault("Metadata", {})[name.removeprefix(_METADATA)] = value
        else:
            found[_HEADER_ARGUMENTS[name]] = int(value) if name == "x-amz-mp-object-size" else value
    return found


_METADATA: Final = "x-amz-meta-"
_HEADER_ARGUMENTS: Final = {
    "cache-control": "CacheControl",
    "content-disposition": "ContentDisposition",
    "content-encoding": "ContentEncoding",
    "content-language": "ContentLanguage",
    "content-type": "ContentType",
    "expires": "Expires",
    "if-none-match": "IfNoneMatch",
    "x-amz-checksum-algorithm": "ChecksumAlgorithm",
    "x-amz-checksum-crc32c": "ChecksumCRC32C",
    "x-amz-checksum-crc64nvme": "ChecksumCRC64NVME",
    "x-amz-checksum-type": "ChecksumType",
    "x-amz-mp-object-size": "MpuObjectSize",
    "x-amz-storage-class": "StorageClass",
}
_LIST_ARGUMENTS: Final = {
    "prefix": "Prefix",
    "delimiter": "Delimiter",
    "continuation-token": "ContinuationToken",
    "encoding-type": "EncodingType",
    "max-keys": "MaxKeys",
}
DOCUMENT: Final = "s3dlio-document"
"""Where the document of an answer is among what botocore returns."""
_DOCUMENTS: Final = (
    "ListObjectsV2",
    "DeleteObjects",
    "CopyObject",
    "UploadPartCopy",
    "DeleteBucket",
    "ListBuckets",
    "ListMultipartUploads",
    "CreateMultipartUpload",
    "CompleteMultipartUpload",
    "ListParts",
)
"""Operations whose documents are read by the modules that read them on the fast lane."""


def _keep_document(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Has a document handed out as it came: botocore reads less carefully than `s3_xml.py`."""
    if response_dict["status_code"] < 300:
        customized_response_dict[DOCUMENT] = response_dict["body"]
        response_dict["body"] = b"<ListBucketResult/>"


def _make_client(spec: S3Spec, region: str | None) -> S3Client:
    """Makes a client for `region`, or, by None, for the one that was configured."""
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config

    options = spec.sdk
    assert options is not None
    assert spec.slow_because is not None
    log_slow_lane(spec.root, spec.slow_because)
    # The files and the profile of this process may not be those of the one that resolved the bucket.
    session = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
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
        "user_agent": spec.user_agent,
    }
    made = session.create_client(
        "s3",
        region_name=region or options.region,
        endpoint_url=options.endpoint_url,
        verify=spec.ca_bundle or True,
        aws_access_key_id=spec.access_key,
        aws_secret_access_key=spec.secret_key,
        aws_session_token=spec.token,
        config=Config(**arguments),
    )
    # botocore's own way to other regions asks where the bucket is, by requests that may be redirected in turn, without end.
    made.meta.events.register_first("needs-retry.s3", _follow_nothing)
    made.meta.events.register("before-send.s3", _end_loudly)
    for name in _DOCUMENTS:
        made.meta.events.register(f"before-parse.s3.{name}", _keep_document)
    return cast("S3Client", made)


def _follow_nothing(request_dict: dict[str, Any], **_: object) -> None:
    request_dict.get("context", {}).setdefault("s3_redirect", {})["redirected"] = True


def _end_loudly(request: Any, **_: object) -> None:
    """It is signed: what is given up from now on is to break the connection."""
    if isinstance(request.body, Loan):
        request.body.ends_quietly = False


def _headers(response: Any) -> dict[str, str]:
    found: dict[str, str] = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return found


def _head_of(response: dict[str, Any]) -> ResponseHead:
    """Returns the head that botocore has taken apart, as the fast lane would have read it."""
    return head_of(response["ResponseMetadata"]["HTTPStatusCode"], _headers(response).items())


def _read_chunks(response: dict[str, Any]) -> io.BytesIO:
    """Reads a body of unknown length, as a proxy may send it, and notes its length in the headers."""
    with closing(response["Body"]) as body:
        data = read_bounded(body.read, MAX_CHUNKED_BYTES)
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
        _plain(code) if is_code else None,
        _plain(found.get("Message")) if is_code else "",
        _headers(response),
        _plain(response.get("ResponseMetadata", {}).get("RequestId")) or None,
        _plain(found.get("ServerTime")) or None,
        is_code,
    )


def _plain(text: Any) -> str:
    return clean(" ".join(str(text or "").split()))[:2048]


def _translate(error: Any, uri: str) -> S3dlioError:
    return meaning_of(error, uri, _MEANINGS, (ConnectFailedError, "botocore could not make the request"), "AWS_CA_BUNDLE")


_MEANINGS: Final[Meanings] = {
    "ConnectTimeoutError": (StoreTimeoutError, "the store did not accept a connection in time"),
    "ReadTimeoutError": (StoreTimeoutError, "the store sent nothing in time"),
    "SSLError": (ConnectFailedError, "the TLS handshake failed"),
    "ProxyConnectionError": (ConnectFailedError, "the proxy cannot be reached; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"),
    "IncompleteReadError": (TruncatedBodyError, "the body ended too early"),
    "ResponseStreamingError": (TruncatedBodyError, "the connection broke in the middle of the body"),
    "FlexibleChecksumError": (ProtocolError, "the bytes do not have the checksum that the store gave for them"),
    "NoCredentialsError": (AuthenticationError, "there are no credentials"),
    "PartialCredentialsError": (AuthenticationError, "the credentials are incomplete"),
    "ParamValidationError": (ConfigurationError, "botocore refuses the bucket's name or the key"),
    "ProfileNotFound": (ConfigurationError, "there is no such profile"),
    "InvalidRegionError": (ConfigurationError, "the region makes no sense"),
    "InvalidConfigError": (ConfigurationError, "the profile's s3 section makes no sense"),
    "EndpointResolutionError": (ConfigurationError, "botocore finds no endpoint for the bucket"),
    "UnsupportedS3ConfigurationError": (ConfigurationError, "the profile's s3 section does not fit the bucket"),
    "HTTPClientError": (ConnectFailedError, "the connection could not be made, or broke"),
}
