"""What is not of one store: schemes side by side in one call, answers that no healthy server gives, arguments without sense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from tests.conformance.oracles import FolderOracle, MemoryBuckets, Oracle, S3Buckets, new_name
from tests.support.answers import s3_error
from tests.support.moto_server import MotoServer
from tests.support.object_server import ObjectServer
from tests.support.rclone_server import RcloneServer
from tests.support.s3_endpoint import S3Endpoint

PointAt = Callable[[S3Endpoint | str], None]
DATA = bytes(range(256)) * 10


def test_get_many_of_nothing_is_an_empty_list() -> None:
    assert s3dlio.get_many([]) == []
    assert s3dlio.get_many([], with_uris=True, errors="return") == []


@pytest.mark.parametrize(
    "arguments",
    [{"workers": 0}, {"workers": -1}, {"max_in_flight": 0}, {"workers": 2, "max_in_flight": 3}, {"errors": "ignore"}],
)
def test_get_many_refuses_arguments_without_sense(arguments: dict[str, Any]) -> None:
    with pytest.raises(s3dlio.ConfigurationError):
        s3dlio.get_many(["memory://b/k"], **arguments)


def test_get_many_refuses_one_text_in_place_of_a_list() -> None:
    with pytest.raises(s3dlio.ConfigurationError):
        s3dlio.get_many("memory://b/k")


def test_get_many_mixes_schemes_in_one_call(tmp_path: Path, moto_s3: MotoServer, s3_env: PointAt) -> None:
    s3_env(moto_s3.endpoint)
    oracles: list[Oracle] = [
        MemoryBuckets().create(new_name()),
        FolderOracle(tmp_path, "file"),
        S3Buckets(moto_s3.endpoint).create(new_name()),
    ]
    for n, oracle in enumerate(oracles):
        oracle.write("key", DATA[: 1000 + n])
    uris = [oracle.root + key for key in ("key", "missing") for oracle in oracles] * 3
    found = s3dlio.get_many(uris, workers=2, errors="return")
    for uri, result in zip(uris, found, strict=True):
        if uri.endswith("missing"):
            assert isinstance(result, s3dlio.NotFoundError)
            assert result.uri == uri
        else:
            assert bytes(result) == next(oracle.read("key") for oracle in oracles if uri.startswith(oracle.root))
    s3dlio.shutdown()


@pytest.mark.parametrize(("status", "expected"), [(403, PermissionError), (401, PermissionError), (500, s3dlio.ServerError)])
def test_exists_raises_what_is_not_not_found(object_server: ObjectServer, s3_env: PointAt, status: int, expected: type[Exception]) -> None:
    s3_env(object_server.url)
    s3dlio.configure(max_attempts=1)
    object_server.faults["/bucket/key"] = [s3_error(status, "Scripted")]
    with pytest.raises(expected):
        s3dlio.exists("s3://bucket/key")
    s3dlio.shutdown()


def test_i11_a_listing_of_many_pages_is_complete(rclone_s3: RcloneServer, s3_env: PointAt) -> None:
    s3_env(rclone_s3.endpoint)
    bucket = new_name()
    oracle = S3Buckets(rclone_s3.endpoint).create(bucket)
    keys = [f"part-{n:05d}" for n in range(2203)]
    for key in keys:
        (rclone_s3.root / bucket / key).touch()
    assert s3dlio.list(oracle.root + "part-", recursive=True) == [oracle.root + key for key in keys]
    first = next(iter(s3dlio.list_iter(oracle.root)))
    assert first.uri == oracle.root + keys[0]
    s3dlio.shutdown()


@pytest.mark.parametrize("verb", ["get", "get_range", "stat", "exists", "delete", "put_bytes", "list"])
@pytest.mark.parametrize("uri", ["no-scheme", "http://host/key", "s3://", "s3:///key", ""])
def test_every_verb_refuses_what_is_no_uri(verb: str, uri: str) -> None:
    more: list[Any] = {"get_range": [0], "put_bytes": [b""]}.get(verb, [])
    with pytest.raises(s3dlio.InvalidUriError):
        getattr(s3dlio, verb)(uri, *more)
