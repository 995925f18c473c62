"""`dcp.load` of a sharded model by two ranks, each through an `S3StorageReader` of its own.

Each weight is split between the ranks, as under FSDP, so each loads one file; the clock runs from the moment that both are told to until
both are done. What was loaded is compared with what was saved, off the clock.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from typing import IO, Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from _clock import cpu_ns
from _connector import config
from _protocol import BUCKET, answer, claim_answers
from _ranks import ranks
from _sharded import Sharded


class Loads:
    """The loads of one rank."""

    def __init__(self, classes: Any, uri: str, sharded: Sharded) -> None:
        self._storage = importlib.import_module(f"{classes.__name__}.dcp")
        self._config = config(classes)
        self._uri = uri
        self._sharded = sharded
        self._state = sharded.make_empty()

    def load(self) -> None:
        """Loads once, as both ranks do."""
        reader = self._storage.S3StorageReader(os.environ["AWS_REGION"], self._uri, self._config)
        dist.barrier()
        dcp.load(self._state, storage_reader=reader)
        dist.barrier()

    def compare(self) -> None:
        """Compares what was loaded, and forgets it."""
        self._sharded.require_same(self._state)
        for tensor in self._state.values():
            tensor.to_local().zero_()


def run(classes: Any) -> None:
    """Takes turns; one load comes before the first."""
    answers = claim_answers()
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint", help="of the environment too, where upstream's reader takes it from")
    parser.add_argument("mib", type=int)
    parser.add_argument("--variant")
    given = parser.parse_args()
    with ranks() as (rank, other):
        loads = Loads(classes, f"s3://{BUCKET}/dcp-{given.mib}", Sharded(given.mib, rank))
        _measure(loads, None)
        if rank == 0:
            answer(answers, {"ready": True})
        for line in sys.stdin:
            record = _measure(loads, other, line)
            if rank == 0:
                answer(answers, record | {"objects": 1, "bytes": given.mib << 20})


def _measure(loads: Loads, other: IO[str] | None, line: str = "") -> dict[str, Any]:
    if other is not None:
        other.write(line)
        other.flush()
    tree, started = cpu_ns(), time.perf_counter()
    loads.load()
    wall_s, used = time.perf_counter() - started, cpu_ns() - tree
    loads.compare()
    dist.barrier()
    return {"wall_s": wall_s, "cpu_s": used / 1e9, "verified": True}
