"""What readers are made by: given to a data set, a client or a storage reader, which calls it for each object."""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING

from ._streams import name_of
from .dcp_optimized import DEFAULT_MAX_GAP_SIZE, FALLBACK_GUIDANCE, DCPOptimizedS3Reader, ItemRange
from .protocol import DCPS3ReaderConstructorProtocol, S3ReaderConstructorProtocol
from .ranged import RangedS3Reader
from .s3reader import S3Reader
from .sequential import SequentialS3Reader

if TYPE_CHECKING:
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import MetadataIndex
    from torch.distributed.checkpoint.planner import ReadItem

    from .protocol import GetObjectInfo, GetStreamCallable

log = logging.getLogger(__name__)


class DCPOptimizedConstructor:
    """Makes the readers of a distributed checkpoint's files, each told which ranges of its file the plan wants.

    A storage reader says these by `set_item_ranges_by_file`, in its `prepare_local_plan`, before the first file is opened.
    """

    def __init__(self, max_gap_size: float = DEFAULT_MAX_GAP_SIZE) -> None:
        if max_gap_size < 0:
            raise ValueError("max_gap_size must be non-negative")
        self._max_gap_size = max_gap_size
        self._item_ranges_by_file: dict[str, list[ItemRange]] = {}
        """By the file's URI; in the order in which they are read."""

    def set_item_ranges_by_file(
        self,
        plan_items: list[ReadItem],
        storage_data: dict[MetadataIndex, _StorageInfo],
        base_path: str | os.PathLike[str],
    ) -> None:
        """Takes over what a plan reads, in place of what an earlier one did.

        Args:
            plan_items: In the order in which they will be read. One that follows itself, since two shards are cut from it, is
                one range.
            storage_data: Where each lies.
            base_path: URI of the checkpoint.

        Raises:
            ValueError: Something is to be read, and `storage_data` is empty.
        """
        found: dict[str, list[ItemRange]] = {}
        if not plan_items:
            log.debug("Empty plan for this rank - no DCP item ranges will be created.")
        elif not storage_data:
            raise ValueError("storage_data must not be empty; required to map ReadItems to file ranges.")
        for item in plan_items:
            info = storage_data[item.storage_index]
            ranges = found.setdefault(os.path.join(base_path, info.relative_path), [])
            wanted = ItemRange(info.offset, info.offset + info.length)
            if ranges[-1:] != [wanted]:
                ranges.append(wanted)
        self._item_ranges_by_file = found

    def __call__(
        self, bucket: str, key: str, get_object_info: GetObjectInfo, get_stream: GetStreamCallable
    ) -> S3Reader:
        """Returns the reader of one file: of the metadata, which no plan knows, a sequential one.

        Raises:
            ValueError: The plan reads nothing of this file.
        """
        if key.endswith(".metadata"):
            log.debug("Reading .metadata file %s with SequentialS3Reader", key)
            return SequentialS3Reader(bucket, key, get_object_info, get_stream)
        uri = name_of(bucket, key)
        if uri not in self._item_ranges_by_file:
            raise ValueError(
                f"No ranges found for {uri}. Make sure range injection is used in "
                f"'S3StorageReader.prepare_local_plan'.\n{FALLBACK_GUIDANCE}"
            )
        return DCPOptimizedS3Reader(
            bucket,
            key,
            item_ranges=self._item_ranges_by_file[uri],
            get_object_info=get_object_info,
            get_stream=get_stream,
            max_gap_size=self._max_gap_size,
        )


class S3ReaderConstructor:
    """The ways of reading an object. Each method returns what `reader_constructor=` takes."""

    @staticmethod
    def sequential() -> S3ReaderConstructorProtocol:
        """The whole object by one GET, kept while the reader is: right for most uses."""
        return partial(SequentialS3Reader)

    @staticmethod
    def range_based(buffer_size: int | None = None) -> S3ReaderConstructorProtocol:
        """A request for each read, for few pieces of large objects.

        Args:
            buffer_size: Bytes that a smaller read fetches, so that the next ones find theirs; None is 8 MiB, 0 fetches no more
                than what is read.
        """
        return partial(RangedS3Reader, buffer_size=buffer_size)

    @staticmethod
    def dcp_optimized(max_gap_size: float = DEFAULT_MAX_GAP_SIZE) -> DCPS3ReaderConstructorProtocol:
        """What a plan wants of a distributed checkpoint's files, and nothing else; for `S3StorageReader`.

        Args:
            max_gap_size: Bytes between two ranges that are rather read and thrown away than spared by another request. 0 spares
                all, `float("inf")` none.

        Raises:
            ValueError: `max_gap_size` is negative.
        """
        return DCPOptimizedConstructor(max_gap_size=max_gap_size)

    @staticmethod
    def default() -> S3ReaderConstructorProtocol:
        """As `sequential`."""
        return S3ReaderConstructor.sequential()

    @staticmethod
    def get_reader_type_string(constructor: S3ReaderConstructorProtocol | None) -> str:
        """Returns what the user agent says of a constructor: sequential (also of None), range_based, dcp_optimized or unknown."""
        if constructor is None:
            return "sequential"
        if isinstance(constructor, DCPOptimizedConstructor):
            return "dcp_optimized"
        made = constructor.func if isinstance(constructor, partial) else None
        return "range_based" if made is RangedS3Reader else "sequential" if made is SequentialS3Reader else "unknown"
