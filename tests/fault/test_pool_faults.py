"""Broken answers under a pool: exact bytes of one version or an error, through the inline pool and through worker processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import s3dlio
import s3dlio.engine.ops.lifecycle  # The kit ends the engine through it, as soon as it is loaded.
from tests.process.kit import content, wait_quiet
from tests.support.answers import cut_after, extra_bytes, longer_than_range, reset_after
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import Connection, Handler, Request

KIB, MIB = 1 << 10, 1 << 20
SIZE = 300 * KIB
PATH, URI = "/bucket/key", "s3://bucket/key"


@pytest.fixture(params=[0, 2], ids=["inline", "workers"])
def pool(request: pytest.FixtureRequest, served: ObjectServer) -> Iterator[s3dlio.Pool]:
    served.objects[PATH] = content("key", SIZE)
    with s3dlio.Pool(procs=request.param, jobs=4, memory_bytes="64MiB") as pool:
        yield pool


@pytest.mark.parametrize("at", [0, 1, SIZE // 2, SIZE - 1])
def test_n3_reset_body_is_resumed_from_the_last_byte_of_the_same_version(pool: s3dlio.Pool, served: ObjectServer, at: int) -> None:
    served.faults[PATH] = [reset_after(at)]
    [(_, view)] = pool.fetch([URI])
    assert bytes(view) == served.objects[PATH]
    second = served.requests_of(PATH)[1].headers
    if "range" in second:
        # A reset also destroys what lies unread in the client's kernel, so the client may have had fewer bytes than were sent.
        assert int(second["range"].removeprefix("bytes=").partition("-")[0]) <= at
        assert second["if-match"].strip('"') == served.etag(PATH).strip('"')


@pytest.mark.parametrize("at", [0, 1, SIZE // 2, SIZE - 1])
def test_n4_early_end_is_never_a_short_success(pool: s3dlio.Pool, served: ObjectServer, at: int) -> None:
    served.faults[PATH] = [cut_after(at), cut_after(0)]
    [(_, view)] = pool.fetch([URI])
    assert bytes(view) == served.objects[PATH]


def test_n4_body_that_always_ends_early_is_a_truncated_body_error(pool: s3dlio.Pool, served: ObjectServer) -> None:
    served.objects["/bucket/other"] = content("other", KIB)
    served.faults[PATH] = [cut_after(0)] * 20
    found = dict(pool.fetch([URI, "s3://bucket/other"], errors="return"))
    assert isinstance(found[URI], s3dlio.TruncatedBodyError)
    assert found[URI].uri == URI
    assert found[URI].attempts == 3
    assert bytes(found["s3://bucket/other"]) == served.objects["/bucket/other"]


@pytest.mark.parametrize("fault", [extra_bytes(5000), longer_than_range(5000)], ids=["beyond-length", "length-too-large"])
def test_n5_extra_bytes_never_reach_the_neighbouring_slots(pool: s3dlio.Pool, served: ObjectServer, fault: object) -> None:
    uris = []
    for index in range(12):
        served.objects[f"/bucket/n{index}"] = content(f"n{index}", 4096)
        uris.append(s3dlio.ObjectRef(f"s3://bucket/n{index}", 4096))
        if index % 3 == 0:
            served.faults[f"/bucket/n{index}"] = [fault]  # type: ignore[list-item]
    held = list(pool.fetch(uris, errors="return"))
    for uri, result in held:
        if not isinstance(result, s3dlio.S3dlioError):
            assert bytes(result) == served.objects[uri.removeprefix("s3:/")]
    assert sum(isinstance(result, s3dlio.S3dlioError) for _, result in held) <= 4


def test_i3_part_of_another_version_is_never_mixed_in(pool: s3dlio.Pool, served: ObjectServer) -> None:
    old, new = content("old", 24 * MIB), content("new", 24 * MIB)
    served.objects[PATH] = old

    def change_and_ignore_if_match(request: Request, connection: Connection) -> None:
        served.objects[PATH] = new
        headers = {name: value for name, value in request.headers.items() if name != "if-match"}
        served.honest(Request(**{**vars(request), "headers": headers}))(request, connection)

    served.faults[PATH] = [served_part(served), change_and_ignore_if_match, *[change_and_ignore_if_match] * 40]
    [(_, result)] = pool.fetch([s3dlio.ObjectRef(URI, 24 * MIB)], errors="return")
    if isinstance(result, s3dlio.S3dlioError):
        assert isinstance(result, s3dlio.ObjectChangedError)
        assert result.uri == URI
    else:
        assert bytes(result) in (old, new)


def served_part(served: ObjectServer) -> Handler:
    """Returns a handler that answers honestly."""
    return lambda request, connection: served.honest(request)(request, connection)


def test_i3_listed_version_that_is_gone_is_an_error(pool: s3dlio.Pool, served: ObjectServer) -> None:
    version = served.etag(PATH).strip('"')
    served.objects[PATH] = content("another", SIZE)
    with pytest.raises(s3dlio.ObjectChangedError) as caught:
        list(pool.fetch([s3dlio.ObjectRef(URI, SIZE, version)]))
    assert caught.value.uri == URI


@pytest.mark.parametrize("is_size_known", [False, True], ids=["unknown", "known"])
def test_i8_empty_objects_are_empty_and_asked_for_without_a_range(pool: s3dlio.Pool, served: ObjectServer, is_size_known: bool) -> None:
    served.objects["/bucket/empty"] = b""
    wanted = [s3dlio.ObjectRef("s3://bucket/empty", 0)] * 3 if is_size_known else ["s3://bucket/empty"] * 3
    found = list(pool.fetch([*wanted, URI]))
    assert [len(view) for _, view in found] == [0, 0, 0, SIZE]
    assert [bytes(view) for _, view in found[:3]] == [b""] * 3
    assert all("range" not in request.headers for request in served.requests_of("/bucket/empty"))
    del found
    assert wait_quiet(pool)["memory_used_bytes"] == 0
