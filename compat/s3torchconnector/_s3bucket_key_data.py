"""One object as a data set knows it."""

from __future__ import annotations

from typing import NamedTuple

from ..s3torchconnectorclient._mountpoint_s3_client import ObjectInfo


class S3BucketKeyData(NamedTuple):
    """Where an object is, and what a listing said of it."""

    bucket: str
    key: str
    object_info: ObjectInfo | None = None
