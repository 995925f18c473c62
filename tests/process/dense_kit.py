"""What the tests of JAX and TensorFlow share: objects to make batches of, and a look at where an array lies."""

from __future__ import annotations

import gc
import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from awscrt.checksums import crc32c

from s3dlio import ObjectRef
from tests.process.kit import Bucket, wait_until

TEN_SHUFFLED = {(0, 0): [3, 7, 6, 9, 2, 0, 5, 4, 1, 8], (0, 1): [7, 0, 9, 5, 8, 6, 4, 3, 2, 1]}
"""The order of ten objects by (seed, epoch), as it must stay forever."""


def put(bucket: Bucket, key: str, data: bytes) -> ObjectRef:
    """Makes an object of given bytes; its size is known, as from a listing."""
    bucket.server.objects[bucket.path(key)] = data
    return ObjectRef(f"s3://{bucket.name}/{key}", len(data))


def fill(bucket: Bucket, count: int, nbytes: int | Sequence[int], prefix: str = "o") -> list[ObjectRef]:
    """Makes objects of one size, or of several in turn, with bytes of their own."""
    sizes = [nbytes] if isinstance(nbytes, int) else nbytes
    uris = [bucket.add(f"{prefix}{number:04d}", sizes[number % len(sizes)]) for number in range(count)]
    return [ObjectRef(uri, len(bucket.data(uri))) for uri in uris]


def rows(bucket: Bucket, refs: Sequence[ObjectRef], order: Iterable[int] | None = None) -> np.ndarray[Any, Any]:
    """Returns the bytes of objects of one size, one row each."""
    chosen = refs if order is None else [refs[position] for position in order]
    return np.array([np.frombuffer(bucket.data(ref.uri), np.uint8) for ref in chosen])


def npy(array: np.ndarray[Any, Any]) -> bytes:
    """Returns an array as a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    """Returns RGB pixels, (height, width, 3), as a PNG file. Source: the PNG specification, sections 5 and 11."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tfrecord(records: Iterable[bytes]) -> bytes:
    """Returns a TFRecord file. Source: tensorflow/core/lib/io/record_writer.h."""

    def summed(data: bytes) -> bytes:
        crc = crc32c(data)
        return data + struct.pack("<I", (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF)

    return b"".join(summed(struct.pack("<Q", len(record))) + summed(record) for record in records)


def is_in_segment(address: int, nbytes: int) -> bool:
    """Returns whether memory is that which the workers write to: then nobody copied what is there."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= address and address + nbytes <= high:
            return "s3dlio" in name
    return False


def wait_free(stream: Any) -> None:
    """Waits until nothing holds a slot of a data set any more, and nothing is on its way."""
    pool = stream.source._pool

    def is_free() -> bool:
        gc.collect()
        stats = pool.stats()
        return bool(stats["in_flight"] == stats["views_held"] == stats["memory_used_bytes"] == 0)

    wait_until(is_free, "the data set has let go of everything")
