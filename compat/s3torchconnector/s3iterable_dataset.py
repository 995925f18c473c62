"""A data set of objects that are iterated over, in the order of their listing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Self

import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info

from ._ahead import ReadersAhead
from ._s3bucket_key_data import S3BucketKeyData
from ._s3client import S3Client, S3ClientConfig
from ._s3dataset_common import get_objects_from_prefix, get_objects_from_uris, identity
from ._user_agent import UserAgent
from .s3reader import S3Reader, S3ReaderConstructor, S3ReaderConstructorProtocol

log = logging.getLogger(__name__)


class S3IterableDataset(IterableDataset[Any]):
    """Objects one after the other, each as what `transform` makes of its reader; `from_prefix` and `from_objects` make one.

    Each iteration lists anew, in each process that iterates. Making a reader sends nothing; once one is read, the objects after it are
    fetched ahead, within a bound in bytes.
    """

    def __init__(
        self,
        region: str,
        get_dataset_objects: Callable[[S3Client], Iterable[S3BucketKeyData]],
        endpoint: str | None = None,
        transform: Callable[[S3Reader], Any] = identity,
        s3client_config: S3ClientConfig | None = None,
        enable_sharding: bool = False,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> None:
        """Sends nothing.

        Args:
            region: Of the bucket.
            get_dataset_objects: Called with the client at the begin of each iteration; gives the objects in their order.
            endpoint: URL of the service; by default `AWS_ENDPOINT_URL`, or AWS itself.
            transform: Called with each reader, in the process that iterates; what it returns is the sample.
            s3client_config: Of the client.
            enable_sharding: Whether the ranks, and the DataLoader workers of each, share the objects; otherwise each gets all of them.
            reader_constructor: From `S3ReaderConstructor`, or any callable that keeps its protocol; by default the sequential one.
        """
        self._get_dataset_objects = get_dataset_objects
        self._transform = transform
        self._region = region
        self._endpoint = endpoint
        self._s3client_config = s3client_config
        self._client: S3Client | None = None
        self._enable_sharding = enable_sharding
        self._reader_constructor = reader_constructor or S3ReaderConstructor.default()
        self._rank = 0
        self._world_size = 1
        self._ask_rank()

    @property
    def region(self) -> str:
        return self._region

    @property
    def endpoint(self) -> str | None:
        return self._endpoint

    @classmethod
    def from_objects(
        cls,
        object_uris: str | Iterable[str],
        *,
        region: str,
        endpoint: str | None = None,
        transform: Callable[[S3Reader], Any] = identity,
        s3client_config: S3ClientConfig | None = None,
        enable_sharding: bool = False,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> Self:
        """Returns the data set of these URIs. They are looked at when the iteration begins; a generator gives them only once.

        Args:
            object_uris: One `s3://bucket/key`, or several, of any buckets.
            region: This and the others as in `__init__`.
            endpoint: As there.
            transform: As there.
            s3client_config: As there.
            enable_sharding: As there.
            reader_constructor: As there.
        """
        log.info(f"Building {cls.__name__} from_objects")  # noqa: G004 (as upstream, and once)
        return cls(
            region,
            partial(get_objects_from_uris, object_uris),
            endpoint,
            transform=transform,
            s3client_config=s3client_config,
            enable_sharding=enable_sharding,
            reader_constructor=reader_constructor,
        )

    @classmethod
    def from_prefix(
        cls,
        s3_uri: str,
        *,
        region: str,
        endpoint: str | None = None,
        transform: Callable[[S3Reader], Any] = identity,
        s3client_config: S3ClientConfig | None = None,
        enable_sharding: bool = False,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> Self:
        """Returns the data set of all objects whose URIs begin with `s3_uri`. It is looked at when the iteration begins.

        Args:
            s3_uri: `s3://bucket/prefix`; the prefix is raw text and no folder.
            region: This and the others as in `__init__`.
            endpoint: As there.
            transform: As there.
            s3client_config: As there.
            enable_sharding: As there.
            reader_constructor: As there.
        """
        log.info(f"Building {cls.__name__} from_prefix {s3_uri=}")  # noqa: G004 (as upstream, and once)
        return cls(
            region,
            partial(get_objects_from_prefix, s3_uri),
            endpoint,
            transform=transform,
            s3client_config=s3client_config,
            enable_sharding=enable_sharding,
            reader_constructor=reader_constructor,
        )

    def __iter__(self) -> Iterator[Any]:
        """Returns the samples of this process.

        Raises:
            ValueError: A URI is none of a known scheme, or has no bucket.
            S3Exception: The client cannot be made; later, what the store says.
        """
        client = self._get_client()
        objects = iter(self._get_dataset_objects(client))
        first, step = self._share() if self._enable_sharding else (0, 1)
        return map(self._transform, ReadersAhead(client, objects, self._reader_constructor, first, step))

    def _get_client(self) -> S3Client:
        if self._client is None:
            reader_type = S3ReaderConstructor.get_reader_type_string(self._reader_constructor)
            self._client = S3Client(
                self.region,
                endpoint=self.endpoint,
                user_agent=UserAgent([f"md/dataset#iterable md/reader_type#{reader_type}"]),
                s3client_config=self._s3client_config,
            )
        return self._client

    def _share(self) -> tuple[int, int]:
        """Returns the position of the first object that is this process's, and how many steps on the next one is.

        A rank has every `_world_size`-th object, and a worker of a DataLoader every so many of its rank's.
        """
        self._ask_rank()
        worker = get_worker_info()
        index, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self._rank + index * self._world_size, count * self._world_size

    def _ask_rank(self) -> None:
        """Asks the process group, if there is one here. What it said before holds where it is no more, as in workers that are spawned."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._rank = torch.distributed.get_rank()
            self._world_size = torch.distributed.get_world_size()

    def __getstate__(self) -> dict[str, Any]:
        # A process that gets a pickle of this, such as a spawned worker of a DataLoader, belongs to the rank that made it.
        self._ask_rank()
        return self.__dict__
