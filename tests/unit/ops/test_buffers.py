"""Memory of the caller's: what may be written from and read into, without a copy."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest
import torch

from s3dlio.engine.memory.buffers import as_payload, as_room


def _structured() -> Any:
    return np.zeros(3, [("a", "i4"), ("b", "f8")])


@pytest.mark.parametrize(
    ("make", "num_bytes"),
    [
        (lambda: bytearray(5), 5),
        (lambda: memoryview(bytearray(9))[2:], 7),
        (lambda: np.zeros((3, 4), np.float32), 48),
        (lambda: np.zeros((), np.int64), 8),
        (lambda: np.zeros(3, np.complex64), 24),
        (lambda: np.zeros(4, np.float16), 8),
        (_structured, 36),
        (lambda: torch.zeros(3, 2), 24),
        (lambda: torch.zeros(3, dtype=torch.bfloat16), 6),
        (lambda: torch.nn.Parameter(torch.zeros(2)), 8),
        (lambda: torch.zeros(8)[2:6], 16),
    ],
)
def test_what_is_written_to_a_room_stands_in_the_owner(make: Any, num_bytes: int) -> None:
    owner = make()
    room = as_room(owner)
    assert (room.nbytes, room.ndim, room.format, room.readonly) == (num_bytes, 1, "B", False)
    room[:] = bytes(range(1, num_bytes + 1))
    assert bytes(as_payload(owner)) == bytes(range(1, num_bytes + 1))


def test_a_mapped_file_is_written_to() -> None:
    with mmap.mmap(-1, 100) as mapped:
        with as_room(mapped) as room:
            room[:3] = b"abc"
        assert mapped[:4] == b"abc\0"


def test_a_tensor_lives_as_long_as_its_room() -> None:
    room = as_room(torch.full((1000,), 7, dtype=torch.uint8))
    others = [torch.zeros(1000, dtype=torch.uint8) for _ in range(20)]
    assert bytes(room) == b"\7" * 1000
    assert len(others) == 20


@pytest.mark.parametrize("make", [bytearray, lambda: np.zeros(0), lambda: torch.zeros(0), lambda: np.zeros((3, 0))])
def test_an_empty_buffer_is_room_for_nothing(make: Any) -> None:
    assert len(as_room(make())) == len(as_payload(make())) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"abc",
        lambda: "text",
        lambda: 5,
        lambda: [1, 2],
        lambda: np.zeros((4, 4))[:, 1],
        lambda: np.asfortranarray(np.zeros((2, 3))),
        lambda: np.zeros(2, "M8[s]"),
        lambda: np.frombuffer(b"abcd", np.uint8),
        lambda: torch.zeros(4, 4)[:, 1],
        lambda: torch.zeros(4, device="meta"),
        lambda: torch.zeros(4, dtype=torch.complex64).conj(),
        lambda: torch.zeros(4, dtype=torch.complex64).conj().imag,
    ],
)
def test_what_cannot_be_written_to_as_bytes_is_refused(make: Any) -> None:
    with pytest.raises(TypeError):
        as_room(make())
