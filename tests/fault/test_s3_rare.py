"""What is rare on S3, by both lanes: many deletions, copies, markers, buckets, uploads that were left (N12, K2)."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, quote
from xml.etree import ElementTree as ET

import pytest

import s3dlio
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.stores.base import Operation, run
from s3dlio.engine.stores.registry import list_containers, locate
from s3dlio.engine.stores.s3_copy import copy_in_parts
from tests.support.answers import Respond, reset_before_headers, s3_error
from tests.support.moto_server import MotoServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Request, ScriptedServer

if TYPE_CHECKING:
    from s3dlio.engine.stores.s3 import S3Store

T = TypeVar("T")
PointAt = Callable[[S3Endpoint | str], None]
SPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
NASTY = ["a b", "b & <c>\"'", "tab\tx", "ctl\x01", "é/😀", " lead", "trail ", "]]>", "a+b%2Fc", "plain"]
LISTED = f'<ListAllMyBucketsResult xmlns="{SPACE}"><Buckets><Bucket><Name>bucket</Name></Bucket></Buckets></ListAllMyBucketsResult>'
COPIED = f'<CopyObjectResult xmlns="{SPACE}"><ETag>"1"</ETag><LastModified>2026-01-31T12:00:00Z</LastModified></CopyObjectResult>'


def perform(operation: Operation[T]) -> T:
    return run(operation, inline_fetcher().run)


def opened(bucket: str) -> S3Store:
    store: Any = locate(f"s3://{bucket}/")[0]
    return store


@pytest.fixture(params=["fast", "sdk"])
def lane(request: pytest.FixtureRequest, clean_aws_env: None) -> str:
    """Which of the two makes the requests of this test."""
    s3dlio.configure(fast_lane=request.param == "fast")
    name: str = request.param
    return name


@pytest.fixture(params=["moto_s3", "rclone_s3"])
def server(request: pytest.FixtureRequest, lane: str, s3_env: PointAt) -> Iterator[S3Endpoint]:
    """A real server."""
    endpoint: S3Endpoint = request.getfixturevalue(request.param).endpoint
    s3_env(endpoint)
    yield endpoint
    s3dlio.shutdown()


@pytest.fixture
def said(lane: str, scripted: ScriptedServer) -> ScriptedServer:
    """A server for `s3://bucket/` that says only what the test scripts, asked by one of the lanes."""
    s3dlio.configure(fast_lane=lane == "fast")
    return scripted


def document(body: str, status: int = 200) -> Respond:
    return Respond(status, {"Content-Type": "application/xml"}, f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode())


def result(deleted: list[str] = [], refused: dict[str, str] = {}) -> Respond:  # noqa: B006 (never changed)
    gone = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in deleted)
    left = "".join(f"<Error><Key>{key}</Key><Code>{code}</Code><Message>scripted</Message></Error>" for key, code in refused.items())
    return document(f'<DeleteResult xmlns="{SPACE}">{gone}{left}</DeleteResult>')


def asked_for(request: Request) -> list[str | None]:
    return [item.text for item in ET.fromstring(request.body).iter(f"{{{SPACE}}}Key")]


def keys_of(server: S3Endpoint, bucket: str) -> set[str]:
    return {found["Key"] for found in server.client().list_objects_v2(Bucket=bucket).get("Contents", [])}


def test_many_are_deleted_and_no_others(server: S3Endpoint) -> None:
    bucket, client = server.new_bucket(), server.client()
    for key in [*NASTY, "kept", "a"]:
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    wanted = [*NASTY, "missing", "plain"]
    assert perform(opened(bucket).delete_many(wanted)) == [None] * len(wanted)
    assert keys_of(server, bucket) == {"kept", "a"}


def test_a_thousand_go_by_one_request_and_none_by_none(said: ScriptedServer) -> None:
    keys = [f"k{number:04d}" for number in range(1000)]
    assert opened("bucket").max_delete_keys == len(keys)
    assert perform(opened("bucket").delete_many([])) == []
    assert said.requests == []
    said.then(result(keys))
    assert perform(opened("bucket").delete_many(keys)) == [None] * 1000
    (request,) = said.requests
    assert asked_for(request) == keys
    assert (request.method, request.path.rstrip("/"), request.query.rstrip("=")) == ("POST", "/bucket", "delete")
    # S3 demands one or the other. Source: API reference, DeleteObjects.
    assert "content-md5" in request.headers or any(name.startswith("x-amz-checksum-") for name in request.headers)


def test_a_server_without_such_a_request_deletes_one_by_one(said: ScriptedServer) -> None:
    said.script = lambda request: s3_error(501, "NotImplemented") if request.method == "POST" else Respond(204)
    assert perform(opened("bucket").delete_many(["a", "b", "a"])) == [None] * 3
    assert [(request.method, request.path.rstrip("/")) for request in said.requests] == [
        ("POST", "/bucket"),
        ("DELETE", "/bucket/a"),
        ("DELETE", "/bucket/b"),
    ]


def test_a_server_without_copies_is_no_error(said: ScriptedServer) -> None:
    said.then(s3_error(501, "NotImplemented"))
    assert perform(opened("bucket").copy("k", opened("source"), "k")) is False


def test_a_key_that_xml_cannot_hold_goes_by_a_request_of_its_own(said: ScriptedServer) -> None:
    said.then(result(["a&amp;b"]), Respond(204), s3_error(403, "AccessDenied"))
    found = perform(opened("bucket").delete_many(["a&b", "bell\x07", "nul\ufffe"]))
    assert found[:2] == [None, None]
    assert isinstance(found[2], s3dlio.PermissionDeniedError)
    assert [(request.method, request.path) for request in said.requests[1:]] == [
        ("DELETE", "/bucket/" + quote(key)) for key in ("bell\x07", "nul\ufffe")
    ]


def test_a_line_end_in_a_key_survives_the_xml(said: ScriptedServer) -> None:
    said.then(result(["a&#13;&#10;b"]))
    assert perform(opened("bucket").delete_many(["a\r\nb"])) == [None]
    assert asked_for(said.requests[0]) == ["a\r\nb"]


def test_a_refusal_of_one_key_is_its_error_and_no_other_suffers(said: ScriptedServer) -> None:
    said.then(result(["a", "c"], {"b": "AccessDenied", "gone": "NoSuchKey", "odd": "MethodNotAllowed"}))
    found = perform(opened("bucket").delete_many(["a", "b", "c", "gone", "odd", "b"]))
    assert [found[n] for n in (0, 2, 3)] == [None, None, None]
    assert isinstance(found[1], PermissionError)
    assert found[1] is found[5]
    assert found[1].uri == "s3://bucket/b"
    assert "AWS_ACCESS_KEY_ID" in str(found[1])
    assert isinstance(found[4], s3dlio.RequestRejectedError)
    assert len(said.requests) == 1


def test_n12_what_passes_is_tried_again_for_those_keys_alone(said: ScriptedServer) -> None:
    said.then(
        result(["a"], {"b": "InternalError", "c": "SlowDown", "d": "AccessDenied"}),
        result(["b"], {"c": "InternalError"}),
        result(["c"]),
    )
    found = perform(opened("bucket").delete_many(["a", "b", "c", "d"]))
    assert found[:3] == [None, None, None]
    assert isinstance(found[3], PermissionError)
    assert [asked_for(request) for request in said.requests] == [["a", "b", "c", "d"], ["b", "c"], ["c"]]


def test_n12_what_does_not_pass_is_the_error_of_its_key_after_the_last_attempt(said: ScriptedServer) -> None:
    said.then(result(["a"], {"b": "InternalError"}), *[result([], {"b": "InternalError"})] * 2)
    first, second = perform(opened("bucket").delete_many(["a", "b"]))
    assert first is None
    assert isinstance(second, s3dlio.ServerError)
    assert (second.uri, second.attempts) == ("s3://bucket/b", 3)


def test_a_key_of_which_nothing_is_said_is_not_taken_for_deleted(said: ScriptedServer) -> None:
    said.then(result(["a"]), result([]), result([]))
    first, second = perform(opened("bucket").delete_many(["a", "b"]))
    assert first is None
    assert isinstance(second, s3dlio.ProtocolError)


def test_an_answer_that_was_lost_is_asked_for_again(said: ScriptedServer) -> None:
    said.then(reset_before_headers(), result(["a"]))
    assert perform(opened("bucket").delete_many(["a"])) == [None]


@pytest.mark.parametrize(("status", "code", "kind"), [(404, "NoSuchBucket", FileNotFoundError), (403, "AccessDenied", PermissionError)])
def test_a_refusal_of_the_whole_request_is_raised(said: ScriptedServer, status: int, code: str, kind: type[Exception]) -> None:
    said.then(s3_error(status, code))
    with pytest.raises(kind):
        perform(opened("bucket").delete_many(["a", "b"]))


@pytest.mark.parametrize("body", ["<Error><Code>InternalError</Code></Error>", "<html>Log in</html>", "<DeleteResult><Deleted>"])
def test_n12_a_deletion_whose_answer_is_no_result_is_a_failure(said: ScriptedServer, body: str) -> None:
    said.then(*[document(body)] * 3)
    with pytest.raises((s3dlio.ServerError, s3dlio.ProtocolError)) as raised:
        perform(opened("bucket").delete_many(["a"]))
    assert raised.value.attempts == 3


def test_an_object_is_copied_within_and_between_buckets(server: S3Endpoint) -> None:
    one, other, client = server.new_bucket(), server.new_bucket(), server.client()
    for number, key in enumerate(NASTY):
        client.put_object(Bucket=one, Key=key, Body=f"body {number}".encode(), Metadata={"made-by": "test"}, ContentType="text/x-test")
        assert perform(opened(other).copy("copy/" + key, opened(one), key)) is True
        found = client.get_object(Bucket=other, Key="copy/" + key)
        assert found["Body"].read() == f"body {number}".encode()
        assert {name.lower(): text for name, text in found["Metadata"].items()}["made-by"] == "test"
    assert perform(opened(one).copy("plain too", opened(one), "plain")) is True
    assert client.get_object(Bucket=one, Key="plain too")["Body"].read() == f"body {NASTY.index('plain')}".encode()


def test_a_copy_of_nothing_is_not_found_and_names_the_source(server: S3Endpoint) -> None:
    one, other = server.new_bucket(), server.new_bucket()
    with pytest.raises(FileNotFoundError) as raised:
        perform(opened(other).copy("x", opened(one), "missing"))
    assert raised.value.uri == f"s3://{one}/missing"  # type: ignore[attr-defined]
    with pytest.raises(FileNotFoundError):
        perform(opened(one).copy("missing", opened(one), "missing"))
    assert keys_of(server, other) == set()


def test_a_copy_onto_itself_changes_nothing(server: S3Endpoint) -> None:
    bucket = server.new_bucket()
    server.client().put_object(Bucket=bucket, Key="k", Body=b"x")
    assert perform(opened(bucket).copy("k", opened(bucket), "k")) is True
    assert server.client().get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_what_no_copy_is_possible_from_is_not_touched(said: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    target = opened("bucket")
    s3dlio.put_bytes("memory://elsewhere/k", b"x")
    assert perform(target.copy("k", locate("memory://elsewhere/k")[0], "k")) is False
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    assert perform(target.copy("k", opened("of-somebody"), "k")) is False
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert perform(target.copy("k", opened("of-another-endpoint"), "k")) is False
    assert said.requests == []


def test_k2_the_source_of_a_copy_is_encoded_byte_by_byte(said: ScriptedServer) -> None:
    said.then(document(COPIED))
    assert perform(opened("bucket").copy("../other/x", opened("source"), "../other-bucket/a b+c&%2F\r\né?versionId=1")) is True
    (request,) = said.requests
    assert request.line == b"PUT /bucket/../other/x HTTP/1.1"
    assert request.headers["x-amz-copy-source"] == "source/" + quote("../other-bucket/a b+c&%2F\r\né?versionId=1")


@pytest.mark.parametrize(
    "body",
    ["<Error><Code>InternalError</Code><Message>again</Message></Error>", f'<CopyObjectResult xmlns="{SPACE}"/>', "<CopyObjectResult>"],
    ids=["an error", "no ETag", "cut off"],
)
def test_n12_a_copy_that_failed_behind_its_200_is_made_again(said: ScriptedServer, body: str) -> None:
    said.then(document(body), Respond(200, {}, b"\n \n " + COPIED.encode()))
    assert perform(opened("bucket").copy("k", opened("source"), "k")) is True
    assert len(said.requests) == 2


def test_n12_a_copy_that_fails_behind_every_200_is_an_error(said: ScriptedServer) -> None:
    said.then(*[document("<Error><Code>SlowDown</Code><Message>less</Message></Error>")] * 3)
    with pytest.raises(s3dlio.ServerError, match="SlowDown") as raised:
        perform(opened("bucket").copy("k", opened("source"), "k"))
    assert (raised.value.uri, raised.value.attempts) == ("s3://bucket/k", 3)


def test_a_copy_that_is_refused_for_another_reason_than_its_length_is_an_error(said: ScriptedServer) -> None:
    head = Respond(200, {"Content-Length": str(5 << 30), "ETag": '"1"'})
    said.script = lambda request: head if request.method == "HEAD" else s3_error(400, "InvalidRequest")
    with pytest.raises(s3dlio.RequestRejectedError):
        perform(opened("bucket").copy("k", opened("source"), "k"))
    assert [request.method for request in said.requests] == ["PUT", "HEAD"]


class LongSource:
    """An object of more than 5 GiB, of which the store makes copies in parts; `parts` has the spans that were copied."""

    def __init__(self) -> None:
        self.size = (5 << 30) + 12_345
        self.head = {"ETag": '"v1"', "Content-Type": "text/x-test", "x-amz-meta-made-by": "test", "Cache-Control": "no-store"}
        self.parts: list[tuple[int, int]] = []
        self.ends = [document("<CompleteMultipartUploadResult><ETag>2</ETag></CompleteMultipartUploadResult>")]
        self.faults: dict[str, list[Respond]] = {}
        self.begun: dict[str, str] = {}

    def __call__(self, request: Request) -> Respond:
        query = parse_qs(request.query, keep_blank_values=True)
        if request.method == "HEAD":
            copied = request.path == "/bucket/k"
            return Respond(200, {"Content-Length": str(self.size), **(self.begun if copied else self.head)})
        if request.method == "POST" and "uploads" in query:
            kept = ("content-type", "cache-control", "x-amz-meta-")
            self.begun = {name: value for name, value in request.headers.items() if name.startswith(kept)}
            return document("<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>")
        if request.method == "POST":
            return self.ends.pop(0)
        if request.method == "DELETE":
            return Respond(204)
        if request.method == "GET":
            return s3_error(404, "NoSuchUpload")
        if "partNumber" not in query:
            return s3_error(400, "InvalidRequest")
        assert request.headers["x-amz-copy-source"] == "source/long%20one"
        assert request.headers["x-amz-copy-source-if-match"] == '"v1"'
        if faults := self.faults.get(query["partNumber"][0]):
            return faults.pop(0)
        first, last = request.headers["x-amz-copy-source-range"].removeprefix("bytes=").split("-")
        self.parts.append((int(first), int(last) + 1))
        return document(f'<CopyPartResult xmlns="{SPACE}"><ETag>"p"</ETag></CopyPartResult>')


def methods_of(server: ScriptedServer) -> list[str]:
    return [request.method for request in server.requests]


def test_i10_an_object_beyond_5_gib_is_copied_in_parts_with_all_it_has(said: ScriptedServer) -> None:
    said.script = source = LongSource()
    source.faults["3"] = [document("<Error><Code>InternalError</Code></Error>"), s3_error(503, "SlowDown")]
    assert perform(opened("bucket").copy("k", opened("source"), "long one")) is True
    assert [start for start, _ in source.parts] == [0, *(end for _, end in source.parts[:-1])]
    assert source.parts[-1][1] == source.size
    assert (source.begun["content-type"], source.begun["cache-control"]) == ("text/x-test", "no-store")
    assert source.begun["x-amz-meta-made-by"] == "test"
    assert methods_of(said)[-1] == "POST"


def test_i1_a_source_that_changes_under_a_copy_is_never_mixed(said: ScriptedServer) -> None:
    said.script = source = LongSource()
    source.faults["2"] = [s3_error(412, "PreconditionFailed")]
    with pytest.raises(s3dlio.ObjectChangedError):
        perform(opened("bucket").copy("k", opened("source"), "long one"))
    assert methods_of(said)[-3:] == ["PUT", "DELETE", "GET"]


def test_u4_a_copy_whose_end_was_answered_into_the_void_is_known_by_its_mark(said: ScriptedServer) -> None:
    said.script = source = LongSource()
    source.ends = [s3_error(500, "InternalError"), s3_error(404, "NoSuchUpload")]
    assert perform(opened("bucket").copy("k", opened("source"), "long one")) is True
    assert methods_of(said)[-3:] == ["POST", "POST", "HEAD"]


def test_a_copy_in_parts_is_the_same_object(lane: str, moto_s3: MotoServer, s3_env: PointAt) -> None:
    s3_env(moto_s3.endpoint)
    one, other, client = moto_s3.endpoint.new_bucket(), moto_s3.endpoint.new_bucket(), moto_s3.endpoint.client()
    data = os.urandom((11 << 20) + 7)
    client.put_object(Bucket=one, Key="a b", Body=data, ContentType="text/x-test", Metadata={"made-by": "test"})
    source, target = opened(one), opened(other)

    head = perform(source._by_lane(lambda lane: lane.head("a b")))
    perform(target._by_lane(lambda lane: copy_in_parts(lane, "copy", one, "a b", head, 5 << 20)))
    found = client.get_object(Bucket=other, Key="copy")
    assert found["Body"].read() == data
    assert (found["ContentType"], found["Metadata"]["made-by"]) == ("text/x-test", "test")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=other)
    s3dlio.shutdown()


def test_a_prefix_is_an_empty_object_that_ends_in_a_slash(said: ScriptedServer) -> None:
    said.script = lambda request: s3_error(404, "NoSuchKey") if request.method == "HEAD" else Respond(200, {"ETag": '"1"'})
    for key in ("a/b", "a/b/"):
        perform(opened("bucket").make_prefix(key))
    made = [request for request in said.requests if request.method == "PUT"]
    assert [(request.path, request.body) for request in made] == [("/bucket/a/b/", b"")] * 2


def test_a_prefix_that_is_there_is_not_written_over(server: S3Endpoint) -> None:
    bucket, client = server.new_bucket(), server.client()
    client.put_object(Bucket=bucket, Key="a/", Body=b"what somebody keeps here")
    perform(opened(bucket).make_prefix("a"))
    assert client.get_object(Bucket=bucket, Key="a/")["Body"].read() == b"what somebody keeps here"


def test_a_prefix_is_made_twice_and_lists_nothing_new(server: S3Endpoint) -> None:
    bucket = server.new_bucket()
    for _ in range(2):
        perform(opened(bucket).make_prefix("a/b"))
    perform(opened(bucket).make_prefix(""))
    # rclone keeps files, whose names cannot end so.
    assert keys_of(server, bucket) <= {"a/b/", "a/b"}
    with pytest.raises(FileNotFoundError):
        perform(opened(f"{bucket}-never").make_prefix(""))


def test_buckets_are_made_listed_and_deleted(server: S3Endpoint) -> None:
    name, client = server.new_bucket() + "-more", server.client()
    store = opened(name)
    perform(store.create_bucket())
    perform(store.create_bucket())
    assert name in {found["Name"] for found in client.list_buckets()["Buckets"]}
    listed = {found.name: found for found in perform(list_containers("s3://"))}
    assert set(listed) == {found["Name"] for found in client.list_buckets()["Buckets"]}
    assert listed[name].uri == f"s3://{name}/"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", listed[name].creation_date or "")
    client.put_object(Bucket=name, Key="k", Body=b"x")
    with pytest.raises(s3dlio.RequestRejectedError, match="BucketNotEmpty"):
        perform(store.delete_bucket())
    client.delete_object(Bucket=name, Key="k")
    perform(store.delete_bucket())
    assert name not in {found["Name"] for found in client.list_buckets()["Buckets"]}
    with pytest.raises(FileNotFoundError):
        perform(store.delete_bucket())


@pytest.mark.parametrize(("region", "constraint"), [("us-east-1", None), ("eu-central-1", "eu-central-1")])
def test_a_bucket_is_made_in_the_configured_region(
    said: ScriptedServer, monkeypatch: pytest.MonkeyPatch, region: str, constraint: str | None
) -> None:
    monkeypatch.setenv("AWS_REGION", region)
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    said.then(Respond(200))
    perform(opened("bucket").create_bucket())
    (request,) = said.requests
    assert (request.method, request.path.rstrip("/")) == ("PUT", "/bucket")
    found = ET.fromstring(request.body).findtext(f"{{{SPACE}}}LocationConstraint") if request.body else None
    assert found == constraint


def test_a_bucket_of_ours_is_no_error_and_one_of_others_is(said: ScriptedServer) -> None:
    listed = document(LISTED)
    said.then(s3_error(409, "BucketAlreadyOwnedByYou"), s3_error(409, "BucketAlreadyExists"), listed)
    perform(opened("bucket").create_bucket())
    perform(opened("bucket").create_bucket())
    said.then(s3_error(409, "BucketAlreadyExists"), listed, s3_error(409, "BucketAlreadyExists"), s3_error(403, "AccessDenied"))
    for _ in range(2):
        with pytest.raises(s3dlio.AlreadyExistsError):
            perform(opened("other").create_bucket())


@pytest.mark.parametrize("is_kept", [False, True], ids=["on a new connection", "on a kept one"])
def test_a_bucket_whose_deletion_was_answered_into_the_void_is_gone(said: ScriptedServer, is_kept: bool) -> None:
    if is_kept:
        said.then(Respond(204))
        perform(opened("bucket").delete("key"))
    said.then(reset_before_headers(), s3_error(404, "NoSuchBucket"))
    perform(opened("bucket").delete_bucket())
    assert len(said.requests) == 2 + is_kept


@pytest.mark.parametrize("verb", ["create_bucket", "delete_bucket", "delete"])
def test_n12_no_error_under_200_passes_for_success(said: ScriptedServer, verb: str) -> None:
    failed = document("<Error><Code>InternalError</Code><Message>again</Message></Error>")

    def ask() -> None:
        store = opened("bucket")
        perform(store.delete("k") if verb == "delete" else getattr(store, verb)())

    said.then(failed, Respond(200))
    ask()
    assert len(said.requests) == 2
    said.then(*[failed] * 3)
    with pytest.raises(s3dlio.ServerError):
        ask()


def test_a_list_of_buckets_comes_by_pages_and_ends(said: ScriptedServer) -> None:
    def page(name: str, token: str) -> Respond:
        buckets = f"<Buckets><Bucket><Name>{name}</Name><CreationDate>2026-01-31T12:00:00.000Z</CreationDate></Bucket></Buckets>"
        return document(f'<ListAllMyBucketsResult xmlns="{SPACE}">{buckets}{token}</ListAllMyBucketsResult>')

    said.then(page("a", "<ContinuationToken>t 1</ContinuationToken>"), page("b", ""))
    assert [(found.name, found.creation_date) for found in perform(list_containers("s3://"))] == [
        ("a", "2026-01-31T12:00:00Z"),
        ("b", "2026-01-31T12:00:00Z"),
    ]
    assert [request.path for request in said.requests] == ["/", "/"]
    assert "continuation-token=t%201" in said.requests[1].query
    said.then(*[page("a", "<ContinuationToken>same</ContinuationToken>")] * 2)
    with pytest.raises(s3dlio.ProtocolError, match="repeats"):
        perform(list_containers("s3://"))


def test_uploads_that_were_left_are_listed_and_aborted(server: S3Endpoint) -> None:
    bucket, client = server.new_bucket(), server.client()
    begun = {}
    for key in ("up/a b+c&d", "up/é", "other"):
        begun[key] = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        client.upload_part(Bucket=bucket, Key=key, UploadId=begun[key], PartNumber=1, Body=b"x")
    store = opened(bucket)
    found = perform(store.list_uploads("up/"))
    assert {upload.key: upload.upload_id for upload in found} == {key: begun[key] for key in begun if key.startswith("up/")}
    assert all(upload.uri == f"s3://{bucket}/{upload.key}" for upload in found)
    assert len(perform(store.list_uploads(""))) == 3
    for upload in [*found, *found]:
        perform(store.abort_upload(upload))
    assert [upload.key for upload in perform(store.list_uploads(""))] == ["other"]
    assert [upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["other"]


def test_a_list_of_uploads_comes_by_pages_and_ends(said: ScriptedServer) -> None:
    def page(key: str, tail: str) -> Respond:
        upload = f"<Upload><Key>{key}</Key><UploadId>id</UploadId><Initiated>2026-01-31T12:00:00.000Z</Initiated></Upload>"
        return document(f'<ListMultipartUploadsResult xmlns="{SPACE}">{upload}{tail}</ListMultipartUploadsResult>')

    more = "<IsTruncated>true</IsTruncated><NextKeyMarker>a b</NextKeyMarker><NextUploadIdMarker>id/+</NextUploadIdMarker>"
    said.then(page("a b", more), page("c", "<IsTruncated>false</IsTruncated>"))
    assert [upload.key for upload in perform(opened("bucket").list_uploads("p"))] == ["a b", "c"]
    assert {"key-marker=a%20b", "upload-id-marker=id%2F%2B", "prefix=p"} <= {*said.requests[1].query.replace("+", "%20").split("&")}
    said.then(*[page("a b", more)] * 2)
    with pytest.raises(s3dlio.ProtocolError, match="repeats"):
        perform(opened("bucket").list_uploads("p"))
    said.then(*[page("a", "<IsTruncated>true</IsTruncated>")] * 3)
    with pytest.raises(s3dlio.ProtocolError):
        perform(opened("bucket").list_uploads("p"))


@pytest.mark.parametrize("verb", ["put_bytes", "put_bytes_async"])
def test_a_write_is_looked_at_where_that_is_wanted(said: ScriptedServer, verb: str) -> None:
    sizes = iter([4, 3])
    said.script = lambda request: Respond(200, {"ETag": '"1"'} | ({"Content-Length": str(next(sizes))} if request.method == "HEAD" else {}))

    def put() -> None:
        if verb == "put_bytes":
            s3dlio.put_bytes("s3://bucket/k", b"data")
        else:
            asyncio.run(s3dlio.put_bytes_async("s3://bucket/k", b"data"))

    put()
    assert [request.method for request in said.requests] == ["PUT"]
    s3dlio.configure(verify_writes=True)
    put()
    with pytest.raises(s3dlio.TruncatedBodyError, match="4 bytes were written, and the object has 3"):
        put()


@pytest.mark.parametrize("verb", [s3dlio.copy, s3dlio.upload], ids=["copy", "upload"])
def test_what_is_carried_to_a_store_is_looked_at_too(
    said: ScriptedServer, tmp_path: Path, verb: Callable[[str, str], object]
) -> None:
    (tmp_path / "k").write_bytes(b"data")
    said.script = lambda request: Respond(200, {"ETag": '"1"'} | ({"Content-Length": "3"} if request.method == "HEAD" else {}))
    s3dlio.configure(verify_writes=True)
    with pytest.raises(s3dlio.TruncatedBodyError, match="4 bytes were written, and the object has 3"):
        verb(f"file://{tmp_path}/k", "s3://bucket/k")


def test_k2_a_deletion_without_a_key_never_reaches_the_bucket(said: ScriptedServer) -> None:
    for operation in (opened("bucket").delete(""), opened("bucket").delete_many([""])):
        try:
            (error,) = perform(operation) or [None]
        except s3dlio.ConfigurationError as raised:
            error = raised
        assert isinstance(error, s3dlio.ConfigurationError)
    assert said.requests == []
