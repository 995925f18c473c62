"""`S3Checkpoint` under `torch.save` and `torch.load`, in S3 and elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from s3dlio.compat.s3torchconnector import S3Checkpoint, S3ClientConfig, S3Exception, S3Reader, S3Writer
from s3dlio.engine.stores.memory import forget
from tests.support.moto_server import MotoServer

STATE = {"weight": torch.arange(3_000_000, dtype=torch.float32), "step": torch.tensor(7)}
"""12 MB: more than one part of 5 MiB."""


@pytest.fixture(params=["s3", "file", "memory"])
def root(request: pytest.FixtureRequest, moto_s3: MotoServer, s3_env: Callable[..., None], tmp_path: Path) -> Iterator[str]:
    if request.param == "s3":
        s3_env(moto_s3.endpoint)
        yield f"s3://{moto_s3.endpoint.new_bucket()}/"
    else:
        yield f"file://{tmp_path}/" if request.param == "file" else "memory://compat-checkpoint/"
        forget("memory://compat-checkpoint/")


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_was_saved_is_loaded(root: str, is_zip: bool) -> None:
    checkpoint = S3Checkpoint("us-east-1", None, S3ClientConfig(part_size=5 << 20))
    with checkpoint.writer(root + "model.pt") as writer:
        assert isinstance(writer, S3Writer)
        torch.save(STATE, writer, _use_new_zipfile_serialization=is_zip)
    with checkpoint.reader(root + "model.pt") as reader:
        assert isinstance(reader, S3Reader)
        found = torch.load(reader, weights_only=True)
    assert torch.equal(found["weight"], STATE["weight"])
    assert torch.equal(found["step"], STATE["step"])


def test_u1_a_checkpoint_that_breaks_leaves_the_one_before(root: str) -> None:
    checkpoint = S3Checkpoint("us-east-1")
    with checkpoint.writer(root + "model.pt") as writer:
        torch.save({"step": 1}, writer)
    with suppress(RuntimeError), checkpoint.writer(root + "model.pt") as writer:
        torch.save({"step": 2}, writer)
        raise RuntimeError("interrupted")
    with checkpoint.reader(root + "model.pt") as reader:
        assert torch.load(reader, weights_only=True) == {"step": 1}


def test_a_checkpoint_keeps_what_it_was_told() -> None:
    config = S3ClientConfig(part_size=6 << 20)
    checkpoint = S3Checkpoint("eu-west-3", "http://host", config)
    assert (checkpoint.region, checkpoint.endpoint) == ("eu-west-3", "http://host")
    assert checkpoint._client.s3client_config is config
    assert checkpoint._client._client.endpoint == "http://host"


def test_nothing_is_asked_before_the_reader_reads(root: str) -> None:
    reader = S3Checkpoint("us-east-1").reader(root + "missing.pt")
    with pytest.raises(S3Exception, match=r"^Service error: The key does not exist$"):
        reader.read()


@pytest.mark.parametrize("uri", ["", "bucket/key", "ftp://bucket/key", "s3://", "s3:///key"])
def test_a_uri_without_meaning_is_a_value_error(uri: str) -> None:
    checkpoint = S3Checkpoint("us-east-1")
    for open_ in (checkpoint.reader, checkpoint.writer):
        with pytest.raises(ValueError, match=r"URIs are supported|must be non-empty"):
            open_(uri)
