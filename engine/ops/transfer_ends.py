"""The two ends of a transfer: where objects are listed and read, and where they are written.

There are two kinds of target: `StoreTarget` writes by the operations of a store, `TreeTarget` writes files below a directory that it never
leaves. Everything here is a job (`pool/jobs.py`): it asks for requests and for work, and does no I/O by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from ..config import settings
from ..errors import InternalError, NotFoundError, S3dlioError, UnsafeNameError
from ..fetch.request import Fetch
from ..pool.helpers import Work
from ..pool.jobs import Job, of_store, read
from ..pool.rooms import ViewFetch
from ..stores.base import Listing, Store, Upload
from ..stores.registry import is_file_scheme
from ..types import ListEntry
from ..uri import MAX_KEY_BYTES
from .safe_tree import OpenFile, SafeTree, Stamp
from .transfer_names import Found, Item, Refused, Shadows, is_up_to_date, path_of, time_ns
from .uploads import part_size, put_whole

if TYPE_CHECKING:
    from ..memory.view import BytesView

_PAGE_ENTRIES: Final = 256
"""Files that a thread looks up at once; a page of an object store has 1000."""


class Source(Protocol):
    """Where objects come from."""

    def next_page(self) -> Job[list[Found] | None]:
        """Returns what is found next; None at the end."""
        ...


class FileSource:
    """Files that `local_walk` finds, looked for by a thread."""

    def __init__(self, found: Iterable[Found]) -> None:
        self._found = iter(found)

    def next_page(self) -> Job[list[Found] | None]:
        """As `Source.next_page`."""
        page: list[Found] = yield Work(lambda: [*islice(self._found, _PAGE_ENTRIES)])
        return page or None


class StoreSource:
    """What a store lists below a prefix."""

    def __init__(self, store: Store, prefix: str, *, recursive: bool) -> None:
        """Lists nothing yet.

        Args:
            store: Where.
            prefix: Of the keys; each is called by what follows it.
            recursive: Whether also those with a `/` behind the prefix.
        """
        self._store = store
        self._prefix = prefix
        self._listing = store.list_pages(prefix, recursive)
        self._has_any = False

    def next_page(self) -> Job[list[Found] | None]:
        """As `Source.next_page`.

        Raises:
            NotFoundError: Nothing at all is below the prefix, not even prefixes.
        """
        page = yield from next_listed(self._listing)
        self._has_any = self._has_any or bool(page)
        if page is None:
            if not self._has_any:
                raise NotFoundError("there is no such object, and nothing below it", uri=self._store.root + self._prefix)
            return None
        return [self._item(entry) for entry in page if entry.size is not None]

    def _item(self, entry: ListEntry) -> Found:
        key = entry.uri.removeprefix(self._store.root)
        name = key.removeprefix(self._prefix)
        assert entry.size is not None
        return Item(entry.uri, self._store, key, name, entry.size, entry.version, entry.last_modified)


def next_listed(listing: Listing) -> Job[list[ListEntry] | None]:
    """Takes a listing to its next page; None at its end."""
    try:
        step = next(listing)
        while isinstance(step, Fetch):
            try:
                done = yield step
            except S3dlioError as error:
                step = listing.throw(error)
            else:
                step = listing.send(done)
    except StopIteration:
        return None
    return step


def read_item(item: Item, start: int = 0, end: int | None = None) -> Job[BytesView]:
    """Reads an object, or bytes [start, end) of it, of exactly the version that was listed."""
    fetch = ViewFetch(None, item.uri, item.store.wire, item.key, start=start, end=end, size=item.size, version=item.version)
    view = yield from read(fetch)
    if len(view) != (item.size if end is None else end) - start:
        raise InternalError("a read ended with another number of bytes than was asked for", uri=item.uri)
    return view


class Sink(Protocol):
    """An object of the target that comes in parts."""

    part_bytes: int
    """Of each part but the last."""
    is_sequential: bool
    """Whether parts must come one after the other."""

    def put_part(self, number: int, offset: int, data: memoryview, is_last: bool) -> Job[None]:
        """Writes part `number`, whose first byte is byte `offset` of the object."""
        ...

    def complete(self) -> Job[None]:
        """Makes the object seen."""
        ...

    def abort(self) -> Job[None]:
        """Throws away what was written."""
        ...


class Target(Protocol):
    """Where objects go."""

    split_above_bytes: int
    """What is longer goes by `begin`."""

    def prepare(self) -> Job[None]:
        """Does what comes before the first object."""
        ...

    def arrange(self, page: list[Found]) -> Iterable[Found]:
        """Says which of the objects listed next are to be transferred, and which cannot be."""
        ...

    def arrange_rest(self) -> Iterable[Found]:
        """The same of those that it kept back, after the last page."""
        ...

    def has(self, item: Item) -> Job[bool]:
        """Whether the object is there already."""
        ...

    def copy(self, item: Item) -> Job[bool]:
        """Copies an object without its bytes coming by this process; returns whether that was possible."""
        ...

    def put(self, item: Item, data: memoryview) -> Job[None]:
        """Writes a whole object."""
        ...

    def begin(self, item: Item) -> Job[Sink]:
        """Begins an object that comes in parts."""
        ...

    def finish(self) -> Job[None]:
        """Does what comes after the last object."""
        ...

    def close(self) -> None:
        """Lets go of what it holds, whatever has happened."""
        ...


class StoreTarget:
    """Keys of a store."""

    def __init__(
        self, store: Store, key_of: Callable[[str], str], prefix: str, *, create_bucket: bool, skip_existing: bool
    ) -> None:
        """Asks for nothing yet.

        Args:
            store: Where.
            key_of: The key that a name of the source becomes.
            prefix: What all these keys begin with.
            create_bucket: Whether the bucket is made first; one that is there already is no error.
            skip_existing: Whether what is there is to be known.
        """
        self.split_above_bytes = min(settings().multipart_above_bytes, store.max_put_bytes)
        self._store = store
        self._key_of = key_of
        self._prefix = prefix
        self._create_bucket = create_bucket
        self._skip_existing = skip_existing
        self._there: dict[str, ListEntry] = {}

    def prepare(self) -> Job[None]:
        """As `Target.prepare`: makes the bucket, and lists what is there."""
        if self._create_bucket:
            yield from of_store(self._store, self._store.create_bucket())
        if self._skip_existing:
            listing = self._store.list_pages(self._prefix, True)
            while (page := (yield from next_listed(listing))) is not None:
                self._there.update((entry.uri.removeprefix(self._store.root), entry) for entry in page)

    def arrange(self, page: list[Found]) -> Iterator[Found]:
        """As `Target.arrange`."""
        for found in page:
            yield found if isinstance(found, Refused) else self._checked(found)

    def _checked(self, item: Item) -> Found:
        key = self._key_of(item.name)
        if is_file_scheme(self._store.root):  # `direct://`: a path, as long as the file system likes
            return self._checked_path(item, key.removeprefix(self._prefix))
        num_bytes = len(key.encode("utf-8", "surrogatepass"))
        if not 1 <= num_bytes <= MAX_KEY_BYTES:
            why = f"its key would have {num_bytes:,} bytes; 1 to {MAX_KEY_BYTES} are possible"
            return Refused(item.uri, UnsafeNameError(why, uri=item.uri))
        return item

    def _checked_path(self, item: Item, name: str) -> Found:
        try:
            if name:  # otherwise the caller named the file
                _path_of(name, item)
        except UnsafeNameError as error:
            return Refused(item.uri, error.with_traceback(None))
        return item

    def arrange_rest(self) -> Iterable[Found]:
        """As `Target.arrange_rest`."""
        return ()

    def has(self, item: Item) -> Job[bool]:
        """As `Target.has`, by what was listed at the beginning."""
        yield from ()
        entry = self._there.get(self._key_of(item.name))
        return entry is not None and is_up_to_date(item, entry.size, entry.last_modified)

    def copy(self, item: Item) -> Job[bool]:
        """As `Target.copy`."""
        if is_file_scheme(item.uri) or item.store.wire.is_local != self._store.wire.is_local:
            return False  # a copy is of no version in particular, and a file may change meanwhile
        return (yield from of_store(self._store, self._store.copy(self._key_of(item.name), item.store, item.key)))

    def put(self, item: Item, data: memoryview) -> Job[None]:
        """As `Target.put`."""
        key, store = self._key_of(item.name), self._store
        yield from of_store(store, put_whole(store, key, data) if data or not key.endswith("/") else store.make_prefix(key))

    def begin(self, item: Item) -> Job[Sink]:
        """As `Target.begin`."""
        upload = yield from of_store(self._store, self._store.begin_upload(self._key_of(item.name)))
        return _StoreSink(self._store, upload, item.size)

    def finish(self) -> Job[None]:
        """As `Target.finish`."""
        yield from ()

    def close(self) -> None:
        """As `Target.close`."""


class _StoreSink:
    def __init__(self, store: Store, upload: Upload, size: int) -> None:
        self.part_bytes = part_size(size, upload)
        self.is_sequential = upload.is_sequential
        self._store = store
        self._upload = upload

    def put_part(self, number: int, offset: int, data: memoryview, is_last: bool) -> Job[None]:
        yield from of_store(self._store, self._upload.put_part(number, data, is_last))

    def complete(self) -> Job[None]:
        yield from of_store(self._store, self._upload.complete())

    def abort(self) -> Job[None]:
        yield from of_store(self._store, self._upload.abort())


class TreeTarget:
    """Files below a directory, each with the time and the version of its object."""

    def __init__(self, root: str, file_name: str | None = None) -> None:
        """Asks for nothing yet.

        Args:
            root: A path; the directory is made if it is missing.
            file_name: The name of the one file that comes; None where each is called as in the source.
        """
        self.split_above_bytes = settings().split_above_bytes
        self._root = root
        self._opened: SafeTree | None = None
        self._file_name = file_name
        self._shadows = Shadows()

    def prepare(self) -> Job[None]:
        """As `Target.prepare`: opens the directory."""
        yield Work(self._open)

    def _open(self) -> None:
        # Noted by the thread itself, so that `close` knows of it whatever comes of the job.
        self._opened = SafeTree(self._root)

    @property
    def _tree(self) -> SafeTree:
        assert self._opened is not None
        return self._opened

    def arrange(self, page: list[Found]) -> Iterator[Found]:
        """As `Target.arrange`: refuses what would leave the directory, and what is a directory of others."""
        for found in page:
            if isinstance(found, Refused):
                yield found
                continue
            try:
                self._path(found)
            except UnsafeNameError as error:
                yield Refused(found.uri, error.with_traceback(None))
            else:
                yield from self._shadows.add(found)

    def arrange_rest(self) -> Iterator[Found]:
        """As `Target.arrange_rest`."""
        return self._shadows.end()

    def _path(self, item: Item) -> tuple[str, ...]:
        if self._file_name is not None:
            return path_of(self._file_name, item.uri)
        return _path_of(item.name, item)

    def has(self, item: Item) -> Job[bool]:
        """As `Target.has`: by size, time of change and version."""
        if item.name.endswith("/"):
            return False
        found: bool = yield Work(partial(self._tree.holds, self._path(item), item.size, _stamp(item)))
        return found

    def copy(self, item: Item) -> Job[bool]:
        """As `Target.copy`: by the way of this process. A marker of a directory needs no bytes, though."""
        if not item.name.endswith("/"):
            return False
        yield Work(partial(self._tree.make_directory, self._path(item)))
        return True

    def put(self, item: Item, data: memoryview) -> Job[None]:
        """As `Target.put`."""
        yield Work(partial(self._tree.put, self._path(item), data, _stamp(item)))

    def begin(self, item: Item) -> Job[Sink]:
        """As `Target.begin`."""
        file: OpenFile = yield Work(partial(self._tree.begin, self._path(item)))
        return _FileSink(file, _stamp(item))

    def finish(self) -> Job[None]:
        """As `Target.finish`."""
        yield Work(self._tree.sync)

    def close(self) -> None:
        """As `Target.close`: what is not committed is removed."""
        if self._opened is not None:
            self._opened.close()


class _FileSink:
    is_sequential = False

    def __init__(self, file: OpenFile, stamp: Stamp) -> None:
        self.part_bytes = settings().part_bytes
        self._file = file
        self._stamp = stamp

    def put_part(self, number: int, offset: int, data: memoryview, is_last: bool) -> Job[None]:
        yield Work(partial(self._file.write, offset, data))

    def complete(self) -> Job[None]:
        yield Work(partial(self._file.commit, self._stamp))

    def abort(self) -> Job[None]:
        yield Work(self._file.discard)


def _path_of(name: str, item: Item) -> tuple[str, ...]:
    """As `path_of`; an empty object whose name ends in `/` marks a directory."""
    is_marker = name.endswith("/") and item.size == 0
    return path_of(name[:-1] if is_marker else name, item.uri)


def _stamp(item: Item) -> Stamp:
    return Stamp(time_ns(item.last_modified), item.version)
