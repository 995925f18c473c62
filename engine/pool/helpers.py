"""Threads that do what blocks for one caller: started as needed, ended with the call.

They are daemons, since `concurrent.futures` would refuse work, with a word, to a daemon thread that is in the middle of a call when the
interpreter ends.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import InsufficientMemoryError


class Work:
    """What a thread is to do."""

    __slots__ = ("call", "error", "result")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.result: Any = None
        self.error: BaseException | None = None
        """What `call` raised; no thread lets anything through."""


class Helpers:
    """The threads of one caller, who alone calls these methods."""

    def __init__(self, max_threads: int, wake: Callable[[], None]) -> None:
        """Starts none yet.

        Args:
            max_threads: How many there may be.
            wake: Called by a thread that has done something.
        """
        self._max_threads = max_threads
        self._wake = wake
        self._threads: list[threading.Thread] = []
        self._todo: SimpleQueue[Work | None] = SimpleQueue()
        self._done: deque[Work] = deque()
        self._num_busy = 0
        """Work that was given, and not taken back."""

    @property
    def has_done(self) -> bool:
        """Whether there is something to take."""
        return bool(self._done)

    def give(self, work: Work) -> None:
        """Has `work` done soon.

        Raises:
            InsufficientMemoryError: There is no thread, and the system refuses to start one.
        """
        if self._num_busy >= len(self._threads) < self._max_threads:
            thread = threading.Thread(target=_serve, args=(self._todo, self._done, self._wake), name="s3dlio-work", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                if not self._threads:
                    raise InsufficientMemoryError("no thread can be started; raise `ulimit -u`", cause=str(error)) from None
            else:
                self._threads.append(thread)
        self._num_busy += 1
        self._todo.put(work)

    def take(self) -> Work | None:
        """Returns work that is done, or None."""
        if not self._done:
            return None
        self._num_busy -= 1
        return self._done.popleft()

    def end(self) -> None:
        """Returns when no thread does anything any more; what none has begun is never done."""
        with suppress(Empty):
            while True:
                self._todo.get_nowait()
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join()


def _serve(todo: SimpleQueue[Work | None], done: deque[Work], wake: Callable[[], None]) -> None:
    while (work := todo.get()) is not None:
        try:
            work.result = work.call()
        except BaseException as error:  # noqa: BLE001 (raised by whoever takes it)
            work.error = error
        done.append(work)
        del work
        wake()
