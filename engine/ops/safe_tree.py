"""A directory tree on this machine that is written to, and never left.

Owns how a file gets its place below the root, whoever else writes there at the same time:

* The root may be reached by symbolic links, since the caller named it. Below it every directory is opened by its name in the one
  before, and a symbolic link is never followed (`O_NOFOLLOW | O_DIRECTORY`): one that is put there between two looks is refused too.
* Bytes go to a new file in the opened directory, which has no name (`O_TMPFILE`), so that nothing is left of it when the process dies;
  where there are no such files, it has a name that listings pass over. Then fsync, then its own name, by a link, or by a rename within
  the directory: a file that was there is replaced and never written through. Hard links keep the old bytes; its mode is kept. A
  directory, a symbolic link, a pipe or a device in the place is an error.
* `sync` makes the names durable. What is not committed is removed by `close`.

What a file was made of stands beside it, so that it is known again: its time of change is that of the object, and the version is in the
extended attribute `user.s3dlio.version`, where the file system keeps such.

Thread-safe: threads write different files.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat as stat_module
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from ..errors import (
    AlreadyExistsError,
    IsADirectoryUriError,
    NoSpaceError,
    NotFoundError,
    PermissionDeniedError,
    RequestRejectedError,
    S3dlioError,
    UnsafeNameError,
    UnsupportedError,
)

VERSION_ATTRIBUTE: Final = "user.s3dlio.version"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NAMELESS_FILE: Final = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
_SYNC_BYTES: Final = 64 << 20
"""A long file goes to the disk while the rest of it still comes, and not only at its end."""
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_NAMELESS: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
"""What file systems and kernels say that have no files without a name. Source: open(2)."""
_CLASSES: Final[dict[int, type[S3dlioError]]] = {
    errno.ENOENT: NotFoundError,
    errno.EACCES: PermissionDeniedError,
    errno.EPERM: PermissionDeniedError,
    errno.EROFS: PermissionDeniedError,
    errno.EISDIR: IsADirectoryUriError,
    errno.EEXIST: AlreadyExistsError,
    errno.ENOTDIR: AlreadyExistsError,
}


class Stamp(NamedTuple):
    """What a file is known again by, besides its size."""

    mtime_ns: int | None
    """When the object was changed last, since 1970; None where nobody knows."""
    version: str | None
    """The object's version, as its store calls it."""


class SafeTree:
    """The tree below one directory, which is made if it is missing.

    Raises:
        S3dlioError: The directory cannot be made or opened, or there is something else in its place.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self._lock = threading.Lock()
        self._open: set[OpenFile] = set()
        self._changed: set[tuple[str, ...]] = set()
        """Directories that have new names in them."""
        self._new_above: list[str] = []
        """Those that are not below the root."""
        with self.named(()):
            above = self.root
            while not os.path.isdir(above):
                above = os.path.dirname(above)
                self._new_above.append(above)
            os.makedirs(self.root, exist_ok=True)
            self._fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Removes what is not committed. Nobody writes to it any more."""
        for file in list(self._open):
            file.discard()
        os.close(self._fd)

    def put(self, path: Sequence[str], data: memoryview, stamp: Stamp) -> None:
        """Writes a whole file.

        Args:
            path: The names on the way from the root; none of them is empty, `.`, `..` or has a `/` or NUL.
            data: Its bytes.
            stamp: What it is to be known by.

        Raises:
            AlreadyExistsError: A file is where a directory must be.
            IsADirectoryUriError: A directory is in the place.
            UnsupportedError: A symbolic link or a special file is in the way.
            PermissionDeniedError, RequestRejectedError: As the file system says.
        """
        file = self.begin(path)
        try:
            file.write(0, data)
            file.commit(stamp)
        except BaseException:
            file.discard()
            raise

    def begin(self, path: Sequence[str]) -> OpenFile:
        """Begins a file, of which nothing is seen under its name before `OpenFile.commit`.

        Raises:
            S3dlioError: As `put`.
        """
        _check_names(path)
        with self.named(path):
            directory_fd = self._open_directory(path[:-1], is_made=True)
            try:
                file = OpenFile(self, path, directory_fd, self.check_place(directory_fd, path))
            except BaseException:
                os.close(directory_fd)
                raise
        return file

    def make_directory(self, path: Sequence[str]) -> None:
        """Makes a directory; one that is there already is no error.

        Raises:
            S3dlioError: As `put`.
        """
        _check_names(path)
        with self.named(path):
            os.close(self._open_directory(path, is_made=True))

    def holds(self, path: Sequence[str], size: int, stamp: Stamp) -> bool:
        """Whether a file is there that was made of just this object.

        Of its size, changed at just the time of the object, and of the same version. Where the store knows no time, or the file system
        keeps no attributes, the others decide; size alone is never enough.
        """
        try:
            directory_fd = self._open_directory(path[:-1], is_made=False)
            try:
                fd = os.open(path[-1], _OLD_FILE, dir_fd=directory_fd)
            finally:
                os.close(directory_fd)
        except OSError:
            return False
        try:
            found = os.fstat(fd)
            if not stat_module.S_ISREG(found.st_mode) or found.st_size != size:
                return False
            is_of_its_time = stamp.mtime_ns is not None and found.st_mtime_ns in _kept_as(stamp.mtime_ns)
            version = _read_version(fd)
        finally:
            os.close(fd)
        if version is None or stamp.version is None:
            return is_of_its_time
        return version == stamp.version and (is_of_its_time or stamp.mtime_ns is None)

    def sync(self) -> None:
        """Makes durable that the committed files have their names.

        Raises:
            S3dlioError: As the file system says.
        """
        for path in sorted(self._changed):
            with self.named(path):
                try:
                    fd = self._open_directory(path, is_made=False)
                except FileNotFoundError:
                    continue  # somebody has removed it since
                _sync(fd)
        for above in self._new_above:
            with self.named(()):
                _sync(os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        self._changed.clear()
        self._new_above.clear()

    def uri(self, path: Sequence[str]) -> str:
        """Returns the name of a file for errors."""
        return f"file://{os.path.join(self.root, *path)}"

    def note_begun(self, file: OpenFile) -> None:
        """Called by a file that has come to be."""
        with self._lock:
            self._open.add(file)

    def note_ended(self, file: OpenFile, path: Sequence[str]) -> None:
        """Called by a file that is committed, or removed."""
        with self._lock:
            self._open.discard(file)
            self._changed.add(tuple(path[:-1]))

    def _open_directory(self, path: Sequence[str], *, is_made: bool) -> int:
        fd = os.dup(self._fd)
        try:
            for depth, name in enumerate(path):
                try:
                    inner_fd = os.open(name, _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    if not is_made:
                        raise
                    with suppress(FileExistsError):  # another thread has made it just now
                        os.mkdir(name, dir_fd=fd)
                    with self._lock:
                        self._changed.add(tuple(path[:depth]))
                    inner_fd = os.open(name, _DIRECTORY, dir_fd=fd)
                except NotADirectoryError:
                    self._refuse(fd, path[: depth + 1])
                    raise
                os.close(fd)
                fd = inner_fd
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _refuse(self, directory_fd: int, path: Sequence[str]) -> None:
        """Says what is in the way where a directory must be."""
        with suppress(FileNotFoundError):
            mode = os.stat(path[-1], dir_fd=directory_fd, follow_symlinks=False).st_mode
            if stat_module.S_ISLNK(mode):
                raise UnsupportedError("a symbolic link is in the way, and is not followed", uri=self.uri(path))
            if not stat_module.S_ISDIR(mode):
                raise AlreadyExistsError("a file is in the way, where a directory must be", uri=self.uri(path))

    def check_place(self, directory_fd: int, path: Sequence[str]) -> int | None:
        """Makes sure that a rename into this place replaces a file, whose mode is returned, or nothing.

        Somebody may put something else there a moment later; the rename replaces that, and still writes through nothing.

        Raises:
            S3dlioError: As `put`.
        """
        try:
            mode = os.stat(path[-1], dir_fd=directory_fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return None
        if stat_module.S_ISDIR(mode):
            raise IsADirectoryUriError("a directory is in the place of the file", uri=self.uri(path))
        if not stat_module.S_ISREG(mode):
            kind = "a symbolic link" if stat_module.S_ISLNK(mode) else "a device, a socket or a pipe"
            raise UnsupportedError(f"{kind} is in the place of the file, and is not written to", uri=self.uri(path))
        return stat_module.S_IMODE(mode) & 0o777

    @contextmanager
    def named(self, path: Sequence[str]) -> Iterator[None]:
        """Maps the file system's errors onto the tree of errors."""
        try:
            yield
        except S3dlioError:
            raise
        except OSError as error:
            text = os.strerror(error.errno) if error.errno else str(error)
            if error.errno in _NO_ROOM:
                raise NoSpaceError(f"{text}; {_free_bytes(self.root):,} bytes are free", uri=self.uri(path)) from error
            cls = _CLASSES.get(error.errno or 0, RequestRejectedError)
            raise cls(text, uri=self.uri(path)) from error


class OpenFile:
    """A file that has no name of its own yet. Threads may write different ranges of it at once."""

    def __init__(self, tree: SafeTree, path: Sequence[str], directory_fd: int, mode: int | None) -> None:
        self._tree = tree
        self._path = path
        self._directory_fd = directory_fd
        self._temporary: str | None = None
        """The name to be taken away again, if it has one."""
        self._unsynced_bytes = 0
        """About so many were written since the last fdatasync."""
        self._fd = self._open()
        self._is_open = True
        if mode is not None:
            with suppress(OSError):  # a file system without modes
                os.fchmod(self._fd, mode)
        tree.note_begun(self)

    def _open(self) -> int:
        fd = self._open_nameless()
        if fd is None:
            self._temporary = _temporary_name()
            fd = os.open(self._temporary, _NEW_FILE, 0o666, dir_fd=self._directory_fd)
        return fd

    def _open_nameless(self) -> int | None:
        try:
            fd = os.open(".", _NAMELESS_FILE, 0o666, dir_fd=self._directory_fd)
        except OSError as error:
            if error.errno not in _NO_NAMELESS:
                raise
            return None
        if os.path.exists(_own_name(fd)):
            return fd
        # Without /proc it could not be given a name.
        os.close(fd)
        return None

    def write(self, offset: int, data: memoryview) -> None:
        """Writes all of `data` at `offset`.

        Raises:
            S3dlioError: As `SafeTree.put`.
        """
        with self._tree.named(self._path):
            done = 0
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], offset + done)
            self._unsynced_bytes += done
            if self._unsynced_bytes >= _SYNC_BYTES:
                self._unsynced_bytes = 0
                os.fdatasync(self._fd)

    def commit(self, stamp: Stamp) -> None:
        """Gives the file its name, once its bytes are durable. `SafeTree.sync` makes the name so.

        Raises:
            S3dlioError: As `SafeTree.put`. The file is still to be discarded.
        """
        with self._tree.named(self._path):
            if stamp.version is not None:
                with suppress(OSError):  # this file system keeps no attributes, or none so long
                    os.setxattr(self._fd, VERSION_ATTRIBUTE, stamp.version.encode())
            if stamp.mtime_ns is not None:
                os.utime(self._fd, ns=(stamp.mtime_ns, stamp.mtime_ns))
            os.fsync(self._fd)
            is_free = self._tree.check_place(self._directory_fd, self._path) is None
            if self._temporary is not None or not is_free or not self._link_to(self._path[-1]):
                self._replace()
        self._end()

    def _link_to(self, name: str) -> bool:
        """Gives a file without a name one; False where something has it already."""
        try:
            # With any src_dir_fd Python calls linkat, which alone follows the link in /proc. Source: open(2), O_TMPFILE.
            os.link(_own_name(self._fd), name, src_dir_fd=self._fd, dst_dir_fd=self._directory_fd)
        except FileExistsError:
            return False
        return True

    def _replace(self) -> None:
        if self._temporary is None:
            # Between these two a process that is killed leaves it.
            self._temporary = _temporary_name()
            self._link_to(self._temporary)
        self._tree.check_place(self._directory_fd, self._path)
        os.rename(self._temporary, self._path[-1], src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd)

    def discard(self) -> None:
        """Removes the file, unless it is committed or removed already."""
        if self._is_open:
            if self._temporary is not None:
                with suppress(OSError):
                    os.unlink(self._temporary, dir_fd=self._directory_fd)
            self._end()

    def _end(self) -> None:
        self._is_open = False
        self._tree.note_ended(self, self._path)
        os.close(self._fd)
        os.close(self._directory_fd)


def _temporary_name() -> str:
    # As those of `file://`, so that listings pass over it. 64 random bits: nobody else has it.
    return f".s3dlio-{secrets.token_hex(8)}.part"


def _own_name(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def _check_names(path: Sequence[str]) -> None:
    # Whoever makes the path has seen to it; what must never happen is looked at where it would happen.
    if not path or any(name in ("", ".", "..") or "/" in name or "\0" in name for name in path):
        raise UnsafeNameError(f"{'/'.join(path)!r} is no path below a directory")


def _kept_as(mtime_ns: int) -> tuple[int, int]:
    """Returns what a file system that has nanoseconds, or only seconds, keeps of a time that was set."""
    return mtime_ns, mtime_ns // 10**9 * 10**9


def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read_version(fd: int) -> str | None:
    try:
        return os.getxattr(fd, VERSION_ATTRIBUTE).decode(errors="replace")
    except OSError:  # it has none
        return None


def _free_bytes(path: str) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
