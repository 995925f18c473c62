"""s3torchconnector's data sets: `iterable` and `map` of a prefix, `iterable_list` and `map_list` of URIs (`from_objects`).

A way is a number of DataLoader workers.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from _loading import BATCH_SIZE, main, prefix, uris
from _protocol import Task
from s3torchconnector import S3ClientConfig, S3IterableDataset, S3MapDataset
from torch.utils.data import DataLoader

# As in peer_s3torchconnector.py.
_TARGET_GBPS = 100.0
# Bytes are read-only, and collating copies them anyway: copying them twice to please torch would cost the peer.
warnings.filterwarnings("ignore", message="The given buffer is not writable")


def read(reader: Any) -> torch.Tensor:
    """Makes a sample of a reader."""
    return torch.frombuffer(reader.read(), dtype=torch.uint8)


def open_way(task: Task, way: str) -> DataLoader[Any]:
    """Makes a data set and its loader."""
    kind, _, source = task.variant.partition("_")
    arguments: dict[str, Any] = {
        "region": os.environ["AWS_REGION"],
        "endpoint": task.endpoint,
        "transform": read,
        "s3client_config": S3ClientConfig(force_path_style=True, throughput_target_gbps=_TARGET_GBPS),
    }
    if kind == "iterable":
        arguments["enable_sharding"] = True
    make = S3IterableDataset if kind == "iterable" else S3MapDataset
    dataset = make.from_objects(uris(task), **arguments) if source else make.from_prefix(prefix(task), **arguments)
    return DataLoader(dataset, BATCH_SIZE, num_workers=int(way), persistent_workers=way != "0")


main(open_way)
