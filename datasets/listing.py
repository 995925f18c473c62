"""The objects of a data set, in the order from which every other order is made.

Owns the ways to a listing: a prefix, a list, a manifest. How it lies in memory stands in `packing.py`. It is made once, by the process
that makes the data set; processes that this one starts read the same memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from s3dlio.engine.errors import ConfigurationError, NotFoundError
from s3dlio.engine.ops.objects import list_iter
from s3dlio.engine.text import clean
from s3dlio.engine.types import ObjectRef
from s3dlio.engine.uri import as_directory, parse_uri

from .entries import Entry, entry_of
from .manifest import read_manifest
from .packing import Packed, Table, pack

if TYPE_CHECKING:
    from s3dlio.engine.pool.wanted import Wanted


class Listing:
    """Immutable: URIs, sizes and versions by position. It pickles by descriptor into a process that is being started, else by value.

    Attributes:
        name: What it was made of, for messages: the URI of the prefix or of the manifest.
    """

    __slots__ = ("__weakref__", "_packed", "_table", "name")

    def __init__(self, packed: Packed, name: str) -> None:
        """Use `list_prefix`, `from_uris` or `from_manifest`.

        Args:
            packed: The objects.
            name: As the attribute.
        """
        self._packed = packed
        self._table = Table(packed)
        self.name = name

    def __len__(self) -> int:
        return self._packed.num

    @property
    def digest(self) -> str:
        """32 hex digits that two listings share only if they have the same objects in the same order: `Packed.digest`."""
        return self._packed.digest

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each object, -1 where unknown: int64, shape (len,), read-only, over the shared memory."""
        return self._table.sizes[: self._packed.num]

    def uri(self, position: int) -> str:
        """Returns the URI of an object.

        Raises:
            IndexError: There is no such position; negative ones are none.
        """
        return self.ref(position).uri

    def ref(self, position: int) -> ObjectRef:
        """Returns the reference of an object, with the size and the version that are known.

        Raises:
            IndexError: As `uri`.
        """
        return self.refs((position,))[0]

    def refs(self, positions: Iterable[int] | NDArray[Any]) -> list[ObjectRef]:
        """Returns the references of several objects, a microsecond each.

        Raises:
            IndexError: As `uri`.
        """
        places = np.asarray(positions if isinstance(positions, np.ndarray) else list(positions), np.int64)
        if places.size and not 0 <= (first := int(places.min())) <= (last := int(places.max())) < len(self):
            raise IndexError(f"there is no position {first if first < 0 else last} in a listing of {len(self)} objects")
        return [ObjectRef(uri, size, version) for uri, size, version in self._table.read(places)]

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Listing, (self._packed, self.name)

    def __repr__(self) -> str:
        return f"Listing({self.name!r}, {len(self)} objects, digest={self.digest})"


def list_prefix(uri: str, pattern: str | re.Pattern[str] | None = None) -> Listing:
    """Lists everything below a prefix, sorted by the bytes of the URIs; keys without bytes that end in `/` stand for directories.

    Args:
        uri: The prefix; a `/` is added where there is none at its end.
        pattern: Which keys: as in `s3dlio.list`.

    Raises:
        NotFoundError: There is nothing below the prefix, or nothing that the pattern asks for.
        ConfigurationError: The URI or the pattern cannot be read.
        S3dlioError: As the store says.
    """
    prefix = as_directory(str(parse_uri(uri)))
    listing = Listing(pack(_objects_below(prefix, pattern), is_sorted=True), _name_with(prefix, pattern))
    if len(listing):
        return listing
    if pattern is not None and next(_objects_below(prefix, None), None) is not None:
        raise NotFoundError(
            f"none of the objects below this prefix matches the pattern {_text_of(pattern)!r}", uri=prefix
        )
    raise NotFoundError("there are no objects below this prefix", uri=prefix)


def from_uris(uris: Iterable[Wanted]) -> Listing:
    """Returns the listing of the objects that are given, in the order given; one that is given twice is in it twice.

    Args:
        uris: URIs, or what `list_iter` and `stat` say of objects, whose sizes and versions are then held to.

    Raises:
        ConfigurationError: One of them is no object; the text says which.
    """
    if isinstance(uris, (str, bytes)):
        raise ConfigurationError("a list of URIs is not one text; a prefix is given by itself")
    packed = pack(_given(uris), is_sorted=False)
    return Listing(packed, f"a list of {packed.num} URIs")


def from_manifest(uri: str) -> Listing:
    """Returns the listing of the objects that a file names, in its order. What may stand there is said in `manifest.py`.

    Raises:
        ConfigurationError: A line cannot be read, or there is none.
        NotFoundError: There is no such file.
        S3dlioError: As the store says.
    """
    name = str(parse_uri(uri))
    listing = Listing(pack(read_manifest(name), is_sorted=False), name)
    if not len(listing):
        raise ConfigurationError("the manifest names no objects", uri=name)
    return listing


def _objects_below(prefix: str, pattern: str | re.Pattern[str] | None) -> Iterator[Entry]:
    for found in list_iter(prefix, recursive=True, pattern=pattern):
        if found.size is not None and (found.size or not found.uri.endswith("/")):
            yield Entry(found.uri, found.size, found.version)


def _given(uris: Iterable[Wanted]) -> Iterator[Entry]:
    for number, wanted in enumerate(uris):
        try:
            yield entry_of(wanted)
        except ConfigurationError as error:
            raise type(error)(
                f"entry {number} of the list: {error.message}", uri=error.uri, cause=error.cause
            ) from None


def _name_with(prefix: str, pattern: str | re.Pattern[str] | None) -> str:
    return prefix if pattern is None else f"{prefix} ({_text_of(pattern)})"


def _text_of(pattern: str | re.Pattern[str]) -> str:
    return clean(pattern if isinstance(pattern, str) else pattern.pattern)
