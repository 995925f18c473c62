"""The classes of `s3torchconnector`, on this engine. Names, signatures, defaults and texts of errors are those of release 1.5.0."""

from ..s3torchconnectorclient import S3Exception
from ._s3client import S3Client, S3ClientConfig
from ._version import __version__
from .s3checkpoint import S3Checkpoint
from .s3iterable_dataset import S3IterableDataset
from .s3map_dataset import S3MapDataset
from .s3reader import S3Reader, S3ReaderConstructor
from .s3writer import S3Writer

S3Item = S3Reader
"""What the items of data sets are called by s3dlio's own module of this name."""

__all__ = [
    "S3Checkpoint",
    "S3Client",
    "S3ClientConfig",
    "S3Exception",
    "S3Item",
    "S3IterableDataset",
    "S3MapDataset",
    "S3Reader",
    "S3ReaderConstructor",
    "S3Writer",
    "__version__",
]
