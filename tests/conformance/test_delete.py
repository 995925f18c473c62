"""Deleting, on every store: what was named is gone, and nothing else."""

from __future__ import annotations

import pytest

from tests.conformance.names import CALLED_SITES, sites_with, usable_keys
from tests.conformance.places import Place, Site


def test_delete_takes_one_object_away_and_a_missing_one_is_fine(place: Place) -> None:
    place.fill("a", "ab", "dir/a")
    place.verbs.delete(place.uri("a"))
    assert place.keys() == ["ab", "dir/a"]
    place.verbs.delete(place.uri("a"))
    place.verbs.delete(place.uri("dir/never"))
    place.verbs.delete(place.uri("no/such/dir/key"))
    assert place.contents() == {"ab": b"ab", "dir/a": b"dir/a"}


@pytest.mark.parametrize("site", sites_with("markers"), indirect=True, scope="module")
def test_delete_of_a_prefix_takes_nothing(place: Place) -> None:
    place.fill("dir/a", "dir/sub/b", "dirt")
    if place.is_file:
        with pytest.raises(IsADirectoryError):
            place.verbs.delete(place.uri("dir"))
    else:
        place.verbs.delete(place.uri("dir"))
    assert place.keys() == ["dir/a", "dir/sub/b", "dirt"]


def test_delete_recursive_takes_what_is_below_and_no_sibling(place: Place) -> None:
    siblings = ["a-", "a.txt", "a0/b", "aa", "ab", "ac/d", "b/a/c"]
    place.fill("a/1", "a/2", "a/sub/3", "a/sub/deep/4", *siblings)
    place.verbs.delete(place.uri("a"), recursive=True)
    assert place.keys() == siblings
    place.fill("a/1", "a/sub/3")
    place.verbs.delete(place.uri("a/"), recursive=True)
    assert place.keys() == siblings
    place.verbs.delete(place.uri("a/"), recursive=True)
    place.verbs.delete(place.uri("never/was/"), recursive=True)
    assert place.contents() == {key: key.encode() for key in siblings}


def test_delete_recursive_takes_the_levels_it_was_given(place: Place) -> None:
    place.fill("a/sub/1", "a/sub/2", "a/sub2", "a/x")
    place.verbs.delete(place.uri("a/sub/"), recursive=True)
    assert place.keys() == ["a/sub2", "a/x"]
    place.verbs.delete(place.uri("a/x"), recursive=True)
    assert place.keys() == ["a/sub2"]


@pytest.mark.parametrize("site", CALLED_SITES, indirect=True, scope="module")
def test_delete_recursive_takes_nasty_keys(site: Site) -> None:
    place = site.new_root()
    keys = usable_keys(place.name)
    place.fill("kept", *(f"all/{key}" for key in keys if len(key) < 500))
    place.verbs.delete(place.uri("all/"), recursive=True)
    assert place.keys() == ["kept"]


def test_what_was_deleted_is_found_by_no_verb(place: Place) -> None:
    place.fill("dir/key")
    assert place.verbs.exists(place.uri("dir/key"))
    place.verbs.delete(place.uri("dir/key"))
    assert not place.verbs.exists(place.uri("dir/key"))
    assert place.verbs.list(place.root, recursive=True) == []
    for verb in (place.verbs.get, place.verbs.stat):
        with pytest.raises(FileNotFoundError):
            verb(place.uri("dir/key"))
    place.fill("dir/key")
    assert bytes(place.verbs.get(place.uri("dir/key"))) == b"dir/key"
