"""TensorFlow: batches of objects as a `tf.data.Dataset`.

The order and the shards are `stream.py`'s; this module says beforehand what the batches are, as tf.data wants it, and gives them to it.

Rules:

* TensorFlow lays tensors over the memory of the arrays that it is given, and lets go of them when it likes, in any of its threads.
  `dense.py` sees to it that not too many slots are out.
* TensorFlow never forgets the generator of a data set (`_py_funcs_used_in_graph` of the outermost graph). So the generator knows the data
  set by a weak reference only, and `ObjectDataset`, which whatever is made of it keeps, has all that is to be freed.
* At the end of the interpreter no thread of TensorFlow may be in Python: it would be ended where it stands, and TensorFlow would wait
  for it forever. So iterations end before.
* What a tf.data pipeline has read ahead it tells nobody. So there is no state of how far a loop is.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from msgspec.structs import replace

from s3dlio.engine.errors import ConfigurationError, MissingExtraError, PoolClosedError
from s3dlio.engine.memory.view import BytesView

from .arguments import read_listing
from .dense import Loans, check_sizes, dense_options, stack
from .foreign_threads import wait_until_gone
from .stream import Stream
from .structures import Form, as_array, conform, first_sample, forms_of, map_leaves, texts
from .world import find_world

try:
    import tensorflow as tf  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtraError(
        "TensorFlow is not installed; pip install 's3dlio-shm[tensorflow]'", cause=str(error)
    ) from None

if TYPE_CHECKING:
    from s3dlio.engine.types import ListEntry, ObjectInfo, ObjectRef

    from .deliveries import Delivery
    from .iteration import Iteration
    from .listing import Listing
    from .options import Options

    Objects = str | Iterable[str | ObjectRef | ObjectInfo | ListEntry] | None


class _Reader:
    """Iterates over a stream, and makes of its deliveries what was promised. For any number of iterations at once."""

    def __init__(self, stream: Stream, forms: Any) -> None:
        self.stream = stream
        self._forms = forms
        self._loans = Loans(stream.options.cap_bytes)
        self._lock = threading.Lock()
        self._is_over = False
        self.under_way: set[Iteration] = set()
        """What has begun and not ended. Without the lock: iterations may end in the middle of anything, when they are collected."""
        _readers.add(self)

    def end(self) -> None:
        """Ends the iterations that are under way, and all that would begin, in an error."""
        self._is_over = True
        self.stream.close()

    def __iter__(self) -> Iterator[Any]:
        self._check_over()
        with self._lock:
            iteration = self.stream.open()
        self.under_way.add(iteration)
        try:
            with iteration:
                for delivery in iteration:
                    box = [] if delivery.is_empty else [self._gather(delivery)]
                    iteration.note(delivery)
                    if box:
                        yield box.pop()
                    self._check_over()
        finally:
            self.under_way.discard(iteration)

    def _check_over(self) -> None:
        if self._is_over:
            raise PoolClosedError("the interpreter is about to end")

    def _gather(self, delivery: Delivery) -> Any:
        """Returns a batch as arrays: over its slot, or stacked.

        Raises:
            ConfigurationError: It is not what was promised.
        """
        value, uris = delivery.pop(), delivery.uris
        if self.stream.is_of_records:
            return texts([record.tobytes() for record in value])
        if isinstance(value, np.ndarray):
            batch = as_array(self._loans.lend(value), uris[0])
            self._forms.check(batch.dtype, batch.shape[1:], uris[0])
            return batch if delivery.lengths is None else (batch, delivery.lengths)
        samples = [conform(sample, self._forms, uri) for sample, uri in zip(value, uris, strict=True)]
        if len(value) == 1 and type(value.pop()) is BytesView:
            return self._loans.lend(samples.pop()[np.newaxis])
        return map_leaves(lambda _, *leaves: stack(leaves, uris), self._forms, *samples)


class ObjectDataset(tf.data.Dataset):  # type: ignore[misc]
    """The `tf.data.Dataset` that `make_tf_dataset` returns, and what else may be asked of the objects in it.

    What is made of it (`map`, `prefetch`, iterators) keeps it; when all of that is gone, its worker processes end.
    """

    def __init__(self, dataset: Any, reader: _Reader) -> None:
        self._dataset = dataset
        self._stream = reader.stream
        self._reader = reader
        super().__init__(dataset._variant_tensor)

    def _inputs(self) -> list[Any]:
        return [self._dataset]

    @property
    def element_spec(self) -> Any:
        """What a batch is: shapes and dtypes."""
        return self._dataset.element_spec

    def set_epoch(self, epoch: int) -> None:
        """Has the next iteration be of `epoch`. It never changes by itself: without a call, each iteration has the same order.

        `model.fit` begins an iteration per epoch, so that a callback is all that is needed:
        `keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: dataset.set_epoch(epoch))`.
        """
        self._stream.set_epoch(epoch)

    @property
    def epoch(self) -> int:
        return self._stream.epoch

    @property
    def skipped(self) -> list[dict[str, str]]:
        """What `on_error="skip"` left out, as URI and error."""
        return self._stream.skipped

    def stats(self) -> dict[str, Any]:
        """Returns samples and bytes per second, how long the pipeline waited for data, and for what; see docs/semantics.md."""
        return self._stream.stats()

    def close(self) -> None:
        """Ends the worker processes; the next iteration starts others."""
        self._stream.close()


def make_tf_dataset(
    uri: Objects = None,
    batch_size: int = 1,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    map_fn: Callable[..., Any] | None = None,
    *,
    pattern: Any = None,
    manifest: str | None = None,
    pad_to: int | None = None,
    decode: str | Callable[..., Any] | None = None,
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
) -> ObjectDataset:
    """Returns all objects under a prefix, or of a list, each exactly once per iteration, as a `tf.data.Dataset` of batches.

    A batch is uint8 `(batch, nbytes)` as the objects are, `(1, None)` where they have different sizes and `batch_size` is 1; with
    `pad_to` a pair of that and the lengths, int64. With `decode` it is what that makes of the objects, stacked, and the first object
    says of which shape and dtype: `(batch, *shape)` of "npy", `(batch, height, width, channels)` of "image", a dictionary of such of
    "npz" and "json". Objects that become something else are an error; only with `batch_size=1` may images have any height and width.
    `decode="tfrecord"` gives records as they are, tf.string `(batch,)`, for `tf.io.parse_example` in `map_fn`.

    Errors reach the loop as errors of TensorFlow (`UnknownError`, `InvalidArgumentError`), with the text of ours, which has the URI.

    Args:
        uri: A prefix, listed recursively, with "/" added where it is missing; or the objects themselves, in their order.
        batch_size: Samples of a batch. The last one may be shorter.
        shuffle: Whether the order is shuffled, anew for each epoch: see `ObjectDataset.set_epoch`.
        seed: Of the order; all processes need the same.
        drop_last: Whether the last, shorter batch is left out; then all have the static length `batch_size`.
        map_fn: Applied to each batch by `Dataset.map`, as a graph.
        pattern: Glob or compiled regular expression that keys below the prefix must match.
        manifest: In place of `uri`: a file on any store that names the objects, one URI a line, or JSON lines with sizes.
        pad_to: Bytes of a row: shorter objects are padded with zeros.
        decode: "npy", "npz", "tfrecord", "json", "image", "auto", or a function of the object's bytes.
        rank: Of this process among `world_size`; found when the data set is made where it is not given.
        world_size: How many processes share the samples. If there are several, TensorFlow itself deals nothing out among them.
        tail: Where the samples cannot be shared out evenly over processes: some have one less ("uneven"), the first ones are repeated
            ("pad"), or the last ones left out ("drop").
        on_error: "raise" an error at its place in the order, or "skip" the sample, and record it in `skipped`.
        shuffle_buffer: Records among which those of TFRecord files are shuffled.
        procs: Worker processes.
        jobs: Requests in flight per worker.
        memory_bytes: Cap of the shared memory, in bytes or as "1GiB".
        prefetch: Batches that are fetched ahead at most; by default as many as the memory has room for.
        progress: Whether a bar shows how far the epoch is.
        loader_opts: Options of the original s3dlio.
        **older: Its keyword arguments.

    Raises:
        NotFoundError: There are no objects under the prefix.
        ConfigurationError: An argument makes no sense, or does nothing here; it says what does. Or the objects have different sizes.
        S3dlioError: The first object cannot be read, to see what `decode` makes of it.
    """
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
    options = dense_options(given, loader_opts, older)
    if map_fn is not None and not callable(map_fn):
        raise ConfigurationError(f"map_fn is a function of a batch, not {type(map_fn).__name__}")
    listing, listing_s = read_listing(uri, pattern, manifest)
    check_sizes(listing, options)
    # As it is now, since the length is a promise.
    world = find_world(options.rank, options.world_size)
    stream = Stream(listing, listing_s, replace(options, rank=world.rank, world_size=world.size))
    forms, uri = _find_forms(listing, options)
    reader = _Reader(stream, forms)
    return ObjectDataset(_make_pipeline(reader, _make_spec(forms, options, uri), map_fn), reader)


def _make_pipeline(reader: _Reader, spec: Any, map_fn: Callable[..., Any] | None) -> Any:
    reader_ref, stream = weakref.ref(reader), reader.stream

    def generate() -> Iterator[Any]:
        found = reader_ref()
        if found is None:
            raise ConfigurationError(
                "the data set is gone; keep what make_tf_dataset returned as long as it is iterated"
            )
        yield from found

    dataset = tf.data.Dataset.from_generator(generate, output_signature=spec)
    if stream.options.on_error == "raise" and not stream.is_of_records:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(stream)))
    if map_fn is not None:
        dataset = dataset.map(map_fn, num_parallel_calls=tf.data.AUTOTUNE)
    if stream.world().size > 1:
        choice = tf.data.Options()
        choice.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        dataset = dataset.with_options(choice)
    return dataset


def _find_forms(listing: Listing, options: Options) -> tuple[Any, str]:
    """Returns what a sample is, and the URI of the object that says so.

    Raises:
        ConfigurationError: An object becomes what no array can be.
        S3dlioError: It depends on the first object, which cannot be read.
    """
    if options.decode == "tfrecord":
        return Form(np.dtype(object), ()), listing.name
    if options.pad_to is not None:
        return Form(np.dtype(np.uint8), (options.pad_to,)), listing.name
    if options.decode is None:
        sizes = listing.sizes
        is_known = len(sizes) > 0 and int(sizes.min()) == int(sizes.max()) >= 0
        return Form(np.dtype(np.uint8), (int(sizes[0]) if is_known else None,)), listing.name
    sample, uri = first_sample(listing, options)
    forms = forms_of(sample, uri)
    if options.decode == "image" and options.batch_size == 1:
        forms = Form(forms.dtype, (None, None, forms.shape[2]))
    return forms, uri


def _make_spec(forms: Any, options: Options, uri: str) -> Any:
    """Returns what a batch is, as a `tf.TensorSpec` or a structure of them.

    Raises:
        ConfigurationError: TensorFlow has no tensors of that.
    """
    is_full = options.drop_last and (options.on_error == "raise" or options.decode == "tfrecord")
    num = options.batch_size if is_full or options.batch_size == 1 else None

    def make(form: Form) -> Any:
        try:
            return tf.TensorSpec((num, *form.shape), tf.as_dtype(form.dtype))
        except TypeError as error:
            raise ConfigurationError(
                f"TensorFlow has no tensors of {form.dtype}; give decode= a function that returns arrays of numbers or texts",
                uri=uri,
            ) from error

    spec = map_leaves(make, forms)
    return spec if options.pad_to is None else (spec, tf.TensorSpec((num,), tf.int64))


_readers: weakref.WeakSet[_Reader] = weakref.WeakSet()


def _end_all() -> None:
    """Ends all iterations, and waits until the threads of TensorFlow have left Python."""
    readers = list(_readers)
    must_wait = any(reader.under_way for reader in readers)
    for reader in readers:
        reader.end()
    if must_wait:
        wait_until_gone(str(Path(tf.__file__).parent))


# Later than the pool's own, and so before it: closed by that, a thread of TensorFlow would be put to rest for ever.
atexit.register(_end_all)
