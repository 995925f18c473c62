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
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from msgspec.structs import replace

from s3dlio.engine.errors import ConfigurationError, MissingExtraError, PoolClosedError, S3dlioError
from s3dlio.engine.memory.view import BytesView
from s3dlio.engine.pool.inline import inline_fetcher

from .arguments import read_listing
from .decode import find_decoder
from .dense import Loans, check_sizes, dense_options, native, stack
from .stream import Stream
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


_LAST_WAIT_S: Final = 10.0
"""At the end of the interpreter, for the threads of TensorFlow to leave Python: as long as a user's `decode` may take."""
_QUIET_S: Final = 0.25
"""Who has not come for the next batch by then will not come."""


class _Reader:
    """Iterates over a stream, and makes of its deliveries what the spec says. For any number of iterations at once."""

    def __init__(self, stream: Stream, spec: Any) -> None:
        self.stream = stream
        self._spec = spec
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
            ConfigurationError: It is not what the spec says.
        """
        value, uris = delivery.pop(), delivery.uris
        if self.stream.is_of_records:
            return _objects([record.tobytes() for record in value])
        if isinstance(value, np.ndarray):
            array = _as_array(self._loans.lend(value))
            if delivery.lengths is not None:
                return array, delivery.lengths
            return _checked(array, array.shape[1:], self._spec, uris[0])
        if len(value) == 1 and type(value[0]) is BytesView:
            array = self._loans.lend(np.ndarray.view(value.pop(), np.ndarray)[np.newaxis])
            return _checked(array, array.shape[1:], self._spec, uris[0])
        samples = [_conform(sample, self._spec, uri) for sample, uri in zip(value, uris, strict=True)]
        return _map_leaves(lambda _, *leaves: stack(leaves, uris), self._spec, *samples)


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
    reader = _Reader(stream, _find_spec(listing, options))
    return ObjectDataset(_make_pipeline(reader, map_fn), reader)


def _make_pipeline(reader: _Reader, map_fn: Callable[..., Any] | None) -> Any:
    reader_ref, stream = weakref.ref(reader), reader.stream

    def generate() -> Iterator[Any]:
        found = reader_ref()
        if found is None:
            raise ConfigurationError(
                "the data set is gone; keep what make_tf_dataset returned as long as it is iterated"
            )
        yield from found

    dataset = tf.data.Dataset.from_generator(generate, output_signature=reader._spec)
    if stream.options.on_error == "raise" and not stream.is_of_records:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(stream)))
    if map_fn is not None:
        dataset = dataset.map(map_fn, num_parallel_calls=tf.data.AUTOTUNE)
    if stream.world().size > 1:
        choice = tf.data.Options()
        choice.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        dataset = dataset.with_options(choice)
    return dataset


def _find_spec(listing: Listing, options: Options) -> Any:
    """Returns what a batch is, as a `tf.TensorSpec` or a structure of them.

    Raises:
        ConfigurationError: TensorFlow has no tensors of what the objects become.
        S3dlioError: It depends on the first object, which cannot be read.
    """
    is_of_records = options.decode == "tfrecord"
    is_full = options.drop_last and (options.on_error == "raise" or is_of_records)
    num = options.batch_size if is_full or options.batch_size == 1 else None
    if is_of_records:
        return tf.TensorSpec((num,), tf.string)
    if options.pad_to is not None:
        return tf.TensorSpec((num, options.pad_to), tf.uint8), tf.TensorSpec((num,), tf.int64)
    if options.decode is None:
        sizes = listing.sizes
        is_known = len(sizes) > 0 and int(sizes.min()) == int(sizes.max()) >= 0
        return tf.TensorSpec((num, int(sizes[0]) if is_known else None), tf.uint8)
    uri, sample = _first_sample(listing, options)
    is_any_size = options.batch_size == 1 and options.decode == "image"

    def make(leaf: Any) -> Any:
        array = _as_array(leaf)
        shape = (None, None, array.shape[2]) if is_any_size else array.shape
        try:
            dtype = tf.string if array.dtype == object else tf.as_dtype(array.dtype)
        except TypeError as error:
            raise ConfigurationError(
                f"TensorFlow has no tensors of {array.dtype}; give decode= a function that returns arrays of numbers or text",
                uri=uri,
            ) from error
        return tf.TensorSpec((num, *shape), dtype)

    return _map_leaves(make, sample)


def _first_sample(listing: Listing, options: Options) -> tuple[str, Any]:
    """Returns the first object that can be read, decoded, and its URI.

    Raises:
        ConfigurationError: There is no object.
        S3dlioError: It cannot be read; with `on_error="skip"`, none can.
    """
    decode = find_decoder(options.decode)
    assert decode is not None
    failure: S3dlioError = ConfigurationError("there is no object that could say what decode makes of it")
    for number in range(len(listing)):
        [one] = listing.refs(np.array([number], np.int64))
        try:
            [found] = inline_fetcher().fetch_many([one], 1)
            if isinstance(found, S3dlioError):
                raise found
            return one.uri, decode(found, one.uri)
        except S3dlioError as error:
            failure = error
            if options.on_error == "raise":
                break
    raise failure


def _map_leaves(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Returns a structure of dictionaries and tuples with what `function` gives of the leaves at each place.

    Raises:
        ValueError: The others are not made as the first.
    """
    if isinstance(first, dict):
        if any(not isinstance(other, dict) or other.keys() != first.keys() for other in others):
            raise ValueError(f"not all have the names {', '.join(map(str, first))}")
        return {name: _map_leaves(function, first[name], *(other[name] for other in others)) for name in first}
    if isinstance(first, tuple):
        if any(not isinstance(other, tuple) or len(other) != len(first) for other in others):
            raise ValueError(f"not all are tuples of {len(first)}")
        return tuple(_map_leaves(function, *members) for members in zip(first, *others, strict=True))
    return function(first, *others)


def _conform(sample: Any, spec: Any, uri: str) -> Any:
    """Returns a sample with an array in place of each number, text or array.

    Raises:
        ConfigurationError: It is not what the spec says of a sample.
    """

    def convert(one: Any, leaf: Any) -> Any:
        array = _as_array(leaf)
        return _checked(array, array.shape, one, uri)

    try:
        return _map_leaves(convert, spec, sample)
    except S3dlioError as error:
        error.uri = uri
        raise
    except ValueError as error:
        raise ConfigurationError(
            "it becomes something else than the first object; give decode= a function that returns the same of all",
            uri=uri,
            cause=str(error),
        ) from error


def _as_array(leaf: Any) -> np.ndarray[Any, Any]:
    """Returns a number, a text or a list of them as an array that TensorFlow knows: texts as bytes, which keep zeros at their end."""
    if isinstance(leaf, BytesView):
        return np.ndarray.view(leaf, np.ndarray)
    if isinstance(leaf, (bytes, str)):
        return _objects([leaf]).reshape(())
    try:
        array = np.asarray(leaf)
    except ValueError as error:
        raise ConfigurationError(
            "a list in a sample has parts of different shapes, and is no array", cause=str(error)
        ) from error
    if array.dtype.hasobject:
        raise ConfigurationError(
            f"TensorFlow has no tensors of {type(leaf).__name__}; have decode return numbers or text"
        )
    return _objects(array.ravel().tolist()).reshape(array.shape) if array.dtype.kind in "US" else native(array)


def _objects(texts: list[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(texts), object)
    array[:] = [text.encode() if isinstance(text, str) else text for text in texts]
    return array


def _checked(array: np.ndarray[Any, Any], shape: tuple[int, ...], spec: Any, uri: str) -> np.ndarray[Any, Any]:
    """Returns an array whose samples are what was promised.

    Args:
        array: A sample, or a batch.
        shape: Of a sample.
        spec: Of the batch.
        uri: Of the sample, or of the first.

    Raises:
        ConfigurationError: They are not.
    """
    if spec.dtype.as_numpy_dtype == array.dtype and spec.shape[1:].is_compatible_with(shape):
        return array
    raise ConfigurationError(
        f"it becomes {array.dtype} of shape {shape}, and the first object {spec.dtype.name} of shape {spec.shape[1:]}; give decode= a "
        "function that returns arrays of one shape of all objects",
        uri=uri,
    )


_readers: weakref.WeakSet[_Reader] = weakref.WeakSet()


def _end_all() -> None:
    """Ends all iterations, and waits until the threads of TensorFlow have left Python, and until those that come again were there."""
    readers = list(_readers)
    must_wait = any(reader.under_way for reader in readers)
    for reader in readers:
        reader.end()
    folder, tick = str(Path(tf.__file__).parent), threading.Event()
    begun_s = since_s = time.monotonic()
    while must_wait and time.monotonic() - since_s < _QUIET_S and time.monotonic() - begun_s < _LAST_WAIT_S:
        if _is_in_python(folder):
            since_s = time.monotonic()
        tick.wait(0.005)


def _is_in_python(folder: str) -> bool:
    """Returns whether a thread that Python did not start runs functions that are defined below a folder."""
    started = {one.ident for one in threading.enumerate() if not isinstance(one, threading._DummyThread)}
    return any(ident not in started and _comes_from(frame, folder) for ident, frame in sys._current_frames().items())


def _comes_from(frame: FrameType | None, folder: str) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(folder):
            return True
        frame = frame.f_back
    return False


# Later than the pool's own, and so before it: closed by that, a thread of TensorFlow would be put to rest for ever.
atexit.register(_end_all)
