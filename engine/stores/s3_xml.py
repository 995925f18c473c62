"""What the S3 service says in XML: pages of a listing, and refusals. Owns the reading of both; never touches a socket or a file.

Rules:

* A page is whole or an error. A page that says "truncated" and gives no token, an entry without a key, an undecodable key: each would
  lose or rename objects silently, so each is a `ProtocolError`.
* Nothing is expanded. A document with a DTD is refused before the parser sees it; S3 never sends one. The search for `<!DOCTYPE` is
  sound only in UTF-8, so any other encoding is refused as well.
* An error document is read with two bounded regular expressions and no parser: it may be HTML, cut off, or hostile, and all of these
  must still end in the error that the status calls for. Only Code, Message and the request id are taken from it: the rest of a
  SignatureDoesNotMatch document is what was signed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

import msgspec

from ..errors import (
    AlreadyExistsError,
    BucketElsewhereError,
    ChecksumMismatchError,
    ExpiredCredentialsError,
    InvalidRangeError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    ProtocolError,
    RequestRejectedError,
    S3dlioError,
    ServerError,
    ThrottledError,
    TruncatedBodyError,
    UnsupportedError,
)
from ..fetch.http1 import unquote_etag
from ..text import clean
from ..types import ListEntry

MAX_ERROR_BODY_BYTES: Final = 64 * 1024
"""Of a longer error document only the beginning is looked at (case N18)."""
_MAX_FALLBACK_CHARS: Final = 200


class ListPage(msgspec.Struct, frozen=True):
    """One page of a listing, in the order of the store."""

    entries: list[ListEntry]
    prefixes: list[str]
    """Child prefixes as full URIs ending in the delimiter."""
    next_token: str | None
    """What the next request sends as `continuation-token`; None on the last page."""


def parse_list_page(body: bytes, bucket_root: str) -> ListPage:
    """Returns one ListObjectsV2 page.

    Costs 5 us per key on a page of 1000 keys.

    Args:
        body: The whole XML document, with the S3 namespace, another one, or none.
        bucket_root: What every URI of the bucket begins with: `s3://bucket/`.

    Raises:
        ProtocolError: Not a well-formed, whole page in UTF-8, or one with a DTD. Retryable.
        S3dlioError: The document is an `<Error>` under status 200, as the class that its code calls for.

    Source: API reference, ListObjectsV2. `EncodingType` says whether keys are percent-encoded, not what the request asked for: some
    servers ignore the parameter. Within it a space is `+` (S3) or `%20` (moto), a plus is `%2B`.
    """
    root, space = open_document(body, "ListBucketResult", bucket_root)
    is_encoded = root.findtext(space + "EncodingType") == "url"
    try:
        entries = _read_entries(root, space, bucket_root, is_encoded)
        prefixes = read_prefixes(root, space, bucket_root, is_encoded)
    except ValueError as error:
        raise ProtocolError(f"the listing is malformed: {clean(str(error))}", uri=bucket_root) from None
    return ListPage(entries, prefixes, read_token(root, space, bucket_root))


def open_document(body: bytes, name: str, uri: str, alias: str = "") -> tuple[ET.Element, str]:
    """Returns the root of an answer that must be a `<name>` document, and what stands before the names of its elements.

    `alias` is what a server calls it that does not know better.

    Raises:
        ProtocolError: It is no such document. Retryable.
        S3dlioError: It is an `<Error>` under status 200, as the class that its code calls for.
    """
    root = _parse_document(body)
    space = root.tag[: root.tag.rfind("}") + 1]
    if root.tag not in (space + name, space + alias):
        if root.tag == space + "Error":
            raise error_from_response(200, {}, body, uri, 1)
        raise ProtocolError(f"the answer is a <{clean(root.tag[len(space) :][:80])}> document, not a <{name}>", uri=uri)
    return root, space


def _parse_document(body: bytes) -> ET.Element:
    # A UTF-16 document without a byte order mark is valid UTF-8, but full of NULs, which XML forbids.
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body or b"\0" in body:
        raise ProtocolError("the answer is an XML document with a DTD or NULs; S3 sends neither")
    try:
        # Text, not bytes: then the parser ignores the encoding that the document declares, and sees what was searched above.
        # While an operation lasts, S3 sends spaces, which XML does not allow in front.
        return ET.fromstring(body.decode("utf-8").lstrip())  # noqa: S314 (no DTD, so no entities)
    except UnicodeDecodeError:
        raise ProtocolError("the answer is not XML in UTF-8") from None
    except ET.ParseError as error:
        raise ProtocolError("the answer is not a whole XML document", cause=str(error)) from None


def _read_entries(root: ET.Element, space: str, bucket_root: str, is_encoded: bool) -> list[ListEntry]:
    """Returns the `<Contents>`; a ValueError says what is wrong with one."""
    key_tag, size_tag, etag_tag, time_tag = (space + name for name in ("Key", "Size", "ETag", "LastModified"))
    entries = []
    for item in root.iterfind(space + "Contents"):
        find = item.findtext
        key, size_text, etag, modified = find(key_tag), find(size_tag), find(etag_tag), find(time_tag)
        if not key or size_text is None:
            raise ValueError(f"an entry has no {'Size' if key else 'Key'}")
        size = int(size_text)
        if size < 0:
            raise ValueError(f"an entry has size {size}")
        if is_encoded and ("%" in key or "+" in key):
            key = unquote_plus(key, errors="strict")
        version = unquote_etag(etag) or None if etag else None
        entries.append(ListEntry(bucket_root + key, size, version, normalise_time(modified) if modified else None))
    return entries


def read_prefixes(root: ET.Element, space: str, bucket_root: str, is_encoded: bool) -> list[str]:
    """Returns the `<CommonPrefixes>`, each behind `bucket_root`; a ValueError says what is wrong with one."""
    prefixes = []
    for item in root.iterfind(space + "CommonPrefixes"):
        prefix = item.findtext(space + "Prefix")
        if not prefix:
            raise ValueError("a CommonPrefixes element has no Prefix")
        prefixes.append(bucket_root + (unquote_plus(prefix, errors="strict") if is_encoded else prefix))
    return prefixes


def read_token(root: ET.Element, space: str, bucket_root: str) -> str | None:
    """Returns the continuation token, which is opaque and never percent-encoded."""
    if root.findtext(space + "IsTruncated") == "false":
        return None
    token = root.findtext(space + "NextContinuationToken")
    if not token and root.findtext(space + "IsTruncated") == "true":
        raise ProtocolError("the listing is truncated, but gives no NextContinuationToken", uri=bucket_root)
    return token or None


def normalise_time(text: str) -> str:
    """Returns ISO-8601 in UTC and seconds; ValueError if `text` is no time."""
    if text.endswith("Z") and (len(text) == 20 or text[19] == "."):
        return text[:19] + "Z"
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_of_http(date: str | None) -> str | None:
    """Returns the date of a header as ISO-8601 in UTC; None for none, and for what is no date."""
    try:
        return parsedate_to_datetime(date).strftime("%Y-%m-%dT%H:%M:%SZ") if date else None
    except (ValueError, OverflowError):
        return None


def parse_error(body: bytes) -> tuple[str | None, str, str | None]:
    """Returns (code, message, request id) of an S3 error document; never raises.

    What is no such document gives (None, up to 200 characters of its text, None).
    """
    text = body[:MAX_ERROR_BODY_BYTES].decode("utf-8", "replace")
    code = _element(text, "Code")
    if code is None:
        return None, _plain_text(text), None
    return code, _element(text, "Message") or "", _element(text, "RequestId")


def _element(text: str, name: str) -> str | None:
    match = re.search(rf"<{name}>([^<]{{1,2048}})</{name}>", text)
    return _one_line(html.unescape(match[1])) if match else None


def _plain_text(text: str) -> str:
    """Returns the first words of a page that a proxy or a wrong server sent."""
    # `[^<>]` and not `[^>]`: a body of nothing but "<" would otherwise take quadratic time.
    words = _one_line(html.unescape(re.sub(r"<[^<>]*>", " ", text)))
    # Some servers echo the request; a word as long as this is a token or a signature, not prose.
    return re.sub(r"\S{48,}", "[...]", words)[:_MAX_FALLBACK_CHARS]


def _one_line(text: str) -> str:
    return clean(" ".join(text.split()))


_OF_STATUS: Final[dict[int, type[S3dlioError]]] = {
    401: PermissionDeniedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: ServerError,
    412: ObjectChangedError,
    416: InvalidRangeError,
    429: ThrottledError,
}
_OF_CODE: Final[dict[str, type[S3dlioError]]] = {
    "ExpiredToken": ExpiredCredentialsError,
    "ExpiredTokenException": ExpiredCredentialsError,
    "TokenRefreshRequired": ExpiredCredentialsError,
    "InvalidToken": PermissionDeniedError,
    "BucketAlreadyExists": AlreadyExistsError,
    "BadDigest": ChecksumMismatchError,
    "XAmzContentChecksumMismatch": ChecksumMismatchError,
    "XAmzContentSHA256Mismatch": ChecksumMismatchError,
    "IncompleteBody": TruncatedBodyError,
    "ConditionalRequestConflict": ServerError,
    "NotImplemented": UnsupportedError,
    "OperationAborted": ServerError,
    "InternalError": ServerError,
    "RequestTimeout": ServerError,
    "SlowDown": ThrottledError,
    "SlowDownRead": ThrottledError,
    "SlowDownWrite": ThrottledError,
    "Throttling": ThrottledError,
    "ThrottlingException": ThrottledError,
    "RequestLimitExceeded": ThrottledError,
    "TooManyRequests": ThrottledError,
}
"""Codes that S3 sends under a status which says less: an expired token, a slow upload, one that was changed on its way is a 400.

Source: API reference, Error responses.
"""
_OF_ANOTHER_REGION: Final = ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException", None)
"""Codes under which S3 says, with status 400, that the request was signed for another region; a HEAD has none."""
_ADVICE: Final = {
    "AccessDenied": "these credentials have no permission for it",
    "SignatureDoesNotMatch": "check the secret key, and that nothing between here and the store rewrites requests",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID or the profile, and that the endpoint is the one these keys belong to",
    "ExpiredToken": "renew the session credentials",
    "InvalidToken": "check AWS_SESSION_TOKEN; it belongs to one access key",
    "RequestTimeTooSkewed": "set the clock of this machine",
    "NoSuchBucket": "check the bucket's name and the endpoint",
}


def error_from_response(status: int, headers: Mapping[str, str], body: bytes, uri: str, attempts: int) -> S3dlioError:
    """Returns (never raises) the error that a refusal stands for.

    Args:
        status: The HTTP status; 2xx for an `<Error>` document sent as a success, which is a failure of the server (case N12).
        headers: Names in lower case.
        body: The error document, or its beginning; empty for HEAD.
        uri: The object or bucket asked for.
        attempts: How many attempts were made.
    """
    text = body[:MAX_ERROR_BODY_BYTES].decode("utf-8", "replace")
    code, message, request_id = parse_error(body)
    found = Refusal(status, code, message, headers, request_id, _element(text, "ServerTime"), bool(body))
    return error_from_refusal(found, uri, attempts)


class Refusal(msgspec.Struct, frozen=True):
    """What a store says when it refuses, whoever has read it."""

    status: int
    code: str | None
    message: str
    headers: Mapping[str, str]
    """Names in lower case."""
    request_id: str | None = None
    server_time: str | None = None
    has_body: bool = True


def error_from_refusal(refusal: Refusal, uri: str, attempts: int) -> S3dlioError:
    """Returns the error that a refusal stands for."""
    code, status, headers = refusal.code, refusal.status, refusal.headers
    parts = [f"{code}: {refusal.message}" if code and refusal.message else code or refusal.message or _phrase(status)]
    kind = _classify(refusal)
    if kind is BucketElsewhereError:
        region = headers.get("x-amz-bucket-region")
        parts.append(
            f"the bucket is in region {clean(region)}; set AWS_DEFAULT_REGION to it"
            if region
            else "such redirects are not followed; set the region or the endpoint that the bucket has"
        )
    if code in _ADVICE:
        parts.append(_ADVICE[code])
    if code == "RequestTimeTooSkewed":
        theirs = refusal.server_time or clean(headers.get("date", "unknown"))
        parts.append(f"it is {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} here, and {theirs} at the store")
    request_id = headers.get("x-amz-request-id") or refusal.request_id
    error = kind("; ".join(parts), uri=uri, attempts=attempts, status=status, request_id=request_id)
    if isinstance(error, BucketElsewhereError):
        error.region = headers.get("x-amz-bucket-region")
    return error


def _classify(refusal: Refusal) -> type[S3dlioError]:
    status, code = refusal.status, refusal.code
    if 300 <= status < 400 or (status == 400 and "x-amz-bucket-region" in refusal.headers and code in _OF_ANOTHER_REGION):
        return BucketElsewhereError
    if code in _OF_CODE:
        return _OF_CODE[code]
    if status in _OF_STATUS:
        return _OF_STATUS[status]
    # A HEAD cannot say SlowDown, and S3 has hardly another reason for a 503.
    if status == 503 and not refusal.has_body:
        return ThrottledError
    return ServerError if status >= 500 or status < 300 else RequestRejectedError


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "refused without a reason"
