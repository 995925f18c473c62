"""From a URI to its store: the table of schemes, and the stores that are open in this process.

A bucket is opened once: credentials, region and endpoint are resolved then, and stay until `forget_stores`, which `shutdown` calls.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from ..errors import InternalError, UnsupportedError
from ..fetch import names
from ..fetch.threads import end_threads
from ..types import Container
from ..uri import FILE_SCHEMES, parse_uri
from .azure_config import AzureSpec
from .base import Operation, Store
from .file import FileStore
from .file_wire import DirectSpec, FileSpec, FileWire
from .gcs_config import GcsSpec
from .memory import MemoryStore
from .memory import list_buckets as list_buckets_of_memory
from .s3_spec import S3Spec

Spec = S3Spec | GcsSpec | AzureSpec | FileSpec | DirectSpec
"""What travels to a worker; a tagged union, so that msgspec decodes it."""

_lock = threading.Lock()
_stores: dict[str, Store] = {}


def locate(uri: Any) -> tuple[Store, str]:
    """Returns the store of `uri`, opened if need be, and the key within it.

    Raises:
        InvalidUriError: Not a URI of a known scheme.
        UnsupportedError: A scheme that this version has no store for.
        ConfigurationError, AuthenticationError: The bucket cannot be opened.
    """
    if not isinstance(uri, str):
        uri = str(parse_uri(uri))
    # The frequent case costs two slices and a look-up; whatever is unusual goes the long way, which checks everything.
    end = uri.find("://") + 3
    slash = uri.find("/", end)
    if slash == end and (store := _stores.get(uri[:slash])) is not None and "\0" not in uri and uri.isascii():
        # The root of files ends before the slash that their paths begin with.
        return store, uri[slash:]
    if end == 5 and uri[1] == "z":
        # The root of Azure's (az://) ends at the container, one slash further on.
        slash = uri.find("/", slash + 1)
    store = _stores.get(uri[: slash + 1])
    key_length = len(uri) - slash - 1
    if store is not None and 0 < key_length < 256 and "\0" not in uri:
        return store, uri[slash + 1 :]
    parts = parse_uri(uri)
    return open_store(parts.scheme, parts.root), parts.key


def is_open(uri: Any) -> bool:
    """Whether `locate(uri)` answers at once. Opening a bucket takes 0.3 s of imports, and as long as its credentials take."""
    if not isinstance(uri, str):
        return True
    end = uri.find("://") + 3
    slash = uri.find("/", end)
    if uri.startswith("az://"):
        slash = uri.find("/", slash + 1)
    # The root of files has no bucket.
    return uri[: slash + 1] in _stores or uri[:end] in _stores


def open_store(scheme: str, root: str) -> Store:
    """Returns the store of all URIs that begin with `root`, opened if need be; which may take as long as credentials do.

    Raises:
        UnsupportedError, ConfigurationError, AuthenticationError: As `locate`.
    """
    store = _stores.get(root)
    if store is None:
        with _lock:
            store = _stores.get(root)
            if store is None:
                store = _stores[root] = _make(scheme, root)
    return store


def _make(scheme: str, root: str) -> Store:
    if scheme == "file":
        return FileStore()
    if scheme == "direct":
        from .direct import DirectStore

        return DirectStore()
    if scheme == "memory":
        return MemoryStore(root)
    if scheme == "s3":
        from .s3 import S3Store

        return S3Store(root)
    if scheme == "az":
        from .azure import AzureStore

        return AzureStore(root)
    if scheme == "gs":
        from .gcs import GcsStore

        return GcsStore(root)
    raise UnsupportedError(f"{scheme}:// has no store in this version", uri=root)


def list_containers(uri: str) -> Operation[list[Container]]:
    """Returns the operation that lists the buckets or containers of an account; the call itself may take as long as credentials do.

    Args:
        uri: `s3://`, or any URI of the account; where the account stands in the URI, up to there at least.

    Raises:
        UnsupportedError: The scheme has no such list.
        ConfigurationError, AuthenticationError: As `locate`.
    """
    scheme = uri.partition("://")[0]
    if scheme == "s3":
        from .s3 import list_buckets

        return list_buckets()
    if scheme == "az":
        from .azure import list_containers as list_of_account

        return list_of_account(uri)
    if scheme == "gs":
        from . import gcs

        return gcs.list_buckets()
    if scheme == "memory":
        return list_buckets_of_memory()
    raise UnsupportedError(f"{scheme}:// has no buckets that could be listed", uri=uri)


def open_wire(spec: Spec) -> Any:
    """Returns the wire that `spec` describes; what a worker calls."""
    if isinstance(spec, FileSpec):
        return FileWire()
    if isinstance(spec, DirectSpec):
        from .direct import DirectWire

        return DirectWire()
    if isinstance(spec, S3Spec):
        if spec.slow_because is not None:
            from .s3_sdk import S3SdkWire

            return S3SdkWire(spec)
        from .s3_wire import S3Wire

        return S3Wire(spec)
    if isinstance(spec, AzureSpec):
        if spec.slow_because is not None:
            from .azure_sdk import AzureSdkWire

            return AzureSdkWire(spec)
        from .azure_wire import AzureWire

        return AzureWire(spec)
    if isinstance(spec, GcsSpec):
        if spec.slow_because is not None:
            from .gcs_sdk import GcsSdkWire

            return GcsSdkWire(spec)
        from .gcs_wire import GcsWire

        return GcsWire(spec)
    raise InternalError(f"no wire for {type(spec).__name__}")


def forget_stores() -> None:
    """Forgets every open store, so that the next use resolves credentials, endpoints, names and certificates anew."""
    from . import azure_config, gcs_config, s3_config

    with _lock:
        _stores.clear()
    s3_config.reset()
    azure_config.reset()
    gcs_config.reset()
    names.forget()
    end_threads()
    # Only if there was an https endpoint: ssl takes 15 ms to import.
    tls = sys.modules.get("s3dlio.engine.fetch.tls")
    if tls is not None:
        tls.forget_contexts()


def _renew_lock() -> None:
    # Another thread may hold it at the moment of a fork, for as long as opening a bucket takes; the child would wait for ever.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def is_file_scheme(uri: str) -> bool:
    """Whether `uri` names a path on a file system, where prefixes are directories."""
    return uri.partition("://")[0] in FILE_SCHEMES
