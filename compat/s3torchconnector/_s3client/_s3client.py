"""The client that users see: operations on buckets, with objects as files."""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ...s3torchconnectorclient._mountpoint_s3_client import (
    GetObjectStream,
    HeadObjectResult,
    ListObjectStream,
    MountpointS3Client,
    ObjectInfo,
)
from .._user_agent import UserAgent
from ..s3reader import S3Reader, S3ReaderConstructor
from ..s3reader._streams import name_of
from ..s3reader.protocol import GetStreamCallable, S3ReaderConstructorProtocol
from ..s3writer import S3Writer
from ._window import Window
from .s3client_config import S3ClientConfig

if TYPE_CHECKING:
    from ..s3reader.protocol import GetObjectInfo

T = TypeVar("T")

log = logging.getLogger(__name__)
_making = threading.RLock()
"""Whoever makes a client may ask by another for that."""


class S3Client:
    """Asks buckets of one region. Thread-safe; picklable; a forked child goes on with it. It asks nothing before it must.

    Args:
        region: Of the buckets.
        endpoint: URL; None where the environment says it (`AWS_ENDPOINT_URL`), or for AWS.
        user_agent: What requests say of who asks.
        s3client_config: How they are asked.
    """

    def __init__(
        self,
        region: str,
        *,
        endpoint: str | None = None,
        user_agent: UserAgent | None = None,
        s3client_config: S3ClientConfig | None = None,
    ) -> None:
        self._region = region
        self._endpoint = endpoint
        self._user_agent_prefix = (user_agent or UserAgent()).prefix
        self._s3client_config = s3client_config or S3ClientConfig()
        self._client_pid: int | None = None
        """Who made `_native_client`; forked children go on with it."""
        self._native_client: MountpointS3Client | None = None

    @property
    def _client(self) -> MountpointS3Client:
        """The client below, made at the first use.

        Raises:
            S3Exception: The configuration has no meaning.
        """
        found = self._native_client
        if found is None:
            with _making:
                found = self._native_client
                if found is None:
                    found = self._native_client = self._client_builder()
                    self._client_pid = os.getpid()
        return found

    @property
    def region(self) -> str:
        return self._region

    @property
    def s3client_config(self) -> S3ClientConfig:
        return self._s3client_config

    @property
    def user_agent_prefix(self) -> str:
        return self._user_agent_prefix

    def _client_builder(self) -> MountpointS3Client:
        config = self._s3client_config
        return MountpointS3Client(
            region=self._region,
            endpoint=self._endpoint,
            profile=config.profile,
            user_agent_prefix=self._user_agent_prefix,
            throughput_target_gbps=config.throughput_target_gbps,
            part_size=config.part_size,
            unsigned=config.unsigned,
            force_path_style=config.force_path_style,
            max_attempts=config.max_attempts,
            requester_pays=config.requester_pays,
        )

    def get_object(
        self,
        bucket: str,
        key: str,
        *,
        object_info: ObjectInfo | HeadObjectResult | None = None,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
        start: int | None = None,
        end: int | None = None,
    ) -> S3Reader:
        """Returns an object as a file to read. Nothing is asked of the store before it is read.

        Args:
            bucket: A name, of S3; or a whole root: `gs://bucket`, `az://account/container`, `file://`.
            key: Raw text.
            object_info: What a listing said of it; spares a HEAD where the size is needed.
            reader_constructor: What makes the file; by default one that reads in order.
            start: First byte of the file, where it is a part of the object.
            end: Last byte of it, inclusive.

        Raises:
            ValueError: `start` and `end` are no range, or `reader_constructor` is not one that reads in order or by ranges.
        """
        if log.isEnabledFor(logging.DEBUG):
            log.debug("GetObject %s, object_info is None=%s", name_of(bucket, key), object_info is None)
        get_object_info: GetObjectInfo = (
            partial(self.head_object, bucket, key) if object_info is None else partial(_identity, object_info)
        )
        get_stream: GetStreamCallable = partial(self._get_object_stream, bucket, key)
        if start is not None or end is not None:
            kind = S3ReaderConstructor.get_reader_type_string(reader_constructor)
            if kind not in ("sequential", "range_based"):
                raise ValueError(f"start and end go with a sequential or a range_based reader, not with one that is {kind}")
            window = Window(start or 0, end, get_object_info, get_stream)
            get_object_info, get_stream = window.get_object_info, window.get_stream
        make = reader_constructor or S3ReaderConstructor.default()
        return make(bucket=bucket, key=key, get_object_info=get_object_info, get_stream=get_stream)

    def _get_object_stream(
        self, bucket: str, key: str, start: int | None = None, end: int | None = None
    ) -> GetObjectStream:
        return self._client.get_object(bucket, key, start, end)

    def put_object(self, bucket: str, key: str, storage_class: str | None = None) -> S3Writer:
        """Returns an object as a file to write, which becomes visible when it is closed.

        Raises:
            S3Exception: The bucket cannot be opened.
        """
        log.debug("PutObject %s", name_of(bucket, key))
        return S3Writer(self._client.put_object(bucket, key, storage_class))

    def list_objects(self, bucket: str, prefix: str = "", delimiter: str = "", max_keys: int = 1000) -> ListObjectStream:
        """Returns the pages of a listing; each is asked for when it is taken.

        Args:
            bucket: As `get_object`.
            prefix: Raw text.
            delimiter: Keys that have it behind the prefix come as common prefixes.
            max_keys: Objects and prefixes of a page; S3 gives 1000 at most.
        """
        log.debug("ListObjects %s", name_of(bucket, prefix))
        return self._client.list_objects(bucket, prefix, delimiter, max_keys)

    def head_object(self, bucket: str, key: str) -> HeadObjectResult:
        """Returns what a HEAD says.

        Raises:
            S3Exception: As the store says.
        """
        log.debug("HeadObject %s", name_of(bucket, key))
        return self._client.head_object(bucket, key)

    def delete_object(self, bucket: str, key: str) -> None:
        """Deletes an object; a missing one is no error.

        Raises:
            S3Exception: As the store says.
        """
        log.debug("DeleteObject %s", name_of(bucket, key))
        self._client.delete_object(bucket, key)

    def copy_object(self, src_bucket: str, src_key: str, dst_bucket: str, dst_key: str) -> None:
        """Copies an object within the store.

        Args:
            src_bucket: As `get_object`.
            src_key: Percent-encoded; the other key is raw text.
            dst_bucket: As `get_object`.
            dst_key: Raw text.

        Raises:
            S3Exception: As the store says.
        """
        log.debug("CopyObject %s to %s", name_of(src_bucket, src_key), name_of(dst_bucket, dst_key))
        self._client.copy_object(src_bucket, src_key, dst_bucket, dst_key)


def _identity(found: T) -> T:
    return found


def _renew_lock() -> None:
    # Another thread may hold it at the moment of a fork; the child would wait for ever.
    global _making
    _making = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)
