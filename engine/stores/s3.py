"""`s3://` in the calling process: who asks, and by which lane."""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar, cast

import msgspec

from ..errors import (
    AlreadyExistsError,
    BucketElsewhereError,
    ConfigurationError,
    PermissionDeniedError,
    ProtocolError,
    RequestRejectedError,
    S3dlioError,
    UnsupportedError,
)
from ..fetch.checksums import Checksum
from ..fetch.sigv4 import Headers
from ..text import clean
from ..types import Container, ListEntry, ObjectDetails, ObjectInfo, PendingUpload
from .base import Listing, Operation, Store, Upload
from .renewing import Renewer
from .s3_config import AS_CONFIGURED, S3Access, resolve_bucket
from .s3_copy import MAX_COPY_BYTES, copy_in_parts
from .s3_details import DetailsPage
from .s3_rare import MAX_DELETE_KEYS, S3RareOperations
from .s3_spec import S3Spec
from .s3_upload import abort_wholly, begin_upload
from .s3_wire import ELSEWHERE, S3Wire
from .s3_write import MAX_PUT_BYTES
from .s3_xml import ListPage

T = TypeVar("T")

_STORAGE_CLASS: Final = re.compile(r"[!-~]{1,128}")

_here: weakref.WeakSet[S3Store] = weakref.WeakSet()


class S3Store:
    """One bucket; or, under the root `s3://`, the account, which can only list its buckets."""

    max_delete_keys = MAX_DELETE_KEYS
    max_put_bytes = MAX_PUT_BYTES

    def __init__(self, root: str, access: S3Access | None = None) -> None:
        """Opens a bucket, which may take as long as its credentials do.

        Args:
            root: `s3://bucket/`.
            access: How it is asked, where that is not as the chain says.

        Raises:
            ConfigurationError, AuthenticationError: As `resolve_bucket`.
        """
        self.root = root
        self.bucket = root.removeprefix("s3://").rstrip("/")
        self._access = access or AS_CONFIGURED
        spec = resolve_bucket(self.bucket, access=self._access)
        self.wire: Any
        self._lane: S3RareOperations
        if spec.slow_because is None:
            self.wire = S3Wire(spec, self.renew, self.expire)
            self._lane = S3RareOperations(root, self.wire)
        else:
            from .s3_rare_sdk import S3RareSdkOperations
            from .s3_sdk import S3SdkWire

            self.wire = S3SdkWire(spec, self.renew, self.expire)
            self._lane = S3RareSdkOperations(root, self.wire)
        self._moving = threading.Lock()
        self._renewer = Renewer(spec, self._resolve, self.wire.use)
        _here.add(self)

    @property
    def spec(self) -> S3Spec:
        """As `Store.spec`."""
        return self._renewer.spec

    def _resolve(self, anew: bool) -> S3Spec:
        spec, slow_because = resolve_bucket(self.bucket, anew, self._access), self.spec.slow_because
        return spec if slow_because is None else msgspec.structs.replace(spec, slow_because=slow_because)

    def renew(self) -> bool:
        """As `Store.renew`: asks botocore's chain again, which may take as long as the network makes it."""
        return self._renewer.renew()

    def expire(self) -> None:
        """As `Store.expire`."""
        self._renewer.expire()

    def _lane_after(self, refused: S3RareOperations) -> S3RareOperations | None:
        """Returns the lane to try after one that says that the bucket is elsewhere, or None; workers are told of it too."""
        with self._moving:
            wire = None if refused.is_slow else self.wire.successor()
            if wire is None:
                return None
            if self._lane is refused:
                from .s3_rare_sdk import S3RareSdkOperations

                self._lane = S3RareSdkOperations(self.root, wire)
                self._renewer.spec = msgspec.structs.replace(self.spec, slow_because=ELSEWHERE)
            return self._lane

    def stat(self, key: str) -> Operation[ObjectInfo]:
        """As `Store.stat`."""
        return self._by_lane(lambda lane: lane.stat(key))

    def find_sum(self, key: str) -> Operation[tuple[str | None, Checksum] | None]:
        """As `Store.find_sum`, by HEAD."""
        return self._by_lane(lambda lane: lane.find_sum(key))

    def list_pages(self, prefix: str, recursive: bool) -> Listing:
        """As `Store.list_pages`, by ListObjectsV2; pages come when they are asked for. What a page repeats of the one before is left out.

        Raises:
            ProtocolError: The server gave a continuation token twice, so the listing would never end.
        """
        token: str | None = None
        seen: set[str] = set()
        known: set[str] = set()
        """What the last page held: some servers begin the next with it."""
        while True:
            page = yield from self._by_lane(partial(_list_page, prefix=prefix, recursive=recursive, token=token))
            entries = page.entries + [ListEntry(child) for child in page.prefixes]
            uris = {entry.uri for entry in entries}
            if len(uris) < len(entries) or not uris.isdisjoint(known):
                entries = [entry for uri, entry in {entry.uri: entry for entry in entries}.items() if uri not in known]
            if entries:
                yield entries
            known = uris
            token = page.next_token
            if token is None:
                return
            if token in seen:
                raise ProtocolError("the server repeats a continuation token", uri=self.root + prefix)
            seen.add(token)

    def stat_details(self, key: str) -> Operation[ObjectDetails]:
        """Returns what a HEAD says, word for word.

        Raises:
            NotFoundError: As `Store.stat`.
        """
        return self._by_lane(lambda lane: lane.stat_details(key))

    def list_details(
        self, prefix: str, delimiter: str = "", max_keys: int = 1000, token: str | None = None
    ) -> Operation[DetailsPage]:
        """Returns one page of a listing, with all that the store says of objects.

        Args:
            prefix: Raw text.
            delimiter: Keys that have it behind the prefix come as prefixes; empty for none.
            max_keys: Objects and prefixes of a page; S3 gives 1000 at most.
            token: What the page before says, or None for the first.

        Raises:
            ProtocolError: The page is not whole, or gives `token` again, so that the listing would never end.
        """
        return self._by_lane(lambda lane: lane.list_details(prefix, delimiter, max_keys, token))

    def put(self, key: str, data: memoryview, create_only: bool = False, headers: Headers = ()) -> Operation[None]:
        """As `Store.put`, by one PUT; `headers` say more of the object."""
        return self._by_lane(lambda lane: lane.put(key, data, create_only, headers))

    def begin_upload(self, key: str, create_only: bool = False, headers: Headers = ()) -> Operation[Upload]:
        """As `Store.begin_upload`, by a multipart upload; `headers` say more of the object."""
        return self._by_lane(lambda lane: begin_upload(lane, key, create_only, headers))

    def stored_as(self, storage_class: str) -> Store:
        """Returns this store for whoever writes: its objects are kept in another class, as `STANDARD_IA`.

        Raises:
            ConfigurationError: No class can have this name. Which there are the store says, when it is written to.
        """
        if _STORAGE_CLASS.fullmatch(storage_class) is None:
            raise ConfigurationError(f"{clean(storage_class)!r} is no storage class", uri=self.root)
        return cast("Store", _StoredAs(self, storage_class))

    def delete(self, key: str) -> Operation[None]:
        """As `Store.delete`."""
        return self._by_lane(lambda lane: lane.delete(key))

    def delete_many(self, keys: Sequence[str]) -> Operation[list[S3dlioError | None]]:
        """As `Store.delete_many`, by DeleteObjects."""
        return self._by_lane(lambda lane: lane.delete_many(keys))

    def copy(self, key: str, source: Store, source_key: str) -> Operation[bool]:
        """As `Store.copy`, by CopyObject, or in parts above 5 GiB: for buckets that the same identity reaches at the same endpoint."""
        if not isinstance(source, S3Store) or not _are_neighbours(self.spec, source.spec):
            return False
        if source.bucket == self.bucket and source_key == key:
            # S3 refuses to copy an object to itself; all there is to find out is whether it is there.
            yield from self.stat(key)
            return True
        try:
            yield from self._by_lane(lambda lane: lane.copy(key, source.bucket, source_key))
        except RequestRejectedError:
            # That it is too long for one request is told by a code that says much else too.
            head = yield from source._by_lane(lambda lane: lane.head(source_key))
            if (head.length or 0) <= MAX_COPY_BYTES:
                raise
            yield from self._by_lane(lambda lane: copy_in_parts(lane, key, source.bucket, source_key, head))
        except UnsupportedError:
            return False  # a server that speaks like S3, but not that
        return True

    def make_prefix(self, key: str) -> Operation[None]:
        """As `Store.make_prefix`; of the empty key the bucket is asked for, and nothing is made."""
        if key:
            # Somebody may keep something there.
            with suppress(AlreadyExistsError):
                yield from self.put(key if key.endswith("/") else key + "/", memoryview(b""), create_only=True)
        else:
            yield from self._by_lane(partial(_list_page, prefix="", recursive=False, token=None))

    def create_bucket(self) -> Operation[None]:
        """As `Store.create_bucket`, in the region that is configured."""
        try:
            yield from self._by_lane(lambda lane: lane.create_bucket())
        except AlreadyExistsError:
            # Some servers say this of one's own bucket too.
            try:
                ours = yield from S3Store("s3://", self._access).list_buckets()
            except PermissionDeniedError:
                ours = []
            if all(bucket.uri != self.root for bucket in ours):
                raise

    def delete_bucket(self) -> Operation[None]:
        """As `Store.delete_bucket`."""
        return self._by_lane(lambda lane: lane.delete_bucket())

    def list_buckets(self) -> Operation[list[Container]]:
        """Returns the buckets of the account; the root is `s3://`."""
        return self._by_lane(lambda lane: lane.list_buckets())

    def list_uploads(self, prefix: str) -> Operation[list[PendingUpload]]:
        """Returns the multipart uploads below a raw text prefix that were begun and not ended, by anybody."""
        return self._by_lane(lambda lane: lane.list_uploads(prefix))

    def abort_upload(self, upload: PendingUpload) -> Operation[None]:
        """Throws the parts of an upload away; one that has ended is no error."""
        return self._by_lane(lambda lane: abort_wholly(lane, upload.key, upload.upload_id))

    def _by_lane(self, begin: Callable[[S3RareOperations], Operation[T]]) -> Operation[T]:
        lane = self._lane
        try:
            return (yield from begin(lane))
        except BucketElsewhereError:
            other = self._lane_after(lane)
            if other is None:
                raise
        return (yield from begin(other))


class _StoredAs:
    """A bucket whose objects are written in one storage class."""

    def __init__(self, store: S3Store, storage_class: str) -> None:
        self._store = store
        self._headers: Headers = (("x-amz-storage-class", storage_class),)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: memoryview, create_only: bool = False) -> Operation[None]:
        """As `Store.put`."""
        return self._store.put(key, data, create_only, self._headers)

    def begin_upload(self, key: str, create_only: bool = False) -> Operation[Upload]:
        """As `Store.begin_upload`."""
        return self._store.begin_upload(key, create_only, self._headers)


def list_buckets() -> Operation[list[Container]]:
    """As `registry.list_containers`, of S3."""
    return S3Store("s3://").list_buckets()


def _are_neighbours(one: S3Spec, other: S3Spec) -> bool:
    """Whether two buckets are at the same endpoint, and asked by the same identity.

    Short-lived keys differ from bucket to bucket, since each is opened at its time.
    """
    assert one.sdk is not None
    assert other.sdk is not None
    is_same = one.access_key == other.access_key or (one.source == other.source and None not in (one.expires_at_s, other.expires_at_s))
    return is_same and (one.sdk.endpoint_url, one.scheme) == (other.sdk.endpoint_url, other.scheme)


def _list_page(lane: S3RareOperations, prefix: str, recursive: bool, token: str | None) -> Operation[ListPage]:
    return lane.list_page(prefix, recursive, token)


def _renew_locks() -> None:
    # A thread of the parent may have held one at the moment of the fork; here it would never be released.
    for store in list(_here):
        store._moving = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)
