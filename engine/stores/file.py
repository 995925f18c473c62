"""`file://`: local files. What is looked up, listed, written and deleted; they are read by `file_wire.py`, written by `file_write.py`.

Directories named in a URI are directories, not text prefixes: a key that ends in `/` is one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as stat_module
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from ..errors import InternalError, S3dlioError, UnsupportedError
from ..types import ListEntry, ObjectInfo, PendingUpload
from .base import Listing, Store, at_once, no_sum
from .file_left import find_names
from .file_wire import FileSpec, FileWire, check_regular, errors_named, iso_of, version_of
from .file_write import NewFile, copy_file, is_temporary, make_directories

_PAGE_ENTRIES: Final = 1000


class FileStore:
    """The local file system as a store."""

    root = "file://"
    max_put_bytes = sys.maxsize
    max_delete_keys = 1000
    wire: Any
    spec: Any

    def __init__(self) -> None:
        self.wire = FileWire()
        self.spec = FileSpec()

    def renew(self) -> bool:
        """There is nothing that expires."""
        return False

    def expire(self) -> None:
        """There is nothing that expires."""

    @at_once
    def stat(self, key: str) -> ObjectInfo:
        """As `Store.stat`."""
        uri = self.root + key
        with errors_named(uri):
            found = os.stat(key)
        check_regular(found, uri)
        version = version_of(found)
        return ObjectInfo(
            uri=uri, size=found.st_size, version=version, etag=version, last_modified=iso_of(found), storage_class="STANDARD"
        )

    find_sum = no_sum

    def list_pages(self, prefix: str, recursive: bool) -> Listing:
        """As `Store.list_pages`: sorted within each directory; symbolic links to directories are listed but not followed."""
        page: list[ListEntry] = []
        with errors_named(self.root + prefix):
            for entry in self._walk(prefix, recursive):
                page.append(entry)
                if len(page) == _PAGE_ENTRIES:
                    yield page
                    page = []
        if page:
            yield page

    def _walk(self, path: str, recursive: bool) -> Iterator[ListEntry]:
        found = _look(lambda: os.stat(path))
        if found is None or not stat_module.S_ISDIR(found.st_mode):
            if found is not None and stat_module.S_ISREG(found.st_mode):
                yield self._entry(path, found)
            return
        # A stack of its own: a path may have 2 000 directories, which is more than Python calls into each other.
        under_way = [_children(path)]
        while under_way:
            base, children = under_way[-1]
            child = next(children, None)
            if child is None:
                under_way.pop()
            elif child.is_dir(follow_symlinks=False):
                if recursive:
                    under_way.append(_children(base + child.name))
                else:
                    yield self._child_prefix(base, child)
            elif (found := _look(child.stat)) is None:
                continue
            elif stat_module.S_ISREG(found.st_mode) and not is_temporary(child.name):
                yield self._entry(base + child.name, found)
            elif stat_module.S_ISDIR(found.st_mode) and not recursive:
                yield self._child_prefix(base, child)

    def _child_prefix(self, base: str, child: os.DirEntry[str]) -> ListEntry:
        return ListEntry(f"{self.root}{base}{child.name}/")

    def _entry(self, path: str, found: os.stat_result) -> ListEntry:
        return ListEntry(self.root + path, found.st_size, version_of(found), iso_of(found))

    def new_file(self, key: str, create_only: bool) -> NewFile:
        """Begins a file that nobody sees before it is committed."""
        return NewFile(key, create_only)

    @at_once
    def put(self, key: str, data: memoryview, create_only: bool = False) -> None:
        """As `Store.put`; parents are created."""
        with errors_named(self.root + key), self.new_file(key, create_only) as new:
            new.write_at(data, 0)
            new.commit(len(data))

    @at_once
    def begin_upload(self, key: str, create_only: bool = False) -> FileUpload:
        """As `Store.begin_upload`; parents are created."""
        with errors_named(self.root + key):
            return FileUpload(self.new_file(key, create_only), self.root + key)

    @at_once
    def delete(self, key: str) -> None:
        """As `Store.delete`; a key that ends in `/` is a directory, which must be empty."""
        self._delete(key)

    @at_once
    def delete_many(self, keys: Sequence[str]) -> list[S3dlioError | None]:
        """As `Store.delete_many`, one after the other."""
        return [self._refusal(key) for key in keys]

    def _refusal(self, key: str) -> S3dlioError | None:
        try:
            self._delete(key)
        except S3dlioError as error:
            return error
        return None

    def _delete(self, key: str) -> None:
        with errors_named(self.root + key), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if key.endswith("/"):
                os.rmdir(key)
            else:
                os.unlink(key)

    @at_once
    def copy(self, key: str, source: Store, source_key: str) -> bool:
        """As `Store.copy`, from any path of this machine, within the kernel."""
        if type(source) is not FileStore:
            return False
        uri = self.root + source_key
        with errors_named(uri):
            fd = os.open(source_key, FileWire.flags)
        try:
            found = os.fstat(fd)
            check_regular(found, uri)
            with errors_named(self.root + key), self.new_file(key, create_only=False) as new:
                copy_file(fd, found, uri, new)
        finally:
            os.close(fd)
        return True

    @at_once
    def make_prefix(self, key: str) -> None:
        """As `Store.make_prefix`: a directory, with those above it."""
        with errors_named(self.root + key):
            make_directories(key)

    @at_once
    def list_uploads(self, prefix: str) -> list[PendingUpload]:
        """Returns what writers have left below a directory, or what is being written there."""
        with errors_named(self.root + prefix):
            return [*find_names(self.root, prefix)]

    @at_once
    def abort_upload(self, upload: PendingUpload) -> None:
        """Removes what a writer has left; one that is gone is no error."""
        with errors_named(upload.uri), contextlib.suppress(FileNotFoundError):
            os.unlink(upload.key)

    @at_once
    def create_bucket(self) -> None:
        """As `Store.create_bucket`."""
        raise UnsupportedError("file systems have no buckets; mkdir makes directories", uri=self.root)

    @at_once
    def delete_bucket(self) -> None:
        """As `Store.delete_bucket`."""
        raise UnsupportedError("file systems have no buckets; delete a directory by its path", uri=self.root)


class FileUpload:
    """A file that comes in parts, each behind the one before."""

    max_parts = sys.maxsize
    is_sequential = True

    def __init__(self, new: NewFile, uri: str) -> None:
        self._new = new
        self._uri = uri
        self._ends: list[int] = []
        """By part: where it ends in the file."""
        self.min_part_bytes = new.block_bytes

    @at_once
    def put_part(self, number: int, data: memoryview, is_last: bool) -> None:
        """As `Upload.put_part`; the last one that was sent may come again."""
        if number not in (len(self._ends), len(self._ends) - 1):
            raise InternalError(f"part {number} came, and part {len(self._ends)} is the next", uri=self._uri)
        del self._ends[number:]
        offset = self._ends[-1] if self._ends else 0
        with errors_named(self._uri):
            self._new.write_at(data, offset)
        self._ends.append(offset + len(data))

    @at_once
    def complete(self) -> None:
        """As `Upload.complete`."""
        with errors_named(self._uri), self._new as new:
            new.commit(self._ends[-1] if self._ends else 0)

    @at_once
    def abort(self) -> None:
        """As `Upload.abort`."""
        with errors_named(self._uri):
            self._new.close()


def _look(stat: Callable[[], os.stat_result]) -> os.stat_result | None:
    """Returns what a name leads to; None where that is nothing, or the name has gone since it was seen."""
    try:
        return stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
    return None


def _children(path: str) -> tuple[str, Iterator[os.DirEntry[str]]]:
    """Returns what paths below a directory begin with, and what it holds, sorted; nothing where it has gone since it was seen."""
    base = path if path.endswith("/") else path + "/"
    try:
        with os.scandir(path) as found:
            return base, iter(sorted(found, key=lambda child: child.name))
    except (FileNotFoundError, NotADirectoryError):
        return base, iter(())
