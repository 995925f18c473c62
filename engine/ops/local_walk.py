"""The files below a local directory, as the source of a transfer: each with what pins it, and what is no file with the reason.

Symbolic links below the root are followed only where that was asked for, since they lead out of the tree; then a directory that holds
itself is noticed. The root itself may be one. Nothing is left out without a word: what will not be read is reported. Only what is being
written by s3dlio, under a name of its own, is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..errors import NotFoundError, PermissionDeniedError, RequestRejectedError, S3dlioError, UnsupportedError
from ..pool.inline import inline_fetcher
from ..stores.base import Store, run
from ..stores.file_write import is_temporary
from .transfer_names import Found, Item, Refused

Steps = Iterator["Found | Steps"]
"""What is in a directory: what was found, and in place of each directory in it, its own steps."""


def walk(store: Store, root: str, *, recursive: bool, follow_symlinks: bool, under: str = "") -> Iterator[Found]:
    """Yields the files below `root`, sorted within each directory.

    Args:
        store: That of the file system by which they will be read.
        root: An absolute path of a directory.
        recursive: Whether to descend.
        follow_symlinks: Whether symbolic links are what they point to; otherwise they are refused.
        under: What is put before each name: empty, or ending in `/`.
    """
    walker = _Walker(store, recursive, follow_symlinks)
    # A stack of ours, since a path may be deeper than Python's.
    stack = [walker.directory(root, under, frozenset())]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
        elif isinstance(found, Item | Refused):
            yield found
        else:
            stack.append(found)


def file_at(store: Store, path: str, name: str) -> Found:
    """Returns one file, pinned as it is now."""
    uri = store.root + path
    try:
        found = run(store.stat(path), inline_fetcher().run)
    except S3dlioError as error:
        return Refused(uri, error.with_traceback(None))
    if not _is_utf8(name):
        return Refused(uri, UnsupportedError("the file's name is no UTF-8, and a key must be", uri=uri))
    return Item(uri, store, path, name, found.size, found.version, found.last_modified)


class _Walker:
    def __init__(self, store: Store, recursive: bool, follow_symlinks: bool) -> None:
        self._store = store
        self._recursive = recursive
        self._follow = follow_symlinks

    def directory(self, path: str, under: str, above: frozenset[tuple[int, int]]) -> Steps:
        """Yields what is in a directory; `above` are those that it is in, by device and inode."""
        try:
            found = os.stat(path)
            with os.scandir(path) as entries:
                children = sorted(entries, key=lambda child: child.name)
        except OSError as error:
            yield self._refused(path, _classed(error))
            return
        identity = (found.st_dev, found.st_ino)
        if identity in above:
            yield self._refused(path, UnsupportedError("the symbolic link leads to a directory that it is in"))
            return
        for child in children:
            yield from self._child(child, os.path.join(path, child.name), under + child.name, above | {identity})

    def _child(self, child: os.DirEntry[str], path: str, name: str, above: frozenset[tuple[int, int]]) -> Steps:
        try:
            if child.is_symlink() and not self._follow:
                why = "a symbolic link, which is not followed unless follow_symlinks=True"
                yield self._refused(path, UnsupportedError(why))
            elif child.is_dir():
                if self._recursive:
                    yield self.directory(path, f"{name}/", above)
            elif child.is_file():
                if not is_temporary(child.name):
                    yield file_at(self._store, path, name)
            elif child.is_symlink():
                yield self._refused(path, NotFoundError("a symbolic link that leads to nothing"))
            else:
                yield self._refused(path, UnsupportedError("a device, a socket or a pipe, not a file"))
        except OSError as error:  # a loop of links, or a directory that may not be looked into
            yield self._refused(path, _classed(error))

    def _refused(self, path: str, error: S3dlioError) -> Refused:
        error.uri = self._store.root + path
        return Refused(error.uri, error)


def _classed(error: OSError) -> S3dlioError:
    text = os.strerror(error.errno) if error.errno else str(error)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFoundError(text)
    return (PermissionDeniedError if isinstance(error, PermissionError) else RequestRejectedError)(text)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
