"""Keys that libraries break go to every store byte for byte, and come back so."""

from __future__ import annotations

import zlib

import pytest

import s3dlio
from tests.conformance.names import CALLED_SITES, unusable_keys, usable_keys
from tests.conformance.places import Place, Site

called = pytest.mark.parametrize("site", CALLED_SITES, indirect=True, scope="module")
"""Whether a verb is called or awaited makes no difference to keys."""


@called
def test_k1_keys_are_written_byte_for_byte(site: Site) -> None:
    place = site.new_root()
    keys = usable_keys(place.name)
    for key in keys:
        place.verbs.put_bytes(place.uri(key), _data(key))
    assert place.contents() == {key: _data(key) for key in keys}


@called
def test_k1_keys_are_read_as_they_were_written(site: Site) -> None:
    place, keys = _filled(site)
    assert [bytes(view) for view in place.verbs.get_many([place.uri(key) for key in keys])] == [_data(key) for key in keys]
    for key in keys:
        assert bytes(place.verbs.get_range(place.uri(key), 1, 3)) == _data(key)[1:4]
        assert place.verbs.stat(place.uri(key))["size"] == len(_data(key))


@called
def test_k1_keys_are_listed_as_they_were_written(site: Site) -> None:
    place, keys = _filled(site)
    assert place.verbs.list(place.root, recursive=True) == [place.uri(key) for key in keys]
    assert place.verbs.list(place.root) == [place.uri(key) for key in _level(keys, "")]
    for prefix in sorted({key[: at + 1] for key in keys for at, letter in enumerate(key) if letter == "/"}):
        assert place.verbs.list(place.uri(prefix)) == [place.uri(key) for key in _level(keys, prefix)], prefix
    refs = [s3dlio.ObjectRef(entry.uri, entry.size, entry.version) for entry in s3dlio.list_iter(place.root, recursive=True)]
    assert sorted(bytes(view) for view in s3dlio.get_many(refs)) == sorted(_data(key) for key in keys)


@called
def test_k1_keys_are_deleted_one_by_one(site: Site) -> None:
    place, keys = _filled(site)
    for gone, kept in ((keys[::2], keys[1::2]), (keys[1::2], [])):
        for key in gone:
            place.verbs.delete(place.uri(key))
        assert place.keys() == sorted(kept)


# Not on rclone by the SDK: botocore waits a second for each refusal, whose body it holds back.
@pytest.mark.parametrize("site", [site for site in CALLED_SITES if site != "rclone-sdk"], indirect=True, scope="module")
def test_k1_keys_that_a_store_has_not_touch_no_other_object(site: Site) -> None:
    place = site.new_root()
    place.fill("a", "dir/a")
    inside = Place(place.name, place.lane, place.verbs, place.oracle, "deep/er/")
    for key in unusable_keys(place.name):
        refused_uri = None
        try:
            place.verbs.put_bytes(inside.uri(key), _data(key))
        except s3dlio.S3dlioError as error:
            refused_uri = error.uri
        if refused_uri is None:
            assert bytes(place.verbs.get(inside.uri(key))) == _data(key)
        else:
            assert refused_uri == inside.uri(key)
        found = place.keys()
        assert [other for other in found if not other.startswith("deep/")] == ["a", "dir/a"], key
        assert (place.read("a"), place.read("dir/a")) == (b"a", b"dir/a")


def _data(key: str) -> bytes:
    return b"<%08x>" % zlib.crc32(key.encode())


def _filled(site: Site) -> tuple[Place, list[str]]:
    place = site.new_root()
    keys = usable_keys(place.name)
    for key in keys:
        place.write(key, _data(key))
    return place, keys


def _level(keys: list[str], prefix: str) -> list[str]:
    """What S3 lists below `prefix` with the delimiter `/`: "Listing objects using prefixes and delimiters"."""
    rests = [key[len(prefix) :] for key in keys if key.startswith(prefix)]
    return sorted({prefix + rest.partition("/")[0] + rest.partition("/")[1] for rest in rests}, key=str.encode)
