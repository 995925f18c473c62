"""Deleting, on every store: what was named is gone, and nothing else."""

from __future__ import annotations

import s3dlio
from tests.conformance.places import Place


def test_delete_takes_one_object_away_and_a_missing_one_is_fine(place: Place) -> None:
    place.fill("a", "ab", "dir/a")
    s3dlio.delete(place.uri("a"))
    assert [place.read(key) for key in ("a", "ab", "dir/a")] == [None, b"ab", b"dir/a"]
    s3dlio.delete(place.uri("a"))
    s3dlio.delete(place.uri("dir/never"))
    s3dlio.delete(place.uri("no/such/dir/key"))
