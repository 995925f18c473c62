"""From the arguments of a data set to its options and its listing; shared by all frameworks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from s3dlio.engine.errors import ConfigurationError

from .legacy import merge, translate
from .listing import from_manifest, from_uris, list_prefix
from .options import Options

if TYPE_CHECKING:
    from .listing import Listing

_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Options)}


def make_options(given: Mapping[str, Any], loader_opts: Mapping[str, Any] | None, older: Mapping[str, Any]) -> Options:
    """Returns the options of a data set.

    Args:
        given: Its own arguments, defaults included.
        loader_opts: Options of the original s3dlio.
        older: Keyword arguments of the original.

    Raises:
        ConfigurationError: One makes no sense, is replaced by something else, or is given twice.
    """
    chosen = {name: _plain(value) for name, value in given.items() if value is not _DEFAULTS[name]}
    translated = translate_all(loader_opts, older)
    unknown = translated.keys() - _DEFAULTS.keys()
    if unknown:
        raise ConfigurationError(f"{min(unknown)} is not an argument of this data set")
    return Options(**merge(chosen, translated, "loader_opts"))


def translate_all(loader_opts: Mapping[str, Any] | None, older: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of today that those of the original stand for.

    Raises:
        ConfigurationError: One is replaced by something else, or is given twice.
    """
    if loader_opts is not None and not isinstance(loader_opts, Mapping):
        raise ConfigurationError(f"loader_opts is a dict, not {type(loader_opts).__name__}")
    return merge(translate(older), translate(loader_opts or {}), "loader_opts")


def _plain(value: Any) -> Any:
    """Returns a number of numpy as Python's own."""
    return value.item() if isinstance(value, (np.integer, np.bool_)) else value


def read_listing(uri: Any, pattern: Any, manifest: str | None) -> tuple[Listing, float]:
    """Returns the objects of a data set, and how long it took to list them, in seconds.

    Args:
        uri: A prefix, or the objects themselves.
        pattern: Which keys below the prefix; only of a prefix.
        manifest: In place of `uri`, the URI of a file that names them.

    Raises:
        ConfigurationError: Neither or both are given.
        NotFoundError: There is nothing to read.
        S3dlioError: As the store says.
    """
    begun_s = time.perf_counter()
    if (uri is None) == (manifest is None):
        raise ConfigurationError("a data set is made of uri=, a prefix or a list of URIs, or of manifest=")
    if isinstance(uri, str):
        listing = list_prefix(uri, pattern)
    elif pattern is not None:
        raise ConfigurationError(
            "pattern chooses among the keys below a prefix; a list or a manifest says itself what is wanted"
        )
    elif manifest is not None:
        listing = from_manifest(manifest)
    elif isinstance(uri, Iterable):
        listing = from_uris(uri)
    else:
        raise ConfigurationError(f"uri is a prefix or a list of URIs, not {type(uri).__name__}")
    return listing, time.perf_counter() - begun_s
