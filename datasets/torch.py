"""PyTorch: data sets of objects, for a training loop or a `DataLoader`.

The order, the shards and the state are `stream.py`'s; this module makes tensors over the same memory. A tensor, and whatever is made
from it by view, holds its slot: the memory is free for the next objects when all of them are gone.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Self, SupportsIndex

import numpy as np

from s3dlio.engine.config import settings
from s3dlio.engine.errors import ConfigurationError, MissingExtraError, S3dlioError
from s3dlio.engine.memory.view import BytesView
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.text import clean

from .arguments import make_options, read_listing, translate_all
from .decode import find_decoder
from .pickling import check_when_spawning
from .reader import ViewReader
from .stream import Stream

try:
    import torch
    from torch.utils.data import Dataset, IterableDataset, default_collate
except ImportError as error:
    raise MissingExtraError("PyTorch is not installed; pip install 's3dlio-shm[torch]'", cause=str(error)) from None

if TYPE_CHECKING:
    from s3dlio.engine.types import ListEntry, ObjectInfo, ObjectRef

    from .deliveries import Delivery
    from .iteration import Iteration

    Objects = str | Iterable[str | ObjectRef | ObjectInfo | ListEntry] | None

ReturnType = Literal["tensor", "view", "bytes", "reader"]
_RETURN_TYPES: Final = ("tensor", "view", "bytes", "reader")


class _Presenter:
    """What becomes of a sample: the form that was asked for, and then the user's transform."""

    def __init__(self, return_type: str, transform: Callable[[Any], Any] | None) -> None:
        if return_type not in _RETURN_TYPES:
            raise ConfigurationError(f"return_type is one of {', '.join(_RETURN_TYPES)}, not {return_type!r}")
        if transform is not None and not callable(transform):
            raise ConfigurationError(f"transform is a function of a sample, not {type(transform).__name__}")
        self.return_type = return_type
        self.transform = transform

    def sample(self, value: Any, uri: str) -> Any:
        """Returns a sample, of a view or of what `decode` made of it; an error on the way has a note that names the object."""
        try:
            shown = self._show(value)
            return shown if self.transform is None else self.transform(shown)
        except Exception as error:
            error.add_note(f"while making a sample of {clean(uri)}")
            raise

    def _show(self, value: Any) -> Any:
        if self.return_type == "tensor":
            return to_tensors(value)
        if not isinstance(value, BytesView) or self.return_type == "view":
            return value
        return value.to_bytes() if self.return_type == "bytes" else ViewReader(value)

    def batch(self, value: Any, uris: Sequence[str], is_plain: bool) -> Any:
        """Returns a batch: a tensor over the rows of a slot, a list of single samples, or what collating those gives.

        Args:
            value: Rows, an array, or a list of samples.
            uris: Of each sample.
            is_plain: Whether the samples are the bytes of objects, untouched.
        """
        if isinstance(value, np.ndarray):
            # Without a transform, what is not plain was decoded: arrays, which only a tensor shows otherwise.
            if self.transform is None and (not is_plain or self.return_type in ("tensor", "view")):
                return self._show(value)
            value = [row.view(BytesView) for row in value]
        shown = [*map(self.sample, value, uris)]
        if is_plain or self.return_type != "tensor":
            return shown
        try:
            return default_collate(shown)
        except (RuntimeError, TypeError) as error:
            raise ConfigurationError(
                "the samples of a batch do not make one; have transform give equal shapes, or leave batch_size away and give "
                "DataLoader a collate_fn",
                cause=str(error),
            ) from error


def _raise(error: S3dlioError) -> Iterator[Any]:
    raise error
    yield  # type: ignore[unreachable]


def to_tensors(value: Any) -> Any:
    """Returns arrays as tensors over the same memory, also within dicts, lists and tuples; what no tensor can hold stays as it is.

    Copied is what torch cannot take over: big-endian numbers, arrays that may not be written to, and odd strides.
    """
    if isinstance(value, np.ndarray):
        return _to_tensor(value)
    if isinstance(value, dict):
        return {name: to_tensors(one) for name, one in value.items()}
    if isinstance(value, list):
        return [to_tensors(one) for one in value]
    if isinstance(value, tuple):
        made = (to_tensors(one) for one in value)
        return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
    return value


def _to_tensor(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind not in "biufc":
        return array
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except ValueError:
        # Strides that are negative, or no whole elements.
        return torch.from_numpy(array.copy())
    except TypeError:
        # Numbers of a width that torch does not know.
        return array


class ObjectStoreIterableDataset(IterableDataset[Any]):
    """All objects under a prefix, or of a list, each exactly once per epoch, in an order that only the seed and the epoch decide.

    In the training process it has worker processes of its own; in the workers of a `DataLoader` it fetches in them, and they share the
    samples, as several ranks do. Without `batch_size`, samples come one by one; with it, batches that need no collation: iterate over
    the data set itself, or over `DataLoader(dataset, batch_size=None)`.
    """

    def __init__(
        self,
        uri: Objects = None,
        pattern: Any = None,
        *,
        manifest: str | None = None,
        shuffle: bool = False,
        seed: int = 0,
        batch_size: int | None = None,
        drop_last: bool = False,
        pad_to: int | None = None,
        transform: Callable[[Any], Any] | None = None,
        decode: str | Callable[..., Any] | None = None,
        return_type: ReturnType = "tensor",
        rank: int | None = None,
        world_size: int | None = None,
        tail: Literal["uneven", "pad", "drop"] = "uneven",
        on_error: Literal["raise", "skip"] = "raise",
        shuffle_buffer: int = 1024,
        procs: int | None = None,
        jobs: int | None = None,
        memory_bytes: int | str | None = None,
        prefetch: int | None = None,
        progress: bool = False,
        loader_opts: dict[str, Any] | None = None,
        **older: Any,
    ) -> None:
        """Lists the objects.

        Args:
            uri: A prefix, listed recursively, with "/" added where it is missing; or the objects themselves, in their order.
            pattern: Glob or compiled regular expression that keys below the prefix must match.
            manifest: In place of `uri`: a file on any store that names the objects, one URI a line, or JSON lines with sizes.
            shuffle: Whether the order is shuffled, anew for each epoch (`set_epoch`).
            seed: Of the order; all ranks need the same.
            batch_size: Makes batches of so many samples of a rank. Where all objects have one size, a batch is one uint8 tensor
                `[batch_size, nbytes]` that was never copied; with `decode="npy"` and one shape it is `[batch_size, *shape]`. Otherwise
                it is a list of samples, as of the records of TFRecord files; and what another `decode`, or `transform`, gave is
                collated as a DataLoader does.
            drop_last: Whether the last, shorter batch of each rank is left out.
            pad_to: Bytes of a row: shorter objects are padded with zeros, and a batch is a tensor and the lengths, int64.
            transform: Called with each sample, in the process that iterates; what it returns is the sample.
            decode: "npy", "npz", "tfrecord", "json", "image", "auto", or a function of the object's bytes. Before `transform`.
            return_type: "tensor": 1-D uint8, writable, over the slot; "view": the same as an array; "bytes": a copy; "reader": a file
                to read. Arrays that `decode` gives become tensors for "tensor", and stay as they are otherwise.
            rank: Of this process among `world_size`; found when the iteration starts where it is not given.
            world_size: How many processes share the samples.
            tail: Where the samples cannot be shared out evenly over ranks: some ranks have one less ("uneven"), the first ones are
                repeated ("pad"), or the last ones left out ("drop").
            on_error: "raise" an error at its place in the order, or "skip" the sample, and record it in `skipped`.
            shuffle_buffer: Records among which those of TFRecord files are shuffled.
            procs: Worker processes, in the training process.
            jobs: Requests in flight per worker.
            memory_bytes: Cap of the shared memory, in bytes or as "1GiB"; the workers of a DataLoader divide it.
            prefetch: Samples, or batches, that are fetched ahead at most; by default as many as the memory has room for.
            progress: Whether a bar shows how far the epoch is.
            loader_opts: Options of the original s3dlio.
            **older: Its keyword arguments.

        Raises:
            NotFoundError: There are no objects under the prefix.
            ConfigurationError: An argument makes no sense, or does nothing here; it says what does.
        """
        super().__init__()
        given = {
            "shuffle": shuffle,
            "seed": seed,
            "batch_size": batch_size,
            "drop_last": drop_last,
            "pad_to": pad_to,
            "decode": decode,
            "rank": rank,
            "world_size": world_size,
            "tail": tail,
            "on_error": on_error,
            "shuffle_buffer": shuffle_buffer,
            "procs": procs,
            "jobs": jobs,
            "memory_bytes": memory_bytes,
            "prefetch": prefetch,
            "progress": progress,
        }
        options = make_options(given, loader_opts, older)
        self._presenter = _Presenter(return_type, transform)
        self._is_plain = options.decode in (None, "tfrecord") and transform is None
        self._stream = Stream(*read_listing(uri, pattern, manifest), options, has_transform=transform is not None)

    @classmethod
    def from_prefix(cls, uri: str, **arguments: Any) -> Self:
        """Returns `cls(uri, **arguments)`, as the original has it."""
        return cls(uri, **arguments)

    def __iter__(self) -> Iterator[Any]:
        try:
            _compare_listings(self._stream)
            iteration = self._stream.open()
        except S3dlioError as error:
            # Raised with the first sample: a worker that a DataLoader keeps dies of what `iter` raises, and nobody would know why.
            return _raise(error)
        return self._iterate(iteration)

    def _iterate(self, iteration: Iteration) -> Iterator[Any]:
        with iteration:
            for delivery in iteration:
                # In a list, so that it can be handed out without being held here: its slot is the loop's to release.
                box = [] if delivery.is_empty else [self._present(delivery)]
                iteration.note(delivery)
                if box:
                    yield box.pop()

    def _present(self, delivery: Delivery) -> Any:
        if self._stream.options.batch_size is None:
            return self._presenter.sample(delivery.pop(), delivery.uris[0])
        batch = self._presenter.batch(delivery.pop(), delivery.uris, self._is_plain)
        return batch if delivery.lengths is None else (batch, torch.from_numpy(delivery.lengths))

    def __len__(self) -> int:
        """Returns how many samples, or batches, this rank has in an epoch.

        Raises:
            TypeError: Of TFRecord files nobody knows before they are read.
        """
        return len(self._stream)

    def set_epoch(self, epoch: int) -> None:
        """Has the next iteration be of `epoch`, also in the workers of a DataLoader that stay. It never changes by itself.

        To be called between two iterations: a worker that only starts would take a change for its own.
        """
        self._stream.set_epoch(epoch)

    @property
    def epoch(self) -> int:
        return self._stream.epoch

    def state_dict(self) -> dict[str, Any]:
        """Returns how far this process is, in text and numbers only: the samples that were handed out, and what they are of.

        Raises:
            ConfigurationError: The workers of a plain DataLoader iterate, of which nobody here knows what the training loop has got.
        """
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Has the next iteration go on where `state` was taken; the one after it begins the epoch anew.

        Raises:
            ConfigurationError: It is of another data set, listing or seed, or of a rank of another world size: `s3dlio.merge_states`.
        """
        self._stream.load_state_dict(state)

    @property
    def skipped(self) -> list[dict[str, str]]:
        """What `on_error="skip"` left out, as URI and error; also in the workers of a DataLoader."""
        return self._stream.skipped

    def stats(self) -> dict[str, Any]:
        """Returns samples and bytes per second, how long the loop waited for data in this process, and for what; see docs/semantics.md."""
        return self._stream.stats()

    def close(self) -> None:
        """Ends the worker processes; tensors stay as they are, and the next iteration starts others."""
        self._stream.close()

    def __getstate__(self) -> dict[str, Any]:
        check_when_spawning(transform=self._presenter.transform, decode=self._stream.options.decode)
        return self.__dict__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._stream})"


class ObjectStoreMapDataset(Dataset[Any]):
    """All objects under a prefix, or of a list, by their number; a `DataLoader` fetches each batch of them in one call.

    Whatever samples it: `shuffle=True`, a `DistributedSampler`, your own.
    """

    def __init__(
        self,
        uri: Objects = None,
        pattern: Any = None,
        *,
        manifest: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        decode: str | Callable[..., Any] | None = None,
        return_type: ReturnType = "tensor",
        jobs: int | None = None,
        loader_opts: dict[str, Any] | None = None,
        **older: Any,
    ) -> None:
        """Lists the objects.

        Args:
            uri: As `ObjectStoreIterableDataset`.
            pattern: As there.
            manifest: As there.
            transform: As there.
            decode: As there, but for "tfrecord": records have no numbers.
            return_type: As there.
            jobs: Requests in flight while a batch is fetched.
            loader_opts: Options of the original s3dlio.
            **older: Its keyword arguments.

        Raises:
            NotFoundError: There are no objects under the prefix.
            ConfigurationError: An argument makes no sense, or does nothing here; it says what does.
        """
        if decode == "tfrecord":
            raise ConfigurationError("the records of TFRecord files have no numbers; use ObjectStoreIterableDataset")
        translated = translate_all(loader_opts, older)
        for name in {**older, **(loader_opts or {})} if translated else ():
            raise ConfigurationError(
                f"{name} is not an argument of this data set; samplers and DataLoader decide what is read when"
            )
        self._presenter = _Presenter(return_type, transform)
        self._decode = find_decoder(decode)
        self._decode_given = decode
        self._num_in_flight = settings(jobs=jobs).jobs
        self.listing, _ = read_listing(uri, pattern, manifest)

    @classmethod
    def from_prefix(cls, uri: str, **arguments: Any) -> Self:
        """Returns `cls(uri, **arguments)`, as the original has it."""
        return cls(uri, **arguments)

    def __len__(self) -> int:
        return len(self.listing)

    def __getitem__(self, index: int) -> Any:
        """Returns one sample; a negative index counts from the end.

        Raises:
            IndexError: There is no such sample.
            S3dlioError: As `s3dlio.get`.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Returns several samples, fetched at once.

        Raises:
            IndexError: There is no such sample.
            S3dlioError: The first error, in the order of `indices`.
        """
        refs = self.listing.refs(np.array([self._position(index) for index in indices], np.int64))
        found = inline_fetcher().fetch_many(refs, self._num_in_flight)
        for one in found:
            if isinstance(one, S3dlioError):
                raise one
        decode, sample = self._decode, self._presenter.sample
        if decode is None:
            return [sample(view, ref.uri) for view, ref in zip(found, refs, strict=True)]
        return [sample(decode(view, ref.uri), ref.uri) for view, ref in zip(found, refs, strict=True)]

    def _position(self, given: SupportsIndex) -> int:
        index, num = operator.index(given), len(self.listing)
        if not -num <= index < num:
            raise IndexError(f"there is no sample {index} among {num}")
        return index + num if index < 0 else index

    def __getstate__(self) -> dict[str, Any]:
        check_when_spawning(transform=self._presenter.transform, decode=self._decode_given)
        return self.__dict__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.listing.name!r}, {len(self)} objects)"


def _compare_listings(stream: Stream) -> None:
    """Has all ranks of a process group say what they have listed, once: of two listings, samples would come twice or never.

    Raises:
        ConfigurationError: They differ.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not stream.must_compare():
        return
    digests: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(digests, (stream.listing.digest, len(stream.listing)))
    stream.compare(digests)
