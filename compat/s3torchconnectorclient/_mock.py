"""A client over this process's memory, for users' own tests."""

from __future__ import annotations

import secrets
import weakref
from typing import Any, NoReturn, Self

from s3dlio.engine.errors import NotFoundError
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.stores.base import run
from s3dlio.engine.stores.memory import MemoryStore, forget

from ._client import MountpointS3Client
from ._errors import KEY_MISSING, translated
from ._get import GetObjectStream
from ._put import PutObjectStream


class MockMountpointS3Client:
    """One bucket, and nothing else. What clients of it write is seen by all of them, and gone with the last."""

    def __init__(
        self,
        region: str,
        bucket: str,
        throughput_target_gbps: float = 10.0,
        part_size: int = 8 << 20,
        user_agent_prefix: str = "mock_client",
        unsigned: bool = False,
        force_path_style: bool = False,
        max_attempts: int = 10,
    ) -> None:
        self.region = region
        self.throughput_target_gbps = throughput_target_gbps
        self.part_size = part_size
        self.user_agent_prefix = user_agent_prefix
        self.unsigned = unsigned
        self.force_path_style = force_path_style
        self.max_attempts = max_attempts
        self._bucket = bucket
        self._store = MemoryStore(f"memory://{secrets.token_hex(16)}/")
        # The clients hold the store too.
        weakref.finalize(self._store, forget, self._store.root)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object: its objects are in this process's memory")

    def create_mocked_client(self) -> MountpointS3Client:
        """Returns a client that has this bucket."""
        return _MockedClient(
            self.region,
            self.user_agent_prefix,
            self.throughput_target_gbps,
            self.part_size,
            unsigned=self.unsigned,
            force_path_style=self.force_path_style,
            max_attempts=self.max_attempts,
        ).over(self._bucket, self._store)

    def add_object(self, key: str, data: bytes) -> None:
        """Makes an object."""
        self._store.write(key, bytes(data), create_only=False)

    def remove_object(self, key: str) -> None:
        """Removes an object; a missing one is no error."""
        run(self._store.delete(key), inline_fetcher().run)


class _MockedClient(MountpointS3Client):
    """A client that knows one bucket, of this process's memory. One that comes out of a pickle sees it only in this process."""

    def over(self, bucket: str, store: MemoryStore) -> Self:
        """Returns this client, with its bucket."""
        self._bucket = bucket
        self._store = store
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.__getnewargs__(), self._bucket, self._store.root)

    def store_of(self, bucket: str) -> MemoryStore:
        """As `MountpointS3Client.store_of`.

        Raises:
            NotFoundError: Of another bucket.
        """
        if bucket != self._bucket:
            raise NotFoundError("NoSuchBucket: this client has another one", uri=f"s3://{bucket}/", status=404)
        return self._store

    def get_object(self, bucket: str, key: str, start: int | None = None, end: int | None = None) -> GetObjectStream:
        """As `MountpointS3Client.get_object`; but to look whether the object is there costs nothing here.

        Raises:
            S3Exception: It is not.
        """
        stream = super().get_object(bucket, key, start, end)
        with translated(KEY_MISSING):
            self.run(self._store.stat(key))
        return stream

    def put_object(self, bucket: str, key: str, storage_class: str | None = None) -> PutObjectStream:
        """As `MountpointS3Client.put_object`; in memory all classes are one, and an object says none."""
        return super().put_object(bucket, key)


def _rebuild(arguments: tuple[Any, ...], bucket: str, root: str) -> _MockedClient:
    return _MockedClient(*arguments).over(bucket, MemoryStore(root))
