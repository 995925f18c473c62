"""A data set as a stream: which sample comes next, and how far the epoch is. Knows no framework.

Rules:

* What comes, and in which order, is decided by `order.py` when the iteration begins, from the listing, the seed, the epoch, and the
  place of this process. Nothing that happens later changes it: failures, restarts and speed only change when it comes.
* A sample counts as delivered when it is handed out (`note`), and never before; skipped ones count with the next that is handed out.
* An error is raised in its turn. It ends the iteration; the state then stands before the sample that failed.
* The epoch is 0 until `set_epoch`, and never changes by itself. It lies in memory that the workers of a DataLoader share.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from s3dlio.engine.errors import ConfigurationError
from s3dlio.engine.memory.shared_block import SharedBlock

from .iteration import Iteration
from .order import Layout, epoch_order, num_units
from .progress import Progress
from .skipped import SkipLog
from .source import Source
from .state import Subject
from .waiting import Waiting
from .world import Worker, World, find_worker, find_world, is_in_data_loader

if TYPE_CHECKING:
    from .listing import Listing
    from .options import Options

_EPOCH, _IS_WARNED, _NUM_LOADED, _USED, _USED_BY, _BEGUN = range(6)
"""The numbers (int64) that all processes of a data set share: the epoch, whether uneven shares were warned of, how many states the
training process has loaded, which of these a DataLoader has gone on from, with how many workers, and how many iterations each of its
workers has begun. Where it counts, each has one writer."""
_MAX_WORKERS: Final = 1019
"""So that the numbers fill two pages."""


class Stream:
    """A data set, for any number of iterations. Not thread-safe; pickles, and may be forked."""

    def __init__(self, listing: Listing, listing_s: float, options: Options, *, has_transform: bool = False) -> None:
        """Begins at epoch 0.

        Args:
            listing: The objects.
            listing_s: How long it took to list them.
            options: Checked.
            has_transform: Whether each sample is looked at by the user's own function: then batches are not made in place.
        """
        self.listing = listing
        self.options = options
        self.listing_s = listing_s
        self.has_transform = has_transform
        self.source = Source(options)
        self.skip_log = SkipLog()
        self._shared = SharedBlock.create((_BEGUN + _MAX_WORKERS) * 8)
        self._inherited: World | None = None
        """Where the process that pickled it was: a spawned worker of a DataLoader cannot find that out."""
        self._progress = Progress(self._subject())
        self._iteration: weakref.ref[Iteration] | None = None
        """The last one of this process. It holds the stream, and not the other way round: so both end when nobody iterates."""
        self._waiting: Waiting | None = None
        self._num_loaded = 0
        """Of the states loaded by the training process, those that this process knows of."""
        self._begun_before = self._begun()
        """What the workers of a DataLoader had begun when this process last loaded a state or began an iteration."""
        self._is_compared = False

    # The epoch.

    @property
    def epoch(self) -> int:
        """Which epoch the next iteration is of."""
        return int(self._numbers[_EPOCH])

    def set_epoch(self, epoch: int) -> None:
        """Has the next iteration be of `epoch`, in all processes that share this data set: another one begins at its beginning.

        Raises:
            ConfigurationError: It is no whole number from 0 on.
        """
        if isinstance(epoch, bool) or not hasattr(epoch, "__index__") or not 0 <= epoch < 1 << 63:
            raise ConfigurationError(f"an epoch is a whole number from 0 on, not {epoch!r}")
        self._progress.set_epoch(int(epoch))
        self._numbers[_EPOCH] = int(epoch)

    @property
    def _numbers(self) -> memoryview:
        return self._shared.buffer.cast("q")

    def _begun(self) -> bytes:
        return bytes(self._numbers[_BEGUN:])

    # The place of this process.

    def _subject(self) -> Subject:
        return Subject(
            kind="tfrecord" if self.is_of_records else "objects",
            dataset=self.listing.name,
            listing=self.listing.digest,
            num_objects=len(self.listing),
            seed=self.options.seed,
            shuffle=self.options.shuffle,
        )

    @property
    def is_of_records(self) -> bool:
        """Whether an object is a file of many samples."""
        return self.options.decode == "tfrecord"

    def world(self) -> World:
        """Returns the rank of this process, and how many there are.

        Raises:
            ConfigurationError: Two sources disagree.
        """
        found = find_world(self.options.rank, self.options.world_size)
        if found.is_alone and self._inherited is not None and is_in_data_loader():
            return self._inherited
        return found

    def layout(self, world_size: int, num_workers: int) -> Layout:
        """Returns how samples are shared out: files of records by file, since nobody knows what is in them."""
        batch_size = None if self.is_of_records else self.options.batch_size
        drop_last = self.options.drop_last and not self.is_of_records
        return Layout(world_size, num_workers, batch_size, drop_last, self.options.tail)

    def __len__(self) -> int:
        """Returns how many samples, or batches, this rank has in an epoch, over all its workers.

        Raises:
            TypeError: Of records nobody knows.
        """
        if self.is_of_records:
            raise TypeError("nobody knows how many records there are before they are read")
        world = self.world()
        return num_units(len(self.listing), self.layout(world.size, 1), world.rank)

    # Iterations.

    def open(self) -> Iteration:
        """Begins an iteration, or goes on where a state was loaded from."""
        world, worker = self.world(), find_worker()
        layout = self.layout(world.size, worker.count)
        if worker.count > _MAX_WORKERS:
            raise ConfigurationError(f"a data set is shared by {_MAX_WORKERS} workers at most, not {worker.count}")
        if world.size > 1 and layout.tail == "uneven" and len(self.listing) % world.size:
            self._warn_once(world.size)
        self._progress.set_epoch(self.epoch)
        self._forget_what_others_began(worker)
        order = epoch_order(len(self.listing), self.options.seed, self.epoch, self.options.shuffle)
        tally = self._progress.begin(order, layout, world.rank, worker.index)
        if is_in_data_loader():
            self._numbers[_BEGUN + worker.index] += 1
        self._begun_before = self._begun()
        self._waiting = Waiting(self.listing_s)
        iteration = Iteration(self, tally, self._waiting, (world.rank, worker.index), worker.count)
        self._iteration = weakref.ref(iteration)
        return iteration

    def _warn_once(self, world_size: int) -> None:
        if self._numbers[_IS_WARNED]:
            return
        self._numbers[_IS_WARNED] = 1
        what = "files" if self.is_of_records else "samples"
        warnings.warn(
            f"{len(self.listing)} {what} cannot be shared out evenly over {world_size} ranks: some ranks have one less, and collective "
            "operations such as those of DistributedDataParallel may hang; tail='pad' or 'drop' gives equal shares",
            stacklevel=4,
        )

    def _forget_what_others_began(self, worker: Worker) -> None:
        """Forgets a loaded state if the iteration it was loaded for has begun elsewhere.

        Each epoch of a DataLoader may fork its workers anew, from a training process that still has what it loaded.

        Raises:
            ConfigurationError: A state was loaded that this worker, which ran already, has never seen.
        """
        if not is_in_data_loader():
            has_begun = self._begun() != self._begun_before
        elif self._numbers[_NUM_LOADED] != self._num_loaded:
            raise ConfigurationError(
                "a state was loaded after the workers of this DataLoader had started, and does not reach them; load it before the first "
                "iteration over a DataLoader with persistent_workers, or use torchdata.stateful_dataloader.StatefulDataLoader"
            )
        else:
            at = worker.index * 8
            has_begun = self._begun()[at : at + 8] != self._begun_before[at : at + 8] or self._is_used(worker.count)
        if has_begun:
            self._progress.forget()

    def _is_used(self, num_workers: int) -> bool:
        """Whether a DataLoader with another number of workers has gone on from the state that was loaded last; notes that this one does."""
        numbers = self._numbers
        if numbers[_USED] != numbers[_NUM_LOADED]:
            numbers[_USED], numbers[_USED_BY] = numbers[_NUM_LOADED], num_workers
        return bool(numbers[_NUM_LOADED]) and numbers[_USED_BY] != num_workers

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Returns how far this process is.

        Raises:
            ConfigurationError: Workers of a DataLoader iterate, and this is not one of them.
        """
        if not is_in_data_loader() and self._begun() != self._begun_before:
            raise ConfigurationError(
                "the workers of a DataLoader read this data set, and what the training loop has got of it is not known here; use "
                "torchdata.stateful_dataloader.StatefulDataLoader and its state_dict, or iterate over the data set itself"
            )
        iteration = None if self._iteration is None else self._iteration()
        if iteration is not None:
            iteration.settle()
        self._progress.set_epoch(self.epoch)
        world, worker = self.world(), find_worker()
        return self._progress.to_dict_of(self.layout(world.size, worker.count), world.rank, worker.index)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Has the next iteration go on where `state` was taken, at its epoch.

        The state of an epoch that is over changes nothing where `set_epoch` has gone on to a later one: a StatefulDataLoader loads its
        state when it begins to iterate, and not when it is told to.

        Raises:
            ConfigurationError: It is no state of this data set.
        """
        asked = self.epoch
        self._progress.load(state)
        if self._progress.epoch < asked and self._is_over(state):
            self._progress.set_epoch(asked)
        self._iteration = None
        self._numbers[_EPOCH] = self._progress.epoch
        self._begun_before = self._begun()
        if not is_in_data_loader():
            self._num_loaded = self._numbers[_NUM_LOADED] = self._numbers[_NUM_LOADED] + 1

    def _is_over(self, state: dict[str, Any]) -> bool:
        """Whether there is nothing left of a state's epoch for this process."""
        world, worker = self.world(), find_worker()
        trial = Progress(self._subject())
        trial.load(state)
        # Who has how much does not depend on the order.
        order = epoch_order(len(self.listing), 0, 0, shuffle=False)
        try:
            tally = trial.begin(order, self.layout(world.size, worker.count), world.rank, worker.index)
        except ConfigurationError:
            return False
        return tally.num_delivered == tally.share.num_samples

    # What is known.

    @property
    def skipped(self) -> list[dict[str, str]]:
        """What was left out, by all processes of the data set."""
        return self.skip_log.records()

    def stats(self) -> dict[str, Any]:
        """Returns counts, rates and waits of the last iteration of this process, and the state of its pool."""
        waiting = self._waiting or Waiting(self.listing_s)
        pool = self.source.stats()
        return {
            **waiting.summary(),
            "skipped": len(self.skipped),
            "queue_depth": pool.get("ready", 0),
            "in_flight": pool.get("in_flight", 0),
            "worker_restarts": pool.get("worker_restarts", 0),
        }

    def close(self) -> None:
        """Ends the worker processes."""
        self.source.close()

    # Other ranks.

    def must_compare(self) -> bool:
        """Whether the ranks of a process group are still to say what each has listed: asked once."""
        must = not self._is_compared and not is_in_data_loader() and self.world().source == "torch.distributed"
        self._is_compared = True
        return must

    def compare(self, found: Sequence[tuple[str, int]]) -> None:
        """Holds the digest and the number of objects of all ranks against this one's.

        Raises:
            ConfigurationError: They differ.
        """
        mine = (self.listing.digest, len(self.listing))
        for rank, other in enumerate(found):
            if tuple(other) != mine:
                raise ConfigurationError(
                    f"the ranks have listed different objects: rank {rank} {other[1]} (digest {other[0]}), this one {mine[1]} "
                    f"(digest {mine[0]}); list them once, and give all ranks that manifest",
                    uri=self.listing.name,
                )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_inherited": self.world(), "_iteration": None, "_waiting": None}

    def __repr__(self) -> str:
        return f"{self.listing.name!r}, {len(self.listing)} objects"
