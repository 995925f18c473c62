"""What the process tests share: contents that can be checked, a served bucket, and a look at the worker processes."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psutil

from tests.support.object_server import ObjectServer

TICK_S = 0.005


def content(name: str, nbytes: int) -> bytes:
    """Returns bytes that no other name has: a swapped, shifted or stale object is never equal."""
    return random.Random(name).randbytes(nbytes)


class Bucket:
    """Objects on an `ObjectServer`, and what they must be read as."""

    def __init__(self, server: ObjectServer, name: str = "bucket") -> None:
        self.server = server
        self.name = name

    def add(self, key: str, nbytes: int) -> str:
        """Makes an object and returns its URI."""
        self.server.objects[self.path(key)] = content(key, nbytes)
        return f"s3://{self.name}/{key}"

    def fill(self, count: int, nbytes: int, prefix: str = "o") -> list[str]:
        """Makes `count` objects of one size and returns their URIs."""
        return [self.add(f"{prefix}{index:04d}", nbytes) for index in range(count)]

    def path(self, key: str) -> str:
        return f"/{self.name}/{key}"

    def data(self, uri: str) -> bytes:
        """Returns what a URI must be read as."""
        return self.server.objects[uri.removeprefix("s3:/")]

    def check(self, pairs: Iterable[tuple[str, Any]]) -> list[str]:
        """Reads pairs to their end, compares every byte, and returns the URIs in the order of delivery."""
        seen = []
        for uri, view in pairs:
            assert bytes(view) == self.data(uri), f"wrong bytes for {uri}"
            seen.append(uri)
        return seen


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Waits until a condition of another process holds; there is no event for it that could be waited on."""
    deadline = time.monotonic() + timeout_s
    tick = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        tick.wait(TICK_S)


def worker_processes(pid: int | None = None) -> list[psutil.Process]:
    """Returns the live worker processes that are children of a process (by default this one), oldest first."""
    found = []
    for child in psutil.Process(pid or os.getpid()).children():
        try:
            if "s3dlio.engine.pool.worker" in child.cmdline():
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return sorted(found, key=lambda process: (process.create_time(), process.pid))


def wait_quiet(pool: Any) -> dict[str, Any]:
    """Waits until a pool has nothing in flight and no memory in use, and returns its stats."""
    wait_until(
        lambda: pool.stats()["in_flight"] == 0 and pool.stats()["memory_used_bytes"] == 0, "the pool has let go of everything"
    )
    return dict(pool.stats())


def alternate(*iterators: Iterator[Any]) -> Iterator[Any]:
    """Yields one item of each in turn, until all are at their end."""
    left = list(iterators)
    while left:
        for iterator in list(left):
            try:
                yield next(iterator)
            except StopIteration:
                left.remove(iterator)
