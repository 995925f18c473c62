"""Buckets and containers: made, listed, and taken away where they are empty; and what verbs say of one that is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import s3dlio
from tests.conformance.names import SITES, sites_with
from tests.conformance.oracles import new_name
from tests.conformance.places import Site

with_buckets = pytest.mark.parametrize("site", sites_with("buckets"), indirect=True, scope="module")


@pytest.mark.parametrize("site", [site for site in SITES if site not in sites_with("buckets")], indirect=True, scope="module")
def test_a_file_system_has_no_buckets(site: Site) -> None:
    for verb in (site.verbs.create_bucket, site.verbs.delete_bucket, site.verbs.list_containers):
        with pytest.raises(s3dlio.UnsupportedError):
            verb(site.new_root().root)


@with_buckets
def test_a_bucket_is_made_once_and_used(site: Site) -> None:
    assert site.buckets is not None
    name = new_name()
    uri = site.buckets.uri(name)
    site.verbs.create_bucket(uri)
    assert name in site.buckets.names()
    site.verbs.put_bytes(uri + "key", b"data")
    site.verbs.create_bucket(uri)
    assert site.buckets.create(name).read("key") == b"data"


@with_buckets
def test_a_bucket_is_taken_away_when_it_is_empty(site: Site) -> None:
    assert site.buckets is not None
    name = new_name()
    oracle = site.buckets.create(name)
    oracle.write("key", b"data")
    with pytest.raises(s3dlio.RequestRejectedError) as raised:
        site.verbs.delete_bucket(oracle.root)
    assert raised.value.uri in {oracle.root, oracle.root.removesuffix("/")}
    assert oracle.read("key") == b"data"
    site.verbs.delete(oracle.root + "key")
    site.verbs.delete_bucket(oracle.root)
    assert name not in site.buckets.names()
    with pytest.raises(s3dlio.NotFoundError):
        site.verbs.delete_bucket(oracle.root)


@with_buckets
def test_buckets_are_listed_with_their_names(site: Site) -> None:
    assert site.buckets is not None
    name = new_name()
    site.buckets.create(name)
    found = site.verbs.list_containers(site.buckets.everything)
    assert {entry["name"] for entry in found} == site.buckets.names()
    assert all(set(entry) >= {"name", "uri", "creation_date"} for entry in found)
    (entry,) = [entry for entry in found if entry["name"] == name]
    assert entry["uri"].rstrip("/") == site.buckets.uri(name).rstrip("/")


@pytest.mark.parametrize("site", sites_with("buckets", "refusals"), indirect=True, scope="module")
def test_a_bucket_that_is_not_there_is_not_found(site: Site) -> None:
    assert site.buckets is not None
    root = site.buckets.uri(new_name())
    verbs: dict[str, Callable[[], Any]] = {
        "get": lambda: site.verbs.get(root + "key"),
        "get_range": lambda: site.verbs.get_range(root + "key", 0, 5),
        "get_many": lambda: site.verbs.get_many([root + "key"]),
        "get_into": lambda: site.verbs.get_into(root + "key", bytearray(5)),
        "get_many_stats": lambda: site.verbs.get_many_stats([root + "key"]),
        "put_bytes": lambda: site.verbs.put_bytes(root + "key", b"data"),
        "put_many": lambda: site.verbs.put_many([(root + "key", b"data")]),
        "stat": lambda: site.verbs.stat(root + "key"),
        "list": lambda: site.verbs.list(root),
        "list recursive": lambda: site.verbs.list(root, recursive=True),
        "list_keys": lambda: site.verbs.list_keys(root),
        "delete recursive": lambda: site.verbs.delete(root, recursive=True),
        "mkdir": lambda: site.verbs.mkdir(root + "dir/"),
        "copy": lambda: site.verbs.copy(root + "key", root + "key2"),
        "delete_bucket": lambda: site.verbs.delete_bucket(root),
    }
    for name, verb in verbs.items():
        with pytest.raises(FileNotFoundError) as raised:
            pytest.fail(f"{name} gave {verb()!r}")
        assert isinstance(raised.value, s3dlio.NotFoundError), name
    assert not site.verbs.exists(root + "key")
    assert root.rstrip("/").rpartition("/")[2] not in site.buckets.names()
