"""An object that is being written, part by part as the bytes come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s3dlio.engine.config import Settings
from s3dlio.engine.errors import UnsupportedError
from s3dlio.engine.ops.writers import ObjectWriter
from s3dlio.engine.stores.base import Store
from s3dlio.engine.stores.s3 import S3Store

from ._errors import BUCKET_MISSING, S3Exception, translated

if TYPE_CHECKING:
    from ._client import Place


class PutObjectStream:
    """Becomes the object when it is closed, and nothing before or without that: one that is dropped throws away what it sent."""

    def __init__(
        self, place: Place, bucket: str, storage_class: str | None, limits: Settings, max_in_flight: int
    ) -> None:
        self.bucket = bucket
        self.key = place.key
        self._is_open = True
        store = place.store if storage_class is None else _stored_as(place.store, storage_class)
        self._writer = ObjectWriter(
            store, place.key, part_bytes=limits.put_part_bytes, max_in_flight=max_in_flight, limits=limits
        )

    def write(self, data: Any) -> None:
        """Takes the bytes of any contiguous buffer; the caller may change it afterwards.

        Raises:
            S3Exception: A part could not be written, and the whole is thrown away; or the stream is closed.
            TypeError: `data` is no buffer.
        """
        if not self._is_open or self._writer.is_closed:
            raise S3Exception("Cannot write to closed object")
        try:
            view = memoryview(data)
        except TypeError:
            raise TypeError(f"argument 'data': '{type(data).__name__}' object cannot be cast as 'bytes'") from None
        with translated(BUCKET_MISSING):
            self._writer.write(view)

    def close(self) -> None:
        """Makes the object.

        Raises:
            S3Exception: That failed, and everything is thrown away; or the stream is closed already.
        """
        if not self._is_open:
            raise S3Exception("Cannot close object more than once")
        self._is_open = False
        with translated(BUCKET_MISSING):
            self._writer.close()

    def abort(self) -> None:
        """Throws away what was sent; there will be no object. May be called at any time."""
        self._is_open = False
        self._writer.abort()


def _stored_as(store: Store, storage_class: str) -> Store:
    if isinstance(store, S3Store):
        return store.stored_as(storage_class)
    raise UnsupportedError("only S3 is asked for a storage class", uri=store.root)
