"""What is not of one store: schemes side by side in one call, answers that no healthy server gives, arguments without sense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from tests.conformance.oracles import AzureBuckets, FolderOracle, GcsBuckets, MemoryBuckets, Oracle, S3Buckets, new_name
from tests.support.answers import s3_error
from tests.support.azurite import AzuriteServer
from tests.support.direct_disk import direct_folder
from tests.support.gcs_server import GcsServer
from tests.support.moto_server import MotoServer
from tests.support.object_server import ObjectServer
from tests.support.rclone_server import RcloneServer
from tests.support.s3_endpoint import S3Endpoint

PointAt = Callable[[S3Endpoint | str], None]
DATA = bytes(range(256)) * 10
VERBS: dict[str, list[Any]] = {
    "get": [], "get_object": [], "get_range": [0], "get_into": [bytearray(1)], "stat": [], "stat_object": [], "exists": [], "delete": [],
    "put_bytes": [b""], "list": [], "list_keys": [], "list_full_uris": [], "mkdir": [], "copy": ["memory://b/k"],
    "rename": ["memory://b/k"],
}  # fmt: skip
"""Verbs that begin with a URI, and what else they need."""


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


@pytest.fixture
def oracles(
    tmp_path: Path, moto_s3: MotoServer, gcs: GcsServer, azurite: AzuriteServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Oracle]]:
    """A new bucket or folder of each scheme, all within reach at once."""
    for endpoint in (moto_s3.endpoint, gcs.endpoint, azurite.endpoint):
        for name, value in endpoint.environment().items():
            monkeypatch.setenv(name, value)
    with direct_folder() as folder:
        yield [
            MemoryBuckets().create(new_name()),
            FolderOracle(tmp_path, "file"),
            FolderOracle(folder, "direct"),
            S3Buckets(moto_s3.endpoint).create(new_name()),
            GcsBuckets(gcs.endpoint).create(new_name()),
            AzureBuckets(azurite.endpoint).create(new_name()),
        ]
        s3dlio.shutdown()


def test_get_many_mixes_schemes_in_one_call(oracles: list[Oracle]) -> None:
    for n, oracle in enumerate(oracles):
        oracle.write("key", DATA[: 1000 + n])
    uris = [oracle.root + key for key in ("key", "missing") for oracle in oracles] * 3
    for workers in (2, 64):
        found = s3dlio.get_many(uris, workers=workers, errors="return")
        for uri, result in zip(uris, found, strict=True):
            if uri.endswith("missing"):
                assert isinstance(result, s3dlio.NotFoundError)
                assert result.uri == uri
            else:
                assert bytes(result) == next(oracle.read("key") for oracle in oracles if uri.startswith(oracle.root))


def test_put_many_and_get_many_stats_mix_schemes_in_one_call(oracles: list[Oracle]) -> None:
    sizes = {f"dir/{n}": n * 100 for n in range(4)}
    items = [(oracle.root + key, DATA[:size]) for key, size in sizes.items() for oracle in oracles]
    assert s3dlio.put_many(items, max_in_flight=5) is None
    for oracle in oracles:
        assert {key: oracle.read(key) for key in _all_keys(oracle)} == {key: DATA[:size] for key, size in sizes.items()}
    assert s3dlio.get_many_stats(uri for uri, _ in items) == (len(items), sum(sizes.values()) * len(oracles))

    async def awaited() -> tuple[int, int]:
        await s3dlio.put_many_async([(uri, b"x" + data) for uri, data in items])
        return await s3dlio.get_many_stats_async([uri for uri, _ in items])

    assert asyncio.run(awaited()) == (len(items), (sum(sizes.values()) + len(sizes)) * len(oracles))


def test_put_many_goes_on_behind_an_item_that_fails(oracles: list[Oracle]) -> None:
    bad = [("nonsense://x/y", b""), (oracles[0].root + "bad", "text"), (oracles[0].root, b"a bucket is no object")]
    items = [(oracle.root + f"key{n}", b"data") for n in range(2) for oracle in oracles]
    found = s3dlio.put_many([*items, *bad, *items], errors="return")
    assert found is not None
    assert [error is None for error in found] == [True] * len(items) + [False] * 3 + [True] * len(items)
    with pytest.raises((TypeError, s3dlio.S3dlioError)):
        s3dlio.put_many([*bad, *items])
    assert all(_all_keys(oracle) == ["key0", "key1"] for oracle in oracles)


def test_objects_are_copied_and_renamed_from_each_scheme_to_each(oracles: list[Oracle]) -> None:
    for n, source in enumerate(oracles):
        source.write("key", DATA[: n * 10])
        for target in oracles:
            s3dlio.copy(source.root + "key", f"{target.root}copies/{n}")
    for target in oracles:
        copies = {key: target.read(key) for key in _all_keys(target) if key.startswith("copies/")}
        assert copies == {f"copies/{n}": DATA[: n * 10] for n in range(len(oracles))}
        s3dlio.rename(target.root + "key", oracles[0].root + f"moved/{target.root[:4]}")
        assert target.read("key") is None
    assert len([key for key in _all_keys(oracles[0]) if key.startswith("moved/")]) == len(oracles)


def test_u5_of_many_who_create_one_object_one_succeeds(oracles: list[Oracle]) -> None:
    for oracle in oracles:
        with ThreadPoolExecutor(8) as threads:
            outcomes = list(threads.map(lambda n, uri=oracle.root + "lock": _create(uri, b"%d" % n), range(8)))  # type: ignore[misc]
        winners = [n for n, has_won in enumerate(outcomes) if has_won]
        assert len(winners) == 1
        assert oracle.read("lock") == b"%d" % winners[0]


def _create(uri: str, data: bytes) -> bool:
    try:
        s3dlio.put_bytes(uri, data, if_none_match=True)
    except s3dlio.AlreadyExistsError:
        return False
    return True


def _all_keys(oracle: Oracle) -> list[str]:
    return oracle.keys()


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


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("uri", ["no-scheme", "http://host/key", "s3://", "s3:///key", ""])
def test_every_verb_refuses_what_is_no_uri(verb: str, uri: str) -> None:
    with pytest.raises(s3dlio.InvalidUriError):
        getattr(s3dlio, verb)(uri, *VERBS[verb])


def test_transfers_refuse_an_empty_source_and_an_unknown_scheme(tmp_path: Path) -> None:
    for source in ("", "http://host/key", "s3://", "s3:///key"):
        with pytest.raises(s3dlio.ConfigurationError):
            s3dlio.upload(source, "memory://never/")
        with pytest.raises(s3dlio.ConfigurationError):
            s3dlio.download(source, str(tmp_path / "down"))
    for target in ("", "no-scheme", "http://host/key", "s3:///key"):
        with pytest.raises(s3dlio.ConfigurationError):
            s3dlio.upload(str(tmp_path), target)
    with pytest.raises(s3dlio.ConfigurationError):
        s3dlio.download("memory://never/", "")
    assert not [*tmp_path.iterdir()]
    assert "never" not in MemoryBuckets().names()
