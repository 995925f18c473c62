"""The SDK lane: what is exact and calm on the fast one is so here too, and it takes over where it must (N16, and cases of both lanes)."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import s3dlio
import s3dlio.engine.ops.lifecycle  # The kit ends the engine through it, as soon as it is loaded.
from s3dlio.engine.fetch import threads
from tests.fault.test_checksums import serve
from tests.process.kit import content
from tests.support.answers import (
    Respond,
    chunked,
    close_before_headers,
    cut_after,
    extra_bytes,
    flipped,
    raw,
    reset_after,
    reset_before_headers,
    s3_error,
    stall_after,
    stall_before_headers,
)
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import Handler, Request, ScriptedServer

PATH, URI = "/bucket/key", "s3://bucket/key"
DATA = content("key", 3_000_000)
Read = Callable[[str], Any]


def is_sdk(request: Request) -> bool:
    return "botocore" in request.headers.get("user-agent", "").lower()


@pytest.fixture
def slow(served: ObjectServer) -> ObjectServer:
    """The honest server, asked by botocore; the object stands at `URI`."""
    s3dlio.configure(fast_lane=False)
    served.objects[PATH] = DATA
    return served


@pytest.fixture(params=["get", "inline", "workers"])
def read(request: pytest.FixtureRequest, served: ObjectServer) -> Iterator[Read]:
    """Reads one object: by `get`, by the inline pool, or by worker processes."""
    if request.param == "get":
        yield s3dlio.get
        return
    pools: list[s3dlio.Pool] = []

    def by_pool(uri: str) -> Any:
        if not pools:
            pools.append(s3dlio.Pool(procs=int(request.param == "workers"), jobs=4, memory_bytes="64MiB"))
        return next(iter(pools[0].fetch([uri])))[1]

    yield by_pool
    for pool in pools:
        pool.close()


def test_the_environment_forces_it_everywhere(served: ObjectServer, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DLIO_FAST_LANE", "0")
    s3dlio.configure(fast_lane=None)
    served.objects[PATH] = DATA
    assert bytes(read(URI)) == DATA
    assert s3dlio.stat(URI)["size"] == len(DATA)
    assert all(is_sdk(request) for request in served.requests)


def test_the_first_request_says_that_it_goes_there_and_why(
    slow: ObjectServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "s3dlio"):
        slow.objects["/told/key"] = b"data"
        for _ in range(3):
            assert bytes(s3dlio.get("s3://told/key")) == b"data"
    told = [record.getMessage() for record in caplog.records if "made by botocore" in record.getMessage()]
    assert told == ["requests to s3://told/ are made by botocore, in threads, which costs more time: fast_lane is switched off"]


@pytest.mark.parametrize("fault", [reset_after(1_000_000), cut_after(1_500_000)], ids=["reset", "end"])
def test_n3_n4_a_broken_body_is_resumed_from_the_last_byte_of_the_same_version(slow: ObjectServer, read: Read, fault: Handler) -> None:
    slow.faults[PATH] = [fault]
    assert bytes(read(URI)) == DATA
    again = slow.requests_of(PATH)[1].headers
    if "range" in again:
        assert again["if-match"].strip('"') == slow.etag(PATH).strip('"')


@pytest.mark.parametrize(
    "fault", [reset_before_headers(), close_before_headers(), s3_error(503, "SlowDown"), s3_error(500, "InternalError")]
)
def test_n2_n9_what_may_pass_is_tried_again(slow: ObjectServer, read: Read, fault: Handler) -> None:
    slow.faults[PATH] = [fault]
    assert bytes(read(URI)) == DATA
    assert len(slow.requests_of(PATH)) == 2


def test_n4_a_body_that_always_ends_early_is_an_error(slow: ObjectServer, read: Read) -> None:
    slow.faults[PATH] = [cut_after(0)] * 20
    with pytest.raises(s3dlio.TruncatedBodyError) as caught:
        read(URI)
    assert (caught.value.uri, caught.value.attempts) == (URI, 3)


def test_n5_extra_bytes_are_not_taken(slow: ObjectServer, read: Read) -> None:
    slow.faults[PATH] = [extra_bytes(5000)]
    assert bytes(read(URI)) == DATA


def test_n7_a_chunked_body_is_taken_if_it_is_whole(slow: ObjectServer, read: Read) -> None:
    slow.faults[PATH] = [chunked(100_000)]
    assert bytes(read(URI)) == DATA


@pytest.mark.parametrize("num", [None, 1000])
def test_n13_silence_is_a_timeout_that_names_the_object(slow: ObjectServer, read: Read, num: int | None) -> None:
    s3dlio.configure(max_attempts=2)
    over = threading.Event()
    slow.faults[PATH] = [stall_before_headers(over) if num is None else stall_after(num, over)] * 5
    with pytest.raises(s3dlio.StoreTimeoutError) as caught:
        read(URI)
    over.set()
    assert caught.value.uri == URI


def test_n13_the_deadline_ends_what_botocore_still_waits_for(slow: ObjectServer) -> None:
    s3dlio.configure(first_byte_timeout_s=5, silence_timeout_s=5, deadline_s=0.7)
    over = threading.Event()
    slow.faults[PATH] = [stall_before_headers(over)]
    with pytest.raises(s3dlio.StoreTimeoutError, match="before its deadline"):
        s3dlio.get(URI)
    over.set()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (s3_error(404, "NoSuchKey"), s3dlio.NotFoundError),
        (s3_error(403, "AccessDenied"), s3dlio.PermissionDeniedError),
        (s3_error(403, "SignatureDoesNotMatch"), s3dlio.PermissionDeniedError),
        (s3_error(412, "PreconditionFailed"), s3dlio.ObjectChangedError),
        (s3_error(400, "InvalidRequest"), s3dlio.RequestRejectedError),
    ],
)
def test_a1_a_refusal_is_the_same_error_as_on_the_fast_lane(
    slow: ObjectServer, read: Read, answer: Respond, kind: type[s3dlio.S3dlioError]
) -> None:
    slow.faults[PATH] = [answer] * 3
    with pytest.raises(kind) as caught:
        read(URI)
    assert type(caught.value) is kind
    assert (caught.value.uri, caught.value.status, caught.value.request_id) == (URI, answer.status, "SCRIPTED")
    assert len(slow.requests_of(PATH)) == (2 if answer.status == 412 else 1)


def test_i1_i3_an_object_that_changes_under_a_read_is_read_anew(slow: ObjectServer, read: Read) -> None:
    new = content("new", 2_000_000)

    def change(request: Request, connection: Any) -> None:
        answer = slow.honest(request)
        slow.objects[PATH] = new
        reset_after(1_500_000, answer)(request, connection)

    slow.faults[PATH] = [change]
    assert bytes(read(URI)) == new


def test_i4_a_flipped_bit_is_noticed(slow: ObjectServer, read: Read) -> None:
    serve(slow, DATA)
    slow.faults[PATH] = [flipped(1_234_567)]
    assert bytes(read(URI)) == DATA
    slow.faults[PATH] = [flipped(0)] * 20
    with pytest.raises(s3dlio.ChecksumMismatchError):
        read(URI)


def test_i8_i9_empty_objects_and_ranges(slow: ObjectServer) -> None:
    slow.objects["/bucket/empty"] = b""
    assert bytes(s3dlio.get("s3://bucket/empty")) == b""
    assert bytes(s3dlio.get_range(URI, 100, 50)) == DATA[100:150]
    assert bytes(s3dlio.get_range(URI, len(DATA))) == b""
    with pytest.raises(s3dlio.InvalidRangeError):
        s3dlio.get_range(URI, len(DATA) + 1)


def test_large_objects_are_read_in_parts(slow: ObjectServer) -> None:
    s3dlio.configure(part_bytes="512KiB", split_above_bytes="1MiB")
    with s3dlio.Pool(procs=2, jobs=8, memory_bytes="64MiB") as pool:
        assert [bytes(view) for _, view in pool.fetch([URI, s3dlio.ObjectRef(URI, len(DATA))])] == [DATA] * 2
    assert any("range" in request.headers for request in slow.requests_of(PATH))


def test_a_call_that_hangs_holds_up_no_other_caller(slow: ObjectServer) -> None:
    s3dlio.configure(first_byte_timeout_s=20, silence_timeout_s=20, deadline_s=30)
    over = threading.Event()
    slow.objects["/bucket/other"] = b"data"
    slow.faults[PATH] = [stall_before_headers(over)]
    thread = threading.Thread(target=s3dlio.get, args=(URI,))
    thread.start()
    assert [bytes(view) for view in s3dlio.get_many(["s3://bucket/other"] * 20)] == [b"data"] * 20
    assert thread.is_alive()
    over.set()
    thread.join(20)
    assert not thread.is_alive()


def test_a_pool_that_is_closed_amid_calls_leaves_nothing(slow: ObjectServer) -> None:
    over = threading.Event()
    for index in range(50):
        slow.objects[f"/bucket/{index}"] = content(str(index), 1000)
        slow.faults[f"/bucket/{index}"] = [stall_after(500, over)] * 3
    with s3dlio.Pool(procs=0, jobs=8, memory_bytes="64MiB") as pool:
        found = pool.fetch([f"s3://bucket/{index}" for index in range(50)])
        threading.Timer(0.3, over.set).start()
        next(found)
    assert bytes(s3dlio.get(URI)) == DATA


@pytest.fixture
def proxy(served: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A proxy in front of `store.test`, which only it can find."""

    def forward(request: Request) -> Handler:
        assert request.target.startswith("http://store.test/")
        path = request.target.removeprefix("http://store.test")
        return served.honest(Request(request.line, request.method, path, request.headers, request.body, 1, 0.0))

    with ScriptedServer(forward) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.test")
        monkeypatch.setenv("HTTP_PROXY", found.url)
        monkeypatch.setenv("http_proxy", found.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield found
        s3dlio.shutdown()


def test_requests_go_through_the_proxy_of_the_environment(served: ObjectServer, proxy: ScriptedServer, read: Read) -> None:
    served.objects[PATH] = DATA
    assert bytes(read(URI)) == DATA
    assert s3dlio.stat(URI)["size"] == len(DATA)
    assert all(is_sdk(request) for request in proxy.requests)


def test_what_no_proxy_names_stays_on_the_fast_lane(
    served: ObjectServer, proxy: ScriptedServer, s3_env: Callable[[str], None]
) -> None:
    served.objects[PATH] = DATA
    s3_env(served.url)
    assert bytes(s3dlio.get(URI)) == DATA
    assert proxy.requests == []
    assert not any(is_sdk(request) for request in served.requests)


def redirecting(server: ObjectServer, region: str) -> Callable[[Request], Handler]:
    """Answers only what is signed for `region`, and tells others of it, as S3 does."""

    def step(request: Request) -> Handler:
        if f"/{region}/s3/" in request.headers.get("authorization", ""):
            return server.honest(request)
        return s3_error(301, "PermanentRedirect", {"x-amz-bucket-region": region})

    return step


@pytest.mark.parametrize("verb", ["get", "pool", "stat", "list"])
def test_n16_a_bucket_in_another_region_is_found(served: ObjectServer, read: Read, verb: str) -> None:
    served.objects[PATH] = DATA
    served.script = redirecting(served, "eu-west-3")
    if verb == "stat":
        assert s3dlio.stat(URI)["size"] == len(DATA)
    elif verb == "list":
        inner = served.script
        page = b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>key</Key><Size>3</Size></Contents></ListBucketResult>"

        def step(request: Request) -> Handler:
            found = inner(request)
            return Respond(200, {}, page) if "list-type" in request.query and getattr(found, "status", 0) != 301 else found

        served.script = step
        assert s3dlio.list("s3://bucket/") == [URI]
    for _ in range(3):
        assert bytes(read(URI)) == DATA
    num_refused = sum("/us-east-1/s3/" in request.headers["authorization"] for request in served.requests)
    assert num_refused <= 3, "once it is known, nobody asks in the wrong region"


@pytest.mark.parametrize("status", [301, 302, 307])
def test_n16_a_signature_is_never_sent_to_another_host(served: ObjectServer, read: Read, status: int) -> None:
    with ScriptedServer(lambda _request: Respond(200, {"ETag": '"1"'}, b"stolen")) as other:
        served.script = lambda _request: s3_error(status, "Redirect", {"Location": f"{other.url}/bucket/key"})
        with pytest.raises(s3dlio.BucketElsewhereError, match="such redirects are not followed") as caught:
            read(URI)
        assert (caught.value.uri, caught.value.status) == (URI, status)
        assert other.requests == []
    assert len(served.requests) <= 6


def test_n16_a_redirect_that_leads_back_ends(served: ObjectServer, read: Read) -> None:
    served.script = lambda request: s3_error(
        301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1" if "us-east-1" in request.headers["authorization"] else "us-east-1"}
    )
    with pytest.raises(s3dlio.BucketElsewhereError, match="the bucket is in region"):
        read(URI)
    assert len(served.requests) <= 6


def test_requester_pays_is_said_with_every_request(served: ObjectServer, read: Read) -> None:
    s3dlio.configure(s3_requester_pays=True)
    served.objects[PATH] = DATA
    assert bytes(read(URI)) == DATA
    assert s3dlio.stat(URI)["size"] == len(DATA)
    assert all(request.headers["x-amz-request-payer"] == "requester" for request in served.requests)


def test_a_customer_key_goes_with_every_request_and_is_never_shown(
    served: ObjectServer, read: Read, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    monkeypatch.setenv("S3DLIO_SSE_CUSTOMER_KEY", key)
    served.objects[PATH] = DATA
    with caplog.at_level(logging.DEBUG):
        assert bytes(read(URI)) == DATA
        assert s3dlio.stat(URI)["size"] == len(DATA)
    assert all(request.headers["x-amz-server-side-encryption-customer-key"] == key for request in served.requests)
    assert key not in caplog.text
    caplog.clear()


def test_a_customer_key_that_is_none_is_refused_without_showing_it(served: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DLIO_SSE_CUSTOMER_KEY", "c2VjcmV0")
    with pytest.raises(s3dlio.ConfigurationError, match="32 bytes in base64") as caught:
        s3dlio.get(URI)
    assert "c2VjcmV0" not in str(caught.value)


def test_a_directory_bucket_is_read_by_sessions(served: ObjectServer, read: Read) -> None:
    served.objects["/fast--use1-az4--x-s3/key"] = DATA
    session = (
        b"<CreateSessionResult><Credentials><SessionToken>TEMPORARY</SessionToken><SecretAccessKey>s</SecretAccessKey>"
        b"<AccessKeyId>SESSION</AccessKeyId><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></CreateSessionResult>"
    )
    served.script = lambda request: Respond(200, {}, session) if "session" in request.query else served.honest(request)
    assert bytes(read("s3://fast--use1-az4--x-s3/key")) == DATA
    reads = served.requests_of("/fast--use1-az4--x-s3/key")
    assert all(request.headers["x-amz-s3session-token"] == "TEMPORARY" for request in reads)


def test_a5_at_debug_level_nothing_secret_is_logged(
    slow: ObjectServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "TOKENCANARY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETCANARY")
    with caplog.at_level(logging.DEBUG):
        assert bytes(s3dlio.get(URI)) == DATA
        s3dlio.stat(URI)
        slow.faults[PATH] = [s3_error(403, "AccessDenied")] * 2
        with pytest.raises(s3dlio.PermissionDeniedError):
            s3dlio.get(URI)
    assert "CANARY" not in caplog.text
    assert "Signature=" not in caplog.text
    assert slow.requests[0].headers["x-amz-security-token"] == "TOKENCANARY"
    caplog.clear()


def stalling(num: int, over: threading.Event, server: ObjectServer) -> None:
    server.faults[PATH] = [stall_after(num, over)] * 5


def test_n13_neither_deadline_nor_cancellation_waits_for_a_body_that_stalls(slow: ObjectServer) -> None:
    s3dlio.configure(first_byte_timeout_s=20, silence_timeout_s=20, deadline_s=0.7)
    over = threading.Event()
    stalling(1000, over, slow)
    begun_s = time.monotonic()
    with pytest.raises(s3dlio.StoreTimeoutError, match="before its deadline"):
        s3dlio.get(URI)
    assert time.monotonic() - begun_s < 4

    async def cancel() -> float:
        task = asyncio.ensure_future(s3dlio.get_async(URI))
        await asyncio.sleep(0.3)
        begun_s = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - begun_s

    s3dlio.configure(deadline_s=30)
    assert asyncio.run(cancel()) < 3
    over.set()


def test_the_awaited_verbs_take_the_lane_too(slow: ObjectServer) -> None:
    async def all_of_them() -> None:
        assert bytes(await s3dlio.get_async(URI)) == DATA
        assert [bytes(view) for view in await s3dlio.get_many_async([URI] * 5)] == [DATA] * 5
        assert (await s3dlio.stat_async(URI))["size"] == len(DATA)
        assert await s3dlio.exists_async(URI)

    asyncio.run(all_of_them())
    assert all(is_sdk(request) for request in slow.requests)


def test_a_body_without_length_or_chunks_is_never_taken_for_the_object(slow: ObjectServer, read: Read) -> None:
    slow.faults[PATH] = [raw(b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nConnection: close\r\n\r\n" + DATA[:1000])] * 10
    with pytest.raises(s3dlio.ProtocolError):
        read(URI)


@pytest.mark.parametrize(
    "page",
    [b"", b"<html>Log in</html>", b"<ListBucketResult><Contents><Key>k</Key></Contents></ListBucketResult>"],
    ids=["empty", "another page", "an entry without a size"],
)
def test_i11_a_listing_that_is_none_is_an_error_and_not_an_empty_one(slow: ObjectServer, page: bytes) -> None:
    slow.script = lambda _request: Respond(200, {"Content-Type": "application/xml"}, page)
    with pytest.raises(s3dlio.ProtocolError):
        s3dlio.list("s3://bucket/")


def test_n16_a_move_is_found_by_all_callers_and_paid_for_once(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    served.script = redirecting(served, "eu-west-3")
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(s3dlio.stat(URI)["size"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [len(DATA)] * 8
    num_before = len(served.requests)
    for _ in range(20):
        assert bytes(s3dlio.get(URI)) == DATA
    assert len(served.requests) == num_before + 20


def test_n16_a_region_that_is_none_does_not_spoil_the_bucket(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    s3dlio.stat(URI)
    served.faults[PATH] = [s3_error(301, "PermanentRedirect", {"x-amz-bucket-region": "not a region!"})] * 2
    with pytest.raises(s3dlio.BucketElsewhereError):
        s3dlio.get(URI)
    assert bytes(s3dlio.get(URI)) == DATA


def test_the_profile_of_the_environment_is_no_hindrance(
    slow: ObjectServer, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text("[research]\naws_access_key_id = k\naws_secret_access_key = s\n")
    (tmp_path / "credentials").chmod(0o600)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "research")
    assert bytes(read(URI)) == DATA
    assert "Credential=k/" in slow.requests[0].headers["authorization"]


def test_p10_a_forked_child_shares_no_connection_of_the_client(slow: ObjectServer) -> None:
    slow.objects["/bucket/parent"], slow.objects["/bucket/child"] = b"P" * 1000, b"C" * 1000
    assert bytes(s3dlio.get("s3://bucket/parent")) == b"P" * 1000
    num_before = slow.num_connections
    for _ in range(3):
        pid = os.fork()
        if not pid:
            try:
                os._exit(0 if bytes(s3dlio.get("s3://bucket/child")) == b"C" * 1000 else 1)
            finally:
                os._exit(2)
        assert bytes(s3dlio.get("s3://bucket/parent")) == b"P" * 1000
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert slow.num_connections == num_before + 3, "each child has its own"


def test_a_put_that_was_given_up_is_not_made_later(slow: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MAX_THREADS", 2)
    s3dlio.configure(first_byte_timeout_s=20, silence_timeout_s=20, deadline_s=1)
    over = threading.Event()
    slow.faults[PATH] = [stall_before_headers(over)] * 2
    readers = [threading.Thread(target=lambda: s3dlio.get_many([URI], errors="return")) for _ in range(2)]
    for reader in readers:
        reader.start()
    while len(slow.requests) < 2:
        threading.Event().wait(0.01)
    data = bytearray(b"first")
    with pytest.raises(s3dlio.StoreTimeoutError):
        s3dlio.put_bytes("s3://bucket/late", data)
    data[:] = b"other"
    over.set()
    for reader in readers:
        reader.join(20)
    s3dlio.configure(deadline_s=20)
    assert bytes(s3dlio.get(URI)) == DATA
    assert not [request for request in slow.requests if request.method == "PUT"]
