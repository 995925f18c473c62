"""Distributed checkpoints of two ranks: saved and loaded by s3torchconnector and by ours, each also from what the other left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.compat.dcp_ranks import OURS, THEIRS, Ranks
from tests.support.leaks import standing
from tests.support.moto_server import MotoServer
from tests.support.s3_endpoint import S3Endpoint

STRATEGIES: list[list[Any] | None] = [
    None,
    ["DefaultPrefixStrategy", {}],
    ["BinaryPrefixStrategy", {}],
    ["BinaryPrefixStrategy", {"epoch_num": 4, "prefix_count": 1}],
    ["HexPrefixStrategy", {"epoch_num": 0, "min_prefix_length": 3}],
    ["RoundRobinPrefixStrategy", {"user_prefixes": ["one", "b c/ü"], "epoch_num": 7}],
]
METADATA = ".metadata"


@pytest.fixture(scope="module")
def ranks(moto_s3: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with standing():
        found = Ranks(moto_s3.endpoint, tmp_path_factory.mktemp("ranks"))
    with found:
        yield found


@pytest.fixture
def endpoint(moto_s3: MotoServer) -> S3Endpoint:
    return moto_s3.endpoint


@pytest.fixture
def bucket(endpoint: S3Endpoint) -> str:
    return endpoint.new_bucket()


def keys(endpoint: S3Endpoint, bucket: str, prefix: str) -> list[str]:
    listed = endpoint.client().list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return [one["Key"].removeprefix(prefix) for one in listed]


@pytest.mark.parametrize(
    "strategy", STRATEGIES, ids=lambda one: "none" if one is None else "-".join([one[0][:-14], *one[1]])
)
def test_each_names_the_files_alike_and_loads_what_the_other_saved(
    ranks: Ranks, endpoint: S3Endpoint, bucket: str, strategy: list[Any] | None
) -> None:
    for package in (THEIRS, OURS):
        assert ranks.run("save", package=package, path=f"s3://{bucket}/{package}/", strategy=strategy) == [[], []]
    assert keys(endpoint, bucket, f"{OURS}/") == keys(endpoint, bucket, f"{THEIRS}/")
    assert METADATA in keys(endpoint, bucket, f"{OURS}/")
    for reads, saved in ((OURS, OURS), (OURS, THEIRS), (THEIRS, OURS)):
        assert ranks.run("load", package=reads, path=f"s3://{bucket}/{saved}/") == [True, True]


@pytest.mark.parametrize("reader", ["sequential", "range_based", "dcp_optimized"])
def test_every_reader_loads_another_layout_than_was_saved(ranks: Ranks, bucket: str, reader: str) -> None:
    ranks.run("save", package=OURS, path=f"s3://{bucket}/a", thread_count=2)
    assert ranks.run("load", package=OURS, path=f"s3://{bucket}/a", reader=reader, dim=1) == [True, True]


def test_ranks_that_save_on_their_own_do_not_overwrite_each_other(
    ranks: Ranks, endpoint: S3Endpoint, bucket: str
) -> None:
    hex_prefixes = ["HexPrefixStrategy", {"min_prefix_length": 2}]
    for path, strategy in (("plain", None), ("hex", hex_prefixes)):
        uri = f"s3://{bucket}/{path}"
        ranks.run("save", package=OURS, path=uri, strategy=strategy, use_collectives=False)
        assert ranks.run("load", package=OURS, path=uri, use_collectives=False) == [True, True]
    rest = ["__0.metadata", "__1.metadata"]
    assert keys(endpoint, bucket, "plain/") == [rest[0], "__0_0.distcp", rest[1], "__1_0.distcp"]
    assert keys(endpoint, bucket, "hex/") == ["00/__0_0.distcp", "10/__1_0.distcp", *rest]


def test_a_checkpoint_that_is_there_is_overwritten_with_a_warning(
    ranks: Ranks, endpoint: S3Endpoint, bucket: str
) -> None:
    uri = f"s3://{bucket}/twice"
    ranks.run("save", package=OURS, path=uri)
    for warned in ranks.run("save", package=OURS, path=uri):
        assert [text[:31] for text in warned] == ["Detected an existing checkpoint"]
    assert keys(endpoint, bucket, "twice/") == [METADATA, "__0_0.distcp", "__1_0.distcp"]
    assert ranks.run("load", package=OURS, path=uri) == [True, True]
