"""The stores that the conformance suite runs on, each with an oracle that reads and writes around the store under test.

Owns: where test objects live, and the independent way to them (boto3, the file system, the dictionary behind `memory://`). It never
asks s3dlio for anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.s3_endpoint import S3Endpoint


@dataclass(frozen=True)
class Place:
    """A root to put objects under, and the oracle."""

    name: str
    root: str
    """Ends in `/`; what is written under it is this test's alone."""
    write: Callable[[str, bytes], None]
    read: Callable[[str], bytes | None]
    """Returns the bytes of a key, or None where there is none."""
    is_file: bool = False

    def uri(self, key: str) -> str:
        return self.root + key

    def fill(self, *keys: str) -> None:
        """Writes objects whose size and bytes tell them apart."""
        for key in keys:
            self.write(key, key.encode())


def file_place(folder: Path) -> Place:
    """The file system below `folder`."""

    def write(key: str, data: bytes) -> None:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def read(key: str) -> bytes | None:
        path = folder / key
        return path.read_bytes() if path.is_file() else None

    return Place("file", f"file://{folder}/", write, read, is_file=True)


def memory_place(name: str) -> Place:
    """A bucket of this process's memory, seen as the plain dictionary that it is."""
    from s3dlio.engine.stores.memory import _buckets, _Stored

    root = f"memory://{name}/"
    objects = _buckets.setdefault(root, {})

    def write(key: str, data: bytes) -> None:
        objects[key] = _Stored(data, f"oracle-{len(objects)}-{hash(data)}", "2026-01-31T12:00:00Z")

    def read(key: str) -> bytes | None:
        return objects[key].data if key in objects else None

    return Place("memory", root, write, read)


def s3_place(name: str, endpoint: S3Endpoint) -> Place:
    """A new bucket of a real server, seen by boto3."""
    bucket, client = endpoint.new_bucket(), endpoint.client()

    def write(key: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=key, Body=data)

    def read(key: str) -> bytes | None:
        try:
            return client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except client.exceptions.NoSuchKey:
            return None

    return Place(name, f"s3://{bucket}/", write, read)
