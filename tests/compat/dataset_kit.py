"""A bucket for tests of the data sets: contents that tell which object they are of, listings, and a log of what was asked for.

Owns: ListObjectsV2, on top of `ObjectServer`; pages as small as the test wants. Source: the API reference of ListObjectsV2.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

from tests.process.kit import content
from tests.support.answers import Respond
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import Handler, Request

REGION = "us-east-1"
BUCKET = "bucket"


class ListedServer(ObjectServer):
    """One bucket that can be listed.

    Attributes:
        page_size: Keys of a page at most.
        list_faults: Handlers that take the place of the next listings' honest answers; None for an honest one.
    """

    def __init__(self) -> None:
        self.page_size = 1000
        self.list_faults: list[Handler | None] = []
        super().__init__()

    def add(self, key: str, nbytes: int = 100) -> str:
        """Makes an object and returns its URI."""
        self.objects[f"/{BUCKET}/{key}"] = content(key, nbytes)
        return f"s3://{BUCKET}/{key}"

    def fill(self, count: int, nbytes: int = 100) -> list[str]:
        """Makes `count` objects below `o/` and returns their keys."""
        return [self.add(f"o/{index:04d}", nbytes).removeprefix(f"s3://{BUCKET}/") for index in range(count)]

    def data(self, key: str) -> bytes:
        return self.objects[f"/{BUCKET}/{key}"]

    def lists(self) -> list[Request]:
        """Returns the listings so far."""
        return [request for request in list(self.requests) if _is_listing(request)]

    def gets(self) -> list[str]:
        """Returns the keys of the GETs so far, in order of arrival."""
        return self._keys("GET")

    def heads(self) -> list[str]:
        """Returns the keys of the HEADs so far."""
        return self._keys("HEAD")

    def _keys(self, method: str) -> list[str]:
        found = [one for one in list(self.requests) if one.method == method and not _is_listing(one)]
        return [unquote(one.path).removeprefix(f"/{BUCKET}/") for one in found]

    def _step(self, request: Request) -> Handler:
        if not _is_listing(request):
            return super()._step(request)
        fault = self.list_faults.pop(0) if self.list_faults else None
        return fault or self._page(request)

    def _page(self, request: Request) -> Respond:
        asked = {name: values[0] for name, values in parse_qs(request.query, keep_blank_values=True).items()}
        prefix, after = asked.get("prefix", ""), asked.get("continuation-token", "")
        keys = sorted(path.removeprefix(f"/{BUCKET}/") for path in self.objects)
        left = [key for key in keys if key.startswith(prefix) and key > after]
        page = left[: min(self.page_size, int(asked.get("max-keys", "1000")))]
        spell = quote if asked.get("encoding-type") == "url" else escape
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(page) < len(left) else ""
        contents = "".join(
            f"<Contents><Key>{spell(key)}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
            f"<ETag>{escape(self.etag(f'/{BUCKET}/{key}'))}</ETag><Size>{len(self.data(key))}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key in page
        )
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{spell(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>1000</MaxKeys>"
            f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{contents}</ListBucketResult>"
        )
        return Respond(200, {"Content-Type": "application/xml"}, body.encode())


def _is_listing(request: Request) -> bool:
    return request.method == "GET" and "list-type" in request.query


def answered_after(server: ListedServer, num_gets: int) -> Handler:
    """Returns an answer that comes only when so many GETs have arrived: proof that they are under way together."""

    def handle(request: Request, connection: object) -> None:
        known = len(server.requests) - len(server.gets())
        server.wait_for_requests(known + num_gets)
        server.honest(request)(request, connection)  # type: ignore[arg-type]

    return handle


def key_and_data(reader: object) -> tuple[str, bytes]:
    """A transform that reads all."""
    return reader.key, bytes(reader.read())  # type: ignore[attr-defined]


def expected(server: ListedServer, keys: Iterable[str]) -> list[tuple[str, bytes]]:
    """Returns what `key_and_data` gives of these objects."""
    return [(key, server.data(key)) for key in keys]
