"""Other names of verbs: `list_keys`, `list_full_uris`, `get_object`, `stat_object`, and the deprecated `get_by_key` and `stat_key`."""

from __future__ import annotations

import builtins
import re
import warnings
from typing import TYPE_CHECKING, Any

from ..stores.registry import is_file_scheme
from ..uri import as_directory, parse_uri
from . import objects

if TYPE_CHECKING:
    from ..memory.view import BytesView


def list_full_uris(
    uri: str, recursive: bool = False, pattern: str | re.Pattern[str] | None = None
) -> builtins.list[str]:
    """Returns the sorted URIs below `uri`, as `list`."""
    return objects.list(uri, recursive, pattern)


def list_keys(uri: str, recursive: bool = False, pattern: str | re.Pattern[str] | None = None) -> builtins.list[str]:
    """Returns what `list` returns, relative to `uri`: to the last `/` in it on object stores, to the directory on file systems."""
    return relative_keys(uri, objects.list(uri, recursive, pattern))


def relative_keys(uri: str, found: builtins.list[str]) -> builtins.list[str]:
    """Returns the URIs of a listing without what they have in common. A file that lists itself keeps its name."""
    base = str(parse_uri(uri))
    base = as_directory(base) if is_file_scheme(uri) and found != [base] else base[: base.rfind("/") + 1]
    return [one[len(base) :] for one in found]


def get_object(uri: str) -> BytesView:
    """Returns a whole object, as `get`."""
    return objects.get(uri)


def stat_object(uri: str) -> dict[str, Any]:
    """Returns the facts of an object, as `stat`."""
    return objects.stat(uri)


def get_by_key(bucket: str, key: str) -> BytesView:
    """Returns a whole object of an S3 bucket. Deprecated: use `get`."""
    return objects.get(_s3_uri("get_by_key", "get", bucket, key))


def stat_key(bucket: str, key: str) -> dict[str, Any]:
    """Returns the facts of an object of an S3 bucket. Deprecated: use `stat`."""
    return objects.stat(_s3_uri("stat_key", "stat", bucket, key))


def _s3_uri(name: str, instead: str, bucket: str, key: str) -> str:
    uri = f"s3://{bucket}/{key}"
    warnings.warn(f"s3dlio.{name}(bucket, key) is deprecated; use s3dlio.{instead}(uri)", DeprecationWarning, stacklevel=3)
    return uri
