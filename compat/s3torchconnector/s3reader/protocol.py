"""What a reader is made of, and what makes one: anything callable in this way will do."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from .dcp_optimized import ItemRange
from .s3reader import S3Reader

if TYPE_CHECKING:
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import MetadataIndex
    from torch.distributed.checkpoint.planner import ReadItem

    from ...s3torchconnectorclient._mountpoint_s3_client import GetObjectStream, HeadObjectResult, ObjectInfo

    GetObjectInfo: TypeAlias = Callable[[], ObjectInfo | HeadObjectResult]


class GetStreamCallable(Protocol):
    """Opens a stream of the object's bytes in `[start, end)`: of all of them without arguments."""

    def __call__(self, start: int | None = None, end: int | None = None) -> GetObjectStream: ...


@runtime_checkable
class S3ReaderConstructorProtocol(Protocol):
    """Makes the reader of one object. It is called with keywords."""

    def __call__(
        self, bucket: str, key: str, get_object_info: GetObjectInfo, get_stream: GetStreamCallable
    ) -> S3Reader: ...


@runtime_checkable
class DCPS3ReaderConstructorProtocol(Protocol):
    """The same, told beforehand which pieces of which file will be read."""

    _item_ranges_by_file: dict[str, list[ItemRange]]

    def __call__(
        self, bucket: str, key: str, get_object_info: GetObjectInfo, get_stream: GetStreamCallable
    ) -> S3Reader: ...

    def set_item_ranges_by_file(
        self,
        plan_items: list[ReadItem],
        storage_data: dict[MetadataIndex, _StorageInfo],
        base_path: str | os.PathLike[str],
    ) -> None: ...
