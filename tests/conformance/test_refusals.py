"""Verbs of whoever may not: a refusal is raised by each of them, and is never taken for an object that is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from tests.conformance.oracles import AzureBuckets, Oracle, S3Buckets, new_name
from tests.support.azurite import AzureEndpoint, AzuriteServer
from tests.support.leaks import shut_down_engine
from tests.support.rclone_server import RcloneServer
from tests.support.s3_endpoint import S3Endpoint, endpoint_env

WRONG_KEY = "d3Jvbmc="


@pytest.fixture(params=["rclone", "rclone-sdk", "az", "az-sdk"])
def refusing(
    request: pytest.FixtureRequest, rclone_s3: RcloneServer, azurite: AzuriteServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Oracle]:
    """A bucket with the object `key`, for whose server s3dlio has another key than the oracle. The two servers check signatures."""
    store, _, lane = request.param.partition("-")
    if store == "az":
        url = azurite.endpoint.url
        endpoint_env(monkeypatch, AzureEndpoint(url, key=WRONG_KEY))
        oracle = AzureBuckets(azurite.endpoint).create(new_name())
    else:
        endpoint_env(monkeypatch, S3Endpoint(rclone_s3.endpoint.url, secret_key=WRONG_KEY))
        oracle = S3Buckets(rclone_s3.endpoint).create(new_name())
    if lane:
        monkeypatch.setenv("S3DLIO_FAST_LANE", "0")
    oracle.write("key", b"data")
    yield oracle
    shut_down_engine()


def test_a_refusal_is_raised_by_every_verb(refusing: Oracle, tmp_path: Path) -> None:
    root, uri = refusing.root, refusing.root + "key"
    verbs: dict[str, Callable[[], Any]] = {
        "get": lambda: s3dlio.get(uri),
        "get_range": lambda: s3dlio.get_range(uri, 0, 5),
        "get_many": lambda: s3dlio.get_many([uri]),
        "get_into": lambda: s3dlio.get_into(uri, bytearray(5)),
        "get_many_stats": lambda: s3dlio.get_many_stats([uri]),
        "put_bytes": lambda: s3dlio.put_bytes(root + "new", b"data"),
        "put_bytes create-only": lambda: s3dlio.put_bytes(root + "new", b"data", if_none_match=True),
        "put_many": lambda: s3dlio.put_many([(root + "new", b"data")]),
        "stat": lambda: s3dlio.stat(uri),
        "exists": lambda: s3dlio.exists(uri),
        "exists of nothing": lambda: s3dlio.exists(root + "missing"),
        "list": lambda: s3dlio.list(root),
        "list_keys": lambda: s3dlio.list_keys(root),
        "list_iter": lambda: next(iter(s3dlio.list_iter(root))),
        "delete": lambda: s3dlio.delete(uri),
        "delete of nothing": lambda: s3dlio.delete(root + "missing"),
        "delete recursive": lambda: s3dlio.delete(root, recursive=True),
        "mkdir": lambda: s3dlio.mkdir(root + "dir/"),
        "copy": lambda: s3dlio.copy(uri, root + "new"),
        "rename": lambda: s3dlio.rename(uri, root + "new"),
        "create_bucket": lambda: s3dlio.create_bucket(root.replace("place-", "another-")),
        "delete_bucket": lambda: s3dlio.delete_bucket(root),
        "list_containers": lambda: s3dlio.list_containers(root),
        "download": lambda: s3dlio.download(root, str(tmp_path / "down")),
    }
    for name, verb in verbs.items():
        with pytest.raises(PermissionError) as raised:
            pytest.fail(f"{name} gave {verb()!r}")
        assert isinstance(raised.value, s3dlio.PermissionDeniedError), name
        assert WRONG_KEY not in f"{raised.value!r} {raised.value}", name
    found = refusing.keys()
    assert {key: refusing.read(key) for key in found} == {"key": b"data"}
