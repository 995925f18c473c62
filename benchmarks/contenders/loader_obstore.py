"""obstore in a map data set, as its users write one: `each` gets one object a sample, `batch` a whole batch by threads (`__getitems__`).

A way is a number of DataLoader workers.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from _loading import BATCH_SIZE, main
from _protocol import BUCKET, Task
from obstore.store import S3Store
from torch.utils.data import DataLoader, Dataset

# As in loader_s3torchconnector.py.
warnings.filterwarnings("ignore", message="The given buffer is not writable")


class Objects(Dataset[torch.Tensor]):
    """The objects of the set, by number."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._made: S3Store | None = None

    @property
    def _store(self) -> S3Store:
        # Made in the process that uses it.
        if self._made is None:
            self._made = S3Store(
                BUCKET,
                endpoint=self._task.endpoint,
                region=os.environ["AWS_REGION"],
                access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
                secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
                virtual_hosted_style_request=False,
                client_options={"allow_http": True},
            )
        return self._made

    def __len__(self) -> int:
        return self._task.count

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.frombuffer(self._store.get(self._task.key(number)).bytes(), dtype=torch.uint8)


class Batches(Objects):
    """The same, whole batches at once."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._threads: ThreadPoolExecutor | None = None

    def __getitems__(self, numbers: Sequence[int]) -> list[torch.Tensor]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(BATCH_SIZE)
        return [*self._threads.map(self.__getitem__, numbers)]


def open_way(task: Task, way: str) -> DataLoader[Any]:
    """Makes a data set and its loader."""
    dataset = Batches(task) if task.variant == "batch" else Objects(task)
    return DataLoader(dataset, BATCH_SIZE, num_workers=int(way), persistent_workers=way != "0")


main(open_way)
