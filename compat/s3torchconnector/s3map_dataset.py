"""A data set of objects by their number."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Self

from torch.utils.data import Dataset

from ._ahead import Batch
from ._s3bucket_key_data import S3BucketKeyData
from ._s3client import S3Client, S3ClientConfig
from ._s3dataset_common import get_objects_from_prefix, get_objects_from_uris, identity
from ._user_agent import UserAgent
from .s3reader import S3Reader, S3ReaderConstructor, S3ReaderConstructorProtocol

log = logging.getLogger(__name__)


class S3MapDataset(Dataset[Any]):
    """Objects by their number, each as what `transform` makes of its reader; `from_prefix` and `from_objects` make one.

    It lists once in each process, when the first object or the length is asked for; a list that is there already is pickled along.
    Making a reader sends nothing. A `DataLoader` asks for a batch in one call: then the objects of the batch are fetched together,
    within a bound in bytes, once the first of them is read.
    """

    def __init__(
        self,
        region: str,
        get_dataset_objects: Callable[[S3Client], Iterable[S3BucketKeyData]],
        endpoint: str | None = None,
        transform: Callable[[S3Reader], Any] = identity,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> None:
        """Sends nothing.

        Args:
            region: Of the bucket.
            get_dataset_objects: Called with the client, once; gives the objects in their order.
            endpoint: URL of the service; by default `AWS_ENDPOINT_URL`, or AWS itself.
            transform: Called with each reader, in the process that asks; what it returns is the sample.
            s3client_config: Of the client.
            reader_constructor: From `S3ReaderConstructor`, or any callable that keeps its protocol; by default the sequential one.
        """
        self._get_dataset_objects = get_dataset_objects
        self._transform = transform
        self._region = region
        self._endpoint = endpoint
        self._s3client_config = s3client_config
        self._client: S3Client | None = None
        self._bucket_key_pairs: list[S3BucketKeyData] | None = None
        self._reader_constructor = reader_constructor or S3ReaderConstructor.default()

    @property
    def region(self) -> str:
        return self._region

    @property
    def endpoint(self) -> str | None:
        return self._endpoint

    @property
    def _dataset_bucket_key_pairs(self) -> list[S3BucketKeyData]:
        if self._bucket_key_pairs is None:
            self._bucket_key_pairs = list(self._get_dataset_objects(self._get_client()))
        return self._bucket_key_pairs

    @classmethod
    def from_objects(
        cls,
        object_uris: str | Iterable[str],
        *,
        region: str,
        endpoint: str | None = None,
        transform: Callable[[S3Reader], Any] = identity,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> Self:
        """Returns the data set of these URIs. They are looked at when the first object, or the length, is asked for.

        Args:
            object_uris: One `s3://bucket/key`, or several, of any buckets.
            region: This and the others as in `__init__`.
            endpoint: As there.
            transform: As there.
            s3client_config: As there.
            reader_constructor: As there.
        """
        log.info(f"Building {cls.__name__} from_objects")  # noqa: G004 (as upstream, and once)
        return cls(
            region,
            partial(get_objects_from_uris, object_uris),
            endpoint,
            transform=transform,
            s3client_config=s3client_config,
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
        reader_constructor: S3ReaderConstructorProtocol | None = None,
    ) -> Self:
        """Returns the data set of all objects whose URIs begin with `s3_uri`. It is looked at when the first of them is asked for.

        Args:
            s3_uri: `s3://bucket/prefix`; the prefix is raw text and no folder.
            region: This and the others as in `__init__`.
            endpoint: As there.
            transform: As there.
            s3client_config: As there.
            reader_constructor: As there.
        """
        log.info(f"Building {cls.__name__} from_prefix {s3_uri=}")  # noqa: G004 (as upstream, and once)
        return cls(
            region,
            partial(get_objects_from_prefix, s3_uri),
            endpoint,
            transform=transform,
            s3client_config=s3client_config,
            reader_constructor=reader_constructor,
        )

    def __len__(self) -> int:
        return len(self._dataset_bucket_key_pairs)

    def __getitem__(self, i: int) -> Any:
        """Returns one sample; a negative number counts from the end.

        Raises:
            IndexError: There is no such object.
            ValueError: A URI is none of a known scheme, or has no bucket.
            S3Exception: The listing failed, or the transform's reading.
        """
        return self._transform(self._get_object(i))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Returns several samples, as `__getitem__` gives each: also that of a subclass. What a DataLoader asks for a batch."""
        pairs = self._dataset_bucket_key_pairs
        with Batch(self, self._get_client(), [pairs[i] for i in indices], self._reader_constructor) as batch:
            return [self[i] for i in batch.in_turn(indices)]

    def _get_client(self) -> S3Client:
        if self._client is None:
            reader_type = S3ReaderConstructor.get_reader_type_string(self._reader_constructor)
            self._client = S3Client(
                self.region,
                endpoint=self.endpoint,
                user_agent=UserAgent([f"md/dataset#map md/reader_type#{reader_type}"]),
                s3client_config=self._s3client_config,
            )
        return self._client

    def _get_object(self, i: int) -> S3Reader:
        reader = Batch.reader_of(self, i)
        if reader is not None:
            return reader
        pair = self._dataset_bucket_key_pairs[i]
        return self._get_client().get_object(
            pair.bucket, pair.key, object_info=pair.object_info, reader_constructor=self._reader_constructor
        )
