"""Buckets by name and by URI, and the arguments that have two names."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.ops.buckets import bucket_uri

_numbers = itertools.count(1)


def test_a_bare_name_is_one_of_s3_by_either_argument() -> None:
    assert bucket_uri("data", None) == bucket_uri(None, "data") == bucket_uri("data", "data") == "s3://data"
    assert bucket_uri("gs://data", None) == "gs://data"
    assert bucket_uri("az://account/data/", None) == "az://account/data/"


@pytest.mark.parametrize(
    ("arguments", "more"), [((), {}), (("a",), {"bucket_name": "b"}), (("memory://bucket/key",), {}), (("",), {}), (("ftp://host",), {})]
)
def test_what_names_no_bucket_is_refused(arguments: tuple[str, ...], more: dict[str, Any]) -> None:
    for verb in (s3dlio.create_bucket, s3dlio.delete_bucket):
        with pytest.raises(s3dlio.ConfigurationError):
            verb(*arguments, **more)
    for awaited in (s3dlio.create_bucket_async, s3dlio.delete_bucket_async):
        with pytest.raises(s3dlio.ConfigurationError):
            asyncio.run(awaited(*arguments, **more))


def test_a_bucket_lives_from_its_making_to_its_deletion() -> None:
    name = f"buckets-{next(_numbers)}"
    uri = f"memory://{name}/"
    s3dlio.create_bucket(bucket_name=uri)
    s3dlio.create_bucket(uri)
    assert {"name": name, "uri": uri, "creation_date": None} in s3dlio.list_containers("memory://")
    s3dlio.put_bytes(uri + "key", b"x")
    with pytest.raises(s3dlio.RequestRejectedError):
        s3dlio.delete_bucket(uri)
    s3dlio.delete(uri, recursive=True)
    s3dlio.delete_bucket(uri)
    assert name not in {found["name"] for found in asyncio.run(s3dlio.list_containers_async("memory://"))}
    with pytest.raises(s3dlio.NotFoundError):
        s3dlio.delete_bucket(uri)


def test_what_has_no_list_of_buckets_says_so() -> None:
    with pytest.raises(s3dlio.UnsupportedError):
        s3dlio.list_containers("file:///")
    with pytest.raises(s3dlio.InvalidUriError):
        s3dlio.list_containers("my-bucket")


def test_mkdir_of_a_bucket_names_the_verb_for_that() -> None:
    with pytest.raises(s3dlio.ConfigurationError, match="create_bucket"):
        s3dlio.mkdir("memory://bucket/")
