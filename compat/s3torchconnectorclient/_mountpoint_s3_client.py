"""The names of upstream's native module, in one place."""

from ._client import MountpointS3Client, join_all_managed_threads
from ._errors import S3Exception
from ._get import GetObjectStream
from ._list import ListObjectStream
from ._mock import MockMountpointS3Client
from ._put import PutObjectStream
from ._records import HeadObjectResult, ListObjectResult, ObjectInfo, RestoreStatus
from ._version import __version__

__all__ = [
    "GetObjectStream",
    "HeadObjectResult",
    "ListObjectResult",
    "ListObjectStream",
    "MockMountpointS3Client",
    "MountpointS3Client",
    "ObjectInfo",
    "PutObjectStream",
    "RestoreStatus",
    "S3Exception",
    "__version__",
    "join_all_managed_threads",
]
