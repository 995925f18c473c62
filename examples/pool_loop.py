"""A training-like loop: shuffled epochs over a prefix, in batches, within a fixed amount of memory.

python examples/pool_loop.py s3://bucket/prefix/ [epochs]
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import numpy as np

import s3dlio

BATCH = 32


def shuffled(uris: list[str], epochs: int) -> Iterator[str]:
    """Yields every URI once per epoch; the pool takes them as it needs them, so this could go on for ever."""
    for epoch in range(epochs):
        yield from random.Random(epoch).sample(uris, k=len(uris))


def main() -> None:
    prefix = sys.argv[1]
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    uris = s3dlio.list(prefix, recursive=True)
    means: list[float] = []
    failed = samples = 0

    with s3dlio.Pool(procs=2, jobs=32, memory_bytes="256MiB") as pool:
        for uri, sample in pool.fetch(shuffled(uris, epochs), errors="return"):
            if isinstance(sample, Exception):
                failed += 1
                print(f"{uri}: {sample}", file=sys.stderr)
                continue
            # What outlives the loop is a number, so the sample's slot is free again at the next turn.
            means.append(float(np.mean(sample)) if len(sample) else 0.0)
            samples += 1
            if len(means) == BATCH:
                print(f"{samples} samples, mean byte of the last {BATCH}: {np.mean(means):.2f}")
                means.clear()

    print(f"{samples} samples, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
