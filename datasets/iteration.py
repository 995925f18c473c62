"""One iteration over a data set in one process: asks for what comes next, and counts what was handed out."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from s3dlio.engine.errors import ConfigurationError
from s3dlio.engine.pool.wanted import Group

from .batch import Rows, plan_rows
from .decode import find_decoder
from .deliveries import Delivery, Judge, batches, row_batches, samples
from .progress_bar import ProgressBar
from .records import in_order, record_batches, shuffled
from .tfrecord import ShuffleBuffer

if TYPE_CHECKING:
    from s3dlio.engine.pool.items import Item
    from s3dlio.engine.types import ObjectRef

    from .progress import Tally
    from .stream import Stream
    from .waiting import Waiting

_BLOCK: Final = 256
"""References are made so many at once."""


class Iteration:
    """Yields deliveries, from a `with`. Each is to be noted when it is handed out."""

    def __init__(
        self, stream: Stream, tally: Tally, waiting: Waiting, place: tuple[int, int], num_sharers: int
    ) -> None:
        """Fetches nothing before the first is asked for; what is to come, and of which epoch, is decided now.

        Args:
            stream: The data set.
            tally: What is to be delivered, and what was already.
            waiting: Counts how long the loop waits.
            place: The rank, and the worker in it.
            num_sharers: Processes that share the data set's memory.
        """
        self.waiting = waiting
        self._stream = stream
        self._epoch = stream.epoch
        self._tally = tally
        self._place = place
        self._num_sharers = num_sharers
        self._position: Any = tally.position
        self._fetches: list[Any] = []
        self._bar: ProgressBar | None = None
        self._judge = Judge(stream.options.on_error == "skip", stream.skip_log)
        self._deliveries: Generator[Delivery, None, None]

    def __iter__(self) -> Iterator[Delivery]:
        """Yields what is to be handed out.

        Raises:
            S3dlioError: The last one of those that were skipped, if there was nothing else in the whole share: that is no epoch.
        """
        is_whole = self._tally.num_delivered == 0 and self._position is None
        yield from self._deliveries
        if is_whole and self._judge.last is not None and self.waiting.num_samples == 0:
            raise self._judge.last

    def note(self, delivery: Delivery) -> None:
        """Counts what is handed out now as delivered."""
        self._tally.note(delivery.num)
        self._position = delivery.position
        num = 0 if delivery.is_empty else len(delivery.uris)
        self.waiting.num_samples += num
        if self._bar is not None:
            self._bar.add(num)

    def settle(self) -> None:
        """Has the tally say where the stream of records stands, if it is one: that costs too much to be said of each record."""
        if callable(self._position):
            self._position = self._position()
        self._tally.position = self._position

    def __enter__(self) -> Self:
        stream, tally = self._stream, self._tally
        self._deliveries = self._open()
        if stream.options.progress:
            total = None if stream.is_of_records else tally.share.num_samples - tally.num_delivered
            self._bar = ProgressBar(stream.listing.name, total, self.waiting)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deliveries.close()
        for items in self._fetches:
            # After an error its traceback holds them, and with them what was fetched ahead.
            items.close()
        self.settle()
        self.waiting.end()
        if self._bar is not None:
            self._bar.close()
        # An error's traceback may hold this object: the data set and its processes go without it.
        del self._stream, self._deliveries, self._fetches

    def _open(self) -> Generator[Delivery, None, None]:
        stream, tally, options = self._stream, self._tally, self._stream.options
        judge = self._judge
        if stream.is_of_records:
            return self._open_records(judge)
        rows = self._plan()
        if rows is not None:
            items = self._fetch(self._groups(rows))
            return row_batches(items, rows, options.pad_to is not None, options.decode == "npy", judge)
        decode = find_decoder(options.decode)
        items = self._fetch(self._refs())
        if options.batch_size is None:
            return samples(items, decode, judge)
        sizes = (len(tally.share.unit(unit)) for unit in range(tally.num_units, len(tally.share)))
        return batches(items, sizes, decode, judge)

    def _open_records(self, judge: Judge) -> Generator[Delivery, None, None]:
        stream, tally, options = self._stream, self._tally, self._stream.options
        files = tally.share.samples()
        # Where all are delivered, the buffer has no position to go on from: it would begin again.
        num_files = len(files) if tally.num_delivered < len(files) else 0

        def fetch(numbers: Sequence[int]) -> Iterator[Item]:
            if max(numbers, default=0) >= max(len(files), 1):
                raise ConfigurationError(f"the state names file {max(numbers)} of a share that has {len(files)}")
            return self._fetch(iter(stream.listing.refs(files[numbers])))

        if options.shuffle:
            buffer: ShuffleBuffer[Any] = ShuffleBuffer(options.shuffle_buffer, options.seed, self._epoch, self._place)
            found = shuffled(fetch, num_files, tally.position, buffer, judge)
        else:
            found = in_order(fetch, num_files, tally.position, tally.num_delivered, judge)
        return found if options.batch_size is None else record_batches(found, options.batch_size, options.drop_last)

    def _plan(self) -> Rows | None:
        """Returns how batches lie in one slot, if they do: what becomes of each sample by itself needs no rows."""
        stream, options = self._stream, self._stream.options
        is_of_bytes = options.decode in (None, "npy") and not stream.has_transform
        if options.batch_size is None or not (is_of_bytes or options.pad_to is not None):
            return None
        listing = stream.listing
        most = stream.source.memory_bytes(self._num_sharers) // 2
        return plan_rows(listing.sizes, options.batch_size, options.pad_to, options.decode == "npy", most, listing.uri)

    def _groups(self, rows: Rows) -> Iterator[Group]:
        share, listing = self._tally.share, self._stream.listing
        for unit in range(self._tally.num_units, len(share)):
            yield Group(listing.refs(share.unit(unit)), rows.stride)

    def _refs(self) -> Iterator[ObjectRef]:
        share, listing = self._tally.share, self._stream.listing
        for begin in range(self._tally.num_delivered, share.num_samples, _BLOCK):
            yield from listing.refs(share.samples(begin, min(begin + _BLOCK, share.num_samples)))

    def _fetch(self, wanted: Iterator[ObjectRef | Group]) -> Iterator[Item]:
        """Yields what is wanted, and counts how long the loop waits for it."""
        waiting = self.waiting
        # Before the pool is there: what its processes take to start is waited for too.
        waiting.asks()
        items = self._stream.source.fetch(wanted, self._num_sharers)
        self._fetches.append(items)
        while (item := next(items, None)) is not None:
            waiting.gets(item)
            yield item
            del item
            waiting.asks()
