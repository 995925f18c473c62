"""This package's data sets: `iterable` of a prefix, `list` of URIs whose sizes nobody has listed, and `map`.

A way of `map` is a number of DataLoader workers. One of `iterable` is `procs1` or `procs2`, worker processes of its own, or `workers1` or
`workers2`, those of a `DataLoader(batch_size=None)`; of `list` it is such a one with `pad_to`, or `stacked1` or `stacked2`: without
`pad_to`, a list of samples that is stacked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from _loading import BATCH_SIZE, main, prefix, uris
from _protocol import Task
from torch.utils.data import DataLoader

import s3dlio


class Padded:
    """The rows of padded batches, which nothing had to be added to."""

    def __init__(self, batches: Iterable[Any], nbytes: int) -> None:
        self._batches = batches
        self._nbytes = nbytes

    def __iter__(self) -> Iterator[torch.Tensor]:
        for rows, lengths in self._batches:
            if not (lengths == self._nbytes).all():
                raise AssertionError(f"lengths {lengths}")
            yield rows
            del rows


class Stacked:
    """Lists of samples, stacked."""

    def __init__(self, batches: Iterable[list[torch.Tensor]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[torch.Tensor]:
        for samples in self._batches:
            yield torch.stack(samples)
            del samples


def open_way(task: Task, way: str) -> Iterable[Any]:
    """Makes a data set, and its loader if it has one."""
    kind, num = way[:-1], int(way[-1])
    if task.variant == "map":
        return _load(s3dlio.ObjectStoreMapDataset(prefix(task)), BATCH_SIZE, num)
    options: dict[str, Any] = {"batch_size": BATCH_SIZE} | ({} if kind == "workers" else {"procs": num})
    if task.variant == "iterable":
        dataset = s3dlio.ObjectStoreIterableDataset(prefix(task), **options)
        return dataset if kind == "procs" else _load(dataset, None, num)
    if kind == "stacked":
        return Stacked(s3dlio.ObjectStoreIterableDataset(uris(task), **options))
    dataset = s3dlio.ObjectStoreIterableDataset(uris(task), pad_to=task.size, **options)
    return Padded(dataset if kind == "procs" else _load(dataset, None, num), task.size)


def _load(dataset: Any, batch_size: int | None, num_workers: int) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size, num_workers=num_workers, persistent_workers=num_workers > 0)


main(open_way)
