"""What S3 says of objects beyond what reading them needs: classes of storage, restores from an archive, ETags as they are written.

Rules:

* Nothing is made up: what the store does not say is None, where `s3_ops.py` says what it means by that.
* A page is whole or an error, as in `s3_xml.py`.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

import msgspec

from ..errors import ProtocolError
from ..fetch.http1 import ResponseHead
from ..fetch.sigv4 import Headers
from ..text import clean
from ..types import ObjectDetails, Restore
from .s3_xml import iso_of_http, normalise_time, open_document, read_prefixes, read_token

WITH_RESTORES: Final[Headers] = (("x-amz-optional-object-attributes", "RestoreStatus"),)
"""Has a listing say which objects are being restored; a server that does not know it leaves that out.

Source: API reference, ListObjectsV2.
"""
_RESTORE: Final = re.compile(r'ongoing-request="(true|false)"(?:, *expiry-date="([^"]{1,64})")?')


class DetailsPage(msgspec.Struct, frozen=True):
    """One page of a listing, in the order of the store."""

    objects: list[ObjectDetails]
    prefixes: list[str]
    """Keys up to the first delimiter behind the prefix that was asked for, with it."""
    next_token: str | None
    """What the next page is asked by; None on the last."""


def parse_details_page(body: bytes, bucket_root: str) -> DetailsPage:
    """Returns one ListObjectsV2 page; costs 9 us per key on a page of 1000 keys.

    Args:
        body: As of `parse_list_page`.
        bucket_root: For errors.

    Raises:
        ProtocolError, S3dlioError: As `parse_list_page`.
    """
    root, space = open_document(body, "ListBucketResult", bucket_root)
    is_encoded = root.findtext(space + "EncodingType") == "url"
    try:
        objects = [_read_object(item, space, is_encoded) for item in root.iterfind(space + "Contents")]
        prefixes = read_prefixes(root, space, "", is_encoded)
    except ValueError as error:
        raise ProtocolError(f"the listing is malformed: {clean(str(error))}", uri=bucket_root) from None
    return DetailsPage(objects, prefixes, read_token(root, space, bucket_root))


def _read_object(item: ET.Element, space: str, is_encoded: bool) -> ObjectDetails:
    find = item.findtext
    key, size_text = find(space + "Key"), find(space + "Size")
    if not key or size_text is None:
        raise ValueError(f"an entry has no {'Size' if key else 'Key'}")
    size = int(size_text)
    if size < 0:
        raise ValueError(f"an entry has size {size}")
    if is_encoded and ("%" in key or "+" in key):
        key = unquote_plus(key, errors="strict")
    modified, restore = find(space + "LastModified"), item.find(space + "RestoreStatus")
    return ObjectDetails(
        key,
        size,
        find(space + "ETag"),
        normalise_time(modified) if modified else None,
        find(space + "StorageClass") or None,
        None if restore is None else _read_restore(restore, space),
    )


def _read_restore(element: ET.Element, space: str) -> Restore:
    until = element.findtext(space + "RestoreExpiryDate")
    return Restore(element.findtext(space + "IsRestoreInProgress") == "true", normalise_time(until) if until else None)


def details_of_head(key: str, head: ResponseHead, uri: str) -> ObjectDetails:
    """Returns what the head of an answer to HEAD says.

    Raises:
        ProtocolError: It gives no size.
    """
    if head.length is None:
        raise ProtocolError("the answer to HEAD has no Content-Length", uri=uri, status=head.status)
    get = head.get
    found = _RESTORE.match(get(b"x-amz-restore") or "")
    restore = None if found is None else Restore(found[1] == "true", iso_of_http(found[2]))
    return ObjectDetails(
        key, head.length, get(b"etag"), iso_of_http(get(b"last-modified")), get(b"x-amz-storage-class") or None, restore
    )
