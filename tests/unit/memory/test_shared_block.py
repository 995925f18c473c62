"""Blocks of shared memory within one process; what children see of them stands in tests/process/test_listing_sharing.py."""

from __future__ import annotations

import copy
import errno
import os
import pickle
from collections.abc import Iterator

import pytest

from s3dlio.engine.errors import InsufficientMemoryError, UnsupportedError
from s3dlio.engine.memory import segment as segment_module
from s3dlio.engine.memory.shared_block import SharedBlock

MIB = 1 << 20


def own_descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # The descriptor of the listing itself.
        found += [target] if "s3dlio" in target or "/dev/shm" in target else []
    return found


@pytest.mark.parametrize("nbytes", [0, 1, 16, 4096, MIB + 1, 3 * MIB])
def test_a_new_block_is_zeros_of_the_size_asked_for(nbytes: int) -> None:
    block = SharedBlock.create(nbytes)
    assert block.nbytes == len(block.buffer) == nbytes
    assert block.buffer == bytes(nbytes)


def test_pieces_lie_one_after_another_whatever_their_kind_and_size() -> None:
    pieces = [b"abc", b"", memoryview(b"x" * (2 * MIB + 5)), memoryview(bytearray(8)).cast("Q"), b"end"]
    block = SharedBlock.gather(pieces)
    assert block.buffer == b"abc" + b"x" * (2 * MIB + 5) + bytes(8) + b"end"


def test_a_piece_is_asked_for_only_when_the_one_before_is_in_the_block() -> None:
    written: list[int] = []

    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            (target,) = [name for name in os.listdir("/proc/self/fd") if is_memfd(name)]
            written.append(os.stat(f"/proc/self/fd/{target}").st_size)
            yield b"x" * 1000

    SharedBlock.gather(pieces())
    assert written == [0, 1000, 2000]


def is_memfd(name: str) -> bool:
    try:
        return "s3dlio" in os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:
        return False


def test_m4_what_is_derived_outlives_the_block_and_its_descriptor() -> None:
    block = SharedBlock.gather([b"abcdef"])
    kept = block.buffer[3:]
    block.close()
    block.close()
    del block
    assert kept == b"def"


def test_m6_no_descriptor_is_inheritable_and_a_block_that_is_dropped_leaves_none() -> None:
    block = SharedBlock.create(10)
    assert block.fd >= 0
    assert not os.get_inheritable(block.fd)
    assert own_descriptors()
    del block
    assert own_descriptors() == []


def test_m6_an_error_while_pieces_come_leaves_no_descriptor() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"abc"
        raise KeyError("from the source")

    with pytest.raises(KeyError, match="from the source"):
        SharedBlock.gather(pieces())
    assert own_descriptors() == []


def test_m2_nobody_can_change_the_size_under_the_mapping() -> None:
    block = SharedBlock.create(5000)
    for size in (0, 4096, 10_000):
        with pytest.raises(PermissionError):
            os.ftruncate(block.fd, size)


def test_m1_a_block_that_the_machine_has_no_memory_for_is_refused_while_some_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = 40 * MIB
    monkeypatch.setattr(segment_module, "available_memory", lambda: machine - memfd_bytes())
    sizes: list[int] = []

    def pieces() -> Iterator[bytes]:
        while True:
            sizes.append(memfd_bytes())
            yield bytes(MIB)

    with pytest.raises(InsufficientMemoryError, match="available"):
        SharedBlock.gather(pieces())
    assert 0 < max(sizes) < machine
    assert own_descriptors() == []


def memfd_bytes() -> int:
    return sum(os.stat(f"/proc/self/fd/{name}").st_size for name in os.listdir("/proc/self/fd") if is_memfd(name))


def test_m1_a_full_file_system_is_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InsufficientMemoryError, match="No space left"):
        SharedBlock.create(10)
    assert own_descriptors() == []


def test_a_write_that_ends_early_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    data = bytes(range(256))
    assert SharedBlock.gather([data]).buffer == data


def test_m6_where_memfd_is_forbidden_an_unnamed_file_in_dev_shm_takes_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(name: str, flags: int) -> int:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    before = set(os.listdir("/dev/shm"))
    block = SharedBlock.gather([b"abc"])
    assert os.readlink(f"/proc/self/fd/{block.fd}").startswith("/dev/shm/")
    assert block.buffer == b"abc"
    assert set(os.listdir("/dev/shm")) == before


def test_elsewhere_than_on_linux_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(UnsupportedError, match="need Linux"):
        SharedBlock.create(1)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("closed", [False, True])
def test_a_plain_pickle_carries_the_bytes_and_shares_nothing(protocol: int, closed: bool) -> None:
    block = SharedBlock.gather([b"abc", b"def"])
    if closed:
        block.close()
    again = pickle.loads(pickle.dumps(block, protocol))  # noqa: TID251 (a block is to pickle)
    assert again.buffer == b"abcdef"
    again.buffer[0] = 0
    assert block.buffer == b"abcdef"
    assert again.fd >= 0


def test_a_pickle_with_buffers_beside_it_needs_no_copy_of_the_bytes() -> None:
    block = SharedBlock.gather([b"x" * MIB])
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(block, 5, buffer_callback=buffers.append)
    assert len(data) < 1000
    assert pickle.loads(data, buffers=buffers).buffer == block.buffer  # noqa: TID251 (as above)


def test_a_copy_shares_nothing_either() -> None:
    block = SharedBlock.gather([b"abc"])
    for again in (copy.copy(block), copy.deepcopy(block)):
        again.buffer[0] = 0
    assert block.buffer == b"abc"
