"""The commands on one object or one listing: ls, stat, get, put, cp, mv, list-buckets.

Results go to standard output, and text in them is escaped (K4): a key may hold what a terminal obeys. Errors are raised, never printed.
"""

from __future__ import annotations

import json
import os
import stat as stat_module
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import ConfigurationError, IsADirectoryUriError
from ..ops.buckets import list_containers
from ..ops.copies import copy, rename
from ..ops.objects import get, list_iter, put_bytes, stat
from ..text import clean
from ..types import ListEntry
from ..uri import as_directory

_SIZE_CHARS = 15
_DATE_CHARS = 20


def show_list(uri: str, recursive: bool, pattern: str | None, is_long: bool) -> None:
    """Prints a listing as it arrives, one URI a line."""
    describe = _long_line if is_long else _short_line
    for entry in list_iter(uri, recursive, pattern):
        sys.stdout.write(describe(entry))


def _short_line(entry: ListEntry) -> str:
    return f"{clean(entry.uri)}\n"


def _long_line(entry: ListEntry) -> str:
    size = "PRE" if entry.size is None else str(entry.size)
    date = clean(entry.last_modified or "-")
    return f"{size:>{_SIZE_CHARS}}  {date:<{_DATE_CHARS}}  {clean(entry.uri)}\n"


def show_stat(uri: str, is_json: bool) -> None:
    """Prints what is known of an object: a table of the facts that the store knows, or all of them as JSON."""
    facts: dict[str, Any] = {"uri": uri, **stat(uri)}
    if is_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in facts.items():
        if name == "metadata":
            for key, text in value.items():
                table.add_row(Text(clean(f"metadata.{key}"), style="cyan"), Text(clean(text)))
        elif value is not None:
            shown = f"{value:,} bytes" if name == "size" else str(value)
            table.add_row(Text(name, style="cyan"), Text(clean(shown), overflow="fold"))
    Console().print(table)


def download(uri: str, output: str | None) -> None:
    """Writes an object to a file, which appears whole or not at all, or to standard output.

    Raises:
        ConfigurationError: No file is named, standard output is a terminal, and the bytes are no plain text.
        IsADirectoryUriError: `output` is a directory.
    """
    if output in (None, "-"):
        _write_to_stdout(uri)
        return
    assert output is not None
    # A symbolic link keeps pointing to what is written.
    path = os.path.realpath(output)
    mode = os.stat(path).st_mode if os.path.exists(path) else stat_module.S_IFREG
    if stat_module.S_ISDIR(mode) or output.endswith("/"):
        raise IsADirectoryUriError("this is a directory; -o names a file", uri=output)
    view = get(uri)
    if stat_module.S_ISREG(mode):
        put_bytes(f"file://{path}", view)
    else:
        # A rename would put a file in the place of a device or a pipe: `-o /dev/null` as root.
        with open(path, "wb") as file:
            file.write(view.data)


def _write_to_stdout(uri: str) -> None:
    view = get(uri).data
    if sys.stdout.isatty() and not _is_plain_text(view):
        raise ConfigurationError("the object is binary; write it to a file with -o FILE, or into a pipe", uri=uri)
    sys.stdout.flush()
    sys.stdout.buffer.write(view)
    sys.stdout.buffer.flush()


def _is_plain_text(data: memoryview) -> bool:
    """Whether a terminal may have it: UTF-8 with no control character but newline, carriage return and tab."""
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return text.translate(dict.fromkeys(map(ord, "\n\r\t"))).isprintable()


def upload(file: str, uri: str) -> None:
    """Writes a file, or standard input for `-`, as an object; under a URI that ends in `/` it gets the file's name.

    Raises:
        ConfigurationError: Standard input has no name to add to a URI that ends in `/`.
    """
    if uri.endswith("/"):
        if file == "-":
            raise ConfigurationError("standard input has no name; write the whole key", uri=uri)
        uri += os.path.basename(os.path.abspath(file))
    put_bytes(uri, sys.stdin.buffer.read() if file == "-" else get(f"file://{os.path.abspath(file)}"))


def copy_one(source: str, target: str) -> None:
    """Copies one object; both ends are URIs or local paths.

    Raises:
        ConfigurationError: The source ends in `/`.
    """
    copy(*_ends(source, target))


def move_one(source: str, target: str) -> None:
    """Moves one object; both ends are URIs or local paths.

    Raises:
        ConfigurationError: The source ends in `/`.
    """
    rename(*_ends(source, target))


def _ends(source: str, target: str) -> tuple[str, str]:
    if source.endswith("/"):
        # Where a marker object has that name, it alone would go.
        raise ConfigurationError("this is no object but a directory or prefix; upload and download take trees", uri=source)
    is_folder = target.endswith("/") or ("://" not in target and os.path.isdir(target))
    source, target = _as_uri(source), _as_uri(target)
    return source, as_directory(target) + source.rpartition("/")[2] if is_folder else target


def _as_uri(text: str) -> str:
    return text if "://" in text else f"file://{os.path.abspath(text)}"


def show_buckets(uri: str, is_json: bool) -> None:
    """Prints the buckets of an account, one a line after its date, or as JSON."""
    found = list_containers(uri)
    if is_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for bucket in found:
        date = clean(bucket["creation_date"] or "-")
        sys.stdout.write(f"{date:<{_DATE_CHARS}}  {clean(bucket['uri'])}\n")
