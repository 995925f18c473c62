"""The guide's "AI/ML Integration", run as printed."""

from __future__ import annotations

import random

import pytest
import torch

import s3dlio
from tests.spec.conftest import Train

PYTORCH = """\
from s3dlio import ObjectStoreMapDataset, ObjectStoreIterableDataset
from torch.utils.data import DataLoader

# Map-style (random access)
dataset = ObjectStoreMapDataset(uri="s3://bucket/train/", pattern="*.npz")
item = dataset[0]  # Fetch by index

# Iterable (streaming)
dataset = ObjectStoreIterableDataset(uri="s3://bucket/train/", shuffle=True)

# With DataLoader
loader = DataLoader(dataset, batch_size=32, num_workers=4)
for batch in loader:
    pass  # Train
"""


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")
def test_pytorch_datasets(train: Train) -> None:
    objects = {f"{number:03d}.npz": random.Random(number).randbytes(500) for number in range(150)}
    objects["more/notes.txt"] = bytes(500)
    for key, data in objects.items():
        train.put(key, data)
    found = train.run(PYTORCH)
    assert isinstance(found["dataset"], s3dlio.ObjectStoreIterableDataset)
    assert found["item"].numpy().tobytes() == objects["000.npz"]
    assert len(found["ObjectStoreMapDataset"](uri=train.uri, pattern="*.npz")) == 150
    assert (found["batch"].dtype, found["batch"].shape[1]) == (torch.uint8, 500)
    batches = list(found["loader"])
    samples = [row.numpy().tobytes() for batch in batches for row in batch]
    assert sorted(samples) == sorted(objects.values())
    assert samples != sorted(samples)
    assert [len(batch) for batch in batches] == [32] * 4 + [6, 6, 6, 5]
