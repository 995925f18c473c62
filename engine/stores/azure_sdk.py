"""`az://` by azure-storage-blob: the SDK lane, for what the fast lane does not do (proxies), and for whoever chooses it.

Rules:

* The SDK makes one attempt of each request, signs it, and sends it by its own pipeline; what is asked for, and what answers mean, is the
  same text as on the fast lane. Its own downloads would come in pieces, be tried again after a second, and be decompressed.
* Nothing is redirected: an answer must not name another host (case N16).
* A client is made of what the `AzureSpec` says, and of nothing that stands in the environment: so it is the same in every process.
* What it and urllib3 log at DEBUG, URLs with a SAS among it, is dropped here (`quiet.py`, case A5).

Everything here blocks, and runs in the threads of `fetch/threads.py`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..errors import (
    AuthenticationError,
    ConnectFailedError,
    MissingExtraError,
    ProtocolError,
    S3dlioError,
    StoreTimeoutError,
    TruncatedBodyError,
)
from ..fetch.answer import MAX_CHUNKED_BYTES, MAX_ERROR_BODY_BYTES
from ..fetch.http1 import ResponseHead
from ..fetch.loan import Loan
from ..fetch.sdk_lane import Call, Stream
from ..fetch.shared_key import Pairs, check_headers
from ..fetch.sigv4 import encode_key, encode_query
from ..fetch.threads import MAX_THREADS
from .azure_config import AzureSpec
from .azure_ops import AzureOperations, Check
from .azure_wire import (
    OF_CONTAINER,
    VERSION,
    Hidden,
    check_key,
    log_slow_lane,
    read_conditions,
    refuse_container,
    url_of,
    with_identity,
)
from .azure_xml import error_from_refusal
from .base import Operation
from .quiet import quiet
from .sdk_common import KeptClient, Meanings, head_of, meaning_of, read_bounded

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient

_MAX_BODY_BYTES: Final = 64 << 20
"""As of an `Exchange`."""


class AzureSdkWire:
    """Requests to one container, made by azure-storage-blob."""

    is_local = False
    origin = None

    def __init__(
        self, spec: AzureSpec, renew: Callable[[], object] | None = None, on_expired: Callable[[], None] | None = None
    ) -> None:
        """Opens a container; the arguments are those of `S3Wire`."""
        self._renew = renew
        self.on_expired = on_expired
        self._client = KeptClient(_make_client)
        self.use(spec)

    def use(self, spec: AzureSpec) -> None:
        """Asks with the credentials of `spec` from now on."""
        self.spec = spec
        self.expires_at_s = spec.expires_at_s

    def successor(self) -> None:
        """There is no other way."""

    def open(self, key: str, start: int, end: int | None, version: str | None, with_checksum: bool) -> tuple[ResponseHead, Stream]:
        """As `SdkWire.open`."""
        given = zip(("x-ms-range", "if-match"), read_conditions(start, end, version), strict=True)
        headers = [(name, value) for name, value in given if value is not None]
        response = self._send("GET", self._path(key, ()), (), headers, None, self.spec.root + key)
        uri = self.spec.root + key
        if "transfer-encoding" not in response.headers:
            return _head_of(response), _Body(response, uri)
        with _translated(uri):
            data = _read_all(response, MAX_CHUNKED_BYTES)
        return _head_of(response, len(data)), _Body(response, uri, io.BytesIO(data))

    def ask(self, method: str, key: str, query: Pairs, headers: Pairs, payload: Loan | None = None) -> ResponseHead:
        """Sends a request about an object, or, by the empty key, the container; returns its answer's head.

        Raises:
            S3dlioError: As the store says.
        """
        uri = self.spec.root + key
        response = self._send(method, self._path(key, query), query, headers, payload, uri)
        with _translated(uri):
            num_bytes = len(_read_all(response, _MAX_BODY_BYTES))
        has_length = method == "HEAD" and "transfer-encoding" not in response.headers
        return _head_of(response, None if has_length else num_bytes)

    def ask_for_list(self, query: Pairs) -> bytes:
        """Sends a GET about the container, or, where there is none, the account; returns its answer's body.

        Raises:
            S3dlioError: As the store says.
        """
        response = self._send("GET", f"{self.spec.path}/{self.spec.container}", query, (), None, self.spec.root)
        with _translated(self.spec.root):
            return _read_all(response, _MAX_BODY_BYTES)

    def url(self, key: str) -> Hidden:
        """As `AzureWire.url`."""
        return url_of(self.spec, key)

    def _path(self, key: str, query: Pairs) -> str:
        check_key(key, self.spec.root)
        if not key and OF_CONTAINER not in query:
            refuse_container(self.spec.root)
        path = f"{self.spec.path}/{self.spec.container}"
        return f"{path}/{encode_key(key)}" if key else path

    def _send(self, method: str, path: str, query: Pairs, headers: Pairs, payload: Loan | None, uri: str) -> Any:
        """Returns an answer below 300, whose body is still to be read: a `requests.Response`."""
        check_headers(headers)
        if self._renew is not None:
            self._renew()
        spec = self.spec
        with _translated(uri):
            pipeline, request = self._request(spec, method, path, query, headers, payload)
            response = pipeline.run(request, stream=True).http_response.internal_response
            if response.status_code < 300:
                return response
            # Of a longer one only the beginning is looked at, as on the fast lane.
            body = response.raw.read(MAX_ERROR_BODY_BYTES, decode_content=False)
            response.close()
        named = {name.lower(): value for name, value in response.headers.items()}
        error = error_from_refusal(response.status_code, named, body, uri, 1, spec.token is not None)
        error.retry_after = named.get("retry-after")
        raise with_identity(error, spec, self.on_expired)

    def _request(
        self, spec: AzureSpec, method: str, path: str, query: Pairs, headers: Pairs, payload: Loan | None
    ) -> tuple[Any, Any]:
        client = self._client.get(spec)
        from azure.core.pipeline.transport import HttpRequest

        text = encode_query(query)
        request = HttpRequest(method, f"{_base_url(spec)}{path}" + (f"?{text}" if text else ""))
        request.headers.update({"x-ms-version": VERSION, "accept-encoding": "identity", **dict(headers)})
        if payload:
            request.headers["content-length"] = str(len(payload))
            request.data = payload  # type: ignore[assignment] # a file, which requests takes as well
        elif method not in {"GET", "HEAD"}:
            request.set_bytes_body(b"")
        # There is no public way to send a request of one's own; this one is as old as the package.
        return client._pipeline, request


class AzureSdkOperations(AzureOperations):
    """The operations on one container, by the SDK."""

    def ask(
        self, method: str, key: str, query: Pairs = (), headers: Pairs = (), payload: memoryview | None = None, check: Check | None = None
    ) -> Operation[ResponseHead]:
        """As on the fast lane."""
        call = Call(self.root + key, self.wire, partial(self.wire.ask, method, key, query, headers), payload)
        if check is not None:
            call.check = lambda done: check(done.result)
        done = yield call
        assert isinstance(done, Call)
        head: ResponseHead = done.result
        return head

    def ask_for_list(self, query: Pairs, take: Callable[[bytes], None]) -> Operation[None]:
        """As on the fast lane."""
        call = Call(self.root, self.wire, partial(self.wire.ask_for_list, query))
        call.check = lambda done: take(done.result)
        yield call


class _Body:
    """A body as the SDK's transport gives it."""

    def __init__(self, response: Any, uri: str, source: io.BytesIO | None = None) -> None:
        self._response = response
        self._uri = uri
        self._source = source

    def read(self, num: int) -> bytes:
        """As `Stream.read`."""
        if self._source is not None:
            return self._source.read(num)
        with _translated(self._uri):
            return bytes(self._response.raw.read(num, decode_content=False))

    def close(self) -> None:
        """As `Stream.close`."""
        self._response.close()


def _read_all(response: Any, bound: int) -> bytes:
    try:
        return read_bounded(partial(response.raw.read, decode_content=False), bound)
    finally:
        response.close()


def _head_of(response: Any, num_bytes: int | None = None) -> ResponseHead:
    return head_of(response.status_code, response.headers.items(), num_bytes)


def _base_url(spec: AzureSpec) -> str:
    return f"{spec.scheme}://{spec.host_header}"


class _Token:
    """The bearer token of a spec, as the SDK asks for it."""

    def __init__(self, token: str, expires_at_s: float) -> None:
        self._token = token
        self._expires_at_s = expires_at_s

    def get_token(self, *scopes: str, **_: object) -> Any:
        """Returns it, whatever it is for: there is no other."""
        from azure.core.credentials import AccessToken

        return AccessToken(self._token, int(self._expires_at_s))


def _make_client(spec: AzureSpec) -> BlobServiceClient:
    options = spec.sdk
    assert options is not None
    assert spec.slow_because is not None
    log_slow_lane(spec.root, spec.slow_because)
    try:
        from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
        from azure.core.pipeline.transport import RequestsTransport
        from azure.storage.blob import BlobServiceClient
    except ImportError:
        raise MissingExtraError(
            f'requests go by azure-storage-blob, since {spec.slow_because}; it is not installed: pip install "s3dlio-shm[azure]"'
        ) from None
    credential: Any = None
    if spec.account_key is not None:
        credential = AzureNamedKeyCredential(spec.account, spec.account_key)
    elif spec.sas is not None:
        credential = AzureSasCredential(spec.sas)
    elif spec.token is not None:
        credential = _Token(spec.token, spec.expires_at_s or 0.0)
    transport: Any = RequestsTransport(
        use_env_settings=False,
        connection_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        connection_verify=spec.ca_bundle or True,
    )
    # Opened before the threads come, and with a connection for each of them: requests keeps ten, and warns of every other.
    transport.open()
    for adapter in transport.session.adapters.values():
        adapter.init_poolmanager(1, MAX_THREADS)
    url = f"{_base_url(spec)}{spec.path}/"
    return BlobServiceClient(
        url, credential, transport=transport, retry_total=0, permit_redirects=False, proxies=options.proxies
    )


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Maps what the SDK and its transport raise to errors of this package, and has them log nothing that nobody may see.

    Their own texts may hold a URL with a SAS, or what was sent, and are not passed on.
    """
    try:
        with quiet():
            yield
    except S3dlioError as error:
        error.uri = error.uri or uri
        raise
    except Exception as error:
        found = _translate(error, uri)
        if found is None:
            raise
        raise found from None


def _translate(error: Exception, uri: str) -> S3dlioError | None:
    """Returns what an error means, or None where it is none of the SDK's."""
    names = [cls.__name__ for cls in type(error).__mro__]
    if not {"AzureError", "HTTPError", "RequestException", "ValueError"} & set(names):
        return None
    otherwise = _NO_PROXY if "Cannot connect to proxy" in str(error) else _BROKEN
    meanings = {} if otherwise is _NO_PROXY else _MEANINGS
    return meaning_of(error, uri, meanings, otherwise, "REQUESTS_CA_BUNDLE")


_NO_PROXY: Final = (ConnectFailedError, "the proxy cannot be reached; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
_BROKEN: Final = (ConnectFailedError, "the SDK could not make the request")
_MEANINGS: Final[Meanings] = {
    "AzureSigningError": (AuthenticationError, "the account key is no base64 text; copy it whole, without spaces or line ends"),
    "ServiceRequestTimeoutError": (StoreTimeoutError, "the store did not accept a connection in time"),
    "ServiceResponseTimeoutError": (StoreTimeoutError, "the store sent nothing in time"),
    "ReadTimeoutError": (StoreTimeoutError, "the store sent nothing in time"),
    "IncompleteReadError": (TruncatedBodyError, "the body ended too early"),
    "IncompleteRead": (TruncatedBodyError, "the body ended too early"),
    "ProtocolError": (TruncatedBodyError, "the connection broke in the middle of the body"),
    "ServiceRequestError": (ConnectFailedError, "the connection could not be made"),
    "ServiceResponseError": (ConnectFailedError, "the connection broke before the answer"),
    "ValueError": (ProtocolError, "the SDK can make no sense of the request or the answer"),
}
