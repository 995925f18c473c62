"""`S3Checkpoint`: `torch.save` and `torch.load` of a model; `checkpoint_wide` with a higher throughput target.

A way is `save` or `load`. What was saved is compared by the server's own CRC-32 with what `torch.save` writes, what was loaded tensor by
tensor with the model, both off the clock.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.request
import zlib
from typing import Any

import torch
from _clock import cpu_ns
from _connector import config
from _model import make_model, require_same
from _protocol import answer, claim_answers

# One for all contenders, so that the server need not keep several.
KEY = "checkpoints/model.pt"


class Crc:
    """What `torch.save` writes, as a CRC-32 and a size."""

    def __init__(self) -> None:
        self.crc32 = 0
        self.size = 0

    def write(self, data: memoryview) -> int:
        """Takes a piece."""
        self.crc32 = zlib.crc32(data, self.crc32)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """There is nothing to flush."""


class Checkpoints:
    """A model, saved and loaded."""

    def __init__(self, checkpoint: Any, endpoint: str, mib: int) -> None:
        self._checkpoint = checkpoint
        self._url = f"{endpoint}/{KEY}"
        self._model = make_model(mib)
        self._wanted = Crc()
        torch.save(self._model, self._wanted)

    def measure(self, way: str) -> dict[str, Any]:
        """Measures one save or load."""
        step = self._save if way == "save" else self._load
        tree, started = cpu_ns(), time.perf_counter()
        found = step()
        wall_s, used = time.perf_counter() - started, cpu_ns() - tree
        if found is None:
            self._require_written()
        else:
            require_same(found, self._model)
        return {"wall_s": wall_s, "cpu_s": used / 1e9, "objects": 1, "bytes": self._wanted.size, "verified": True}

    def _save(self) -> None:
        with self._checkpoint.writer(f"s3://{KEY}") as writer:
            torch.save(self._model, writer)

    def _load(self) -> dict[str, torch.Tensor]:
        with self._checkpoint.reader(f"s3://{KEY}") as reader:
            return dict(torch.load(reader, weights_only=True))

    def _require_written(self) -> None:
        with urllib.request.urlopen(f"{self._url}?crc32") as told:
            found, wanted = told.read().decode(), f"{self._wanted.crc32} {self._wanted.size}"
        if found != wanted:
            raise AssertionError(f"the server has {found}, not {wanted}")


def run(classes: Any) -> None:
    """Takes turns; each way has one before the first."""
    answers = claim_answers()
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("mib", type=int)
    parser.add_argument("--ways", required=True, help="with commas, a save first")
    parser.add_argument("--variant")
    given = parser.parse_args()
    made = config(classes, is_wide=given.variant == "checkpoint_wide")
    checkpoint = classes.S3Checkpoint(os.environ["AWS_REGION"], given.endpoint, made)
    checkpoints = Checkpoints(checkpoint, given.endpoint, given.mib)
    for way in given.ways.split(","):
        checkpoints.measure(way)
    answer(answers, {"ready": True})
    for line in sys.stdin:
        answer(answers, checkpoints.measure(line.split()[1]))
