"""The objects under a prefix, page by page as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ..s3torchconnectorclient._mountpoint_s3_client import ListObjectResult, ListObjectStream, ObjectInfo
from ._s3bucket_key_data import S3BucketKeyData

if TYPE_CHECKING:
    from ._s3client import S3Client

_STATE: Final = ("bucket", "prefix", "delimiter", "max_keys", "continuation_token", "complete")
"""What a listing needs to go on in another process, besides the client."""


class S3BucketIterable:
    """All objects under a prefix; each iteration lists anew."""

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix

    def __iter__(self) -> Iterator[S3BucketKeyData]:
        return S3BucketIterator(self._client, self._bucket, self._prefix)


class S3BucketIterator:
    """One listing. A pickle of it goes on where it was."""

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._pages: Iterator[ListObjectResult] = iter(client.list_objects(bucket, prefix))
        self._page: Iterator[ObjectInfo] = iter(())
        """What is left of the last page."""

    def __iter__(self) -> Iterator[S3BucketKeyData]:
        return self

    def __next__(self) -> S3BucketKeyData:
        while True:
            for info in self._page:
                return S3BucketKeyData(self._bucket, info.key, info)
            self._page = iter(next(self._pages).object_info)

    def __getstate__(self) -> dict[str, Any]:
        pages = {name: getattr(self._pages, name) for name in _STATE}
        return self.__dict__ | {"_pages": pages}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pages = ListObjectStream._from_state(self._client._client, **state["_pages"])
