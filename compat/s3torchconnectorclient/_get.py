"""The bytes of one version of an object, in order: chunk by chunk, or all that is left at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3dlio.engine.config import Settings

from ._errors import KEY_MISSING, translated

if TYPE_CHECKING:
    from s3dlio.engine.memory.view import BytesView

    from ._client import Place


class GetObjectStream:
    """An iterator of chunks. Nothing is asked of the store before the first."""

    def __init__(
        self, place: Place, bucket: str, start: int, end: int | None, limits: Settings, max_in_flight: int
    ) -> None:
        self.bucket = bucket
        self.key = place.key
        self._place = place
        self._position = start
        self._end = end
        self._limits = limits
        self._max_in_flight = max_in_flight

    def __iter__(self) -> GetObjectStream:
        return self

    def __next__(self) -> bytes:
        chunk = bytes(self.read_rest())
        if not chunk:
            raise StopIteration
        return chunk

    def tell(self) -> int:
        """Returns where in the object the next chunk begins."""
        return self._position

    def read_rest(self) -> BytesView:
        """Returns all that is left, in place: no byte of it is copied.

        Raises:
            S3Exception: As the store says.
        """
        from s3dlio.engine.ops.whole import fetch_range_in_parts

        with translated(KEY_MISSING):
            view = fetch_range_in_parts(
                *self._place,
                start=self._position,
                end=self._end,
                limits=self._limits,
                max_in_flight=self._max_in_flight,
            )
        self._position += len(view)
        self._end = self._position
        return view
