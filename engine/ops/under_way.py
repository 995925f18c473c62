"""Parts of one upload that are on their way, also while their writer does something else.

They have a fetch loop of their own for as long as there are any. The writer moves it in `begin` and `wait`, and in between a thread does,
which `leave` gives it to: the loop has one driver at any time.

Rules:

* What a part is sent from stays as it is until the part has ended: that is for the caller to see to.
* An error of a part is raised by the next call, and nothing goes on after one: the caller ends all of it by `hang_up`.
* The thread begins with the first `leave`, and ends with `end` or `hang_up`. A forked child has none, and touches nothing of its
  parent's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from ..errors import S3dlioError
from ..fetch.request import Fetch
from ..pool.inline import InlineFetcher, inline_fetcher
from ..stores.base import Operation, advance, give_up

if TYPE_CHECKING:
    from ..config import Settings
    from ..fetch.loop import FetchLoop

_SETTLING_S: Final = 2.0
"""How long somebody who throws an upload away waits for its parts: one that a store has wholly received may be kept, and cost money, if it
arrives behind the abort."""


class UnderWay:
    """The parts of one upload. One caller at a time.

    Args:
        max_in_flight: Parts at once.
        limits: Attempts and waits.
    """

    def __init__(self, max_in_flight: int, limits: Settings) -> None:
        self.max_in_flight = max_in_flight
        self._limits = limits
        self._todo: deque[Operation[None]] = deque()
        """Those that are not begun yet."""
        self._operations: dict[Fetch, Operation[None]] = {}
        """By the request that each waits for."""
        self._loop: FetchLoop | None = None
        self._fetcher: InlineFetcher | None = None
        """Who the loop belongs to."""
        self._thread: threading.Thread | None = None
        self._orders: SimpleQueue[bool] = SimpleQueue()
        """Tells the thread that the loop is its own now, or that it is to end."""
        self._returns: SimpleQueue[None] = SimpleQueue()
        """Wakes who waits for the loop."""
        self._is_left = False
        """Whether the thread has the loop."""
        self._is_wanted = False
        """Whether it is to give it back before all have ended."""
        self._error: BaseException | None = None
        """What the thread has met with."""
        self._lock = threading.Lock()
        """Held by whoever is in a call."""

    def begin(self, operations: Iterable[Operation[None]]) -> None:
        """Begins operations one after the other, each when there is room for it; returns when the last one is begun.

        Raises:
            S3dlioError: Of any of those that are under way.
        """
        with self._lock:
            self._take_over()
            self._raise_error()
            self._todo.extend(operations)
            while self._todo:
                self._step()

    def wait(self) -> None:
        """Returns when all have ended.

        Raises:
            S3dlioError: Of any of them.
        """
        with self._lock:
            self._take_over()
            self._raise_error()
            while self._todo or self._operations:
                self._step()
            self._give_back()

    def leave(self, operations: Iterable[Operation[None]]) -> None:
        """Has the thread begin operations, and go on with all that is under way until the next call."""
        with self._lock:
            if self._is_left:
                # If the thread gives the loop back at this moment, they wait for the next call.
                self._todo.extend(operations)
                assert self._loop is not None
                self._loop.wake()
                return
            self._todo.extend(operations)
            if self._error is not None or not (self._todo or self._operations):
                return
            (self._loop or self._borrow()).listen()
            if self._thread is None:
                self._thread = threading.Thread(target=self._help, name="s3dlio-parts", daemon=True)
                self._thread.start()
            self._is_left, self._is_wanted = True, False
            self._orders.put(True)

    def check(self) -> None:
        """Raises what has failed by now.

        Raises:
            S3dlioError: Of any of those that are under way.
        """
        if self._error is not None:
            self.wait()

    def settle(self) -> None:
        """As `hang_up`, but for those that end by themselves within a moment. Errors are left out.

        Of parts that another thread waits for nothing is done: that may be so at the end of the interpreter.
        """
        if not self._lock.acquire(blocking=False):
            return
        until_s = time.monotonic() + _SETTLING_S
        try:
            self._take_over()
            while self._operations and (left_s := until_s - time.monotonic()) > 0:
                with suppress(S3dlioError):
                    self._move(left_s)
        finally:
            self._lock.release()
            self.hang_up(GeneratorExit())

    def hang_up(self, why: BaseException) -> None:
        """Ends what is under way, because of `why`: connections are closed, and what was sent of a part counts for nothing."""
        self.end()
        loop, self._loop = self._loop, None
        operations, self._operations = self._operations, {}
        self._todo.clear()
        if loop is not None:
            _loops.discard(loop)
            loop.close()
        runner = inline_fetcher().runner_of_last_requests(why)
        for operation in operations.values():
            give_up(operation, why, runner)

    def end(self) -> None:
        """Ends the thread."""
        self._take_over()
        thread, self._thread = self._thread, None
        if thread is not None:
            self._orders.put(False)
            thread.join()

    # The thread.

    def _help(self) -> None:
        while self._orders.get():
            try:
                while (self._todo or self._operations) and not self._is_wanted:
                    self._step()
            except BaseException as error:  # noqa: BLE001 (raised by the next call)
                # Without the frames that it came through: they hold what is sent.
                self._error = error.with_traceback(None)
            self._is_left = False
            self._returns.put(None)

    def _take_over(self) -> None:
        """Has the thread give the loop back, for which it waits only as long as it computes."""
        self._is_wanted = True
        # Not by the number of returns: Ctrl-C may come behind one that was taken.
        while self._is_left:
            assert self._loop is not None
            self._loop.wake()
            self._returns.get()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    # The loop.

    def _step(self) -> None:
        """Begins an operation where there is room, else waits for something to happen."""
        if self._todo and len(self._operations) < self.max_in_flight:
            self._go_on(self._todo.popleft(), None)
        else:
            self._move(None)

    def _move(self, timeout_s: float | None) -> None:
        assert self._loop is not None
        first: S3dlioError | None = None
        for fetch in self._loop.poll(timeout_s):
            error, fetch.error = fetch.error, None
            try:
                self._go_on(self._operations.pop(fetch), fetch if error is None else error)
            except S3dlioError as failed:
                first = first or failed
        if first is not None:
            try:
                raise first
            finally:
                # Or the traceback, which keeps this frame, and the frame would keep each other, and what the caller wrote from.
                del first

    def _go_on(self, operation: Operation[None], done: Fetch | S3dlioError | None) -> None:
        step = advance(operation, done)
        if isinstance(step, Fetch):
            self._operations[step] = operation
            (self._loop or self._borrow()).submit(step)
        elif isinstance(step.result, S3dlioError):
            raise step.result

    def _borrow(self) -> FetchLoop:
        self._fetcher = inline_fetcher()
        self._loop = loop = self._fetcher.borrow(self.max_in_flight, self._limits)
        _loops.add(loop)
        return loop

    def _give_back(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None and self._fetcher is not None:
            _loops.discard(loop)
            self._fetcher.take_back(loop)


_loops: set[FetchLoop] = set()
"""Those of all that there are. A forked child has those of its parent here for ever, so that nothing closes them, and touches none."""
