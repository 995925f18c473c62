"""`delete`: one object by its exact name, or, with `recursive=True`, all below a prefix or all that a glob matches.

Rules, since what is deleted does not come back:

* Without `recursive` a URI is raw text and names one object. No character of it stands for others, so whatever a listing gave can be
  deleted, and nothing else is. A URI that ends in `/` is an empty directory, or the marker object of a prefix with nothing below it.
* With `recursive`, `prefix/run1` is that object and what lies below `prefix/run1/`, as a directory would be; never `prefix/run10`.
* With `recursive`, a `*` in the last segment makes that one a glob, as in `rm -r run-*`: objects of this level that match are deleted, and
  prefixes that match with all below them. `[*]` is a star that is meant, and with a `/` at the end all of it is meant. In an earlier
  segment a star would be taken literally, and nothing be deleted: that is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from ..errors import ConfigurationError, NotFoundError, RequestRejectedError, S3dlioError
from ..fetch.request import Fetch
from ..pool.inline import inline_fetcher
from ..stores.base import GivenUp, Listing, Operation, run_pages
from ..stores.registry import is_file_scheme
from ..text import clean
from ..types import ListEntry
from ..uri import as_directory
from .count_bar import CountBar
from .globs import compile_pattern
from .objects import check_key
from .perform import Place, Todo, perform, perform_many, place_of
from .trees import children, remove_tree

T = TypeVar("T")

MAX_IN_FLIGHT: Final = 16
"""Requests for many deletions at once: of 1000 keys each, more than a bucket of S3 takes per second. Source: "Performance guidelines"."""
_SHOWN: Final = 5


def delete(uri: str, recursive: bool = False, *, progress: bool = False) -> None:
    """Deletes an object; a missing one is no error. With `recursive`, deletes all below it too.

    Args:
        uri: The object's exact name; one that ends in `/` is an empty directory, or a marker object with nothing below it. With
            `recursive` a directory, or a prefix that is taken for one (`s3://bucket/run1` never stands for `run10`), and a `*` in the last
            segment makes that a glob: `s3://bucket/run-*`. `s3://bucket/` is all that the bucket holds.
        recursive: Whether what lies below is deleted too; many objects by one request where the store can.
        progress: Whether a line on standard error counts.

    Raises:
        ConfigurationError: A bucket without `recursive`; a URI with a `*` in its last segment that names no object, without `recursive`;
            one with a `*` before its last segment, with `recursive`.
        RequestRejectedError: There is something below `uri/`, and `recursive` was not asked for.
        S3dlioError: Of many objects, the class of the first error; its text counts them and lists the first few. All were tried.
    """
    if not recursive:
        perform(delete_one, uri)
        return
    place = place_of(uri)
    check_stars(place)
    with Removal(uri, progress=progress) as removal:
        if is_file_scheme(uri):
            remove_trees(place, removal)
        else:
            perform_many(_batches(place), MAX_IN_FLIGHT, removal.note)


def _batches(place: Place) -> Iterator[Todo]:
    batches = Batches(place)
    for page in run_pages(doomed(place), inline_fetcher().run):
        yield from batches.add(page)
    yield from batches.rest()


class Removal:
    """What became of many objects: a context that raises at its end what went wrong."""

    def __init__(self, uri: str, *, progress: bool) -> None:
        self._uri = uri
        self._bar = CountBar("deleted", is_wanted=progress)
        self._num = 0
        self._num_failed = 0
        self._first: list[S3dlioError] = []
        self.is_wanted = True
        """Set to False where nobody waits any more: `note_one` then raises `GivenUp` instead of having the next object deleted."""

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.__exit__(kind, error, trace)
        if error is None and self._first:
            raise self._summary()

    def note(self, _number: int, results: list[S3dlioError | None]) -> None:
        """Takes what became of one batch; an `OnEnd`."""
        for error in results:
            self.note_one(error)

    def note_one(self, error: S3dlioError | None) -> None:
        """Takes what became of one object.

        Raises:
            GivenUp: The caller is gone.
        """
        if not self.is_wanted:
            raise GivenUp
        self._num += 1
        if error is None:
            self._bar.add(1)
            return
        self._num_failed += 1
        if len(self._first) < _SHOWN:
            self._first.append(error)

    def _summary(self) -> S3dlioError:
        first = self._first[0]
        if self._num == 1:
            return first
        lines = [f"{clean(error.uri or '')}: {error.message}" for error in self._first]
        more = self._num_failed - len(lines)
        if more:
            lines.append(f"and {more} more")
        text = f"{self._num_failed} of {self._num} objects were not deleted: {'; '.join(lines)}"
        return type(first)(text, uri=self._uri, attempts=first.attempts, status=first.status, request_id=first.request_id)


# One object.


def delete_one(place: Place) -> Operation[None]:
    """The operation of `delete` without `recursive`."""
    uri, store, key = place
    check_key(uri, key)
    if "*" in key[key.rfind("/") + 1 :]:
        yield from _check_star(place)
    elif key.endswith("/") and not is_file_scheme(uri):
        yield from _check_empty(place)
    yield from store.delete(key)


def _check_empty(place: Place) -> Operation[None]:
    uri, store, key = place
    if (yield from _any(store.list_pages(key, recursive=False), lambda entry: entry.uri != store.root + key)):
        raise RequestRejectedError("there are objects below this; recursive=True deletes them too", uri=uri)


def _check_star(place: Place) -> Operation[None]:
    try:
        yield from place.store.stat(place.key)
    except NotFoundError:
        raise ConfigurationError(
            "no object has this name; recursive=True takes it for a pattern, and deletes all that match", uri=place.uri
        ) from None


# Many objects.


def check_stars(place: Place) -> None:
    """Refuses a URI with a star where it stands for nothing.

    Raises:
        ConfigurationError: It has one before its last segment, and no `/` at its end, by which all of it is meant as it stands.
    """
    parent, _, name = place.key.rpartition("/")
    if name and "*" in parent:
        raise ConfigurationError(
            "only in the last segment a * stands for others; list finds what a longer pattern matches, and a / at the end takes all of it "
            "as it stands",
            uri=place.uri,
        )


def remove_trees(place: Place, removal: Removal) -> None:
    """Deletes directories and files of a file system, by a path or a glob of its last segment."""
    root, path = place.store.root, place.key
    parent, _, name = path.rpartition("/")
    if "*" not in name:
        remove_tree(root, path, removal.note_one)
        return
    matches = compile_pattern(name)
    for child in children(parent or "/"):
        if matches(child):
            remove_tree(root, f"{parent}/{child}", removal.note_one)


def doomed(place: Place) -> Listing:
    """Lists what `delete` with `recursive` deletes from an object store."""
    _, store, key = place
    parent, name = key[: key.rfind("/") + 1], key[key.rfind("/") + 1 :]
    if "*" in name:
        # What stands before the first special character is all that the store can look for.
        literal = next(index for index, char in enumerate(name) if char in "*?[")
        matches = compile_pattern(name)
        prefixes: list[str] = []

        def pick(page: list[ListEntry]) -> list[ListEntry]:
            found = [entry for entry in page if matches(entry.uri[len(store.root) + len(parent) :].removesuffix("/"))]
            prefixes.extend(entry.uri[len(store.root) :] for entry in found if entry.is_prefix)
            return [entry for entry in found if not entry.is_prefix]

        yield from _changed(store.list_pages(parent + name[:literal], recursive=False), pick)
        for prefix in prefixes:
            yield from store.list_pages(prefix, recursive=True)
        return
    if name:
        yield [ListEntry(store.root + key, 0)]
    yield from store.list_pages(as_directory(key) if key else "", recursive=True)


class Batches:
    """Cuts a listing into requests for as many deletions as a store takes at once."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._keys: list[str] = []

    def add(self, page: Iterable[ListEntry]) -> Iterator[Todo]:
        """Takes a page; yields what is full."""
        store = self._place.store
        self._keys += [entry.uri[len(store.root) :] for entry in page]
        while len(self._keys) >= store.max_delete_keys:
            batch, self._keys = self._keys[: store.max_delete_keys], self._keys[store.max_delete_keys :]
            yield self._place.uri, partial(delete_batch, keys=batch)

    def rest(self) -> Iterator[Todo]:
        """Yields what is left."""
        if self._keys:
            yield self._place.uri, partial(delete_batch, keys=self._keys)


def delete_batch(place: Place, keys: Sequence[str]) -> Operation[list[S3dlioError | None]]:
    """Deletes objects by one request; returns for each its error, named, or None."""
    store = place.store
    errors: Sequence[S3dlioError | None]
    try:
        errors = yield from store.delete_many(keys)
    except S3dlioError as error:
        errors = [type(error)(error.message, status=error.status, request_id=error.request_id) for _ in keys]
    for key, refusal in zip(keys, errors, strict=True):
        if refusal is not None:
            refusal.uri = store.root + key
    return [*errors]


# Listings within operations.


def _changed(listing: Listing, change: Callable[[list[ListEntry]], list[ListEntry]]) -> Listing:
    """Passes a listing on, with its pages changed."""
    step = _move(listing, None)
    while step is not None:
        done: Any = None
        if isinstance(step, Fetch):
            try:
                done = yield step
            except S3dlioError as error:
                done = error
        else:
            yield change(step)
        step = _move(listing, done)


def _any(listing: Listing, test: Callable[[ListEntry], bool]) -> Operation[bool]:
    """Whether there is an entry in a listing for which `test` holds; lists as far as that takes."""
    step = _move(listing, None)
    while step is not None:
        done: Any = None
        if isinstance(step, Fetch):
            try:
                done = yield step
            except S3dlioError as error:
                done = error
        elif any(map(test, step)):
            return True
        step = _move(listing, done)
    return False


def _move(listing: Generator[T, Any, None], done: Any) -> T | None:
    try:
        return listing.throw(done) if isinstance(done, S3dlioError) else listing.send(done)
    except StopIteration:
        return None
