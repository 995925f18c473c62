"""`get_into`: exact bytes in the caller's own memory, nothing beyond them, and nothing once the call has ended."""

from __future__ import annotations

import asyncio
import mmap
import random
import threading
import zlib
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import s3dlio
from s3dlio.engine.fetch import local
from s3dlio.engine.stores import file_wire
from tests.fault.conftest import Run
from tests.support.answers import chunked, cut_after, extra_bytes, longer_than_range, reset_after, stall_after
from tests.support.object_server import ObjectServer

URI, PATH = "s3://bucket/key", "/bucket/key"
DATA = random.Random(5).randbytes(300_000)
FILL = 0xAB
BUFFERS: dict[str, Callable[[int], Any]] = {
    "bytearray": lambda num: bytearray([FILL]) * num,
    "numpy": lambda num: np.full(num, FILL, np.uint8),
    "torch": lambda num: torch.full((num,), FILL, dtype=torch.uint8),
    "memoryview": lambda num: memoryview(bytearray([FILL]) * num),
}


def content(buffer: Any) -> bytes:
    return buffer.numpy().tobytes() if isinstance(buffer, torch.Tensor) else bytes(buffer)


@pytest.fixture(params=["s3", "file", "memory"])
def uri(request: pytest.FixtureRequest, served: ObjectServer, tmp_path: Path) -> str:
    """An object with `DATA` in it, of each kind of store."""
    if request.param == "s3":
        served.objects[PATH] = DATA
        return URI
    found = f"file://{tmp_path}/key" if request.param == "file" else "memory://into/key"
    s3dlio.put_bytes(found, DATA)
    return found


RANGES = [(0, None), (0, 300_000), (0, 400_000), (1000, 5000), (299_999, 5), (299_000, None), (300_000, None), (300_000, 5), (17, 0)]


@pytest.mark.parametrize("kind", BUFFERS)
def test_bytes_come_to_the_beginning_and_nothing_changes_behind_them(uri: str, kind: str) -> None:
    for offset, length in RANGES:
        buffer = BUFFERS[kind](400_010)
        num = s3dlio.get_into(uri, buffer, offset, length)
        expected = DATA[offset:] if length is None else DATA[offset : offset + length]
        assert num == len(expected)
        assert content(buffer) == expected + bytes([FILL]) * (400_010 - num)


def test_any_element_type_and_a_mapped_file_take_bytes(uri: str) -> None:
    floats = np.zeros((300, 250), np.float32)
    assert s3dlio.get_into(uri, floats) == 300_000
    assert floats.tobytes() == DATA
    with mmap.mmap(-1, 300_000) as mapped:
        assert s3dlio.get_into(uri, mapped) == 300_000
        assert mapped[:] == DATA
    view = s3dlio.get(uri)
    view[:] = 0
    assert s3dlio.get_into(uri, view) == 300_000
    assert view == DATA


def test_a_buffer_that_is_too_small_is_told_what_is_needed(uri: str) -> None:
    cases = [(299_999, 0, None, 300_000), (0, 0, None, 300_000), (10, 299_980, None, 20), (10, 0, 11, 11), (10, 299_999, 11, 11)]
    for num, offset, length, needed in cases:
        buffer = bytearray(num)
        with pytest.raises(s3dlio.ConfigurationError, match=rf"has {num} bytes, and {needed} are needed") as raised:
            s3dlio.get_into(uri, buffer, offset, length)
        assert raised.value.uri == uri
        # The error is alive, and holds nothing of the caller's.
        buffer.extend(b"x")


def test_what_cannot_be_read_leaves_the_buffer_free(uri: str) -> None:
    buffer = bytearray(10)
    for offset, error in ((300_001, s3dlio.InvalidRangeError), (-1, s3dlio.InvalidRangeError)):
        with pytest.raises(error):
            s3dlio.get_into(uri, buffer, offset, 5)
    with pytest.raises(s3dlio.InvalidRangeError):
        s3dlio.get_into(uri, buffer, 300_001, 0)
    with pytest.raises(s3dlio.NotFoundError):
        s3dlio.get_into(f"{uri}.missing", buffer)
    with pytest.raises(s3dlio.NotFoundError):
        s3dlio.get_into(f"{uri}.missing", buffer, 0, 0)
    with pytest.raises(TypeError):
        s3dlio.get_into(uri, b"0123456789")
    buffer.extend(b"x")


@pytest.mark.parametrize("fault", [cut_after(0), cut_after(1), cut_after(150_000), reset_after(299_999), chunked(7001)])
def test_n3_n4_n7_a_broken_body_goes_on_where_it_broke_in_the_same_memory(served: ObjectServer, fault: Any) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [fault]
    buffer = bytearray(300_000)
    assert s3dlio.get_into(URI, buffer) == 300_000
    assert buffer == DATA
    served.faults[PATH] = [fault]
    assert s3dlio.get_into(URI, buffer, 0, 300_000) == 300_000


def test_n5_bytes_that_nobody_announced_go_nowhere(served: ObjectServer) -> None:
    served.objects[PATH] = DATA[:1000]
    s3dlio.get(URI)
    s3dlio.configure(max_attempts=1)
    for fault in (extra_bytes(500), longer_than_range(500)):
        served.faults[PATH] = [fault]
        buffer = bytearray([FILL]) * 2000
        try:
            num = s3dlio.get_into(URI, buffer, 0, 600)
        except s3dlio.S3dlioError:
            num = 600  # undefined up to there
        assert buffer[num:] == bytes([FILL]) * (2000 - num)
        assert s3dlio.get_into(URI, buffer) == 1000


def test_i1_an_object_that_changes_on_the_way_is_read_anew_and_never_mixed(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    other = bytes(250_000)

    def change(request: Any, connection: Any) -> None:
        cut_after(100_000)(request, connection)
        served.objects[PATH] = other

    served.faults[PATH] = [change]
    buffer = bytearray([FILL]) * 300_000
    assert s3dlio.get_into(URI, buffer) == 250_000
    assert buffer[:250_000] == other


def test_i4_bytes_that_do_not_have_their_checksum_are_an_error(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    wrong = zlib.crc32(DATA[1:]).to_bytes(4, "big")
    served.headers[PATH] = {"x-amz-checksum-crc32": b64encode(wrong).decode()}
    with pytest.raises(s3dlio.ChecksumMismatchError):
        s3dlio.get_into(URI, bytearray(300_000))


def test_a_call_that_is_cancelled_writes_nothing_any_more(served: ObjectServer, run: Run) -> None:
    served.objects[PATH] = DATA
    go_on = threading.Event()
    served.faults[PATH] = [stall_after(100_000, go_on)]
    s3dlio.configure(silence_timeout_s=30, first_byte_timeout_s=30, deadline_s=60)
    buffer = bytearray([FILL]) * 300_000

    async def main() -> None:
        task = asyncio.create_task(s3dlio.get_into_async(URI, buffer))
        while buffer[50_000] == FILL and buffer[50_001] == FILL:  # noqa: ASYNC110 (there is nobody who could tell)
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        seen = bytes(buffer)
        buffer.extend(b"x")  # nobody holds it
        go_on.set()
        # Another read by the same event loop: whatever came for the first would have been received by now.
        assert bytes(await s3dlio.get_async(URI)) == DATA
        assert buffer == seen + b"x"

    run(main())


def test_a_cancelled_read_of_a_file_ends_with_the_piece_that_is_being_read(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_bytes(DATA)
    is_reading, go_on = threading.Event(), threading.Event()
    pieces = []

    def slow(fetch: Any, grant: Any, limits: Any) -> None:
        is_reading.set()
        assert go_on.wait(60)
        pieces.append(fetch.received)
        local.read_piece(fetch, grant, limits)

    monkeypatch.setattr("s3dlio.engine.pool.in_threads.read_piece", slow)
    monkeypatch.setattr(file_wire, "_PIECE_BYTES", 4096, raising=True)
    buffer = bytearray([FILL]) * 300_000

    async def main() -> None:
        task = asyncio.create_task(s3dlio.get_into_async(f"file://{tmp_path}/key", buffer))
        assert await asyncio.get_running_loop().run_in_executor(None, is_reading.wait, 60)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.001)
            assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        seen = bytes(buffer)
        assert len(pieces) == 1
        await asyncio.sleep(0.01)
        assert buffer == seen
        buffer.extend(b"x")

    run(main())


def test_many_threads_read_into_their_own_parts_of_one_array(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    whole = np.zeros(300_000, np.uint8)

    def read(part: int) -> None:
        s3dlio.get_into(URI, whole[part * 30_000 : (part + 1) * 30_000], part * 30_000, 30_000)

    threads = [threading.Thread(target=read, args=(part,)) for part in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert whole.tobytes() == DATA
