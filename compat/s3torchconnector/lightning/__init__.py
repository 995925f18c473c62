"""Checkpoints of Lightning in a bucket. Without Lightning, the import says that there is no module of that name."""

import lightning as _lightning  # noqa: F401 - First, so that a missing Lightning is what the error names.

from .s3_lightning_checkpoint import S3LightningCheckpoint

__all__ = ["S3LightningCheckpoint"]
