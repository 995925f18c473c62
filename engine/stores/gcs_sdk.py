"""`gs://` by google-cloud-storage: the SDK lane, for what the fast lane does not do.

Rules:

* The client's own session makes the requests: it knows proxies and client certificates. The requests, and what their answers mean, are
  those of the fast lane (`gcs_ops.py`), so both lanes do the same.
* It makes one attempt and follows nothing; retries, deadlines and what is exact about a read are the loop's. Bodies are not decoded.
* A client is made of what the `GcsSpec` says, and of nothing that stands in the environment: so it is the same in every process.

Everything here blocks, and runs in the threads of `fetch/threads.py`.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..errors import (
    ConfigurationError,
    ConnectFailedError,
    MissingExtraError,
    ProtocolError,
    S3dlioError,
    StoreTimeoutError,
    TruncatedBodyError,
)
from ..fetch.answer import MAX_CHUNKED_BYTES
from ..fetch.http1 import ResponseHead, format_range
from ..fetch.request import Fetch
from ..fetch.sdk_lane import Call, Stream
from .base import Operation
from .gcs_config import GcsSpec
from .gcs_errors import MAX_ERROR_BODY_BYTES
from .gcs_ops import GcsOperations
from .gcs_wire import AS_STORED, GcsWire
from .quiet import quiet
from .sdk_common import KeptClient, Meanings, head_of, meaning_of, read_bounded

if TYPE_CHECKING:
    from google.cloud.storage import Client

    from ..fetch.checksums import Checksum

T = TypeVar("T")
_Answer = tuple[ResponseHead, bytes]

_log = logging.getLogger("s3dlio")
_told: set[tuple[str, str]] = set()
_MAX_ANSWER_BYTES: Final = 64 << 20
_NUM_CONNECTIONS: Final = 64


class GcsSdkWire(GcsWire):
    """Requests to one bucket, made by the SDK."""

    def __init__(
        self, spec: GcsSpec, renew: Callable[[], object] | None = None, on_expired: Callable[[], None] | None = None
    ) -> None:
        """Opens a bucket; the arguments are those of `GcsWire`."""
        super().__init__(spec, renew, on_expired)
        self.origin = None
        self._client = KeptClient(_make_client)

    def open(self, key: str, start: int, end: int | None, version: str | None, with_checksum: bool) -> tuple[ResponseHead, Stream]:
        """As `SdkWire.open`."""
        uri = self.spec.root + key
        lines = AS_STORED if not start and end is None else f"{AS_STORED}Range: {format_range(start, end)}\r\n"
        answer = self._send(uri, "GET", self.media(key, version), lines, None)
        if "content-length" in answer.headers:
            return _head_of(answer, None), _Body(answer.raw, uri)
        with _translated(uri), answer:
            data = read_bounded(answer.raw.read, MAX_CHUNKED_BYTES)
        return _head_of(answer, len(data)), _Body(io.BytesIO(data), uri)

    def find_sum(self, key: str) -> Operation[tuple[str | None, Checksum] | None]:
        """As `GcsWire.find_sum`."""
        return GcsSdkOperations(self.spec.root, self).find_sum(key)

    def exchange(self, uri: str, method: str, target: str, lines: str, body: bytes) -> _Answer:
        """Makes a request whose whole answer is wanted.

        Raises:
            S3dlioError: The answer is an error, or there is none.
        """
        answer = self._send(uri, method, target, lines, body)
        with _translated(uri), answer:
            data = read_bounded(answer.raw.read, _MAX_ANSWER_BYTES)
        return _head_of(answer, len(data)), data

    def _send(self, uri: str, method: str, target: str, lines: str, body: bytes | None) -> Any:
        """Returns an answer below 300, whose body is still to be read."""
        if self._renew is not None:
            self._renew()
        spec = self.spec
        headers = dict(line.split(": ", 1) for line in lines.split("\r\n") if line)
        # What requests would say unasked, and for what it would not.
        headers.setdefault("Accept-Encoding", "identity")
        client = self._client.get(spec)
        with _translated(uri):
            answer = client._http.request(
                method,
                f"{spec.scheme}://{spec.host_header}{target}",
                data=body,
                headers=headers,
                timeout=(spec.connect_timeout_s, spec.read_timeout_s),
                stream=True,
                allow_redirects=False,
            )
        if answer.status_code < 300:
            return answer
        with _translated(uri), answer:
            data = answer.raw.read(MAX_ERROR_BODY_BYTES)
        raise self.error(_head_of(answer, len(data)), data, uri, 1)


class _Body:
    """A body as the SDK's session gives it, not decoded."""

    def __init__(self, raw: Any, uri: str) -> None:
        self._raw = raw
        self._uri = uri

    def read(self, num: int) -> bytes:
        """As `Stream.read`."""
        with _translated(self._uri):
            return bytes(self._raw.read(num))

    def close(self) -> None:
        """As `Stream.close`."""
        self._raw.close()


class GcsSdkOperations(GcsOperations):
    """The operations on one bucket, by the SDK."""

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
        """As `GcsOperations.ask`."""
        results: list[T] = []
        # A copy, and now: the caller may change it as soon as the call is over, whatever a thread still does.
        data = body if payload is None else bytes(payload)
        steps = [partial(self.wire.exchange, uri, method, target, lines, data)]
        if then is not None:
            steps.append(partial(self.wire.exchange, uri, then[0], target, then[1], b""))

        def attempt() -> _Answer:
            step: Callable[[], _Answer] = steps.pop(0) if len(steps) > 1 else steps[0]
            return step()

        call = Call(uri, self.wire, attempt)

        def check(fetch: Fetch) -> None:
            assert isinstance(fetch, Call)
            results[:] = [read(*fetch.result)]

        call.check = check
        yield call
        return results[0]


def _make_client(spec: GcsSpec) -> Client:
    try:
        from google.auth.credentials import Credentials
        from google.cloud import storage
        from requests.adapters import HTTPAdapter
    except ImportError as error:
        raise MissingExtraError(
            f'requests to {spec.root} must be made by google-cloud-storage ({spec.slow_because}), which is not installed; '
            'run: pip install "s3dlio-shm[gcs]"', uri=spec.root, cause=str(error)
        ) from None  # fmt: skip
    assert spec.slow_because is not None
    if (spec.root, spec.slow_because) not in _told:
        _told.add((spec.root, spec.slow_because))
        _log.info("requests to %s are made by google-cloud-storage, in threads, which costs more time: %s", spec.root, spec.slow_because)

    class Given(Credentials):
        """What the spec says of who asks. It is renewed by others."""

        valid = True
        universe_domain = spec.universe

        def refresh(self, request: Any) -> None:
            """Nothing: a new spec will come."""

        def apply(self, headers: dict[str, str], token: str | None = None) -> None:
            headers.update(spec.headers)

        def before_request(self, request: Any, method: str, url: str, headers: dict[str, str]) -> None:
            self.apply(headers)

    given = Given()  # type: ignore[no-untyped-call]
    options = {"api_endpoint": spec.url, "universe_domain": spec.universe}
    with _translated(spec.root):
        client = storage.Client(project=spec.project, credentials=given, client_options=options)
        session = client._http
    # Otherwise ~/.netrc would stand above the token, and the variables of this process above what the spec says.
    session.trust_env = False
    # It would ask three times with the token that was refused.
    session._refresh_status_codes = ()
    session.proxies = {} if spec.proxy is None else {spec.scheme: spec.proxy}
    session.verify = spec.ca_bundle or True
    if not session.is_mtls:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=_NUM_CONNECTIONS))
    return client


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Maps what the session raises to errors of this package, without its text, and has it log nothing that nobody may see."""
    import google.auth.exceptions
    import requests
    import urllib3.exceptions

    try:
        with quiet():
            yield
    except S3dlioError:
        raise
    except (
        requests.RequestException, urllib3.exceptions.HTTPError, google.auth.exceptions.GoogleAuthError, OSError, ValueError
    ) as error:  # fmt: skip
        raise _translate(error, uri) from None


def _translate(error: Exception, uri: str) -> S3dlioError:
    otherwise = _NO_SENSE if isinstance(error, ValueError) and not isinstance(error, OSError) else _BROKEN
    return meaning_of(error, uri, _MEANINGS, otherwise, "REQUESTS_CA_BUNDLE")


_NO_SENSE: Final = (ProtocolError, "the SDK can make no sense of the answer, or of the request")
_BROKEN: Final = (ConnectFailedError, "the connection could not be made, or broke")
_MEANINGS: Final[Meanings] = {
    "ConnectTimeout": (StoreTimeoutError, "the store did not accept a connection in time"),
    "ReadTimeout": (StoreTimeoutError, "the store sent nothing in time"),
    "ReadTimeoutError": (StoreTimeoutError, "the store sent nothing in time"),
    "ProxyError": (ConnectFailedError, "the proxy cannot be reached; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"),
    "InvalidProxyURL": (ConfigurationError, "the proxy's URL makes no sense; check HTTPS_PROXY and HTTP_PROXY"),
    "SSLError": (ConnectFailedError, "the TLS handshake failed"),
    "IncompleteRead": (TruncatedBodyError, "the body ended too early"),
    "ProtocolError": (TruncatedBodyError, "the connection broke in the middle of the body"),
    "MutualTLSChannelError": (ConfigurationError, "the client certificate cannot be used"),
}


def _head_of(answer: Any, num_bytes: int | None) -> ResponseHead:
    return head_of(answer.status_code, answer.raw.headers.items(), num_bytes)
