"""Listings, page by page as they are taken."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from s3dlio.engine.stores.base import run_pages
from s3dlio.engine.stores.s3 import S3Store
from s3dlio.engine.types import ListEntry

from ._errors import BUCKET_MISSING, translated
from ._records import ListObjectResult, info_of, info_of_entry

if TYPE_CHECKING:
    from ._client import MountpointS3Client, Place


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
        self._known: set[str] = set()
        """What the last page held: some servers begin the next with it."""
        self._entries: Iterator[ListEntry | str] | None = None
        """What is still to come of a listing that is not S3's."""

    def __iter__(self) -> ListObjectStream:
        return self

    def __next__(self) -> ListObjectResult:
        """Returns the next page.

        Raises:
            S3Exception: As the store says; the page may be asked for again.
        """
        if self.complete:
            raise StopIteration
        with translated(BUCKET_MISSING):
            place = self._client.place(self.bucket, self.prefix)
            if isinstance(place.store, S3Store):
                page, token = self._ask(place.store)
            else:
                page, token = self._cut(place)
        self.continuation_token = token
        self.complete = token is None
        return page

    def _ask(self, store: S3Store) -> tuple[ListObjectResult, str | None]:
        operation = store.list_details(self.prefix, self.delimiter, self.max_keys, self.continuation_token)
        page = self._client.run(operation)
        known, self._known = self._known, {*page.prefixes, *(found.key for found in page.objects)}
        objects = [info_of(found) for found in page.objects if found.key not in known]
        return ListObjectResult(objects, [prefix for prefix in page.prefixes if prefix not in known]), page.next_token

    def _cut(self, place: Place) -> tuple[ListObjectResult, str | None]:
        """Cuts a page out of a listing that has no pages of this kind; the token is how many objects and prefixes came before."""
        num_before, num = int(self.continuation_token or 0), self.max_keys
        if not num:
            return ListObjectResult([], []), None
        entries = self._entries or islice(self._walk(place), num_before, None)
        # One that has raised is at its end, and the listing is not.
        self._entries = None
        found = [*islice(entries, num + 1)]
        if len(found) > num:
            self._entries = chain(found[num:], entries)
        found, is_last = found[:num], len(found) <= num
        objects = [info_of_entry(entry, place.store.root) for entry in found if isinstance(entry, ListEntry)]
        page = ListObjectResult(objects, [entry for entry in found if isinstance(entry, str)])
        return page, None if is_last else str(num_before + num)

    def _walk(self, place: Place) -> Iterator[ListEntry | str]:
        """Yields objects, and what is common to those that have the delimiter behind the prefix."""
        store, _, prefix = place
        begin = len(store.root)
        behind = len(store.root) + len(prefix)
        seen: set[str] = set()
        for page in run_pages(store.list_pages(prefix, recursive=self.delimiter != "/"), self._client.drive):
            for entry in page:
                at = entry.uri.find(self.delimiter, behind) if self.delimiter else -1
                if at < 0:
                    yield entry
                    continue
                common = entry.uri[begin : at + len(self.delimiter)]
                if common not in seen:
                    seen.add(common)
                    yield common

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
        asked = (self._client, self.bucket, self.prefix, self.delimiter, self.max_keys)
        return ListObjectStream._from_state, (*asked, self.continuation_token, self.complete)
