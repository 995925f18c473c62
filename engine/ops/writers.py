"""A writer of one object whose bytes come piece by piece, and which is seen whole or not at all.

Rules:

* What is short enough is one request, at `close`. Of what is longer, parts are sent from where they are: as many as a call of `write`
  brings, side by side, and it returns when they have ended. What is left over, a part at most, is kept.
* The last whole part of a call is copied and left under way, with what was kept and is a part now, while the caller makes what it writes
  next: so computing and sending overlap, for three parts of memory (`under_way.py`). Local stores, and those that take one part after the
  other, leave nothing.
* The last byte is never sent before `close`, which completes the object.
* Whatever fails ends the writer, and what was sent is thrown away: by an error, by Ctrl-C, by `abort`, and where the writer is dropped.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from ..config import settings
from ..errors import ConfigurationError, S3dlioError, rebuild_error
from ..memory.buffers import as_payload
from ..pool.inline import MAX_PARTS_IN_FLIGHT, inline_fetcher
from ..stores.base import Operation, Runner, Store, Upload, run
from .left_uploads import LeftUpload, abort_dropped
from .objects import check_key
from .perform import check_in_flight
from .under_way import UnderWay
from .uploads import put_whole, throw_away

if TYPE_CHECKING:
    from ..config import Settings

T = TypeVar("T")

_NOTHING: Final = memoryview(bytearray())

_Parts = list[tuple[int, memoryview]]

_STEPS: Final = 10
"""Parts are of one size for a tenth of what an object may have, and twice as long after that: parts of 5 MiB come to 5 TiB."""
_SHORT_BYTES: Final = 1 << 20
"""What has no more is kept where it costs least to have some memory for a moment."""


class ObjectWriter:
    """Writes one object. Threads may share it; one waits for the other then.

    Args:
        store: The object's.
        key: Of the object; what is there is replaced.
        part_bytes: Of each part, in bytes; more where the store wants more, or the object is very long. None for the setting
            `put_part_bytes`.
        max_in_flight: Parts at once.
        limits: Attempts, waits, and from how many bytes on there are parts; None for the settings in force.
        create_only: Whether the object must be new.

    Raises:
        ConfigurationError: There is no key, or a number makes no sense.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        *,
        part_bytes: int | None = None,
        max_in_flight: int = MAX_PARTS_IN_FLIGHT,
        limits: Settings | None = None,
        create_only: bool = False,
    ) -> None:
        self._left: LeftUpload | None = None
        """What becomes of the upload if the writer is dropped."""
        check_key(store.root + key, key)
        self._limits = limits or settings()
        self._part_bytes = self._limits.put_part_bytes if part_bytes is None else part_bytes
        if type(self._part_bytes) is not int or self._part_bytes < 1:
            raise ConfigurationError(f"part_bytes must be an int of at least 1, not {part_bytes!r}")
        self._store = store
        self._key = key
        self._create_only = create_only
        self._under_way = UnderWay(check_in_flight(max_in_flight), self._limits)
        self._whole_bytes = min(self._limits.multipart_above_bytes, store.max_put_bytes)
        """What is kept until it is known that there will be parts."""
        self._kept = _NOTHING
        """Memory for what is not sent yet."""
        self._left_blocks: list[memoryview] = []
        """Memory that parts are sent from while nobody waits for them."""
        self._free: list[memoryview] = []
        """Such that may be used again."""
        self._num_kept = 0
        self._num_bytes = 0
        self._upload: Upload | None = None
        self._num_parts = 0
        """That were sent."""
        self._is_closed = False
        self._error: Exception | None = None
        """Why a write has failed."""
        self._lock = threading.Lock()
        self._pid = os.getpid()
        abort_dropped()

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be written any more: it was closed or aborted, or has failed."""
        return self._is_closed

    @property
    def num_bytes(self) -> int:
        """Bytes that were written."""
        return self._num_bytes

    def write(self, data: Any) -> None:
        """Writes the bytes of anything with the buffer protocol. They may be changed when this has returned.

        Raises:
            ValueError: It was closed or aborted, has failed, or belongs to the process that this one was forked from.
            TypeError: `data` has no contiguous buffer.
            S3dlioError: As the store says. Nothing of the object is there then, and nothing more can be written.
        """
        payload = as_payload(data)
        self._check_process()
        with self._lock:
            self._check_open()
            try:
                if self._upload is None and self._num_kept + len(payload) <= self._whole_bytes:
                    self._keep(payload)
                else:
                    self._send(payload)
            except BaseException as error:
                self._fail(error)
                raise
            self._num_bytes += len(payload)

    def close(self) -> None:
        """Completes the object, which can be seen then. Does nothing where it was closed or aborted.

        Raises:
            AlreadyExistsError: There is an object, and it was to be new.
            ValueError: It belongs to the process that this one was forked from.
            S3dlioError: As the store says, or as a write that failed has said: there is no object of what was written.
        """
        self._check_process()
        with self._lock:
            if self._is_closed:
                self._raise_again()
                return
            data = self._kept[: self._num_kept]
            try:
                if self._upload is None:
                    self._run(put_whole(self._store, self._key, data, self._create_only))
                else:
                    self._under_way.begin([self._upload.put_part(self._num_parts, data, is_last=True)])
                    self._under_way.wait()
                    self._under_way.end()
                    self._run(self._upload.complete())
            except BaseException as error:
                self._fail(error)
                self._error = None
                raise
            self._end()

    def abort(self) -> None:
        """Throws away what was written; of the object nothing is seen. Does nothing where it was closed or aborted."""
        if self._pid != os.getpid():
            # A thread of the parent may have held the lock when this process was forked. What was sent is the parent's.
            self._end()
            return
        with self._lock:
            self._error = None
            if not self._is_closed:
                self._under_way.settle()
                self._throw_away(partial(inline_fetcher().run, limits=self._limits))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a writer cannot be pickled: what it has sent belongs to one process")

    def __del__(self) -> None:
        if self._left is not None:
            self._left.drop()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("the writer is closed")

    def _check_process(self) -> None:
        if self._pid != os.getpid() and not self._is_closed:
            raise ValueError("the writer belongs to the process that this one was forked from")

    def _raise_again(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    # What is kept.

    def _keep(self, payload: memoryview) -> None:
        end = self._num_kept + len(payload)
        self._make_room(end)
        self._kept[self._num_kept : end] = payload
        self._num_kept = end

    def _make_room(self, num_bytes: int) -> None:
        if len(self._kept) >= num_bytes:
            return
        if self._upload:
            kept = self._take_block(num_bytes)
        elif num_bytes <= _SHORT_BYTES:
            kept = _new_bytes(max(num_bytes, min(self._whole_bytes, _SHORT_BYTES)))
        else:
            kept = _new_block(max(num_bytes, self._whole_bytes))
        kept[: self._num_kept] = self._kept[: self._num_kept]
        self._kept = kept

    def _take_block(self, num_bytes: int) -> memoryview:
        while self._free:
            block = self._free.pop()
            if num_bytes <= len(block) <= self._part_bytes:
                return block
        return _new_block(max(num_bytes, self._part_bytes))

    # What is sent.

    def _send(self, payload: memoryview) -> None:
        """Sends what makes whole parts, and keeps the rest: a byte at least, a part at most."""
        self._under_way.check()
        upload = self._upload or self._begin()
        ours, theirs, begin, position = self._cut(upload, payload)
        if ours or theirs:
            can_leave = not (upload.is_sequential or self._store.wire.is_local)
            last = theirs.pop() if can_leave and theirs else None
            self._under_way.begin(_put(upload, theirs if can_leave else ours + theirs))
            self._under_way.wait()
            self._free += self._left_blocks
            self._left_blocks.clear()
            kept, num_rest = self._kept, self._num_kept - begin
            if can_leave and ours:
                self._leave(upload, ours, kept)
                self._kept = _NOTHING
            if last is not None:
                number, data = last
                block = self._take_block(len(data))
                block[: len(data)] = data
                self._leave(upload, [(number, block[: len(data)])], block)
            self._num_kept = 0
            self._keep(kept[begin : begin + num_rest])
        self._keep(payload[position:])

    def _leave(self, upload: Upload, parts: _Parts, block: memoryview) -> None:
        self._under_way.leave(_put(upload, parts))
        if len(block) <= self._part_bytes:
            self._left_blocks.append(block)

    def _begin(self) -> Upload:
        upload = self._run(self._store.begin_upload(self._key, self._create_only))
        self._upload = upload
        self._left = LeftUpload(upload, self._store.root + self._key, self._under_way)
        least = upload.min_part_bytes
        wanted = max(self._part_bytes, least)
        if upload.is_sequential:
            self._part_bytes = -(-wanted // least) * least
            self._under_way.max_in_flight = 1
        else:
            self._part_bytes = wanted
        return upload

    def _cut(self, upload: Upload, payload: memoryview) -> tuple[_Parts, _Parts, int, int]:
        """Cuts parts out of what is kept and of `payload` behind it.

        Returns:
            Those in the writer's own memory, those of `payload`, and how far the two have come.
        """
        ours: _Parts = []
        theirs: _Parts = []
        begin = position = 0
        while self._num_kept - begin + len(payload) - position > self._part_bytes:
            if begin < self._num_kept:
                end = begin + self._part_bytes
                missing = max(0, end - self._num_kept)
                self._keep(payload[position : position + missing])
                position += missing
                ours.append((self._num_parts, self._kept[begin:end]))
                begin = end
            else:
                theirs.append((self._num_parts, payload[position : position + self._part_bytes]))
                position += self._part_bytes
            self._num_parts += 1
            if self._num_parts % max(1, upload.max_parts // _STEPS) == 0:
                self._part_bytes *= 2
        return ours, theirs, begin, position

    # The end.

    def _end(self) -> None:
        self._is_closed = True
        self._upload = None
        self._kept = _NOTHING
        self._left_blocks.clear()
        self._free.clear()
        self._num_kept = 0
        if self._left is not None:
            self._left.forget()
            self._left = None

    def _fail(self, error: BaseException) -> None:
        # A copy: the frames that the error came through hold this writer, and what was to be written.
        if isinstance(error, S3dlioError):
            self._error = rebuild_error(error.to_info())
        else:
            self._error = ValueError("writing was interrupted, and nothing of the object is there")
        try:
            self._under_way.hang_up(GeneratorExit() if isinstance(error, S3dlioError) else error)
        finally:
            self._throw_away(inline_fetcher().runner_of_last_requests(error))

    def _throw_away(self, runner: Runner) -> None:
        upload, left = self._upload, self._left
        try:
            if upload is not None and (left is None or left.forget()):
                run(throw_away(upload, self._store.root + self._key), runner)
        finally:
            self._end()

    def _run(self, operation: Operation[T]) -> T:
        return run(operation, partial(inline_fetcher().run, limits=self._limits))


def _put(upload: Upload, parts: _Parts) -> Iterator[Operation[None]]:
    return (upload.put_part(number, data, is_last=False) for number, data in parts)


def _new_bytes(num_bytes: int) -> memoryview:
    """Returns memory that costs what is written to it: a bytearray would be filled with zeros, of this the system gives pages as needed."""
    # Here, since numpy is heavy.
    import numpy as np

    return np.empty(num_bytes, np.uint8).data


def _new_block(num_bytes: int) -> memoryview:
    """Returns memory for parts, which goes back to the system: what `malloc` was given back in the middle of its own is kept by it."""
    from ..memory.view import private_view

    return private_view(num_bytes).data
