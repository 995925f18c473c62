"""`az://` in the calling process: who asks, and by which lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..errors import (
    AlreadyExistsError,
    AuthenticationError,
    InvalidUriError,
    NotFoundError,
    PermissionDeniedError,
    S3dlioError,
)
from ..types import Container, ListEntry, ObjectInfo
from .azure_config import AzureSpec, configured_account, resolve_container
from .azure_ops import MAX_PUT_BYTES, AzureOperations, AzureUpload, note_marker
from .azure_wire import AzureWire, check_key
from .base import Listing, Operation, Store, no_sum
from .renewing import Renewer


class AzureStore:
    """One container."""

    max_put_bytes = MAX_PUT_BYTES
    max_delete_keys = 1
    """A batch of Azure's is no faster than as many requests side by side, and hierarchical namespaces and some identities have none."""

    def __init__(self, root: str) -> None:
        """Opens a container, or, by the root `az://account/`, the account, which can only list its containers.

        Raises:
            ConfigurationError, AuthenticationError, MissingExtraError: As `resolve_container`.
        """
        self.root = root
        self._bucket = root.removeprefix("az://").removesuffix("/")
        spec = self._resolve()
        self.wire: Any
        self._lane: AzureOperations
        if spec.slow_because is None:
            try:
                self.wire = AzureWire(spec, self.renew, self.expire)
            except AuthenticationError as error:
                error.uri = root
                raise
            self._lane = AzureOperations(root, self.wire)
        else:
            from .azure_sdk import AzureSdkOperations, AzureSdkWire

            self.wire = AzureSdkWire(spec, self.renew, self.expire)
            self._lane = AzureSdkOperations(root, self.wire)
        self._renewer = Renewer(spec, self._resolve_as_before, self.wire.use)

    def _resolve(self, anew: bool = False) -> AzureSpec:
        return resolve_container(self._bucket, anew)

    def _resolve_as_before(self, anew: bool) -> AzureSpec:
        return msgspec.structs.replace(self._resolve(anew), slow_because=self.spec.slow_because)

    @property
    def spec(self) -> AzureSpec:
        """As `Store.spec`."""
        return self._renewer.spec

    def renew(self) -> bool:
        """As `Store.renew`."""
        return self._renewer.renew()

    def expire(self) -> None:
        """As `Store.expire`."""
        self._renewer.expire()

    def stat(self, key: str) -> Operation[ObjectInfo]:
        """As `Store.stat`."""
        return self._lane.stat(key)

    find_sum = no_sum

    def list_pages(self, prefix: str, recursive: bool) -> Listing:
        """As `Store.list_pages`, by List Blobs; pages come when they are asked for. What a page repeats of the one before is left out.

        Raises:
            ProtocolError: The server gave a marker twice, so the listing would never end.
        """
        marker: str | None = None
        seen: set[str] = set()
        known: dict[str, ListEntry] = {}
        """What the last page that was not empty held: a prefix may go on behind its end."""
        while True:
            page = yield from self._lane.list_page(prefix, recursive, marker)
            entries = {entry.uri: entry for entry in page.entries}
            fresh = [entry for uri, entry in entries.items() if uri not in known]
            if fresh:
                yield fresh
            known = entries or known
            marker = page.next_marker
            if marker is None:
                return
            note_marker(marker, seen, self.root + prefix)

    def put(self, key: str, data: memoryview, create_only: bool = False) -> Operation[None]:
        """As `Store.put`, by Put Blob."""
        return self._lane.put(key, data, create_only)

    def begin_upload(self, key: str, create_only: bool = False) -> Operation[AzureUpload]:
        """As `Store.begin_upload`, by Put Block and Put Block List."""
        check_key(key, self.root, is_new=True)
        if not key:
            raise NotFoundError("a container is no object: the URI has no key", uri=self.root)
        if create_only:
            # It decides at the end; but nobody sends all parts of an object that is there.
            try:
                yield from self._lane.stat(key)
            except (NotFoundError, PermissionDeniedError):
                pass  # who may not read is told at the end
            else:
                raise AlreadyExistsError("there is such an object already", uri=self.root + key)
        return AzureUpload(self._lane, key, create_only)

    def delete(self, key: str) -> Operation[None]:
        """As `Store.delete`."""
        return self._lane.delete(key)

    def delete_many(self, keys: Sequence[str]) -> Operation[list[S3dlioError | None]]:
        """As `Store.delete_many`, one after the other."""
        found: list[S3dlioError | None] = []
        for key in keys:
            try:
                yield from self._lane.delete(key)
            except S3dlioError as error:
                found.append(error)
            else:
                found.append(None)
        return found

    def copy(self, key: str, source: Store, source_key: str) -> Operation[bool]:
        """As `Store.copy`, by Copy Blob, within one account."""
        if not isinstance(source, AzureStore) or _place(source.spec) != _place(self.spec):
            return False
        if source.root == self.root and source_key == key:
            yield from self._lane.stat(key)
            return True
        yield from self._lane.copy(key, source.root + source_key, source.wire.url(source_key))
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

    def list_containers(self) -> Operation[list[Container]]:
        """Returns the containers of the account; the root is `az://account/`."""
        return self._lane.list_containers()


def list_containers(uri: str) -> Operation[list[Container]]:
    """Returns the operation that lists the containers of an account.

    Args:
        uri: `az://account`, or what begins with that; `az://` for the account that is configured.

    Raises:
        InvalidUriError: Neither `uri` nor the environment names an account.
        ConfigurationError, AuthenticationError, MissingExtraError: As `resolve_container`.
    """
    account = uri.removeprefix("az://").partition("/")[0] or configured_account()
    if not account:
        raise InvalidUriError("az:// needs an account: write az://account, or set AZURE_STORAGE_ACCOUNT", uri=uri)
    # Not one of the registry's stores: what it lists are their roots, which begin with its own.
    return AzureStore(f"az://{account}/").list_containers()


def _place(spec: AzureSpec) -> tuple[str, str, str]:
    return spec.account, spec.scheme, spec.host_header
