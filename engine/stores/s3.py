"""`s3://` in the calling process: stat, list, put and delete, all on the fast lane."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import weakref
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial

import msgspec

from ..errors import AuthenticationError, NotFoundError, ProtocolError, S3dlioError
from ..fetch.http1 import ResponseHead
from ..fetch.request import Exchange
from ..types import ListEntry, ObjectInfo
from .base import Listing, Operation
from .renewal import Renewal
from .s3_config import resolve_bucket
from .s3_wire import S3Wire
from .s3_xml import parse_list_page

_METADATA = b"x-amz-meta-"
_log = logging.getLogger("s3dlio")
_here: weakref.WeakSet[S3Store] = weakref.WeakSet()


class S3Store:
    """One bucket."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.bucket = root.removeprefix("s3://").rstrip("/")
        self.spec = resolve_bucket(self.bucket)
        self.wire = S3Wire(self.spec, self.renew, self.expire)
        self._renewal = Renewal(self.spec.expires_at_s, _now_s())
        self._renewing = threading.Lock()
        _here.add(self)

    def renew(self) -> bool:
        """As `Store.renew`: asks botocore's chain again, which may take as long as the network makes it.

        Ahead of the expiry that happens in a thread of its own, and everybody goes on with what there is; behind it, in the caller's, and
        others wait for it.
        """
        now_s = _now_s()
        expires_at_s = self.spec.expires_at_s
        if expires_at_s is None or now_s < expires_at_s:
            if now_s >= self._renewal.due_s:
                self._ask_in_thread(False)
            return self._renewing.locked()
        self._renewing.acquire()
        self._ask_and_release(False)
        return False

    def expire(self) -> None:
        """As `Store.expire`: in a thread of its own; the requests that were refused are tried again meanwhile."""
        if self._renewal.expire(_now_s()):
            self._ask_in_thread(True)

    def _ask_in_thread(self, is_refused: bool) -> None:
        if self._renewing.acquire(blocking=False):
            threading.Thread(target=self._ask_and_release, args=(is_refused,), name="s3dlio-credentials", daemon=True).start()

    def _ask_and_release(self, is_refused: bool) -> None:
        """Asks for credentials; `is_refused` says that the store refuses those which are in force, whatever they say of themselves."""
        try:
            if not is_refused and _now_s() < self._renewal.due_s:
                return  # somebody else has just done it
            self._renewal.note_failure(_now_s())  # whatever happens, it is not tried again at once
            spec = resolve_bucket(self.bucket, anew=is_refused)
            if spec.access_key is None:
                raise AuthenticationError("there are no credentials any more", uri=self.root)
            if is_refused and (spec.access_key, spec.token) == (self.spec.access_key, self.spec.token):
                _log.warning("the credentials for %s have expired, and no others are to be had; log in again", self.root)
                spec = msgspec.structs.replace(spec, is_stale=True)
            self.wire.use(spec)
        except S3dlioError as error:
            # As text: a log may keep its records, and an error's traceback the memory of what is being fetched.
            _log.warning("the credentials for %s could not be renewed, and are tried again: %s", self.root, str(error))
        else:
            self.spec = spec
            self._renewal.note(spec.expires_at_s, _now_s())
        finally:
            self._renewing.release()

    def _exchange(self, method: str, key: str, params: tuple[tuple[str, str], ...] = ()) -> Exchange:
        make = partial(self.wire.request, method, key, params)
        return Exchange(None, self.root + key, self.wire, method, make)

    def stat(self, key: str) -> Operation[ObjectInfo]:
        """As `Store.stat`, by HEAD."""
        if not key:
            raise NotFoundError("a bucket is no object: the URI has no key", uri=self.root)
        fetch = yield self._exchange("HEAD", key)
        assert fetch.reply is not None
        return _info(self.root + key, fetch.reply)

    def list_pages(self, prefix: str, recursive: bool) -> Listing:
        """As `Store.list_pages`, by ListObjectsV2; pages come when they are asked for.

        Raises:
            ProtocolError: The server gave a continuation token twice, so the listing would never end.
        """
        base: tuple[tuple[str, str], ...] = (("encoding-type", "url"), ("list-type", "2"), ("prefix", prefix))
        if not recursive:
            base += (("delimiter", "/"),)
        token: str | None = None
        seen: set[str] = set()
        while True:
            params = base if token is None else (*base, ("continuation-token", token))
            fetch = yield self._exchange("GET", "", params)
            assert fetch is not None
            page = parse_list_page(bytes(fetch.body), self.root)
            entries = page.entries + [ListEntry(child) for child in page.prefixes]
            if entries:
                yield entries
            token = page.next_token
            if token is None:
                return
            if token in seen:
                raise ProtocolError("the server repeats a continuation token", uri=self.root + prefix)
            seen.add(token)

    def put(self, key: str, data: memoryview) -> Operation[None]:
        """As `Store.put`, by one PUT: 5 GiB at most, which the store enforces."""
        payload_hash = hashlib.sha256(data).hexdigest()
        make = partial(self.wire.put, key, data, payload_hash)
        yield Exchange(None, self.root + key, self.wire, "PUT", make)

    def delete(self, key: str) -> Operation[None]:
        """As `Store.delete`."""
        try:
            yield self._exchange("DELETE", key)
        except NotFoundError as error:
            # S3 answers 204 for a missing key, others 404; a missing bucket is an error on all of them.
            if error.message.startswith("NoSuchBucket"):
                raise


def _renew_locks() -> None:
    # A thread of the parent may have held one at the moment of the fork; here it would never be released.
    for store in list(_here):
        store._renewing = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)


def _now_s() -> float:
    return datetime.now(UTC).timestamp()


def _info(uri: str, head: ResponseHead) -> ObjectInfo:
    get = head.get
    if head.length is None:
        raise ProtocolError("the answer to HEAD has no Content-Length", uri=uri, status=head.status)
    modified = get(b"last-modified")
    etag = head.etag
    return ObjectInfo(
        uri=uri,
        size=head.length,
        version=etag,
        etag=etag,
        last_modified=parsedate_to_datetime(modified).strftime("%Y-%m-%dT%H:%M:%SZ") if modified else None,
        content_type=get(b"content-type"),
        content_language=get(b"content-language"),
        content_encoding=get(b"content-encoding"),
        cache_control=get(b"cache-control"),
        content_disposition=get(b"content-disposition"),
        expires=get(b"expires"),
        storage_class=get(b"x-amz-storage-class") or "STANDARD",
        server_side_encryption=get(b"x-amz-server-side-encryption"),
        ssekms_key_id=get(b"x-amz-server-side-encryption-aws-kms-key-id"),
        sse_customer_algorithm=get(b"x-amz-server-side-encryption-customer-algorithm"),
        version_id=get(b"x-amz-version-id"),
        replication_status=get(b"x-amz-replication-status"),
        metadata={
            name[len(_METADATA) :].decode("latin-1"): value.decode("utf-8", "replace")
            for name, value in head.headers.items()
            if name.startswith(_METADATA)
        },
    )
