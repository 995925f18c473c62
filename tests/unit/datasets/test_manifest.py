"""Manifests: what a line may be, and what is said of one that is not."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio.datasets import manifest as manifest_module
from s3dlio.datasets.entries import Entry
from s3dlio.datasets.listing import Listing, from_manifest
from s3dlio.datasets.manifest import read_manifest
from s3dlio.engine.errors import (
    ConfigurationError,
    InvalidUriError,
    IsADirectoryUriError,
    NotFoundError,
    ObjectChangedError,
)

MD5 = "d41d8cd98f00b204e9800998ecf8427e"

_numbers = itertools.count()


def write(data: bytes) -> str:
    uri = f"memory://manifests/{next(_numbers)}.txt"
    s3dlio.put_bytes(uri, data)
    return uri


def read(data: bytes) -> list[Entry]:
    listing = from_manifest(write(data))
    return as_entries(listing)


def as_entries(listing: Listing) -> list[Entry]:
    return [Entry(ref.uri, ref.size, ref.version) for ref in listing.refs(range(len(listing)))]


def plain(*uris: str) -> list[Entry]:
    return [Entry(uri, None, None) for uri in uris]


def test_uris_keep_their_order_and_are_as_often_there_as_they_are_written() -> None:
    assert read(b"s3://b/z\ns3://b/a\ns3://b/z\nfile:///c\n") == plain("s3://b/z", "s3://b/a", "s3://b/z", "file:///c")


@pytest.mark.parametrize(
    "data",
    [
        b"s3://b/x\ns3://b/y",
        b"s3://b/x\r\ns3://b/y\r\n",
        b"\xef\xbb\xbfs3://b/x\n\ns3://b/y\n",
        b"# a comment\n\n   \n\t# another\n  s3://b/x\n#s3://b/z\n\ts3://b/y\n\n",
    ],
    ids=["no end of line", "windows", "byte order mark", "comments and empty lines"],
)
def test_what_is_around_uris_is_passed_over(data: bytes) -> None:
    assert read(data) == plain("s3://b/x", "s3://b/y")


def test_keys_are_raw_text() -> None:
    keys = ["a b", "a#b", "a%20b", "é", "trailing ", "a//b", "..", '{"uri"}', "a\u2028b", "a\x0cb", "a\x85b"]
    uris = [f"s3://b/{key}" for key in keys]
    assert read("\n".join(uris).encode()) == plain(*uris)


def test_json_lines_say_sizes_and_versions_too_and_may_say_more() -> None:
    lines = [
        {"uri": "s3://b/1", "size": 5, "version": "v1"},
        {"uri": "s3://b/2", "size": 0, "etag": f'"{MD5}"', "label": [1, 2]},
        {"uri": "s3://b/3", "etag": 'W/"weak"'},
        {"uri": "s3://b/4", "version": "wins", "etag": "loses"},
        {"uri": "s3://b/5", "size": None, "version": None, "etag": '""'},
        {"uri": "s3://b/é\n"},
    ]
    assert read(b"s3://b/0\n" + "\n".join(map(json.dumps, lines)).encode()) == [
        Entry("s3://b/0", None, None),
        Entry("s3://b/1", 5, "v1"),
        Entry("s3://b/2", 0, MD5),
        Entry("s3://b/3", None, "W/weak"),
        Entry("s3://b/4", None, "wins"),
        Entry("s3://b/5", None, None),
        Entry("s3://b/é\n", None, None),
    ]


def test_the_listing_is_named_after_the_manifest() -> None:
    uri = write(b"s3://b/x\n")
    assert from_manifest(uri).name == uri


@given(
    uris=st.lists(st.text("abé/ #{", max_size=12).map("s3://b/k{}".format), min_size=1, max_size=12),
    piece=st.integers(1, 40),
)
def test_it_does_not_matter_where_a_piece_of_the_file_ends(uris: list[str], piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_module, "_PIECE_BYTES", piece)
        assert read("\n".join(uris).encode()) == plain(*uris)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"images/1.jpg", "has no scheme"),
        (b"http://x/y", "unknown scheme"),
        (b"s3://bucket/", "needs a key"),
        (b"s3://b/\xff", "not UTF-8"),
        (b'{"uri": "s3://b/\xff"}', "not a JSON object"),
        (b"{}", "`uri`"),
        (b'{"uri": 7}', "`$.uri`"),
        (b'{"uri": "s3://b/a", "size": "7"}', "`$.size`"),
        (b'{"uri": "s3://b/a", "size": -7}', "a size in bytes"),
        (b'{"uri": "s3://b/a", "size": 1e3}', "`$.size`"),
        (b'{"uri": "s3://b/a", "version": 7}', "`$.version`"),
        (b'{"uri": "s3://b/a"', "not a JSON object"),
        (b'{"uri": "s3://b/a"} s3://b/b', "not a JSON object"),
        (b'{"uri": "a"}', "has no scheme"),
        (b"s3://b/" + b"k" * 2000, "longer than 1024"),
        (b"\0" * 70_000, "this is no manifest"),
    ],
)
def test_a_line_that_is_neither_is_refused_with_its_number_and_the_manifest(line: bytes, message: str) -> None:
    uri = write(b"# one\ns3://b/two\n\n" + line + b"\ns3://b/five\n")
    with pytest.raises(ConfigurationError, match="line 4") as caught:
        from_manifest(uri)
    assert message in str(caught.value)
    assert uri in str(caught.value)


def test_a_large_file_that_is_no_manifest_is_given_up_at_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "_PIECE_BYTES", 100_000)
    uri = write(bytes(20_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(ConfigurationError, match="line 1 is longer than 65536 bytes"):
            from_manifest(uri)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [b"", b"\n\n", b"# nothing\n"])
def test_a_manifest_that_names_nothing_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match="names no objects"):
        from_manifest(write(data))


def test_a_manifest_that_is_not_there_or_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="memory://manifests/none"):
        from_manifest("memory://manifests/none")
    with pytest.raises(IsADirectoryUriError, match=str(tmp_path)):
        from_manifest(f"file://{tmp_path}")
    with pytest.raises(InvalidUriError, match="has no scheme"):
        from_manifest("manifest.txt")


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_manifest_that_changes_while_it_is_read_is_an_error_and_not_half_of_each(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_module, "_PIECE_BYTES", 100)
    uri = f"file://{tmp_path}/list.txt" if scheme == "file" else "memory://manifests/changing.txt"
    s3dlio.put_bytes(uri, b"s3://b/old\n" * 100)
    entries = read_manifest(uri)
    assert next(entries).uri == "s3://b/old"
    s3dlio.put_bytes(uri, b"s3://b/new\n" * 100)
    with pytest.raises(ObjectChangedError):
        list(entries)


def test_a_manifest_in_a_file_may_name_files_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("file://x/1\n")
    assert as_entries(from_manifest("file://list.txt")) == plain(f"file://{tmp_path}/x/1")
