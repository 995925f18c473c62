"""Data sets of s3torchconnector's interface: `iterable` and `map` of a prefix, `iterable_list` and `map_list` of URIs (`from_objects`).

A way is a number of DataLoader workers.
"""

from __future__ import annotations

import os
import warnings
from functools import partial
from typing import Any

import torch
from _connector import config
from _loading import BATCH_SIZE, main, prefix, uris
from _protocol import Task
from torch.utils.data import DataLoader

# Bytes are read-only, and collating copies them anyway: copying them twice to please torch would cost the peer.
warnings.filterwarnings("ignore", message="The given buffer is not writable")


def read(reader: Any) -> torch.Tensor:
    """Makes a sample of a reader."""
    return torch.frombuffer(reader.read(), dtype=torch.uint8)


def open_way(classes: Any, task: Task, way: str) -> DataLoader[Any]:
    """Makes a data set and its loader."""
    kind, _, source = task.variant.partition("_")
    arguments: dict[str, Any] = {
        "region": os.environ["AWS_REGION"],
        "endpoint": task.endpoint,
        "transform": read,
        "s3client_config": config(classes),
    }
    if kind == "iterable":
        arguments["enable_sharding"] = True
    make = classes.S3IterableDataset if kind == "iterable" else classes.S3MapDataset
    dataset = make.from_objects(uris(task), **arguments) if source else make.from_prefix(prefix(task), **arguments)
    return DataLoader(dataset, BATCH_SIZE, num_workers=int(way), persistent_workers=way != "0")


def run(classes: Any) -> None:
    """Takes turns."""
    main(partial(open_way, classes))
