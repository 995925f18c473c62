"""Which key becomes which file, and what is the same on both sides: the decisions of transfers. Pure.

A key is any text, and a path is not. The name of a file below the target is the key after the prefix, taken as it is: a key that would
have to be changed for that is refused, for two keys might become one file, and some of them were made to leave the directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from ..errors import AlreadyExistsError, S3dlioError, UnsafeNameError
from ..stores.base import Store

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_DRIVE: Final = re.compile("[A-Za-z]:")


class Item(NamedTuple):
    """One object that is to be transferred."""

    uri: str
    store: Store
    key: str
    name: str
    """What it is called below the source, and will be below the target; ends in `/` for the marker of a directory."""
    size: int
    """Bytes; what is read must have as many."""
    version: str | None
    """As in `ObjectRef`; what is read must have it."""
    last_modified: str | None
    """ISO-8601, UTC."""


class Refused(NamedTuple):
    """Something that will not be transferred, and why."""

    uri: str
    error: S3dlioError


Found = Item | Refused


def path_of(name: str, uri: str) -> tuple[str, ...]:
    """Returns the names of the directories, and of the file, that `name` stands for below the target.

    Raises:
        UnsafeNameError: It stands for none: it is absolute, has an empty part, `.`, `..`, a backslash, a control character, a drive letter
            in front, or is no UTF-8.
    """
    parts = tuple(name.split("/"))
    if any(part in ("", ".", "..") for part in parts):
        why = "a leading /, an empty part, . or .."
    elif "\\" in name:
        why = "a backslash"
    elif _CONTROL.search(name):
        why = "a control character"
    elif _DRIVE.match(name):
        why = "a drive letter"
    elif not _is_utf8(name):
        why = "what is no Unicode"
    else:
        return parts
    raise UnsafeNameError(f"the key has {why}, so no file can have its name below the target", uri=uri)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Shadows:
    """Keeps a key that is also the directory of others (`a` beside `a/b`) from being written: it is refused, the others go on (case K3).

    Right for keys in the order of their text, in which all that begins with `a` comes together. Only those keys are held back that the
    one just seen begins with. In another order the file system refuses the one that comes later.
    """

    def __init__(self) -> None:
        self._held: list[Item] = []

    def add(self, item: Item) -> Iterator[Found]:
        """Takes the next key in order; yields those that are decided."""
        while self._held and not item.name.startswith(self._held[-1].name):
            yield self._held.pop()
        kept = []
        for held in self._held:
            if item.name.startswith(f"{held.name}/"):
                why = f"the key is also the directory of {item.uri}, so no file can have its name"
                yield Refused(held.uri, AlreadyExistsError(why, uri=held.uri))
            else:
                kept.append(held)
        self._held = [*kept, item]

    def end(self) -> Iterator[Found]:
        """Yields what is still held."""
        yield from self._held
        self._held = []


def distinct(found: Iterable[Found]) -> Iterator[Found]:
    """Refuses what would be called as something before it, from another of several sources."""
    seen: dict[str, str] = {}
    for one in found:
        if isinstance(one, Item) and seen.setdefault(one.name, one.uri) is not one.uri:
            why = f"{seen[one.name]} comes to the same place"
            yield Refused(one.uri, AlreadyExistsError(why, uri=one.uri))
        else:
            yield one


def time_ns(last_modified: str | None) -> int | None:
    """Returns a time of a listing in nanoseconds since 1970; None where it is none."""
    if last_modified is None:
        return None
    try:
        moment = datetime.fromisoformat(last_modified)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000


def is_up_to_date(source: Item, size: int | None, last_modified: str | None) -> bool:
    """Whether an object that is there already may be taken for a copy of `source`: of its size, and written after it was changed.

    A second that both share is not after: the file may have been changed in it once more.
    """
    changed_ns, written_ns = time_ns(source.last_modified), time_ns(last_modified)
    if size != source.size or changed_ns is None or written_ns is None:
        return False
    return written_ns // 10**9 > changed_ns // 10**9
