"""The one closed tree of errors.

Every error that leaves this package for a reason outside the caller's code is an `S3dlioError`. Each class also derives from the
built-in a Python programmer would catch (`FileNotFoundError`, `PermissionError`, `TimeoutError`, `MemoryError`, `ValueError`, ...), so
that `except FileNotFoundError` works without importing anything.

Rules of the tree:

* `retryable` is a fact of the class: whether asking the same again may succeed. Nobody decides it from a text.
* An error names the `uri`, the number of `attempts` made, and the last `cause` as text. It never holds a request, a response or a
  header, so it cannot carry a secret, and it pickles.
* `ErrorInfo` is the only form in which an error crosses a process border: names and texts, no code.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from .text import clean, clip


class S3dlioError(Exception):
    """Base of every error raised by s3dlio.

    Attributes:
        message: What happened, in one sentence, without the parts below.
        uri: The object, prefix or endpoint concerned, or None.
        attempts: How many attempts were made; 0 if none left this process.
        status: The HTTP status of the last answer, or None.
        request_id: The store's own id of the last request, for its support desk, or None.
        cause: The last underlying error as text, or None.
    """

    retryable: ClassVar[bool] = False
    retry_after: str | None = None
    """What the server's `Retry-After` said, for the retry policy; it does not travel."""

    def __init__(
        self,
        message: str,
        *,
        uri: str | None = None,
        attempts: int = 0,
        status: int | None = None,
        request_id: str | None = None,
        cause: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = clip(message)
        self.uri = uri
        self.attempts = attempts
        self.status = status
        self.request_id = request_id
        self.cause = None if cause is None else clip(cause)

    def __str__(self) -> str:
        facts = []
        if self.attempts > 1:
            facts.append(f"after {self.attempts} attempts")
        if self.status is not None:
            facts.append(f"HTTP {self.status}")
        if self.cause is not None and self.cause not in self.message:
            facts.append(f"last cause: {self.cause}")
        if self.request_id is not None:
            facts.append(f"request id {self.request_id}")
        text = self.message if self.uri is None or self.uri in self.message else f"{clean(self.uri)}: {self.message}"
        return f"{text} ({'; '.join(facts)})" if facts else text

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_error, (self.to_info(),)

    def to_info(self) -> ErrorInfo:
        """Returns the form that crosses process borders."""
        return ErrorInfo(
            type(self).__name__, self.message, self.uri, self.attempts, self.status, self.request_id, self.cause
        )


class NotFoundError(S3dlioError, FileNotFoundError):
    """The object, bucket or file does not exist."""


class PermissionDeniedError(S3dlioError, PermissionError):
    """The store refused the identity that signed the request, or the file system refused the user."""


class AuthenticationError(PermissionDeniedError):
    """No credentials were found, or they are unusable; nothing was asked of the store."""


class ExpiredCredentialsError(PermissionDeniedError):
    """The store says that the session credentials have expired. Others are asked for meanwhile, so asking again makes sense."""

    retryable = True


class AlreadyExistsError(S3dlioError, FileExistsError):
    """A create-only write met an existing object."""


class IsADirectoryUriError(S3dlioError, IsADirectoryError):
    """An object was asked for where a directory is."""


class ObjectChangedError(S3dlioError, OSError):
    """The store's version is no longer the one this read began with, or the one a listing pinned."""


class TruncatedBodyError(S3dlioError, EOFError):
    """Fewer bytes arrived than were announced."""

    retryable = True


class ChecksumMismatchError(S3dlioError, OSError):
    """The bytes do not have the checksum that the store gave for them."""

    retryable = True


class ProtocolError(S3dlioError, OSError):
    """The answer is not what HTTP, or this request, allows: bad framing, another range, a body that is too long."""

    retryable = True


class ServerError(S3dlioError, OSError):
    """The store answered with a 5xx status, or 408."""

    retryable = True


class ThrottledError(ServerError):
    """The store asked for fewer requests (429, 503 SlowDown)."""


class ConnectFailedError(S3dlioError, ConnectionError):
    """The connection could not be made, or broke."""

    retryable = True


class CertificateError(S3dlioError, ConnectionError):
    """The server's TLS certificate was refused: unknown issuer, another name, expired. Nothing was asked of it."""


class StoreTimeoutError(S3dlioError, TimeoutError):
    """The store was silent for longer than the timeout of this wait."""

    retryable = True


class RequestRejectedError(S3dlioError, OSError):
    """The store refused the request itself (a 4xx status with no class of its own, or a redirect)."""


class BucketElsewhereError(RequestRejectedError):
    """The bucket is in another region, or the store sends its clients somewhere else."""

    region: str | None = None
    """The region that the store named, for whoever can go there; it does not travel."""


class DecodeError(S3dlioError, ValueError):
    """The bytes of the object are not what `decode` was told they are, or would become more than `max_decoded_bytes`."""


class ConfigurationError(S3dlioError, ValueError):
    """A setting or an argument has no meaning here; the text says which would."""


class InvalidUriError(ConfigurationError):
    """The text is not a URI of a scheme that s3dlio knows."""


class UnsafeNameError(S3dlioError, ValueError):
    """The key can be no file below the directory that is written to: it has `..`, a leading `/`, a control character or the like."""


class InvalidRangeError(S3dlioError, ValueError):
    """The byte range begins beyond the end of the object."""


class MissingExtraError(S3dlioError, ImportError):
    """A package of an extra is not installed; the text says which `pip install` mends it."""


class UnsupportedError(S3dlioError, OSError):
    """This platform or store cannot do what was asked, and will not do something else instead."""


class DirectIOUnsupportedError(UnsupportedError):
    """The file system does not read or write this file past the page cache (`direct://`), and nothing was done through it."""


class NoSpaceError(S3dlioError, OSError):
    """The file system has no room for what was to be written; the text says how much there is."""


class ViewsHeldError(S3dlioError, MemoryError):
    """No slot can be granted because the consumer holds views of all of them."""


class InsufficientMemoryError(S3dlioError, MemoryError):
    """The machine or its cgroup has not the memory that was asked for."""


class ObjectTooLargeError(S3dlioError, MemoryError):
    """The object is larger than the whole memory cap, or than its place in a batch."""


class WorkerLostError(S3dlioError, RuntimeError):
    """Worker processes died: of one object, which fails by this, or faster than they may be started again."""


class PoolClosedError(S3dlioError, RuntimeError):
    """The pool was closed."""


class InternalError(S3dlioError, RuntimeError):
    """Something happened that s3dlio rules out; please report it."""


class ErrorInfo(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An error as it crosses a process border."""

    name: str
    """Class name in this module; an unknown one is rebuilt as `InternalError`."""
    message: str
    uri: str | None = None
    attempts: int = 0
    status: int | None = None
    request_id: str | None = None
    cause: str | None = None


def _classes() -> dict[str, type[S3dlioError]]:
    found: dict[str, type[S3dlioError]] = {}
    todo: list[type[S3dlioError]] = [S3dlioError]
    while todo:
        cls = todo.pop()
        found[cls.__name__] = cls
        todo.extend(cls.__subclasses__())
    return found


ERROR_CLASSES = _classes()
"""Every class of the tree by its name, for `rebuild_error`."""


def rebuild_error(info: ErrorInfo) -> S3dlioError:
    """Returns the error that `info` describes, of the class it names."""
    return ERROR_CLASSES.get(info.name, InternalError)(
        info.message,
        uri=info.uri,
        attempts=info.attempts,
        status=info.status,
        request_id=info.request_id,
        cause=info.cause,
    )


def describe(error: BaseException) -> str:
    """Returns one line about any exception: `ConnectionResetError: [Errno 104] Connection reset by peer`."""
    text = str(error)
    return clip(f"{type(error).__name__}: {text}" if text else type(error).__name__)
