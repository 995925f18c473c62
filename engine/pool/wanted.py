"""What may be asked of a pool: URIs, and references that pin size and version. Pure."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ..errors import ConfigurationError, InvalidUriError
from ..text import clean
from ..types import ListEntry, ObjectInfo, ObjectRef
from ..uri import parse_uri

Wanted = str | ObjectRef | ObjectInfo | ListEntry
"""What may be fetched: a URI, or a URI with size and version, which are then held to."""

def check_sendable(uri: str, version: str | None) -> None:
    """Refuses names that no message can carry: those of files that are not UTF-8.

    Raises:
        InvalidUriError: There is one.
    """
    try:
        f"{uri}{version}".encode()
    except UnicodeEncodeError:
        raise InvalidUriError("the name is not UTF-8 and cannot be sent to a worker; use get, or procs=0", uri=clean(uri)) from None


_Size = Annotated[int, msgspec.Meta(ge=0)]


def facts_of(wanted: Any) -> tuple[str, int | None, str | None]:
    """Returns URI, size and version of what is not a plain text.

    Raises:
        ConfigurationError: It is no reference, or holds what cannot be a size or a version.
    """
    if not isinstance(wanted, (ObjectRef, ObjectInfo, ListEntry)):
        return str(parse_uri(wanted)), None, None
    uri, size, version = wanted.uri, wanted.size, wanted.version
    try:
        # Nothing checked the types when the reference was made, and a worker would die of them.
        return msgspec.convert((uri, size, version), tuple[str, _Size | None, str | None])
    except msgspec.ValidationError as error:
        raise ConfigurationError("a reference holds a URI, a size in bytes and a version as text", cause=str(error)) from None
