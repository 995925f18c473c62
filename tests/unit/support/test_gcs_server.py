"""The emulator of the tests keeps what Google documents; what is wrong here would be wrong in every test of gs://."""

from __future__ import annotations

import gzip
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message

import pytest

from tests.support.gcs_server import GcsServer


def ask(
    server: GcsServer, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> tuple[int, Message, bytes]:
    request = urllib.request.Request(server.endpoint.url + target, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


@pytest.fixture
def bucket(gcs: GcsServer) -> str:
    return gcs.endpoint.new_bucket()


def test_a_read_names_its_generation_and_honours_conditions(gcs: GcsServer, bucket: str) -> None:
    blob = gcs.endpoint.bucket(bucket).blob("a/key")
    blob.upload_from_string(b"0123456789", retry=None)
    target = f"/storage/v1/b/{bucket}/o/a%2Fkey?alt=media"
    status, headers, body = ask(gcs, "GET", target, {"Range": "bytes=2-4"})
    assert (status, body, headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    assert headers["X-Goog-Generation"] == str(blob.generation)
    assert headers["X-Goog-Hash"].startswith(f"crc32c={blob.crc32c}")
    assert ask(gcs, "GET", f"{target}&ifGenerationMatch={blob.generation}")[0] == 200
    assert ask(gcs, "GET", f"{target}&ifGenerationMatch=7")[0] == 412
    assert ask(gcs, "GET", f"{target}&generation=7")[0] == 404
    assert ask(gcs, "GET", target, {"Range": "bytes=10-"})[0] == 416


def test_what_is_gzip_comes_as_stored_only_to_those_who_take_gzip(gcs: GcsServer, bucket: str) -> None:
    packed = gzip.compress(b"text" * 100)
    blob = gcs.endpoint.bucket(bucket).blob("key")
    blob.content_encoding = "gzip"
    blob.upload_from_string(packed, retry=None)
    target = f"/storage/v1/b/{bucket}/o/key?alt=media"
    assert ask(gcs, "GET", target)[2] == b"text" * 100
    status, headers, body = ask(gcs, "GET", target, {"Accept-Encoding": "gzip"})
    assert (status, headers["Content-Encoding"], body) == (200, "gzip", packed)


def test_listings_come_in_pages(gcs: GcsServer, bucket: str) -> None:
    for key in ("a", "b/1", "b/2", "c"):
        gcs.endpoint.bucket(bucket).blob(key).upload_from_string(b"", retry=None)
    target = f"/storage/v1/b/{bucket}/o?delimiter=/&maxResults=2"
    first = json.loads(ask(gcs, "GET", target)[2])
    assert [item["name"] for item in first["items"]] == ["a"]
    assert first["prefixes"] == ["b/"]
    second = json.loads(ask(gcs, "GET", f"{target}&pageToken={first['nextPageToken']}")[2])
    assert [item["name"] for item in second["items"]] == ["c"]
    assert second.keys() & {"prefixes", "nextPageToken"} == set()


def test_a_resumable_upload_is_asked_for_its_state_and_stays_complete(gcs: GcsServer, bucket: str) -> None:
    begin = f"/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name=key&ifGenerationMatch=0"
    session = ask(gcs, "POST", begin, {"Content-Type": "application/json"}, b"{}")[1]["Location"].removeprefix(gcs.endpoint.url)
    status, headers, _ = ask(gcs, "PUT", session, {"Content-Range": "bytes */*"}, b"")
    assert (status, headers["Range"]) == (308, None)
    half = b"x" * (256 << 10)
    status, headers, _ = ask(gcs, "PUT", session, {"Content-Range": f"bytes 0-{len(half) - 1}/*"}, half)
    assert (status, headers["Range"]) == (308, f"bytes=0-{len(half) - 1}")
    for _ in range(2):
        status, _, body = ask(gcs, "PUT", session, {"Content-Range": f"bytes {len(half)}-{len(half)}/{len(half) + 1}"}, b"y")
        assert (status, json.loads(body)["size"]) == (200, str(len(half) + 1))
    assert gcs.endpoint.bucket(bucket).blob("key").download_as_bytes(retry=None) == half + b"y"
    assert ask(gcs, "POST", begin, {"Content-Type": "application/json"}, b"{}")[0] == 412
