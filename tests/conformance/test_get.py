"""Reading, on every store: what the oracle wrote is what comes, whole, in ranges, and many at once."""

from __future__ import annotations

import numpy as np
import pytest

import s3dlio
from tests.conformance.places import Place

DATA = bytes(range(256)) * 300
RANGES = [
    (0, 10), (0, None), (1, 1), (100, 5000), (4095, 4098), (76_799, 1), (76_799, 100), (76_000, None), (0, 10**12), (76_800, None),
    (76_800, 5), (0, 0), (500, 0), (76_800, 0),
]  # fmt: skip
"""Offsets and lengths that the object has, or ends in."""


def test_get_returns_what_the_oracle_wrote(place: Place) -> None:
    for size in (0, 1, 1023, 4096, 4097, 76_800):
        place.write("dir/key", DATA[:size])
        view = place.verbs.get(place.uri("dir/key"))
        assert bytes(view) == DATA[:size]
        assert (view.dtype, view.ndim, view.flags.c_contiguous, view.flags.writeable) == (np.uint8, 1, True, True)


def test_get_of_nothing_is_not_found(place: Place) -> None:
    place.fill("dir/key")
    for key in ("missing", "dir/missing", "dir/key2", "key"):
        with pytest.raises(FileNotFoundError) as raised:
            place.verbs.get(place.uri(key))
        assert isinstance(raised.value, s3dlio.NotFoundError)
        assert raised.value.uri == place.uri(key)


def test_a_view_keeps_its_bytes_when_the_object_is_overwritten(place: Place) -> None:
    place.write("key", b"first")
    view = place.verbs.get(place.uri("key"))
    view[0] = ord("F")
    place.write("key", b"other")
    assert bytes(place.verbs.get(place.uri("key"))) == b"other"
    assert bytes(view) == b"First"
    assert place.read("key") == b"other"


def test_get_range_clips_at_the_end(place: Place) -> None:
    place.write("key", DATA)
    for offset, length in RANGES:
        end = None if length is None else offset + length
        assert bytes(place.verbs.get_range(place.uri("key"), offset, length)) == DATA[offset:end], (offset, length)


def test_get_range_beyond_the_object_is_a_value_error(place: Place) -> None:
    place.write("key", DATA)
    for offset, length in ((76_801, None), (76_801, 1), (76_801, 0), (10**12, 5), (-1, None), (-1, 5), (5, -1)):
        with pytest.raises(s3dlio.InvalidRangeError) as raised:
            place.verbs.get_range(place.uri("key"), offset, length)
        assert isinstance(raised.value, ValueError)
        assert raised.value.uri == place.uri("key")


def test_get_range_of_an_empty_object_is_empty_at_zero(place: Place) -> None:
    place.write("key", b"")
    assert bytes(place.verbs.get_range(place.uri("key"), 0)) == b""
    assert bytes(place.verbs.get_range(place.uri("key"), 0, 10)) == b""
    with pytest.raises(s3dlio.InvalidRangeError):
        place.verbs.get_range(place.uri("key"), 1)


def test_get_range_of_nothing_is_not_found(place: Place) -> None:
    for length in (None, 5, 0):
        with pytest.raises(FileNotFoundError):
            place.verbs.get_range(place.uri("missing"), 0, length)


def test_get_many_keeps_the_order_and_the_duplicates(place: Place) -> None:
    keys = [f"k{n}" for n in range(12)]
    for n, key in enumerate(keys):
        place.write(key, DATA[: n * 997])
    wanted = [*reversed(keys), "k3", "k3", "k11"]
    for workers in (1, 3, 64):
        found = place.verbs.get_many([place.uri(key) for key in wanted], workers)
        assert [bytes(view) for view in found] == [DATA[: int(key[1:]) * 997] for key in wanted]


def test_get_many_takes_an_iterator_and_gives_pairs(place: Place) -> None:
    place.fill("a", "b")
    found = place.verbs.get_many((place.uri(key) for key in "ba"), max_in_flight=1, with_uris=True)
    assert [(uri, bytes(view)) for uri, view in found] == [(place.uri("b"), b"b"), (place.uri("a"), b"a")]


def test_get_many_returns_errors_in_their_places(place: Place) -> None:
    place.fill("a", "b")
    wanted = [place.uri(key) for key in ("a", "missing", "b", "gone")]
    found = place.verbs.get_many(wanted, errors="return")
    assert [bytes(found[n]) for n in (0, 2)] == [b"a", b"b"]
    assert all(isinstance(found[n], s3dlio.NotFoundError) and found[n].uri == wanted[n] for n in (1, 3))
    pairs = place.verbs.get_many(wanted, errors="return", with_uris=True)
    assert [uri for uri, _ in pairs] == wanted


def test_get_many_raises_the_first_error_in_input_order(place: Place) -> None:
    place.fill("a")
    with pytest.raises(FileNotFoundError) as raised:
        place.verbs.get_many([place.uri(key) for key in ("a", "missing 1", "a", "missing 2")])
    assert raised.value.uri == place.uri("missing 1")  # type: ignore[attr-defined]


def test_get_many_goes_on_behind_any_number_of_uris_without_a_store(place: Place) -> None:
    place.write("good", DATA)
    bad, good = ["no scheme", "nonsense://x/y"] * 100, [place.uri("good")]
    for workers in (1, 3, 64):
        found = place.verbs.get_many([*bad, *good, *bad, *good], workers=workers, errors="return")
        assert [isinstance(one, s3dlio.InvalidUriError) for one in found] == ([True] * 200 + [False]) * 2
        assert [bytes(one) for one in found if not isinstance(one, Exception)] == [DATA] * 2


def test_get_object_is_get(place: Place) -> None:
    place.write("key", DATA)
    assert bytes(place.verbs.get_object(place.uri("key"))) == DATA
    with pytest.raises(FileNotFoundError):
        place.verbs.get_object(place.uri("missing"))


def test_get_into_fills_memory_of_the_caller(place: Place) -> None:
    place.write("key", DATA)
    for offset, length in [(0, None), (0, len(DATA)), *((offset, length) for offset, length in RANGES if length not in {None, 10**12})]:
        expected = DATA[offset:] if length is None else DATA[offset : offset + length]
        for buffer in (bytearray(b"\xaa" * 77_000), np.full(77_000, 0xAA, np.uint8), memoryview(bytearray(b"\xaa" * 77_000))):
            count = place.verbs.get_into(place.uri("key"), buffer, offset, length)
            assert count == len(expected)
            assert bytes(buffer) == expected + b"\xaa" * (77_000 - len(expected)), (offset, length)
    exact = np.zeros((10, 1920), np.int32)
    assert place.verbs.get_into(place.uri("key"), exact) == len(DATA)
    assert exact.tobytes() == DATA


def test_get_into_refuses_what_does_not_fit(place: Place) -> None:
    place.write("key", DATA)
    small = bytearray(b"\xaa" * 100)
    for offset, length in ((0, None), (0, 101), (76_699, None)):
        with pytest.raises(ValueError, match="100"):
            place.verbs.get_into(place.uri("key"), small, offset, length)
    for bad in (b"read-only bytes", "text", np.zeros((4, 4), np.uint8)[:, ::2]):
        with pytest.raises((TypeError, ValueError)):
            place.verbs.get_into(place.uri("key"), bad)
    with pytest.raises(s3dlio.InvalidRangeError):
        place.verbs.get_into(place.uri("key"), small, 76_801)
    with pytest.raises(FileNotFoundError):
        place.verbs.get_into(place.uri("missing"), small)
