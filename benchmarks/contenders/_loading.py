"""What every loader script shares: ways of loading, the verified first epochs, the timed ones and their record.

Owns the clocks and the checks, so that they are the same for all; knows no storage library.

A loader is one process for one kind of data set, in which each way (a number of workers) has a data set of its own that lives through
all epochs. Each way first reads one epoch in which the CRC-32 of every object is compared with the manifest; then the process prints
`{"ready": true}`, and for each line `round <way>` it times one epoch of that way and prints a record. Every way hands over batches of
the same form, uint8 tensors `[batch, nbytes]`, so that nobody leaves the stacking to somebody else.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from _clock import cpu_ns
from _protocol import BUCKET, Task, answer, claim_answers, make_parser, read_task

BATCH_SIZE = 32

Open = Callable[[Task, str], Iterable[Any]]
"""Makes the data set of a way, and its loader; iterating over it is one epoch of batches."""


class Epoch:
    """Checks that the batches of an epoch hold each object of the set exactly once."""

    def __init__(self, task: Task, *, deep: bool) -> None:
        self._task = task
        self._deep = deep
        self._numbers: list[Any] = []

    def take(self, batch: Any) -> None:
        """Reads the number of each object of a batch, and with `deep` its CRC-32.

        Raises:
            AssertionError: It is no batch, or an object has other bytes than the manifest says.
        """
        array = batch.numpy()
        if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != self._task.size or len(array) > BATCH_SIZE:
            raise AssertionError(f"a batch of {array.shape}, {array.dtype}")
        numbers = array[:, :8].copy().view("<u8")[:, 0]
        self._numbers.append(numbers)
        if self._deep:
            for number, row in zip(numbers.tolist(), array, strict=True):
                if zlib.crc32(row) != self._task.crc32[number]:
                    raise AssertionError(f"object {number}: wrong CRC-32")

    def finish(self) -> None:
        """Asserts that each object came once."""
        numbers = np.concatenate(self._numbers).astype(np.int64)
        if len(numbers) != self._task.count or not np.array_equal(np.sort(numbers), np.arange(self._task.count)):
            raise AssertionError(
                f"{len(numbers)} samples, {len(np.unique(numbers))} different ones, of {self._task.count}"
            )


def prefix(task: Task) -> str:
    """Names the whole set."""
    return f"s3://{BUCKET}/{task.set_name}/"


def uris(task: Task) -> list[str]:
    """Names each object of the set."""
    return [task.uri(number) for number in range(task.count)]


def main(open_way: Open) -> None:
    """Runs a loader script."""
    answers = claim_answers()
    # More threads than this spin while a batch is collated in the training process, on cores that the server and the workers need.
    torch.set_num_threads(1)
    parser = make_parser()
    parser.add_argument(
        "--ways", required=True, help="with commas; those that fork first, so that they fork a process without a client"
    )
    given = parser.parse_args()
    task = read_task(given)
    loaders = {}
    for way in given.ways.split(","):
        loaders[way] = open_way(task, way)
        _read(task, loaders[way], deep=True)
    answer(answers, {"ready": True})
    for line in sys.stdin:
        answer(answers, _measure(task, loaders[line.split()[1]]))


def _read(task: Task, loader: Iterable[Any], *, deep: bool) -> Epoch:
    epoch = Epoch(task, deep=deep)
    for batch in loader:
        epoch.take(batch)
    return epoch


def _measure(task: Task, loader: Iterable[Any]) -> dict[str, Any]:
    own, tree, started = time.process_time_ns(), cpu_ns(), time.perf_counter()
    epoch = _read(task, loader, deep=False)
    wall_s, tree_used, own_used = time.perf_counter() - started, cpu_ns() - tree, time.process_time_ns() - own
    epoch.finish()
    record = {"wall_s": wall_s, "cpu_s": tree_used / 1e9, "own_cpu_s": own_used / 1e9}
    return record | {"objects": task.count, "bytes": task.count * task.size, "verified": True}
