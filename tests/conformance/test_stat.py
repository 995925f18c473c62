"""Looking at objects, on every store, held against what the oracle says of them."""

from __future__ import annotations

import re

import pytest

from tests.conformance.places import Place

DATA = bytes(range(256)) * 300
STAT_KEYS = {
    "size", "last_modified", "etag", "content_type", "content_language", "content_encoding", "cache_control", "content_disposition",
    "expires", "storage_class", "server_side_encryption", "ssekms_key_id", "sse_customer_algorithm", "version_id",
    "replication_status", "metadata",
}  # fmt: skip
"""The 16 facts of the API guide."""


def test_stat_says_16_things(place: Place) -> None:
    place.write("key", DATA)
    found = place.verbs.stat(place.uri("key"))
    assert set(found) == STAT_KEYS
    assert found["size"] == len(DATA)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["last_modified"])
    assert found["etag"]
    assert '"' not in found["etag"]
    assert isinstance(found["metadata"], dict)


def test_stat_of_nothing_and_of_a_prefix_is_not_found(place: Place) -> None:
    place.fill("dir/key")
    with pytest.raises(FileNotFoundError):
        place.verbs.stat(place.uri("missing"))
    # A directory of a file system exists, but is no object.
    with pytest.raises(IsADirectoryError if place.is_file else FileNotFoundError):
        place.verbs.stat(place.uri("dir"))


def test_exists_is_true_for_objects_only(place: Place) -> None:
    place.fill("dir/key")
    assert place.verbs.exists(place.uri("dir/key"))
    assert not place.verbs.exists(place.uri("dir/key2"))
    assert not place.verbs.exists(place.uri("dir"))
    assert not place.verbs.exists(place.uri("dir/"))
