"""A data set to train on: pictures of four shapes, 28 x 28 grey pixels with noise, each an object of its own.

An object is one byte for the label and 784 for the pixels, so a batch of them is an array `[batch, 785]` as it comes.

python examples/shapes.py s3://bucket/shapes/ [count]        # writes count of them (2,400)
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import s3dlio

SIDE = 28
NAMES = ("disc", "square", "cross", "bars")


def picture(number: int) -> bytes:
    """Returns picture `number`: its label and its pixels."""
    random = np.random.default_rng(number)
    label = number % len(NAMES)
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    x, y = x - random.integers(13, 16), y - random.integers(13, 16)
    size = random.integers(6, 10)
    inside = np.maximum(abs(x), abs(y)) <= size
    shape = (x * x + y * y <= size * size, inside, inside & (np.minimum(abs(x), abs(y)) <= 1), inside & (x % 4 < 2))[
        label
    ]
    pixels = 60 + 120 * shape + random.normal(0, 25, (SIDE, SIDE))
    return bytes([label]) + pixels.clip(0, 255).astype(np.uint8).tobytes()


def write(prefix: str, count: int = 2400) -> None:
    """Writes pictures below `prefix`: five of six under train/, one of six under test/."""

    def put(number: int) -> None:
        part = "test" if number % 6 == 5 else "train"
        s3dlio.put_bytes(f"{prefix.rstrip('/')}/{part}/{number:05d}", picture(number))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(put, range(count)))


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2400)
