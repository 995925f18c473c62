"""`get` of long objects: in parts side by side, alone or among those who fetch small ones."""

from __future__ import annotations

import random
import threading
import zlib
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

import s3dlio
from s3dlio.engine.memory import segment
from s3dlio.engine.pool.rooms import process_rooms
from tests.support.object_server import ObjectServer

PART = 64 << 10
LONG = random.Random(3).randbytes(9 * PART + 77)
SMALL = random.Random(4).randbytes(300)
LONG_URI, SMALL_URI = "s3://bucket/long", "s3://bucket/small"


@pytest.fixture
def holding(served: ObjectServer) -> ObjectServer:
    """A server with a long object and a small one, and parts of 64 KiB."""
    served.objects |= {"/bucket/long": LONG, "/bucket/small": SMALL}
    s3dlio.configure(part_bytes=PART, split_above_bytes=2 * PART)
    return served


def gets_of(server: ObjectServer, path: str) -> list[str | None]:
    return [one.headers.get("range") for one in server.requests if one.method == "GET" and one.path == path]


def test_a_long_object_comes_in_parts_of_one_version(holding: ObjectServer) -> None:
    assert s3dlio.get(LONG_URI) == LONG
    assert len(gets_of(holding, "/bucket/long")) == 10
    assert s3dlio.get(SMALL_URI) == SMALL
    assert gets_of(holding, "/bucket/small") == [None]


def test_a_long_object_behind_small_ones_is_asked_for_anew_in_parts(holding: ObjectServer) -> None:
    for _ in range(3):
        assert s3dlio.get(SMALL_URI) == SMALL
        assert s3dlio.get(LONG_URI) == LONG
    # One request found out that it is long; the others brought it.
    assert len(gets_of(holding, "/bucket/long")) == 3 * 11


def test_threads_that_fetch_long_and_small_ones_get_each_its_own(holding: ObjectServer) -> None:
    assert s3dlio.get(SMALL_URI) == SMALL
    start = threading.Barrier(8)

    def fetch(number: int) -> bool:
        start.wait(10)
        return all(
            bytes(s3dlio.get(LONG_URI)) == LONG if (number + turn) % 3 == 0 else bytes(s3dlio.get(SMALL_URI)) == SMALL
            for turn in range(12)
        )

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(fetch, range(8))) == [True] * 8


def test_a_long_range_behind_small_objects_is_exact(holding: ObjectServer) -> None:
    assert s3dlio.get(SMALL_URI) == SMALL
    assert s3dlio.get_range(LONG_URI, 5, 5 * PART) == LONG[5 : 5 + 5 * PART]


@pytest.mark.parametrize("is_behind", [False, True])
def test_i4_a_long_object_is_held_against_its_checksum(holding: ObjectServer, is_behind: bool) -> None:
    wrong = b64encode(zlib.crc32(LONG[1:]).to_bytes(4, "big")).decode()
    holding.headers["/bucket/long"] = {"x-amz-checksum-crc32": wrong}
    if is_behind:
        assert s3dlio.get(SMALL_URI) == SMALL
    with pytest.raises(s3dlio.ChecksumMismatchError, match="bucket/long"):
        s3dlio.get(LONG_URI)
    holding.headers["/bucket/long"] = {"x-amz-checksum-crc32": b64encode(zlib.crc32(LONG).to_bytes(4, "big")).decode()}
    assert s3dlio.get(LONG_URI) == LONG


def test_a_missing_object_and_a_bucket_are_the_same_errors_as_ever(holding: ObjectServer) -> None:
    with pytest.raises(s3dlio.NotFoundError):
        s3dlio.get("s3://bucket/none")
    assert s3dlio.get(SMALL_URI) == SMALL
    with pytest.raises(s3dlio.NotFoundError):
        s3dlio.get("s3://bucket/none")


def test_one_object_is_no_reason_to_expect_another_of_its_size(holding: ObjectServer) -> None:
    rooms = process_rooms()
    for uri in (SMALL_URI, LONG_URI):
        s3dlio.get(uri)
        assert rooms._guess_bytes == 0
    assert not rooms.is_small


def test_the_memory_of_a_long_object_is_the_systems_again_when_nothing_holds_it(served: ObjectServer) -> None:
    size = 72 << 20
    served.objects["/bucket/long"] = bytes(size)
    process = psutil.Process()
    s3dlio.get("s3://bucket/long")
    before = process.memory_info().rss
    view = s3dlio.get("s3://bucket/long")
    tensor = np.frombuffer(view, np.uint8)
    del view
    assert process.memory_info().rss > before + size // 2
    assert not tensor.any()
    assert tensor.flags.writeable
    del tensor
    assert process.memory_info().rss < before + size // 4
    assert process_rooms().arena.slots.reserved_bytes < size // 4


def test_m1_a_long_object_that_there_is_no_memory_for_is_an_error(served: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 72 << 20
    served.objects["/bucket/long"] = bytes(size)
    monkeypatch.setattr(segment, "available_memory", lambda: size)
    with pytest.raises(s3dlio.InsufficientMemoryError, match="bucket/long"):
        s3dlio.get("s3://bucket/long")
