"""The XML of rare requests to S3: what is sent with them, and what their answers say. Never touches a socket.

The rules of `s3_xml.py` hold. An answer is the document that was asked for, or an error: S3 sends 200 before it knows how a copy ends,
and an `<Error>` in place of the result (case N12).

Source: API reference, DeleteObjects, CopyObject, CreateBucket, ListBuckets, ListMultipartUploads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_plus
from xml.sax.saxutils import escape

import msgspec

from ..errors import ProtocolError, S3dlioError
from ..text import clean
from ..types import Container, PendingUpload
from .s3_xml import Refusal, error_from_refusal, normalise_time, open_document

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_SPACE: Final = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
# XML folds a bare carriage return into a line feed.
_ESCAPED: Final = {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
_has_no_xml: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]").search
"""Characters that no XML 1.0 document can hold, not even escaped. Source: XML 1.0, production 2."""
_STATUS_OF_CODE: Final = {"AccessDenied": 403, "NoSuchKey": 404, "NoSuchBucket": 404, "InternalError": 500, "ServiceUnavailable": 503}
"""The status that a code comes with where the request is about one object alone; 400 for all others."""


def fits_xml(key: str) -> bool:
    """Whether a document can name the key."""
    return _has_no_xml(key) is None


def deletions_document(keys: Iterable[str]) -> bytes:
    """Returns the request for the deletion of `keys`, 1000 at most, each of which `fits_xml`; all are reported, the deleted too."""
    objects = "".join([f"<Object><Key>{escape(key, _ESCAPED)}</Key></Object>" for key in keys])
    return f"<Delete {_SPACE}>{objects}</Delete>".encode()


def parse_deletions(body: bytes, bucket_root: str) -> dict[str, S3dlioError | None]:
    """Returns what became of each key that the answer names: None if it is gone.

    Raises:
        ProtocolError, S3dlioError: As `open_document`.
    """
    root, space = open_document(body, "DeleteResult", bucket_root)
    found: dict[str, S3dlioError | None] = {}
    for item in root.iterfind(f"{space}Deleted"):
        found[item.findtext(f"{space}Key") or ""] = None
    for item in root.iterfind(f"{space}Error"):
        key = item.findtext(f"{space}Key") or ""
        found[key] = _read_refusal(item, space, bucket_root + key)
    return found


def _read_refusal(item: Element, space: str, uri: str) -> S3dlioError | None:
    code = clean(item.findtext(f"{space}Code") or "")
    if code == "NoSuchKey":
        return None
    message = clean(" ".join((item.findtext(f"{space}Message") or "").split()))
    error = error_from_refusal(Refusal(_STATUS_OF_CODE.get(code, 400), code or None, message, {}), uri, 1)
    # What the answer as a whole came with.
    error.status = 200
    return error


def read_copied(body: bytes, name: str, uri: str) -> str:
    """Returns the ETag that the answer to a copy gives, which is a document of this name, with its quotes.

    Raises:
        ProtocolError, S3dlioError: As `open_document`; or there is no ETag, and so no object.
    """
    root, space = open_document(body, name, uri)
    etag = root.findtext(f"{space}ETag")
    if not etag:
        raise ProtocolError("the answer to a copy names no ETag", uri=uri)
    return etag


def check_copied(body: bytes, uri: str) -> None:
    """Raises what the answer to a copy says, unless that is success.

    Raises:
        ProtocolError, S3dlioError: As `read_copied`.
    """
    read_copied(body, "CopyObjectResult", uri)


def bucket_document(region: str) -> bytes:
    """Returns what the request for a new bucket says of its region: nothing for us-east-1, which has no name here."""
    if region in ("us-east-1", "aws-global"):
        return b""
    constraint = f"<LocationConstraint>{escape(region)}</LocationConstraint>"
    return f"<CreateBucketConfiguration {_SPACE}>{constraint}</CreateBucketConfiguration>".encode()


class BucketsPage(msgspec.Struct, frozen=True):
    """One page of the buckets of an account."""

    buckets: list[Container]
    next_token: str | None
    """None on the last page."""


def parse_buckets(body: bytes) -> BucketsPage:
    """Returns one ListBuckets page.

    Raises:
        ProtocolError, S3dlioError: As `open_document`; or a bucket has no name.
    """
    root, space = open_document(body, "ListAllMyBucketsResult", "s3://")
    found = []
    for item in root.iterfind(f"{space}Buckets/{space}Bucket"):
        name = item.findtext(f"{space}Name")
        if not name:
            raise ProtocolError("a bucket of the list has no name", uri="s3://")
        found.append(Container(name, f"s3://{name}/", _time(item.findtext(f"{space}CreationDate"), "s3://")))
    return BucketsPage(found, root.findtext(f"{space}ContinuationToken") or None)


class UploadsPage(msgspec.Struct, frozen=True):
    """One page of the multipart uploads that were begun in a bucket and not ended."""

    uploads: list[PendingUpload]
    next_markers: tuple[str, str] | None
    """`key-marker` and `upload-id-marker` of the next page; None on the last."""


def parse_uploads(body: bytes, bucket_root: str) -> UploadsPage:
    """Returns one ListMultipartUploads page.

    Raises:
        ProtocolError, S3dlioError: As `open_document`; or an upload has no key, id or date, or the page says that another one follows
            and not which.
    """
    root, space = open_document(body, "ListMultipartUploadsResult", bucket_root)
    is_encoded = root.findtext(f"{space}EncodingType") == "url"

    def read(element: Element, name: str) -> str:
        text = element.findtext(space + name) or ""
        return unquote_plus(text, errors="strict") if is_encoded and "Key" in name else text

    uploads = []
    try:
        for item in root.iterfind(f"{space}Upload"):
            key, upload_id, begun = read(item, "Key"), read(item, "UploadId"), _time(read(item, "Initiated"), bucket_root)
            if not key or not upload_id or begun is None:
                raise ProtocolError("an upload of the list has no key, no id or no date", uri=bucket_root)
            uploads.append(PendingUpload(bucket_root + key, key, upload_id, begun))
        markers = read(root, "NextKeyMarker"), read(root, "NextUploadIdMarker")
    except UnicodeDecodeError:
        raise ProtocolError("the list of uploads holds a key that is not UTF-8", uri=bucket_root) from None
    if root.findtext(f"{space}IsTruncated") != "true":
        return UploadsPage(uploads, None)
    if not markers[0]:
        raise ProtocolError("the list of uploads goes on, but does not say where", uri=bucket_root)
    return UploadsPage(uploads, markers)


def _time(text: str | None, uri: str) -> str | None:
    try:
        return normalise_time(text) if text else None
    except ValueError:
        raise ProtocolError(f"{clean(text or '')!r} is no date", uri=uri) from None
