"""Where the conformance suite runs: sites (a store, a lane, a form of calling) and places (what one test has of a site).

Owns: how a test writes and reads around the store under test, and how one text of a test calls both forms of a verb.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import s3dlio
from tests.conformance.oracles import Buckets, Facts, Oracle, new_name


class Verbs:
    """The verbs of s3dlio, called, or awaited: `verbs.get(uri)` is `s3dlio.get(uri)` or `await s3dlio.get_async(uri)`."""

    def __init__(self, runner: asyncio.Runner | None) -> None:
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if self._runner is None:
            return getattr(s3dlio, name)
        runner, function = self._runner, getattr(s3dlio, f"{name}_async")

        async def awaited(*args: Any, **more: Any) -> Any:
            return await function(*args, **more)

        return lambda *args, **more: runner.run(awaited(*args, **more))


@dataclass(frozen=True)
class Place:
    """A root to put objects under, which is this test's alone, and the oracle of what lies there."""

    name: str
    """Of the store: memory, file, direct, moto, rclone, gs, az."""
    lane: str
    """fast, or sdk."""
    verbs: Verbs
    oracle: Oracle
    prefix: str = ""
    """What every key of this place begins with, in its bucket; ends in `/`."""

    @property
    def root(self) -> str:
        """Ends in `/`."""
        return self.oracle.root + self.prefix

    @property
    def is_file(self) -> bool:
        return self.name in {"file", "direct"}

    def uri(self, key: str) -> str:
        return self.root + key

    def write(self, key: str, data: bytes) -> None:
        self.oracle.write(self.prefix + key, data)

    def read(self, key: str) -> bytes | None:
        """Returns the bytes of a key, or None where there is none."""
        return self.oracle.read(self.prefix + key)

    def fill(self, *keys: str) -> None:
        """Writes objects whose size and bytes tell them apart."""
        for key in keys:
            self.write(key, key.encode())

    def keys(self) -> list[str]:
        """Returns all keys of this place, sorted."""
        return [key.removeprefix(self.prefix) for key in self.oracle.keys(self.prefix)]

    def facts(self, key: str) -> Facts:
        return self.oracle.facts(self.prefix + key)

    def contents(self) -> dict[str, bytes | None]:
        """Returns all that lies here."""
        return {key: self.read(key) for key in self.keys()}


@dataclass
class Site:
    """One store on one lane, in one form of calling. The environment points at it, and connections stay open, as long as it is there."""

    name: str
    lane: str
    runner: asyncio.Runner | None
    """None where verbs are called, and not awaited."""
    new_oracle: Callable[[], Oracle]
    """Gives a bucket or folder that nobody has."""
    buckets: Buckets | None
    """None for file systems."""
    has_cheap_roots: bool
    """Whether each test has an oracle of its own; otherwise they share a bucket, each below a prefix."""

    def __post_init__(self) -> None:
        self.verbs = Verbs(self.runner)
        self._shared: Oracle | None = None
        self._numbers = itertools.count(1)

    def new_place(self) -> Place:
        """Returns an empty place."""
        if self.has_cheap_roots:
            return self.new_root()
        self._shared = self._shared or self.new_oracle()
        return Place(self.name, self.lane, self.verbs, self._shared, f"t{next(self._numbers)}/")

    def new_root(self) -> Place:
        """Returns an empty place that is a whole bucket."""
        return Place(self.name, self.lane, self.verbs, self.new_oracle())


def bucket_site(name: str, lane: str, runner: asyncio.Runner | None, buckets: Buckets, has_cheap_roots: bool = False) -> Site:
    """Returns a site of a store that has buckets."""
    return Site(name, lane, runner, lambda: buckets.create(new_name()), buckets, has_cheap_roots)
