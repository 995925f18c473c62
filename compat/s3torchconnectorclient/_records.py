"""What a listing and a HEAD say of an object, as upstream has it: immutable, picklable, compared by identity."""

from __future__ import annotations

from datetime import datetime

import msgspec

from s3dlio.engine.types import ListEntry, ObjectDetails
from s3dlio.engine.types import ObjectInfo as EngineInfo


class RestoreStatus(msgspec.Struct, frozen=True, eq=False):
    """Whether an archived object is being restored."""

    in_progress: bool
    expiry: int | None = None
    """When the restored copy goes away, in seconds since 1970."""


class ObjectInfo(msgspec.Struct, frozen=True, eq=False):
    """One object of a listing."""

    key: str
    etag: str
    size: int
    """Bytes."""
    last_modified: int
    """Seconds since 1970."""
    storage_class: str | None = None
    restore_status: RestoreStatus | None = None


class HeadObjectResult(msgspec.Struct, frozen=True, eq=False):
    """What a HEAD says of an object."""

    etag: str
    size: int
    """Bytes."""
    last_modified: int
    """Seconds since 1970."""
    storage_class: str | None = None
    restore_status: RestoreStatus | None = None


class ListObjectResult(msgspec.Struct, frozen=True, eq=False):
    """One page of a listing."""

    object_info: list[ObjectInfo]
    common_prefixes: list[str]


def info_of(found: ObjectDetails) -> ObjectInfo:
    """Returns what a store said, as upstream has it."""
    return ObjectInfo(found.key, *_facts(found))


def head_of(found: ObjectDetails) -> HeadObjectResult:
    """Returns what a store said, as upstream has it."""
    return HeadObjectResult(*_facts(found))


def _facts(found: ObjectDetails) -> tuple[str, int, int, str | None, RestoreStatus | None]:
    restore = found.restore
    status = None
    if restore is not None:
        status = RestoreStatus(restore.is_in_progress, None if restore.until is None else _seconds(restore.until))
    return found.etag or "", found.size, _seconds(found.last_modified), found.storage_class, status


def info_of_entry(found: ListEntry, root: str) -> ObjectInfo:
    """Returns what a store said that has other words for it: a generation stands for the ETag."""
    return ObjectInfo(found.uri[len(root) :], found.version or "", found.size or 0, _seconds(found.last_modified))


def head_of_object(found: EngineInfo) -> HeadObjectResult:
    """Returns what a store said that has other words for it."""
    version = found.etag or found.version or ""
    return HeadObjectResult(version, found.size, _seconds(found.last_modified), found.storage_class)


def _seconds(text: str | None) -> int:
    """Returns an ISO-8601 time in seconds since 1970; 0 where the store gives none."""
    return 0 if text is None else int(datetime.fromisoformat(text).timestamp())
