"""A scripted server with the honest read semantics of an object store, over a dictionary, and faults by path.

Owns: GET and HEAD with ETag, ranges and If-Match as RFC 9110 and S3 have them. No listing, no writing, no signatures: for these
there are moto and rclone. It is strict where real servers are lax (a range gets 206, If-Match is obeyed), so that the version and
range cases can be tried at all.
"""

from __future__ import annotations

import re
import zlib
from urllib.parse import unquote

from .answers import Respond, s3_error
from .scripted_server import Handler, Request, ScriptedServer


class ObjectServer(ScriptedServer):
    """Serves `objects`; a path's next fault, where there is one, takes the place of its honest answer.

        server.objects["/bucket/key"] = data
        server.faults["/bucket/key"] = [reset_after(10), cut_after(5)]

    Attributes:
        objects: Percent-decoded path to bytes. Replacing the bytes makes a new ETag.
        faults: Percent-decoded path to handlers, each used for one request, in order.
        headers: Percent-decoded path to headers that come on top of (or in place of) the honest ones of 200 and 206.
    """

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, list[Handler]] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self._etags: dict[str, tuple[bytes, str]] = {}
        super().__init__(self._step, address)

    def requests_of(self, path: str) -> list[Request]:
        """Returns the requests for one percent-decoded path, in order of arrival."""
        return [request for request in list(self.requests) if unquote(request.path) == path]

    def etag(self, path: str) -> str:
        """Returns the quoted ETag of the object as it is now."""
        data = self.objects[path]
        known = self._etags.get(path)
        if known is None or known[0] is not data:
            known = self._etags[path] = (data, f'"{zlib.crc32(data):08x}{len(data):08x}"')
        return known[1]

    def honest(self, request: Request) -> Respond:
        """Returns what a correct store answers: 200, 206, 404, 412 or 416.

        Source: RFC 9110 §13.1.1 (If-Match), §14 (ranges); the API reference of GetObject.
        """
        path = unquote(request.path)
        if request.method not in ("GET", "HEAD"):
            return s3_error(405, "MethodNotAllowed")
        if path not in self.objects:
            return s3_error(404, "NoSuchKey")
        etag, data = self.etag(path), self.objects[path]
        if not _matches(request.headers.get("if-match"), etag):
            return s3_error(412, "PreconditionFailed")
        headers = {"ETag": etag, "Accept-Ranges": "bytes", "x-amz-request-id": f"REQUEST{len(self.requests)}"}
        return self._content(request.headers.get("range"), data, headers | self.headers.get(path, {}))

    def _content(self, asked: str | None, data: bytes, headers: dict[str, str]) -> Respond:
        span = parse_range(asked, len(data))
        if span is None:
            return Respond(200, headers, data)
        start, end = span
        if start >= end:
            return s3_error(416, "InvalidRange", {"Content-Range": f"bytes */{len(data)}"})
        return Respond(
            206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}, memoryview(data)[start:end]
        )

    def _step(self, request: Request) -> Handler:
        queue = self.faults.get(unquote(request.path))
        return queue.pop(0) if queue else self.honest(request)


def parse_range(asked: str | None, size: int) -> tuple[int, int] | None:
    """Returns the half-open byte range that a `Range` header asks of `size` bytes; None for the whole object.

    An unsatisfiable range comes back empty. A header that is not one plain byte range is ignored, as RFC 9110 §14.2 allows.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (asked or "").strip())
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    end = min(size, int(last) + 1) if last else size
    return int(first), max(int(first), end)


def _matches(if_match: str | None, etag: str) -> bool:
    if if_match is None or if_match.strip() == "*":
        return True
    # S3 takes the ETag with and without its quotes.
    return etag.strip('"') in [candidate.strip().strip('"') for candidate in if_match.split(",")]
