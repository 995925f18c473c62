"""The client that data sets, checkpoints and file systems share."""

from ._mock_s3client import MockS3Client
from ._s3client import S3Client
from .s3client_config import S3ClientConfig

__all__ = ["MockS3Client", "S3Client", "S3ClientConfig"]
