"""`gs://` in the calling process: one bucket, by one of two lanes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..errors import S3dlioError
from ..fetch.checksums import Checksum
from ..types import Container, ObjectInfo
from .base import Listing, Operation, Store
from .gcs_config import GcsSpec, resolve_bucket
from .gcs_ops import GcsOperations
from .gcs_upload import GcsUpload
from .gcs_wire import GcsWire
from .renewing import Renewer


class GcsStore:
    """One bucket; or, under the root `gs://`, the account, which can only list its buckets."""

    max_put_bytes = 5 << 40
    """Source: "Quotas and limits", Google Cloud Storage."""
    max_delete_keys = 1
    """The JSON API has no such request; many at once are requests side by side."""

    def __init__(self, root: str) -> None:
        self.root = root
        spec = resolve_bucket(root.removeprefix("gs://").rstrip("/"))
        self.wire: Any
        self._lane: GcsOperations
        if spec.slow_because is None:
            self.wire = GcsWire(spec, self.renew, self.expire)
            self._lane = GcsOperations(root, self.wire)
        else:
            from .gcs_sdk import GcsSdkOperations, GcsSdkWire

            self.wire = GcsSdkWire(spec, self.renew, self.expire)
            self._lane = GcsSdkOperations(root, self.wire)
        self._renewer = Renewer(spec, self._resolve, self.wire.use)

    @property
    def spec(self) -> GcsSpec:
        """As `Store.spec`."""
        return self._renewer.spec

    def _resolve(self, is_refused: bool) -> GcsSpec:
        known = self.spec
        spec = resolve_bucket(known.bucket, known if is_refused else None)
        return msgspec.structs.replace(spec, slow_because=known.slow_because)

    def renew(self) -> bool:
        """As `Store.renew`."""
        return self._renewer.renew()

    def expire(self) -> None:
        """As `Store.expire`."""
        self._renewer.expire()

    def stat(self, key: str) -> Operation[ObjectInfo]:
        """As `Store.stat`."""
        return self._lane.stat(key)

    def find_sum(self, key: str) -> Operation[tuple[str | None, Checksum] | None]:
        """As `Store.find_sum`."""
        return self._lane.find_sum(key)

    def list_pages(self, prefix: str, recursive: bool) -> Listing:
        """As `Store.list_pages`."""
        return self._lane.list_pages(prefix, recursive)

    def put(self, key: str, data: memoryview, create_only: bool = False) -> Operation[None]:
        """As `Store.put`."""
        return self._lane.put(key, data, create_only)

    def begin_upload(self, key: str, create_only: bool = False) -> Operation[GcsUpload]:
        """As `Store.begin_upload`."""
        return self._lane.begin_upload(key, create_only)

    def delete(self, key: str) -> Operation[None]:
        """As `Store.delete`."""
        return self._lane.delete(key)

    def delete_many(self, keys: Sequence[str]) -> Operation[list[S3dlioError | None]]:
        """As `Store.delete_many`."""
        return self._lane.delete_many(keys)

    def copy(self, key: str, source: Store, source_key: str) -> Operation[bool]:
        """As `Store.copy`, between buckets of one endpoint."""
        if not isinstance(source, GcsStore) or source.spec.url != self.spec.url:
            return False
        yield from self._lane.copy(key, source.spec.bucket, source_key)
        return True

    def make_prefix(self, key: str) -> Operation[None]:
        """As `Store.make_prefix`."""
        return self._lane.make_prefix(key)

    def create_bucket(self) -> Operation[None]:
        """As `Store.create_bucket`."""
        return self._lane.create_bucket()

    def delete_bucket(self) -> Operation[None]:
        """As `Store.delete_bucket`."""
        return self._lane.delete_bucket()


def list_buckets() -> Operation[list[Container]]:
    """Returns the buckets of the project that `GOOGLE_CLOUD_PROJECT` or the credentials name."""
    return GcsStore("gs://")._lane.list_buckets()
