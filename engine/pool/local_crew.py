"""A crew of one without a process: the inline pool's, and the coordinator's own for stores that no other process can read."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..fetch.loop import FetchLoop
from .crew import Reported, WorkerDied
from .executor import Executor
from .messages import Command, Event, WorkerStarted

if TYPE_CHECKING:
    from ..config import Settings
    from ..memory.segment import Segment


class LocalCrew:
    """Does what `Crew` does, in this process and in the caller's thread."""

    def __init__(self, settings: Settings, jobs: int, segment: Segment) -> None:
        self._loop = FetchLoop(settings, jobs)
        self._executor = Executor(segment, self._loop)
        # An epoll set, since several threads may wait in it at once; a poll object refuses that.
        self._epoll = select.epoll()
        self._epoll.register(self._loop.fileno(), select.EPOLLIN)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._due_s = 0.0
        """When the loop must be looked at, whatever the sockets say."""
        self._waited_s: deque[float] = deque()
        """What threads have waited since the last look, which the loop's clock must know; they waited side by side."""
        self._greeting: list[Event] = []

    @property
    def indices(self) -> list[int]:
        """The one worker."""
        return [0]

    def start(self, num: int) -> None:
        """Makes the worker ready."""
        self._greeting = [WorkerStarted(0)]

    def open(self, store: int, root: str, wire: Any) -> None:
        """Makes a store known under its number."""
        self._executor.open(store, root, wire)

    def send(self, worker: int, commands: list[Command]) -> None:
        """Carries commands out, or begins to."""
        for command in commands:
            self._executor.obey(command)
        self._loop.start()

    def poll(self) -> Iterator[Reported | WorkerDied]:
        """Yields what has happened, without waiting."""
        if self._greeting:
            yield Reported(0, self._greeting)
            self._greeting = []
        if self._waited_s:
            self._loop.note_wait(max(self._waited_s))
            self._waited_s.clear()
        events = self._executor.poll(0)
        self._due_s = time.monotonic() + self._loop.wait_s(None)
        if events:
            yield Reported(0, events)

    def has_news(self) -> bool:
        """Whether `poll` would have something."""
        return bool(self._greeting) or self._loop.has_work

    def wait(self, timeout_s: float) -> None:
        """Waits until a socket is ready or a retry is due, at most `timeout_s`. Needs no lock: it does not touch the loop."""
        begun_s = time.monotonic()
        due_in_s = max(0.0, self._due_s - begun_s)
        for fd, _ in self._epoll.poll(min(timeout_s, due_in_s)):
            if fd == self._wake_fd:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
        self._waited_s.append(time.monotonic() - begun_s)

    def wake(self, num: int) -> None:
        """Ends a `wait` of another thread."""
        os.eventfd_write(self._wake_fd, num)

    def progress(self, worker: int) -> int:
        """It cannot hang without its caller hanging."""
        return 0

    def starting_for_s(self, worker: int) -> None:
        """It starts at once."""

    def check_line(self, worker: int) -> None:
        """There is none."""

    def kill(self, worker: int, why: str) -> None:
        """Never asked for, since it never hangs."""

    def close(self) -> None:
        """Closes connections."""
        self._epoll.close()
        os.close(self._wake_fd)
        self._loop.close()

    def abandon(self) -> None:
        """In a forked child: nothing to let go of."""
