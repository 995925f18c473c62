"""Writing, on every store: the oracle finds what was put, all of it and nothing else."""

from __future__ import annotations

import array
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import s3dlio
from tests.conformance.places import Place

DATA = bytes(range(256)) * 300
MUCH = random.Random(5).randbytes(11 << 20)
OTHER = MUCH[::-1]


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


def test_put_bytes_writes_every_size(place: Place) -> None:
    for size in (0, 1, 65_535, 65_536, 65_537, 300_001):
        place.verbs.put_bytes(place.uri("key"), MUCH[:size])
        assert place.read("key") == MUCH[:size]
        assert place.facts("key").size == size
    assert (place.keys(), place.oracle.leftovers()) == (["key"], [])


def test_put_bytes_writes_in_parts_above_the_threshold(place: Place) -> None:
    part = _write_in_parts(place)
    for size in (part, part + 1, 2 * part + 12_345):
        place.verbs.put_bytes(place.uri("key"), MUCH[:size])
        assert place.read("key") == MUCH[:size]
        assert place.verbs.stat(place.uri("key"))["size"] == size
        assert bytes(place.verbs.get(place.uri("key"))) == MUCH[:size]
    assert (place.keys(), place.oracle.leftovers()) == (["key"], [])


def test_u5_a_create_only_put_leaves_what_is_there(place: Place) -> None:
    part = _write_in_parts(place)
    for size in (0, 10, part + 1):
        key = f"new/{size}"
        place.verbs.put_bytes(place.uri(key), MUCH[:size], if_none_match=True)
        assert place.read(key) == MUCH[:size]
        for other in (b"", b"other", OTHER[: part + 1]):
            with pytest.raises(FileExistsError) as raised:
                place.verbs.put_bytes(place.uri(key), other, if_none_match=True)
            assert isinstance(raised.value, s3dlio.AlreadyExistsError)
            assert raised.value.uri == place.uri(key)
            assert place.read(key) == MUCH[:size]
    place.verbs.put_bytes(place.uri("new/10"), b"over")
    assert place.read("new/10") == b"over"
    assert place.oracle.leftovers() == []


def test_put_many_writes_each_item(place: Place) -> None:
    items = {f"dir{n % 3}/key{n}": MUCH[: n * 1009] for n in range(12)}
    for max_in_flight in (1, 3, 64):
        pairs = [(place.uri(key), data) for key, data in items.items()]
        assert place.verbs.put_many(pairs, max_in_flight=max_in_flight) is None
        assert place.contents() == items
    place.verbs.put_many((place.uri(key), memoryview(data)[:5]) for key, data in items.items())
    assert place.contents() == {key: data[:5] for key, data in items.items()}
    assert place.verbs.put_many([]) is None


def test_put_many_raises_what_an_item_met(place: Place) -> None:
    for bad in ((place.uri("bad"), "text"), ("nonsense://x/y", b""), (place.uri("bad"), None)):
        with pytest.raises((TypeError, s3dlio.S3dlioError)):
            place.verbs.put_many([(place.uri("good"), b"1"), bad])
    assert set(place.keys()) <= {"good"}


def test_put_makes_objects_of_a_size_by_a_template(place: Place) -> None:
    place.verbs.put(place.uri("gen/"), num=3, template="obj_{}_of_{}.dat", size=1000)
    assert place.keys() == [f"gen/obj_{n}_of_3.dat" for n in range(3)]
    assert all(place.facts(key).size == 1000 for key in place.keys())  # noqa: SIM118 (it is no dictionary)
    place.verbs.put(place.uri("plain/"), 2, size=0)
    assert place.keys()[-2:] == ["plain/object-0", "plain/object-1"]
    assert place.read("plain/object-0") == b""


def _write_in_parts(place: Place) -> int:
    """Has objects written in parts that are longer than what it returns: the smallest part of the store, in bytes."""
    part = 5 << 20 if place.name in {"moto", "rclone"} else 256 << 10
    s3dlio.configure(put_part_bytes=part, multipart_above_bytes=part)
    return part
