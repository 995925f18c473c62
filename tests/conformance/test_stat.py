"""Looking at objects, on every store, held against what the oracle says of them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import cast

import pytest

import s3dlio
from tests.conformance.names import sites_with, usable_keys
from tests.conformance.oracles import DressedOracle
from tests.conformance.places import Place

DATA = bytes(range(256)) * 300
STAT_KEYS = {
    "size", "last_modified", "etag", "content_type", "content_language", "content_encoding", "cache_control", "content_disposition",
    "expires", "storage_class", "server_side_encryption", "ssekms_key_id", "sse_customer_algorithm", "version_id",
    "replication_status", "metadata",
}  # fmt: skip
"""The 16 facts of the API guide."""


def test_stat_says_16_things(place: Place) -> None:
    for size in (len(DATA), 0):
        place.write("dir/key", DATA[:size])
        for verb in (place.verbs.stat, place.verbs.stat_object):
            found = verb(place.uri("dir/key"))
            assert set(found) == STAT_KEYS
            assert (type(found["size"]), found["size"]) == (int, size)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["last_modified"])
            assert type(found["etag"]) is str
            assert found["etag"]
            assert '"' not in found["etag"]
            assert isinstance(found["metadata"], dict)
            assert all(value is None or isinstance(value, str) for key, value in found.items() if key not in {"size", "metadata"})


def test_stat_says_what_the_oracle_says(place: Place) -> None:
    place.write("key", DATA)
    found, facts = place.verbs.stat(place.uri("key")), place.facts("key")
    assert found["size"] == facts.size
    assert datetime.fromisoformat(found["last_modified"]) == facts.modified.astimezone(UTC).replace(microsecond=0)
    assert found["etag"] == facts.etag or facts.etag is None
    assert found["content_type"] == facts.content_type or facts.content_type is None
    assert found["metadata"] == facts.metadata


@pytest.mark.parametrize("site", sites_with("metadata"), indirect=True, scope="module")
def test_stat_tells_the_type_and_the_metadata(place: Place) -> None:
    metadata = {"epoch": "10", "name": "a value, with spaces = and %41"}
    cast("DressedOracle", place.oracle).dress(place.prefix + "key", DATA, "text/x-test; charset=utf-8", metadata)
    found = place.verbs.stat(place.uri("key"))
    assert (found["content_type"], found["metadata"]) == ("text/x-test; charset=utf-8", metadata)


def test_stat_changes_with_the_object(place: Place) -> None:
    place.write("key", DATA)
    first = place.verbs.stat(place.uri("key"))
    assert place.verbs.stat(place.uri("key")) == first
    place.write("key", DATA[::-1])
    second = place.verbs.stat(place.uri("key"))
    assert second["etag"] != first["etag"]
    place.verbs.put_bytes(place.uri("key"), b"shorter")
    third = place.verbs.stat(place.uri("key"))
    assert (third["size"], len({first["etag"], second["etag"], third["etag"]})) == (7, 3)


def test_stat_of_nothing_and_of_a_prefix_is_not_found(place: Place) -> None:
    place.fill("dir/key")
    for key in ("missing", "dir/missing", "dir/ke", "dir/key2"):
        with pytest.raises(FileNotFoundError) as raised:
            place.verbs.stat(place.uri(key))
        assert isinstance(raised.value, s3dlio.NotFoundError)
        assert raised.value.uri == place.uri(key)
    # A directory of a file system exists, but is no object.
    with pytest.raises(IsADirectoryError if place.is_file else FileNotFoundError):
        place.verbs.stat(place.uri("dir"))


def test_exists_is_true_for_objects_only(place: Place) -> None:
    place.fill("dir/key")
    place.write("empty", b"")
    assert place.verbs.exists(place.uri("dir/key"))
    assert place.verbs.exists(place.uri("empty"))
    for key in ("dir/key2", "dir/ke", "dir", "dir/", "dir/key/", "missing"):
        if not key.endswith("key/") or "dir/" in usable_keys(place.name):
            assert not place.verbs.exists(place.uri(key)), key


def test_get_many_stats_counts_objects_and_bytes(place: Place) -> None:
    sizes = [0, 1, 997, 5000]
    for size in sizes:
        place.write(f"dir/{size}", DATA[:size])
    uris = [place.uri(f"dir/{size}") for size in sizes]
    assert place.verbs.get_many_stats(uris) == (4, sum(sizes))
    assert place.verbs.get_many_stats(uris, concurrency=1) == (4, sum(sizes))
    assert place.verbs.get_many_stats([*uris, place.uri("dir/sub/"), uris[2]]) == (5, sum(sizes) + 997)
    assert place.verbs.get_many_stats([]) == (0, 0)
    with pytest.raises(FileNotFoundError) as raised:
        place.verbs.get_many_stats([uris[0], place.uri("missing"), uris[1]])
    assert raised.value.uri == place.uri("missing")  # type: ignore[attr-defined]


def test_sizes_that_were_cached_never_shorten_or_refuse_a_read(place: Place) -> None:
    uri = place.uri("key")
    place.write("key", DATA[:1000])
    assert place.verbs.get_many_stats([uri]) == (1, 1000)
    assert bytes(place.verbs.get(uri)) == DATA[:1000]
    for size in (5000, 10, 0, 70_000):
        place.write("key", DATA[:size])
        assert bytes(place.verbs.get(uri)) == DATA[:size]
        assert [bytes(view) for view in place.verbs.get_many([uri, uri])] == [DATA[:size]] * 2
        assert bytes(place.verbs.get_range(uri, 0, size + 5)) == DATA[:size]
        assert place.verbs.stat(uri)["size"] == size
    place.verbs.put_bytes(uri, DATA[:300])
    assert bytes(place.verbs.get(uri)) == DATA[:300]
    place.verbs.delete(uri)
    with pytest.raises(FileNotFoundError):
        place.verbs.get(uri)
    with pytest.raises(FileNotFoundError):
        place.verbs.get_many_stats([uri])
