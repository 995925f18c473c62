"""`upload` and `download`: whole trees between this machine and a store, or from store to store.

Owns what the arguments mean: which objects, and what they are called at the other end. `transfer_run.py` moves them.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, TypeVar

from ..errors import ConfigurationError
from ..pool.in_threads import in_thread
from ..pool.jobs import Stop, Stopped
from ..stores.registry import locate
from ..text import clean
from ..uri import as_directory
from .transfer_bar import TransferBar
from .transfer_ends import Source, StoreTarget, Target, TreeTarget
from .transfer_run import Transfer
from .transfer_sources import Selected, check_apart, is_glob, source_at, sources_at
from .transfer_summary import TransferSummary

T = TypeVar("T")
Pattern = str | re.Pattern[str] | None
Errors = Literal["raise", "return"]
Path = str | os.PathLike[str]


def upload(
    src_uri: Path | Sequence[Path] | None = None,
    dest_uri: str | None = None,
    max_in_flight: int = 32,
    create_bucket: bool = False,
    *,
    recursive: bool = True,
    pattern: Pattern = None,
    skip_existing: bool = False,
    progress: bool = False,
    follow_symlinks: bool = False,
    errors: Errors = "raise",
    src_patterns: Path | Sequence[Path] | None = None,
    dest_prefix: str | None = None,
) -> TransferSummary:
    """Writes files, or the objects of another store, below a URI; each object appears whole or not at all.

    Args:
        src_uri: A file, or a directory whose content is uploaded with its relative paths: a path, `file://`, `direct://`; or the URI of an
            object or prefix of any store; or a glob, or a list of paths and globs: then `dest_uri` is a prefix.
        dest_uri: The prefix; or, of a single file and without a `/` at its end, the URI of the object.
        max_in_flight: Requests at once.
        create_bucket: Whether the bucket is made first; one that is there already is no error.
        recursive: Whether to descend.
        pattern: As that of `list`: a glob against names, or against relative paths if it has a `/`; or a compiled regular expression.
        skip_existing: Whether to pass over files of which an object is there of the same size, written later than the file was changed.
        progress: Whether to draw a bar on standard error, if that is a terminal.
        follow_symlinks: Whether symbolic links stand for what they point to. Otherwise each is an error of its own.
        errors: "raise" raises the first error, after all were tried; "return" leaves them in the summary.
        src_patterns: Another name of `src_uri`.
        dest_prefix: Another name of `dest_uri`.

    Returns:
        What was done.

    Raises:
        ConfigurationError: An argument makes no sense.
        NotFoundError: There is no such source.
        ObjectChangedError: A file changed while it was read; nothing of it is visible.
        S3dlioError: As `get` and `put_bytes`, of the first file that failed.
    """
    source = _one_of("src_uri and src_patterns", src_uri, src_patterns)
    target = _one_of("dest_uri and dest_prefix", dest_uri, dest_prefix)
    start = partial(
        _upload, source, target, max_in_flight, create_bucket, recursive, pattern, skip_existing, progress, follow_symlinks
    )
    checked = _checked(errors)
    return _result(start(None), checked)


def download(
    src_uri: Path,
    dest_dir: Path,
    max_in_flight: int = 64,
    recursive: bool = True,
    *,
    pattern: Pattern = None,
    skip_existing: bool = False,
    progress: bool = False,
    errors: Errors = "raise",
) -> TransferSummary:
    """Writes the objects below a URI as files below a directory, with their relative paths; each appears whole or not at all.

    Nothing is written outside the directory, whatever keys and symbolic links there are. A key that no file below it can have as its
    name (`..`, a leading `/`, control characters) is an error of its own.

    Args:
        src_uri: A prefix that ends in `/`; an object; or, if there is no such object, the prefix without its `/`. Of any store.
        dest_dir: A directory of this machine, as a path or `file://`; made if it is missing.
        max_in_flight: Requests at once.
        recursive: Whether to descend.
        pattern: As that of `upload`.
        skip_existing: Whether to pass over objects of which there is a file of the same size and time, and of the same version, where
            the file system keeps extended attributes.
        progress: As that of `upload`.
        errors: As that of `upload`.

    Returns:
        What was done.

    Raises:
        ConfigurationError: An argument makes no sense.
        NotFoundError: There is no such object and nothing below the prefix.
        UnsafeNameError: A key can be no file below the directory.
        S3dlioError: As `get`, or as the file system says, of the first object that failed.
    """
    start = partial(_download, src_uri, dest_dir, max_in_flight, recursive, pattern, skip_existing, progress)
    checked = _checked(errors)
    return _result(start(None), checked)


async def upload_async(
    src_uri: Path | Sequence[Path] | None = None,
    dest_uri: str | None = None,
    max_in_flight: int = 32,
    create_bucket: bool = False,
    *,
    recursive: bool = True,
    pattern: Pattern = None,
    skip_existing: bool = False,
    progress: bool = False,
    follow_symlinks: bool = False,
    errors: Errors = "raise",
    src_patterns: Path | Sequence[Path] | None = None,
    dest_prefix: str | None = None,
) -> TransferSummary:
    """Writes files below a URI, as `upload`, by a thread of the event loop's executor. Cancelled, it takes back what it had begun."""
    source = _one_of("src_uri and src_patterns", src_uri, src_patterns)
    target = _one_of("dest_uri and dest_prefix", dest_uri, dest_prefix)
    start = partial(
        _upload, source, target, max_in_flight, create_bucket, recursive, pattern, skip_existing, progress, follow_symlinks
    )
    checked = _checked(errors)
    return _result(await _in_thread(start), checked)


async def download_async(
    src_uri: Path,
    dest_dir: Path,
    max_in_flight: int = 64,
    recursive: bool = True,
    *,
    pattern: Pattern = None,
    skip_existing: bool = False,
    progress: bool = False,
    errors: Errors = "raise",
) -> TransferSummary:
    """Writes objects as files below a directory, as `download`, by a thread of the event loop's executor, as `upload_async`."""
    start = partial(_download, src_uri, dest_dir, max_in_flight, recursive, pattern, skip_existing, progress)
    checked = _checked(errors)
    return _result(await _in_thread(start), checked)


async def _in_thread(start: Callable[[Stop], T]) -> T:
    stop = Stop()
    under_way = asyncio.ensure_future(in_thread(_stoppable, start, stop))
    try:
        found, stopped = await asyncio.shield(under_way)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([under_way])
        if not under_way.cancelled():
            under_way.exception()  # taken, so that asyncio does not complain
        raise
    assert found is not None, stopped
    return found


def _stoppable(start: Callable[[Stop], T], stop: Stop) -> tuple[T | None, BaseException | None]:
    try:
        return start(stop), None
    except Stopped as stopped:  # nobody waits for it
        return None, stopped


def _one_of(names: str, one: Any, other: Any) -> Any:
    found = [value for value in (one, other) if value is not None]
    if len(found) != 1:
        raise ConfigurationError(f"{names} are two names of one thing; give one")
    return found[0]


def _checked(errors: str) -> str:
    if errors not in ("raise", "return"):
        raise ConfigurationError(f"errors is 'raise' or 'return', not {errors!r}")
    return errors


def _result(summary: TransferSummary, errors: str) -> TransferSummary:
    if summary.failed and errors == "raise":
        error = summary.failed[0][1]
        counts = f"{len(summary.failed):,} failed, {summary.files:,} were transferred, {summary.skipped:,} skipped"
        error.add_note(f"{counts}; errors='return' returns all errors")
        raise error
    return summary


def _upload(
    src_uri: Path | Sequence[Path],
    dest_uri: str,
    max_in_flight: int,
    create_bucket: bool,
    recursive: bool,
    pattern: Pattern,
    skip_existing: bool,
    progress: bool,
    follow_symlinks: bool,
    stop: Stop | None,
) -> TransferSummary:
    _check_in_flight(max_in_flight)
    sources = [os.fspath(src_uri)] if isinstance(src_uri, str | os.PathLike) else [os.fspath(one) for one in src_uri]
    if isinstance(src_uri, str | os.PathLike) and not is_glob(sources[0]):
        source, is_single = source_at(sources[0], recursive, follow_symlinks)
    else:
        source, is_single = sources_at(sources, recursive, follow_symlinks), False
    target = _target(dest_uri, is_single, create_bucket, skip_existing)
    if not is_single:
        check_apart(sources, dest_uri)
    return _move(Selected(source, pattern), target, max_in_flight, skip_existing, f"to {dest_uri}" if progress else None, stop)


def _download(
    src_uri: Path,
    dest_dir: Path,
    max_in_flight: int,
    recursive: bool,
    pattern: Pattern,
    skip_existing: bool,
    progress: bool,
    stop: Stop | None,
) -> TransferSummary:
    _check_in_flight(max_in_flight)
    root = os.fspath(dest_dir)
    if "://" in root:
        if not root.startswith("file://"):
            raise ConfigurationError("download writes to a directory of this machine; upload writes to any URI", uri=clean(root))
        root = locate(root)[1]
    if not root:
        raise ConfigurationError("dest_dir is empty; write . for the working directory")
    uri = os.fspath(src_uri)
    source, is_single = source_at(uri, recursive, follow_symlinks=False)
    if not is_single:
        check_apart([uri], root)
    return _move(Selected(source, pattern), TreeTarget(root), max_in_flight, skip_existing, f"from {src_uri}" if progress else None, stop)


def _move(
    source: Source, target: Target, max_in_flight: int, skip_existing: bool, title: str | None, stop: Stop | None
) -> TransferSummary:
    with nullcontext() if title is None else TransferBar(title) as bar:
        tell = None if bar is None else bar.tell
        return Transfer(
            source, target, max_in_flight=max_in_flight, skip_existing=skip_existing, tell=tell, stop=stop
        ).run()


def _check_in_flight(max_in_flight: int) -> None:
    if max_in_flight < 1:
        raise ConfigurationError(f"max_in_flight must be at least 1: {max_in_flight}")


def _target(uri: str, is_single: bool, create_bucket: bool, skip_existing: bool) -> Target:
    if "://" not in uri:
        raise ConfigurationError("dest_uri has no scheme; write s3://bucket/prefix/, or file:///path", uri=clean(uri))
    is_object = is_single and not uri.endswith("/")
    store, key = locate(uri)
    if uri.partition("://")[0] == "file":
        if create_bucket:
            raise ConfigurationError("a file system has no buckets; directories are made where they are missing", uri=uri)
        return TreeTarget(os.path.dirname(key), os.path.basename(key)) if is_object else TreeTarget(key)
    if is_object and key:
        return StoreTarget(store, lambda _: key, key, create_bucket=create_bucket, skip_existing=skip_existing)
    prefix = as_directory(key) if key else ""
    return StoreTarget(store, prefix.__add__, prefix, create_bucket=create_bucket, skip_existing=skip_existing)
