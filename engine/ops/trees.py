"""Trees on local disks: removing a directory with all that is in it, and moving a file within one file system.

A symbolic link is what is removed or moved, never what it points to. Directories are held open while they are emptied, so nobody can
put a link in the place of one meanwhile, and have something else emptied.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..errors import ConfigurationError, InvalidUriError, S3dlioError
from ..stores.file_wire import check_regular, errors_named, named
from ..stores.file_write import make_directories, sync_directory


def remove_tree(root: str, path: str, on_end: Callable[[S3dlioError | None], None]) -> None:
    """Removes whatever is at `path`, a directory with all below it; nothing there is no error.

    Args:
        root: What URIs of this file system begin with.
        path: Absolute.
        on_end: Told of each file and directory: None, or why it is still there. Directories that are not empty for that are left out.

    Raises:
        ConfigurationError: `path` is the root of the file system, or ends in `.` or `..`.
    """
    bare = path.rstrip("/")
    if not bare or os.path.realpath(bare) == "/":
        raise ConfigurationError("the root of the file system is not removed", uri=root + path)
    if os.path.basename(bare) in (".", ".."):
        raise ConfigurationError("a directory is removed by its name, not as . or ..", uri=root + path)
    try:
        is_directory = stat_module.S_ISDIR(os.lstat(bare).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        on_end(named(error, root + path))
        return
    _Remover(on_end).remove(root + bare, bare, is_directory)


class _Folder(NamedTuple):
    """A directory that is being emptied."""

    uri: str
    name: str
    """In the directory above."""
    fd: int
    children: Iterator[tuple[str, bool]]
    """Of each its name, and whether it is a directory."""


class _Remover:
    """Removes a tree, which others may be removing too: what is gone already is no error."""

    def __init__(self, on_end: Callable[[S3dlioError | None], None]) -> None:
        self._on_end = on_end
        self._has_failed = False
        self._way: list[_Folder] = []
        """The directories from the top to where it is. No recursion: a tree may be deeper than Python's stack."""

    def remove(self, uri: str, name: str, is_directory: bool) -> None:
        """Removes one file, or one directory with all below it."""
        way = self._way
        try:
            self._take(uri, name, is_directory)
            while way:
                folder = way[-1]
                child = next(folder.children, None)
                if child is not None:
                    self._take(f"{folder.uri}/{child[0]}", *child)
                else:
                    os.close(way.pop().fd)
                    self._remove_one(folder.uri, folder.name, os.rmdir)
        finally:
            for folder in way:
                os.close(folder.fd)

    def _take(self, uri: str, name: str, is_directory: bool) -> None:
        """Removes a file of the directory where it is, or goes down into a directory."""
        if not is_directory:
            self._remove_one(uri, name, os.unlink)
            return
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._above)
            try:
                with os.scandir(fd) as found:
                    children = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
            except BaseException:
                os.close(fd)
                raise
        except FileNotFoundError:
            return
        except OSError as error:
            self._remove_unread(uri, name, error)
        else:
            self._way.append(_Folder(uri, name, fd, iter(children)))

    def _remove_unread(self, uri: str, name: str, why: OSError) -> None:
        """Removes a directory that cannot be read, if it is empty."""
        try:
            os.rmdir(name, dir_fd=self._above)
        except OSError:
            self._fail(why, uri)
        else:
            self._on_end(None)

    def _remove_one(self, uri: str, name: str, remove: Callable[..., None]) -> None:
        try:
            remove(name, dir_fd=self._above)
        except FileNotFoundError:
            return
        except OSError as error:
            if not (self._has_failed and error.errno == errno.ENOTEMPTY):
                self._fail(error, uri)
        else:
            self._on_end(None)

    @property
    def _above(self) -> int | None:
        return self._way[-1].fd if self._way else None

    def _fail(self, error: OSError, uri: str) -> None:
        self._has_failed = True
        self._on_end(named(error, uri))


def children(path: str) -> list[str]:
    """Returns the names in a directory; none where there is no such directory."""
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_same_file(path: str, other: str) -> bool:
    """Whether two paths are one file, by whatever links."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def move_file(root: str, source: str, target: str) -> bool:
    """Gives a file another path, replacing what is there, in one step; directories above are made.

    Args:
        root: What URIs of this file system begin with.
        source: A file, or a symbolic link to one, which is moved itself.
        target: Its new path, which does not end in `/`.

    Returns:
        Whether that could be done; False, and nothing done, where they are on two file systems.

    Raises:
        InvalidUriError: `target` ends in `/`.
        S3dlioError: As the file system says.
    """
    if target.endswith("/"):
        raise InvalidUriError("a file's URI must not end in /", uri=root + target)
    with errors_named(root + source):
        check_regular(os.stat(source), root + source)
    folder = os.path.dirname(target) or "/"
    with errors_named(root + target):
        make_directories(folder)
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno == errno.EXDEV:
                return False
            raise
        sync_directory(folder)
        sync_directory(os.path.dirname(source) or "/")
    return True
