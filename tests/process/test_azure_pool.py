"""`az://` through worker processes: pools, `mp_get` and data sets read containers as they read buckets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import s3dlio
import s3dlio.engine.ops.lifecycle  # The kit ends the engine through it, as soon as it is loaded.
from tests.process.kit import content
from tests.process.torch_kit import raw
from tests.support.azurite import AzureEndpoint, AzuriteServer

SIZES = [0, 1, 1000, 70_000, 70_000, 70_001, 300_000]


@pytest.fixture(params=["fast", "sdk"])
def root(request: pytest.FixtureRequest, azurite: AzuriteServer, azure_env: Callable[[AzureEndpoint], None]) -> Iterator[str]:
    """A container with objects, on one lane."""
    azure_env(azurite.endpoint)
    s3dlio.configure(fast_lane=request.param == "fast", part_bytes=65_536, split_above_bytes=131_072)
    name = azurite.endpoint.new_container()
    client = azurite.endpoint.container(name)
    for number, size in enumerate(SIZES):
        client.upload_blob(f"set/{number}", content(str(number), size))
    yield f"az://{azurite.endpoint.account}/{name}/"
    s3dlio.shutdown()


@pytest.fixture
def expected(root: str) -> dict[str, bytes]:
    return {f"{root}set/{number}": content(str(number), size) for number, size in enumerate(SIZES)}


def test_a_pool_reads_objects_whole_and_in_parts(root: str, expected: dict[str, bytes]) -> None:
    missing = root + "set/missing"
    uris = [*expected, missing, *expected]
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB") as pool:
        found = list(pool.fetch(uris, errors="return"))
        assert [uri for uri, _ in found] == uris
        for uri, result in found:
            if uri == missing:
                assert isinstance(result, s3dlio.NotFoundError)
                assert result.uri == missing
            else:
                assert bytes(result) == expected[uri]


def test_mp_get_reads_a_prefix(root: str, expected: dict[str, bytes]) -> None:
    seen: dict[str, bytes] = {}
    found = s3dlio.mp_get(root + "set/", procs=1, jobs=4, sink=lambda uri, view: seen.update({uri: bytes(view)}))
    assert found["errors"] == []
    assert seen == expected


def test_a_data_set_reads_the_versions_that_were_listed(root: str, expected: dict[str, bytes]) -> None:
    data = s3dlio.ObjectStoreIterableDataset(root + "set/", procs=1, shuffle=True)
    assert sorted(raw(sample) for sample in data) == sorted(expected.values())
