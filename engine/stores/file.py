"""`file://`: local files, read by `preadv` straight into the slot.

A version is `size-mtime_ns-inode`, taken when the file is opened and compared again after the read: a file that changes under a read is
`ObjectChangedError`, never a mixture. Writes go to a temporary file beside the target, then fsync and rename, so that a reader sees the
old file or the new one. Directories named in a URI are directories, not text prefixes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as stat_module
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec

from ..errors import (
    InvalidUriError,
    IsADirectoryUriError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    RequestRejectedError,
    S3dlioError,
    UnsupportedError,
)
from ..fetch.request import Fetch, State
from ..types import ListEntry, ObjectInfo
from .base import Listing, at_once, check_local_range

_PAGE_ENTRIES: Final = 1000
_CLASSES: Final[dict[int, type[S3dlioError]]] = {
    errno.ENOENT: NotFoundError,
    errno.ENOTDIR: NotFoundError,
    errno.EACCES: PermissionDeniedError,
    errno.EPERM: PermissionDeniedError,
    errno.EISDIR: IsADirectoryUriError,
}


_PIECE_BYTES: Final = 8 << 20
"""What is read at once: 0.1 s of a slow disk."""


class FileSpec(msgspec.Struct, frozen=True, array_like=True, tag="file"):
    """What a worker needs to read local files: nothing but the root of their URIs."""

    root: str = "file://"


class FileWire:
    """Reads files into slots."""

    is_local = True

    def use(self, spec: FileSpec) -> None:
        """There is nothing in a spec of files that changes."""

    def read(self, fetch: Fetch, grant: Callable[[Fetch], memoryview | None]) -> None:
        """As `LocalWire.read`.

        Raises:
            NotFoundError, PermissionDeniedError, IsADirectoryUriError: As the file system says.
            ObjectChangedError: The file is not the pinned version, or changed while it was read.
            InvalidRangeError: The range begins beyond the end.
        """
        with _errors_named(fetch.uri):
            # O_NONBLOCK: opening a FIFO must not wait for its writer.
            fd = os.open(fetch.key, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                self._read(fd, fetch, grant)
            finally:
                os.close(fd)

    def _read(self, fd: int, fetch: Fetch, grant: Callable[[Fetch], memoryview | None]) -> None:
        found = os.fstat(fd)
        _check_regular(found, fetch.uri)
        version = _version(found)
        if fetch.version not in (None, version) or fetch.size not in (None, found.st_size):
            raise ObjectChangedError(f"the file is not the version {fetch.version or fetch.size} that was listed", uri=fetch.uri)
        fetch.end = check_local_range(found.st_size, fetch.start, fetch.end, fetch.uri)
        fetch.size, fetch.version = found.st_size, version
        num = fetch.missing_space
        if num > (0 if fetch.out is None else len(fetch.out)):
            fetch.out = grant(fetch)
            if fetch.out is None:
                fetch.state = State.WANTS_SPACE
                return
        begin = fetch.received
        stop = min(num, begin + _PIECE_BYTES)
        if begin < stop:
            assert fetch.out is not None
            _fill(fd, fetch.out[begin:stop], fetch.start + begin)
            if _version(os.fstat(fd)) != version:
                raise ObjectChangedError("the file changed while it was read", uri=fetch.uri)
        fetch.received = stop


def _fill(fd: int, out: memoryview, offset: int) -> None:
    """Reads exactly `len(out)` bytes from `offset`; the kernel may return fewer than asked (2 GiB at most)."""
    done = 0
    while done < len(out):
        num = os.preadv(fd, [out[done:]], offset + done)
        if not num:
            raise ObjectChangedError(f"the file ended at byte {offset + done} while it was read")
        done += num


class FileStore:
    """The local file system as a store."""

    root = "file://"

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
        with _errors_named(uri):
            found = os.stat(key)
        _check_regular(found, uri)
        version = _version(found)
        return ObjectInfo(
            uri=uri, size=found.st_size, version=version, etag=version, last_modified=_iso(found), storage_class="STANDARD"
        )

    def list_pages(self, prefix: str, recursive: bool) -> Listing:
        """As `Store.list_pages`: sorted within each directory; symbolic links to directories are listed but not followed."""
        page: list[ListEntry] = []
        with _errors_named(self.root + prefix):
            for entry in self._walk(prefix, recursive):
                page.append(entry)
                if len(page) == _PAGE_ENTRIES:
                    yield page
                    page = []
        if page:
            yield page

    def _walk(self, path: str, recursive: bool) -> Iterator[ListEntry]:
        if not os.path.isdir(path):
            if os.path.isfile(path):
                yield self._entry(path, os.stat(path))
            return
        with os.scandir(path) as found:
            children = sorted(found, key=lambda child: child.name)
        base = path if path.endswith("/") else path + "/"
        for child in children:
            if child.is_dir():
                if not recursive:
                    yield ListEntry(f"{self.root}{base}{child.name}/")
                elif not child.is_symlink():
                    yield from self._walk(base + child.name, recursive)
            elif child.is_file():
                with contextlib.suppress(FileNotFoundError):  # deleted since scandir
                    yield self._entry(base + child.name, child.stat())

    def _entry(self, path: str, found: os.stat_result) -> ListEntry:
        return ListEntry(self.root + path, found.st_size, _version(found), _iso(found))

    @at_once
    def put(self, key: str, data: memoryview) -> None:
        """As `Store.put`; parents are created."""
        if key.endswith("/"):
            raise InvalidUriError("a file's URI must not end in /", uri=self.root + key)
        # Here, so that workers, who only read, need not import it.
        from tempfile import mkstemp

        folder, name = os.path.split(key)
        with _errors_named(self.root + key):
            os.makedirs(folder or "/", exist_ok=True)
            fd, temporary = mkstemp(prefix=f".{name[:100]}.", suffix=".part", dir=folder or "/")
            try:
                with open(fd, "wb") as file:
                    os.fchmod(fd, 0o666 & ~_umask())
                    file.write(data)
                    file.flush()
                    os.fsync(fd)
                os.rename(temporary, key)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
            _sync_directory(folder or "/")

    @at_once
    def delete(self, key: str) -> None:
        """As `Store.delete`."""
        with _errors_named(self.root + key), contextlib.suppress(FileNotFoundError):
            os.unlink(key)


def _check_regular(found: os.stat_result, uri: str) -> None:
    if stat_module.S_ISDIR(found.st_mode):
        raise IsADirectoryUriError("this is a directory, not an object", uri=uri)
    if not stat_module.S_ISREG(found.st_mode):
        raise UnsupportedError("this is a device, a socket or a pipe, not a file", uri=uri)


def _version(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"


def _iso(found: os.stat_result) -> str:
    return datetime.fromtimestamp(found.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _umask() -> int:
    """Returns the umask without changing it, as `os.umask` would for all threads."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        return next((int(line.split()[1], 8) for line in lines if line.startswith("Umask:")), 0o022)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _errors_named(uri: str) -> Iterator[None]:
    """Maps the file system's errors onto the tree."""
    try:
        yield
    except S3dlioError:
        raise
    except OSError as error:
        cls = _CLASSES.get(error.errno or 0, RequestRejectedError)
        raise cls(os.strerror(error.errno) if error.errno else str(error), uri=uri) from error
