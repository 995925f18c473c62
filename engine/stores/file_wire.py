"""The half of `file://` that workers run: files are read by `preadv` straight into the slot.

A version is `size-mtime_ns-inode`, taken when the file is opened and compared again after the read: a file that changes under a read is
`ObjectChangedError`, never a mixture. What files are written by, and looked at, stands in `file.py`.
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
    AlreadyExistsError,
    IsADirectoryUriError,
    NoSpaceError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    RequestRejectedError,
    S3dlioError,
    UnsupportedError,
)
from ..fetch.request import Fetch, State
from .base import check_local_range

_CLASSES: Final[dict[int, type[S3dlioError]]] = {
    errno.ENOENT: NotFoundError,
    errno.ENOTDIR: NotFoundError,
    errno.EACCES: PermissionDeniedError,
    errno.EPERM: PermissionDeniedError,
    errno.EROFS: PermissionDeniedError,
    errno.EISDIR: IsADirectoryUriError,
    errno.EEXIST: AlreadyExistsError,
    errno.ENOSPC: NoSpaceError,
    errno.EDQUOT: NoSpaceError,
    errno.EFBIG: NoSpaceError,
    errno.ENXIO: UnsupportedError,  # a socket
}
_FIRST_S: Final = -62_135_596_800
_LAST_S: Final = 253_402_300_799
"""The beginning of year 1 and the end of 9999, which is all that `datetime` knows."""
_PIECE_BYTES: Final = 8 << 20
"""What is read at once: 0.1 s of a slow disk."""


class FileSpec(msgspec.Struct, frozen=True, array_like=True, tag="file"):
    """What a worker needs to read local files: nothing but the root of their URIs."""

    root: str = "file://"


class DirectSpec(msgspec.Struct, frozen=True, array_like=True, tag="direct"):
    """What it needs to read them past the page cache. Here, since `direct.py` is for those who use it."""

    root: str = "direct://"


class FileWire:
    """Reads files into slots."""

    is_local = True
    # O_NONBLOCK: opening a FIFO must not wait for its writer.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

    def use(self, spec: FileSpec) -> None:
        """There is nothing in a spec of files that changes."""

    def read(self, fetch: Fetch, grant: Callable[[Fetch], memoryview | None]) -> None:
        """As `LocalWire.read`.

        Raises:
            NotFoundError, PermissionDeniedError, IsADirectoryUriError: As the file system says.
            ObjectChangedError: The file is not the pinned version, or changed while it was read.
            InvalidRangeError: The range begins beyond the end.
            UnsupportedError: It is no file, or does not tell its size.
        """
        try:
            fd = self.open(fetch)
            try:
                self._read(fd, fetch, grant)
            finally:
                os.close(fd)
        except S3dlioError as error:
            error.uri = error.uri or fetch.uri
            raise
        except OSError as error:
            raise named(error, fetch.uri) from error

    def open(self, fetch: Fetch) -> int:
        """Returns the file of a request, open for reading."""
        return os.open(fetch.key, self.flags)

    def fill(self, fd: int, fetch: Fetch, begin: int, stop: int) -> None:
        """Reads exactly the bytes [begin, stop) of what the request wants, into their place in its `out`.

        Raises:
            ObjectChangedError: The file has ended before.
        """
        assert fetch.out is not None
        read_exactly(fd, fetch.out[begin:stop], fetch.start + begin)

    def check_empty(self, fd: int, found: os.stat_result, uri: str) -> None:
        """As the function `check_empty`."""
        check_empty(fd, found, uri)

    def _read(self, fd: int, fetch: Fetch, grant: Callable[[Fetch], memoryview | None]) -> None:
        found = os.fstat(fd)
        check_regular(found, fetch.uri)
        size, version = found.st_size, version_of(found)
        if fetch.version not in (None, version) or fetch.size not in (None, size):
            raise ObjectChangedError(f"the file is not the version {fetch.version or fetch.size} that was listed", uri=fetch.uri)
        fetch.end = check_local_range(size, fetch.start, fetch.end, fetch.uri)
        fetch.size, fetch.version = size, version
        if not size:
            self.check_empty(fd, found, fetch.uri)
        num = fetch.missing_space
        if num > (0 if fetch.out is None else len(fetch.out)):
            fetch.out = grant(fetch)
            if fetch.out is None:
                fetch.state = State.WANTS_SPACE
                return
        begin = fetch.received
        stop = min(num, begin + _PIECE_BYTES)
        if begin < stop:
            self.fill(fd, fetch, begin, stop)
            after = os.fstat(fd)
            # What `version_of` puts into words; the inode of an open file is always the same.
            if after.st_mtime_ns != found.st_mtime_ns or after.st_size != size:
                raise ObjectChangedError("the file changed while it was read", uri=fetch.uri)
        fetch.received = stop


def read_exactly(fd: int, out: memoryview, offset: int) -> None:
    """Reads exactly `len(out)` bytes from `offset`; the kernel may return fewer than asked (2 GiB at most).

    Raises:
        ObjectChangedError: The file has ended before.
    """
    done = 0
    while done < len(out):
        num = os.preadv(fd, [out[done:]], offset + done)
        if not num:
            raise ended_early(offset + done)
        done += num


def ended_early(position: int) -> ObjectChangedError:
    """Returns the error for a file that became shorter while it was read."""
    return ObjectChangedError(f"the file ended at byte {position} while it was read")


def check_regular(found: os.stat_result, uri: str) -> None:
    """Checks that this is a file with bytes in it.

    Raises:
        IsADirectoryUriError: It is a directory.
        UnsupportedError: It is a device, a socket or a pipe.
    """
    if stat_module.S_ISREG(found.st_mode):
        return
    if stat_module.S_ISDIR(found.st_mode):
        raise IsADirectoryUriError("this is a directory, not an object", uri=uri)
    raise UnsupportedError("this is a device, a socket or a pipe, not a file", uri=uri)


def check_empty(fd: int, found: os.stat_result, uri: str) -> None:
    """Checks that a file whose size is 0 has no bytes.

    Raises:
        UnsupportedError: It has, and does not tell how many, as the files of /proc.
        ObjectChangedError: It had none when `found` was.
    """
    if os.pread(fd, 1, 0):
        if version_of(os.fstat(fd)) != version_of(found):
            raise ObjectChangedError("the file changed while it was read", uri=uri)
        raise UnsupportedError("this file has bytes, and does not tell how many", uri=uri)


def version_of(found: os.stat_result) -> str:
    """Returns what changes when somebody writes to a file or puts another in its place."""
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"


def iso_of(found: os.stat_result) -> str:
    """Returns when a file was changed last, as of `ObjectInfo.last_modified`; of a time that is in no calendar, the nearest that is."""
    moment_s = min(max(found.st_mtime_ns // 1_000_000_000, _FIRST_S), _LAST_S)
    return datetime.fromtimestamp(moment_s, UTC).isoformat()[:19] + "Z"


def named(error: OSError, uri: str) -> S3dlioError:
    """Returns an error of the file system as one of the tree."""
    cls = _CLASSES.get(error.errno or 0, RequestRejectedError)
    return cls(os.strerror(error.errno) if error.errno else str(error), uri=uri)


@contextlib.contextmanager
def errors_named(uri: str) -> Iterator[None]:
    """Maps the file system's errors onto the tree, and tells those of the tree their URI."""
    try:
        yield
    except S3dlioError as error:
        error.uri = error.uri or uri
        raise
    except OSError as error:
        raise named(error, uri) from error
