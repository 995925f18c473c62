"""One object, as a listing is given it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from s3dlio.engine.errors import ConfigurationError
from s3dlio.engine.pool.wanted import facts_of
from s3dlio.engine.types import ListEntry
from s3dlio.engine.uri import parse_uri

if TYPE_CHECKING:
    from s3dlio.engine.pool.wanted import Wanted


class Entry(NamedTuple):
    """What a listing holds of an object."""

    uri: str
    size: int | None
    version: str | None


def entry_of(wanted: Wanted) -> Entry:
    """Returns the entry of what somebody wants to be read.

    Raises:
        ConfigurationError: It is no object: no URI, a bucket, a child prefix of a listing.
    """
    if isinstance(wanted, str):
        parts = parse_uri(wanted)
        entry = Entry(str(parts), None, None)
    else:
        entry = Entry(*facts_of(wanted))
        parts = parse_uri(entry.uri)
        if isinstance(wanted, ListEntry) and wanted.is_prefix and entry.uri.endswith("/"):
            raise ConfigurationError("this is a prefix, not an object; list with recursive=True", uri=entry.uri)
    if not parts.key:
        raise ConfigurationError("an object needs a key", uri=entry.uri)
    return entry
