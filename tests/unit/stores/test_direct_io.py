"""Bytes come to their place past the page cache, whatever their offset, length and address, and nothing else is touched."""

from __future__ import annotations

import ctypes
import errno
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio.engine.memory.segment import private_pages
from s3dlio.engine.stores import direct_io
from s3dlio.engine.stores.direct_io import Alignment, Buffers, alignment_of, open_direct, read_some, write_all
from tests.support.direct_disk import direct_folder, memory_folder

DATA = random.Random(7).randbytes(70_003)
CANARY = 0xA5
ALIGNMENTS = [Alignment(512, 512), Alignment(4, 512), Alignment(4096, 4096), Alignment(1, 4096), Alignment(4096, 512)]


class Disk:
    """A file system that insists on its alignment, as the kernel does, and may do less than it was asked for."""

    def __init__(self, alignment: Alignment, data: bytes = b"", shorten: Sequence[int] = ()) -> None:
        self.alignment = alignment
        self.data = bytearray(data)
        self.shorten = iter(shorten)
        """Blocks that each call leaves out at its end."""

    def preadv(self, fd: int, pieces: Sequence[memoryview], offset: int) -> int:
        self._check(pieces, offset)
        length = self._shortened(sum(map(len, pieces)))
        found = self.data[offset : offset + length]
        done = 0
        for piece in pieces:
            part = found[done : done + len(piece)]
            piece[: len(part)] = part
            # The kernel moves whole blocks, so what lies behind the end of the file may be overwritten too.
            if part and len(part) < len(piece):
                piece[len(part) :] = bytes(len(piece) - len(part))
            done += len(part)
        return done

    def pwrite(self, fd: int, piece: memoryview, offset: int) -> int:
        self._check([piece], offset)
        length = self._shortened(len(piece))
        self.data[len(self.data) :] = bytes(max(0, offset + length - len(self.data)))
        self.data[offset : offset + length] = piece[:length]
        return length

    def _shortened(self, length: int) -> int:
        return max(self.alignment.block, length - next(self.shorten, 0) * self.alignment.block)

    def _check(self, pieces: Sequence[memoryview], offset: int) -> None:
        for piece in pieces:
            address = ctypes.addressof(ctypes.c_char.from_buffer(piece))
            if address % self.alignment.memory or len(piece) % self.alignment.block or offset % self.alignment.block:
                raise OSError(errno.EINVAL, "Invalid argument")


@pytest.fixture(scope="module")
def buffer() -> memoryview:
    return private_pages(16_384)


places = st.tuples(
    st.sampled_from(ALIGNMENTS), st.integers(0, 70_002), st.integers(1, 40_000), st.integers(0, 4097), st.lists(st.integers(0, 3))
)


@given(places)
def test_l7_any_range_comes_to_any_address_and_nothing_else_is_written(
    buffer: memoryview, place: tuple[Alignment, int, int, int, list[int]]
) -> None:
    alignment, offset, length, address, shorten = place
    disk = Disk(alignment, DATA, shorten)
    memory = private_pages(49_152)
    memory[:] = bytes([CANARY]) * len(memory)
    expected = DATA[offset : offset + length]
    done = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", disk.preadv)
        while done < length:
            num = read_some(0, memory[address + done : address + length], offset + done, alignment, buffer)
            if not num:
                break
            done += num
    assert memory[address : address + done] == expected
    assert done == len(expected)
    assert set(memory[:address]) | set(memory[address + length :]) <= {CANARY}


@given(places)
def test_l7_data_of_any_address_and_length_is_written_in_whole_blocks(
    buffer: memoryview, place: tuple[Alignment, int, int, int, list[int]]
) -> None:
    alignment, offset, length, address, shorten = place
    offset -= offset % alignment.block
    disk = Disk(alignment, bytes([CANARY]) * offset, shorten)
    memory = private_pages(49_152)
    memory[address : address + length] = data = DATA[:length]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", disk.pwrite)
        write_all(0, memory[address : address + length], offset, alignment, buffer)
    assert disk.data[offset : offset + length] == data
    assert len(disk.data) % alignment.block == 0
    assert set(disk.data[:offset]) <= {CANARY}
    assert set(disk.data[offset + length :]) <= {0}


def test_l7_aligned_memory_is_read_and_written_straight(buffer: memoryview) -> None:
    memory = private_pages(8 * 4096)
    seen: list[list[int]] = []

    def address_of(piece: memoryview) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(piece))

    def preadv(fd: int, pieces: Sequence[memoryview], offset: int) -> int:
        seen.append([at for at in (address_of(piece) - address_of(memory) for piece in pieces) if 0 <= at < len(memory)])
        return sum(map(len, pieces))

    def pwrite(fd: int, piece: memoryview, offset: int) -> int:
        return preadv(fd, [piece], offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", preadv)
        patch.setattr(os, "pwrite", pwrite)
        # The middle goes straight, the tail by the buffer, by one call.
        assert read_some(0, memory[: 3 * 4096 + 5], 4096, Alignment(512, 4096), buffer) == 3 * 4096 + 5
        write_all(0, memory[: 2 * 4096], 0, Alignment(512, 4096), buffer)
    assert seen == [[0], [0]]


# What the kernel itself says.


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with direct_folder() as found:
        yield found


@pytest.mark.parametrize("length", [0, 1, 511, 512, 4096, 65_536, 70_003, 1_500_000])
def test_l7_a_real_disk_gives_what_was_written(folder: Path, length: int) -> None:
    data, path = random.Random(length).randbytes(length), folder / str(length)
    s3dlio.put_bytes(f"direct://{path}", data)
    assert path.read_bytes() == data
    assert bytes(s3dlio.get(f"direct://{path}")) == data
    for offset in {0, 1, length // 2, length}:
        if offset <= length:
            assert bytes(s3dlio.get_range(f"direct://{path}", offset, 4097)) == data[offset : offset + 4097]


def test_l7_what_others_have_just_written_is_seen(folder: Path) -> None:
    path = folder / "shared"
    for n in range(5):
        path.write_bytes(DATA[n:])
        assert bytes(s3dlio.get(f"direct://{path}")) == DATA[n:]


def test_l7_the_page_cache_stays_as_it_was(folder: Path) -> None:
    """Neither a write nor a read leaves pages in memory."""
    path = folder / "uncached"
    s3dlio.put_bytes(f"direct://{path}", DATA * 4)
    assert bytes(s3dlio.get(f"direct://{path}")) == DATA * 4
    assert num_cached(path) == 0
    assert bytes(s3dlio.get(f"file://{path}")) == DATA * 4
    assert num_cached(path) > 0


def num_cached(path: Path) -> int:
    """Returns how many pages of a file lie in the page cache. Source: mincore(2)."""
    import mmap

    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        found = (ctypes.c_ubyte * -(-len(mapping) // mmap.PAGESIZE))()
        address = ctypes.c_char.from_buffer(mapping)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(ctypes.addressof(address)), ctypes.c_size_t(len(mapping)), found) == 0
        del address
        return sum(page & 1 for page in found)


def test_l7_a_file_system_in_memory_refuses_and_nothing_is_read_or_written() -> None:
    with memory_folder() as folder:
        (folder / "key").write_bytes(DATA)
        uri = f"direct://{folder}"
        calls: list[Any] = [
            lambda: s3dlio.get(f"{uri}/key"),
            lambda: s3dlio.get_range(f"{uri}/key", 100, 10),
            lambda: s3dlio.get_many([f"{uri}/key"]),
            lambda: s3dlio.put_bytes(f"{uri}/key", b"new"),
            lambda: s3dlio.put_bytes(f"{uri}/other", b""),
        ]
        for call in calls:
            with pytest.raises(s3dlio.DirectIOUnsupportedError, match="O_DIRECT") as raised:
                call()
            assert isinstance(raised.value, s3dlio.UnsupportedError)
            assert str(raised.value.uri).startswith(f"{uri}/")
        assert os.listdir(folder) == ["key"]
        assert (folder / "key").read_bytes() == DATA
        # Looking needs no direct access.
        assert s3dlio.stat(f"{uri}/key")["size"] == len(DATA)
        assert s3dlio.list(uri) == [f"{uri}/key"]


def test_l7_a_kernel_that_refuses_to_open_the_file_is_believed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def open_(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *args, **more)

    (folder / "key").write_bytes(DATA)
    before = sorted(os.listdir(folder))
    monkeypatch.setattr(os, "open", open_)
    for call in (lambda: s3dlio.get(f"direct://{folder}/key"), lambda: s3dlio.put_bytes(f"direct://{folder}/key", b"new")):
        with pytest.raises(s3dlio.DirectIOUnsupportedError):
            call()
    assert sorted(os.listdir(folder)) == before
    assert (folder / "key").read_bytes() == DATA


@pytest.mark.parametrize(("says", "expected"), [((512, 4096), Alignment(512, 4096)), ((0, 0), None), (None, Alignment(4096, 4096))])
def test_l7_the_alignment_is_what_the_kernel_says_or_a_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, says: tuple[int, int] | None, expected: Alignment | None
) -> None:
    class Libc:
        def statx(self, fd: int, path: bytes, flags: int, mask: int, found: Any) -> int:
            ctypes.memset(found, 0, 256)
            if says is not None:
                ctypes.memmove(found, mask.to_bytes(4, "little"), 4)
                ctypes.memmove(ctypes.byref(found, 152), says[0].to_bytes(4, "little") + says[1].to_bytes(4, "little"), 8)
            return 0

        def fstatfs(self, fd: int, found: Any) -> int:
            ctypes.memset(found, 0, 256)
            return 0

    (folder / "key").write_bytes(DATA)
    fd = open_direct(str(folder / "key"), os.O_RDONLY)
    try:
        monkeypatch.setattr(direct_io, "_libc", Libc())
        if expected is None:
            with pytest.raises(s3dlio.DirectIOUnsupportedError):
                alignment_of(fd)
        else:
            assert alignment_of(fd) == expected
    finally:
        os.close(fd)


def test_what_is_no_file_is_said_to_be_none(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "dir").mkdir()
    for name, expected in (("fifo", s3dlio.UnsupportedError), ("dir", IsADirectoryError), ("missing", FileNotFoundError)):
        with pytest.raises(expected) as raised:
            s3dlio.get(f"direct://{folder}/{name}")
        assert not isinstance(raised.value, s3dlio.DirectIOUnsupportedError)
        assert raised.value.uri == f"direct://{folder}/{name}"  # type: ignore[attr-defined]


def test_borrowers_have_a_buffer_each_and_few_are_kept() -> None:
    buffers = Buffers()
    with buffers.lend() as first, buffers.lend() as second:
        first[0], second[0] = 1, 2
        assert first[0] == 1
    with buffers.lend() as again:
        assert again is second or again is first
