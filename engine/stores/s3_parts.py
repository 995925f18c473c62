"""The parts of an upload to S3, and the documents about them: what is asked, and what comes. Pure.

The rules of `s3_xml.py` hold. CompleteMultipartUpload is answered by 200 before anybody knows how it ends: success is what the document
says, and nothing else (case N12).

Source: API reference, CreateMultipartUpload, UploadPart, CompleteMultipartUpload.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from xml.sax.saxutils import escape

from ..errors import ProtocolError
from ..fetch.crc_combine import combine
from .s3_sums import encode_sum
from .s3_xml import open_document

_SPACE: Final = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


class Part(NamedTuple):
    """One part that the store has."""

    number: int
    """As the store counts: from 1."""
    etag: str
    """As the store gave it, with its quotes."""
    size: int
    value: int
    """Its checksum; of no meaning where there is none."""


class Parts(NamedTuple):
    """All parts of an object, in their order."""

    parts: Sequence[Part]
    algorithm: str | None
    """Of their checksums."""

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        return sum(part.size for part in self.parts)

    def whole_sum(self) -> int | None:
        """Returns the checksum of the whole, where the store takes one: CRC64NVME alone is never that of sums."""
        if self.algorithm != "crc64nvme":
            return None
        value = 0
        for part in self.parts:
            value = combine(self.algorithm, value, part.value, part.size)
        return value


def parts_document(parts: Parts) -> bytes:
    """Returns the request that an object be made of its parts."""
    entries = []
    for part in parts.parts:
        told = ""
        if parts.algorithm is not None:
            name = f"Checksum{parts.algorithm.upper()}"
            told = f"<{name}>{encode_sum(parts.algorithm, part.value)}</{name}>"
        entries.append(f"<Part>{told}<ETag>{escape(part.etag)}</ETag><PartNumber>{part.number}</PartNumber></Part>")
    return f"<CompleteMultipartUpload {_SPACE}>{''.join(entries)}</CompleteMultipartUpload>".encode()


def sdk_parts(parts: Parts) -> list[dict[str, Any]]:
    """Returns the same as botocore has it."""
    entries = []
    for part in parts.parts:
        entry: dict[str, Any] = {"ETag": part.etag, "PartNumber": part.number}
        if parts.algorithm is not None:
            entry[f"Checksum{parts.algorithm.upper()}"] = encode_sum(parts.algorithm, part.value)
        entries.append(entry)
    return entries


def parse_begun(body: bytes, uri: str) -> str:
    """Returns the id of the upload that was begun.

    Raises:
        ProtocolError, S3dlioError: As `open_document`; or there is none.
    """
    # The alias is rclone's.
    root, space = open_document(body, "InitiateMultipartUploadResult", uri, "InitiateMultipartUpload")
    upload_id = root.findtext(f"{space}UploadId")
    if not upload_id:
        raise ProtocolError("the answer to a new upload names no UploadId", uri=uri)
    return upload_id


def parse_ended(body: bytes, uri: str) -> str:
    """Returns the ETag of the object that was made, without quotes.

    Raises:
        ProtocolError, S3dlioError: As `open_document`; or there is no ETag, and so no object.
    """
    root, space = open_document(body, "CompleteMultipartUploadResult", uri)
    etag = root.findtext(f"{space}ETag")
    if not etag:
        raise ProtocolError("the answer to an upload's end names no ETag", uri=uri)
    return etag.strip('"')
