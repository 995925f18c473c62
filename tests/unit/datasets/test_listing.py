"""Listings: what goes in comes out, in the order that is promised; the oracles are lists of Python and the stores themselves."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import s3dlio
from s3dlio.datasets import listing as listing_module
from s3dlio.datasets import packing, rows
from s3dlio.datasets.entries import Entry
from s3dlio.datasets.listing import Listing, from_uris, list_prefix
from s3dlio.datasets.packing import pack
from s3dlio.engine.errors import ConfigurationError, InvalidUriError, NotFoundError
from s3dlio.engine.types import ListEntry, ObjectInfo, ObjectRef

MD5 = "d41d8cd98f00b204e9800998ecf8427e"


def versions(size: int | None) -> st.SearchStrategy[str | None]:
    near_misses = [
        MD5,
        MD5.upper(),
        MD5[:-1] + "g",
        MD5 + "-2",
        f"{size}-1-2",
        f"{size}-01-2",
        f"{size}-+1-2",
        f"{size}--1-2",
    ]
    big = [
        f"{size}-{2**64 - 1}-{2**64 - 1}",
        f"{size}-{2**64}-1",
        f"{size}-1",
        f"{size}-",
        "-",
        "",
        "é" * 16,
        " " * 32,
        "ab " * 10 + "ab",
    ]
    return st.none() | st.sampled_from(near_misses + big) | st.text(max_size=40)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    # Surrogates are what Python makes of file names that are not UTF-8.
    uri = draw(st.sampled_from(["s3://b/", "s3://b/a/", "file:///"])) + draw(
        st.text(st.characters(codec=None), max_size=12)
    )
    size = draw(st.none() | st.integers(0, 2**63 - 1) | st.integers(0, 99))
    return Entry(uri, size, draw(versions(size)))


def as_entries(listing: Listing) -> list[Entry]:
    return [Entry(ref.uri, ref.size, ref.version) for ref in listing.refs(range(len(listing)))]


@pytest.fixture(scope="module", params=[3, 8192], ids=["small chunks", "one chunk"])
def chunk(request: pytest.FixtureRequest) -> Iterator[int]:
    """Lets a few entries be several chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "CHUNK", request.param)
        patch.setattr(packing, "_READ_AHEAD", 2)
        yield request.param


@given(given_entries=st.lists(entries(), max_size=20))
@example([Entry("s3://b/a", 2**63 - 1, MD5), Entry("s3://b/", None, ""), Entry("file:///\udcff", 0, None)])
def test_a_given_order_is_kept_and_every_field_comes_back_as_it_was(chunk: int, given_entries: list[Entry]) -> None:
    listing = Listing(pack(given_entries, is_sorted=False), "name")
    assert len(listing) == len(given_entries)
    assert as_entries(listing) == given_entries
    assert listing.sizes.tolist() == [-1 if entry.size is None else entry.size for entry in given_entries]


@given(given_entries=st.lists(entries(), max_size=20))
@example(
    [
        Entry("s3://b/\uffff", 1, None),
        Entry("s3://b/\U00010000", 2, None),
        Entry("s3://b/a", 3, None),
        Entry("s3://b/a", 4, None),
    ]
)
def test_sorting_is_by_the_bytes_of_the_uri_and_an_object_is_listed_once(
    chunk: int, given_entries: list[Entry]
) -> None:
    first = {entry.uri: entry for entry in reversed(given_entries)}
    expected = sorted(first.values(), key=lambda entry: entry.uri.encode("utf-8", "surrogatepass"))
    packed = pack(given_entries, is_sorted=True)
    listing = Listing(packed, "name")
    assert as_entries(listing) == expected
    assert listing.sizes.tolist() == [-1 if entry.size is None else entry.size for entry in expected]
    assert listing.digest == pack(expected, is_sorted=False).digest


def thousands(num: int) -> list[Entry]:
    return [Entry(f"s3://bucket/train/{i // 100:04d}/{i:08d}.bin", 1000 + i, f"{i:032x}") for i in range(num)]


def test_a_listing_in_order_is_packed_as_it_comes_and_needs_no_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_merge", None)
    listing = Listing(pack(iter(thousands(20_000)), is_sorted=True), "name")
    assert as_entries(listing) == thousands(20_000)


def test_a_store_that_lists_in_any_order_makes_the_same_listing() -> None:
    ordered, shuffled = thousands(30_000), thousands(30_000)
    random.Random(7).shuffle(shuffled)
    one, other = Listing(pack(ordered, is_sorted=True), "one"), Listing(pack(shuffled, is_sorted=True), "other")
    assert as_entries(other) == ordered
    assert one.digest == other.digest
    assert np.array_equal(one.sizes, other.sizes)


def test_more_beginnings_than_a_head_can_number_cost_memory_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CHUNK", 2)
    monkeypatch.setattr(packing, "MAX_BEGINNINGS", 3)
    packed = pack(thousands(1000), is_sorted=True)
    assert len(packed.beginnings) == 3
    assert as_entries(Listing(packed, "name")) == thousands(1000)
    assert rows.MAX_BEGINNINGS * 4 == 1 << 16


def test_keys_with_etags_take_little_more_than_what_differs_between_them() -> None:
    packed = pack(thousands(100_000), is_sorted=True)
    # 20 in the columns, 2 in the head, 16 of the ETag, and of 39 characters those that differ within a chunk.
    assert packed.block.nbytes < 100_000 * (20 + 2 + 16 + 17)


@pytest.mark.parametrize(
    "entry", [Entry("s3://b/a", 2**63, None), Entry("s3://b/a", 1, "x" * 65536)], ids=["size", "version"]
)
def test_what_no_row_can_hold_is_refused_with_its_uri(entry: Entry) -> None:
    with pytest.raises(ConfigurationError, match="s3://b/a"):
        pack([entry], is_sorted=True)


def test_an_error_of_the_store_in_the_middle_of_a_listing_is_the_error_of_the_listing() -> None:
    def broken() -> Iterator[Entry]:
        yield from thousands(10_000)
        raise NotFoundError("the bucket is gone")

    with pytest.raises(NotFoundError, match="the bucket is gone"):
        pack(broken(), is_sorted=True)


def digest(*given_entries: Entry, is_sorted: bool = False) -> str:
    return pack(given_entries, is_sorted).digest


ONE = Entry("s3://b/a", 1, MD5)
TWO = Entry("s3://b/b", 2, None)


def test_the_digest_is_the_same_in_every_release_since_states_hold_it() -> None:
    text = b"8 s3://b/a 1 32 d41d8cd98f00b204e9800998ecf8427e\n8 s3://b/b 2\n"
    assert digest(ONE, TWO) == hashlib.blake2b(text, digest_size=16).hexdigest() == "40ccfc0cb6de904849c215844f25beeb"
    assert digest() == "cae66941d9efbd404e4d88758ea67670"


@pytest.mark.parametrize(
    "others",
    [
        (TWO, ONE),
        (ONE,),
        (ONE, TWO, TWO),
        (ONE, Entry("s3://b/c", 2, None)),
        (ONE, Entry("s3://b/b", 3, None)),
        (ONE, Entry("s3://b/b", None, None)),
        (ONE, Entry("s3://b/b", 2, "")),
        (Entry("s3://b/a", 1, MD5[::-1]), TWO),
        (Entry("s3://b/a", 1, None), TWO),
        (Entry(f"s3://b/a 1 32 {MD5}\n8 s3://b/b", 2, None),),
    ],
    ids=[
        "order",
        "fewer",
        "twice",
        "uri",
        "size",
        "unknown size",
        "empty version",
        "version",
        "no version",
        "one that looks like two",
    ],
)
def test_the_digest_differs_where_anything_differs(others: tuple[Entry, ...]) -> None:
    assert digest(*others) != digest(ONE, TWO)


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "merged"])
def test_copies_of_files_on_several_machines_have_one_digest(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CHUNK", 1)
    here = [Entry("file:///a", 5, "5-1700000000000000001-77"), Entry("file:///b", 6, "6-1700000000000000002-78")][
        ::order
    ]
    there = [Entry("file:///a", 5, "5-1800000000000000001-7"), Entry("file:///b", 6, "6-1800000000000000002-8")][
        ::order
    ]
    longer = [Entry("file:///a", 5, "5-1800000000000000001-7"), Entry("file:///b", 7, "7-1800000000000000002-8")][
        ::order
    ]
    assert digest(*here, is_sorted=True) == digest(*there, is_sorted=True)
    assert digest(*here, is_sorted=True) != digest(*longer, is_sorted=True)


def test_references_come_by_position_in_the_order_asked_for() -> None:
    listing = Listing(pack(thousands(500), is_sorted=True), "name")
    expected = [ObjectRef(*entry) for entry in thousands(500)]
    positions = [499, 0, 0, 250]
    assert listing.refs(positions) == listing.refs(np.array(positions)) == [expected[at] for at in positions]
    assert (
        listing.refs(np.array(positions, np.uint32))
        == listing.refs(iter(positions))
        == [expected[at] for at in positions]
    )
    assert listing.refs(np.arange(500)[::-7]) == expected[::-7]
    assert listing.refs([]) == listing.refs(np.array([], np.int64)) == []
    assert listing.ref(7) == expected[7]
    assert listing.ref(np.int64(7)) == expected[7]  # type: ignore[arg-type]
    assert listing.uri(499) == expected[499].uri


@pytest.mark.parametrize("position", [-1, 3, 2**40])
def test_a_position_beyond_the_listing_is_an_index_error(position: int) -> None:
    listing = Listing(pack(thousands(3), is_sorted=True), "name")
    for ask in (lambda: listing.uri(position), lambda: listing.ref(position), lambda: listing.refs([0, position])):
        with pytest.raises(IndexError, match=f"no position {position} in a listing of 3"):
            ask()


def test_rows_of_objects_listed_twice_are_out_of_reach() -> None:
    twice = [*thousands(3), *thousands(3)]
    listing = Listing(pack(twice[3:] + twice[:3], is_sorted=True), "name")
    assert len(listing) == len(listing.sizes) == 3
    with pytest.raises(IndexError):
        listing.ref(3)


def test_sizes_are_read_only_and_outlive_the_listing() -> None:
    listing = Listing(pack(thousands(3), is_sorted=True), "name")
    sizes = listing.sizes
    assert sizes.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        sizes[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        sizes.flags.writeable = True
    del listing
    assert sizes.tolist() == [1000, 1001, 1002]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_listing_is_the_same_listing(protocol: int) -> None:
    listing = Listing(pack(thousands(100), is_sorted=True), "name")
    again = pickle.loads(pickle.dumps(listing, protocol))  # noqa: TID251 (a listing is to pickle)
    assert as_entries(again) == thousands(100)
    assert (again.name, again.digest) == ("name", listing.digest)
    assert again.sizes.tolist() == listing.sizes.tolist()


def test_a_copy_is_the_listing_itself_since_it_never_changes() -> None:
    listing = Listing(pack(thousands(3), is_sorted=True), "name")
    assert copy.copy(listing) is listing
    assert copy.deepcopy([listing])[0] is listing


def test_the_repr_shows_counts_and_no_contents() -> None:
    listing = Listing(pack(thousands(3), is_sorted=True), "s3://bucket/train/")
    assert repr(listing) == f"Listing('s3://bucket/train/', 3 objects, digest={listing.digest})"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files whose order by bytes is not that of a walk: `-` and `.` come before `/`."""
    for name in ("a/2.bin", "a/1.txt", "a-b.bin", "a.bin", "z/é.bin", "z/empty.bin"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if "empty" in name else name.encode())
    (tmp_path / "data2").mkdir()
    (tmp_path / "data2" / "other.bin").write_bytes(b"x")
    return tmp_path


def names(listing: Listing) -> list[str]:
    return [ref.uri.removeprefix(listing.name.partition(" ")[0]) for ref in listing.refs(range(len(listing)))]


@pytest.mark.parametrize("end", ["", "/"])
def test_a_directory_is_listed_below_and_sorted_by_bytes(folder: Path, end: str) -> None:
    listing = list_prefix(f"file://{folder}/data{end}")
    assert listing.name == f"file://{folder}/data/"
    assert names(listing) == ["a-b.bin", "a.bin", "a/1.txt", "a/2.bin", "z/empty.bin", "z/é.bin"]
    for ref in listing.refs(range(6)):
        assert ref.version == s3dlio.stat(ref.uri)["etag"]
        assert ref.size == os.path.getsize(ref.uri.removeprefix("file://"))


def test_names_that_are_not_utf8_are_in_the_listing_as_python_writes_them(tmp_path: Path) -> None:
    for name in (b"b\xff", b"b\xc3\xa9", b"a"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
            pass
    assert names(list_prefix(f"file://{tmp_path}")) == ["a", "bé", "b\udcff"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.bin", ["a-b.bin", "a.bin", "a/2.bin", "z/empty.bin", "z/é.bin"]),
        ("a/*", ["a/1.txt", "a/2.bin"]),
        (re.compile(r"^a.*txt$"), ["a/1.txt"]),
    ],
)
def test_a_pattern_chooses_as_in_list(folder: Path, pattern: Any, expected: list[str]) -> None:
    listing = list_prefix(f"file://{folder}/data", pattern)
    assert names(listing) == expected
    assert sorted(s3dlio.list(f"file://{folder}/data", True, pattern)) == [
        ref.uri for ref in listing.refs(range(len(listing)))
    ]
    assert (pattern if isinstance(pattern, str) else pattern.pattern) in listing.name


def test_keys_that_stand_for_directories_are_no_samples_but_empty_objects_are() -> None:
    for key in ("m/", "m/a/", "m/a/1", "m/empty", "m2/x"):
        s3dlio.put_bytes(f"memory://markers/{key}", b"x" if key[-1] in "1x" else b"")
    s3dlio.put_bytes("memory://markers/m/full/", b"an object that ends in a slash")
    assert names(list_prefix("memory://markers/m")) == ["a/1", "empty", "full/"]
    assert list_prefix("memory://markers").name == "memory://markers/"
    assert names(list_prefix("memory://markers")) == ["m/a/1", "m/empty", "m/full/", "m2/x"]


def test_a_prefix_without_objects_is_not_found_and_named(folder: Path) -> None:
    s3dlio.put_bytes("memory://hollow/m/a/", b"")
    for uri in (
        "memory://hollow/m",
        "memory://hollow/nothing/",
        f"file://{folder}/none",
        f"file://{folder}/data/a.bin",
    ):
        with pytest.raises(NotFoundError, match="no objects below this prefix") as caught:
            list_prefix(uri)
        assert f"{uri.rstrip('/')}/" in str(caught.value)
        with pytest.raises(NotFoundError, match="no objects below this prefix"):
            list_prefix(uri, "*.bin")


def test_a_pattern_that_nothing_matches_is_named_with_the_prefix(folder: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none of the objects .* matches the pattern '\*\.jpg'") as caught:
        list_prefix(f"file://{folder}/data", "*.jpg")
    assert f"file://{folder}/data/" in str(caught.value)


@pytest.mark.parametrize("uri", ["data", "http://x/y", "s3://", "file://", ""])
def test_what_is_no_uri_is_refused(uri: str) -> None:
    with pytest.raises(InvalidUriError):
        list_prefix(uri)


def test_a_pattern_that_cannot_be_read_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="pattern"):
        list_prefix(f"file://{folder}/data", 7)  # type: ignore[arg-type]


def test_a_store_that_lists_in_pages_out_of_order_and_twice_is_put_right(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [ListEntry(f"s3://b/{key}", 1, MD5) for key in ("c", "d", "a", "b", "d", "c/", "a/1")]
    found.append(ListEntry("s3://b/prefix/"))
    monkeypatch.setattr(listing_module, "list_iter", lambda uri, recursive, pattern: iter(found))
    assert names(list_prefix("s3://b")) == ["a", "a/1", "b", "c", "c/", "d"]


def test_a_list_may_hold_uris_references_and_what_listings_and_stat_say(tmp_path: Path) -> None:
    given_list = [
        "s3://b/z",
        ObjectRef("s3://b/y", 5, "v"),
        ListEntry("s3://b/x", 6, MD5, "2026-01-31T12:00:00Z"),
        ObjectInfo(uri="s3://b/w", size=7, version="w", etag="w"),
        "s3://b/z",
        "s3://b/dir/",
        np.str_("s3://b/numpy"),
    ]
    listing = from_uris(given_list)
    assert as_entries(listing) == [
        Entry("s3://b/z", None, None),
        Entry("s3://b/y", 5, "v"),
        Entry("s3://b/x", 6, MD5),
        Entry("s3://b/w", 7, "w"),
        Entry("s3://b/z", None, None),
        Entry("s3://b/dir/", None, None),
        Entry("s3://b/numpy", None, None),
    ]
    assert listing.name == "a list of 7 URIs"
    assert as_entries(from_uris(iter(given_list))) == as_entries(listing)


def test_an_empty_list_is_an_empty_listing() -> None:
    listing = from_uris([])
    assert (len(listing), listing.sizes.tolist(), listing.refs([])) == (0, [], [])


def test_a_relative_file_means_the_same_to_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_uris(["file://x/y"]).uri(0) == f"file://{tmp_path}/x/y"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("no-scheme", "has no scheme"),
        ("ftp://x/y", "unknown scheme"),
        ("s3://bucket", "needs a key"),
        ("s3://bucket/", "needs a key"),
        (7, "not int"),
        (None, "not NoneType"),
        (ObjectRef("s3://b/a", -1), "a size in bytes"),
        (ObjectRef("s3://b/a", "1"), "a size in bytes"),  # type: ignore[arg-type]
        (ObjectRef("nonsense", 1), "has no scheme"),
        (ListEntry("s3://b/child/"), "is a prefix"),
        (ObjectInfo(uri="s3://b/a", size=2, version=3), "a version as text"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_object_is_refused_with_its_place_in_the_list(wanted: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match="entry 2 of the list") as caught:
        from_uris(["s3://b/a", "s3://b/b", wanted])
    assert message in str(caught.value)


@pytest.mark.parametrize("uris", ["s3://bucket/key", b"s3://bucket/key"])
def test_one_text_is_no_list(uris: Any) -> None:
    with pytest.raises(ConfigurationError, match="a list of URIs is not one text"):
        from_uris(uris)
