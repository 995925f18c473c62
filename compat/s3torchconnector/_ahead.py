"""Readers whose objects are fetched before they are asked for: in the process that reads, from the first one that is read.

A data set makes its readers as upstream does, through `S3Client.get_object`; only the stream that a reader is given is another. Rules:

* Making readers sends nothing but the listing. When an object is read, those after it are asked for too, so many bytes and requests
  ahead at most; what nobody reads is dropped.
* Long objects, ranges, and whoever reads against the order of the listing get the client's own stream. So does everything where
  somebody put another `_get_object_stream` in the place of the client's.
* An object is read as it is when it is fetched: what the listing said of it may be old. One that was not there then is asked for again.
* Readers of one data set may be used in several threads, as upstream's. A pickle reads for itself; so does a forked child.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextvars import ContextVar, Token
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Self, cast

from torch.utils.data import get_worker_info

from s3dlio.engine.config import settings
from s3dlio.engine.errors import NotFoundError, ObjectChangedError, S3dlioError
from s3dlio.engine.memory.limits import default_memory_bytes
from s3dlio.engine.memory.view import BytesView
from s3dlio.engine.pool.ahead import Ahead
from s3dlio.engine.pool.parted import Wanted

from ..s3torchconnectorclient._errors import KEY_MISSING, translate
from ._object_queue import ObjectQueue
from ._s3client import S3Client
from ._s3dataset_common import identity

if TYPE_CHECKING:
    from ..s3torchconnectorclient._mountpoint_s3_client import GetObjectStream, MountpointS3Client
    from ._s3bucket_key_data import S3BucketKeyData
    from .s3reader import GetStreamCallable, S3Reader, S3ReaderConstructorProtocol
    from .s3reader.protocol import GetObjectInfo

_MEMORY_SHARE: Final = 4
"""What part of `memory_bytes` is for objects that nobody has read yet; the workers of a DataLoader divide it."""
_LONG_SHARE: Final = 8
"""What part of that memory one object may take; a longer one is read by itself, in parts."""
_NUM_PASSED_OVER: Final = 16
"""So many objects more than those that are read may be passed over; where more are, fetching ahead is mostly in vain, and pauses."""
_UNKNOWN: Final = sys.maxsize
_STREAM_OF_CLIENT: Final = S3Client._get_object_stream


class ReadersAhead:
    """An iterator of the readers of objects, in their order. A pickle of it goes on where it was, as far as `objects` has one.

    Args:
        client: Makes the readers.
        objects: In their order. What it raises is raised at its place, and it is asked on.
        constructor: As `S3Client.get_object` takes it.
        first: Position of the first object that is wanted.
        step: How many positions on the next one is.
    """

    def __init__(
        self,
        client: S3Client,
        objects: Iterator[S3BucketKeyData],
        constructor: S3ReaderConstructorProtocol,
        first: int = 0,
        step: int = 1,
    ) -> None:
        self._client = client
        self._constructor = constructor
        self._objects = ObjectQueue(objects, first, step)
        self._shared = self._share()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> S3Reader:
        number, one = self._objects.take()
        construct = self._constructor
        if self._shared is not None:
            construct = _Place(self._shared, number, one, construct).construct
        return self._client.get_object(one.bucket, one.key, object_info=one.object_info, reader_constructor=construct)

    def _share(self) -> _Shared | None:
        client = self._client
        is_own = getattr(type(client), "_get_object_stream", None) is _STREAM_OF_CLIENT
        if not is_own or "_get_object_stream" in vars(client):
            return None
        self._objects.taker = weakref.ref(self)
        return _Shared(client, self._objects)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shared": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared = self._share()


class Batch:
    """Lets readers that a map data set makes for one call of `__getitems__` share what is fetched ahead.

    Args:
        dataset: That makes them.
        client: Of the data set.
        objects: Of the batch, in its order.
        constructor: As `S3Client.get_object` takes it.
    """

    def __init__(
        self,
        dataset: object,
        client: S3Client,
        objects: Sequence[S3BucketKeyData],
        constructor: S3ReaderConstructorProtocol,
    ) -> None:
        self._dataset = dataset
        self._readers = ReadersAhead(client, iter(objects), constructor)
        self._offer: tuple[int, S3Reader] | None = None

    def __enter__(self) -> Self:
        self._token: Token[Batch | None] = _batch.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _batch.reset(self._token)

    def in_turn(self, indices: Sequence[int]) -> Iterator[int]:
        """Yields the numbers of the objects; while one is out, its reader is to be had."""
        for index, reader in zip(indices, self._readers, strict=True):
            self._offer = index, reader
            yield index

    @staticmethod
    def reader_of(dataset: object, index: int) -> S3Reader | None:
        """Returns the reader of the object whose turn it is, if that is `index` of `dataset`, and nobody has got it yet."""
        batch = _batch.get()
        if batch is None or batch._dataset is not dataset or batch._offer is None or batch._offer[0] != index:
            return None
        (_, reader), batch._offer = batch._offer, None
        return reader


_batch: ContextVar[Batch | None] = ContextVar("_batch", default=None)
"""The batch that is being made, in this thread."""


class _Shared:
    """What is fetched ahead for the readers of one pass over the objects."""

    def __init__(self, client: S3Client, objects: ObjectQueue) -> None:
        self._client = client
        self._objects = objects
        worker = get_worker_info()
        self._max_bytes = _bytes_ahead(settings().memory_bytes, 1 if worker is None else worker.num_workers)
        self._under_way: tuple[_Requests, Ahead] | None = None
        """What is fetched, and by whom."""
        self._lock = threading.Lock()
        """Held while another begins."""
        self._last_bytes = _UNKNOWN
        """Size of the last object that was not listed; what is thought of the next one."""
        self._next = 0
        """Number of the object after the last one that was read."""
        self._num_wasted = 0
        """Objects that were passed over, less those that were read."""

    def fetch(self, number: int, one: S3BucketKeyData, *, wants_all: bool) -> BytesView | None:
        """Returns the bytes of an object, and has those after it fetched; None if it should be read by a stream of its own.

        Args:
            number: Of the object.
            one: The object.
            wants_all: Whether somebody wants all of it at once; who begins with a chunk may need no more.

        Raises:
            S3dlioError: As the store says.
            S3Exception: The client cannot be made.
        """
        longest = self._client._client.part_size
        if wants_all and longest < self._max_bytes // _LONG_SHARE:
            longest = self._max_bytes // _LONG_SHARE
        info = one.object_info
        size = info.size if info is not None else 0 if wants_all else self._last_bytes
        if size > longest or self._is_sparse(number):
            return None
        under_way = self._under_way
        if under_way is None or number >= under_way[0].end:
            under_way = self._begin(number, one)
        requests, ahead = under_way
        requests.longest_bytes = longest
        try:
            view = ahead.take(number - requests.begin)
        except (LookupError, ObjectChangedError):
            # Its turn is over, or it is forgotten, or not what the listing said any more.
            return None
        except NotFoundError:
            if number == requests.begin:
                raise
            # It was asked for before its turn, and may be there by now.
            return None
        if info is None:
            self._last_bytes = len(view)
        return view

    def _is_sparse(self, number: int) -> bool:
        """Returns whether most objects are passed over; a program may read only some of them, chosen by their keys.

        It goes by what was read lately: so few objects in their order, and it is no more. What is passed over before the first one that
        is read was not fetched. Threads may miscount, which costs requests and no more.
        """
        passed_over = number - self._next if self._next else 0
        if passed_over >= 0:
            self._next = number + 1
        wasted = self._num_wasted - 1
        if passed_over > 0:
            wasted = min(wasted + passed_over, 2 * _NUM_PASSED_OVER)
        if wasted >= -_NUM_PASSED_OVER:
            self._num_wasted = wasted
        return wasted > _NUM_PASSED_OVER

    def _begin(self, number: int, one: S3BucketKeyData) -> tuple[_Requests, Ahead]:
        with self._lock:
            found = self._under_way
            if found is None or number >= found[0].end:
                native = self._client._client
                native.store_of(one.bucket)
                requests = _Requests(native, self._objects, number)
                ahead = Ahead(
                    requests, max_in_flight=native.max_in_flight, max_bytes=self._max_bytes, limits=native.limits
                )
                if found is not None:
                    found[1].close()
                found = self._under_way = requests, ahead
            return found


class _Requests:
    """The requests for the objects from one of them on, as long as they can be fetched ahead one after the other."""

    def __init__(self, native: MountpointS3Client, objects: ObjectQueue, begin: int) -> None:
        self._native = native
        self._objects = objects
        self._number = begin
        self.begin = begin
        """Number of the first object."""
        self.end = _UNKNOWN
        """Number of the first one behind them that is not among them."""
        self.longest_bytes = 0
        """A longer object is not among them."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Wanted:
        number = self._number
        one = self._objects.look(number)
        if one is not None:
            info = one.object_info
            size = None if info is None else info.size
            if size is None or size <= self.longest_bytes:
                try:
                    store = self._native.store_of(one.bucket)
                except S3dlioError:
                    # A bucket that cannot be opened is the error of whoever reads its objects, and nobody else's.
                    pass
                else:
                    self._number = number + 1
                    return Wanted(store, store.root + one.key, one.key, 0, None, size)
        self.end = number
        raise StopIteration


@cache
def _bytes_ahead(memory_bytes: int, num_workers: int) -> int:
    """Returns what may be fetched ahead in this process, in bytes. What is "auto" is looked at once: that takes longer than many reads."""
    return (memory_bytes or default_memory_bytes()) // _MEMORY_SHARE // num_workers or 1


class _Place:
    """One reader's place among those that share; the `get_stream` that it is given. Picklable: as the client's own then."""

    __slots__ = ("_construct", "_shared", "get_stream", "number", "one")

    def __init__(
        self, shared: _Shared, number: int, one: S3BucketKeyData, construct: S3ReaderConstructorProtocol
    ) -> None:
        self._shared: _Shared | None = shared
        self.number = number
        """Of the object, in its order."""
        self.one = one
        """The object."""
        self._construct = construct

    def construct(
        self, bucket: str, key: str, get_object_info: GetObjectInfo, get_stream: GetStreamCallable
    ) -> S3Reader:
        """Makes the reader, with this in place of the client's stream."""
        self.get_stream = get_stream
        """The client's own."""
        mine = cast("GetStreamCallable", self)
        return self._construct(bucket=bucket, key=key, get_object_info=get_object_info, get_stream=mine)

    def __call__(self, start: int | None = None, end: int | None = None) -> GetObjectStream | _Stream:
        shared = self._shared
        if shared is None or start or end is not None:
            return self.get_stream(start, end)
        # A reader that goes on to live holds nothing of the others.
        self._shared = None
        return _Stream(self, shared)

    def __reduce__(self) -> tuple[Any, ...]:
        return identity, (self.get_stream,)


class _Stream:
    """The bytes of one object, as a `GetObjectStream`."""

    __slots__ = ("_place", "_position", "_shared", "_source")

    def __init__(self, place: _Place, shared: _Shared) -> None:
        self._place = place
        self._shared: _Shared | None = shared
        self._source: BytesView | GetObjectStream | None = None
        """The whole object; or a stream of its own, where it does not come from what is fetched ahead."""
        self._position = 0

    @property
    def bucket(self) -> str:
        """The bucket of the object."""
        return self._place.one.bucket

    @property
    def key(self) -> str:
        """The key of the object."""
        return self._place.one.key

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """Returns the next chunk.

        Raises:
            S3Exception: As the store says.
        """
        source = self._open(wants_all=False)
        chunk = source[self._position :].tobytes() if isinstance(source, BytesView) else next(source)
        if not chunk:
            raise StopIteration
        self._position += len(chunk)
        return chunk

    def tell(self) -> int:
        """Returns where in the object the next chunk begins."""
        return self._position

    @property
    def size(self) -> int | None:
        """Bytes of the object; None before some have come."""
        source = self._source
        return len(source) if isinstance(source, BytesView) else None if source is None else source.size

    def prefetch(self) -> None:
        """Fetches what the next chunk is of.

        Raises:
            S3Exception: As the store says.
        """
        source = self._open(wants_all=False)
        if not isinstance(source, BytesView):
            source.prefetch()

    def read_rest(self) -> BytesView:
        """Returns all that is left, in place.

        Raises:
            S3Exception: As the store says.
        """
        source = self._open(wants_all=True)
        if isinstance(source, BytesView):
            rest: BytesView = source[self._position :] if self._position else source
        else:
            rest = source.read_rest()
        self._position += len(rest)
        return rest

    def _open(self, *, wants_all: bool) -> BytesView | GetObjectStream:
        """Returns where the bytes come from, which is decided at the first use. After an error, the next use asks by itself."""
        if self._source is not None:
            return self._source
        shared, self._shared = self._shared, None
        if shared is not None:
            try:
                self._source = shared.fetch(self._place.number, self._place.one, wants_all=wants_all)
            except S3dlioError as error:
                raise translate(error, KEY_MISSING) from error
        if self._source is None:
            self._source = self._place.get_stream()
        return self._source
