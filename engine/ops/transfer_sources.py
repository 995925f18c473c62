"""What a transfer is to read: a URI, a path, a glob or a list of them, as a `Source`."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import PurePath
from typing import Final

from ..errors import ConfigurationError, NotFoundError
from ..pool.inline import inline_fetcher
from ..pool.jobs import Job
from ..stores.base import Store, run
from ..stores.registry import is_file_scheme, locate
from ..uri import as_directory
from .globs import compile_pattern
from .local_walk import file_at, walk
from .transfer_ends import FileSource, Source, StoreSource
from .transfer_names import Found, Item, Refused, distinct

_GLOB: Final = re.compile(r"[*?\[]")


def source_at(uri: str, recursive: bool, follow_symlinks: bool) -> tuple[Source, bool]:
    """Returns what a URI or path stands for, and whether it is one object.

    Raises:
        NotFoundError: Nothing is there.
    """
    if _is_local(uri):
        return _files(*_located(uri), recursive, follow_symlinks)
    store, key = locate(uri)
    if key and not key.endswith("/"):
        try:
            found = run(store.stat(key), inline_fetcher().run)
        except (NotFoundError, IsADirectoryError):
            key += "/"
        else:
            name = key[key.rfind("/") + 1 :]
            return FileSource([Item(uri, store, key, name, found.size, found.version, found.last_modified)]), True
    return StoreSource(store, key, recursive=recursive), False


def _located(path: str) -> tuple[Store, str]:
    if not path:
        raise ConfigurationError("the source is empty; write . for the working directory")
    return locate(path if "://" in path else f"file://{os.path.abspath(path)}")


def _files(store: Store, path: str, recursive: bool, follow_symlinks: bool) -> tuple[Source, bool]:
    if os.path.isdir(path):
        return FileSource(walk(store, path, recursive=recursive, follow_symlinks=follow_symlinks)), False
    if not os.path.lexists(path):
        raise NotFoundError("no such file or directory", uri=store.root + path)
    return FileSource([file_at(store, path, os.path.basename(path))]), True


def check_apart(sources: Sequence[str], target: str) -> None:
    """Checks that a tree is not written into itself: the next time it would hold itself twice, or be listed without an end already now.

    Args:
        sources: Paths, globs, URIs of directories and prefixes.
        target: A path, or the URI of a prefix.

    Raises:
        ConfigurationError: `target` is, or lies in, a directory or prefix among the sources.
    """
    for source in sources:
        if _is_local(source) != _is_local(target):
            continue
        if _lies_on_disk(source, target) if _is_local(source) else _lies_in_store(source, target):
            raise ConfigurationError("the target lies in the directory that is to be read", uri=source)


def _lies_on_disk(source: str, target: str) -> bool:
    inner = os.path.realpath(_located(target)[1])
    outer = [os.path.realpath(path) for path in _matches(_located(source)[1]) if os.path.isdir(path)]
    return any(os.path.commonpath([path, inner]) == path for path in outer)


def _lies_in_store(source: str, target: str) -> bool:
    (store, prefix), (target_store, key) = locate(source), locate(target)
    return store.root == target_store.root and (not prefix or as_directory(key).startswith(as_directory(prefix)))


def is_glob(path: str) -> bool:
    """Whether a path is there to find files by, since none is called so."""
    return _is_local(path) and bool(_GLOB.search(path)) and not os.path.lexists(_located(path)[1])


def _is_local(path: str) -> bool:
    return "://" not in path or is_file_scheme(path)


def _matches(path: str) -> list[str]:
    """Returns what an absolute path or glob stands for, without what lies in a directory that is among it."""
    if os.path.lexists(path):
        return [path]
    matches = sorted(os.path.normpath(match) for match in glob.glob(path, recursive=True)) if _GLOB.search(path) else []
    folders = {match for match in matches if os.path.isdir(match)}
    return [match for match in matches if folders.isdisjoint(map(str, PurePath(match).parents))]


def sources_at(paths: Sequence[str], recursive: bool, follow_symlinks: bool) -> Source:
    """Returns what a list of paths and globs stands for.

    Raises:
        NotFoundError: One of them stands for nothing.
    """

    def files(store: Store, path: str, under: str) -> Iterator[Found]:
        if os.path.isdir(path):
            return walk(store, path, recursive=recursive, follow_symlinks=follow_symlinks, under=under)
        return iter([file_at(store, path, os.path.basename(path))])

    found: list[Iterator[Found]] = []
    for path in paths:
        if not _is_local(path):
            raise ConfigurationError("a list names files of this machine; give the URI of a store by itself", uri=path)
        store, absolute = _located(path)
        if os.path.lexists(absolute):
            found.append(files(store, absolute, ""))
            continue
        matches = _matches(absolute)
        if not matches:
            raise NotFoundError("no such file or directory, and no glob that matches any", uri=store.root + absolute)
        # What a glob found keeps its name, or all directories' contents would be one.
        found += [files(store, match, f"{os.path.basename(match)}/") for match in matches]
    return FileSource(distinct(chain.from_iterable(found)))


class Selected:
    """Those of a source that a pattern wants."""

    def __init__(self, source: Source, pattern: str | re.Pattern[str] | None) -> None:
        self._source = source
        self._matches = compile_pattern(pattern)

    def next_page(self) -> Job[list[Found] | None]:
        """As `Source.next_page`."""
        page = yield from self._source.next_page()
        return None if page is None else [one for one in page if isinstance(one, Refused) or self._is_wanted(one)]

    def _is_wanted(self, item: Item) -> bool:
        # The directory itself is no part of what is below it.
        return bool(item.name) and self._matches(item.name)
