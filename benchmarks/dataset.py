"""The objects that every contender fetches.

Owns what the objects hold and the manifest of their checksums; never talks to a server.

Each object is a row of 64 KiB pieces. A piece opens with eight bytes, little-endian: the object's number in the low half, the piece's
number in the high half; the rest is one seeded block. So an object of the wrong number, a part in the wrong place and a stale slot all
change the CRC-32, and the first eight bytes of object `i` read `i`.
"""

from __future__ import annotations

import json
import random
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from awscrt import checksums

BUCKET = "bench"
PIECE_BYTES = 64 << 10
_SEED = 20240229
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ObjectSet:
    """Equal-size objects under one prefix."""

    name: str
    """Prefix below the bucket, without a slash."""
    count: int
    size: int
    """Bytes of each object."""

    def key(self, number: int) -> str:
        """Names object `number`, below the bucket."""
        return f"{self.name}/data_{number:05d}.bin"


SETS = {
    "s64k": ObjectSet("s64k", 4000, 64 << 10),
    "m1m": ObjectSet("m1m", 1000, 1 << 20),
    "l32m": ObjectSet("l32m", 64, 32 << 20),
}


def object_bytes(number: int, size: int, block: bytes) -> bytes:
    """Returns object `number` of `size` bytes, a multiple of `PIECE_BYTES`."""
    tail = block[8:PIECE_BYTES]
    return b"".join(struct.pack("<II", number, piece) + tail for piece in range(size // PIECE_BYTES))


def ensure(root: Path) -> Path:
    """Writes the sets below `root/bench`, unless they are there, and returns the manifest's path.

    The manifest maps each set's name to `{"size": bytes, "crc32": [one per object], "crc32c": [one per object]}`. It is written
    last, so that an interrupted run is written again; a set whose files have another count or size is, too.
    """
    manifest = root.parent / _MANIFEST
    if _is_current(manifest) and all(_is_complete(root, objects) for objects in SETS.values()):
        return manifest
    manifest.unlink(missing_ok=True)
    block = random.Random(_SEED).randbytes(PIECE_BYTES)
    digests = {objects.name: {"size": objects.size, **_write(root, objects, block)} for objects in SETS.values()}
    manifest.write_text(json.dumps(digests))
    return manifest


def _is_current(manifest: Path) -> bool:
    return manifest.exists() and all("crc32c" in digests for digests in json.loads(manifest.read_text()).values())


def _is_complete(root: Path, objects: ObjectSet) -> bool:
    paths = [root / BUCKET / objects.key(number) for number in range(objects.count)]
    return all(path.is_file() and path.stat().st_size == objects.size for path in paths)


def _write(root: Path, objects: ObjectSet, block: bytes) -> dict[str, list[int]]:
    (root / BUCKET / objects.name).mkdir(parents=True, exist_ok=True)
    crcs: dict[str, list[int]] = {"crc32": [], "crc32c": []}
    for number in range(objects.count):
        body = object_bytes(number, objects.size, block)
        (root / BUCKET / objects.key(number)).write_bytes(body)
        crcs["crc32"].append(zlib.crc32(body))
        crcs["crc32c"].append(checksums.crc32c(body))
    return crcs
