"""What an object is called, and that all streams of it are of one version."""

from __future__ import annotations

from typing import Any

from ...s3torchconnectorclient import S3Exception


def name_of(bucket: str, key: str) -> str:
    """Returns the URI of an object; a bucket that is no plain name is the beginning of the URI itself."""
    if "://" not in bucket:
        return f"s3://{bucket}/{key}"
    return bucket + key if bucket.endswith("/") else f"{bucket}/{key}"


class OneVersion:
    """Sees to it that all streams of one object are of the version that the first one was.

    A stream says its version, once bytes of it have come, as an attribute `version`; those that have none are taken as they are.
    """

    __slots__ = ("_name", "_version")

    def __init__(self, name: str) -> None:
        self._name = name
        self._version: str | None = None

    def check(self, stream: Any) -> None:
        """Raises S3Exception where `stream`, of which bytes have come, is of another version than those before."""
        version = getattr(stream, "version", None)
        if version is None:
            return
        if self._version is None:
            self._version = version
        elif version != self._version:
            raise S3Exception(f"{self._name} changed while it was read: from version {self._version} to {version}")

    def read(self, stream: Any, start: int, end: int) -> Any:
        """Returns all of a stream of the bytes in `[start, end)`: a `BytesView` where it has `read_rest`, else `bytes`.

        Raises:
            S3Exception: The store refused, the object has changed, or fewer bytes came.
        """
        wanted = end - start
        read_rest = getattr(stream, "read_rest", None)
        if read_rest is not None:
            data = read_rest()
        else:
            chunks = []
            fetched = 0
            for chunk in stream:
                chunks.append(chunk)
                fetched += len(chunk)
                if fetched >= wanted:
                    break
            data = b"".join(chunks)
        self.check(stream)
        if len(data) < wanted:
            raise S3Exception(f"{self._name} ended early: of bytes {start} to {end}, only {len(data)} came")
        return data if len(data) == wanted else data[:wanted]
