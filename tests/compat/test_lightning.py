"""Lightning's checkpoints in a bucket: saved, loaded, removed, by a trainer and beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from s3dlio.compat.s3torchconnector import S3ClientConfig
from s3dlio.compat.s3torchconnector.lightning import S3LightningCheckpoint
from s3dlio.compat.s3torchconnectorclient import S3Exception
from tests.support.moto_server import MotoServer
from tests.support.s3_endpoint import S3Endpoint

REGION = "us-east-1"


@pytest.fixture
def endpoint(moto_s3: MotoServer, s3_env: Callable[[S3Endpoint | str], None]) -> S3Endpoint:
    s3_env(moto_s3.endpoint)
    return moto_s3.endpoint


@pytest.fixture
def bucket(endpoint: S3Endpoint) -> str:
    return endpoint.new_bucket()


def keys(endpoint: S3Endpoint, bucket: str) -> list[str]:
    return [one["Key"] for one in endpoint.client().list_objects_v2(Bucket=bucket).get("Contents", [])]


def checkpoint_of(number: int) -> dict[str, Any]:
    return {"state_dict": {"weight": torch.full((100, 100), float(number))}, "epoch": number}


def assert_is(found: dict[str, Any], number: int) -> None:
    assert found["epoch"] == number
    assert torch.equal(found["state_dict"]["weight"], checkpoint_of(number)["state_dict"]["weight"])


def test_a_checkpoint_is_saved_loaded_and_removed(endpoint: S3Endpoint, bucket: str) -> None:
    storage = S3LightningCheckpoint(REGION)
    uri = f"s3://{bucket}/run/one.ckpt"
    storage.save_checkpoint(checkpoint_of(1), uri)
    storage.save_checkpoint(checkpoint_of(2), uri)
    assert keys(endpoint, bucket) == ["run/one.ckpt"]
    assert_is(storage.load_checkpoint(uri), 2)
    assert_is(storage.load_checkpoint(uri, map_location="cpu", weights_only=False), 2)
    storage.remove_checkpoint(uri)
    storage.remove_checkpoint(uri)
    storage.teardown()
    assert keys(endpoint, bucket) == []
    with pytest.raises(S3Exception, match=r"^Service error: The key does not exist$"):
        storage.load_checkpoint(uri)


def test_arguments_come_in_this_order(endpoint: S3Endpoint, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    storage = S3LightningCheckpoint(REGION, S3ClientConfig(force_path_style=True), endpoint.url)
    storage.save_checkpoint(checkpoint_of(1), f"s3://{bucket}/a")
    assert_is(storage.load_checkpoint(f"s3://{bucket}/a", "cpu", True), 1)
    assert storage.region == REGION


def test_what_is_no_uri_is_refused(tmp_path: Path) -> None:
    storage = S3LightningCheckpoint(REGION)
    calls: list[Callable[[Any], Any]] = [
        lambda path: storage.save_checkpoint(checkpoint_of(1), path),
        storage.load_checkpoint,
        storage.remove_checkpoint,
    ]
    for call in calls:
        with pytest.raises(
            TypeError,
            match=r"^'PosixPath' is not a supported type for 'path'\. Must be a string formatted as an S3 uri\.$",
        ):
            call(tmp_path / "a")
        with pytest.raises(ValueError, match=r"^Only s3:// URIs are supported$"):
            call("bucket/key")


def test_options_that_nobody_reads_are_refused(bucket: str) -> None:
    with pytest.raises(TypeError, match="storage_options"):
        S3LightningCheckpoint(REGION).save_checkpoint(
            checkpoint_of(1), f"s3://{bucket}/a", storage_options={"acl": "x"}
        )


def test_u1_a_checkpoint_that_cannot_be_pickled_leaves_nothing(endpoint: S3Endpoint, bucket: str) -> None:
    with pytest.raises(Exception, match="lambda"):
        S3LightningCheckpoint(REGION).save_checkpoint({"weight": torch.zeros(9), "bad": lambda: 0}, f"s3://{bucket}/a")
    assert keys(endpoint, bucket) == []
    assert "Uploads" not in endpoint.client().list_multipart_uploads(Bucket=bucket)


def test_only_weights_are_loaded_unless_all_is_asked_for(bucket: str) -> None:
    storage = S3LightningCheckpoint(REGION)
    storage.save_checkpoint({"where": Path("a")}, f"s3://{bucket}/a")
    with pytest.raises(Exception, match="Weights only load failed"):
        storage.load_checkpoint(f"s3://{bucket}/a")
    assert storage.load_checkpoint(f"s3://{bucket}/a", weights_only=False) == {"where": Path("a")}


@pytest.mark.parametrize("version", ["2.4.0", "2.5.9"])
def test_an_older_lightning_loads_all(bucket: str, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr("lightning.__version__", version)
    storage = S3LightningCheckpoint(REGION)
    storage.save_checkpoint({"where": Path("a")}, f"s3://{bucket}/a")
    assert storage.load_checkpoint(f"s3://{bucket}/a") == {"where": Path("a")}


def test_saving_goes_on_in_a_thread_of_lightning_s(endpoint: S3Endpoint, bucket: str) -> None:
    from lightning.pytorch.plugins.io import AsyncCheckpointIO

    storage = AsyncCheckpointIO(S3LightningCheckpoint(REGION))
    for number in range(3):
        storage.save_checkpoint(checkpoint_of(number), f"s3://{bucket}/{number}")
    storage.teardown()
    assert keys(endpoint, bucket) == ["0", "1", "2"]
    for number in range(3):
        assert_is(storage.load_checkpoint(f"s3://{bucket}/{number}"), number)
    storage.remove_checkpoint(f"s3://{bucket}/1")
    storage.save_checkpoint(checkpoint_of(4), "s3://no-such-bucket/4")
    with pytest.raises(S3Exception, match=r"^Service error: The bucket does not exist$"):
        storage.teardown()
    assert keys(endpoint, bucket) == ["0", "2"]


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning"
)  # Lightning's own, of this torch and of few workers.
def test_a_trainer_saves_and_goes_on_from_there(endpoint: S3Endpoint, bucket: str, tmp_path: Path) -> None:
    from lightning.pytorch import LightningModule, Trainer

    class Model(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            return self.layer(batch).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def trainer(max_steps: int) -> Trainer:
        return Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=max_steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            plugins=[S3LightningCheckpoint(REGION)],
        )

    batches = torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=2)
    uri = f"s3://{bucket}/after 2 steps.ckpt"
    first, model = trainer(2), Model()
    first.fit(model, batches)
    first.save_checkpoint(uri)
    second, other = trainer(3), Model()
    second.fit(other, batches, ckpt_path=uri)
    assert second.global_step == 3
    # Each step takes the sum of the batch's two rows of ones, times the rate, off every weight.
    assert torch.allclose(other.layer.weight, model.layer.weight - 0.2)
