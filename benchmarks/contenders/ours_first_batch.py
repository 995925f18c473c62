"""Prints how long `iter()` takes to the first batch, in a fresh process and in its second epoch: `ours_first_batch.py set`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

import s3dlio

BATCH_SIZE = 32
make = s3dlio.ObjectStoreIterableDataset


def first(dataset: Any) -> tuple[float, Iterator[torch.Tensor]]:
    """Begins an epoch; returns the seconds to its first batch, and what is left of it."""
    began = time.perf_counter()
    batches = iter(dataset)
    batch = next(batches)
    spent_s = time.perf_counter() - began
    numbers = batch[:, :8].contiguous().view(torch.int64)[:, 0]
    if not torch.equal(numbers, torch.arange(BATCH_SIZE)):
        raise AssertionError(f"objects {numbers.tolist()}")
    return spent_s, batches


# Under the guard, because a program that starts processes is expected to have one; this package does not need it.
if __name__ == "__main__":
    started = time.perf_counter()
    dataset = make(f"s3://bench/{sys.argv[1]}/", batch_size=BATCH_SIZE, procs=2)
    made_s = time.perf_counter() - started
    first_s, rest = first(dataset)
    left = sum(len(batch) for batch in rest)
    second_s, _ = first(dataset)
    print(json.dumps({"made_s": made_s, "first_s": first_s, "second_s": second_s, "samples": BATCH_SIZE + left}))
