"""What Azure says in XML: pages of a listing, lists of containers, and refusals. Owns the reading of them; never touches a socket.

Rules:

* A page is whole or an error. A page without an end, an entry without a name or a size, an undecodable name: each would lose or rename
  objects silently, so each is a `ProtocolError`.
* Pages are read by position and not by a parser, which would build twenty elements for each object (measured: 23 us per key, against 6).
  So what makes the two differ is refused: DTDs, comments, CDATA, entities that XML does not define. Azure sends none of them.
* A refusal is read as in `s3_xml.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import unquote

import msgspec

from ..errors import (
    AlreadyExistsError,
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
)
from ..fetch.http1 import unquote_etag
from ..text import clean
from ..types import Container, ListEntry
from .s3_xml import parse_error

T = TypeVar("T")

_END: Final = "</EnumerationResults>"
_find_name: Final = re.compile(r'\s*<Name(?: Encoded="(true|false)")?>([^<]+)</Name>').match
_find_marker: Final = re.compile(r"<NextMarker(?:\s*/>|>([^<]*)</NextMarker>)").search
_ENTITY: Final = re.compile(r"&(?:(amp|lt|gt|quot|apos)|#([0-9]{1,7})|#x([0-9A-Fa-f]{1,6}));|&")
_NAMED: Final = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


class ListPage(msgspec.Struct, frozen=True):
    """One page of a listing."""

    entries: list[ListEntry]
    """Objects in the order of the store, then child prefixes."""
    next_marker: str | None
    """What the next request sends as `marker`; None on the last page."""


def parse_list_page(body: bytes, root: str) -> ListPage:
    """Returns one page of List Blobs.

    Args:
        body: The whole XML document.
        root: What every URI of the container begins with: `az://account/container/`.

    Raises:
        ProtocolError: Not a whole page in UTF-8. Retryable.

    Source: REST API reference, List Blobs. A name that XML cannot hold is percent-encoded, and its element says `Encoded="true"`.
    """
    text = _read_text(body, root)
    found = _read_items(text, "Blob", root, lambda item, end: _read_entry(item, end, root))
    entries = [entry for entry in found if entry is not None]
    if "<BlobPrefix>" in text:
        entries += _read_items(text, "BlobPrefix", root, lambda item, end: ListEntry(root + _read_name(item)[0]))
    return ListPage(entries, _read_marker(text, root))


def parse_container_page(body: bytes, root: str) -> tuple[list[Container], str | None]:
    """Returns one page of List Containers, and the next marker.

    Args:
        body: The whole XML document.
        root: What every URI of the account begins with: `az://account/`.

    Raises:
        ProtocolError: As `parse_list_page`.
    """
    text = _read_text(body, root)
    found = _read_items(text, "Container", root, lambda item, end: _read_name(item)[0])
    return [Container(name, f"{root}{name}/") for name in found], _read_marker(text, root)


def _read_text(body: bytes, root: str) -> str:
    try:
        # Azure puts a byte order mark in front.
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ProtocolError("the answer is not XML in UTF-8", uri=root) from None
    if "<Error>" in text and "<EnumerationResults" not in text:
        raise error_from_refusal(200, {}, body, root, 1)
    if "<EnumerationResults" not in text or not text.rstrip().endswith(_END):
        raise ProtocolError("the answer to a listing is no whole <EnumerationResults> document", uri=root)
    if "<!" in text or "\0" in text:
        raise ProtocolError("the answer is XML with a DTD, comments or NULs; Azure sends none", uri=root)
    return text


def _read_items(text: str, tag: str, root: str, read: Callable[[str, int], T]) -> list[T]:
    """Returns what `read` makes of each element: of the text behind its beginning, and the place of its end in that."""
    end_tag = f"</{tag}>"
    try:
        # A ValueError of `index` says that an element has no end.
        return [read(item, item.index(end_tag)) for item in text.split(f"<{tag}>")[1:]]
    except (ValueError, KeyError, OverflowError) as error:
        raise ProtocolError(f"the listing is malformed: {clean(str(error))}", uri=root) from None


def _read_name(item: str) -> tuple[str, int]:
    """Returns a name, and where its element ends."""
    match = _find_name(item)
    if match is None:
        raise ValueError("an entry has no Name")
    name = match[2]
    if "&" in name:
        name = _ENTITY.sub(_read_entity, name)
    return unquote(name, errors="strict") if match[1] == "true" else name, match.end()


def _read_entity(match: re.Match[str]) -> str:
    if match[1]:
        return _NAMED[match[1]]
    if match[2] is None and match[3] is None:
        raise ValueError("a name holds an entity that XML does not define")
    code = int(match[2]) if match[2] else int(match[3], 16)
    if not code or 0xD800 <= code < 0xE000:
        raise ValueError("a name holds what is no character")
    return chr(code)


def _read_entry(item: str, end: int, root: str) -> ListEntry | None:
    """Returns an object; None for a directory of a hierarchical namespace, which is no object."""
    name, begin = _read_name(item)
    place = item.find("<Content-Length>", begin, end) + 16
    if place == 15:
        raise ValueError("an entry has no Content-Length")
    digits = item[place : item.find("<", place)]
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"an entry has size {digits!r}")
    size = int(digits)
    if not size and item.find("<ResourceType>directory<", begin, end) >= 0:
        return None
    version = modified = None
    place = item.find("<Etag>", begin, end) + 6
    if place != 5:
        version = item[place : item.find("<", place)]
        if not version.isalnum():
            version = unquote_etag(version.replace("&quot;", '"')) or None
    place = item.find("<Last-Modified>", begin, end) + 15
    if place != 14:
        modified = normalise_time(item[place : item.find("<", place)])
    return ListEntry(root + name, size, version, modified)


def _read_marker(text: str, root: str) -> str | None:
    match = _find_marker(text, text.rfind("<NextMarker"))
    if match is None:
        raise ProtocolError("the listing does not say whether it goes on", uri=root)
    try:
        return _ENTITY.sub(_read_entity, match[1]) if match[1] else None
    except ValueError:
        raise ProtocolError("the listing's marker is malformed", uri=root) from None


_MONTHS: Final = {
    "Jan": "01", "Feb": "02", "Mar": "03", "Apr": "04", "May": "05", "Jun": "06",
    "Jul": "07", "Aug": "08", "Sep": "09", "Oct": "10", "Nov": "11", "Dec": "12",
}  # fmt: skip


def normalise_time(text: str) -> str:
    """Returns an HTTP date as ISO-8601 in UTC and seconds.

    Raises:
        ValueError, KeyError: It is none.
    """
    if len(text) == 29 and text.endswith(" GMT"):
        return f"{text[12:16]}-{_MONTHS[text[8:11]]}-{text[5:7]}T{text[17:25]}Z"
    return parsedate_to_datetime(text).strftime("%Y-%m-%dT%H:%M:%SZ")


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
    "BlobAlreadyExists": AlreadyExistsError,
    "ContainerAlreadyExists": AlreadyExistsError,
    "ServerBusy": ThrottledError,
    "Md5Mismatch": ChecksumMismatchError,
    "Crc64Mismatch": ChecksumMismatchError,
    "LeaseIdMissing": RequestRejectedError,
    "LeaseIdMismatchWithBlobOperation": RequestRejectedError,
    "PublicAccessNotPermitted": PermissionDeniedError,
}
"""Codes that say more than their status. Source: REST API reference, Blob service error codes."""
_ADVICE: Final = {
    "AuthenticationFailed": "check the account key or the SAS token, the clock of this machine, and that nothing between here and the "
    "store rewrites requests",
    "AuthorizationFailure": "check the account key, the SAS token, and the account's firewall",
    "AuthorizationPermissionMismatch": "the identity needs a role for data, as Storage Blob Data Reader or Contributor",
    "AuthorizationResourceTypeMismatch": "the SAS token is for other kinds of resources",
    "NoAuthenticationInformation": "set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING, or log in",
    "PublicAccessNotPermitted": "set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING, or log in",
    "ContainerNotFound": "check the names of the account and the container",
    "ContainerBeingDeleted": "it is gone within a minute",
    "BlobArchived": "it must be brought back from the archive tier first",
    "LeaseIdMissing": "somebody holds a lease on it",
    "SnapshotsPresent": "it has snapshots, which must be deleted first",
    "InvalidBlobType": "it is a page or append blob, which is replaced only whole, by one request; delete it first",
    "InvalidBlobOrBlock": "an unfinished upload by another program has parts of this name; Azure drops them after a week",
    "InvalidBlockList": "another upload to the same name has ended meanwhile",
}


def error_from_refusal(
    status: int, headers: Mapping[str, str], body: bytes, uri: str, attempts: int, is_token: bool = False
) -> S3dlioError:
    """Returns (never raises) the error that a refusal stands for.

    Args:
        status: The HTTP status; 2xx for an `<Error>` document sent as a success.
        headers: Names in lower case.
        body: The error document, or its beginning; empty for HEAD.
        uri: The object or container asked for.
        attempts: How many attempts were made.
        is_token: Whether a bearer token was sent: then 401 says that it has expired.
    """
    found, message, _ = parse_error(body.removeprefix(b"\xef\xbb\xbf"))
    code = headers.get("x-ms-error-code") or found
    code = clean(code)[:80] if code else None
    # The id and the time of the request stand behind every message, and the id in a header too.
    message = message.partition(" RequestId:")[0]
    parts = [f"{code}: {message}" if code and message else code or message or _phrase(status)]
    if code in _ADVICE:
        parts.append(_ADVICE[code])
    if 300 <= status < 400:
        parts.append("redirects are not followed; check the endpoint")
    kind = ExpiredCredentialsError if is_token and status == 401 else _classify(status, code, bool(body))
    return kind("; ".join(parts), uri=uri, attempts=attempts, status=status, request_id=headers.get("x-ms-request-id"))


def _classify(status: int, code: str | None, has_body: bool) -> type[S3dlioError]:
    if code in _OF_CODE:
        return _OF_CODE[code]
    if status in _OF_STATUS:
        return _OF_STATUS[status]
    if status == 503 and code is None and not has_body:
        return ThrottledError
    return ServerError if status >= 500 or status < 300 else RequestRejectedError


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "refused without a reason"
