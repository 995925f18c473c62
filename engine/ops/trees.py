"""Trees on local disks: removing a directory with all that is in it, and moving a file within one file system.

A symbolic link is what is removed or moved, never what it points to. Directories are held open while they are emptied, so nobody can
put a link in the place of one meanwhile, and have something else emptied.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
from collections.abc import Callable

from ..errors import ConfigurationError, S3dlioError
from ..stores.file_wire import check_regular, errors_named, named
from ..stores.file_write import make_directories, sync_directory


def remove_tree(root: str, path: str, on_end: Callable[[S3dlioError | None], None]) -> None:
    """Removes whatever is at `path`, a directory with all below it; nothing there is no error.

    Args:
        root: What URIs of this file system begin with.
        path: Absolute.
        on_end: Told of each file and directory: None, or why it is still there. Directories that are not empty for that are left out.

    Raises:
        ConfigurationError: `path` is the root of the file system.
    """
    bare = path.rstrip("/")
    if not bare or os.path.realpath(bare) == "/":
        raise ConfigurationError("the root of the file system is not removed", uri=root + path)
    remover = _Remover(on_end)
    try:
        is_directory = stat_module.S_ISDIR(os.lstat(bare).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        on_end(named(error, root + path))
        return
    if is_directory:
        remover.empty(root, bare)
    remover.remove(root + bare, bare, None, is_directory=is_directory)


class _Remover:
    def __init__(self, on_end: Callable[[S3dlioError | None], None]) -> None:
        self._on_end = on_end
        self._has_failed = False

    def empty(self, root: str, path: str) -> None:
        """Removes what is in a directory."""
        for folder, folders, files, fd in os.fwalk(path, topdown=False, onerror=lambda error: self._fail(error, root + path)):
            base = f"{root}{folder.rstrip('/')}/"
            for name in files:
                self.remove(base + name, name, fd, is_directory=False)
            for name in folders:
                # A link to a directory is among them.
                mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
                self.remove(base + name, name, fd, is_directory=stat_module.S_ISDIR(mode))

    def remove(self, uri: str, name: str, fd: int | None, *, is_directory: bool) -> None:
        """Removes one file or empty directory, of the directory `fd`."""
        try:
            (os.rmdir if is_directory else os.unlink)(name, dir_fd=fd)
        except FileNotFoundError:
            return
        except OSError as error:
            if not (is_directory and self._has_failed and error.errno == errno.ENOTEMPTY):
                self._fail(error, uri)
        else:
            self._on_end(None)

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
        target: Its new path.

    Returns:
        Whether that could be done; False, and nothing done, where they are on two file systems.

    Raises:
        S3dlioError: As the file system says.
    """
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
