"""Listings, page by page as they are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._records import ListObjectResult

if TYPE_CHECKING:
    from ._client import MountpointS3Client


class ListObjectStream:
    """The pages of one listing; there is one at least, which may be empty. Picklable: it goes on where it was."""

    def __init__(self, client: MountpointS3Client, bucket: str, prefix: str, delimiter: str, max_keys: int) -> None:
        if max_keys < 0:
            raise OverflowError("can't convert negative int to unsigned")
        self._client = client
        self.bucket = bucket
        self.prefix = prefix
        self.delimiter = delimiter
        self.max_keys = max_keys
        self.continuation_token: str | None = None
        """Where the next page begins; None for the first, and after the last."""
        self.complete = False
        """Whether the last page was taken."""

    def __iter__(self) -> ListObjectStream:
        return self

    def __next__(self) -> ListObjectResult:
        if self.complete:
            raise StopIteration
        raise NotImplementedError

    @staticmethod
    def _from_state(
        client: MountpointS3Client,
        bucket: str,
        prefix: str,
        delimiter: str,
        max_keys: int,
        continuation_token: str | None,
        complete: bool,
    ) -> ListObjectStream:
        made = ListObjectStream(client, bucket, prefix, delimiter, max_keys)
        made.continuation_token, made.complete = continuation_token, complete
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        state = (self._client, self.bucket, self.prefix, self.delimiter, self.max_keys, self.continuation_token, self.complete)
        return ListObjectStream._from_state, state
