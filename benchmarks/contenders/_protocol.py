"""What every contender script shares: arguments, the verified warm-up, the timed rounds and their record.

Owns the clocks and the checks, so that they are the same for all; knows no storage library, and imports only the standard library
because it runs in two environments.

A contender is one process that lives through all rounds, as a training job would: it warms up by fetching the whole set once and
comparing the CRC-32 of every object with the manifest, prints `{"ready": true}`, then runs one round for each line on its standard
input and prints one JSON line for it. End of input ends it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import os
import shutil
import statistics
import sys
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from _clock import cpu_ns

BUCKET = "bench"
PUT_BUCKET = "put"
LATENCY_WARM = 200
LATENCY_GETS = 2000


@dataclass(frozen=True)
class Task:
    """What to fetch, and how; filled from the arguments."""

    mode: str
    """`fetch` (whole set, concurrently), `latency` (one get after another), `list` or `put` (concurrently)."""
    variant: str
    """Which of the contender's ways to use; empty if it has one."""
    endpoint: str
    """Of the server; or `file://` and the folder that holds the bucket."""
    set_name: str
    count: int
    size: int
    """Bytes of each object."""
    in_flight: int
    passes: int
    """How many times a timed fetch goes through the set."""
    crc32: tuple[int, ...]
    """From the manifest, by object number."""
    written: Path | None = None
    """The folder in which the server keeps the bucket that is put to."""
    bodies: tuple[bytes, ...] = ()
    """What is put: all different, of `size` bytes."""

    def key(self, number: int) -> str:
        """Names object `number` below the bucket."""
        return f"{self.set_name}/data_{number:05d}.bin"

    def uri(self, number: int) -> str:
        """Names object `number`, in the bucket or in its folder."""
        root = f"{self.endpoint}/" if self.endpoint.startswith("file://") else "s3://"
        return f"{root}{BUCKET}/{self.key(number)}"


class Check:
    """Called for each object, in any thread: `check(number, buffer)`.

    Raises:
        AssertionError: The object has other bytes than the manifest says.
    """

    def __init__(self, task: Task, *, deep: bool) -> None:
        self._task = task
        self._deep = deep
        # One cell a number, so that threads need no lock.
        self._seen = bytearray(task.count)
        self._vouched = 0

    def __call__(self, number: int, buffer: Any) -> None:
        view = memoryview(buffer)
        if len(view) != self._task.size or int.from_bytes(view[:8], "little") != number:
            raise AssertionError(f"object {number}: {len(view)} bytes, beginning with {bytes(view[:8])!r}")
        if self._deep and zlib.crc32(view) != self._task.crc32[number]:
            raise AssertionError(f"object {number}: wrong CRC-32")
        self._seen[number] = 1

    def vouch(self, num_objects: int, num_bytes: int) -> None:
        """Takes a contender's own count, where it shows no bytes (`mp_get` without a sink)."""
        if num_bytes != num_objects * self._task.size:
            raise AssertionError(f"{num_bytes} bytes in {num_objects} objects")
        self._vouched += num_objects

    def finish(self) -> None:
        """Asserts that every object of the set was seen or vouched for."""
        if not all(self._seen) and self._vouched != self._task.count * self._task.passes:
            raise AssertionError(f"seen {sum(self._seen)} and counted {self._vouched} of {self._task.count} objects")


class Client(ABC):
    """One contender's client; made once, before any clock starts."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @abstractmethod
    def fetch(self, numbers: Sequence[int], check: Check) -> None:
        """Fetches the objects, at most `task.in_flight` at a time, and gives each to `check`."""

    @abstractmethod
    def get(self, number: int) -> Any:
        """Fetches one object and returns its bytes."""

    @abstractmethod
    def list_keys(self) -> int:
        """Lists the set and returns how many keys there were."""

    def put(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Writes objects into the bucket `PUT_BUCKET`, by keys, at most `task.in_flight` at a time.

        Raises:
            NotImplementedError: This contender is not asked to.
        """
        raise NotImplementedError

    def num_verified(self) -> int | None:
        """Counts the objects so far whose checksum, as the server gave it, the client has compared; None where it does not say."""
        return None

    def verify(self, check: Check) -> None:
        """Fetches the whole set and gives each object to `check`."""
        self.fetch(range(self.task.count), check)


def in_threads(numbers: Sequence[int], num_threads: int, one: Callable[[int], None]) -> None:
    """Calls `one(number)` for all numbers from threads that draw from one iterator (cheaper than a future for each)."""
    todo = iter(numbers)

    def drain() -> None:
        for number in todo:
            one(number)

    with concurrent.futures.ThreadPoolExecutor(num_threads) as threads:
        for running in [threads.submit(drain) for _ in range(num_threads)]:
            running.result()


def chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Cuts `numbers` into calls of at most `size`."""
    return (numbers[at : at + size] for at in range(0, len(numbers), size))


def main(make_client: Callable[[Task], Client]) -> None:
    """Runs a contender script."""
    answers = claim_answers()
    task = read_task(make_parser().parse_args())
    client = make_client(task)
    warm, measure = {
        "fetch": (_warm_fetch, _fetch),
        "latency": (_warm_latency, _latency),
        "list": (_list, _list),
        "put": (_put, _put),
    }[task.mode]
    warm(client)
    answer(answers, {"ready": True})
    for _ in sys.stdin:
        answer(answers, measure(client))


def claim_answers() -> TextIO:
    """Returns where records are printed."""
    # A library that prints must not break the protocol: its file descriptor 1 becomes standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def answer(answers: TextIO, record: dict[str, Any]) -> None:
    """Prints one record."""
    answers.write(json.dumps(record) + "\n")


def _warm_fetch(client: Client) -> None:
    check = Check(client.task, deep=True)
    client.verify(check)
    check.finish()


def _fetch(client: Client) -> dict[str, Any]:
    task, check = client.task, Check(client.task, deep=False)
    numbers = list(itertools.chain.from_iterable(itertools.repeat(range(task.count), task.passes)))
    # After waiting for the others' turns, caches and connections are cold again: an eighth of the set, untimed.
    client.fetch(range(max(task.in_flight, task.count // 8)), Check(task, deep=False))
    verified = client.num_verified()
    own, tree, started = time.process_time_ns(), cpu_ns(), time.perf_counter()
    client.fetch(numbers, check)
    wall_s, tree_used, own_used = time.perf_counter() - started, cpu_ns() - tree, time.process_time_ns() - own
    check.finish()
    record = {"wall_s": wall_s, "cpu_s": tree_used / 1e9, "own_cpu_s": own_used / 1e9}
    record |= {"objects": len(numbers), "bytes": len(numbers) * task.size, "verified": True}
    return record if verified is None else record | {"num_verified": client.num_verified() - verified}


def _warm_latency(client: Client) -> None:
    check = Check(client.task, deep=True)
    for number in range(client.task.count):
        check(number, client.get(number))
    check.finish()


def _latency(client: Client) -> dict[str, Any]:
    check, spent = Check(client.task, deep=False), []
    for at in range(LATENCY_WARM + LATENCY_GETS):
        number = at % client.task.count
        started = time.perf_counter()
        body = client.get(number)
        spent.append(time.perf_counter() - started)
        check(number, body)
        del body
    measured = sorted(spent[LATENCY_WARM:])
    return {
        "median_s": statistics.median(measured),
        "p99_s": measured[-len(measured) // 100],
        "objects": len(measured),
        "verified": True,
    }


def _list(client: Client) -> dict[str, Any]:
    before, started = cpu_ns(), time.perf_counter()
    num_keys = client.list_keys()
    record = {"wall_s": time.perf_counter() - started, "cpu_s": (cpu_ns() - before) / 1e9, "objects": num_keys}
    if num_keys != client.task.count:
        raise AssertionError(f"listed {num_keys} keys of {client.task.count}")
    return record | {"verified": True}


def _put(client: Client) -> dict[str, Any]:
    """Puts all bodies under new keys, and compares what the server has with them, byte by byte."""
    task = client.task
    assert task.written is not None
    # A new one each time: the server believes that a folder it has seen is still there.
    folder = f"{os.getpid()}-{time.time_ns()}"
    items = [(f"{folder}/{number:05d}", body) for number, body in enumerate(task.bodies)]
    # After waiting for the others' turns, connections are cold again.
    client.put([(f"{key}-warm", body) for key, body in items[: max(task.in_flight, len(items) // 8)]])
    own, tree, started = time.process_time_ns(), cpu_ns(), time.perf_counter()
    client.put(items)
    wall_s, tree_used, own_used = time.perf_counter() - started, cpu_ns() - tree, time.process_time_ns() - own
    for key, body in items:
        if (task.written / key).read_bytes() != body:
            raise AssertionError(f"{key} was not written as it was put")
    shutil.rmtree(task.written / folder)
    record = {"wall_s": wall_s, "cpu_s": tree_used / 1e9, "own_cpu_s": own_used / 1e9}
    return record | {"objects": len(items), "bytes": len(items) * task.size, "verified": True}


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the arguments that all contenders take."""
    parser = argparse.ArgumentParser(description="One contender; started by benchmarks.run.")
    parser.add_argument("endpoint")
    parser.add_argument("set_name")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--mode", default="fetch", choices=["fetch", "latency", "list", "put"])
    parser.add_argument("--variant", default="")
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--written", type=Path, help="the folder in which the server keeps what is put")
    parser.add_argument("--put-bytes", type=int, default=0, help="the size of each object that is put")
    parser.add_argument("--put-count", type=int, default=0, help="how many are put")
    return parser


def read_task(given: argparse.Namespace) -> Task:
    """Returns what the arguments ask for, with what the manifest says of the set."""
    known = json.loads(given.manifest.read_text())[given.set_name]
    crc32 = tuple(known["crc32"])
    bodies = tuple(_cut(given)) if given.mode == "put" else ()
    return Task(
        given.mode,
        given.variant,
        given.endpoint,
        given.set_name,
        len(crc32),
        given.put_bytes or known["size"],
        given.in_flight,
        given.passes,
        crc32,
        given.written,
        bodies,
    )


def _cut(given: argparse.Namespace) -> Iterator[bytes]:
    """Yields pieces of the set's files: as many as are to be put."""
    files = sorted((given.manifest.parent / "data" / BUCKET / given.set_name).iterdir())
    pieces = (body[at : at + given.put_bytes] for body in map(Path.read_bytes, files) for at in range(0, len(body), given.put_bytes))
    return itertools.islice(pieces, given.put_count)
