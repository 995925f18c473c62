"""The independent ways to the objects of each store: the SDKs of the vendors, the file system, the dictionary behind `memory://`.

Owns: what a test needs to know of a bucket without asking s3dlio. It never imports a store, but for the dictionary that `memory://` is.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tests.support.azurite import AzureEndpoint
from tests.support.gcs_server import GcsEndpoint
from tests.support.s3_endpoint import S3Endpoint

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient
    from google.cloud.storage import Bucket
    from mypy_boto3_s3 import S3Client

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Facts:
    """What a store says of one object."""

    size: int
    modified: datetime
    """With a time zone."""
    etag: str | None = None
    """Without quotes; None where the store has none, and s3dlio makes one up."""
    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


class Oracle(Protocol):
    """One bucket, or one folder, seen without s3dlio."""

    root: str
    """Ends in `/`; a URI is the root and a key."""

    def write(self, key: str, data: bytes) -> None:
        """Makes an object, over one that is there."""

    def read(self, key: str) -> bytes | None:
        """Returns the bytes of an object, None where there is none."""

    def delete(self, key: str) -> None:
        """Takes an object away that is there."""

    def keys(self, prefix: str = "") -> list[str]:
        """Returns all keys that begin with `prefix`, sorted; markers of directories among them, but no directories."""

    def facts(self, key: str) -> Facts:
        """Returns what the store says of an object that is there."""

    def leftovers(self) -> list[str]:
        """Returns what unfinished writes left: uploads in parts, temporary files."""


class DressedOracle(Oracle, Protocol):
    """A bucket of a store that keeps more of an object than its bytes."""

    def dress(self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str]) -> None:
        """Makes an object with a type and metadata."""


class Buckets(Protocol):
    """All buckets of one store, seen without s3dlio."""

    everything: str
    """The URI that `list_containers` takes."""

    def uri(self, name: str) -> str:
        """Returns the root of a bucket, ending in `/`."""

    def names(self) -> set[str]:
        """Returns the buckets that are there."""

    def create(self, name: str) -> Oracle:
        """Makes a bucket, or takes the one that is there."""

    def remove(self, name: str) -> None:
        """Takes an empty bucket away."""


def new_name() -> str:
    """Returns a name that no bucket had before."""
    return f"place-{os.getpid()}-{next(_numbers)}"


class FolderOracle:
    """A folder, by the calls of the operating system."""

    def __init__(self, folder: Path, scheme: str) -> None:
        self._folder = folder
        self.root = f"{scheme}://{folder}/"

    def write(self, key: str, data: bytes) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def read(self, key: str) -> bytes | None:
        path = self._path(key)
        return path.read_bytes() if path.is_file() else None

    def delete(self, key: str) -> None:
        self._path(key).unlink()

    def keys(self, prefix: str = "") -> list[str]:
        return [key for key in self._files() if key.startswith(prefix)]

    def facts(self, key: str) -> Facts:
        found = self._path(key).stat()
        return Facts(found.st_size, datetime.fromtimestamp(found.st_mtime).astimezone())

    def leftovers(self) -> list[str]:
        # Whatever nobody named: a test compares `keys` with what it wrote, so a temporary file is seen there.
        return [key for key in self._files() if ".tmp" in key or ".partial" in key or key.rpartition("/")[2].startswith(".")]

    def has_directory(self, key: str) -> bool:
        return self._path(key).is_dir()

    def _path(self, key: str) -> Path:
        # By text: pathlib would take the ends of `a/`, `./a` away.
        return Path(os.path.join(self._folder, key))

    def _files(self) -> list[str]:
        below = ((Path(folder) / name for name in names) for folder, _, names in os.walk(self._folder))
        return sorted(str(path.relative_to(self._folder)) for paths in below for path in paths)


class MemoryOracle:
    """A bucket of this process's memory, as the plain dictionary that it is."""

    def __init__(self, root: str) -> None:
        from s3dlio.engine.stores.memory import _buckets, _Stored

        self.root = root
        self._stored = _Stored
        self._objects: dict[str, Any] = _buckets.setdefault(root, {})

    def write(self, key: str, data: bytes) -> None:
        self._objects[key] = self._stored(data, f"oracle-{next(_numbers)}", "2026-01-31T12:00:00Z")

    def read(self, key: str) -> bytes | None:
        found = self._objects.get(key)
        return None if found is None else found.data

    def delete(self, key: str) -> None:
        del self._objects[key]

    def keys(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self._objects if key.startswith(prefix))

    def facts(self, key: str) -> Facts:
        found = self._objects[key]
        return Facts(len(found.data), datetime.fromisoformat(found.last_modified))

    def leftovers(self) -> list[str]:
        return []


class MemoryBuckets:
    """The buckets of this process's memory."""

    everything = "memory://"

    def uri(self, name: str) -> str:
        return f"memory://{name}/"

    def names(self) -> set[str]:
        from s3dlio.engine.stores.memory import _buckets

        return {root.removeprefix("memory://").removesuffix("/") for root in _buckets}

    def create(self, name: str) -> Oracle:
        return MemoryOracle(self.uri(name))

    def remove(self, name: str) -> None:
        from s3dlio.engine.stores.memory import _buckets

        del _buckets[self.uri(name)]


class S3Oracle:
    """A bucket, by boto3."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self.root = f"s3://{bucket}/"

    def write(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=data)

    def dress(self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str]) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=content_type, Metadata=metadata)

    def read(self, key: str) -> bytes | None:
        try:
            return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=key)

    def keys(self, prefix: str = "") -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        return sorted(found["Key"] for page in pages for found in page.get("Contents", []))

    def facts(self, key: str) -> Facts:
        found = self._client.head_object(Bucket=self._bucket, Key=key)
        return Facts(
            found["ContentLength"], found["LastModified"], found["ETag"].strip('"'), found["ContentType"], found["Metadata"]
        )

    def leftovers(self) -> list[str]:
        try:
            found = self._client.list_multipart_uploads(Bucket=self._bucket)
        except self._client.exceptions.NoSuchUpload:
            # What rclone answers where there are none.
            return []
        return [upload["Key"] for upload in found.get("Uploads", [])]


class S3Buckets:
    """The buckets of one S3 server, by boto3."""

    everything = "s3://"

    def __init__(self, endpoint: S3Endpoint) -> None:
        self._client = endpoint.client()

    def uri(self, name: str) -> str:
        return f"s3://{name}/"

    def names(self) -> set[str]:
        return {bucket["Name"] for bucket in self._client.list_buckets()["Buckets"]}

    def create(self, name: str) -> Oracle:
        if name not in self.names():
            self._client.create_bucket(Bucket=name)
        return S3Oracle(self._client, name)

    def remove(self, name: str) -> None:
        self._client.delete_bucket(Bucket=name)


class AzureOracle:
    """A container, by azure-storage-blob."""

    def __init__(self, client: ContainerClient, root: str) -> None:
        self._client = client
        self.root = root

    def write(self, key: str, data: bytes) -> None:
        self._client.upload_blob(key, data, overwrite=True)

    def dress(self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str]) -> None:
        from azure.storage.blob import ContentSettings

        settings = ContentSettings(content_type=content_type)
        self._client.upload_blob(key, data, overwrite=True, content_settings=settings, metadata=dict(metadata))

    def read(self, key: str) -> bytes | None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return self._client.download_blob(key).readall()
        except ResourceNotFoundError:
            return None

    def delete(self, key: str) -> None:
        self._client.delete_blob(key)

    def keys(self, prefix: str = "") -> list[str]:
        return sorted(self._client.list_blob_names(name_starts_with=prefix))

    def facts(self, key: str) -> Facts:
        found = self._client.get_blob_client(key).get_blob_properties()
        content_type = found.content_settings.content_type
        return Facts(found.size, found.last_modified, found.etag.strip('"'), content_type, found.metadata)

    def leftovers(self) -> list[str]:
        # Blocks of an upload that was given up stay for a week: nobody can take them away.
        return []


class AzureBuckets:
    """The containers of one account, by azure-storage-blob."""

    def __init__(self, endpoint: AzureEndpoint) -> None:
        self._client = endpoint.client()
        self.everything = f"az://{endpoint.account}/"

    def uri(self, name: str) -> str:
        return f"{self.everything}{name}/"

    def names(self) -> set[str]:
        return {found.name for found in self._client.list_containers()}

    def create(self, name: str) -> Oracle:
        client = self._client.get_container_client(name)
        if not client.exists():
            client.create_container()
        return AzureOracle(client, self.uri(name))

    def remove(self, name: str) -> None:
        self._client.delete_container(name)


class GcsOracle:
    """A bucket, by google-cloud-storage."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.root = f"gs://{bucket.name}/"

    def write(self, key: str, data: bytes) -> None:
        self._bucket.blob(key).upload_from_string(data, retry=None)

    def dress(self, key: str, data: bytes, content_type: str, metadata: Mapping[str, str]) -> None:
        blob = self._bucket.blob(key)
        blob.metadata = dict(metadata)
        blob.upload_from_string(data, content_type, retry=None)

    def read(self, key: str) -> bytes | None:
        from google.cloud.exceptions import NotFound

        try:
            return self._bucket.blob(key).download_as_bytes(raw_download=True, retry=None)
        except NotFound:
            return None

    def delete(self, key: str) -> None:
        self._bucket.blob(key).delete(retry=None)

    def keys(self, prefix: str = "") -> list[str]:
        return sorted(blob.name for blob in self._bucket.list_blobs(prefix=prefix, retry=None))

    def facts(self, key: str) -> Facts:
        found = self._bucket.get_blob(key, retry=None)
        assert found is not None
        return Facts(found.size, found.updated, found.etag, found.content_type, found.metadata or {})

    def leftovers(self) -> list[str]:
        # Sessions of uploads that were given up: nobody can list them.
        return []


class GcsBuckets:
    """The buckets of one project, by google-cloud-storage."""

    everything = "gs://"

    def __init__(self, endpoint: GcsEndpoint) -> None:
        self._client = endpoint.client()

    def uri(self, name: str) -> str:
        return f"gs://{name}/"

    def names(self) -> set[str]:
        return {bucket.name for bucket in self._client.list_buckets(retry=None)}

    def create(self, name: str) -> Oracle:
        if name not in self.names():
            self._client.create_bucket(name, retry=None)
        return GcsOracle(self._client.bucket(name))

    def remove(self, name: str) -> None:
        self._client.bucket(name).delete(retry=None)
