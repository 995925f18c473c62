"""The verbs on one object or one listing: get, get_range, put_bytes, stat, exists, list, list_iter.

What they do stands in operations and checks that `awaited.py` uses too, so that both kinds of caller get the same.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, InvalidRangeError, NotFoundError, ObjectChangedError
from ..memory.buffers import as_payload
from ..pool.inline import inline_fetcher
from ..pool.rooms import ViewFetch, new_view_fetch, process_rooms
from ..stores.base import Operation, Store, run_pages
from ..stores.registry import is_file_scheme, locate
from ..types import ListEntry
from ..uri import as_directory
from .globs import compile_pattern
from .perform import Place, perform
from .uploads import put_object, write_object

if TYPE_CHECKING:
    from ..memory.view import BytesView


def get(uri: str) -> BytesView:
    """Returns a whole object. A long one comes in parts side by side, of one version.

    Returns:
        A view of memory that belongs to the caller, shared up to 64 MiB and private above: uint8, 1-D, contiguous, writable. It is
        free when the view and everything derived from it are gone.

    Raises:
        NotFoundError: No such object (a `FileNotFoundError`).
        PermissionDeniedError: The store refuses (a `PermissionError`).
        S3dlioError: What else may happen; see `docs/semantics.md`.
    """
    store, key = locate(uri)
    return inline_fetcher().fetch_whole(store, uri, key)


def get_range(uri: str, offset: int, length: int | None = None) -> BytesView:
    """Returns bytes [offset, offset + length) of an object, clipped at its end; without `length`, to its end.

    `offset` equal to the size, and `length=0`, give an empty view; the object must exist all the same.

    Raises:
        InvalidRangeError: `offset` is negative or beyond the end (a `ValueError`).
        NotFoundError, PermissionDeniedError, S3dlioError: As `get`.
    """
    check_range(uri, offset, length)
    return perform(partial(read_range, offset=offset, length=length), uri)


def check_range(uri: str, offset: int, length: int | None) -> None:
    """Checks the arguments of `get_range`.

    Raises:
        InvalidRangeError: One of them is negative.
    """
    if offset < 0 or (length is not None and length < 0):
        raise InvalidRangeError(f"offset and length cannot be negative: {offset}, {length}", uri=uri)


def read_range(place: Place, offset: int, length: int | None) -> Operation[BytesView]:
    """The operation of `get_range`."""
    uri, store, key = place
    if length != 0:
        end = None if length is None else offset + length
        try:
            fetch = yield new_view_fetch(uri, store.wire, key, start=offset, end=end)
        except InvalidRangeError as error:
            if not (yield from is_at_end(place, offset, error)):
                raise
            return process_rooms().empty_view()
        assert isinstance(fetch, ViewFetch)
        assert fetch.view is not None
        return fetch.view
    yield from look_at_nothing(place, offset)
    return process_rooms().empty_view()


def is_at_end(place: Place, offset: int, error: InvalidRangeError) -> Operation[bool]:
    """Whether a range was refused because it begins where the object ends: then it is empty, and no error.

    HTTP has no empty range: offset == size is refused (416) like one beyond the end, and not every server says the size.
    """
    return error.status is not None and (yield from place.store.stat(place.key)).size == offset


def look_at_nothing(place: Place, offset: int, size: int | None = None, version: str | None = None) -> Operation[None]:
    """Makes sure that there is an object, of this size and version where they are given, and that the empty range at `offset` is in it.

    Raises:
        InvalidRangeError: It is beyond the end.
        NotFoundError: There is no object.
        ObjectChangedError: It is another one.
    """
    found = yield from place.store.stat(place.key)
    if size not in (None, found.size) or version not in (None, found.version):
        raise ObjectChangedError("the object is not of the size and version that were given", uri=place.uri)
    if offset > found.size:
        raise InvalidRangeError(f"the range begins at {offset}, the object has {found.size} bytes", uri=place.uri)


def put_bytes(uri: str, data: Any, *, if_none_match: bool = False) -> None:
    """Writes a whole object from anything with the buffer protocol; it becomes visible complete or not at all.

    Args:
        uri: The object; what is there already is replaced.
        data: It is sent from where it is, in parts where it is longer than `multipart_above_bytes`.
        if_none_match: Whether the object must be new. `docs/backends.md` says which stores see to that themselves.

    Raises:
        AlreadyExistsError: There is one, and `if_none_match` was asked for (a `FileExistsError`).
        TypeError: `data` has no contiguous buffer.
        PermissionDeniedError, S3dlioError: As the store says.
    """
    store, key = locate(uri)
    check_key(uri, key)
    put_object(store, key, as_payload(data), if_none_match)


def write(place: Place, data: Any) -> Operation[None]:
    """Returns the operation that writes a whole object, by one request at a time.

    Raises:
        ConfigurationError: The place is a bucket.
        TypeError: `data` has no contiguous buffer.
    """
    check_key(place.uri, place.key)
    return write_object(place.store, place.key, as_payload(data))


def check_key(uri: str, key: str) -> None:
    """Checks that a URI names an object.

    Raises:
        ConfigurationError: It names a bucket.
    """
    if not key:
        raise ConfigurationError("an object needs a key", uri=uri)


def stat(uri: str) -> dict[str, Any]:
    """Returns the 16 facts of an object: `size` (int), `last_modified` (ISO-8601, UTC), `etag` and the rest; None where unknown.

    Raises:
        NotFoundError: No such object; a prefix is none.
    """
    return perform(look_up, uri)


def look_up(place: Place) -> Operation[dict[str, Any]]:
    """The operation of `stat`."""
    return (yield from place.store.stat(place.key)).as_stat()


def exists(uri: str) -> bool:
    """Whether the object exists. Only not-found is False: every other error is raised."""
    return perform(find, uri)


def find(place: Place) -> Operation[bool]:
    """The operation of `exists`."""
    try:
        yield from place.store.stat(place.key)
    except (NotFoundError, IsADirectoryError):
        return False
    return True


def list(uri: str, recursive: bool = False, pattern: str | re.Pattern[str] | None = None) -> builtins.list[str]:
    """Returns the sorted URIs below `uri`: a raw text prefix on object stores, a directory on file systems.

    Args:
        uri: `s3://bucket/prefix`, `file:///directory`.
        recursive: Whether to descend. Otherwise child prefixes are in the list too, ending in `/`, unless a pattern is given.
        pattern: A glob against the last part of the key, or against the key relative to `uri` if it contains `/`; a compiled regular
            expression is searched in the relative key.
    """
    return sorted(entry.uri for entry in list_iter(uri, recursive, pattern))


def list_iter(
    uri: str, recursive: bool = False, pattern: str | re.Pattern[str] | None = None
) -> Iterator[ListEntry]:
    """Yields what `list` would return, page by page as it arrives, with sizes and versions, in the store's order."""
    store, key = locate(uri)
    select = selection(store, key, uri, pattern)
    for page in run_pages(store.list_pages(key, recursive), inline_fetcher().run):
        yield from select(page)


def selection(
    store: Store, key: str, uri: str, pattern: str | re.Pattern[str] | None
) -> Callable[[Iterable[ListEntry]], Iterable[ListEntry]]:
    """Returns what picks the entries of a page that `pattern` asks for.

    Raises:
        ConfigurationError: The pattern cannot be read.
    """
    matches = compile_pattern(pattern)
    if pattern is None:
        return lambda page: page
    # The relative key begins after the last "/" of a text prefix, and after the directory on a file system.
    base = as_directory(store.root + key) if is_file_scheme(uri) else store.root + key[: key.rfind("/") + 1]
    return lambda page: (entry for entry in page if not entry.is_prefix and matches(entry.uri[len(base) :]))
