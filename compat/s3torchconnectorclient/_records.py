"""What a listing and a HEAD say of an object, as upstream has it: immutable, picklable, compared by identity."""

from __future__ import annotations

from datetime import datetime

import msgspec


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


def seconds_of(text: str | None) -> int:
    """Returns an ISO-8601 time in seconds since 1970; 0 where the store gives none."""
    return 0 if text is None else int(datetime.fromisoformat(text).timestamp())
