"""How a file is written: nobody sees anything of it under its name before all of it is on the disk.

Rules:

* What is written has no name at first (`O_TMPFILE`), so that nothing is left of it when the process dies, however it dies. Where the file
  system has no such files, it has a name that listings pass over (`is_temporary`).
* `commit` is: fsync of the file, then its name (`rename`, or `link` where there must be none yet), then fsync of the directory. After a
  crash, or a loss of power, there is the old file or the new one.
* Whatever goes wrong before, Ctrl-C included, `close` leaves the target as it was, and no other name.
* The mode is that of any new file (0666 without the umask), or the one of the file that is replaced. Whoever may write to the directory may
  replace a file that is read-only, as by `mv`. A symbolic link is replaced, and what it points to is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as stat_module
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self

from ..errors import AlreadyExistsError, InvalidUriError, NoSpaceError, ObjectChangedError, UnsupportedError
from .file_wire import check_empty, check_regular, version_of

_PREFIX: Final = ".s3dlio-"
_SUFFIX: Final = ".part"
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})
"""What file systems and kernels say that have no files without a name. Source: open(2)."""
_NO_COPY: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
"""What says that these two files cannot be copied by `copy_file_range`. Source: its manual page."""
_NO_LINK: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What file systems say that have no hard links. Source: link(2)."""
_COPY_BYTES: Final = 64 << 20
"""Copied by one call, so that a Ctrl-C need not wait for long."""


class NewFile:
    """A file that will stand at `path` when it is committed; a context that closes it, and leaves nothing where it was not."""

    flags = os.O_WRONLY | os.O_CLOEXEC
    block_bytes = 1
    """Where writes may begin: at any multiple of this."""

    def __init__(self, path: str, create_only: bool) -> None:
        """Begins the file, and makes the directories above it.

        Raises:
            InvalidUriError: `path` names a directory by a `/` at its end.
            IsADirectoryUriError, UnsupportedError: There is a directory, a device, a socket or a pipe.
            AlreadyExistsError: `create_only`, and there is something.
            OSError: As the file system says.
        """
        self.fd = -1
        self.path = path
        self._create_only = create_only
        self._temporary: str | None = None
        """The name to be taken away again, if it has that: it is noted before it is given."""
        self._is_nameless = True
        self._folder = os.path.dirname(path) or "."
        mode = _check_target(path, create_only)
        try:
            with self._explained():
                make_directories(self._folder)
                self._open()
            if mode is not None:
                os.fchmod(self.fd, mode)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def write_at(self, data: memoryview, offset: int) -> None:
        """Writes all of `data`, beginning at `offset`.

        Raises:
            NoSpaceError: There is no room for it.
            OSError: As the file system says.
        """
        with self._explained():
            self._write(data, offset)

    def _write(self, data: memoryview, offset: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self.fd, data[done:], offset + done)

    def commit(self, size: int) -> None:
        """Makes the file, of `size` bytes, the one at its path.

        Raises:
            AlreadyExistsError: It was to be created, and somebody else was first.
            NoSpaceError: There is no room for it, which some file systems say no earlier.
            OSError: As the file system says.
        """
        with self._explained():
            os.ftruncate(self.fd, size)
            os.fsync(self.fd)
            self._give_name()
            sync_directory(self._folder)

    def close(self) -> None:
        """Lets go of the file; what was not committed is gone. May be called again."""
        try:
            self._let_go()
        except BaseException:
            # A Ctrl-C in the middle of it.
            self._let_go()
            raise

    def _let_go(self) -> None:
        try:
            if self._temporary is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._temporary)
                self._temporary = None
        finally:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

    def _open(self) -> None:
        try:
            self.fd = self._open_at(self._folder, self.flags | os.O_TMPFILE)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
        if self.fd < 0 or not os.path.exists(self._own_name):
            # Without /proc, what has no name cannot be given one.
            self.close()
            self._is_nameless = False
            self._temporary = _temporary_name(self._folder)
            self.fd = self._open_at(self._temporary, self.flags | os.O_CREAT | os.O_EXCL)

    def _open_at(self, path: str, flags: int) -> int:
        return os.open(path, flags, 0o666)

    @property
    def _own_name(self) -> str:
        return f"/proc/self/fd/{self.fd}"

    def _give_name(self) -> None:
        if self._create_only:
            try:
                self._link(self.path)
            except FileExistsError:
                # NFS says so too where its answer was lost, and it was asked again.
                if not self._is_at(self.path):
                    raise AlreadyExistsError("there is a file already") from None
        else:
            if self._is_nameless:
                self._temporary = _temporary_name(self._folder)
                self._link(self._temporary)
            assert self._temporary is not None
            os.rename(self._temporary, self.path)
            self._temporary = None

    def _link(self, name: str) -> None:
        """Gives the file a name that nothing has."""
        if self._is_nameless:
            # With any src_dir_fd Python calls linkat, which alone follows the link in /proc. Source: open(2), O_TMPFILE.
            os.link(self._own_name, name, src_dir_fd=self.fd)
            return
        assert self._temporary is not None
        try:
            os.link(self._temporary, name)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            _rename_to_new(self._temporary, name)
            self._temporary = None

    def _is_at(self, name: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.lstat(name), os.fstat(self.fd))
        return False

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            folder = self._folder
            while not os.path.isdir(folder):
                folder = os.path.dirname(folder) or "."
            found = os.statvfs(folder)
            # What it has taken itself is free again in a moment.
            taken = 512 * os.fstat(self.fd).st_blocks if self.fd >= 0 else 0
            raise NoSpaceError(
                f"{os.strerror(error.errno)}: {found.f_bavail * found.f_frsize + taken} bytes were free in {folder}; "
                "what stood there before still does"
            ) from error


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that is being written, or was left by a process that was killed."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def _temporary_name(folder: str) -> str:
    # 64 random bits: nobody else has it, so whoever finds it may unlink it.
    return os.path.join(folder, f"{_PREFIX}{os.urandom(8).hex()}{_SUFFIX}")


def _rename_to_new(old: str, new: str) -> None:
    """Renames a file, if nothing has its new name.

    Raises:
        FileExistsError: Something has.
        UnsupportedError: The file system has no such rename.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    no_replace, here = 1, -100  # RENAME_NOREPLACE, AT_FDCWD. Source: linux/fs.h, linux/fcntl.h.
    rename = getattr(libc, "renameat2", None)
    if rename is not None:
        if rename(here, os.fsencode(old), here, os.fsencode(new), no_replace) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), new)
    raise UnsupportedError("this file system can neither link nor rename a file so that none is replaced")


def _check_target(path: str, create_only: bool) -> int | None:
    """Checks what stands where a file is to be; returns the mode that the new one takes over, or None."""
    if path.endswith("/"):
        raise InvalidUriError("a file's URI must not end in /")
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if create_only:
        raise AlreadyExistsError("there is a file already")
    if stat_module.S_ISLNK(found.st_mode):
        return None
    check_regular(found, "")
    return stat_module.S_IMODE(found.st_mode) & 0o777


def copy_file(source: int, found: os.stat_result, source_uri: str, new: NewFile) -> None:
    """Makes `new` a copy of an open file, within the kernel: shared blocks where the file system can, and no byte comes by this process.

    Raises:
        ObjectChangedError: The file changed while it was copied.
        UnsupportedError: It does not tell its size.
    """
    copy: Callable[[int, int, int, int, int], int] = os.copy_file_range
    if not found.st_size:
        check_empty(source, found, source_uri)
    done = 0
    while done < found.st_size:
        try:
            num = copy(source, new.fd, min(found.st_size - done, _COPY_BYTES), done, done)
        except OSError as error:
            if copy is _send_file or error.errno not in _NO_COPY:
                raise
            copy = _send_file
            continue
        if not num:
            break
        done += num
    if version_of(os.fstat(source)) != version_of(found) or done != found.st_size:
        raise ObjectChangedError("the file changed while it was copied", uri=source_uri)
    new.commit(done)


def _send_file(source: int, target: int, count: int, at: int, to: int) -> int:
    """As `os.copy_file_range`, between any two file systems."""
    os.lseek(target, to, os.SEEK_SET)
    return os.sendfile(target, source, at, count)


def make_directories(path: str) -> None:
    """Makes a directory and those above it, so that they outlast a loss of power; what is there stays.

    Raises:
        AlreadyExistsError: Something else has the name of one of them.
    """
    path = path.rstrip("/") or "/"
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path) or "."
    while missing:
        above, path = path, missing.pop()
        try:
            os.mkdir(path)
        except FileExistsError:
            # Another thread or process may have made it meanwhile.
            if not os.path.isdir(path):
                raise AlreadyExistsError(f"{path} is there, and is no directory") from None
        sync_directory(above)


def sync_directory(path: str) -> None:
    """Has the names in a directory reach the disk, where the file system does that for directories."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        # It may be written to, and not read: then only all that this machine has written can be waited for.
        os.sync()
        return
    try:
        os.fsync(fd)
    except OSError as error:
        # Source: fsync(2). Such file systems keep their names by themselves, or not at all.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)
