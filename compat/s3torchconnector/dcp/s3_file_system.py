"""What torch.distributed.checkpoint needs of a bucket: a file system over it, and a reader and a writer of checkpoints on that.

torch decides what is written where and when; this module names the files of a rank, orders what is read, and asks the client.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import torch
from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader, FileSystemWriter

from s3dlio.engine.errors import MissingExtraError

from ...s3torchconnectorclient._mountpoint_s3_client import S3Exception
from .._s3client import S3Client, S3ClientConfig
from .._s3dataset_common import parse_s3_uri
from .._user_agent import UserAgent
from ..s3reader import (
    DCPOptimizedConstructor,
    DCPS3ReaderConstructorProtocol,
    S3Reader,
    S3ReaderConstructor,
    S3ReaderConstructorProtocol,
)
from ..s3writer import S3Writer
from ._groups_ahead import GroupsAhead
from .s3_prefix_strategy import DefaultPrefixStrategy, S3PrefixStrategyBase

try:
    import tenacity
except ImportError as error:
    raise MissingExtraError("tenacity is not installed; pip install 's3dlio-shm[dcp]'", cause=str(error)) from None

if TYPE_CHECKING:
    from torch.distributed.checkpoint._extension import ExtensionRegistry
    from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
    from torch.distributed.checkpoint.storage import WriteResult
    from torch.futures import Future

logger = logging.getLogger(__name__)

_NOT_FOUND: Final = "Service error: The object was not found"
_COLLAPSED: Final = re.compile(r"([a-z][a-z0-9+.-]*):/(?=[^/])")
"""What a `Path` makes of `scheme://rest`."""


class S3FileSystem(FileSystemBase):
    """The objects of buckets as torch's file system of checkpoints sees them.

    Args:
        region: Of the buckets.
        s3_client: Asks the store, in its own region; None makes one of the other arguments.
        s3client_config: How to ask; None is every default, or how `s3_client` does.
        reader_constructor: How files are read; None is in one stream.
        endpoint: A server other than AWS's; None asks the environment.

    Raises:
        ValueError: There is a client, and it asks otherwise than `s3client_config` says, or an endpoint is given beside it.
    """

    def __init__(
        self,
        region: str,
        s3_client: S3Client | None = None,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: S3ReaderConstructorProtocol | None = None,
        *,
        endpoint: str | None = None,
    ) -> None:
        self._path: str | os.PathLike[str] = ""
        self._reader_constructor = reader_constructor or S3ReaderConstructor.default()
        if s3_client is not None:
            if endpoint:
                raise ValueError("endpoint is for a client that is made here; s3_client has its own")
            if s3client_config not in (None, s3_client.s3client_config):
                raise ValueError("s3client_config is for a client that is made here; s3_client has another")
            self._client = s3_client
            return
        reader_type = S3ReaderConstructor.get_reader_type_string(self._reader_constructor)
        self._client = S3Client(
            region,
            endpoint=endpoint,
            user_agent=UserAgent(["dcp", torch.__version__, f"md/reader_type#{reader_type}"]),
            s3client_config=s3client_config,
        )

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[S3Reader | S3Writer, None, None]:
        """Opens one object; what is written becomes visible when the block ends, and never if it ends by an error.

        Args:
            path: The object's URI.
            mode: "rb" or "wb".

        Raises:
            ValueError: Another mode, or no URI of an object.
            S3Exception: The store refused.
        """
        uri = _uri_of(path)
        bucket, key = parse_s3_uri(uri)
        if mode == "wb":
            logger.debug("create_stream writable for %s", uri)
            with self._client.put_object(bucket, key) as writer:
                yield writer
        elif mode == "rb":
            logger.debug("create_stream readable for %s", uri)
            with self._client.get_object(bucket, key, reader_constructor=self._reader_constructor) as reader:
                yield reader
        else:
            raise ValueError(
                f"Invalid {mode=} mode argument: create_stream only supports rb (read mode) & wb (write mode)"
            )

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        """Returns the URI of what is named `suffix` below `path`."""
        logger.debug("concat paths %s and %s", path, suffix)
        return os.path.join(_uri_of(path), suffix)

    def init_path(self, path: str | os.PathLike[str]) -> str | os.PathLike[str]:
        """Keeps the path of the checkpoint, and returns it as it is."""
        logger.debug("init_path for %s", path)
        self._path = path
        return self._path

    def rename(self, old_path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Copies the object and deletes the old one; the deletion is tried three times.

        Args:
            old_path: The object's URI.
            new_path: Its new URI, in the same bucket.

        Raises:
            ValueError: The buckets differ.
            S3Exception: The store refused; after the copy, both may be there.
        """
        logger.debug("rename %s to %s", old_path, new_path)
        old_uri, new_uri = _uri_of(old_path), _uri_of(new_path)
        old_bucket, old_key = parse_s3_uri(old_uri)
        escaped_key = self._escape_path(old_key)
        logger.debug("rename: escaped version of the source key: %s", escaped_key)
        new_bucket, new_key = parse_s3_uri(new_uri)
        if old_bucket != new_bucket:
            raise ValueError(
                "Source and destination buckets cannot be different (rename does not support cross-buckets operations)"
            )
        self._client.copy_object(src_bucket=old_bucket, src_key=escaped_key, dst_bucket=new_bucket, dst_key=new_key)
        logger.debug("rename: copied %s to %s successfully", old_uri, new_uri)
        self._delete_with_retry(old_bucket, old_key)
        logger.debug("rename: s3://%s/%s successfully", old_bucket, old_key)

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Does nothing: a bucket has keys and no directories."""

    def exists(self, path: str | os.PathLike[str]) -> bool:
        """Returns whether there is an object.

        Raises:
            S3Exception: The store refused to say.
        """
        logger.debug("exists %s", path)
        bucket, key = parse_s3_uri(_uri_of(path))
        try:
            self._client.head_object(bucket, key)
        except S3Exception as error:
            if str(error) != _NOT_FOUND:
                raise
            return False
        return True

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        """Deletes an object. A store that refuses is logged and no error, as upstream has it: torch replaces what it deletes."""
        logger.debug("remove %s", path)
        bucket, key = parse_s3_uri(_uri_of(path))
        try:
            self._client.delete_object(bucket, key)
        except S3Exception:
            logger.exception("Failed to remove object from S3")

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Returns whether a checkpoint can be there: any `Path` may stand for a URI, anything else has to be one."""
        logger.debug("validate_checkpoint_id for %s", checkpoint_id)
        if isinstance(checkpoint_id, Path):
            return True
        try:
            parse_s3_uri(_uri_of(checkpoint_id))
        except ValueError:
            return False
        return True

    @contextmanager
    def reading_by(self, constructor: S3ReaderConstructorProtocol) -> Generator[None]:
        """Has files read by another constructor within the block."""
        before, self._reader_constructor = self._reader_constructor, constructor
        try:
            yield
        finally:
            self._reader_constructor = before

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(S3Exception),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(multiplier=1, max=5),
        before_sleep=tenacity.before_sleep_log(logger, logging.WARNING),
        after=tenacity.after_log(logger, logging.ERROR),
        reraise=True,
    )
    def _delete_with_retry(self, bucket_name: str, old_key: str) -> None:
        self._client.delete_object(bucket_name, old_key)

    @staticmethod
    def _escape_path(string: str) -> str:
        """Returns a key as the header that names a copy's source wants it: percent-encoded, but for the slashes."""
        return quote(string, safe="/") if string else string


class _NotingFileSystem(S3FileSystem):
    """Keeps what went wrong in a stream: the threads in which torch writes take their errors with them."""

    def __init__(self, region: str, s3client_config: S3ClientConfig | None, endpoint: str | None) -> None:
        super().__init__(region, s3client_config=s3client_config, endpoint=endpoint)
        self.failures: list[Exception] | None = None
        """Where they are kept; None where nobody asks."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[S3Reader | S3Writer, None, None]:
        try:
            with super().create_stream(path, mode) as stream:
                yield stream
        except Exception as failure:
            if self.failures is not None:
                self.failures.append(failure)
            raise


@dataclasses.dataclass
class StorageMetadata:
    """What a rank's plan says of its files."""

    prefix: str
    """What their names begin with, below the checkpoint's path."""


class S3StorageWriter(FileSystemWriter):
    """Saves checkpoints: `dcp.save(state_dict, storage_writer=S3StorageWriter(region, "s3://bucket/prefix"))`.

    Args:
        region: Of the bucket.
        path: The checkpoint's URI.
        s3client_config: How to ask; None is every default.
        prefix_strategy: What the names of a rank's files begin with; None is `__<rank>_`.
        thread_count: How many files a rank writes side by side.
        endpoint: A server other than AWS's; None asks the environment.
        kwargs: Of torch's `FileSystemWriter`. There is no `sync_files`: what was committed is durable.
    """

    def __init__(
        self,
        region: str,
        path: str | os.PathLike[str],
        s3client_config: S3ClientConfig | None = None,
        prefix_strategy: S3PrefixStrategyBase | None = None,
        thread_count: int = 1,
        *,
        endpoint: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path=path, sync_files=False, thread_count=thread_count, **kwargs)
        self.fs = self._files = _NotingFileSystem(region, s3client_config, endpoint)  # type: ignore[assignment]
        self.path = self._files.init_path(path)
        self.prefix_strategy = prefix_strategy or DefaultPrefixStrategy()

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Returns the plans with the prefixes of their ranks. A rank that saves for itself brings one plan, its own."""
        first_rank = 0 if self.use_collectives or self.rank is None else self.rank
        return [
            dataclasses.replace(plan, storage_data=StorageMetadata(self.prefix_strategy(rank)))
            for rank, plan in enumerate(plans, first_rank)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes the files of this rank.

        Raises:
            Exception: Of a file that could not be written, also where another thread had it: without this the checkpoint would be
                committed with that file missing.
        """
        failures: list[Exception] = []
        self._files.failures = failures
        try:
            written = super().write_data(plan, planner)
        except BaseException:
            # It is one of them, and its traceback keeps this frame.
            failures.clear()
            raise
        finally:
            self._files.failures = None
        if failures:
            raise failures.pop()
        num_written = len(written.value())
        if num_written != len(plan.items):
            raise RuntimeError(
                f"{num_written} of {len(plan.items)} items were written; a thread of torch's has ended by an error"
            )
        return written

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return S3FileSystem.validate_checkpoint_id(checkpoint_id)


class S3StorageReader(FileSystemReader):
    """Loads checkpoints: `dcp.load(state_dict, storage_reader=S3StorageReader(region, "s3://bucket/prefix"))`.

    Args:
        region: Of the bucket.
        path: The checkpoint's URI.
        s3client_config: How to ask; None is every default.
        reader_constructor: How files are read; None is `S3ReaderConstructor.dcp_optimized()`, which reads what the plan says and in its
            order. `S3ReaderConstructor.default()` reads whole files, for any other order.
        endpoint: A server other than AWS's; None asks the environment.
        _extension_registry: What undoes the transformations of streams, as in torch's `FileSystemReader`.
    """

    def __init__(
        self,
        region: str,
        path: str | os.PathLike[str],
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: S3ReaderConstructorProtocol | DCPS3ReaderConstructorProtocol | None = None,
        *,
        endpoint: str | None = None,
        _extension_registry: ExtensionRegistry | None = None,
    ) -> None:
        super().__init__(path, _extension_registry=_extension_registry)
        self._reader_constructor = reader_constructor or S3ReaderConstructor.dcp_optimized()
        self.fs = S3FileSystem(  # type: ignore[assignment]
            region, s3client_config=s3client_config, reader_constructor=self._reader_constructor, endpoint=endpoint
        )
        self.path = self.fs.init_path(path)
        self.sync_files = False

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return S3FileSystem.validate_checkpoint_id(checkpoint_id)

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Puts what is read into the order of the files, and tells the reader which ranges that are; returns the same plan."""
        plan.items.sort(key=lambda item: self.storage_data[item.storage_index].offset)
        if isinstance(self._reader_constructor, DCPS3ReaderConstructorProtocol):
            self._reader_constructor.set_item_ranges_by_file(plan.items, self.storage_data, _uri_of(self.path))
        return plan

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads what the plan says, file by file, and has what comes next fetched meanwhile.

        Raises:
            S3Exception: The store refused.
            ValueError: A file is shorter than its metadata says.
        """
        files, constructor = self.fs, self._reader_constructor
        if not (isinstance(files, S3FileSystem) and isinstance(constructor, DCPOptimizedConstructor)):
            return super().read_data(plan, planner)
        with GroupsAhead(files._client, constructor) as ahead, files.reading_by(ahead.construct):
            return super().read_data(plan, planner)


def _uri_of(path: str | os.PathLike[str]) -> str:
    """Returns a path as a URI: a `Path` keeps one slash of `s3://`, and gets the other back."""
    if isinstance(path, str):
        return path
    found = _COLLAPSED.match(str(path))
    if found is None:
        return str(path)
    slashes = ":///" if found[1] in ("file", "direct") else "://"
    return found[1] + slashes + str(path)[found.end() :]
