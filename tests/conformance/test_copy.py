"""mkdir, copy and rename, on every store."""

from __future__ import annotations

import contextlib

import pytest

import s3dlio
from tests.conformance.names import CALLED_SITES, sites_with, usable_keys
from tests.conformance.oracles import FolderOracle
from tests.conformance.places import Place, Site

DATA = bytes(range(256)) * 300


@pytest.mark.parametrize("site", sites_with("markers"), indirect=True, scope="module")
def test_mkdir_makes_a_directory_or_a_marker(place: Place) -> None:
    place.fill("dirt", "kept/a")
    for key in ("dir/", "dir", "kept", "kept/", "deep/er/and/deeper"):
        place.verbs.mkdir(place.uri(key))
    if isinstance(place.oracle, FolderOracle):
        assert all(place.oracle.has_directory(place.prefix + key) for key in ("dir", "kept", "deep/er/and/deeper"))
        assert place.contents() == {"dirt": b"dirt", "kept/a": b"kept/a"}
    else:
        markers = dict.fromkeys(("dir/", "kept/", "deep/er/and/deeper/"), b"")
        assert place.contents() == {"dirt": b"dirt", "kept/a": b"kept/a"} | markers
    assert place.uri("dir/") in place.verbs.list(place.root)
    place.verbs.put_bytes(place.uri("dir/a"), b"1")
    assert place.read("dir/a") == b"1"


def test_copy_makes_a_second_object(place: Place) -> None:
    for size in (0, 1, len(DATA)):
        place.write("from/key", DATA[:size])
        place.verbs.copy(place.uri("from/key"), place.uri("new/dir/key"))
        assert (place.read("from/key"), place.read("new/dir/key")) == (DATA[:size], DATA[:size])
    assert place.keys() == ["from/key", "new/dir/key"]
    place.verbs.put_bytes(place.uri("from/key"), b"changed")
    assert place.read("new/dir/key") == DATA


def test_copy_of_nothing_is_not_found_and_makes_nothing(place: Place) -> None:
    place.fill("there")
    for target in ("new", "there"):
        for verb in (place.verbs.copy, place.verbs.rename):
            with pytest.raises(FileNotFoundError) as raised:
                verb(place.uri("missing"), place.uri(target))
            assert isinstance(raised.value, s3dlio.NotFoundError)
            assert raised.value.uri == place.uri("missing")
    assert place.contents() == {"there": b"there"}


def test_rename_moves_an_object_over_another(place: Place) -> None:
    place.fill("a", "b", "ab")
    place.verbs.rename(place.uri("a"), place.uri("dir/new"))
    assert place.contents() == {"ab": b"ab", "b": b"b", "dir/new": b"a"}
    place.verbs.rename(place.uri("dir/new"), place.uri("b"))
    assert place.contents() == {"ab": b"ab", "b": b"a"}


def test_rename_and_copy_onto_itself_lose_nothing(place: Place) -> None:
    for verb in (place.verbs.copy, place.verbs.rename):
        place.write("key", DATA)
        # A store may refuse it, as S3 does.
        with contextlib.suppress(s3dlio.S3dlioError):
            verb(place.uri("key"), place.uri("key"))
        assert place.contents() == {"key": DATA}


def test_copy_and_rename_reach_into_another_bucket(site: Site) -> None:
    place, other = site.new_place(), site.new_root()
    place.write("a", DATA)
    place.verbs.copy(place.uri("a"), other.uri("dir/b"))
    assert (place.contents(), other.contents()) == ({"a": DATA}, {"dir/b": DATA})
    place.verbs.rename(place.uri("a"), other.uri("c"))
    assert (place.contents(), other.contents()) == ({}, {"c": DATA, "dir/b": DATA})


@pytest.mark.parametrize("site", CALLED_SITES, indirect=True, scope="module")
def test_k1_keys_are_copied_and_renamed(site: Site) -> None:
    place = site.new_root()
    keys = [key for key in usable_keys(place.name) if len(key) < 500 and not key.startswith("s/")]
    place.fill(*keys)
    for key in keys:
        place.verbs.copy(place.uri(key), place.uri(f"s/{key}"))
        place.verbs.rename(place.uri(f"s/{key}"), place.uri(f"r/{key}"))
    assert place.contents() == {key: key.encode() for key in keys} | {f"r/{key}": key.encode() for key in keys}
