"""The demo's data set: objects whose every byte follows from their name, made and checked at the speed of memory.

All objects are windows of one random block, laid twice end to end so that each window is contiguous. No two of them are alike, and
expected content is a view: to check an object is one comparison, with nothing computed and nothing copied.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BUCKET = "demo"
_BLOCK_BYTES = 16 << 20
_STEP_BYTES = 8191
"""Distance of two objects' windows; prime and odd, so 2,032 of them neither meet nor share an alignment."""


class Family(NamedTuple):
    """Objects of one size, under one prefix."""

    prefix: str
    num_objects: int
    object_bytes: int
    first_index: int
    """Where the family's windows begin, in steps."""

    @property
    def uri(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}/"

    def __str__(self) -> str:
        unit, base = ("MiB", 1 << 20) if self.object_bytes >= 1 << 20 else ("KiB", 1 << 10)
        return f"{self.num_objects:,} x {self.object_bytes // base} {unit}"


class DemoData:
    """The data set.

    Args:
        scale: Share of the full number of objects: 2,000 of 64 KiB and 32 of 16 MiB; at least one of each.
    """

    def __init__(self, scale: float = 1.0) -> None:
        num_small, num_large = max(1, round(2000 * scale)), max(1, round(32 * scale))
        self.small = Family("small", num_small, 64 << 10, 0)
        self.large = Family("large", num_large, 16 << 20, num_small)
        block = np.random.default_rng(2032).integers(0, 256, _BLOCK_BYTES, dtype=np.uint8)
        self._doubled = np.concatenate((block, block))
        self.expected = {uri: content for family in (self.small, self.large) for uri, content in self._contents(family)}
        """Read-only uint8 view of shape (size,) for each URI."""

    @property
    def num_bytes(self) -> int:
        """How many bytes all objects have together."""
        return sum(content.nbytes for content in self.expected.values())

    def write(self, folder: str) -> Iterator[int]:
        """Writes every object as a file below a folder of buckets; yields its size after each."""
        for uri, content in self.expected.items():
            path = os.path.join(folder, uri.removeprefix("s3://"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content.data)
            yield content.nbytes

    def _contents(self, family: Family) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
        for number in range(family.num_objects):
            start = (family.first_index + number) * _STEP_BYTES % _BLOCK_BYTES
            content = self._doubled[start : start + family.object_bytes]
            content.flags.writeable = False
            yield f"{family.uri}{number:05d}.bin", content
