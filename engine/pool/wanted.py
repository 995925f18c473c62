"""What may be asked of a pool: URIs, references that pin size and version, and groups of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from ..errors import ConfigurationError, InvalidUriError
from ..text import clean
from ..types import ListEntry, ObjectInfo, ObjectRef
from ..uri import parse_uri

Wanted = str | ObjectRef | ObjectInfo | ListEntry
"""What may be fetched: a URI, or a URI with size and version, which are then held to."""


class Group(msgspec.Struct, frozen=True, eq=False):
    """Objects that are to lie in one slot, at equal distances: a batch that needs no collation.

    Object i is written to [i * stride, i * stride + size) of a slot of `len(refs) * stride` bytes. What lies behind it is undefined.

    Raises:
        ConfigurationError: There is no object, or the stride is no number of bytes.
    """

    refs: Sequence[Wanted]
    stride: int
    """Bytes from one object to the next, at least as many as the largest has: a longer one is an error of its own."""

    def __post_init__(self) -> None:
        """Checks it, before anything is asked of anybody."""
        if len(self.refs) == 0:
            raise ConfigurationError("a group holds at least one object")
        if type(self.stride) is not int or self.stride < 0:
            raise ConfigurationError(f"a stride is a number of bytes, as an int, not {self.stride!r}")

    def __repr__(self) -> str:
        return f"Group({len(self.refs)} objects, stride={self.stride})"


def check_sendable(uri: str, version: str | None) -> None:
    """Refuses names that no message can carry: those of files that are not UTF-8.

    Raises:
        InvalidUriError: There is one.
    """
    try:
        f"{uri}{version}".encode()
    except UnicodeEncodeError:
        raise InvalidUriError("the name is not UTF-8 and cannot be sent to a worker; use get, or procs=0", uri=clean(uri)) from None


# Made once: to put a type together costs more than to convert to it.
_Facts = tuple[str, Annotated[int, msgspec.Meta(ge=0)] | None, str | None]


def facts_of(wanted: Any) -> tuple[str, int | None, str | None]:
    """Returns URI, size and version of what is not a plain text.

    Raises:
        ConfigurationError: It is no reference, or holds what cannot be a size or a version.
    """
    if not isinstance(wanted, (ObjectRef, ObjectInfo, ListEntry)):
        return str(parse_uri(wanted)), None, None
    uri, size, version = wanted.uri, wanted.size, wanted.version
    # Nothing checked the types when the reference was made, and a worker would die of them. What is right, as nearly every one is, is
    # seen by hand: msgspec takes 3 us, and there is one for each object of a batch.
    if type(uri) is str and (version is None or type(version) is str) and (size is None or (type(size) is int and size >= 0)):
        return uri, size, version
    try:
        facts: tuple[str, int | None, str | None] = msgspec.convert((uri, size, version), _Facts)
    except msgspec.ValidationError as error:
        raise ConfigurationError("a reference holds a URI, a size in bytes and a version as text", cause=str(error)) from None
    return facts
