"""The client below `S3Client`: how a bucket is asked, and the six operations on it. It owns the stores that it opened, and no thread."""

from __future__ import annotations

import math
from operator import index
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import unquote

from s3dlio.engine.config import Settings, environment, settings
from s3dlio.engine.errors import InvalidUriError, UnsupportedError
from s3dlio.engine.fetch.request import Fetch
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.stores.base import Operation, Store, run
from s3dlio.engine.stores.registry import open_store
from s3dlio.engine.stores.s3 import S3Store
from s3dlio.engine.stores.s3_config import S3Access
from s3dlio.engine.uri import FILE_SCHEMES, parse_uri

from ._errors import BUCKET_MISSING, KEY_MISSING, OBJECT_MISSING, S3Exception, translated
from ._get import GetObjectStream
from ._list import ListObjectStream
from ._put import PutObjectStream
from ._records import HeadObjectResult, head_of, head_of_object

T = TypeVar("T")

_MIB: Final = 1 << 20
_MIN_PART_BYTES: Final = 5 * _MIB
_MAX_PART_BYTES: Final = 5 << 30
_GBPS_OF_A_REQUEST: Final = 0.625
"""What one request brings from S3, about 80 MB/s. Source: "Performance design patterns for Amazon S3": 85 to 90 MB/s."""
_MAX_IN_FLIGHT: Final = 64


class Place(NamedTuple):
    """One object, or one prefix, and the store that has it."""

    store: Store
    uri: str
    key: str


class MountpointS3Client:
    """Asks buckets of one region by one configuration. Thread-safe; picklable; a forked child goes on with it.

    Args:
        region: Of the buckets; empty where the configuration of AWS says it.
        user_agent_prefix: What requests say of who asks.
        throughput_target_gbps: Gigabits per second that are wanted of one object: how many requests are in flight for it.
        part_size: Bytes of the parts in which long objects are read and written.
        profile: Of `~/.aws`.
        unsigned: Whether requests carry no signature.
        endpoint: URL; None or "" where the environment says it (`AWS_ENDPOINT_URL`), or for AWS.
        force_path_style: Whether the bucket stands in the path, and not in the host's name.
        max_attempts: For each request; `AWS_MAX_ATTEMPTS` stands above it.
        requester_pays: Whether who asks pays.

    Raises:
        S3Exception: A value has no meaning.
    """

    def __init__(
        self,
        region: str,
        user_agent_prefix: str = "",
        throughput_target_gbps: float = 10.0,
        part_size: int = 8 * _MIB,
        profile: str | None = None,
        unsigned: bool | None = False,
        endpoint: str | None = None,
        force_path_style: bool | None = False,
        max_attempts: int = 10,
        requester_pays: bool | None = False,
    ) -> None:
        self.region = region
        self.user_agent_prefix = user_agent_prefix
        self.throughput_target_gbps = throughput_target_gbps
        self.part_size = part_size
        self.profile = profile
        self.unsigned = unsigned
        self.endpoint = endpoint
        self.force_path_style = force_path_style
        self.max_attempts = max_attempts
        self.requester_pays = requester_pays
        self.limits: Settings = _limits(part_size, max_attempts)
        """The settings of the engine for every request of this client."""
        self.max_in_flight = _requests_for(throughput_target_gbps)
        """Requests at once, for one object."""
        self._stores: dict[str, Store] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.__getnewargs__()

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (
            self.region,
            self.user_agent_prefix,
            self.throughput_target_gbps,
            self.part_size,
            self.profile,
            self.unsigned,
            self.endpoint,
            self.force_path_style,
            self.max_attempts,
            self.requester_pays,
        )

    def place(self, bucket: str, key: str) -> Place:
        """Returns where an object is; its bucket is opened if need be, which may take as long as credentials do.

        Args:
            bucket: A name, of S3; or a whole root: `gs://bucket`, `az://account/container`, `file://`.
            key: Raw text.

        Raises:
            S3dlioError: The bucket cannot be opened.
        """
        store = self.store_of(bucket)
        return Place(store, store.root + key, key)

    def store_of(self, bucket: str) -> Store:
        """Returns what has the objects of a bucket; it is opened if need be.

        Raises:
            S3dlioError: As `place`.
        """
        store = self._stores.get(bucket)
        if store is None:
            store = self._stores.setdefault(bucket, self._open(bucket))
        return store

    def _open(self, bucket: str) -> Store:
        scheme, separator, rest = bucket.partition("://")
        if separator and scheme in FILE_SCHEMES and not rest:
            return open_store(scheme, bucket)
        # An ARN may be written with colons alone, which leave the slash to the key.
        name = bucket.replace("/", ":") if bucket.startswith("arn:") else bucket
        found = parse_uri((name if separator else f"s3://{name}") + ("" if name.endswith("/") else "/"))
        if found.key:
            raise InvalidUriError("a bucket has no key", uri=bucket)
        return S3Store(found.root, self._access()) if found.scheme == "s3" else open_store(found.scheme, found.root)

    def _access(self) -> S3Access:
        return S3Access(
            endpoint=self.endpoint or None,
            region=self.region or None,
            profile=self.profile,
            unsigned=bool(self.unsigned),
            path_style=bool(self.force_path_style),
            requester_pays=self.requester_pays or None,
            user_agent=self.user_agent_prefix or None,
            # As upstream: over plain HTTP the checksum is signed, and not every byte. SHA-256 takes as long as sending.
            signs_payloads=False,
        )

    def get_object(self, bucket: str, key: str, start: int | None = None, end: int | None = None) -> GetObjectStream:
        """Returns the bytes [start, end) of an object as a stream; they are asked for when it is read.

        Raises:
            S3Exception: The bucket cannot be opened.
        """
        with translated(KEY_MISSING):
            return GetObjectStream(self, self.place(bucket, key), bucket, 0 if start is None else start, end)

    def put_object(self, bucket: str, key: str, storage_class: str | None = None) -> PutObjectStream:
        """Returns a stream that becomes the object when it is closed.

        Raises:
            S3Exception: The bucket cannot be opened.
        """
        with translated(BUCKET_MISSING):
            return PutObjectStream(self.place(bucket, key), bucket, storage_class, self.limits, self.max_in_flight)

    def list_objects(self, bucket: str, prefix: str = "", delimiter: str = "", max_keys: int = 1000) -> ListObjectStream:
        """Returns the pages of a listing; each is asked for when it is taken.

        Args:
            bucket: As `place`.
            prefix: Raw text.
            delimiter: Keys that have it behind the prefix come as common prefixes.
            max_keys: Objects and prefixes of a page; S3 gives 1000 at most.
        """
        return ListObjectStream(self, bucket, prefix, delimiter, max_keys)

    def head_object(self, bucket: str, key: str) -> HeadObjectResult:
        """Returns what a HEAD says.

        Raises:
            S3Exception: As the store says.
        """
        with translated(OBJECT_MISSING):
            store, _, key = self.place(bucket, key)
            if isinstance(store, S3Store):
                return head_of(self.run(store.stat_details(key)))
            return head_of_object(self.run(store.stat(key)))

    def delete_object(self, bucket: str, key: str) -> None:
        """Deletes an object; a missing one is no error.

        Raises:
            S3Exception: As the store says.
        """
        with translated(BUCKET_MISSING):
            store, _, key = self.place(bucket, key)
            self.run(store.delete(key))

    def copy_object(self, src_bucket: str, src_key: str, dst_bucket: str, dst_key: str) -> None:
        """Copies an object within the store.

        Args:
            src_bucket: As `place`.
            src_key: Percent-encoded, as in the header `x-amz-copy-source`; the other key is raw text.
            dst_bucket: As `place`.
            dst_key: Raw text.

        Raises:
            S3Exception: As the store says, or the two stores cannot copy between them.
        """
        with translated(OBJECT_MISSING):
            source, uri, raw_key = self.place(src_bucket, unquote(src_key))
            store, _, key = self.place(dst_bucket, dst_key)
            if not self.run(store.copy(key, source, raw_key)):
                raise UnsupportedError(f"{source.root} cannot copy to {store.root} without the bytes coming by here", uri=uri)

    def run(self, operation: Operation[T]) -> T:
        """Drives an operation of a store to its end, by the limits of this client.

        Raises:
            S3dlioError: As the operation says.
        """
        return run(operation, self.drive)

    def drive(self, fetch: Fetch) -> Fetch:
        """Drives one request to its end; a `Runner`.

        Raises:
            S3dlioError: The request's error.
        """
        return inline_fetcher().run(fetch, self.limits)


def _limits(part_size: int, max_attempts: int) -> Settings:
    if not _MIN_PART_BYTES <= index(part_size) <= _MAX_PART_BYTES:
        raise S3Exception("invalid configuration: part size must be at between 5MiB and 5GiB")
    text = environment("AWS_MAX_ATTEMPTS").get("AWS_MAX_ATTEMPTS")
    attempts: Any = max_attempts if text is None else text
    if not str(attempts).isdecimal() or int(attempts) < 1:
        name = "max_attempts" if text is None else "AWS_MAX_ATTEMPTS"
        raise S3Exception(f"invalid configuration: {name} must be a whole number above 0, not {attempts!r}")
    above = max(settings().split_above_bytes, part_size)
    return settings(
        max_attempts=int(attempts),
        part_bytes=part_size,
        put_part_bytes=part_size,
        split_above_bytes=above,
        # As upstream. Until it is known that there are parts, all is kept.
        multipart_above_bytes=min(settings().multipart_above_bytes, part_size),
    )


def _requests_for(gbps: float) -> int:
    """Returns how many requests bring that many gigabits per second."""
    if not 0 <= gbps < math.inf:
        raise S3Exception(f"invalid configuration: throughput_target_gbps must be 0 or more, not {gbps!r}")
    return min(_MAX_IN_FLIGHT, max(1, math.ceil(gbps / _GBPS_OF_A_REQUEST)))


def join_all_managed_threads(timeout_secs: float) -> None:
    """Waits for the threads of all clients, of which there are none; that of a writer ends with it."""
