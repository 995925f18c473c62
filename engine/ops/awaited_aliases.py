"""Other names of verbs, for callers who await."""

from __future__ import annotations

import builtins
import re
from typing import TYPE_CHECKING, Any

from . import awaited
from .aliases import relative_keys

if TYPE_CHECKING:
    from ..memory.view import BytesView


async def list_full_uris_async(
    uri: str, recursive: bool = False, pattern: str | re.Pattern[str] | None = None
) -> builtins.list[str]:
    """Returns the sorted URIs below `uri`, as `list`."""
    return await awaited.list_async(uri, recursive, pattern)


async def list_keys_async(
    uri: str, recursive: bool = False, pattern: str | re.Pattern[str] | None = None
) -> builtins.list[str]:
    """Returns what `list` returns, relative to `uri`, as `list_keys`."""
    return relative_keys(uri, await awaited.list_async(uri, recursive, pattern))


async def get_object_async(uri: str) -> BytesView:
    """Returns a whole object, as `get`."""
    return await awaited.get_async(uri)


async def stat_object_async(uri: str) -> dict[str, Any]:
    """Returns the facts of an object, as `stat`."""
    return await awaited.stat_async(uri)
