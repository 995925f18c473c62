"""One transfer: which object is read and written when.

Rules:

* An object up to the target's `split_above_bytes` is read and written at once. A longer one goes by parts, several at once, each of
  the version that was listed: it is begun, its parts are written, it is completed; where anything fails it is aborted, once no part is
  under way any more.
* What is under way holds at most `_MAX_BYTES` in memory, however long the objects are; one part may always go.
* The parts of objects that were begun come before new objects, so that few are open.
* An object that fails is recorded, and the others go on. What concerns all (the listing, the bucket, credentials) ends the transfer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from ..config import settings
from ..errors import AuthenticationError, CertificateError, ExpiredCredentialsError, S3dlioError
from ..pool.jobs import Job, Jobs, Stop, carry_out
from .transfer_ends import Sink, Source, Target, read_item
from .transfer_names import Found, Item, Refused
from .transfer_summary import TransferSummary

_MAX_BYTES: Final = 256 << 20
"""Enough for 32 parts of 8 MiB, or for 64 objects of 4 MiB."""
_MAX_THREADS: Final = 16
"""They wait for the disk: 1,000 files of 64 KiB with an fsync each took 0.65 s by one thread, 0.36 by four, 0.34 by sixteen (ext4); on a
busy disk, where an fsync takes 5 ms, those that wait together are written together."""
_LISTED_AHEAD: Final = 1000
_CONCERNS_ALL: Final = (AuthenticationError, ExpiredCredentialsError, CertificateError)
"""No object fares better, and each would be tried for as long as retries go."""


class State(NamedTuple):
    """How far a transfer is."""

    files: int
    bytes: int
    """With those that were passed over."""
    skipped: int
    failed: int
    total_files: int | None
    """None while the listing goes on."""
    total_bytes: int | None
    elapsed_s: float


class Transfer:
    """Moves what a source lists to a target."""

    def __init__(
        self,
        source: Source,
        target: Target,
        *,
        max_in_flight: int,
        skip_existing: bool,
        tell: Callable[[State], object] | None = None,
        stop: Stop | None = None,
    ) -> None:
        limits = settings()
        self._source = source
        self._target = target
        self._skip_existing = skip_existing
        self._tell = tell
        self._max_in_flight = max_in_flight
        self._max_bytes = min(_MAX_BYTES, limits.memory_bytes or _MAX_BYTES)
        self._stop = stop
        self._jobs: Jobs[Any]
        self._todo: deque[tuple[int, Item]] = deque()
        self._large: deque[_Large] = deque()
        """Objects that were begun, and are neither completed nor aborted."""
        self._is_beginning = False
        """Whether one is being begun now."""
        self._bytes_held = 0
        """What jobs under way may hold in memory."""
        self._is_listing = False
        self._is_listed = False
        self._fault: S3dlioError | None = None
        """What ends the transfer."""
        self._num_found = 0
        self._bytes_found = 0
        self._num_done = 0
        self._bytes_done = 0
        self._bytes_moved = 0
        """With the parts of objects that are not complete, and with what was passed over: how far it is."""
        self._num_skipped = 0
        self._failed: list[tuple[int, str, S3dlioError]] = []
        self._begun_s = time.monotonic()

    def run(self) -> TransferSummary:
        """Transfers all, and returns what came of it.

        Raises:
            S3dlioError: The listing failed, or the target as a whole.
        """
        try:
            with Jobs[Any](self._max_in_flight, min(_MAX_THREADS, self._max_in_flight), self._stop) as self._jobs:
                self._alone(self._target.prepare())
                # What asks for nothing ends as it begins, and makes room for more.
                while self._fill() or len(self._jobs):
                    if len(self._jobs):
                        self._jobs.poll()
                    self._show()
                self._alone(self._target.finish())
        except BaseException as error:
            carry_out([large.sink.abort() for large in self._large], error)
            raise
        finally:
            self._target.close()
        failed = tuple((uri, error) for _, uri, error in sorted(self._failed, key=lambda one: one[0]))
        return TransferSummary(
            files=self._num_done,
            bytes=self._bytes_done,
            skipped=self._num_skipped,
            failed=failed,
            seconds=time.monotonic() - self._begun_s,
        )

    def _alone(self, job: Job[None]) -> None:
        self._jobs.begin(job, self._note_fault)
        while len(self._jobs):
            self._jobs.poll()
        self._raise_fault()

    def _note_fault(self, result: S3dlioError | None) -> None:
        self._fault = result

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _show(self) -> None:
        if self._tell is not None:
            self._tell(
                State(
                    files=self._num_done,
                    bytes=self._bytes_moved,
                    skipped=self._num_skipped,
                    failed=len(self._failed),
                    total_files=self._num_found if self._is_listed else None,
                    total_bytes=self._bytes_found if self._is_listed else None,
                    elapsed_s=time.monotonic() - self._begun_s,
                )
            )

    # What is begun.

    def _fill(self) -> bool:
        """Begins what there is room for; returns whether there was any.

        There are twice as many jobs as requests: some read, some write, some are in between.
        """
        self._raise_fault()
        has_begun = False
        if not self._is_listed and not self._is_listing and len(self._todo) < _LISTED_AHEAD:
            self._is_listing = has_begun = True
            self._jobs.begin(self._source.next_page(), self._on_page)
        while not self._fault and len(self._jobs) < 2 * self._max_in_flight and (self._begin_part() or self._begin_item()):
            has_begun = True
        self._raise_fault()
        return has_begun

    def _has_room(self, num_bytes: int) -> bool:
        return not self._bytes_held or self._bytes_held + num_bytes <= self._max_bytes

    def _begin_part(self) -> bool:
        for large in self._large:
            if large.is_ready and self._has_room(large.part_bytes):
                number, start, end = large.take()
                self._bytes_held += large.part_bytes
                self._jobs.begin(large.part(number, start, end), partial(self._on_part, large, end - start))
                return True
        return False

    def _begin_item(self) -> bool:
        if not self._todo:
            return False
        item = self._todo[0][1]
        # What has no version that a later part could be held to is read at once.
        is_large = item.size > self._target.split_above_bytes and item.version is not None and not item.version.startswith("W/")
        if is_large:
            if self._is_beginning or any(large.is_ready for large in self._large):
                return False
            self._is_beginning = True
            index, item = self._todo.popleft()
            self._jobs.begin(self._begun(item), partial(self._on_begun, index, item))
        else:
            if not self._has_room(item.size):
                return False
            index, item = self._todo.popleft()
            self._bytes_held += item.size
            self._jobs.begin(self._whole(item), partial(self._on_whole, index, item))
        return True

    def _whole(self, item: Item) -> Job[bool]:
        """Transfers an object at once; returns whether it was not there already."""
        if (yield from self._is_there(item)):
            return False
        if not (yield from self._target.copy(item)):
            view = yield from read_item(item)
            yield from self._target.put(item, view.data)
        return True

    def _begun(self, item: Item) -> Job[Sink | bool]:
        """Begins an object that comes in parts; returns a bool, as `_whole`, where that is not needed."""
        if (yield from self._is_there(item)):
            return False
        if (yield from self._target.copy(item)):
            return True
        return (yield from self._target.begin(item))

    def _is_there(self, item: Item) -> Job[bool]:
        return self._skip_existing and (yield from self._target.has(item))

    # What has ended.

    def _on_page(self, page: list[Found] | S3dlioError | None) -> None:
        self._is_listing = False
        if isinstance(page, S3dlioError):
            self._fault = page
            return
        self._is_listed = page is None
        for found in self._target.arrange_rest() if page is None else self._target.arrange(page):
            self._num_found += 1
            if isinstance(found, Refused):
                self._fail(self._num_found, found.uri, found.error)
            else:
                self._bytes_found += found.size
                self._todo.append((self._num_found, found))

    def _on_whole(self, index: int, item: Item, result: bool | S3dlioError) -> None:
        self._bytes_held -= item.size
        self._count(index, item, result)

    def _on_begun(self, index: int, item: Item, result: Sink | bool | S3dlioError) -> None:
        self._is_beginning = False
        if isinstance(result, bool | S3dlioError):
            self._count(index, item, result)
        else:
            self._large.append(_Large(index, item, result))

    def _count(self, index: int, item: Item, result: bool | S3dlioError) -> None:
        if isinstance(result, S3dlioError):
            self._fail(index, item.uri, result)
        elif result:
            self._num_done += 1
            self._bytes_done += item.size
            self._bytes_moved += item.size
        else:
            self._num_skipped += 1
            self._bytes_moved += item.size

    def _fail(self, index: int, uri: str, error: S3dlioError) -> None:
        error.uri = error.uri or uri
        if isinstance(error, _CONCERNS_ALL):
            self._fault = self._fault or error
        self._failed.append((index, uri, error))

    def _on_part(self, large: _Large, num_bytes: int, result: S3dlioError | None) -> None:
        self._bytes_held -= large.part_bytes
        self._bytes_moved += num_bytes if result is None else 0
        large.end_part(result)
        if not large.num_under_way and large.error is not None:
            self._abort(large)
        elif large.is_whole:
            self._jobs.begin(large.sink.complete(), partial(self._on_complete, large))

    def _on_complete(self, large: _Large, result: S3dlioError | None) -> None:
        if result is None:
            self._large.remove(large)
            self._num_done += 1
            self._bytes_done += large.item.size
        else:
            large.error = result
            self._abort(large)

    def _abort(self, large: _Large) -> None:
        self._jobs.begin(large.sink.abort(), partial(self._on_abort, large))

    def _on_abort(self, large: _Large, result: S3dlioError | None) -> None:
        self._large.remove(large)
        assert large.error is not None
        if result is not None:
            large.error.add_note(f"what was sent of it could not be thrown away: {result}")
        self._fail(large.index, large.item.uri, large.error)


class _Large:
    """An object that comes in parts."""

    def __init__(self, index: int, item: Item, sink: Sink) -> None:
        self.index = index
        self.item = item
        self.sink = sink
        self.part_bytes = sink.part_bytes
        self.num_under_way = 0
        self.error: S3dlioError | None = None
        """Why it fails; no part is begun any more."""
        self._next = 0
        self._num_parts = -(-item.size // self.part_bytes)

    @property
    def is_ready(self) -> bool:
        """Whether a part may be begun now."""
        if self.error is not None or self._next == self._num_parts:
            return False
        return not (self.sink.is_sequential and self.num_under_way)

    @property
    def is_whole(self) -> bool:
        """Whether all parts are written."""
        return self.error is None and self._next == self._num_parts and not self.num_under_way

    def take(self) -> tuple[int, int, int]:
        """Takes the next part: its number, and the bytes [start, end) of the object that are in it."""
        number = self._next
        self._next += 1
        self.num_under_way += 1
        start = number * self.part_bytes
        return number, start, min(start + self.part_bytes, self.item.size)

    def part(self, number: int, start: int, end: int) -> Job[None]:
        """Transfers a part."""
        view = yield from read_item(self.item, start, end)
        yield from self.sink.put_part(number, start, view.data, end == self.item.size)

    def end_part(self, result: S3dlioError | None) -> None:
        """Notes the end of a part; the first error is kept."""
        self.num_under_way -= 1
        self.error = self.error or result
