"""How a listing lies in memory: one block of rows (`rows.py`) and columns, filled as the entries come.

The columns say where the row of an object begins, how large the object is, and how long the row. So ten million keys with ETags take half a
GiB, they are never ten million objects of Python, and each is read in a microsecond.

    [ row | row | row | ... | starts: u64 x num_rows | sizes: i64 x num_rows | lengths: u32 x num_rows ]

Rules:

* Entries come in chunks; what all URIs of a chunk begin with is kept once.
* What is to be sorted is sorted within chunks as it comes. Most listings are in order, or nearly so: then nothing is left to do. Others
  have runs, which are merged in the end: the columns change places, the rows stay. An object that a store lists twice is one object.
* The order of URIs is that of their UTF-8 bytes, which is the order of their characters too.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from os.path import commonprefix
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from s3dlio.engine.memory.shared_block import SharedBlock

from .entries import Entry
from .rows import FILE, MAX_BEGINNINGS, UTF8, heads, pack_file_version, pack_version, read_rows

CHUNK: Final = 8192
"""Entries that are objects of Python at one time: 3 MB."""
_READ_AHEAD: Final = 64
"""Entries of one run that are at hand while runs are merged."""


class Packed(NamedTuple):
    """A listing in memory. Pickles as `SharedBlock` does."""

    block: SharedBlock
    num: int
    """Objects: the first so many places of the columns."""
    num_rows: int
    """Places of the columns; more than objects where a store listed objects twice."""
    rows_nbytes: int
    beginnings: tuple[str, ...]
    """What URIs begin with, by the number in the heads of their rows; number 0 is empty."""
    digest: str
    """BLAKE2b-128, in hex, of URIs, sizes and versions in order. The versions of files are left out: they hold inodes, and copies of a
    data set on the disks of several machines are the same data set."""


def pack(entries: Iterable[Entry], is_sorted: bool) -> Packed:
    """Returns the listing of `entries`.

    Args:
        entries: In any order; each is asked for once.
        is_sorted: Whether they are put in the order of their URIs, each once; else they stay as they are.

    Raises:
        ConfigurationError: An entry cannot be packed: a size above 2**63, a version of more than 64 KiB.
        InsufficientMemoryError: The machine has not that much memory.
    """
    packer = _Packer(entries, is_sorted)
    block = SharedBlock.gather(packer.pieces())
    digest = packer.digest.hexdigest()
    packed = Packed(block, packer.num, packer.num, packer.rows_nbytes, tuple(packer.beginnings), digest)
    return _merge(packed, packer.runs) if len(packer.runs) > 1 else packed


class Table:
    """Reads a packed listing.

    Attributes:
        sizes: Of all places, in bytes, -1 where unknown: int64, read-only, over the block.
    """

    def __init__(self, packed: Packed) -> None:
        self._beginnings = packed.beginnings
        self._rows = packed.block.buffer.toreadonly()
        self._starts, self.sizes, self._lengths = _columns(packed, self._rows)

    def read(self, places: NDArray[Any]) -> list[tuple[str, int | None, str | None]]:
        """Returns what an `Entry` has of the objects at `places`, a microsecond each."""
        starts = self._starts[places]
        ends = starts + self._lengths[places]
        found = zip(starts.tolist(), ends.tolist(), self.sizes[places].tolist(), strict=True)
        return read_rows(self._rows, found, self._beginnings)


class _Packer:
    """Makes the pieces of the block from entries, and keeps what is to be known of them in the end."""

    def __init__(self, entries: Iterable[Entry], is_sorted: bool) -> None:
        self._entries = iter(entries)
        self._is_sorted = is_sorted
        self._last = ""
        self._sizes = array("q")
        self._lengths = array("I")
        self.num = 0
        self.rows_nbytes = 0
        self.beginnings = [""]
        self.runs: list[int] = []
        """Places at which runs in ascending order begin."""
        self.digest = _new_digest()

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yields the bytes of the block."""
        while chunk := list(islice(self._entries, CHUNK)):
            rows = self._pack_rows(self._in_order(chunk) if self._is_sorted else chunk)
            self.rows_nbytes += len(rows)
            yield rows
        yield bytes(_aligned(self.rows_nbytes) - self.rows_nbytes)
        lengths = np.frombuffer(self._lengths, np.uint32)
        starts = np.cumsum(lengths, dtype=np.uint64)
        starts -= lengths
        yield starts.data
        del starts
        yield memoryview(self._sizes)
        self._sizes = array("q")
        yield memoryview(self._lengths)

    def _in_order(self, chunk: list[Entry]) -> list[Entry]:
        if not all(one.uri < other.uri for one, other in pairwise(chunk)):
            chunk = sorted({entry.uri: entry for entry in reversed(chunk)}.values())
        if not self.num or chunk[0].uri <= self._last:
            self.runs.append(self.num)
        self._last = chunk[-1].uri
        return chunk

    def _pack_rows(self, chunk: list[Entry]) -> bytes:
        number = self._number_of(commonprefix([entry.uri for entry in chunk]))  # noqa: RUF071 - of texts, not of paths
        cut, head_of = len(self.beginnings[number]), heads(number)
        rows, texts = [], []
        for entry in chunk:
            uri, size, version = entry
            form, packed = pack_version(entry)
            rows.append(head_of[form] + packed + uri[cut:].encode(*UTF8))
            texts.append(_digest_text(uri, size, None if form == FILE else version))
        self._lengths.extend(map(len, rows))
        self._sizes.extend(-1 if entry.size is None else entry.size for entry in chunk)
        self.digest.update("".join(texts).encode(*UTF8))
        self.num += len(rows)
        return b"".join(rows)

    def _number_of(self, beginning: str) -> int:
        if beginning != self.beginnings[-1]:
            if len(self.beginnings) == MAX_BEGINNINGS:
                return 0
            self.beginnings.append(beginning)
        return len(self.beginnings) - 1


def _merge(packed: Packed, runs: list[int]) -> Packed:
    """Returns a listing whose runs are merged, each URI once."""
    table, digest, order = Table(packed), _new_digest(), array("I")
    last = None
    for uri, place, size, version in heapq.merge(*(_read_run(table, *run) for run in pairwise([*runs, packed.num]))):
        if uri != last:
            order.append(place)
            is_pin = version is not None and pack_file_version(size, version) is not None
            digest.update(_digest_text(uri, size, None if is_pin else version).encode(*UTF8))
        last = uri
    for column in _columns(packed, packed.block.buffer):
        column[: len(order)] = column[np.frombuffer(order, np.uint32)]
    return packed._replace(num=len(order), digest=digest.hexdigest())


def _read_run(table: Table, begin: int, end: int) -> Iterator[tuple[str, int, int | None, str | None]]:
    for first in range(begin, end, _READ_AHEAD):
        places = range(first, min(first + _READ_AHEAD, end))
        for place, (uri, size, version) in zip(places, table.read(np.array(places)), strict=True):
            yield uri, place, size, version


def _columns(packed: Packed, buffer: memoryview) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint32]]:
    """Returns starts, sizes and lengths over a buffer of the block."""
    num, at = packed.num_rows, _aligned(packed.rows_nbytes)
    return (
        np.frombuffer(buffer, np.uint64, num, at),
        np.frombuffer(buffer, np.int64, num, at + 8 * num),
        np.frombuffer(buffer, np.uint32, num, at + 16 * num),
    )


def _aligned(nbytes: int) -> int:
    return (nbytes + 7) & -8


def _new_digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def _digest_text(uri: str, size: int | None, version: str | None) -> str:
    """Returns the text that stands for an entry in the digest; no two sequences of entries have the same."""
    if version is None:
        return f"{len(uri)} {uri} {size}\n"
    return f"{len(uri)} {uri} {size} {len(version)} {version}\n"
