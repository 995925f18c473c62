"""The program behind `GcsServer`: gcp-storage-emulator, with what it lacks of Google's documented answers put on top.

It stores, finds, lists and sums; what is added here is only what a client needs in order to be exact, each by its page of the
documentation of the JSON API: keep-alive connections served side by side, the headers of a media answer, generations and preconditions,
ranges beyond the end, decompressive transcoding, pages of listings, and error documents. Run as a script, never imported.
"""

from __future__ import annotations

import gzip
import json
import sys
import threading
from email.message import Message
from email.parser import BytesParser
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.storage import Storage

_MAX_RESULTS = 1000
_REASONS = {400: "invalid", 404: "notFound", 409: "conflict", 412: "conditionNotMet", 416: "requestedRangeNotSatisfiable"}
_lock = threading.Lock()
"""Held for each request: the emulator is made for one at a time."""


def _first(request: Any, name: str) -> str | None:
    values = request.query.get(name)
    return values[0] if values else None


def _refuse(response: Any, status: int, text: str) -> None:
    response.status = HTTPStatus(status)
    details = [{"domain": "global", "reason": _REASONS[status], "message": text}]
    response.json({"error": {"code": status, "message": text, "errors": details}})


def _live_object(storage: Any, bucket: str, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = storage.objects.get(bucket, {}).get(name)
    return found


def _is_refused(request: Any, response: Any, storage: Any, bucket: str, name: str) -> bool:
    """Holds a request against `generation` and `ifGenerationMatch`. Source: "Request preconditions"."""
    if bucket not in storage.buckets:
        _refuse(response, 404, "The specified bucket does not exist.")
        return True
    found = _live_object(storage, bucket, name)
    generation, wanted = _first(request, "generation"), _first(request, "ifGenerationMatch")
    if generation is not None and (found is None or found["generation"] != generation):
        _refuse(response, 404, f"No such object: {bucket}/{name}")
        return True
    if wanted is not None and wanted != (found["generation"] if found else "0"):
        # A read of nothing is a 404, whatever its condition says.
        if request.method == "GET" and found is None:
            _refuse(response, 404, f"No such object: {bucket}/{name}")
        else:
            _refuse(response, 412, "At least one of the pre-conditions you specified did not hold.")
        return True
    return False


def _download(request: Any, response: Any, storage: Any, *_: Any) -> None:
    """Sends the bytes of an object. Source: objects.get with alt=media; "Transcoding of gzip-compressed files"."""
    bucket, name = request.params["bucket_name"], request.params["object_id"]
    if _is_refused(request, response, storage, bucket, name):
        return
    found = _live_object(storage, bucket, name)
    if found is None:
        response.status = HTTPStatus.NOT_FOUND
        # Media requests are refused in plain text.
        response.write_file(f"No such object: {bucket}/{name}", "text/html; charset=UTF-8")
        return
    data = storage.get_file(bucket, name)
    encoding = found.get("contentEncoding")
    response["X-Goog-Generation"] = found["generation"]
    response["X-Goog-Metageneration"] = found["metageneration"]
    response["X-Goog-Hash"] = f"crc32c={found['crc32c']},md5={found['md5Hash']}"
    response["X-Goog-Stored-Content-Encoding"] = encoding or "identity"
    response["X-Goog-Stored-Content-Length"] = str(len(data))
    response["X-Goog-Storage-Class"] = found["storageClass"]
    response["ETag"] = f'"{found["etag"]}"'
    response["Last-Modified"] = formatdate(0, usegmt=True)
    if encoding == "gzip" and "gzip" not in (request.get_header("Accept-Encoding") or ""):
        # The range is passed over: the whole object comes, and the hash stays that of the stored bytes.
        response["Warning"] = "214 UploadServer gunzipped"
        response.write_file(gzip.decompress(data), found["contentType"])
        return
    if encoding:
        response["Content-Encoding"] = encoding
    _send_range(request, response, data, found["contentType"])


def _send_range(request: Any, response: Any, data: bytes, content_type: str) -> None:
    start, dash, end = (request.get_header("Range") or "").removeprefix("bytes=").partition("-")
    if dash:
        if int(start) >= len(data):
            _refuse(response, 416, "Request range not satisfiable")
            response["Content-Range"] = f"bytes */{len(data)}"
            return
        stop = min(int(end) + 1, len(data)) if end else len(data)
        response["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        response.status = HTTPStatus.PARTIAL_CONTENT
        data = data[int(start) : stop]
    response.write_file(data, content_type)


def _list(request: Any, response: Any, storage: Any, *_: Any) -> None:
    """Sends a page of a listing. Source: objects.list; `maxResults` counts items and prefixes together."""
    bucket = request.params["bucket_name"]
    if bucket not in storage.buckets:
        _refuse(response, 404, "The specified bucket does not exist.")
        return
    files, prefixes = storage.get_file_list(bucket, _first(request, "prefix"), _first(request, "delimiter"))
    found = sorted([(file["name"], file) for file in files] + [(prefix, None) for prefix in prefixes])
    behind = _first(request, "pageToken")
    left = [entry for entry in found if behind is None or entry[0] > behind]
    num = min(int(_first(request, "maxResults") or _MAX_RESULTS), _MAX_RESULTS)
    page: dict[str, Any] = {"kind": "storage#objects"}
    # Google leaves out what is empty.
    if items := [file for _, file in left[:num] if file is not None]:
        page["items"] = items
    if names := [name for name, file in left[:num] if file is None]:
        page["prefixes"] = names
    if len(left) > num:
        page["nextPageToken"] = left[num - 1][0]
    response.json(page)


def _insert(request: Any, response: Any, storage: Any, *_: Any) -> None:
    """Takes an upload, unless its precondition fails; that of a resumable one is looked at again when it is complete."""
    name = _first(request, "name")
    if name is None and _first(request, "uploadType") == "multipart":
        name = request.data["meta"].get("name")
    elif name is None and request.data:
        name = json.loads(request.data)["name"] if isinstance(request.data, bytes) else request.data.get("name")
    if not _is_refused(request, response, storage, request.params["bucket_name"], name or ""):
        objects.insert(request, response, storage)


def _upload_partial(request: Any, response: Any, storage: Any, *_: Any) -> None:
    upload_id = _first(request, "upload_id")
    _, dash, total = (request.get_header("Content-Range") or "").rpartition("/")
    is_last = not dash or total.isdigit()
    if upload_id in _finished:
        # A session that is complete says so again. Source: "Resumable uploads", "Check the status".
        response.json(_finished[upload_id])
        return
    if is_last and upload_id in storage.resumable:
        about = storage.resumable[upload_id]
        given = (request.get_header("X-Goog-Hash") or "").removeprefix("crc32c=")
        if given:
            about["crc32c"] = given
        if _is_refused(request, response, storage, about["bucket"], about["name"]):
            return
    objects.upload_partial(request, response, storage)
    if response.status == 200 and upload_id is not None:
        _finished[upload_id] = json.loads(response._content)
    elif response.status == 308 and not storage.get_resumable_byte_count(upload_id):
        del response._headers["Range"]  # of nothing there is no range


_finished: dict[str, Any] = {}


def _conditional(handler: Any, prefix: str = "") -> Any:
    def handle(request: Any, response: Any, storage: Any, *_: Any) -> None:
        about = request.params
        if _is_refused(request, response, storage, about[f"{prefix}bucket_name"], about[f"{prefix}object_id"]):
            return
        handler(request, response, storage)
        if response.status == 404 and not response._content:
            _refuse(response, 404, f"No such object: {about['bucket_name']}/{about['object_id']}")

    return handle


_REPLACED: dict[Any, Any] = {
    objects.download: _download,
    objects.ls: _list,
    objects.insert: _insert,
    objects.upload_partial: _upload_partial,
    objects.delete: _conditional(objects.delete),
    objects.rewrite: _conditional(objects.rewrite, "dest_"),
    objects.get: _conditional(objects.get),
}


class _Part(Message):
    """Keeps what stands behind the type of an object, as `; charset=utf-8`."""

    def get_content_type(self) -> str:
        return str(self.get("Content-Type") or super().get_content_type())


class _Handler(server.RequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def _serve(self, method: str) -> None:
        with _lock:
            server.Router(self).handle(method)
        self.wfile.flush()

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def do_DELETE(self) -> None:
        self._serve("DELETE")


class _MemoryStorage(Storage):
    def _write_config_to_file(self) -> None:
        """Nothing outlives the process, and writing all metadata at each change would take longer each time."""

    def _object_path(self, bucket_name: str, file_name: str) -> str:
        """A key is no path: `a//b`, `a/` and `..` are names like others."""
        return f"{bucket_name}/{self.safe_id(file_name)}"


class _Server(ThreadingHTTPServer):
    """Takes as many connections at once as a client may open; of five at once, as it comes, the rest would wait for seconds."""

    request_queue_size = 1024


def main() -> None:
    """Serves until stdin ends."""
    server.HANDLERS = tuple(
        (pattern, {method: _REPLACED.get(handler, handler) for method, handler in handlers.items()})
        for pattern, handlers in server.HANDLERS
    )
    server.BytesParser = partial(BytesParser, _Part)
    objects.download = _download
    httpd = _Server(("127.0.0.1", 0), partial(_Handler, _MemoryStorage(use_memory_fs=True)))
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    print("READY", httpd.server_port, flush=True)  # noqa: T201 (what the test waits for)
    sys.stdin.read()


main()
