"""PyPI s3dlio's data sets, `iterable` and `map`. A way is a number of DataLoader workers.

`iterable` has no way 2: each of the two workers delivers every sample, also with `enable_sharding`.
"""

from __future__ import annotations

from typing import Any

import torch
from _loading import BATCH_SIZE, main, prefix
from _protocol import Task
from torch.utils.data import DataLoader, Dataset

import s3dlio

_PREFETCH = 32


class Objects(Dataset[torch.Tensor]):
    """Its map data set, made in the process that uses it: a worker that is forked after it was made hangs."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._made: Any = None

    def __len__(self) -> int:
        return self._task.count

    def __getitem__(self, number: int) -> torch.Tensor:
        if self._made is None:
            self._made = s3dlio.ObjectStoreMapDataset(prefix(self._task))
        return self._made[number]


def open_way(task: Task, way: str) -> DataLoader[Any]:
    """Makes a data set and its loader."""
    dataset: Any = Objects(task)
    if task.variant == "iterable":
        dataset = s3dlio.ObjectStoreIterableDataset.from_prefix(prefix(task), prefetch=_PREFETCH, enable_sharding=True)
    return DataLoader(dataset, BATCH_SIZE, num_workers=int(way), persistent_workers=way != "0")


main(open_way)
