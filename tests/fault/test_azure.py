"""`az://` against answers that Azurite does not give: broken bodies, lost answers, endless listings, expired tokens; on both lanes."""

from __future__ import annotations

import io
import logging
import pickle
import re
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

import s3dlio
import s3dlio.engine.ops.lifecycle  # The kit ends the engine through it, as soon as it is loaded.
from s3dlio.engine.fetch import delayed
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.stores import azure_config, azure_ops, renewal
from s3dlio.engine.stores.base import Operation, run
from s3dlio.engine.stores.registry import list_containers, locate
from tests.process.kit import content
from tests.support.answers import (
    Respond,
    chunked,
    close_before_headers,
    cut_after,
    extra_bytes,
    reset_after,
    reset_before_headers,
    s3_error,
    wrong_range,
)
from tests.support.azurite import AzureEndpoint
from tests.support.scripted_server import Handler, Request, ScriptedServer
from tests.support.tls_server import Authority

ACCOUNT = "account"
KEY = "Q0FOQVJZc2VjcmV0Q0FOQVJZ"
SAS = "sv=2024-11-04&sr=c&sp=rcwdl&sig=CANARYsignature%3D"
ROOT, PATH = "az://account/container/", "/account/container"
DATA = content("key", 300_000)
HEAD = {"ETag": '"0x1"', "Last-Modified": "Mon, 30 Nov 2026 20:06:10 GMT"}


def az_error(status: int, code: str, headers: dict[str, str] | None = None) -> Respond:
    return s3_error(status, code, {"x-ms-error-code": code, "x-ms-request-id": "SCRIPTED", **(headers or {})})


def answer(data: bytes = DATA, start: int = 0, etag: str = "0x1") -> Respond:
    """Returns the honest answer to a read that begins at `start`."""
    headers = {**HEAD, "ETag": f'"{etag}"'}
    if start == 0:
        return Respond(200, headers, data)
    return Respond(206, {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, data[start:])


@pytest.fixture(params=["fast", "sdk"])
def lane(request: pytest.FixtureRequest, quick_settings: None) -> str:
    s3dlio.configure(fast_lane=request.param == "fast")
    return str(request.param)


@pytest.fixture
def az(scripted_server: ScriptedServer, azure_env: Callable[[AzureEndpoint], None], lane: str) -> Iterator[ScriptedServer]:
    """A server for `az://account/container/` that says only what the test scripts."""
    azure_env(AzureEndpoint(scripted_server.url, ACCOUNT, KEY))
    yield scripted_server
    s3dlio.shutdown()


def do(operation: Operation[Any]) -> Any:
    return run(operation, inline_fetcher().run)


@pytest.mark.parametrize("break_off", [cut_after, reset_after])
def test_n3_n4_a_broken_body_is_continued_from_its_last_byte_of_the_same_version(az: ScriptedServer, break_off: Any) -> None:
    def step(request: Request) -> Handler:
        if "x-ms-range" not in request.headers:
            return break_off(150_000, answer())
        return answer(start=int(request.headers["x-ms-range"].removeprefix("bytes=").removesuffix(f"-{len(DATA) - 1}")))

    az.script = step
    assert bytes(s3dlio.get(ROOT + "key")) == DATA
    assert len(az.requests) == 2
    assert az.requests[1].headers["if-match"] == '"0x1"'


def test_i1_another_version_in_the_middle_is_read_from_its_beginning(az: ScriptedServer) -> None:
    other = DATA[::-1]
    az.then(cut_after(150_000, answer()), az_error(412, "ConditionNotMet"), answer(other, etag="0x2"))
    assert bytes(s3dlio.get(ROOT + "key")) == other
    assert "if-match" not in az.requests[2].headers


def test_i1_another_version_that_is_sent_all_the_same_is_an_error(az: ScriptedServer) -> None:
    az.then(answer(etag="0x2"))
    with pytest.raises(s3dlio.ObjectChangedError):
        s3dlio.get_many([s3dlio.ObjectRef(ROOT + "key", len(DATA), "0x1")])


def test_n6_another_range_than_the_one_asked_for_is_refused(az: ScriptedServer) -> None:
    az.then(*[wrong_range(f"bytes 5-{len(DATA) - 3}/{len(DATA)}", answer(start=3))] * 3)
    with pytest.raises(s3dlio.ProtocolError):
        s3dlio.get_range(ROOT + "key", 3)


def test_n7_a_body_in_chunks_is_read(az: ScriptedServer) -> None:
    az.then(chunked(10_000, answer()))
    assert bytes(s3dlio.get(ROOT + "key")) == DATA


def test_n8_a_compressed_object_is_handed_over_as_it_is_stored(az: ScriptedServer) -> None:
    az.then(answer().with_headers(content_encoding="gzip"))
    assert bytes(s3dlio.get(ROOT + "key")) == DATA


def test_n16_a_redirect_is_not_followed(az: ScriptedServer) -> None:
    az.then(Respond(307, {"Location": f"http://127.0.0.1:{az.port}/stolen"}))
    with pytest.raises(s3dlio.RequestRejectedError) as raised:
        s3dlio.get(ROOT + "key")
    assert raised.value.status == 307
    assert len(az.requests) == 1


def test_n11_a_busy_server_is_asked_again(az: ScriptedServer) -> None:
    az.then(az_error(503, "ServerBusy", {"Retry-After": "0"}), az_error(500, "OperationTimedOut"), answer())
    assert bytes(s3dlio.get(ROOT + "key")) == DATA


def test_a1_a_refusal_is_not_repeated_and_says_who_asked(az: ScriptedServer) -> None:
    az.then(az_error(403, "AuthenticationFailed"))
    with pytest.raises(s3dlio.PermissionDeniedError) as raised:
        s3dlio.get(ROOT + "key")
    assert len(az.requests) == 1
    assert "AZURE_STORAGE_KEY" in str(raised.value)
    assert raised.value.request_id == "SCRIPTED"


@pytest.mark.parametrize("key", ["../other/x", "a/../../other/x", "a/..", "./a", "a\\..\\b", ".."])
def test_k2_a_key_that_would_leave_the_container_is_never_sent(az: ScriptedServer, key: str) -> None:
    for verb in (s3dlio.get, s3dlio.stat, s3dlio.delete, lambda uri: s3dlio.put_bytes(uri, b"")):
        with pytest.raises(s3dlio.InvalidUriError) as raised:
            verb(ROOT + key)
        assert raised.value.uri == ROOT + key
    assert az.requests == []


def test_k1_the_request_line_has_the_key_byte_for_byte(az: ScriptedServer) -> None:
    keys = {"a//b": "a//b", "/a": "/a", "a%2F b": "a%252F%20b", "é?#&": "%C3%A9%3F%23%26", "~.a/..b": "~.a/..b", "a.": "a.", "x/": "x/"}
    for key in keys:
        az.then(answer(b"data"))
        assert bytes(s3dlio.get(ROOT + key)) == b"data"
    assert [request.target for request in az.requests] == [f"{PATH}/{sent}" for sent in keys.values()]


@pytest.mark.parametrize("call", ["get", "stat"])
def test_a_container_is_no_object(az: ScriptedServer, call: str) -> None:
    with pytest.raises(s3dlio.NotFoundError):
        getattr(s3dlio, call)(ROOT)
    assert az.requests == []


def test_u5_a_create_only_write_whose_answer_was_lost_finds_its_own_object(az: ScriptedServer) -> None:
    def step(request: Request) -> Handler:
        if request.method == "HEAD":
            tag = az.requests[0].headers["x-ms-meta-s3dlio_write"]
            return Respond(200, {**HEAD, "Content-Length": "4", "x-ms-meta-s3dlio_write": tag})
        return close_before_headers() if len(az.requests) == 1 else az_error(409, "BlobAlreadyExists")

    az.script = step
    store, key = locate(ROOT + "key")
    do(store.put(key, memoryview(b"data"), create_only=True))
    assert [request.method for request in az.requests] == ["PUT", "PUT", "HEAD"]
    assert all(request.headers["if-none-match"] == "*" for request in az.requests[:2])


@pytest.mark.parametrize("tag", [None, "another's"])
def test_u5_a_create_only_write_leaves_the_object_of_another(az: ScriptedServer, tag: str | None) -> None:
    more = {} if tag is None else {"x-ms-meta-s3dlio_write": tag}
    az.then(close_before_headers(), az_error(409, "BlobAlreadyExists"), Respond(200, {**HEAD, "Content-Length": "4", **more}))
    store, key = locate(ROOT + "key")
    with pytest.raises(s3dlio.AlreadyExistsError):
        do(store.put(key, memoryview(b"data"), create_only=True))


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize(("status", "code"), [(412, "ConditionNotMet"), (403, "UnauthorizedBlobOverwrite")])
def test_u5_other_refusals_say_that_there_is_an_object_too(az: ScriptedServer, is_own: bool, status: int, code: str) -> None:
    def step(request: Request) -> Handler:
        if request.method == "HEAD":
            tag = az.requests[0].headers["x-ms-meta-s3dlio_write"] if is_own else "another's"
            return Respond(200, {**HEAD, "Content-Length": "4", "x-ms-meta-s3dlio_write": tag})
        return close_before_headers() if len(az.requests) == 1 else az_error(status, code)

    az.script = step
    store, key = locate(ROOT + "key")
    operation = store.put(key, memoryview(b"data"), create_only=True)
    if is_own:
        do(operation)
    else:
        with pytest.raises(s3dlio.AlreadyExistsError) as raised:
            do(operation)
        assert (raised.value.uri, raised.value.status, raised.value.attempts) == (ROOT + "key", status, 2)


def test_a_prefix_that_is_there_already_is_no_error_however_azure_says_so(az: ScriptedServer) -> None:
    az.then(az_error(409, "BlobAlreadyExists"), az_error(412, "ConditionNotMet"))
    for _ in range(2):
        do(locate(ROOT)[0].make_prefix("dir"))


def test_u5_a_create_only_write_whose_every_answer_was_lost_knows_its_own_object_again(az: ScriptedServer) -> None:
    def step(request: Request) -> Handler:
        tag = az.requests[0].headers["x-ms-meta-s3dlio_write"]
        own = Respond(200, {**HEAD, "Content-Length": "4", "x-ms-meta-s3dlio_write": tag})
        return own if request.method == "HEAD" else reset_before_headers()

    az.script = step
    store, key = locate(ROOT + "key")
    do(store.put(key, memoryview(b"data"), create_only=True))


@pytest.mark.parametrize("is_kept", [False, True], ids=["on a new connection", "on a kept one"])
def test_u5_whoever_may_not_look_is_not_told_that_an_object_of_its_own_is_another_ones(az: ScriptedServer, is_kept: bool) -> None:
    store, key = locate(ROOT + "key")
    if is_kept:
        az.then(Respond(202))
        do(store.delete("other"))
    az.then(close_before_headers(), az_error(409, "BlobAlreadyExists"), az_error(403, "AuthorizationPermissionMismatch"))
    with pytest.raises(s3dlio.PermissionDeniedError, match="nobody says"):
        do(store.put(key, memoryview(b"data"), create_only=True))


def test_who_may_write_and_not_read_writes_all_the_same(az: ScriptedServer) -> None:
    az.script = lambda request: az_error(403, "AuthorizationPermissionMismatch") if request.method == "HEAD" else Respond(201, HEAD)
    store, key = locate(ROOT + "key")
    upload = do(store.begin_upload(key, create_only=True))
    do(upload.put_part(0, memoryview(b"data"), True))
    do(upload.complete())
    az.script = lambda request: az_error(*((403, "AuthorizationFailure") if request.method == "HEAD" else (409, "BlobAlreadyExists")))
    with pytest.raises(s3dlio.AlreadyExistsError):
        do(store.put(key, memoryview(b"data"), create_only=True))


def test_a_payload_is_sent_whole_and_again_from_its_beginning(az: ScriptedServer) -> None:
    data = content("payload", 3_000_000)
    az.then(close_before_headers(), az_error(500, "InternalError"), Respond(201, HEAD))
    s3dlio.put_bytes(ROOT + "key", data)
    assert [request.body for request in az.requests] == [data] * 3


def test_many_threads_have_a_connection_each(az: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    az.script = lambda request: answer(b"data")
    assert all(bytes(view) == b"data" for view in s3dlio.get_many([ROOT + "key"] * 200, max_in_flight=32))
    assert "pool is full" not in caplog.text


def test_i3_bytes_that_changed_on_the_way_are_sent_again(az: ScriptedServer) -> None:
    az.then(az_error(400, "Crc64Mismatch"), Respond(201, HEAD))
    s3dlio.put_bytes(ROOT + "key", b"Hello World!")
    first, second = az.requests
    # 208604604655264165 is what Azure's own tests expect of these bytes; little-endian, in base64.
    assert first.headers["x-ms-content-crc64"] == second.headers["x-ms-content-crc64"] == "peH8Xsgc5QI="
    assert first.body == second.body == b"Hello World!"
    assert first.headers["x-ms-blob-type"] == "BlockBlob"


def test_u4_an_upload_is_blocks_and_a_list_of_them(az: ScriptedServer) -> None:
    num_bytes = 7
    az.script = lambda request: Respond(200, {**HEAD, "Content-Length": str(num_bytes)}) if request.method == "HEAD" else Respond(201, HEAD)
    store, key = locate(ROOT + "key")
    upload = do(store.begin_upload(key))
    do(upload.put_part(1, memoryview(b"56"), True))
    do(upload.put_part(0, memoryview(b"01234"), False))
    do(upload.put_part(0, memoryview(b"01234"), False))
    do(upload.complete())
    blocks = [re.search("blockid=([^&]+)", request.query) for request in az.requests[:3]]
    names = [block[1].replace("%3D", "=") for block in blocks if block]
    assert names[1] == names[2]
    assert {len(name) for name in names} == {64}
    assert f"<Latest>{names[1]}</Latest><Latest>{names[0]}</Latest>".encode() in az.requests[3].body
    assert az.requests[3].query == "comp=blocklist"
    assert [request.method for request in az.requests] == ["PUT"] * 4 + ["HEAD"]
    num_bytes = 8
    with pytest.raises(s3dlio.ProtocolError):
        do(upload.complete())


def test_u2_an_upload_that_is_given_up_sends_nothing_and_may_be_given_up_twice(az: ScriptedServer) -> None:
    store, key = locate(ROOT + "key")
    upload = do(store.begin_upload(key))
    do(upload.abort())
    do(upload.abort())
    assert az.requests == []


def page(names: list[str], marker: str = "") -> Respond:
    blobs = "".join(
        f"<Blob><Name>{name}</Name><Properties><Etag>0x1</Etag><Content-Length>1</Content-Length></Properties></Blob>" for name in names
    )
    text = f"<?xml version='1.0'?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
    return Respond(200, {"Content-Type": "application/xml"}, text.encode())


def test_i11_a_listing_goes_on_behind_an_empty_page(az: ScriptedServer) -> None:
    az.then(page(["a"], "1"), page([], "2 &amp;+"), chunked(10, page(["b", "c"])))
    assert s3dlio.list(ROOT + "x", recursive=True) == [ROOT + name for name in "abc"]
    assert "marker" not in az.requests[0].query
    assert "marker=2%20%26%2B" in az.requests[2].query
    assert "prefix=x" in az.requests[2].query


def test_i11_n12_a_page_that_comes_broken_or_as_an_error_is_asked_for_again(az: ScriptedServer) -> None:
    whole = page(["b"])
    broken = Respond(200, {}, bytes(whole.body)[:-20])
    hidden = Respond(200, {}, b"<Error><Code>OperationTimedOut</Code><Message>late</Message></Error>")
    az.then(page(["a"], "1"), broken, hidden, whole)
    assert s3dlio.list(ROOT, recursive=True) == [ROOT + "a", ROOT + "b"]


def test_i11_what_a_page_repeats_of_the_one_before_is_listed_once(az: ScriptedServer) -> None:
    az.then(page(["a", "b"], "1"), page(["b", "c"]))
    assert s3dlio.list(ROOT, recursive=True) == [ROOT + name for name in "abc"]


def test_i11_a_repeated_marker_is_an_error_and_no_endless_loop(az: ScriptedServer) -> None:
    az.script = lambda request: page(["a"], "again")
    with pytest.raises(s3dlio.ProtocolError):
        s3dlio.list(ROOT, recursive=True)


def test_i11_a_prefix_that_goes_on_behind_an_empty_page_is_listed_once(az: ScriptedServer) -> None:
    prefix = page([]).body.replace(b"<Blobs>", b"<Blobs><BlobPrefix><Name>dir/</Name></BlobPrefix>")  # type: ignore[union-attr]
    first, last = (prefix.replace(b"<NextMarker>", b"<NextMarker>" + marker) for marker in (b"1", b""))
    az.then(Respond(200, {}, first), page([], "2"), Respond(200, {}, last))
    assert s3dlio.list(ROOT, recursive=False) == [ROOT + "dir/"]


def test_k4_a_prefix_that_cannot_be_sent_is_refused(az: ScriptedServer) -> None:
    with pytest.raises(s3dlio.InvalidUriError):
        s3dlio.list(ROOT + "\ud800", recursive=True)
    assert az.requests == []


def test_i12_a_listing_is_sorted_whatever_the_store_says(az: ScriptedServer) -> None:
    az.then(page(["c", "a"], "1"), page(["b"]))
    assert s3dlio.list(ROOT, recursive=True) == [ROOT + name for name in "abc"]


def test_the_containers_of_an_account_are_listed_page_by_page(az: ScriptedServer) -> None:
    def containers(name: str, marker: str) -> Respond:
        text = f"<Containers><Container><Name>{name}</Name></Container></Containers><NextMarker>{marker}</NextMarker>"
        return Respond(200, {}, f"<EnumerationResults>{text}</EnumerationResults>".encode())

    for uri in ("az://account", "az://account/container/key", "az://"):
        az.then(containers("a", "m"), containers("b", ""))
        assert [found.uri for found in do(list_containers(uri))] == ["az://account/a/", "az://account/b/"]
    assert {request.path for request in az.requests} == {"/account/"}


def test_a_list_of_containers_needs_an_account(az: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT")
    with pytest.raises(s3dlio.InvalidUriError):
        s3dlio.list_containers("az://")


def test_a_full_container_is_not_deleted(az: ScriptedServer) -> None:
    az.then(page([], "1"), page(["a"]))
    store, _ = locate(ROOT)
    with pytest.raises(s3dlio.RequestRejectedError):
        do(store.delete_bucket())
    assert {request.method for request in az.requests} == {"GET"}


def test_i11_a_container_whose_listing_never_ends_is_not_deleted(az: ScriptedServer) -> None:
    az.script = lambda request: page([], "again")
    with pytest.raises(s3dlio.ProtocolError):
        do(locate(ROOT)[0].delete_bucket())
    assert {request.method for request in az.requests} == {"GET"}


def test_a_container_whose_deletion_was_answered_to_nobody_is_gone(az: ScriptedServer) -> None:
    az.then(page([]), close_before_headers(), az_error(404, "ContainerNotFound"))
    do(locate(ROOT)[0].delete_bucket())
    az.then(az_error(404, "ContainerNotFound"))
    with pytest.raises(s3dlio.NotFoundError):
        do(locate(ROOT)[0].delete_bucket())


def test_a_copy_that_takes_its_time_is_waited_for(az: ScriptedServer) -> None:
    pending, done, other = (
        {**HEAD, "Content-Length": "0", "x-ms-copy-id": name, "x-ms-copy-status": status}
        for name, status in (("1", "pending"), ("1", "success"), ("1", "failed"))
    )
    az.then(Respond(202, pending), Respond(200, pending), Respond(200, done))
    store, key = locate(ROOT + "copy")
    assert do(store.copy(key, store, "source")) is True
    assert [request.method for request in az.requests] == ["PUT", "HEAD", "HEAD"]
    assert az.requests[0].headers["x-ms-copy-source"] == f"http://127.0.0.1:{az.port}{PATH}/source"
    az.then(Respond(202, pending), Respond(200, other))
    with pytest.raises(s3dlio.ProtocolError):
        do(store.copy(key, store, "source"))


def test_a_copy_that_takes_long_is_asked_for_with_pauses_and_not_for_ever(az: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure_ops, "_MAX_WAITS", 2)
    pauses: list[int] = []
    monkeypatch.setattr(delayed, "backoff_s", lambda error, failures, limits: pauses.append(failures) or 0.0)
    about = {**HEAD, "Content-Length": "0", "x-ms-copy-id": "1", "x-ms-copy-status": "pending"}
    az.script = lambda request: Respond(202 if request.method == "PUT" else 200, about)
    store, key = locate(ROOT + "copy")
    with pytest.raises(s3dlio.StoreTimeoutError) as raised:
        do(store.copy(key, store, "source"))
    assert type(raised.value) is s3dlio.StoreTimeoutError
    assert [request.method for request in az.requests] == ["PUT", *["HEAD"] * 6]
    assert pauses == [1, 2, 3] * 2


def test_a_copy_from_another_store_or_account_is_left_to_others(az: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store, key = locate(ROOT + "copy")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "account2")
    assert do(store.copy(key, locate("az://account2/container/key")[0], "key")) is False
    assert do(store.copy(key, locate("memory://bucket/key")[0], "key")) is False
    assert az.requests == []


def test_requests_go_through_the_proxy_of_the_environment(
    az: ScriptedServer, azure_env: Callable[[AzureEndpoint], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the proxy could find this host.
    azure_env(AzureEndpoint("http://storage.test:80", ACCOUNT, KEY))
    s3dlio.configure(fast_lane=None)
    monkeypatch.setenv("http_proxy", az.url)
    az.then(answer())
    assert bytes(s3dlio.get(ROOT + "key")) == DATA
    # Such a host is the account's own, so the path does not begin with the account.
    assert az.requests[0].target == "http://storage.test/container/key"
    assert "azsdk-python" in az.requests[0].headers["user-agent"]


FAILING: dict[str, list[Handler]] = {
    "404": [az_error(404, "BlobNotFound")],
    "403": [az_error(403, "AuthenticationFailed")],
    "500": [az_error(500, "InternalError")] * 3,
    "reset": [reset_before_headers()] * 3,
    "cut": [cut_after(0, answer())] * 3,
    "too long": [extra_bytes(5, answer())] * 3,
}


@pytest.mark.parametrize("secret", ["key", "sas"])
@pytest.mark.parametrize("how", ["404", "403", "500", "reset", "cut"])
def test_a5_no_failing_request_shows_a_secret(
    az: ScriptedServer, monkeypatch: pytest.MonkeyPatch, log: io.StringIO, secret: str, how: str
) -> None:
    if secret == "sas":
        monkeypatch.delenv("AZURE_STORAGE_KEY")
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", SAS)
    store, key = locate(ROOT + "key")
    for attempt in (lambda: s3dlio.get(ROOT + "key"), lambda: do(store.copy("other", store, key)), lambda: s3dlio.stat(ROOT + "key")):
        # A HEAD has no body that could be cut.
        az.then(*[reset_before_headers() if how == "cut" else step for step in FAILING[how]])
        with pytest.raises(s3dlio.S3dlioError) as raised:
            attempt()
        assert_clean(texts_of(raised.value) + log.getvalue() + repr(store.spec), az.requests[-1].headers.get("authorization"))
    assert (SAS in az.requests[0].query) == (secret == "sas")


@pytest.mark.parametrize(
    "given",
    [{"AZURE_STORAGE_KEY": "CANARY!"}, {"AZURE_STORAGE_SAS_TOKEN": "CANARY"}, {"AZURE_STORAGE_ACCOUNT": "other"},
     {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=other;AccountKey={KEY}"}, {"AZURE_STORAGE_CONNECTION_STRING": f"AccountKey={KEY}"},
     {"AZURE_STORAGE_CONNECTION_STRING": "CANARY"}, {"AZURE_STORAGE_ENDPOINT": f"https://account.blob.core.windows.net/?{SAS}"},
     {"AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint=https://account.blob.core.windows.net/?{SAS}"}],
    ids=["key", "sas", "account", "account of a string", "string without account", "string", "endpoint", "endpoint of a string"],
)  # fmt: skip
def test_a5_credentials_that_cannot_be_used_are_not_shown(
    az: ScriptedServer, lane: str, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    if "AZURE_STORAGE_SAS_TOKEN" in given:
        monkeypatch.delenv("AZURE_STORAGE_KEY")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(s3dlio.S3dlioError) as raised:
        s3dlio.get(ROOT + "key")
    assert isinstance(raised.value, s3dlio.ConfigurationError | s3dlio.AuthenticationError)
    assert_clean(texts_of(raised.value))
    assert az.requests == []


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that any logger says at DEBUG."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.setLevel(level)
    root.removeHandler(handler)


def texts_of(error: BaseException) -> str:
    """Returns every text that an error may end up as."""
    found = traceback.TracebackException.from_exception(error, capture_locals=True)
    # The test's own frames hold what it planted.
    frames = "".join(repr(vars_of) for frame in found.stack if frame.filename != __file__ for vars_of in (frame.locals, frame.line))
    return "\n".join([str(error), repr(error), frames, pickle.dumps(error).decode("latin-1"), repr(vars(error))])


def assert_clean(text: str, *more: str | None) -> None:
    for secret in (KEY, "CANARY", *more):
        assert secret is None or secret not in text


class TestTokens:
    """Bearer tokens of azure-identity, over TLS."""

    URI = "az://account/container/key"

    @pytest.fixture
    def tokens(self, scripted_server: ScriptedServer, clean_aws_env: None, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
        """An identity service of the machine, as App Service has it; it gives `token-1`, `token-2`, ..."""

        def step(request: Request) -> Handler:
            assert request.headers["x-identity-header"] == "secret"
            ends = int(datetime.now(UTC).timestamp()) + 7200
            token = f"token-{len(scripted_server.requests)}"
            body = {"access_token": token, "expires_on": str(ends), "resource": "r", "token_type": "Bearer"}
            return Respond(200, {"Content-Type": "application/json"}, msgspec.json.encode(body))

        scripted_server.script = step
        monkeypatch.setenv("IDENTITY_ENDPOINT", scripted_server.url + "/token")
        monkeypatch.setenv("IDENTITY_HEADER", "secret")
        return scripted_server

    @pytest.fixture
    def secure(self, tokens: ScriptedServer, lane: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
        """A store under TLS."""
        from s3dlio.engine.fetch import tls
        from tests.support.tls_server import TlsObjectServer

        authority = Authority(tmp_path)
        with TlsObjectServer(authority.context("127.0.0.1")) as server:
            monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", server.url)
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.bundle)
            monkeypatch.setattr(renewal, "_PAUSE_S", 0.05)
            yield server
            s3dlio.shutdown()
        tls.forget_contexts()

    def test_a2_a_token_that_the_store_refuses_is_fetched_anew_once(self, secure: ScriptedServer, tokens: ScriptedServer) -> None:
        def step(request: Request) -> Handler:
            if request.headers["authorization"] == "Bearer token-1":
                return az_error(401, "InvalidAuthenticationInfo", {"Retry-After": "0"})
            return answer()

        s3dlio.configure(max_attempts=50, backoff_initial_s=0.05)
        secure.script = step
        assert bytes(s3dlio.get(self.URI)) == DATA
        assert secure.requests[0].headers["x-ms-version"]
        assert secure.requests[-1].headers["authorization"] == "Bearer token-2"
        assert len(tokens.requests) == 2

    def test_a2_a_refused_token_without_a_successor_is_refused_for_good(self, secure: ScriptedServer, tokens: ScriptedServer) -> None:
        ends = str(int(datetime.now(UTC).timestamp()) + 7200)
        body = msgspec.json.encode({"access_token": "token-1", "expires_on": ends, "resource": "r", "token_type": "Bearer"})
        tokens.script = lambda request: Respond(200, {"Content-Type": "application/json"}, body)
        secure.script = lambda request: az_error(401, "InvalidAuthenticationInfo", {"Retry-After": "0"})
        s3dlio.configure(max_attempts=50, backoff_initial_s=0.05)
        with pytest.raises(s3dlio.PermissionDeniedError) as raised:
            s3dlio.get(self.URI)
        assert not isinstance(raised.value, s3dlio.ExpiredCredentialsError)
        assert len(secure.requests) < 50

    def test_a1_a_token_without_a_role_is_refused_and_says_where_it_came_from(self, secure: ScriptedServer, tokens: ScriptedServer) -> None:
        secure.script = lambda request: az_error(403, "AuthorizationPermissionMismatch")
        with pytest.raises(s3dlio.PermissionDeniedError) as raised:
            s3dlio.get(self.URI)
        assert "azure-identity" in str(raised.value)
        assert "Storage Blob Data" in str(raised.value)
        assert "token-1" not in texts_of(raised.value)

    def test_a4_a_service_that_gives_no_token_is_an_error(self, secure: ScriptedServer, tokens: ScriptedServer) -> None:
        tokens.script = lambda request: Respond(400, {}, b'{"CANARY": 1}')
        with pytest.raises(s3dlio.AuthenticationError) as raised:
            s3dlio.get(self.URI)
        assert_clean(texts_of(raised.value))

    def test_a5_a_token_is_never_sent_in_the_clear(
        self, tokens: ScriptedServer, lane: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1")
        assert azure_config.resolve_container("account/container").token is None
        assert tokens.requests == []
