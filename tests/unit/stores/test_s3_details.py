"""All that S3 says of objects, by pages: against boto3 at real servers, on both lanes, and documents that only S3 itself sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

import s3dlio
from s3dlio.engine import errors
from s3dlio.engine.fetch.http1 import parse_head
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.stores.base import Operation, run
from s3dlio.engine.stores.s3 import S3Store
from s3dlio.engine.stores.s3_config import S3Access
from s3dlio.engine.stores.s3_details import DetailsPage, details_of_head, parse_details_page
from s3dlio.engine.types import ObjectDetails, Restore
from tests.support.answers import Respond
from tests.support.moto_server import MotoServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import ScriptedServer
from tests.unit.stores.test_s3_xml import NASTY_KEYS, ROOT, entry, page

Drive = Callable[[Operation[Any]], Any]
RESTORING = "<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus>"
RESTORED = (
    "<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress><RestoreExpiryDate>2026-12-31T00:00:00.000Z</RestoreExpiryDate>"
    "</RestoreStatus>"
)


@pytest.fixture(params=["fast lane", "SDK lane"])
def drive(request: pytest.FixtureRequest, s3_env: Callable[[S3Endpoint | str], None]) -> Iterator[Drive]:
    """Drives an operation; stores that are opened meanwhile ask by one lane."""
    s3dlio.configure(fast_lane=request.param == "fast lane")
    yield lambda operation: run(operation, inline_fetcher().run)
    s3dlio.shutdown()


@pytest.fixture(params=["moto_s3", "rclone_s3"])
def server(request: pytest.FixtureRequest, s3_env: Callable[[S3Endpoint | str], None]) -> S3Endpoint:
    """A real server, where the environment points."""
    endpoint: S3Endpoint = request.getfixturevalue(request.param).endpoint
    s3_env(endpoint)
    return endpoint


def pages_of(drive: Drive, store: S3Store, prefix: str, delimiter: str, max_keys: int) -> list[DetailsPage]:
    pages: list[DetailsPage] = []
    token: str | None = None
    while not pages or token is not None:
        pages.append(drive(store.list_details(prefix, delimiter, max_keys, token)))
        token = pages[-1].next_token
    return pages


@pytest.mark.parametrize(
    ("prefix", "delimiter", "max_keys"), [("", "", 1000), ("", "/", 1000), ("d/", "/", 2), ("", "", 3), ("a", "", 1), ("none", "/", 5)]
)
def test_pages_are_those_that_boto3_gets(drive: Drive, server: S3Endpoint, prefix: str, delimiter: str, max_keys: int) -> None:
    bucket = server.new_bucket()
    for key in NASTY_KEYS:
        server.client().put_object(Bucket=bucket, Key=key, Body=key.encode())
    asked = {"Delimiter": delimiter} if delimiter else {}
    found = server.client().get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": max_keys}, **asked
    )
    theirs = [*found]
    ours = pages_of(drive, S3Store(f"s3://{bucket}/"), prefix, delimiter, max_keys)
    assert [[(o.key, o.size, o.etag, o.storage_class) for o in one.objects] for one in ours] == [
        [(o["Key"], o["Size"], o["ETag"], o.get("StorageClass")) for o in one.get("Contents", [])] for one in theirs
    ]
    assert [one.prefixes for one in ours] == [[p["Prefix"] for p in one.get("CommonPrefixes", [])] for one in theirs]
    times = [o["LastModified"].replace(microsecond=0) for one in theirs for o in one.get("Contents", [])]
    assert [datetime.fromisoformat(o.last_modified or "") for one in ours for o in one.objects] == times


def test_a_head_says_it_word_for_word(drive: Drive, server: S3Endpoint) -> None:
    bucket = server.new_bucket()
    server.client().put_object(Bucket=bucket, Key="key", Body=b"12345")
    head = server.client().head_object(Bucket=bucket, Key="key")
    found = drive(S3Store(f"s3://{bucket}/").stat_details("key"))
    assert (found.key, found.size, found.etag, found.storage_class) == ("key", 5, head["ETag"], head.get("StorageClass"))
    assert datetime.fromisoformat(found.last_modified) == head["LastModified"]
    for key in ("missing", ""):
        with pytest.raises(errors.NotFoundError):
            drive(S3Store(f"s3://{bucket}/").stat_details(key))


def test_what_is_written_is_kept_in_the_class_that_was_named(
    drive: Drive, moto_s3: MotoServer, s3_env: Callable[[S3Endpoint | str], None]
) -> None:
    endpoint = moto_s3.endpoint
    s3_env(endpoint)
    bucket = endpoint.new_bucket()
    plain = S3Store(f"s3://{bucket}/", S3Access(endpoint=endpoint.url))
    named = plain.stored_as("STANDARD_IA")

    def written_in_parts() -> Operation[None]:
        upload = yield from named.begin_upload("parts")
        yield from upload.put_part(0, memoryview(bytes(5 << 20)), is_last=False)
        yield from upload.put_part(1, memoryview(b"end"), is_last=True)
        yield from upload.complete()

    drive(named.put("whole", memoryview(b"data")))
    drive(named.put("new", memoryview(b"data"), create_only=True))
    drive(written_in_parts())
    drive(plain.put("plain", memoryview(b"data")))
    for key in ("whole", "new", "parts"):
        assert endpoint.client().head_object(Bucket=bucket, Key=key).get("StorageClass") == "STANDARD_IA"
        assert drive(plain.stat_details(key)).storage_class == "STANDARD_IA"
    assert endpoint.client().head_object(Bucket=bucket, Key="plain").get("StorageClass") in (None, "STANDARD")
    with pytest.raises(errors.S3dlioError):
        drive(plain.stored_as("NO_SUCH_CLASS").put("whole", memoryview(b"other")))
    assert endpoint.client().get_object(Bucket=bucket, Key="whole")["Body"].read() == b"data"


@pytest.mark.parametrize("name", ["", "A B", "A\r\nX: y", "é"])
def test_a_class_that_is_no_word_is_refused_before_anything_is_asked(
    scripted_server: ScriptedServer, s3_env: Callable[[S3Endpoint | str], None], name: str
) -> None:
    s3_env(scripted_server.url)
    with pytest.raises(errors.ConfigurationError, match="storage class"):
        S3Store("s3://bucket/").stored_as(name)


def test_restores_are_asked_for_and_read(drive: Drive, scripted_server: ScriptedServer, s3_env: Callable[[S3Endpoint | str], None]) -> None:
    contents = entry("a").replace("STANDARD", "GLACIER").replace("</Contents>", f"{RESTORED}</Contents>")
    contents += entry("b").replace("</Contents>", f"{RESTORING}</Contents>")
    contents += "<Contents><Key>c</Key><Size>0</Size></Contents>"
    scripted_server.then(Respond(200, {"Content-Type": "application/xml"}, page(contents)))
    s3_env(scripted_server.url)
    found = drive(S3Store("s3://bucket/").list_details(""))
    moment = "2026-01-31T12:00:00Z"
    assert found.objects == [
        ObjectDetails("a", 5, '"0123"', moment, "GLACIER", Restore(False, "2026-12-31T00:00:00Z")),
        ObjectDetails("b", 5, '"0123"', moment, "STANDARD", Restore(True)),
        ObjectDetails("c", 0),
    ]
    assert scripted_server.requests[0].headers["x-amz-optional-object-attributes"] == "RestoreStatus"


def test_a_token_that_comes_again_ends_the_listing(
    drive: Drive, scripted_server: ScriptedServer, s3_env: Callable[[S3Endpoint | str], None]
) -> None:
    body = page(entry("k"), tail="<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>")
    scripted_server.script = lambda _request: Respond(200, {"Content-Type": "application/xml"}, body)
    s3_env(scripted_server.url)
    with pytest.raises(errors.ProtocolError, match="repeats"):
        pages_of(drive, S3Store("s3://bucket/"), "", "", 1000)
    assert len(scripted_server.requests) == 2


@pytest.mark.parametrize(
    ("value", "restore"),
    [
        ('ongoing-request="true"', Restore(True)),
        ('ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"', Restore(False, "2012-12-21T00:00:00Z")),
        ('ongoing-request="false", expiry-date="soon"', Restore(False)),
        ("nonsense", None),
    ],
)
def test_the_restore_of_a_head(value: str, restore: Restore | None) -> None:
    head = parse_head(f'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: "e"\r\nx-amz-restore: {value}\r\n\r\n'.encode())
    assert details_of_head("k", head, ROOT + "k") == ObjectDetails("k", 3, '"e"', None, None, restore)


@pytest.mark.parametrize(
    "contents",
    [
        "<Contents><Size>1</Size></Contents>",
        "<Contents><Key>k</Key></Contents>",
        "<Contents><Key>k</Key><Size>-1</Size></Contents>",
        "<Contents><Key>k</Key><Size>1</Size><LastModified>yesterday</LastModified></Contents>",
        "<CommonPrefixes></CommonPrefixes>",
    ],
)
def test_a_page_that_is_not_whole_is_an_error(contents: str) -> None:
    with pytest.raises(errors.ProtocolError):
        parse_details_page(page(contents), ROOT)
    with pytest.raises(errors.ProtocolError):
        parse_details_page(page("", tail="<IsTruncated>true</IsTruncated>"), ROOT)
    with pytest.raises(errors.ProtocolError):
        details_of_head("k", parse_head(b"HTTP/1.1 200 OK\r\n\r\n"), ROOT + "k")
