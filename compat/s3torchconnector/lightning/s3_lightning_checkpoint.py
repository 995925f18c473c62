"""Where Lightning's trainer saves and loads its checkpoints: `Trainer(plugins=[S3LightningCheckpoint(region)])`."""

from __future__ import annotations

from typing import IO, Any, cast

import lightning
import torch
from lightning.pytorch.plugins.io import CheckpointIO
from packaging.version import Version

from .._s3client import S3Client, S3ClientConfig
from .._s3dataset_common import parse_s3_uri
from .._user_agent import UserAgent


class S3LightningCheckpoint(CheckpointIO):
    """Writes each checkpoint as one object, and reads it from there; also within Lightning's `AsyncCheckpointIO`.

    Args:
        region: Of the bucket.
        s3client_config: How to ask; None is every default.
        endpoint: A server other than AWS's; None asks the environment.
    """

    def __init__(self, region: str, s3client_config: S3ClientConfig | None = None, endpoint: str | None = None) -> None:
        self.region = region
        self._client = S3Client(
            region,
            endpoint=endpoint,
            user_agent=UserAgent(["lightning", lightning.__version__]),
            s3client_config=s3client_config,
        )

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str,  # type: ignore[override]  # A `Path` is a local file's by its own definition.
        storage_options: Any | None = None,
    ) -> None:
        """Writes `checkpoint` by `torch.save`; whatever fails on the way, nothing of it becomes visible.

        Args:
            checkpoint: The state of model and trainer.
            path: The object's URI.
            storage_options: There are none.

        Raises:
            TypeError: `path` is no string, or there are storage options, as in Lightning's own `TorchCheckpointIO`.
            ValueError: `path` is no URI of an object.
            S3Exception: The store refused.
        """
        self._validate_path(path)
        if storage_options is not None:
            raise TypeError(
                "`storage_options` are not supported by S3LightningCheckpoint; say in `s3client_config` how to ask the store"
            )
        bucket, key = parse_s3_uri(path)
        with self._client.put_object(bucket, key) as writer:
            torch.save(checkpoint, cast("IO[bytes]", writer))

    def load_checkpoint(
        self,
        path: str,  # type: ignore[override]
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Returns what was saved, by `torch.load`.

        Args:
            path: The object's URI.
            map_location: Where tensors go, as in `torch.load`.
            weights_only: Whether to refuse all that is neither a tensor nor a plain value. None leaves that to torch, or, with a
                Lightning before 2.6, is False, as Lightning's own default was.

        Raises:
            TypeError: `path` is no string.
            ValueError: `path` is no URI of an object.
            S3Exception: The store refused.
        """
        self._validate_path(path)
        if weights_only is None and Version(lightning.__version__) < Version("2.6.0"):
            weights_only = False
        bucket, key = parse_s3_uri(path)
        with self._client.get_object(bucket, key) as reader:
            loaded: dict[str, Any] = torch.load(cast("IO[bytes]", reader), map_location, weights_only=weights_only)
        return loaded

    def remove_checkpoint(self, path: str) -> None:  # type: ignore[override]
        """Deletes the object; one that is not there is as good as deleted.

        Raises:
            TypeError: `path` is no string.
            ValueError: `path` is no URI of an object.
            S3Exception: The store refused.
        """
        self._validate_path(path)
        bucket, key = parse_s3_uri(path)
        self._client.delete_object(bucket, key)

    def teardown(self) -> None:
        """Does nothing: there is nothing to end."""

    @staticmethod
    def _validate_path(path: object) -> None:
        if not isinstance(path, str):
            kind = type(path).__name__
            raise TypeError(f"{kind!r} is not a supported type for 'path'. Must be a string formatted as an S3 uri.")
