"""Ranges read in parts into one view: exact, of one version, held against the checksum of the whole, whatever fails."""

from __future__ import annotations

import gc
import random
import signal
import threading
import zlib
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.config import Settings, settings
from s3dlio.engine.ops.whole import fetch_range_in_parts
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.pool.parted import PartedRead, Wanted
from s3dlio.engine.pool.rooms import process_rooms
from s3dlio.engine.stores.registry import locate
from tests.support.answers import (
    chunked,
    cut_after,
    extra_bytes,
    flipped,
    longer_than_range,
    reset_after,
    reset_before_headers,
    s3_error,
    stall_after,
    without_header,
    wrong_range,
)
from tests.support.object_server import ObjectServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Connection, Request

URI, PATH = "s3://bucket/key", "/bucket/key"
PART = 64 << 10
DATA = random.Random(7).randbytes(10 * PART + 12_345)
OTHER = random.Random(8).randbytes(len(DATA))
SIZE = len(DATA)


def in_parts(**others: Any) -> Settings:
    return settings(part_bytes=PART, split_above_bytes=PART, **others)


def read(uri: str = URI, **given: Any) -> bytes:
    store, key = locate(uri)
    return bytes(fetch_range_in_parts(store, uri, key, limits=given.pop("limits", None) or in_parts(), **given))


def is_read_verified(**given: Any) -> bool:
    store, key = locate(URI)
    parted = PartedRead(Wanted(store, URI, key, **given), in_parts())
    with inline_fetcher().lend(4, in_parts()) as loop:
        assert bytes(parted.drive(loop)) == DATA[given.get("start", 0) : given.get("end")]
    return parted.is_verified


def version_of(server: ObjectServer) -> str:
    return server.etag(PATH).strip('"')


def sum_header(data: bytes) -> dict[str, str]:
    return {"x-amz-checksum-crc32": b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()}


@pytest.fixture
def holding(served: ObjectServer) -> ObjectServer:
    """A server that has `DATA`."""
    served.objects[PATH] = DATA
    return served


@pytest.fixture(params=["nothing", "size", "version", "both"])
def known(request: pytest.FixtureRequest, holding: ObjectServer) -> dict[str, Any]:
    """What the caller knows of the object."""
    given = {"size": SIZE, "version": version_of(holding)}
    return {name: value for name, value in given.items() if request.param in (name, "both")}


RANGES = [
    (0, None), (0, SIZE), (0, SIZE + 5), (0, PART), (0, PART + 1), (1, PART), (5, None), (5, 5 + PART + 1), (5, SIZE - 1),
    (PART, 9 * PART), (SIZE - PART - 1, None), (SIZE - 1, None), (SIZE - 1, SIZE + 9), (SIZE, None), (7, 7), (9, 8), (SIZE, SIZE + 1),
]


def test_every_range_is_exact_and_every_later_part_pinned(holding: ObjectServer, known: dict[str, Any]) -> None:
    for start, end in RANGES:
        num_before = len(holding.requests)
        assert read(start=start, end=end, **known) == DATA[start:end], (start, end)
        gets = [one for one in holding.requests[num_before:] if one.method == "GET"]
        # The first one by itself, so that all others know what they are to be of.
        assert all("if-match" in one.headers for one in (gets if "version" in known else gets[1:]))
        num_bytes = len(DATA[start:end])
        assert len(gets) == -(-num_bytes // PART) or num_bytes == 0, (start, end)


def test_i8_i9_ends_and_beyond(holding: ObjectServer) -> None:
    for given in ({}, {"size": SIZE}):
        with pytest.raises(s3dlio.InvalidRangeError):
            read(start=SIZE + 1, **given)
    with pytest.raises(s3dlio.InvalidRangeError):
        read(start=SIZE + 1, end=SIZE + 1)
    with pytest.raises(s3dlio.InvalidRangeError):
        read(start=-1)
    holding.objects[PATH] = b""
    assert read() == b""
    assert read(size=0) == b""
    assert holding.requests[-1].headers.get("range") is None
    with pytest.raises(s3dlio.NotFoundError):
        read("s3://bucket/none")
    with pytest.raises(s3dlio.NotFoundError):
        read("s3://bucket/none", start=3, end=3)
    with pytest.raises(s3dlio.ConfigurationError, match="max_in_flight"):
        read(max_in_flight=0)


def test_files_and_memory_are_read_at_once(tmp_path: Path) -> None:
    for uri in (f"file://{tmp_path}/key", "memory://whole/key"):
        s3dlio.put_bytes(uri, DATA)
        for start, end in RANGES:
            assert read(uri, start=start, end=end) == DATA[start:end]
        version = locate(uri)[0].stat(locate(uri)[1])
        try:
            next(version)
        except StopIteration as found:
            info = found.value
        assert read(uri, size=info.size, version=info.version) == DATA
        s3dlio.put_bytes(uri, OTHER)
        with pytest.raises(s3dlio.ObjectChangedError):
            read(uri, size=info.size, version=info.version)


@pytest.mark.parametrize("lane", ["fast", "sdk"])
@pytest.mark.parametrize("server", ["moto_s3", "rclone_s3"])
def test_real_servers(
    server: str, lane: str, request: pytest.FixtureRequest, s3_env: Callable[[S3Endpoint], None], quick_settings: None
) -> None:
    endpoint = request.getfixturevalue(server).endpoint
    s3_env(endpoint)
    s3dlio.configure(fast_lane=lane == "fast", first_byte_timeout_s=20, silence_timeout_s=20, deadline_s=60)
    uri = f"s3://{endpoint.new_bucket()}/a key"
    s3dlio.put_bytes(uri, DATA)
    found = s3dlio.stat(uri)
    for given in ({}, {"size": SIZE}, {"size": SIZE, "version": found["etag"].strip('"')}):
        for start, end in ((0, None), (5, None), (PART, 4 * PART), (SIZE, None)):
            assert read(uri, start=start, end=end, **given) == DATA[start:end]


def test_i4_gcs_says_the_checksum_of_every_object(gcs: Any, gcs_env: Any) -> None:
    gcs_env(gcs.endpoint)
    uri = f"gs://{gcs.endpoint.new_bucket()}/a key"
    s3dlio.put_bytes(uri, DATA)
    info = s3dlio.stat(uri)
    store, key = locate(uri)
    for known in ({}, {"size": SIZE, "version": info["version_id"]}):
        parted = PartedRead(Wanted(store, uri, key, **known), in_parts())
        with inline_fetcher().lend(4, in_parts()) as loop:
            assert bytes(parted.drive(loop)) == DATA
        assert parted.is_verified
        assert read(uri, start=5, end=SIZE - 5, **known) == DATA[5:-5]


# Faults.


FAULTS = {
    "cut": cut_after(PART // 2),
    "cut at once": cut_after(0),
    "reset": reset_after(1000),
    "no head": reset_before_headers(),
    "busy": s3_error(503, "SlowDown"),
    "chunked": chunked(7001),
    "too much": extra_bytes(5),
    "another range": wrong_range("bytes 5-9/100"),
    "no range": without_header("content_range"),
}


@pytest.mark.parametrize("knows", [False, True])
@pytest.mark.parametrize("position", [0, 3])
@pytest.mark.parametrize("fault", FAULTS)
def test_n2_n3_n4_n5_n6_n7_a_fault_in_any_part_is_gone_over(holding: ObjectServer, fault: str, position: int, knows: bool) -> None:
    honest = holding.honest
    known: Any = {"size": SIZE, "version": version_of(holding)} if knows else {}
    holding.faults[PATH] = [lambda request, connection: honest(request)(request, connection)] * position + [FAULTS[fault]]
    assert read(**known) == DATA


def test_n5_a_body_that_is_longer_than_the_object_is_no_part_of_it(holding: ObjectServer, known: dict[str, Any]) -> None:
    honest = holding.honest
    for position in (0, 3):
        holding.faults[PATH] = [lambda request, connection: honest(request)(request, connection)] * position + [longer_than_range(5)]
        try:
            found = read(**known)
        except s3dlio.ObjectChangedError:
            # It has said that the version which was asked for is of another size: who is to be believed, nobody can tell.
            assert "version" in known
        else:
            assert found == DATA


def test_n4_a_part_that_never_is_whole_is_an_error_and_gives_all_memory_back(holding: ObjectServer, known: dict[str, Any]) -> None:
    arena = process_rooms().arena
    holding.script = lambda request: cut_after(0) if "131072" in request.headers.get("range", "") else holding.honest(request)
    with pytest.raises(s3dlio.TruncatedBodyError) as caught:
        read(**known)
    assert caught.value.uri == URI
    # The error is alive, and holds nothing.
    gc.collect()
    arena.collect()
    assert arena.num_leased == 0
    assert caught.value.attempts == 3


def test_n6_a_server_that_answers_every_range_with_the_whole(holding: ObjectServer, known: dict[str, Any]) -> None:
    def whole(request: Request, connection: Connection) -> None:
        request.headers.pop("range", None)
        holding.honest(request)(request, connection)

    holding.script = lambda _: whole
    assert read(**known) == DATA
    assert read(start=5, end=SIZE - 5, **known) == DATA[5:-5]


def test_i3_a_server_that_knows_no_conditions_is_found_out(holding: ObjectServer) -> None:
    first = version_of(holding)

    def unconditional(request: Request, connection: Connection) -> None:
        request.headers.pop("if-match", None)
        if request.headers.get("range", "").startswith("bytes=131072-"):
            holding.objects[PATH] = OTHER
        holding.honest(request)(request, connection)

    holding.script = lambda _: unconditional
    # One fresh start, where nobody asked for a version; it may not be mixed of two.
    assert read() == OTHER
    holding.objects[PATH] = DATA
    for given in ({"version": first}, {"size": SIZE}, {"size": SIZE, "version": first}):
        holding.objects[PATH] = DATA
        with pytest.raises(s3dlio.ObjectChangedError):
            read(**given)


def test_i1_an_object_that_changes_at_every_try_is_an_error(holding: ObjectServer) -> None:
    num = 0

    def changing(request: Request, connection: Connection) -> None:
        nonlocal num
        if request.headers.get("range", "").startswith("bytes=131072-"):
            num += 1
            holding.objects[PATH] = DATA[num:] + DATA[:num]
        holding.honest(request)(request, connection)

    holding.script = lambda _: changing
    with pytest.raises(s3dlio.ObjectChangedError):
        read()
    assert num == 2


def test_i2_another_size_than_the_known_one_is_an_error(holding: ObjectServer) -> None:
    for size in (SIZE - 1, SIZE + 1, 5):
        with pytest.raises(s3dlio.ObjectChangedError):
            read(size=size)
        with pytest.raises(s3dlio.ObjectChangedError):
            read(size=size, version=version_of(holding))


@pytest.mark.parametrize("etag", ['W/"weak"', None])
def test_what_no_part_can_be_held_to_is_read_by_one_request(holding: ObjectServer, etag: str | None) -> None:
    headers: Any = {"ETag": etag}
    holding.script = lambda request: holding.honest(request).with_headers(etag=headers["ETag"])
    for given in ({}, {"size": SIZE}):
        num = len(holding.requests)
        assert read(**given) == DATA
        assert {one.headers.get("range") for one in holding.requests[num:]} <= {None, "bytes=0-65535"}
        assert holding.requests[-1].headers.get("range") is None
        assert read(start=5, **given) == DATA[5:]
        assert read(start=5, end=3 * PART, **given) == DATA[5 : 3 * PART]


# The checksum of the whole.


def test_i4_a_whole_object_in_parts_is_verified(holding: ObjectServer, known: dict[str, Any]) -> None:
    assert not is_read_verified(**known)  # I5: there is none
    holding.headers[PATH] = sum_header(DATA)
    assert is_read_verified(**known)
    assert not is_read_verified(start=1, **known)
    assert not is_read_verified(end=SIZE - 1, **known)
    holding.headers[PATH] = sum_header(OTHER) | {"x-amz-checksum-type": "COMPOSITE"}
    assert not is_read_verified(**known)


def test_i4_wrong_bytes_are_read_again_and_then_an_error(holding: ObjectServer, known: dict[str, Any]) -> None:
    holding.headers[PATH] = sum_header(DATA)
    honest = holding.honest
    fine = lambda request, connection: honest(request)(request, connection)  # noqa: E731
    holding.faults[PATH] = [fine] * 4 + [flipped(500)]
    assert read(**known) == DATA
    assert len(holding.requests_of(PATH)) > 20
    holding.headers[PATH] = sum_header(OTHER)
    with pytest.raises(s3dlio.ChecksumMismatchError) as caught:
        read(**known)
    assert caught.value.uri == URI
    assert read(limits=in_parts(verify_checksums=False), **known) == DATA


def test_i5_who_may_not_ask_for_the_checksum_gets_the_bytes(holding: ObjectServer) -> None:
    holding.headers[PATH] = sum_header(OTHER)
    given = {"size": SIZE, "version": version_of(holding)}
    holding.script = lambda request: s3_error(403, "AccessDenied") if request.method == "HEAD" else holding.honest(request)
    assert read(**given) == DATA


def test_i4_the_checksum_of_another_version_says_nothing(holding: ObjectServer) -> None:
    given = {"size": SIZE, "version": version_of(holding)}

    def head(request: Request, connection: Connection) -> None:
        (wrong,) = sum_header(OTHER).values()
        holding.honest(request).with_headers(etag='"other"', x_amz_checksum_crc32=wrong)(request, connection)

    holding.script = lambda request: head if request.method == "HEAD" else holding.honest(request)
    assert read(**given) == DATA


# Interruptions.


def test_p7_ctrl_c_in_the_middle_ends_all_requests_and_gives_the_memory_back(holding: ObjectServer, known: dict[str, Any]) -> None:
    main, go_on = threading.main_thread().ident, threading.Event()
    assert main is not None
    s3dlio.configure(silence_timeout_s=30, first_byte_timeout_s=30)
    limits = in_parts()
    arena = process_rooms().arena

    def interrupt(request: Request, connection: Connection) -> None:
        signal.pthread_kill(main, signal.SIGINT)
        stall_after(100, go_on)(request, connection)

    honest = holding.honest
    holding.faults[PATH] = [lambda request, connection: honest(request)(request, connection)] * 5 + [interrupt]
    with pytest.raises(KeyboardInterrupt):
        read(limits=limits, **known)
    gc.collect()
    arena.collect()
    assert arena.num_leased == 0
    go_on.set()
    assert read(limits=limits, **known) == DATA


def test_m1_memory_that_is_missing_is_an_error(
    holding: ObjectServer, known: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: Any, **__: Any) -> Any:
        raise s3dlio.InsufficientMemoryError("no memory")

    rooms = process_rooms()
    monkeypatch.setattr(rooms.arena.slots, "allocate", none_left)
    with pytest.raises(s3dlio.InsufficientMemoryError):
        read(**known)
    monkeypatch.undo()
    assert read(**known) == DATA
