"""A scripted server that takes objects: PUT, HEAD and multipart uploads as the API reference has them, over a dictionary, and strictly.

Owns: create-only, metadata, the checksums and sizes that are told, parts, the end and the abort of an upload. Each request is carried out
at once and alone, so that two writers never meet in the middle; faults decide what then becomes of its answer.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote
from xml.etree import ElementTree as ET

from awscrt import checksums

from .answers import Respond, s3_error
from .scripted_server import Connection, Handler, Request, ScriptedServer

Fault = Callable[[Request], Handler | None]
"""Returns what happens to a request in place of an honest answer, or None for the honest answer."""
_SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_SUMS = {"crc64nvme": (checksums.crc64nvme, 8), "crc32c": (checksums.crc32c, 4)}


@dataclass
class Written:
    """An object that was written."""

    data: bytes
    metadata: dict[str, str]
    etag: str
    sums: dict[str, str] = field(default_factory=dict)
    """Checksum headers of the whole."""


@dataclass
class Pending:
    """An upload that was begun."""

    path: str
    metadata: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


class WriteServer(ScriptedServer):
    """Serves and takes `objects`, by percent-decoded path.

    Attributes:
        objects: What was written.
        uploads: By id, what was begun and neither ended nor aborted.
        faults: Asked in order for each request; the first that has something to say is heard.
        log: `PUT`, `PUT part 1`, `POST begin`, `POST end`, `DELETE upload`, `GET parts`, `HEAD`, one for each request, in order.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Written] = {}
        self.uploads: dict[str, Pending] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []
        super().__init__(self._step)

    def _step(self, request: Request) -> Handler:
        self.log.append(name_of(request))
        for fault in self.faults:
            found = fault(request)
            if found is not None:
                return found
        return self.carry_out(request)

    def carry_out(self, request: Request) -> Respond:
        """Does what a request asks for, and returns the answer."""
        path = unquote(request.path)
        kind = name_of(request).split()[:2]
        if kind == ["HEAD"]:
            return self._head(path)
        if kind == ["POST", "begin"]:
            return self._begin(path, request)
        query = parse_qs(request.query)
        if "uploadId" not in query:
            return self._put(path, request)
        upload = self.uploads.get(query["uploadId"][0])
        if upload is None:
            return s3_error(404, "NoSuchUpload")
        if kind == ["PUT", "part"]:
            return refuse_sums(request) or self._put_part(upload, int(query["partNumber"][0]), request)
        if kind == ["DELETE", "upload"]:
            del self.uploads[query["uploadId"][0]]
            return Respond(204)
        if kind == ["GET", "parts"]:
            return _document("<ListPartsResult/>")
        return self._end(query["uploadId"][0], upload, request)

    def _head(self, path: str) -> Respond:
        found = self.objects.get(path)
        if found is None:
            return s3_error(404, "NoSuchKey")
        headers = {"Content-Length": str(len(found.data)), "ETag": found.etag, **found.sums}
        return Respond(200, headers | {f"x-amz-meta-{name}": value for name, value in found.metadata.items()})

    def _put(self, path: str, request: Request) -> Respond:
        refused = refuse_sums(request) or self._refuse_existing(path, request)
        if refused is not None:
            return refused
        etag = f'"{hashlib.md5(request.body).hexdigest()}"'
        self.objects[path] = Written(request.body, _metadata(request), etag, sums_told(request))
        return Respond(200, {"ETag": etag})

    def _refuse_existing(self, path: str, request: Request) -> Respond | None:
        is_refused = request.headers.get("if-none-match") == "*" and path in self.objects
        return s3_error(412, "PreconditionFailed") if is_refused else None

    def _begin(self, path: str, request: Request) -> Respond:
        upload_id = f"upload{len(self.log)}"
        self.uploads[upload_id] = Pending(path, _metadata(request))
        return _document(f"<InitiateMultipartUploadResult {_SPACE}><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>")

    def _put_part(self, upload: Pending, number: int, request: Request) -> Respond:
        upload.parts[number] = request.body
        return Respond(200, {"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})

    def _end(self, upload_id: str, upload: Pending, request: Request) -> Respond:
        root = ET.fromstring(request.body)
        space = root.tag[: root.tag.rfind("}") + 1]
        data = b""
        for part in root.iterfind(f"{space}Part"):
            held = upload.parts.get(int(part.findtext(f"{space}PartNumber") or 0))
            if held is None or part.findtext(f"{space}ETag") != f'"{hashlib.md5(held).hexdigest()}"':
                return s3_error(400, "InvalidPart")
            data += held
        told = sums_told(request)
        if request.headers.get("x-amz-mp-object-size", str(len(data))) != str(len(data)):
            return s3_error(400, "InvalidRequest")
        if any(value != sum_of(name.removeprefix("x-amz-checksum-"), data) for name, value in told.items()):
            return s3_error(400, "BadDigest")
        refused = self._refuse_existing(upload.path, request)
        if refused is not None:
            return refused
        del self.uploads[upload_id]
        etag = f'"{hashlib.md5(data).hexdigest()}-{len(upload.parts)}"'
        self.objects[upload.path] = Written(data, upload.metadata, etag, told)
        return _document(f"<CompleteMultipartUploadResult {_SPACE}><ETag>{etag}</ETag></CompleteMultipartUploadResult>")


def name_of(request: Request) -> str:
    """Returns what a request asks for, as `WriteServer.log` has it."""
    query = parse_qs(request.query, keep_blank_values=True)
    if "partNumber" in query:
        return f"PUT part {query['partNumber'][0]}"
    if "uploads" in query:
        return "POST begin"
    if "uploadId" in query:
        return {"POST": "POST end", "DELETE": "DELETE upload", "GET": "GET parts"}[request.method]
    return request.method


def lost(server: WriteServer, name: str, times: int = 1) -> Fault:
    """Carries the next requests of a kind out, and breaks the connection instead of answering."""
    return _next(name, times, lambda request: (server.carry_out(request), _reset)[1])


def answered(name: str, answer: Handler, times: int = 1) -> Fault:
    """Gives the next requests of a kind `answer`, and does nothing."""
    return _next(name, times, lambda _: answer)


def _next(name: str, times: int, handler: Callable[[Request], Handler]) -> Fault:
    left = [times]

    def fault(request: Request) -> Handler | None:
        if left[0] and re.fullmatch(name, name_of(request)):
            left[0] -= 1
            return handler(request)
        return None

    return fault


def _reset(_request: Request, connection: Connection) -> None:
    connection.reset()


def sum_of(algorithm: str, data: bytes) -> str:
    """Returns a checksum as a header has it."""
    function, num_bytes = _SUMS[algorithm]
    return base64.b64encode(function(data).to_bytes(num_bytes, "big")).decode()


def sums_told(request: Request) -> dict[str, str]:
    """Returns the checksum headers of a request."""
    known = [f"x-amz-checksum-{algorithm}" for algorithm in _SUMS]
    return {name: request.headers[name] for name in known if name in request.headers}


def refuse_sums(request: Request) -> Respond | None:
    """Returns the refusal of a body that is not what its request says of it."""
    told = request.headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    if told != "UNSIGNED-PAYLOAD" and told != hashlib.sha256(request.body).hexdigest():
        return s3_error(400, "XAmzContentSHA256Mismatch")
    for name, value in sums_told(request).items():
        if value != sum_of(name.removeprefix("x-amz-checksum-"), request.body):
            return s3_error(400, "BadDigest")
    return None


def _metadata(request: Request) -> dict[str, str]:
    return {name.removeprefix("x-amz-meta-"): value for name, value in request.headers.items() if name.startswith("x-amz-meta-")}


def _document(body: str) -> Respond:
    return Respond(200, {"Content-Type": "application/xml"}, f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode())
