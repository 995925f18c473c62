"""Requests to Google's JSON API to the byte, and what refusals and documents mean."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from s3dlio.engine import errors
from s3dlio.engine.fetch.http1 import parse_head
from s3dlio.engine.stores.gcs_config import GcsSpec
from s3dlio.engine.stores.gcs_errors import ResumeIncompleteError
from s3dlio.engine.stores.gcs_json import read_buckets, read_object, read_page, read_rewrite
from s3dlio.engine.stores.gcs_wire import GcsWire

HOST = "storage.googleapis.com"
SPEC = GcsSpec(root="gs://bucket/", scheme="https", host=HOST, port=443, host_header=HOST, path_prefix="")
IDENTIFIED = GcsSpec(
    root="gs://bucket/", scheme="http", host="h", port=1, host_header="h:1", path_prefix="/base",
    headers=(("authorization", "Bearer CANARY"), ("x-goog-user-project", "payer")), expires_at_s=5.0, source="a key file",
)  # fmt: skip


def test_a_read_is_one_segment_and_takes_gzip_as_it_is() -> None:
    assert GcsWire(SPEC).get("a/b c", 0, None, None, True) == (
        b"GET /storage/v1/b/bucket/o/a%2Fb%20c?alt=media HTTP/1.1\r\nHost: storage.googleapis.com\r\nAccept-Encoding: gzip\r\n\r\n"
    )


def test_a_range_of_a_version_by_somebody() -> None:
    assert GcsWire(IDENTIFIED).get("k", 10, 20, "17", True) == (
        b"GET /base/storage/v1/b/bucket/o/k?alt=media&ifGenerationMatch=17 HTTP/1.1\r\nHost: h:1\r\n"
        b"authorization: Bearer CANARY\r\nx-goog-user-project: payer\r\nAccept-Encoding: gzip\r\nRange: bytes=10-19\r\n\r\n"
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_k1_every_key_is_one_segment_that_decodes_to_it(key: str) -> None:
    assume(key not in (".", ".."))
    target = GcsWire(SPEC).get(key, 0, None, None, True).split(b" ")[1].decode()
    segment = target.removeprefix("/storage/v1/b/bucket/o/").removesuffix("?alt=media")
    assert not set(segment) & set("/?#& ")
    assert unquote(segment) == key


@pytest.mark.parametrize("version", ["abc", "1 2", "1\r\nX: y", "W/1", "", "²"])
def test_a_version_that_is_no_generation_is_refused_before_it_is_sent(version: str) -> None:
    with pytest.raises(errors.ConfigurationError):
        GcsWire(SPEC).get("k", 0, None, version, True)


def test_credentials_are_asked_for_at_most_once_a_second_of_requests() -> None:
    calls: list[int] = []
    wire = GcsWire(IDENTIFIED, lambda: calls.append(1))
    for _ in range(100):
        wire.get("k", 0, None, None, True)
    assert len(calls) == 1


def refusal(status: int, body: bytes = b"", headers: bytes = b"", spec: GcsSpec = SPEC) -> errors.S3dlioError:
    head = parse_head(b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n" % (status, headers, len(body)))
    return GcsWire(spec).error(head, body, "gs://bucket/k", 3)


def document(reason: str, message: str = "text") -> bytes:
    return json.dumps({"error": {"code": 1, "message": message, "errors": [{"reason": reason, "domain": "global"}]}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, document("invalid"), errors.RequestRejectedError),
        (401, document("required"), errors.PermissionDeniedError),
        (403, document("forbidden"), errors.PermissionDeniedError),
        (403, document("rateLimitExceeded"), errors.ThrottledError),
        (404, document("notFound"), errors.NotFoundError),
        (404, b"No such object: bucket/k", errors.NotFoundError),
        (408, b"", errors.ServerError),
        (409, document("conflict"), errors.RequestRejectedError),
        (410, b"", errors.RequestRejectedError),
        (412, document("conditionNotMet"), errors.ObjectChangedError),
        (416, b"<?xml version='1.0'?><Error><Code>InvalidRange</Code><Message>m</Message></Error>", errors.InvalidRangeError),
        (429, document("rateLimitExceeded"), errors.ThrottledError),
        (500, document("internalError"), errors.ServerError),
        (501, b"", errors.RequestRejectedError),
        (502, b"<html><body>bad gateway</body></html>", errors.ServerError),
        (503, document("backendError"), errors.ServerError),
        (504, b"", errors.ServerError),
        (200, document("backendError"), errors.ServerError),
        (302, b"", errors.RequestRejectedError),
        (307, b"", errors.RequestRejectedError),
        (499, b"", errors.RequestRejectedError),
        (403, b'{"error": "text"}', errors.PermissionDeniedError),
        (403, b'{"error": {"errors": 5}}', errors.PermissionDeniedError),
        (500, b"{" * 5000, errors.ServerError),
        (500, b"\xff\xfe\x00", errors.ServerError),
    ],
)
def test_a_refusal_is_an_error_of_the_tree(status: int, body: bytes, kind: type[errors.S3dlioError]) -> None:
    found = refusal(status, body)
    assert type(found) is kind
    assert (found.uri, found.attempts, found.status) == ("gs://bucket/k", 3, status)
    assert str(found).isprintable()


def test_a_refusal_says_reason_message_request_and_who_asked() -> None:
    found = refusal(403, document("forbidden", "no access"), b"X-GUploader-UploadID: abc\r\nRetry-After: 7\r\n", IDENTIFIED)
    assert "forbidden: no access" in str(found)
    assert "a key file" in str(found)
    assert "CANARY" not in str(found)
    assert (found.request_id, found.retry_after) == ("abc", "7")
    assert "anonymous" in str(refusal(401, document("required", "Anonymous caller does not have access")))


def test_a2_a_refused_token_is_worth_another_attempt_until_there_is_no_other() -> None:
    calls: list[int] = []
    wire = GcsWire(IDENTIFIED, None, lambda: calls.append(1))
    head = parse_head(b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n")
    assert type(wire.error(head, b"", "gs://b/k", 1)) is errors.ExpiredCredentialsError
    wire.use(msgspec.structs.replace(IDENTIFIED, is_stale=True))
    assert type(wire.error(head, b"", "gs://b/k", 1)) is errors.PermissionDeniedError
    assert calls == [1, 1]


@pytest.mark.parametrize(
    ("line", "num"),
    [(b"Range: bytes=0-99\r\n", 100), (b"", 0), (b"Range: bytes=5-9\r\n", 0), (b"Range: bytes=0-x\r\n", 0), (b"Range: bytes=0-\r\n", 0)],
)
def test_a_308_says_how_far_an_upload_has_come(line: bytes, num: int) -> None:
    found = refusal(308, b"", line)
    assert isinstance(found, ResumeIncompleteError)
    assert found.num_persisted == num
    assert not found.retryable


def test_a_page_of_a_listing_is_read() -> None:
    page = {
        "kind": "storage#objects", "nextPageToken": "t", "prefixes": ["d/"],
        "items": [{"name": "a/é", "size": "5", "generation": "7", "updated": "2026-11-30T20:05:52.927Z"}, {"name": "b", "size": 6}],
    }  # fmt: skip
    entries, token = read_page(json.dumps(page).encode(), "gs://b/")
    assert token == "t"
    assert [(e.uri, e.size, e.version, e.last_modified) for e in entries] == [
        ("gs://b/a/é", 5, "7", "2026-11-30T20:05:52Z"), ("gs://b/b", 6, None, None), ("gs://b/d/", None, None, None)
    ]  # fmt: skip
    assert read_page(b"{}", "gs://b/") == ([], None)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"<xml/>", b'{"items": [{"name": "a"}]}', b'{"items": [{"size": "1"}]}', b'{"items": [{"name": "a", "size": "x"}]}',
     b'{"items": [{"name": "a", "size": "-1"}]}', b'{"items": 5}', b'{"items": [{"name": "\xff", "size": "1"}]}'],
)  # fmt: skip
def test_a_broken_page_is_an_error_and_never_a_shorter_listing(body: bytes) -> None:
    with pytest.raises(errors.ProtocolError):
        read_page(body, "gs://b/")


@pytest.mark.parametrize("read", [lambda body: read_page(body, "gs://b/"), read_object, read_rewrite, read_buckets])
def test_n12_an_error_under_a_200_is_a_failure_of_the_server(read: Any) -> None:
    with pytest.raises(errors.ServerError):
        read(b'{"error": {"code": 503, "message": "m"}}')


def test_a_copy_that_is_not_done_must_say_how_to_go_on() -> None:
    found = read_rewrite(b'{"done": false, "rewriteToken": "t", "totalBytesRewritten": "5"}')
    assert (found.done, found.rewrite_token, found.num_bytes) == (False, "t", 5)
    assert read_rewrite(b'{"done": true}').done
    for body in (b'{"done": false}', b'{"done": true, "totalBytesRewritten": "x"}'):
        with pytest.raises(errors.ProtocolError):
            read_rewrite(body)


@pytest.mark.parametrize("body", [b"{}", b'{"size": "x"}', b'{"size": -1}', b"5"])
def test_an_object_without_a_size_is_none(body: bytes) -> None:
    with pytest.raises(errors.ProtocolError):
        read_object(body)


def test_an_object_is_described_by_what_google_says() -> None:
    about = {
        "name": "k", "size": "5", "generation": "7", "updated": "2026-11-30T20:05:52.927Z", "etag": "CJ", "contentType": "a/b",
        "contentLanguage": "de", "contentEncoding": "gzip", "cacheControl": "no-store", "contentDisposition": "inline",
        "storageClass": "NEARLINE", "kmsKeyName": "projects/p/key", "metadata": {"A": "b", "c": None},
        "customerEncryption": {"encryptionAlgorithm": "AES256", "keySha256": "x"}, "timeCreated": "x", "acl": [],
    }  # fmt: skip
    found = read_object(json.dumps(about).encode()).describe("gs://b/k").as_stat()
    assert found == {
        "size": 5, "last_modified": "2026-11-30T20:05:52Z", "etag": "CJ", "content_type": "a/b", "content_language": "de",
        "content_encoding": "gzip", "cache_control": "no-store", "content_disposition": "inline", "expires": None,
        "storage_class": "NEARLINE", "server_side_encryption": "cloud-kms", "ssekms_key_id": "projects/p/key",
        "sse_customer_algorithm": "AES256", "version_id": "7", "replication_status": None, "metadata": {"A": "b", "c": ""},
    }  # fmt: skip
