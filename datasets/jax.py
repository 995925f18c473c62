"""JAX: batches of objects as `jax.Array`s, on the device before they are asked for.

The order, the shards and the state are `stream.py`'s. JAX may lay an array of the CPU over the memory that it is given, and does so
wherever that begins at a multiple of 64 bytes. A slot begins there, and is written by nobody as long as anything holds it, so that such
an array is intact however long it is kept; `dense.py` sees to it that those who keep many get copies in time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from msgspec.structs import replace

from s3dlio.engine.errors import ConfigurationError, MissingExtraError
from s3dlio.engine.memory.view import BytesView
from s3dlio.engine.text import clean

from .arguments import read_listing
from .dense import Loans, check_sizes, dense_options, native, stack
from .stream import Stream

try:
    import jax
except ImportError as error:
    raise MissingExtraError("JAX is not installed; pip install 's3dlio-shm[jax]'", cause=str(error)) from None

if TYPE_CHECKING:
    from jax.sharding import Sharding

    from s3dlio.engine.types import ListEntry, ObjectInfo, ObjectRef

    from .deliveries import Delivery
    from .iteration import Iteration

    Objects = str | Iterable[str | ObjectRef | ObjectInfo | ListEntry] | None

_NUM_AHEAD = 2


class JaxIterable:
    """All objects under a prefix, or of a list, each exactly once per epoch, as batches of `jax.Array`s.

    A batch is uint8 `[batch_size, nbytes]` as the objects are; with `pad_to` a pair of that and the lengths; with `decode="npy"`
    `[batch_size, *shape]`; and with another `decode`, or with a `transform`, what these give of each sample, stacked: a dictionary or
    tuple of arrays stays one. Numbers of 64 bits become 32 bits wide unless `jax_enable_x64` is set, as in all of JAX.
    """

    def __init__(
        self,
        uri: Objects = None,
        batch_size: int = 1,
        *,
        pattern: Any = None,
        manifest: str | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        pad_to: int | None = None,
        transform: Callable[[Any], Any] | None = None,
        decode: str | Callable[..., Any] | None = None,
        sharding: Sharding | None = None,
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
            batch_size: Samples of a batch, in this process. The last batch may be shorter.
            pattern: Glob or compiled regular expression that keys below the prefix must match.
            manifest: In place of `uri`: a file on any store that names the objects, one URI a line, or JSON lines with sizes.
            shuffle: Whether the order is shuffled, anew for each epoch (`set_epoch`).
            seed: Of the order; all processes need the same.
            drop_last: Whether the last, shorter batch is left out.
            pad_to: Bytes of a row: shorter objects are padded with zeros, and a batch is a pair of arrays: the rows, and their lengths.
            transform: Called with each sample, a numpy array, in this process; what it returns is stacked.
            decode: "npy", "npz", "tfrecord", "json", "image", "auto", or a function of the object's bytes. Before `transform`. All
                samples of a batch must become arrays of one shape.
            sharding: Of the arrays, by `jax.make_array_from_process_local_data`. Where it spans processes, a global batch is the
                batches of all of them, and every process must iterate. Arrays of fewer dimensions have the first ones of a `NamedSharding`.
            rank: Of this process among `world_size`; found when the iteration starts where it is not given: from `jax.distributed`, if
                that was initialized. To be given where processes shall read the same, since the model is sharded over them.
            world_size: How many processes share the samples.
            tail: Where the samples cannot be shared out evenly over processes: some have one less ("uneven"), the first ones are
                repeated ("pad"), or the last ones left out ("drop").
            on_error: "raise" an error at its place in the order, or "skip" the sample, and record it in `skipped`.
            shuffle_buffer: Records among which those of TFRecord files are shuffled.
            procs: Worker processes.
            jobs: Requests in flight per worker.
            memory_bytes: Cap of the shared memory, in bytes or as "1GiB".
            prefetch: Batches that are put on the devices ahead; 2 by default. How far objects are fetched ahead is a matter of memory.
            progress: Whether a bar shows how far the epoch is.
            loader_opts: Options of the original s3dlio.
            **older: Its keyword arguments.

        Raises:
            NotFoundError: There are no objects under the prefix.
            ConfigurationError: An argument makes no sense, or does nothing here; it says what does. Or the objects have different sizes.
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
        if transform is not None and not callable(transform):
            raise ConfigurationError(f"transform is a function of a sample, not {type(transform).__name__}")
        self._sharding = sharding
        self._spans_processes = _spans_processes(sharding)
        if self._spans_processes and options.on_error == "skip":
            raise ConfigurationError(
                "on_error='skip' makes batches of one process shorter, and a batch that spans processes must be as long in all of them"
            )
        self._transform = transform
        self._num_ahead = options.prefetch or _NUM_AHEAD
        listing, listing_s = read_listing(uri, pattern, manifest)
        if transform is None:
            check_sizes(listing, options)
        self._stream = Stream(listing, listing_s, replace(options, prefetch=None), has_transform=transform is not None)
        self._loans = Loans(options.cap_bytes)
        self._is_compared = False

    @classmethod
    def from_prefix(cls, uri: str, **arguments: Any) -> Self:
        """Returns `cls(uri, **arguments)`, as the original has it."""
        return cls(uri, **arguments)

    def __iter__(self) -> Iterator[Any]:
        if self._spans_processes:
            self._compare_processes()
        with self._stream.open() as iteration:
            for delivery, box in _read_ahead(self._batches(iteration), self._num_ahead):
                iteration.note(delivery)
                if box:
                    yield box.pop()

    def _batches(self, iteration: Iteration) -> Iterator[tuple[Delivery, list[Any]]]:
        """Yields deliveries, each with its batch on the device, in a list so that it can be handed out without being held; or none."""
        for delivery in iteration:
            if callable(delivery.position):
                # A stream of records says where it stands now; when this batch is handed out, it will stand elsewhere.
                delivery.position = delivery.position()
            yield delivery, [] if delivery.is_empty else [self._put(self._gather(delivery), delivery.uris)]

    def _gather(self, delivery: Delivery) -> Any:
        """Returns a batch as arrays of numpy: over its slot, or stacked."""
        value, uris = delivery.pop(), delivery.uris
        if self._transform is not None:
            batch = _stack_trees(self._transform_all(value, uris), uris)
        elif isinstance(value, np.ndarray):
            batch = self._loans.lend(native(value))
        elif len(value) == 1 and type(value[0]) is BytesView:
            batch = self._loans.lend(np.ndarray.view(value.pop(), np.ndarray)[np.newaxis])
        else:
            batch = _stack_trees(value, uris)
        return batch if delivery.lengths is None else (batch, delivery.lengths)

    def _transform_all(self, value: Any, uris: Sequence[str]) -> list[Any]:
        """Returns what `transform` makes of the samples of a batch; an error on the way has a note that names the object."""
        assert self._transform is not None
        # Rows are samples of bytes, as views are.
        samples = [row.view(BytesView) for row in value] if isinstance(value, np.ndarray) else value
        made = []
        for sample, uri in zip(samples, uris, strict=True):
            try:
                made.append(self._transform(sample))
            except Exception as error:
                error.add_note(f"while making a sample of {clean(uri)}")
                # Whoever keeps the error keeps this frame, and is not to keep all samples with it.
                samples.clear()
                raise
        return made

    def _put(self, batch: Any, uris: Sequence[str]) -> Any:
        """Returns the arrays of a batch on the device, or the devices.

        Raises:
            ConfigurationError: They cannot be there.
        """
        sharding = self._sharding
        try:
            if sharding is None:
                return jax.device_put(batch)
            make: Any = jax.make_array_from_process_local_data
            return jax.tree.map(lambda array: make(_cut(sharding, array.ndim), array), batch)
        except TypeError as error:
            raise ConfigurationError(
                "JAX has arrays of numbers only; have transform return nothing else", uri=uris[0], cause=str(error)
            ) from error
        except ValueError as error:
            if sharding is None:
                raise
            raise ConfigurationError(
                f"a batch of {len(uris)} samples cannot be shared out by that sharding; batch_size must be a multiple of the devices of "
                "this process that share it, and drop_last=True leaves out the shorter batch at the end",
                cause=str(error),
            ) from error

    def _compare_processes(self) -> None:
        """Has all processes say what they have listed, once, and makes sure that they have equally many batches: others wait for them.

        Raises:
            ConfigurationError: They differ.
        """
        stream = self._stream
        world, num = stream.world(), len(stream.listing)
        if world.size > 1 and num % world.size and stream.options.tail == "uneven":
            raise ConfigurationError(
                f"{num} samples cannot be shared out evenly over {world.size} processes, and all must have as many batches of a sharding "
                "that spans them; give tail='pad' or 'drop'",
                uri=stream.listing.name,
            )
        # Only if all processes of the cluster are in it can all be asked.
        if not self._is_compared and _num_processes(self._sharding) == jax.process_count():
            from jax.experimental import multihost_utils

            mine = np.frombuffer(bytes.fromhex(stream.listing.digest) + num.to_bytes(8, "big"), np.uint8)
            found = [row.tobytes() for row in np.asarray(multihost_utils.process_allgather(mine))]
            stream.compare([(row[:-8].hex(), int.from_bytes(row[-8:], "big")) for row in found])
            self._is_compared = True

    def __len__(self) -> int:
        """Returns how many batches this process has in an epoch.

        Raises:
            TypeError: Of TFRecord files nobody knows before they are read.
        """
        return len(self._stream)

    def set_epoch(self, epoch: int) -> None:
        """Has the next iteration be of `epoch`. It never changes by itself."""
        self._stream.set_epoch(epoch)

    @property
    def epoch(self) -> int:
        return self._stream.epoch

    def state_dict(self) -> dict[str, Any]:
        """Returns how far the loop is, in text and numbers only: batches that are on the device ahead do not count."""
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Has the next iteration go on where `state` was taken.

        Raises:
            ConfigurationError: It is of another data set, listing or seed, or of a rank of another world size: `s3dlio.merge_states`.
        """
        self._stream.load_state_dict(state)

    @property
    def skipped(self) -> list[dict[str, str]]:
        """What `on_error="skip"` left out, as URI and error."""
        return self._stream.skipped

    def stats(self) -> dict[str, Any]:
        """Returns samples and bytes per second, how long the loop waited for data, and for what; see docs/semantics.md."""
        return self._stream.stats()

    def close(self) -> None:
        """Ends the worker processes; arrays stay as they are, and the next iteration starts others."""
        self._stream.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._stream})"


def _read_ahead(made: Iterator[tuple[Delivery, list[Any]]], num_ahead: int) -> Iterator[tuple[Delivery, list[Any]]]:
    """Yields all that is made, with up to `num_ahead` more made before they are asked for; an error comes in its turn.

    The first batch is yielded at once, and only then others are made, of each next one more: at the beginning, nothing waits for what
    nobody asked for yet.
    """
    ready: deque[tuple[Delivery, list[Any]]] = deque()
    error: Exception | None = None
    is_over = False
    ahead = 0
    while True:
        while not is_over and len(ready) <= ahead:
            try:
                ready.append(next(made))
            except StopIteration:
                is_over = True
            except Exception as raised:  # noqa: BLE001 (it is raised below)
                error, is_over = raised, True
        if not ready:
            break
        ahead = min(ahead + len(ready[0][1]), num_ahead)
        yield ready.popleft()
    if error is not None:
        raise error


def _stack_trees(samples: list[Any], uris: Sequence[str]) -> Any:
    """Returns samples as one, with an array in place of each number or array.

    Raises:
        ConfigurationError: They differ in shape, or in what they are made of.
    """
    structures: list[Any] = [*map(jax.tree.structure, samples)]
    for structure, uri in zip(structures, uris, strict=True):
        if structure != structures[0]:
            raise ConfigurationError(
                f"what is made of it is not what is made of {clean(uris[0])}, in the same batch: {structure}, not {structures[0]}; have "
                "transform return the same kind of tuple or dictionary of all objects",
                uri=uri,
            )
    return jax.tree.map(lambda *leaves: stack(leaves, uris), *samples)


def _spans_processes(sharding: Any) -> bool:
    """Returns whether arrays of that sharding lie on devices of several processes.

    Raises:
        ConfigurationError: It is none.
    """
    if sharding is None:
        return False
    if not isinstance(sharding, jax.sharding.Sharding):
        raise ConfigurationError(f"sharding is a jax.sharding.Sharding, not {type(sharding).__name__}")
    return not sharding.is_fully_addressable


def _num_processes(sharding: Any) -> int:
    return len({device.process_index for device in sharding.device_set})


def _cut(sharding: Sharding, ndim: int) -> Sharding:
    """Returns a sharding for an array of `ndim` dimensions, such as the labels that belong to images."""
    if isinstance(sharding, jax.sharding.NamedSharding) and len(sharding.spec) > ndim:
        spec: Any = jax.sharding.PartitionSpec
        return jax.sharding.NamedSharding(sharding.mesh, spec(*sharding.spec[:ndim]))
    return sharding
