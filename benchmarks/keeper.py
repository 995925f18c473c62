"""An S3 server that keeps in memory what is put, for the rows of checkpoints: a process of its own, one thread a connection.

Owns: PUT, uploads in parts, GET with ranges and If-Match, HEAD, DELETE. It looks at no signature, as the static server does, and at those
checksums that a request tells: of a body while it comes, of an object from those of its parts, as S3 does. `GET /bucket/key?crc32`
answers with `<CRC-32> <bytes>` in decimals, so that what was written can be compared without its client.

Not rclone's, because s3torchconnector cannot write to that: asked to begin an upload, it answers with `<InitiateMultipartUpload>` where S3
says `<InitiateMultipartUploadResult>`; the AWS CRT finds no upload id there, and breaks off with "Request has already completed". And not
moto, which takes a second for what a client sends in a tenth of one.
"""

from __future__ import annotations

import base64
import itertools
import re
import socket
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as ET

import numpy as np
from awscrt import checksums

_MAX_HEAD_BYTES = 64 << 10


@dataclass(frozen=True)
class Sum:
    """A checksum that a request may tell."""

    add: Callable[[memoryview, int], int]
    """Goes on with the sum of what came before."""
    combine: Callable[[int, int, int], int]
    """Returns the sum of a followed by b, from both sums and the bytes of b."""
    num_bytes: int

    def is_told(self, text: str, value: int) -> bool:
        """Whether a header says so."""
        return text == base64.b64encode(value.to_bytes(self.num_bytes, "big")).decode()


_SUMS = {
    "x-amz-checksum-crc64nvme": Sum(checksums.crc64nvme, checksums.combine_crc64nvme, 8),
    "x-amz-checksum-crc32c": Sum(checksums.crc32c, checksums.combine_crc32c, 4),
}
"""By the header that tells it."""


@dataclass
class Request:
    """One request, its body included."""

    method: str
    path: str
    """Percent-decoded: `/bucket/key`."""
    query: dict[str, str]
    headers: dict[str, str]
    """By lower-case name."""
    body: memoryview
    sums: dict[str, int]
    """Of the body: those that the headers tell."""


@dataclass
class Answer:
    """What is sent back; `Content-Length` comes on top of the headers."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: list[memoryview] = field(default_factory=list)


@dataclass(frozen=True)
class Kept:
    """An object, as the pieces in which it came."""

    pieces: list[memoryview]
    etag: str
    sums: dict[str, int]
    """Those that were told with it."""

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(map(len, self.pieces))

    def cut(self, start: int, end: int) -> Iterator[memoryview]:
        """Yields the pieces of `[start, end)`."""
        at = 0
        for piece in self.pieces:
            cut = piece[max(0, start - at) : max(0, end - at)]
            if cut:
                yield cut
            at += len(piece)


class Keeper:
    """The objects and the uploads, safe for threads: each change is one step of a dictionary."""

    def __init__(self) -> None:
        self._objects: dict[str, Kept] = {}
        self._uploads: dict[str, dict[int, Kept]] = {}
        self._numbers = itertools.count(1)

    def answer(self, request: Request) -> Answer:
        """Carries one request out."""
        if request.method == "PUT" and not _is_as_told(request.headers, request.sums):
            return _refusal(400, "BadDigest")
        if "uploads" in request.query or "uploadId" in request.query:
            return self._answer_upload(request)
        if request.method == "PUT":
            kept = self._objects[request.path] = self._keep([request.body], request.sums)
            return Answer(200, {"ETag": kept.etag})
        if request.method == "DELETE":
            self._objects.pop(request.path, None)
            return Answer(204)
        found = self._objects.get(request.path)
        if found is None:
            return _refusal(404, "NoSuchKey")
        return _crc32(found) if "crc32" in request.query else _read(found, request)

    def _answer_upload(self, request: Request) -> Answer:
        if "uploads" in request.query:
            upload_id = f"upload{next(self._numbers)}"
            self._uploads[upload_id] = {}
            return _document("InitiateMultipartUploadResult", f"<UploadId>{upload_id}</UploadId>")
        upload_id = request.query["uploadId"]
        parts = self._uploads.get(upload_id)
        if parts is None:
            return _refusal(404, "NoSuchUpload")
        if request.method == "PUT":
            part = parts[int(request.query["partNumber"])] = self._keep([request.body], request.sums)
            return Answer(200, {"ETag": part.etag})
        if request.method == "POST":
            return self._complete(request, parts)
        del self._uploads[upload_id]
        return Answer(204)

    def _complete(self, request: Request, parts: dict[int, Kept]) -> Answer:
        """Makes an object of the parts that the request lists, in its order."""
        root = ET.fromstring(bytes(request.body))
        space = root.tag[: root.tag.rfind("}") + 1]
        listed: list[Kept] = []
        for part in root.iterfind(f"{space}Part"):
            found = parts.get(int(part.findtext(f"{space}PartNumber") or 0))
            # With its quotes or without, as S3 takes both.
            if found is None or (part.findtext(f"{space}ETag") or "").strip('"') != found.etag.strip('"'):
                return _refusal(400, "InvalidPart")
            listed.append(found)
        sums = {name: _combined(listed, name) for name in _SUMS if name in request.headers}
        if not _is_as_told(request.headers, sums):
            return _refusal(400, "BadDigest")
        kept = self._objects[request.path] = self._keep([piece for part in listed for piece in part.pieces], sums)
        del self._uploads[request.query["uploadId"]]
        return _document("CompleteMultipartUploadResult", f"<ETag>{kept.etag}</ETag>")

    def _keep(self, pieces: list[memoryview], sums: dict[str, int]) -> Kept:
        return Kept(pieces, f'"{next(self._numbers):032x}"', sums)


def _read(found: Kept, request: Request) -> Answer:
    if request.headers.get("if-match", found.etag) != found.etag:
        return _refusal(412, "PreconditionFailed")
    size = found.size
    headers = {"ETag": found.etag, "Accept-Ranges": "bytes", "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if asked is None:
        start, end, status = 0, size, 200
    else:
        start, end, status = int(asked[1]), min(size, int(asked[2] or size) + 1), 206
        if start >= size:
            return _refusal(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    if request.method == "HEAD":
        return Answer(status, headers | {"Content-Length": str(end - start)})
    return Answer(status, headers, list(found.cut(start, end)))


def _crc32(found: Kept) -> Answer:
    crc = 0
    for piece in found.pieces:
        crc = zlib.crc32(piece, crc)
    return Answer(200, body=[memoryview(f"{crc} {found.size}".encode())])


def _combined(parts: list[Kept], name: str) -> int:
    """Returns the checksum of all parts; of one that came without it, it is taken now."""
    of, total = _SUMS[name], 0
    for part in parts:
        value = part.sums.get(name)
        if value is None:
            value = of.add(part.pieces[0], 0)
        total = of.combine(total, value, part.size)
    return total


def _is_as_told(headers: dict[str, str], sums: dict[str, int]) -> bool:
    return all(_SUMS[name].is_told(headers[name], value) for name, value in sums.items())


def _document(root: str, inside: str) -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inside}</{root}>'
    return Answer(200, {"Content-Type": "application/xml"}, [memoryview(text.encode())])


def _refusal(status: int, code: str) -> Answer:
    text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return Answer(status, {"Content-Type": "application/xml"}, [memoryview(text.encode())])


def _serve_connection(keeper: Keeper, connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        held = b""
        while True:
            request, held = _receive(connection, held)
            if request is None:
                return
            _send(connection, keeper.answer(request), is_head=request.method == "HEAD")


def _receive(connection: socket.socket, held: bytes) -> tuple[Request | None, bytes]:
    """Returns the next request, and what came behind it; None at the end of the connection."""
    while (end := held.find(b"\r\n\r\n")) < 0:
        more = connection.recv(_MAX_HEAD_BYTES)
        if not more or len(held) > _MAX_HEAD_BYTES:
            return None, b""
        held += more
    first, *lines = held[:end].decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "transfer-encoding" in headers or "aws-chunked" in headers.get("content-encoding", ""):
        raise ValueError("bodies in chunks are not taken here")
    if "expect" in headers:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    # Not a bytearray: that writes zeros first.
    body = memoryview(np.empty(int(headers.get("content-length", 0)), np.uint8))
    rest = held[end + 4 :]
    filled = min(len(rest), len(body))
    body[:filled] = rest[:filled]
    sums = {name: of.add(body[:filled], 0) for name, of in _SUMS.items() if name in headers}
    while filled < len(body):
        received = connection.recv_into(body[filled:])
        if not received:
            return None, b""
        # At once, while the bytes are still in the cache.
        for name, value in sums.items():
            sums[name] = _SUMS[name].add(body[filled : filled + received], value)
        filled += received
    parts = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    return Request(method, unquote(parts.path), query, headers, body, sums), rest[len(body) :]


def _send(connection: socket.socket, answer: Answer, *, is_head: bool) -> None:
    headers = {
        "Content-Length": str(sum(map(len, answer.body))),
        "Server": "keeper",
        "x-amz-request-id": "0",
    } | answer.headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection.sendall(f"HTTP/1.1 {answer.status} Of\r\n{lines}\r\n".encode())
    if not is_head:
        for piece in answer.body:
            connection.sendall(piece)


def main(port: int) -> None:
    """Serves on loopback until it is killed."""
    keeper = Keeper()
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve_connection, args=(keeper, connection), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
