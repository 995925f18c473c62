"""One contract, every store: reading, writing and looking, held against an oracle that goes around the store."""

from __future__ import annotations

import array
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio
from tests.conformance.places import Place, file_place, memory_place, s3_place
from tests.support.answers import s3_error
from tests.support.moto_server import MotoServer
from tests.support.object_server import ObjectServer
from tests.support.s3_endpoint import S3Endpoint

PointAt = Callable[[S3Endpoint | str], None]
DATA = bytes(range(256)) * 300
STAT_KEYS = {
    "size", "last_modified", "etag", "content_type", "content_language", "content_encoding", "cache_control", "content_disposition",
    "expires", "storage_class", "server_side_encryption", "ssekms_key_id", "sse_customer_algorithm", "version_id",
    "replication_status", "metadata",
}  # fmt: skip
"""The 16 facts of the API guide."""


@pytest.mark.parametrize("size", [0, 1, 1023, 4096, 76_800])
def test_get_returns_what_the_oracle_wrote(place: Place, size: int) -> None:
    place.write("dir/key", DATA[:size])
    view = s3dlio.get(place.uri("dir/key"))
    assert bytes(view) == DATA[:size]
    assert (view.dtype, view.ndim, view.flags.c_contiguous, view.flags.writeable) == (np.uint8, 1, True, True)


def test_get_of_nothing_is_not_found(place: Place) -> None:
    place.fill("dir/key")
    for key in ("missing", "dir/missing", "dir/key2", "key"):
        with pytest.raises(FileNotFoundError) as raised:
            s3dlio.get(place.uri(key))
        assert isinstance(raised.value, s3dlio.NotFoundError)
        assert raised.value.uri == place.uri(key)


def test_a_view_keeps_its_bytes_when_the_object_is_overwritten(place: Place) -> None:
    place.write("key", b"first")
    view = s3dlio.get(place.uri("key"))
    view[0] = ord("F")
    place.write("key", b"other")
    assert bytes(s3dlio.get(place.uri("key"))) == b"other"
    assert bytes(view) == b"First"
    assert place.read("key") == b"other"


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 10), (0, None), (1, 1), (100, 5000), (76_799, 1), (76_799, 100), (76_000, None), (0, 10**12), (76_800, None), (76_800, 5),
     (0, 0), (500, 0), (76_800, 0)],
)  # fmt: skip
def test_get_range_clips_at_the_end(place: Place, offset: int, length: int | None) -> None:
    place.write("key", DATA)
    end = None if length is None else offset + length
    assert bytes(s3dlio.get_range(place.uri("key"), offset, length)) == DATA[offset:end]


@pytest.mark.parametrize(("offset", "length"), [(76_801, None), (76_801, 1), (76_801, 0), (10**12, 5), (-1, None), (-1, 5), (5, -1)])
def test_get_range_beyond_the_object_is_a_value_error(place: Place, offset: int, length: int | None) -> None:
    place.write("key", DATA)
    with pytest.raises(s3dlio.InvalidRangeError) as raised:
        s3dlio.get_range(place.uri("key"), offset, length)
    assert isinstance(raised.value, ValueError)
    assert raised.value.uri == place.uri("key")


def test_get_range_of_an_empty_object_is_empty_at_zero(place: Place) -> None:
    place.write("key", b"")
    assert bytes(s3dlio.get_range(place.uri("key"), 0)) == b""
    assert bytes(s3dlio.get_range(place.uri("key"), 0, 10)) == b""
    with pytest.raises(s3dlio.InvalidRangeError):
        s3dlio.get_range(place.uri("key"), 1)


@pytest.mark.parametrize("length", [None, 5, 0])
def test_get_range_of_nothing_is_not_found(place: Place, length: int | None) -> None:
    with pytest.raises(FileNotFoundError):
        s3dlio.get_range(place.uri("missing"), 0, length)


@pytest.mark.parametrize("workers", [1, 3, 64])
def test_get_many_keeps_the_order_and_the_duplicates(place: Place, workers: int) -> None:
    keys = [f"k{n}" for n in range(20)]
    for n, key in enumerate(keys):
        place.write(key, DATA[: n * 997])
    wanted = [*reversed(keys), "k3", "k3", "k19"]
    found = s3dlio.get_many([place.uri(key) for key in wanted], workers)
    assert [bytes(view) for view in found] == [DATA[: int(key[1:]) * 997] for key in wanted]


def test_get_many_takes_an_iterator_and_gives_pairs(place: Place) -> None:
    place.fill("a", "b")
    found = s3dlio.get_many((place.uri(key) for key in "ba"), max_in_flight=1, with_uris=True)
    assert [(uri, bytes(view)) for uri, view in found] == [(place.uri("b"), b"b"), (place.uri("a"), b"a")]


def test_get_many_of_nothing_is_an_empty_list(place: Place) -> None:
    assert s3dlio.get_many([]) == []
    assert s3dlio.get_many([], with_uris=True, errors="return") == []


def test_get_many_returns_errors_in_their_places(place: Place) -> None:
    place.fill("a", "b")
    wanted = [place.uri(key) for key in ("a", "missing", "b", "gone")]
    found = s3dlio.get_many(wanted, errors="return")
    assert [bytes(found[n]) for n in (0, 2)] == [b"a", b"b"]
    assert all(isinstance(found[n], s3dlio.NotFoundError) and found[n].uri == wanted[n] for n in (1, 3))
    pairs = s3dlio.get_many(wanted, errors="return", with_uris=True)
    assert [uri for uri, _ in pairs] == wanted


def test_get_many_raises_the_first_error_in_input_order(place: Place) -> None:
    place.fill("a")
    with pytest.raises(FileNotFoundError) as raised:
        s3dlio.get_many([place.uri(key) for key in ("a", "missing 1", "a", "missing 2")])
    assert raised.value.uri == place.uri("missing 1")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "arguments",
    [{"workers": 0}, {"workers": -1}, {"max_in_flight": 0}, {"workers": 2, "max_in_flight": 3}, {"errors": "ignore"}],
)
def test_get_many_refuses_arguments_without_sense(arguments: dict[str, Any]) -> None:
    with pytest.raises(s3dlio.ConfigurationError):
        s3dlio.get_many(["memory://b/k"], **arguments)


def test_get_many_refuses_one_text_in_place_of_a_list() -> None:
    with pytest.raises(s3dlio.ConfigurationError):
        s3dlio.get_many("memory://b/k")


def test_get_many_mixes_schemes_in_one_call(tmp_path: Path, moto_s3: MotoServer, s3_env: PointAt) -> None:
    s3_env(moto_s3.endpoint)
    places = [memory_place("mixed"), file_place(tmp_path), s3_place("moto", moto_s3.endpoint)]
    for n, place in enumerate(places):
        place.write("key", DATA[: 1000 + n])
    uris = [place.uri(key) for key in ("key", "missing") for place in places] * 3
    found = s3dlio.get_many(uris, workers=2, errors="return")
    for uri, result in zip(uris, found, strict=True):
        if uri.endswith("missing"):
            assert isinstance(result, s3dlio.NotFoundError)
            assert result.uri == uri
        else:
            assert bytes(result) == next(place.read("key") for place in places if uri.startswith(place.root))
    s3dlio.shutdown()


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


@pytest.mark.parametrize("kind", BODIES)
def test_put_bytes_writes_anything_with_a_buffer(place: Place, kind: str) -> None:
    data = BODIES[kind]()
    s3dlio.put_bytes(place.uri("new/dir/key"), data)
    assert place.read("new/dir/key") == (data.tobytes() if hasattr(data, "tobytes") else bytes(data))


def test_put_bytes_writes_a_view_that_was_read(place: Place) -> None:
    place.write("key", DATA)
    s3dlio.put_bytes(place.uri("copy"), s3dlio.get(place.uri("key")))
    s3dlio.put_bytes(place.uri("piece"), s3dlio.get(place.uri("key"))[100:200])
    assert (place.read("copy"), place.read("piece")) == (DATA, DATA[100:200])


@pytest.mark.parametrize("data", [DATA, b"short", b""], ids=["longer", "shorter", "empty"])
def test_put_bytes_overwrites(place: Place, data: bytes) -> None:
    place.write("key", b"what was there")
    s3dlio.put_bytes(place.uri("key"), data)
    assert place.read("key") == data
    assert bytes(s3dlio.get(place.uri("key"))) == data


@pytest.mark.parametrize("data", ["text", 5, None, np.zeros((4, 4), np.uint8)[:, ::2]], ids=["str", "int", "None", "strided"])
def test_put_bytes_refuses_what_has_no_contiguous_buffer(place: Place, data: Any) -> None:
    with pytest.raises(TypeError):
        s3dlio.put_bytes(place.uri("key"), data)
    assert place.read("key") is None


def test_stat_says_16_things(place: Place) -> None:
    place.write("key", DATA)
    found = s3dlio.stat(place.uri("key"))
    assert set(found) == STAT_KEYS
    assert found["size"] == len(DATA)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["last_modified"])
    assert found["etag"]
    assert '"' not in found["etag"]
    assert isinstance(found["metadata"], dict)


def test_stat_of_nothing_and_of_a_prefix_is_not_found(place: Place) -> None:
    place.fill("dir/key")
    with pytest.raises(FileNotFoundError):
        s3dlio.stat(place.uri("missing"))
    # A directory of a file system exists, but is no object.
    with pytest.raises(IsADirectoryError if place.is_file else FileNotFoundError):
        s3dlio.stat(place.uri("dir"))


def test_exists_is_true_for_objects_only(place: Place) -> None:
    place.fill("dir/key")
    assert s3dlio.exists(place.uri("dir/key"))
    assert not s3dlio.exists(place.uri("dir/key2"))
    assert not s3dlio.exists(place.uri("dir"))
    assert not s3dlio.exists(place.uri("dir/"))


@pytest.mark.parametrize(("status", "expected"), [(403, PermissionError), (401, PermissionError), (500, s3dlio.ServerError)])
def test_exists_raises_what_is_not_not_found(object_server: ObjectServer, s3_env: PointAt, status: int, expected: type[Exception]) -> None:
    s3_env(object_server.url)
    s3dlio.configure(max_attempts=1)
    object_server.faults["/bucket/key"] = [s3_error(status, "Scripted")]
    with pytest.raises(expected):
        s3dlio.exists("s3://bucket/key")
    s3dlio.shutdown()


def test_delete_takes_one_object_away_and_a_missing_one_is_fine(place: Place) -> None:
    place.fill("a", "ab", "dir/a")
    s3dlio.delete(place.uri("a"))
    assert [place.read(key) for key in ("a", "ab", "dir/a")] == [None, b"ab", b"dir/a"]
    s3dlio.delete(place.uri("a"))
    s3dlio.delete(place.uri("dir/never"))
    s3dlio.delete(place.uri("no/such/dir/key"))


KEYS = ["a.txt", "b.bin", "dir/a.txt", "dir/c.bin", "dir/deep/d.txt", "dir2/e.txt", "dirt"]


def test_list_is_sorted_and_adds_child_prefixes(place: Place) -> None:
    place.fill(*reversed(KEYS))
    assert s3dlio.list(place.root) == [place.uri(key) for key in ("a.txt", "b.bin", "dir/", "dir2/", "dirt")]
    assert s3dlio.list(place.root, recursive=True) == [place.uri(key) for key in sorted(KEYS)]


def test_list_below_a_prefix_with_a_slash(place: Place) -> None:
    place.fill(*KEYS)
    assert s3dlio.list(place.uri("dir/")) == [place.uri(key) for key in ("dir/a.txt", "dir/c.bin", "dir/deep/")]
    assert s3dlio.list(place.uri("dir/"), recursive=True) == [place.uri(key) for key in KEYS if key.startswith("dir/")]


def test_list_of_a_text_prefix_is_raw_on_object_stores_and_a_directory_on_file_systems(place: Place) -> None:
    place.fill(*KEYS)
    prefix = "dir/" if place.is_file else "dir"
    assert s3dlio.list(place.uri("dir"), recursive=True) == [place.uri(key) for key in sorted(KEYS) if key.startswith(prefix)]


def test_list_of_nothing_is_empty(place: Place) -> None:
    place.fill("dir/key")
    assert s3dlio.list(place.uri("other/")) == []
    assert s3dlio.list(place.uri("dir/key/below/"), recursive=True) == []


@pytest.mark.parametrize(
    ("prefix", "is_recursive", "pattern", "expected"),
    [
        ("", True, "*.txt", ["a.txt", "dir/a.txt", "dir/deep/d.txt", "dir2/e.txt"]),
        ("", False, "*.txt", ["a.txt"]),
        ("", False, "dir*", ["dirt"]),
        ("", True, "dir/*", ["dir/a.txt", "dir/c.bin"]),
        ("", True, "**/*.bin", ["b.bin", "dir/c.bin"]),
        ("dir/", True, "*.txt", ["dir/a.txt", "dir/deep/d.txt"]),
        ("dir/", True, "deep/*", ["dir/deep/d.txt"]),
        ("dir/", True, "[ac].*", ["dir/a.txt", "dir/c.bin"]),
        ("", True, re.compile(r"^dir\d/"), ["dir2/e.txt"]),
        ("dir/", True, re.compile(r"^(a|deep)"), ["dir/a.txt", "dir/deep/d.txt"]),
        ("", True, "*.none", []),
    ],
)
def test_list_keeps_what_the_pattern_wants(place: Place, prefix: str, is_recursive: bool, pattern: Any, expected: list[str]) -> None:
    place.fill(*KEYS)
    assert s3dlio.list(place.uri(prefix), is_recursive, pattern) == [place.uri(key) for key in expected]


def test_list_iter_tells_sizes_and_versions(place: Place) -> None:
    place.fill(*KEYS)
    place.write("empty", b"")
    found = {entry.uri: entry for entry in s3dlio.list_iter(place.root, recursive=True)}
    assert {uri: entry.size for uri, entry in found.items()} == {place.uri(key): len(key) for key in KEYS} | {place.uri("empty"): 0}
    assert all(entry.version and entry.last_modified and not entry.is_prefix for entry in found.values())
    (child,) = [entry for entry in s3dlio.list_iter(place.uri("dir/")) if entry.is_prefix]
    assert (child.uri, child.size) == (place.uri("dir/deep/"), None)


def test_a_listed_entry_is_read_as_the_version_that_was_listed(place: Place) -> None:
    place.fill(*KEYS)
    refs = [s3dlio.ObjectRef(e.uri, e.size, e.version) for e in s3dlio.list_iter(place.root, recursive=True)]
    assert sorted(bytes(view) for view in s3dlio.get_many(refs)) == sorted(key.encode() for key in KEYS)
    place.write("dirt", b"changed since")
    results = s3dlio.get_many(refs, errors="return")
    changed = [ref.uri for ref, result in zip(refs, results, strict=True) if isinstance(result, s3dlio.ObjectChangedError)]
    assert changed == [place.uri("dirt")]


def test_i11_a_listing_of_many_pages_is_complete(moto_s3: MotoServer, s3_env: PointAt) -> None:
    s3_env(moto_s3.endpoint)
    place = s3_place("moto", moto_s3.endpoint)
    keys = [f"part-{n:05d}" for n in range(1203)]
    for key in keys:
        place.write(key, b"")
    assert s3dlio.list(place.uri("part-"), recursive=True) == [place.uri(key) for key in keys]
    first = next(iter(s3dlio.list_iter(place.root)))
    assert first.uri == place.uri(keys[0])
    s3dlio.shutdown()


@pytest.mark.parametrize("verb", ["get", "get_range", "stat", "exists", "delete", "put_bytes", "list"])
@pytest.mark.parametrize("uri", ["no-scheme", "http://host/key", "s3://", "s3:///key", ""])
def test_every_verb_refuses_what_is_no_uri(verb: str, uri: str) -> None:
    more: list[Any] = {"get_range": [0], "put_bytes": [b""]}.get(verb, [])
    with pytest.raises(s3dlio.InvalidUriError):
        getattr(s3dlio, verb)(uri, *more)


@pytest.mark.parametrize("workers", [1, 3, 64])
def test_get_many_goes_on_behind_any_number_of_uris_without_a_store(place: Place, workers: int) -> None:
    place.write("good", DATA)
    bad, good = ["no scheme", "nonsense://x/y"] * 100, [place.uri("good")]
    found = s3dlio.get_many([*bad, *good, *bad, *good], workers=workers, errors="return")
    assert [isinstance(one, s3dlio.InvalidUriError) for one in found] == ([True] * 200 + [False]) * 2
    assert [bytes(one) for one in found if not isinstance(one, Exception)] == [DATA] * 2
