"""What a load plan reads, fetched before its turn: a rank reads of many files, and would wait for the first byte of each.

Rules:

* Nothing is asked for before the first group is read. After that, so many bytes and requests ahead at most, in the order of the plan.
* A long group has a stream of its own, which fetches its parts side by side. So has whatever is read in another order, or again after an
  error, and everything where somebody put another `_get_object_stream` in the place of the client's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self, cast

from s3dlio.engine.pool.ahead import Ahead
from s3dlio.engine.pool.parted import Wanted

from ...s3torchconnectorclient._errors import KEY_MISSING, translated
from .._s3client import S3Client
from .._s3dataset_common import parse_s3_uri
from ..s3reader.dcp_optimized import group_ranges

if TYPE_CHECKING:
    from s3dlio.engine.memory.view import BytesView

    from ...s3torchconnectorclient._mountpoint_s3_client import GetObjectStream, MountpointS3Client
    from ..s3reader import DCPOptimizedConstructor, GetStreamCallable, S3Reader
    from ..s3reader.protocol import GetObjectInfo

_LONGEST_BYTES: Final = 64 << 20
"""Of a group that is fetched ahead."""
_AHEAD_BYTES: Final = 4 * _LONGEST_BYTES
"""What may be here that nobody has read yet, of one rank."""
_STREAM_OF_CLIENT: Final = S3Client._get_object_stream


class _Group(NamedTuple):
    """The bytes [start, end) of one file."""

    bucket: str
    key: str
    start: int
    end: int


class GroupsAhead:
    """The groups of one load plan. Leaving the block gives up what was not read.

    Args:
        client: Reads the files.
        constructor: Knows what the plan reads, and makes the readers.
    """

    def __init__(self, client: S3Client, constructor: DCPOptimizedConstructor) -> None:
        self._constructor = constructor
        groups = [*_groups_of(constructor)] if _streams_itself(client) else []
        self._numbers = {group: number for number, group in enumerate(groups)}
        self._ahead: Ahead | None = None
        if groups:
            native = client._client
            self._ahead = Ahead(
                _requests(native, groups),
                max_in_flight=native.max_in_flight,
                max_bytes=_AHEAD_BYTES,
                limits=native.limits,
            )

    def construct(
        self, bucket: str, key: str, get_object_info: GetObjectInfo, get_stream: GetStreamCallable
    ) -> S3Reader:
        """Makes the reader of a file, with streams from here."""
        streams = cast("GetStreamCallable", partial(self._open, bucket, key, get_stream))
        return self._constructor(bucket=bucket, key=key, get_object_info=get_object_info, get_stream=streams)

    def _open(
        self, bucket: str, key: str, get_stream: GetStreamCallable, start: int | None = None, end: int | None = None
    ) -> GetObjectStream | _GroupStream:
        number = None
        if start is not None and end is not None:
            number = self._numbers.pop(_Group(bucket, key, start, end), None)
        if number is None or self._ahead is None:
            return get_stream(start, end)
        return _GroupStream(self._ahead, number, partial(get_stream, start, end))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ahead is not None:
            self._ahead.close()


class _GroupStream:
    """The bytes of one group, as a `GetObjectStream`."""

    def __init__(self, ahead: Ahead, number: int, get_own: partial[GetObjectStream]) -> None:
        self._ahead = ahead
        self._number = number
        self._get_own = get_own
        self._view: BytesView | None = None
        """All of it, once it has come."""
        self.version: str | None = None
        """Of the file; None before the bytes have come, or where the store has none."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BytesView:
        """Returns all of the group, once.

        Raises:
            S3Exception: As the store says.
        """
        if self._view is not None:
            raise StopIteration
        return self.read_rest()

    def read_rest(self) -> BytesView:
        """Returns what is left, in place: all of the group, or nothing.

        Raises:
            S3Exception: As the store says.
        """
        if self._view is not None:
            return cast("BytesView", self._view[:0])
        with translated(KEY_MISSING):
            try:
                read = self._ahead.take_read(self._number)
            except LookupError:
                own = self._get_own()
                view, self.version = own.read_rest(), own.version
            else:
                self.version = read.found[1]
                view = read.outcome()
        self._view = view
        return view


def _groups_of(constructor: DCPOptimizedConstructor) -> Iterator[_Group]:
    """Yields what is fetched ahead, in the order in which it is read."""
    for uri, ranges in constructor._item_ranges_by_file.items():
        bucket, key = parse_s3_uri(uri)
        for group in group_ranges([one for one in ranges if one.start != one.end], constructor._max_gap_size):
            if group.end - group.start <= _LONGEST_BYTES:
                yield _Group(bucket, key, group.start, group.end)


def _requests(native: MountpointS3Client, groups: list[_Group]) -> Iterator[Wanted]:
    return (Wanted(*native.place(bucket, key), start=start, end=end) for bucket, key, start, end in groups)


def _streams_itself(client: S3Client) -> bool:
    own = getattr(type(client), "_get_object_stream", None)
    return own is _STREAM_OF_CLIENT and "_get_object_stream" not in vars(client)
