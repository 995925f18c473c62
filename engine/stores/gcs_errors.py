"""What Google Cloud Storage says when it refuses, in JSON, in XML or in plain words, as errors of this package. Pure.

Rules:

* Of a refusal only the reason and the message are taken; of a body that is neither document, its first words. Both are cut, and stripped
  of what does not belong on a terminal.
* Whether asking again may help is what Google says it is: 408, 429, 500, 502, 503, 504, and the reasons of too many requests.

Source: "HTTP status and error codes for JSON"; "Retry strategy", Google Cloud Storage.
"""

from __future__ import annotations

import zlib
from http import HTTPStatus
from typing import Any, Final

import msgspec

from ..errors import (
    ExpiredCredentialsError,
    InvalidRangeError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    RequestRejectedError,
    S3dlioError,
    ServerError,
    ThrottledError,
)
from ..text import clean
from .s3_xml import parse_error

MAX_ERROR_BODY_BYTES: Final = 64 * 1024
_MAX_TEXT: Final = 400
_OF_STATUS: Final[dict[int, type[S3dlioError]]] = {
    401: PermissionDeniedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: ServerError,
    412: ObjectChangedError,
    416: InvalidRangeError,
    429: ThrottledError,
    500: ServerError,
    502: ServerError,
    503: ServerError,
    504: ServerError,
}
_OF_REASON: Final[dict[str, type[S3dlioError]]] = {
    "rateLimitExceeded": ThrottledError,
    "userRateLimitExceeded": ThrottledError,
    "SlowDown": ThrottledError,
    "backendError": ServerError,
    "internalError": ServerError,
}
"""Reasons that say more than the status: a 403 may be too many requests."""
_ADVICE: Final = {
    "invalid": "",
    "forbidden": "these credentials have no permission for it",
    "accountDisabled": "the account is disabled; see to its billing",
    "userProjectMissing": "the bucket wants its readers to pay; name a quota project",
}


class ResumeIncompleteError(RequestRejectedError):
    """The answer to a piece of a resumable upload: it goes on. Met only where such a piece is sent, and never raised further."""

    num_persisted: int = 0
    """Bytes of the object that the store has."""


class _Detail(msgspec.Struct):
    reason: str = ""


class _Refusal(msgspec.Struct):
    message: str = ""
    errors: list[_Detail] = []
    status: str = ""


class _Document(msgspec.Struct):
    error: _Refusal


_decode: Final = msgspec.json.Decoder(_Document).decode


def error_from_response(
    status: int, headers: Any, body: bytes | bytearray, uri: str, attempts: int, is_identified: bool
) -> S3dlioError:
    """Returns (never raises) the error that a refusal stands for.

    Args:
        status: The HTTP status; 2xx for an error document sent as a success, which is a failure of the server (case N12).
        headers: `headers.get(b"name")` returns a header's value, or None; names are in lower case.
        body: The error document, or its beginning.
        uri: The object or bucket asked for.
        attempts: How many attempts were made.
        is_identified: Whether a token was sent.
    """
    # By this status others redirect.
    if status == 308 and (headers.get(b"location") is None or headers.get(b"range") is not None):
        return _incomplete(headers, uri, attempts)
    reason, message = _read(_unpack(headers, bytes(body[:MAX_ERROR_BODY_BYTES])))
    text = message or _phrase(status)
    if 300 <= status < 400:
        text = "the store redirects, which is not followed; check the endpoint"
    elif reason and reason not in text:
        text = f"{reason}: {text}"
    if advice := _ADVICE.get(reason):
        text += f"; {advice}"
    request_id = headers.get(b"x-guploader-uploadid")
    error = _classify(status, reason, is_identified)(
        text, uri=uri, attempts=attempts, status=status, request_id=None if request_id is None else clean(request_id[:200])
    )
    error.retry_after = headers.get(b"retry-after")
    return error


def _classify(status: int, reason: str, is_identified: bool) -> type[S3dlioError]:
    if status == 401 and is_identified:
        # A token that is refused is as good as one that has expired: another is asked for, and only then is the answer final.
        return ExpiredCredentialsError
    if reason in _OF_REASON:
        return _OF_REASON[reason]
    if status < 300:
        return ServerError
    return _OF_STATUS.get(status, RequestRejectedError)


def _incomplete(headers: Any, uri: str, attempts: int) -> S3dlioError:
    """Returns what a 308 says: how far the store has come. Source: "Resumable uploads": of nothing there is no Range."""
    error = ResumeIncompleteError("the upload is not complete", uri=uri, attempts=attempts, status=308)
    first, _, last = (headers.get(b"range") or "").removeprefix("bytes=").partition("-")
    if first == "0" and last.isascii() and last.isdigit() and len(last) < 19:
        error.num_persisted = int(last) + 1
    return error


def _unpack(headers: Any, body: bytes) -> bytes:
    """Returns what a refusal says: a read takes gzip, which is meant for objects, and Google may pack what it says of them too."""
    if headers.get(b"content-encoding") != "gzip":
        return body
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, MAX_ERROR_BODY_BYTES)
    except zlib.error:
        return b""


def _read(body: bytes) -> tuple[str, str]:
    """Returns the reason and the message of an error document, or nothing and the first words of a page."""
    if body.lstrip()[:1] == b"{":
        try:
            found = _decode(body).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "", ""
        reason = found.errors[0].reason if found.errors else found.status
        return clean(reason[:80]), clean(" ".join(found.message.split())[:_MAX_TEXT])
    code, message, _ = parse_error(body)
    return code or "", message[:_MAX_TEXT]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "refused without a reason"
