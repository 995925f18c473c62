"""Checkpoints of `torch.save` and `torch.load`: objects as files."""

from __future__ import annotations

from ._s3client import S3Client, S3ClientConfig
from ._s3dataset_common import parse_s3_uri
from .s3reader import S3Reader
from .s3writer import S3Writer


class S3Checkpoint:
    """Opens objects for `torch.save` and `torch.load`.

    Args:
        region: Of the bucket.
        endpoint: URL; None where the environment says it, or for AWS.
        s3client_config: How it is asked.
    """

    def __init__(self, region: str, endpoint: str | None = None, s3client_config: S3ClientConfig | None = None) -> None:
        self.region = region
        self.endpoint = endpoint
        self._client = S3Client(region, endpoint=endpoint, s3client_config=s3client_config)

    def reader(self, s3_uri: str) -> S3Reader:
        """Returns the object as a file to read. Nothing is asked of the store before it is read.

        Raises:
            ValueError: No URI of a known scheme, or one without a bucket.
        """
        return self._client.get_object(*parse_s3_uri(s3_uri))

    def writer(self, s3_uri: str) -> S3Writer:
        """Returns the object as a file to write, which becomes visible when it is closed.

        Raises:
            ValueError: No URI of a known scheme, or one without a bucket.
            S3Exception: The bucket cannot be opened.
        """
        return self._client.put_object(*parse_s3_uri(s3_uri))
