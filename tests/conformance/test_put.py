"""Writing, on every store: the oracle finds what was put, all of it and nothing else."""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.conformance.places import Place

DATA = bytes(range(256)) * 300


BODIES: dict[str, Callable[[], Any]] = {
    "bytes": lambda: DATA,
    "empty bytes": lambda: b"",
    "bytearray": lambda: bytearray(DATA),
    "memoryview": lambda: memoryview(DATA),
    "slice of a memoryview": lambda: memoryview(DATA)[5:1000],
    "array of floats": lambda: np.arange(1000, dtype=np.float32),
    "matrix": lambda: np.arange(1000, dtype=np.int64).reshape(10, 100),
    "array.array": lambda: array.array("d", [1.5, -2.5]),
    "empty array": lambda: np.empty(0, np.uint8),
    "empty matrix": lambda: np.empty((0, 5), np.float32),
    "read-only array": lambda: np.frombuffer(DATA, np.uint8),
}


def test_put_bytes_writes_anything_with_a_buffer(place: Place) -> None:
    for kind, make in BODIES.items():
        data = make()
        place.verbs.put_bytes(place.uri("new/dir/key"), data)
        assert place.read("new/dir/key") == (data.tobytes() if hasattr(data, "tobytes") else bytes(data)), kind


def test_put_bytes_writes_a_view_that_was_read(place: Place) -> None:
    place.write("key", DATA)
    place.verbs.put_bytes(place.uri("copy"), place.verbs.get(place.uri("key")))
    place.verbs.put_bytes(place.uri("piece"), place.verbs.get(place.uri("key"))[100:200])
    assert (place.read("copy"), place.read("piece")) == (DATA, DATA[100:200])


def test_put_bytes_overwrites(place: Place) -> None:
    place.write("key", b"what was there")
    for data in (DATA, b"shorter", b""):
        place.verbs.put_bytes(place.uri("key"), data)
        assert place.read("key") == data
        assert bytes(place.verbs.get(place.uri("key"))) == data


def test_put_bytes_refuses_what_has_no_contiguous_buffer(place: Place) -> None:
    for data in ("text", 5, None, np.zeros((4, 4), np.uint8)[:, ::2]):
        with pytest.raises(TypeError):
            place.verbs.put_bytes(place.uri("key"), data)
    assert place.keys() == []
