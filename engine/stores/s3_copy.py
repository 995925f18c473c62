"""Copies within S3 of objects that are too long for one request: in parts, each of which the store copies by itself.

Rules:

* All parts are of one version of the source, by `x-amz-copy-source-if-match`; another is an `ObjectChangedError`, and nothing is visible.
* What a copy by one request keeps is kept here too: type, encoding and the like, and metadata. Tags are not, since they would take
  another permission.

Source: API reference, UploadPartCopy; "Copying an object using multipart upload", Amazon S3 User Guide.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from ..errors import NotFoundError, ProtocolError, S3dlioError
from ..fetch.http1 import ResponseHead
from ..fetch.sigv4 import Headers
from .base import Operation
from .s3_parts import Part, Parts, parse_begun, parse_ended
from .s3_rare_xml import read_copied
from .s3_upload import abort_wholly
from .s3_write import WRITE_ID, new_write_id

if TYPE_CHECKING:
    from .s3_rare import S3RareOperations

_log = logging.getLogger("s3dlio")
MAX_COPY_BYTES: Final = 5 << 30
"""What one CopyObject takes. Source: API reference, CopyObject."""
_PART_BYTES: Final = 256 << 20
"""A few seconds of the store's time, well within `first_byte_timeout_s`."""
_MAX_PARTS: Final = 10_000
_KEPT: Final = ("cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires")
_METADATA: Final = b"x-amz-meta-"


def copy_in_parts(
    lane: S3RareOperations, key: str, source_bucket: str, source_key: str, head: ResponseHead, part_bytes: int = _PART_BYTES
) -> Operation[None]:
    """Copies an object.

    Args:
        lane: Of the bucket that it goes to.
        key: The copy's.
        source_bucket: Where the object is.
        source_key: Its key.
        head: What a HEAD said of it.
        part_bytes: Of each part but the last; more where there would be too many.

    Raises:
        ObjectChangedError: The source is another version now.
        S3dlioError: As the store says. Nothing of the copy is visible, and its parts are thrown away.
    """
    size, uri = head.length, lane.root + key
    if not size or head.etag is None:
        raise ProtocolError("the store says neither size nor version of what is to be copied", uri=f"s3://{source_bucket}/{source_key}")
    write_id = new_write_id()
    begun: list[str] = []
    yield from lane.begin_parts(key, _kept(head, write_id), lambda document: begun.append(parse_begun(document, uri)))
    upload_id = begun[-1]
    part_bytes = max(part_bytes, -(-size // _MAX_PARTS))
    etags: list[str] = []
    parts: list[Part] = []
    try:
        for number, start in enumerate(range(0, size, part_bytes), 1):
            end = min(size, start + part_bytes)
            take = partial(_take_part, etags, uri)
            yield from lane.copy_part(key, upload_id, number, (source_bucket, source_key), (start, end), head.etag, take)
            parts.append(Part(number, etags[-1], end - start, 0))
        yield from _end(lane, key, upload_id, Parts(parts, None), write_id)
    except GeneratorExit:
        raise  # nobody drives it any more
    except BaseException:
        try:
            yield from abort_wholly(lane, key, upload_id)
        except S3dlioError as error:
            _log.warning("the parts of a copy to %s could not be thrown away; `s3dlio cleanup` does: %s", uri, str(error))
        raise


def _take_part(etags: list[str], uri: str, document: bytes) -> None:
    etags.append(read_copied(document, "CopyPartResult", uri))


def _end(lane: S3RareOperations, key: str, upload_id: str, parts: Parts, write_id: str) -> Operation[None]:
    """Has the copy made of its parts; an answer that was lost is found out by the id that the copy bears (case U4)."""
    try:
        yield from lane.end_parts(key, upload_id, parts, (), lambda document: _check_ended(document, lane.root + key))
    except S3dlioError as error:
        if not (error.retryable or isinstance(error, NotFoundError)) or not (yield from lane.has_written(key, write_id, error)):
            raise


def _check_ended(document: bytes, uri: str) -> None:
    parse_ended(document, uri)


def _kept(head: ResponseHead, write_id: str) -> Headers:
    """Returns what the copy is to have of the source."""
    found = {name: value for name in _KEPT if (value := head.get(name.encode()))}
    # As it came: what is no ASCII is bytes of UTF-8 on the wire.
    metadata = {name: text for name, text in head.headers.items() if name.startswith(_METADATA)}
    found |= {name.decode("latin-1"): text.decode("utf-8", "replace") for name, text in metadata.items()}
    return tuple((found | {WRITE_ID: write_id}).items())
