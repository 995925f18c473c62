"""What the tests of the PyTorch data sets share: objects whose bytes tell which they are, and the order in which they must come.

The oracle of an order is written here once more, by lists and counting, so that it shares no line with `datasets/order.py`.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.process.kit import content

TEN_SHUFFLED = {
    (0, 0): [3, 7, 6, 9, 2, 0, 5, 4, 1, 8],
    (0, 1): [7, 0, 9, 5, 8, 6, 4, 3, 2, 1],
    (-3, 0): [3, 8, 6, 7, 2, 5, 9, 1, 0, 4],
}
"""The order of ten objects by (seed, epoch), as it must stay forever: a change would make every saved state wrong."""


class Corpus:
    """Files in a folder, all of different contents; their position in the listing is that of their sorted names.

    Attributes:
        uri: Of the folder.
        files: Name below the folder to bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"file://{folder}"
        self.files: dict[str, bytes] = {}

    def add(self, name: str, data: bytes) -> str:
        """Writes a file and returns its URI."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.files[name] = data
        return f"{self.uri}/{name}"

    def fill(self, count: int, nbytes: int | Sequence[int] = 1000) -> Corpus:
        """Writes files of random bytes, all of one size or of the sizes given in turn."""
        sizes = cycle([nbytes] if isinstance(nbytes, int) else nbytes)
        for index, size in zip(range(count), sizes, strict=False):
            self.add(f"{index:04d}.bin", content(f"{self.folder.name}/{index}", size))
        return self

    @property
    def names(self) -> list[str]:
        return sorted(self.files, key=str.encode)

    @property
    def uris(self) -> list[str]:
        return [f"{self.uri}/{name}" for name in self.names]

    @property
    def data(self) -> list[bytes]:
        """The contents by position in the listing."""
        return [self.files[name] for name in self.names]

    def positions(self, samples: Iterable[Any]) -> list[int]:
        """Returns which object each sample is, all bytes compared."""
        known = {data: position for position, data in enumerate(self.data)}
        return [known[raw(sample)] for sample in samples]

    def batches(self, batches: Iterable[Any]) -> list[list[int]]:
        """Returns which objects the samples of each batch are."""
        return [self.positions(batch) for batch in batches]


def raw(sample: Any) -> bytes:
    """Returns the bytes of a sample of any kind."""
    if isinstance(sample, torch.Tensor):
        return sample.numpy().tobytes()
    return bytes(sample.read()) if hasattr(sample, "read") else bytes(sample)


def mark_process(sample: Any) -> tuple[Any, int]:
    """A transform that says which process it ran in."""
    return sample, os.getpid()


def read_into(queue: Any, rank: int, dataset: Any, samples: Any) -> None:
    """What a process does that is given data sets: says what it has read of both, by the first byte."""
    queue.put(
        (
            rank,
            [raw(one)[0] for one in dataset],
            [raw(one)[0] for one in samples.__getitems__(range(10))],
            dataset.epoch,
        )
    )


def read_sent(queue: Any, rank: int, inbox: Any) -> None:
    """The same of a process that is sent them while it runs: they come by value."""
    read_into(queue, rank, *inbox.get())


def part_of(order: Sequence[int], rank: int, world_size: int, tail: str = "uneven") -> list[int]:
    """Returns what a rank reads of an order: every `world_size`-th sample, after the tail rule."""
    if tail == "pad" and order:
        order = list(islice(cycle(order), -(-len(order) // world_size) * world_size))
    elif tail == "drop":
        order = order[: len(order) // world_size * world_size]
    return [position for number, position in enumerate(order) if number % world_size == rank]


def cut(part: Sequence[int], batch_size: int, *, drop_last: bool = False) -> list[list[int]]:
    """Returns the batches of a rank's part."""
    found = [list(part[begin : begin + batch_size]) for begin in range(0, len(part), batch_size)]
    return [batch for batch in found if len(batch) == batch_size or not drop_last]


def dealt(units: Sequence[Any], num_workers: int) -> list[list[Any]]:
    """Returns the units (samples or batches) of each worker of a DataLoader: they are dealt in turn."""
    return [list(units[worker::num_workers]) for worker in range(num_workers)]


def flat(batches: Iterable[Iterable[Any]]) -> list[Any]:
    return [one for batch in batches for one in batch]


def npy(array: np.ndarray[Any, Any]) -> bytes:
    """Returns an array as a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def is_in_segment(tensor: Any) -> bool:
    """Returns whether all bytes of a tensor or an array lie in one mapping of a pool's shared memory: then they were never copied
    out of it, since workers write nowhere else."""
    begin, nbytes = extent(tensor)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= begin and begin + nbytes <= high:
            return "s3dlio" in name
    return False


def extent(tensor: Any) -> tuple[int, int]:
    """Returns the address of a tensor or an array, and how many bytes there belong to it, holes included."""
    array = tensor.numpy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)
    low, high = np.lib.array_utils.byte_bounds(array)
    return low, high - low


# TFRecord files, written by the format's description.

_POLYNOMIAL = 0x82F63B78


def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0) for crc in table]
    return table


_TABLE = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF)


def tfrecord(records: Iterable[bytes]) -> bytes:
    """Returns a TFRecord file. Source: tensorflow/core/lib/io/record_writer.h."""
    found = bytearray()
    for record in records:
        length = struct.pack("<Q", len(record))
        found += length + _masked_crc(length) + record + _masked_crc(record)
    return bytes(found)
