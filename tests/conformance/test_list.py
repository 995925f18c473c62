"""Listing, on every store, against what the oracle put there."""

from __future__ import annotations

import re
from typing import Any

import s3dlio
from tests.conformance.places import Place, Site

KEYS = ["a.txt", "b.bin", "dir/a.txt", "dir/c.bin", "dir/deep/d.txt", "dir2/e.txt", "dirt"]
PATTERNS: list[tuple[str, bool, Any, list[str]]] = [
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
]


def test_list_is_sorted_and_adds_child_prefixes(place: Place) -> None:
    place.fill(*reversed(KEYS))
    assert place.verbs.list(place.root) == [place.uri(key) for key in ("a.txt", "b.bin", "dir/", "dir2/", "dirt")]
    assert place.verbs.list(place.root, recursive=True) == [place.uri(key) for key in sorted(KEYS)]


def test_list_below_a_prefix_with_a_slash(place: Place) -> None:
    place.fill(*KEYS)
    assert place.verbs.list(place.uri("dir/")) == [place.uri(key) for key in ("dir/a.txt", "dir/c.bin", "dir/deep/")]
    assert place.verbs.list(place.uri("dir/"), recursive=True) == [place.uri(key) for key in KEYS if key.startswith("dir/")]


def test_list_of_a_text_prefix_is_raw_on_object_stores_and_a_directory_on_file_systems(place: Place) -> None:
    place.fill(*KEYS)
    prefix = "dir/" if place.is_file else "dir"
    assert place.verbs.list(place.uri("dir"), recursive=True) == [place.uri(key) for key in sorted(KEYS) if key.startswith(prefix)]


def test_list_of_nothing_is_empty(place: Place) -> None:
    place.fill("dir/key")
    assert place.verbs.list(place.uri("other/")) == []
    assert place.verbs.list(place.uri("dir/key/below/"), recursive=True) == []


def test_list_keeps_what_the_pattern_wants(place: Place) -> None:
    place.fill(*KEYS)
    for prefix, is_recursive, pattern, expected in PATTERNS:
        found = place.verbs.list(place.uri(prefix), is_recursive, pattern)
        assert found == [place.uri(key) for key in expected], (prefix, is_recursive, pattern)


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
    assert sorted(bytes(view) for view in place.verbs.get_many(refs)) == sorted(key.encode() for key in KEYS)
    place.write("dirt", b"changed since")
    results = place.verbs.get_many(refs, errors="return")
    changed = [ref.uri for ref, result in zip(refs, results, strict=True) if isinstance(result, s3dlio.ObjectChangedError)]
    assert changed == [place.uri("dirt")]


def test_list_keys_and_list_full_uris_give_one_level(place: Place) -> None:
    place.fill(*KEYS)
    for prefix, expected in (("", ["a.txt", "b.bin", "dir/", "dir2/", "dirt"]), ("dir/", ["a.txt", "c.bin", "deep/"])):
        assert place.verbs.list_keys(place.uri(prefix)) == expected
        assert place.verbs.list_full_uris(place.uri(prefix)) == [place.uri(prefix + key) for key in expected]
    assert place.verbs.list_keys(place.uri("none/")) == place.verbs.list_full_uris(place.uri("none/")) == []


def test_a_whole_bucket_is_listed_with_and_without_the_slash(site: Site) -> None:
    place = site.new_root()
    place.fill(*KEYS)
    for root in (place.root, place.root.removesuffix("/")):
        assert place.verbs.list(root, recursive=True) == [place.uri(key) for key in sorted(KEYS)]
        assert place.verbs.list(root) == [place.uri(key) for key in ("a.txt", "b.bin", "dir/", "dir2/", "dirt")]


def test_a_listing_names_each_key_once(place: Place) -> None:
    keys = [f"{n:03d}" for n in range(30)] + [f"d{n % 7}/{n:03d}" for n in range(30)]
    place.fill(*keys)
    assert place.verbs.list(place.root, recursive=True) == [place.uri(key) for key in sorted(keys)]
    assert place.verbs.list(place.root) == [place.uri(key) for key in [*keys[:30], *(f"d{n}/" for n in range(7))]]
