"""The small values that every room speaks: byte ranges, references to objects, listings.

Pure: no I/O, no clock. Byte ranges are half-open everywhere; only the function that formats the `Range` header speaks inclusively.
"""

from __future__ import annotations

from typing import Any

import msgspec


class ObjectRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One object of one store, and what is known of it."""

    uri: str
    """The full URI, as the user wrote it or as the listing gave it."""
    size: int | None = None
    """Bytes, where a listing or a HEAD said so."""
    version: str | None = None
    """The pin of one object version: ETag without quotes, generation, or `size-mtime_ns-inode` of a file."""


class ObjectInfo(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a HEAD, or one entry of a listing, says about an object."""

    uri: str
    size: int
    version: str | None = None
    """As in `ObjectRef`."""
    last_modified: str | None = None
    """ISO-8601, UTC, seconds: `2026-01-31T12:00:00Z`."""
    etag: str | None = None
    content_type: str | None = None
    content_language: str | None = None
    content_encoding: str | None = None
    cache_control: str | None = None
    content_disposition: str | None = None
    expires: str | None = None
    storage_class: str | None = None
    server_side_encryption: str | None = None
    ssekms_key_id: str | None = None
    sse_customer_algorithm: str | None = None
    version_id: str | None = None
    replication_status: str | None = None
    metadata: dict[str, str] | None = None

    def ref(self) -> ObjectRef:
        """Returns the reference that reads exactly this version."""
        return ObjectRef(self.uri, self.size, self.version)

    def as_stat(self) -> dict[str, Any]:
        """Returns the 16 keys of `s3dlio.stat`; what the store does not know is None."""
        found = msgspec.structs.asdict(self)
        del found["uri"], found["version"]
        found["metadata"] = found["metadata"] or {}
        return found


class ListEntry(msgspec.Struct, frozen=True, gc=False):
    """One line of a listing: an object, or (`size` None, `uri` ending in `/`) a child prefix."""

    uri: str
    size: int | None = None
    version: str | None = None
    last_modified: str | None = None

    @property
    def is_prefix(self) -> bool:
        return self.size is None


class Restore(msgspec.Struct, frozen=True, gc=False):
    """How far an archived object is brought back to where it can be read."""

    is_in_progress: bool
    until: str | None = None
    """When the copy that can be read goes away, as `ObjectInfo.last_modified`; None as long as there is none."""


class ObjectDetails(msgspec.Struct, frozen=True, gc=False):
    """What a store says of an object, word for word: what it leaves out is None."""

    key: str
    size: int
    etag: str | None = None
    """With the quotes that it comes in."""
    last_modified: str | None = None
    """As `ObjectInfo.last_modified`."""
    storage_class: str | None = None
    restore: Restore | None = None
    """None for an object that is not archived, or not being restored."""


class Container(msgspec.Struct, frozen=True, gc=False):
    """One bucket or container of an account."""

    name: str
    uri: str
    """What the URIs of its objects begin with: `s3://name/`, `az://account/name/`."""
    creation_date: str | None = None
    """ISO-8601, UTC, seconds, as `ObjectInfo.last_modified`; None where the store does not say it."""


class PendingUpload(msgspec.Struct, frozen=True, gc=False):
    """A multipart upload that was begun, and neither completed nor aborted; or a file that has not its own name yet."""

    uri: str
    """The object that it would become."""
    key: str
    upload_id: str
    """Empty for a file."""
    begun: str
    """ISO-8601, UTC, seconds, by the store's clock; of a file, when it was written to last."""
