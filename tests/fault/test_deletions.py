"""`delete(recursive=True)` on S3: by requests for many keys, side by side; every key that is left is told."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

import pytest

import s3dlio
from tests.support.answers import Respond, s3_error
from tests.support.scripted_server import Handler, Request, ScriptedServer


@pytest.fixture(params=["called", "awaited"])
def delete(request: pytest.FixtureRequest) -> Any:
    """The verb, called or awaited."""
    if request.param == "called":
        return s3dlio.delete
    return lambda *args, **kwargs: asyncio.run(s3dlio.delete_async(*args, **kwargs))


class Bucket:
    """A bucket behind a scripted server that lists its keys and deletes many of them, as the API reference has it."""

    def __init__(self, server: ScriptedServer, keys: list[str]) -> None:
        self.keys = set(keys)
        self.refused: set[str] = set()
        self.failures: list[Respond] = []
        """Answers to the next requests for many deletions."""
        self.batches: list[int] = []
        self._lock = threading.Lock()
        server.script = self._step

    def _step(self, request: Request) -> Handler:
        if request.method == "POST":
            with self._lock:
                return self.failures.pop(0) if self.failures else self._delete(request.body.decode())
        assert request.method == "GET"
        query = dict(parse_qsl(request.query))
        return self._list(query.get("prefix", ""), query.get("continuation-token", ""))

    def _delete(self, body: str) -> Respond:
        asked = re.findall(r"<Key>(.*?)</Key>", body)
        self.batches.append(len(asked))
        self.keys -= {*asked} - self.refused
        refused = [key for key in asked if key in self.refused]
        errors = "".join(f"<Error><Key>{escape(key)}</Key><Code>AccessDenied</Code><Message>locked</Message></Error>" for key in refused)
        gone = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in asked if key not in self.refused)
        return Respond(200, {"Content-Type": "application/xml"}, f"<DeleteResult>{gone}{errors}</DeleteResult>".encode())

    def _list(self, prefix: str, after: str) -> Respond:
        with self._lock:
            found = sorted(key for key in self.keys if key.startswith(prefix) and key > after)
        page = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>1</Size><ETag>e</ETag><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            for key in found[:1000]
        )
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{found[999]}</NextContinuationToken>" if len(found) > 1000 else ""
        return Respond(200, {"Content-Type": "application/xml"}, f"<ListBucketResult>{page}{more}</ListBucketResult>".encode())


def test_thousands_go_by_a_few_requests_and_siblings_stay(scripted: ScriptedServer, delete: Any) -> None:
    bucket = Bucket(scripted, [f"run1/{n:04d}" for n in range(2500)] + ["run1", "run10", "run1-/x"])
    delete("s3://bucket/run1", recursive=True)
    assert bucket.keys == {"run10", "run1-/x"}
    assert sorted(bucket.batches) == [501, 1000, 1000]


def test_keys_that_are_refused_are_counted_and_the_first_are_named_in_one_error(scripted: ScriptedServer, delete: Any) -> None:
    bucket = Bucket(scripted, [f"dir/{n:04d}" for n in range(1200)])
    bucket.refused = {f"dir/{n:04d}" for n in range(100, 109)}
    with pytest.raises(s3dlio.PermissionDeniedError) as raised:
        delete("s3://bucket/dir/", recursive=True)
    text = str(raised.value)
    assert "9 of 1200 objects were not deleted" in text
    assert len(re.findall(r"s3://bucket/dir/010\d: ", text)) == 5
    assert "and 4 more" in text
    assert raised.value.uri == "s3://bucket/dir/"
    assert bucket.keys == bucket.refused


def test_a_request_that_fails_as_a_whole_is_told_of_each_of_its_keys_and_the_others_go(scripted: ScriptedServer, delete: Any) -> None:
    bucket = Bucket(scripted, [f"dir/{n:04d}" for n in range(1500)])
    bucket.failures = [s3_error(400, "MalformedXML")]
    with pytest.raises(s3dlio.RequestRejectedError, match="of 1500 objects were not deleted"):
        delete("s3://bucket/dir/", recursive=True)
    assert len(bucket.keys) in {500, 1000}
    bucket.failures = [s3_error(503, "SlowDown")]
    delete("s3://bucket/", recursive=True)
    assert bucket.keys == set()


def test_a_listing_that_fails_is_an_error_and_no_quiet_end(scripted: ScriptedServer, delete: Any) -> None:
    scripted.then(*[s3_error(403, "AccessDenied")] * 2)
    with pytest.raises(s3dlio.PermissionDeniedError):
        delete("s3://bucket/dir/", recursive=True)
    with pytest.raises(s3dlio.PermissionDeniedError):
        delete("s3://bucket/dir/")
    assert [request.method for request in scripted.requests] == ["GET", "GET"]
