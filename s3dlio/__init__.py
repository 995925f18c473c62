"""s3dlio: objects from object storage and files, straight into shared memory.

Names are loaded when they are first used (PEP 562), so that `import s3dlio` imports no framework, no SDK and not even numpy.
"""

from __future__ import annotations

import builtins
import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "s3dlio.engine.errors": (
        "AlreadyExistsError",
        "AuthenticationError",
        "BucketElsewhereError",
        "CertificateError",
        "ChecksumMismatchError",
        "ConfigurationError",
        "ConnectFailedError",
        "DecodeError",
        "DirectIOUnsupportedError",
        "ExpiredCredentialsError",
        "InsufficientMemoryError",
        "InternalError",
        "InvalidRangeError",
        "InvalidUriError",
        "IsADirectoryUriError",
        "MissingExtraError",
        "NoSpaceError",
        "NotFoundError",
        "ObjectChangedError",
        "ObjectTooLargeError",
        "PermissionDeniedError",
        "PoolClosedError",
        "ProtocolError",
        "RequestRejectedError",
        "S3dlioError",
        "ServerError",
        "StoreTimeoutError",
        "ThrottledError",
        "TruncatedBodyError",
        "UnsafeNameError",
        "UnsupportedError",
        "ViewsHeldError",
        "WorkerLostError",
    ),
    "s3dlio.datasets.state": ("merge_states",),
    "s3dlio.engine.config": ("configure",),
    "s3dlio.engine.memory.view": ("BytesView",),
    "s3dlio.engine.pool.pool": ("Pool",),
    "s3dlio.engine.types": ("ListEntry", "ObjectInfo", "ObjectRef"),
    "s3dlio.engine.ops.objects": ("exists", "get", "get_range", "list", "list_iter", "put_bytes", "stat"),
    "s3dlio.engine.ops.into": ("get_into",),
    "s3dlio.engine.ops.synthetic": ("put",),
    "s3dlio.engine.ops.removal": ("delete",),
    "s3dlio.engine.ops.copies": ("copy", "rename"),
    "s3dlio.engine.ops.buckets": ("create_bucket", "delete_bucket", "list_containers", "mkdir"),
    "s3dlio.engine.ops.aliases": ("get_by_key", "get_object", "list_full_uris", "list_keys", "stat_key", "stat_object"),
    "s3dlio.engine.ops.awaited": (
        "exists_async",
        "get_async",
        "get_into_async",
        "get_many_async",
        "get_many_stats_async",
        "get_range_async",
        "list_async",
        "stat_async",
        "stat_many_async",
    ),
    "s3dlio.engine.ops.awaited_writes": (
        "copy_async",
        "create_bucket_async",
        "delete_async",
        "delete_bucket_async",
        "list_containers_async",
        "mkdir_async",
        "put_async",
        "put_bytes_async",
        "put_many_async",
        "rename_async",
    ),
    "s3dlio.engine.ops.awaited_aliases": ("get_object_async", "list_full_uris_async", "list_keys_async", "stat_object_async"),
    "s3dlio.engine.ops.batch": ("get_many", "get_many_stats", "put_many"),
    "s3dlio.engine.ops.mp_get": ("mp_get",),
    "s3dlio.engine.ops.transfer": ("download", "download_async", "upload", "upload_async"),
    "s3dlio.engine.ops.transfer_summary": ("TransferSummary",),
    "s3dlio.engine.ops.lifecycle": ("init_logging", "shutdown"),
    "s3dlio.datasets.jax": ("JaxIterable",),
    "s3dlio.datasets.tensorflow": ("make_tf_dataset",),
    "s3dlio.datasets.torch": ("ObjectStoreIterableDataset", "ObjectStoreMapDataset"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]  # noqa: PLE0604 (the names are literal, in _HOME)


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 's3dlio' has no attribute {name!r}")
    found = getattr(importlib.import_module(module), name)
    globals()[name] = found
    return found


def __dir__() -> builtins.list[str]:
    return sorted({*globals(), *_MODULE_OF})


if TYPE_CHECKING:
    from s3dlio.datasets.jax import JaxIterable as JaxIterable
    from s3dlio.datasets.state import merge_states as merge_states
    from s3dlio.datasets.tensorflow import make_tf_dataset as make_tf_dataset
    from s3dlio.datasets.torch import ObjectStoreIterableDataset as ObjectStoreIterableDataset
    from s3dlio.datasets.torch import ObjectStoreMapDataset as ObjectStoreMapDataset
    from s3dlio.engine.config import configure as configure
    from s3dlio.engine.memory.view import BytesView as BytesView
    from s3dlio.engine.ops.aliases import get_by_key as get_by_key
    from s3dlio.engine.ops.aliases import get_object as get_object
    from s3dlio.engine.ops.aliases import list_full_uris as list_full_uris
    from s3dlio.engine.ops.aliases import list_keys as list_keys
    from s3dlio.engine.ops.aliases import stat_key as stat_key
    from s3dlio.engine.ops.aliases import stat_object as stat_object
    from s3dlio.engine.ops.awaited import exists_async as exists_async
    from s3dlio.engine.ops.awaited import get_async as get_async
    from s3dlio.engine.ops.awaited import get_into_async as get_into_async
    from s3dlio.engine.ops.awaited import get_many_async as get_many_async
    from s3dlio.engine.ops.awaited import get_many_stats_async as get_many_stats_async
    from s3dlio.engine.ops.awaited import get_range_async as get_range_async
    from s3dlio.engine.ops.awaited import list_async as list_async
    from s3dlio.engine.ops.awaited import stat_async as stat_async
    from s3dlio.engine.ops.awaited import stat_many_async as stat_many_async
    from s3dlio.engine.ops.awaited_aliases import get_object_async as get_object_async
    from s3dlio.engine.ops.awaited_aliases import list_full_uris_async as list_full_uris_async
    from s3dlio.engine.ops.awaited_aliases import list_keys_async as list_keys_async
    from s3dlio.engine.ops.awaited_aliases import stat_object_async as stat_object_async
    from s3dlio.engine.ops.awaited_writes import copy_async as copy_async
    from s3dlio.engine.ops.awaited_writes import create_bucket_async as create_bucket_async
    from s3dlio.engine.ops.awaited_writes import delete_async as delete_async
    from s3dlio.engine.ops.awaited_writes import delete_bucket_async as delete_bucket_async
    from s3dlio.engine.ops.awaited_writes import list_containers_async as list_containers_async
    from s3dlio.engine.ops.awaited_writes import mkdir_async as mkdir_async
    from s3dlio.engine.ops.awaited_writes import put_async as put_async
    from s3dlio.engine.ops.awaited_writes import put_bytes_async as put_bytes_async
    from s3dlio.engine.ops.awaited_writes import put_many_async as put_many_async
    from s3dlio.engine.ops.awaited_writes import rename_async as rename_async
    from s3dlio.engine.ops.batch import get_many as get_many
    from s3dlio.engine.ops.batch import get_many_stats as get_many_stats
    from s3dlio.engine.ops.batch import put_many as put_many
    from s3dlio.engine.ops.buckets import create_bucket as create_bucket
    from s3dlio.engine.ops.buckets import delete_bucket as delete_bucket
    from s3dlio.engine.ops.buckets import list_containers as list_containers
    from s3dlio.engine.ops.buckets import mkdir as mkdir
    from s3dlio.engine.ops.copies import copy as copy
    from s3dlio.engine.ops.copies import rename as rename
    from s3dlio.engine.ops.into import get_into as get_into
    from s3dlio.engine.ops.lifecycle import init_logging as init_logging
    from s3dlio.engine.ops.lifecycle import shutdown as shutdown
    from s3dlio.engine.ops.mp_get import mp_get as mp_get
    from s3dlio.engine.ops.objects import exists as exists
    from s3dlio.engine.ops.objects import get as get
    from s3dlio.engine.ops.objects import get_range as get_range
    from s3dlio.engine.ops.objects import list as list
    from s3dlio.engine.ops.objects import list_iter as list_iter
    from s3dlio.engine.ops.objects import put_bytes as put_bytes
    from s3dlio.engine.ops.objects import stat as stat
    from s3dlio.engine.ops.removal import delete as delete
    from s3dlio.engine.ops.synthetic import put as put
    from s3dlio.engine.ops.transfer import download as download
    from s3dlio.engine.ops.transfer import download_async as download_async
    from s3dlio.engine.ops.transfer import upload as upload
    from s3dlio.engine.ops.transfer import upload_async as upload_async
    from s3dlio.engine.ops.transfer_summary import TransferSummary as TransferSummary
    from s3dlio.engine.pool.pool import Pool as Pool
    from s3dlio.engine.types import ListEntry as ListEntry
    from s3dlio.engine.types import ObjectInfo as ObjectInfo
    from s3dlio.engine.types import ObjectRef as ObjectRef
