"""The guide's "AI/ML Integration", run as printed."""

from __future__ import annotations

import random
import zlib

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

JAX = """\
from s3dlio import JaxIterable

jax_iter = JaxIterable(uri="gs://bucket/train/", batch_size=32)
for batch in jax_iter:
    pass  # JAX training
"""

TENSORFLOW = """\
from s3dlio import make_tf_dataset

ds = make_tf_dataset(uri="s3://bucket/train/", batch_size=32, shuffle=True)
for batch in ds:
    pass  # TF training
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


@pytest.mark.parametrize("train", ["gs", "s3", "file"], indirect=True)
def test_jax_iterable(train: Train) -> None:
    data = put_many(train)
    printed = train.run_apart(
        JAX,
        "import jax, zlib, numpy\n"
        "print(isinstance(batch, jax.Array), batch.shape)\n"
        "print([zlib.crc32(row) for batch in jax_iter for row in numpy.asarray(batch)])\n",
        "gs://bucket/train/",
    )
    assert printed == ["True (6, 500)", str([zlib.crc32(one) for one in data])]


def test_tensorflow_dataset(train: Train) -> None:
    data = put_many(train)
    printed = train.run_apart(
        TENSORFLOW,
        "import tensorflow as tf, zlib\n"
        "print(isinstance(ds, tf.data.Dataset), ds.element_spec.dtype.name, [len(batch) for batch in ds])\n"
        "print(sorted(zlib.crc32(row.tobytes()) for batch in ds for row in batch.numpy()))\n",
    )
    assert printed == ["True uint8 [32, 6]", str(sorted(zlib.crc32(one) for one in data))]


def put_many(train: Train) -> list[bytes]:
    """Makes 38 objects of 500 bytes, and returns them in the order of their keys."""
    data = [random.Random(number).randbytes(500) for number in range(38)]
    for number, one in enumerate(data):
        train.put(f"{number:03d}", one)
    return data
