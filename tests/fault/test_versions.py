"""One version or an error: servers that ignore If-Match, objects that change, shrink, or are empty (I2, I3, I8, I9)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.types import ObjectRef
from tests.support.answers import Respond, reset_after, s3_error
from tests.support.moto_server import MotoServer
from tests.support.object_server import ObjectServer
from tests.support.rclone_server import RcloneServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Connection, Request

URI, PATH = "s3://bucket/key", "/bucket/key"
SIZE = 100_000
OLD = random.Random(1).randbytes(SIZE)
NEW = random.Random(2).randbytes(SIZE)
SHORT = random.Random(3).randbytes(30_000)


def read_pinned(size: int | None, version: str | None) -> Any:
    (found,) = s3dlio.get_many([ObjectRef(URI, size, version)], errors="return")
    return found


def change_after(server: ObjectServer, num_bytes: int, data: bytes) -> Callable[[Request, Connection], None]:
    """Sends `num_bytes` of the object as it is, replaces it by `data`, and breaks off."""

    def handle(request: Request, connection: Connection) -> None:
        answer = server.honest(request)
        server.objects[PATH] = data
        reset_after(num_bytes, answer)(request, connection)

    return handle


def ignoring_if_match(server: ObjectServer) -> Callable[[Request, Connection], None]:
    """Answers ranges honestly, and leaves If-Match unread."""

    def handle(request: Request, connection: Connection) -> None:
        headers = {name: value for name, value in request.headers.items() if name != "if-match"}
        server.honest(Request(request.line, request.method, request.target, headers, b"", 1, 0.0))(request, connection)

    return handle


def test_i3_a_pinned_read_of_another_version_is_a_changed_object(served: ObjectServer) -> None:
    served.objects[PATH] = NEW
    found = read_pinned(SIZE, "0123")
    assert isinstance(found, s3dlio.ObjectChangedError)
    assert (found.uri, found.status, len(served.requests)) == (URI, 412, 1)
    assert served.requests[0].headers["if-match"] == '"0123"'


def test_i3_a_server_that_ignores_if_match_is_found_out_by_the_etag(served: ObjectServer) -> None:
    served.objects[PATH] = NEW
    served.faults[PATH] = [ignoring_if_match(served)]
    found = read_pinned(SIZE, "0123")
    assert isinstance(found, s3dlio.ObjectChangedError)
    assert (found.uri, len(served.requests)) == (URI, 1)


def test_i3_a_pinned_read_of_the_right_version_succeeds(served: ObjectServer) -> None:
    served.objects[PATH] = OLD
    assert bytes(read_pinned(SIZE, served.etag(PATH).strip('"'))) == OLD


def test_i3_a_weak_version_is_compared_and_not_sent(served: ObjectServer) -> None:
    served.faults[PATH] = [Respond(200, {"ETag": 'W/"a"'}, OLD), Respond(200, {"ETag": 'W/"b"'}, OLD)]
    assert bytes(read_pinned(SIZE, "W/a")) == OLD
    assert isinstance(read_pinned(SIZE, "W/a"), s3dlio.ObjectChangedError)
    assert all("if-match" not in request.headers for request in served.requests)


def test_a_size_alone_is_a_pin_too(served: ObjectServer) -> None:
    served.objects[PATH] = OLD
    assert bytes(read_pinned(SIZE, None)) == OLD
    for size in (0, SIZE - 1, SIZE + 1):
        assert isinstance(read_pinned(size, None), s3dlio.ObjectChangedError)


@pytest.mark.parametrize("is_ignoring", [False, True], ids=["412", "If-Match ignored"])
@pytest.mark.parametrize("data", [NEW, SHORT, OLD + NEW, b""], ids=["same size", "shorter", "longer", "empty"])
@pytest.mark.parametrize("position", [0, 1, 50_000, SIZE - 1])
def test_i1_an_unpinned_object_that_changes_is_read_again_from_the_start(
    served: ObjectServer, is_ignoring: bool, data: bytes, position: int
) -> None:
    served.objects[PATH] = OLD
    served.faults[PATH] = [change_after(served, position, data), *[ignoring_if_match(served)] * (2 if is_ignoring else 0)]
    assert bytes(s3dlio.get(URI)) == data
    assert "range" not in served.requests[-1].headers
    assert "if-match" not in served.requests[-1].headers


@pytest.mark.parametrize("data", [NEW, SHORT, OLD + NEW, b""], ids=["same size", "shorter", "longer", "empty"])
@pytest.mark.parametrize("is_ignoring", [False, True], ids=["412", "If-Match ignored"])
def test_i1_a_pinned_object_that_changes_is_an_error_and_never_a_mixture(
    served: ObjectServer, is_ignoring: bool, data: bytes
) -> None:
    served.objects[PATH] = OLD
    version = served.etag(PATH).strip('"')
    served.faults[PATH] = [change_after(served, 50_000, data), *[ignoring_if_match(served)] * (2 if is_ignoring else 0)]
    found = read_pinned(SIZE, version)
    assert isinstance(found, s3dlio.ObjectChangedError), repr(found)
    assert found.uri == URI


def test_i1_an_object_that_changes_again_and_again_is_an_error(served: ObjectServer) -> None:
    served.objects[PATH] = OLD
    served.faults[PATH] = [change_after(served, 1000, NEW), change_after(served, 1000, OLD), change_after(served, 1000, NEW)]
    with pytest.raises(s3dlio.ObjectChangedError):
        s3dlio.get(URI)


def test_i1_without_any_version_two_halves_are_never_put_together(served: ObjectServer) -> None:
    # No ETag and the same size: nothing can tell the versions apart, so a broken read begins again.
    served.objects[PATH] = OLD
    half = reset_after(50_000, Respond(200, {}, OLD))
    rest = Respond(206, {"Content-Range": f"bytes 50000-99999/{SIZE}"}, NEW[50_000:])
    whole = Respond(200, {}, NEW)

    def whatever_is_asked_for(request: Request, connection: Connection) -> None:
        (rest if "range" in request.headers and "=0-" not in request.headers["range"] else whole)(request, connection)

    served.faults[PATH] = [half, whatever_is_asked_for]
    assert bytes(s3dlio.get(URI)) == NEW


def test_i1_a_version_that_disappears_does_not_pass_for_the_same_one(served: ObjectServer) -> None:
    served.objects[PATH] = OLD
    rest = Respond(206, {"Content-Range": f"bytes 50000-99999/{SIZE}"}, NEW[50_000:])
    whole = Respond(200, {}, NEW)
    served.faults[PATH] = [reset_after(50_000), rest, whole]
    try:
        found = bytes(s3dlio.get(URI))
    except s3dlio.S3dlioError:
        return
    assert found == NEW


def test_i2_an_object_deleted_midway_is_not_found(served: ObjectServer) -> None:
    served.objects[PATH] = OLD
    served.faults[PATH] = [reset_after(50_000), s3_error(404, "NoSuchKey")]
    with pytest.raises(FileNotFoundError) as raised:
        s3dlio.get(URI)
    assert isinstance(raised.value, s3dlio.NotFoundError)
    assert raised.value.uri == URI


def test_i8_no_range_is_asked_of_an_empty_object(served: ObjectServer) -> None:
    served.objects[PATH] = b""
    view = s3dlio.get(URI)
    assert (len(view), bytes(view), view.dtype.name, bool(view)) == (0, b"", "uint8", False)
    assert bytes(read_pinned(0, served.etag(PATH).strip('"'))) == b""
    assert all("range" not in request.headers for request in served.requests)


def test_i8_an_empty_object_whose_head_was_all_that_came_is_not_resumed(served: ObjectServer) -> None:
    served.objects[PATH] = b""
    served.faults[PATH] = [reset_after(0)]
    assert bytes(s3dlio.get(URI)) == b""
    assert bytes(s3dlio.get(URI)) == b""


def test_i9_a_range_at_the_end_is_empty_and_one_beyond_is_invalid(served: ObjectServer) -> None:
    served.objects[PATH] = OLD
    assert bytes(s3dlio.get_range(URI, SIZE)) == b""
    assert bytes(s3dlio.get_range(URI, SIZE, 10)) == b""
    assert bytes(s3dlio.get_range(URI, 10, 0)) == b""
    for offset, length in ((SIZE + 1, None), (SIZE + 1, 10), (SIZE + 1, 0), (-1, 5), (5, -1)):
        with pytest.raises(s3dlio.InvalidRangeError) as raised:
            s3dlio.get_range(URI, offset, length)
        assert isinstance(raised.value, ValueError)
        assert raised.value.uri == URI


def test_i9_a_range_that_is_refused_although_it_exists_is_never_a_short_success(served: ObjectServer) -> None:
    # As when the object grows between the refusal and the look at its size.
    served.objects[PATH] = OLD
    served.faults[PATH] = [s3_error(416, "InvalidRange")]
    try:
        found = bytes(s3dlio.get_range(URI, 10, 10))
    except s3dlio.S3dlioError:
        return
    assert found == OLD[10:20]


@pytest.mark.parametrize("position", [5_000, 15_000], ids=["206 of another version", "416"])
def test_i9_an_object_that_shrinks_under_a_range_is_never_a_short_success(served: ObjectServer, position: int) -> None:
    served.objects[PATH] = OLD
    served.faults[PATH] = [change_after(served, position, SHORT), ignoring_if_match(served), ignoring_if_match(served)]
    # [20000, 40000) of the old object, of which some bytes came; the new one ends at 30000.
    assert bytes(s3dlio.get_range(URI, 20_000, 20_000)) == SHORT[20_000:30_000]


@pytest.fixture(params=["moto", "rclone"])
def endpoint(request: pytest.FixtureRequest, s3_env: Callable[[S3Endpoint | str], None]) -> Any:
    server: MotoServer | RcloneServer = request.getfixturevalue(f"{request.param}_s3")
    s3_env(server.endpoint)
    yield server.endpoint
    s3dlio.shutdown()


def test_i8_an_empty_object_is_an_empty_view_on_real_servers(endpoint: S3Endpoint) -> None:
    bucket = endpoint.new_bucket()
    endpoint.client().put_object(Bucket=bucket, Key="empty", Body=b"")
    uri = f"s3://{bucket}/empty"
    assert bytes(s3dlio.get(uri)) == b""
    assert bytes(s3dlio.get_range(uri, 0)) == b""
    assert bytes(s3dlio.get_range(uri, 0, 10)) == b""
    assert [bytes(view) for view in s3dlio.get_many([uri, uri])] == [b"", b""]
    (entry,) = s3dlio.list_iter(f"s3://{bucket}/")
    assert entry.size == 0
    assert [bytes(view) for view in s3dlio.get_many([ObjectRef(uri, entry.size, entry.version)])] == [b""]
    with pytest.raises(s3dlio.InvalidRangeError):
        s3dlio.get_range(uri, 1)


def test_i9_ranges_at_and_beyond_the_end_on_real_servers(endpoint: S3Endpoint) -> None:
    bucket = endpoint.new_bucket()
    endpoint.client().put_object(Bucket=bucket, Key="key", Body=OLD)
    uri = f"s3://{bucket}/key"
    assert bytes(s3dlio.get_range(uri, SIZE - 1)) == OLD[-1:]
    assert bytes(s3dlio.get_range(uri, SIZE - 1, 100)) == OLD[-1:]
    assert bytes(s3dlio.get_range(uri, SIZE)) == b""
    assert bytes(s3dlio.get_range(uri, SIZE, 10)) == b""
    with pytest.raises(s3dlio.InvalidRangeError):
        s3dlio.get_range(uri, SIZE + 1)


@pytest.mark.parametrize("data", [NEW, SHORT, b""], ids=["same size", "shorter", "empty"])
def test_i1_i9_a_listed_object_that_is_overwritten_is_a_changed_object_on_real_servers(endpoint: S3Endpoint, data: bytes) -> None:
    bucket = endpoint.new_bucket()
    client = endpoint.client()
    client.put_object(Bucket=bucket, Key="key", Body=OLD)
    (entry,) = s3dlio.list_iter(f"s3://{bucket}/")
    ref = ObjectRef(entry.uri, entry.size, entry.version)
    assert [bytes(view) for view in s3dlio.get_many([ref])] == [OLD]
    client.put_object(Bucket=bucket, Key="key", Body=data)
    (found,) = s3dlio.get_many([ref], errors="return")
    assert isinstance(found, s3dlio.ObjectChangedError), repr(found)
    assert bytes(s3dlio.get(entry.uri)) == data


@pytest.mark.parametrize("verb", [s3dlio.get, s3dlio.stat, s3dlio.get_range], ids=["get", "stat", "get_range"])
def test_a_missing_object_is_not_found_on_real_servers(endpoint: S3Endpoint, verb: Callable[..., Any]) -> None:
    bucket = endpoint.new_bucket()
    with pytest.raises(FileNotFoundError) as raised:
        verb(f"s3://{bucket}/missing", *([5] if verb is s3dlio.get_range else []))
    assert raised.value.uri == f"s3://{bucket}/missing"  # type: ignore[attr-defined]
