"""A worker process: `python -P -m s3dlio.engine.pool.worker`. Fetches parts into the shared segment until it is told to stop.

It runs one fetch loop and nothing else: no thread of its own, no user code, no numpy, no SDK. What it is told to fetch, and where to,
comes by message; what became of it goes back in batches. It ends when told to, when its coordinator is gone (the pidfd of the parent in
the epoll set, or the end of a pipe), and never by Ctrl-C, which is the coordinator's to handle.

Why not PR_SET_PDEATHSIG: it fires when the *thread* that started the process ends.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial

from ..errors import S3dlioError, describe
from ..fetch.loop import FetchLoop
from ..memory.segment import Segment
from ..stores.registry import open_wire
from .channel import Line
from .executor import Executor
from .messages import (
    CredentialsExpired,
    Event,
    OpenStore,
    Stop,
    Welcome,
    WorkerStarted,
    decode_commands,
    decode_welcome,
    encode,
)

_BATCH_EVENTS = 16
"""Events are sent when so many wait: the coordinator is woken once for many objects."""
_GATHER_S = 0.001
_FEW_PARTS = 8
"""Or after so long; at once where nothing more has come and so few parts are under way that somebody may wait for the very one."""
_GROUP_EVENTS = 64
_GROUP_S = 0.05
"""The same while all in hand are members of batches of which others are under way here, and no connection is idle: the coordinator can do
nothing with them but count. Measured with rclone, batches of 32 x 64 KiB: see docs/decisions.md."""
_MAX_WAKE_S = 5.0
"""How often the counter moves at the least; four times as often as it is judged, where that is less."""


class WorkerLoop:
    """The state of one worker."""

    def __init__(self, welcome: Welcome) -> None:
        segment = Segment.attach(welcome.segment_fd)
        self._counters = segment.counters
        self._place = welcome.index % len(segment.counters)
        self._loop = FetchLoop(welcome.settings, welcome.jobs)
        self._executor = Executor(segment, self._loop)
        self._line = Line(welcome.index, welcome.address)
        self._events: list[Event] = [WorkerStarted(os.getpid())]
        self._expired: set[int] = set()
        """Stores whose credentials were refused as expired."""
        self._due_s = 0.0
        """When the events in hand are to be sent."""
        self._is_urgent = True
        """Whether the coordinator can do something with one of them."""
        self._is_stopping = False
        self._is_orphan = False
        self._wake_s = min(_MAX_WAKE_S, welcome.settings.worker_silence_s / 4)
        self._loop.watch(self._line.fd, _nothing)
        self._loop.watch(welcome.life_fd, self._stop_as_orphan)
        self._watch_parent(welcome.parent_pid)

    def run(self) -> None:
        """Works until it is told to stop, or the coordinator is gone."""
        self._flush()
        while not self._is_stopping:
            self._hear()
            happened = self._executor.poll(self._wait_s())
            if happened:
                self._note(self._executor.is_urgent)
            self._events += happened
            while self._expired:
                self._note(True)
                self._events.append(CredentialsExpired(self._expired.pop()))
            if self._events and (self._is_due() or (not happened and self._is_somebody_waiting())):
                self._flush()
            self._counters[self._place] += 1
        if self._is_orphan:
            self._line.remove_door()
        self._loop.close()
        self._line.close()

    def _note(self, is_urgent: bool) -> None:
        """Has what is in hand, and what comes now, sent in time."""
        due_s = time.monotonic() + (_GATHER_S if is_urgent else _GROUP_S)
        self._due_s = min(self._due_s, due_s) if self._events else due_s
        self._is_urgent = is_urgent or (self._is_urgent and bool(self._events))

    def _wait_s(self) -> float:
        """Returns how long the next poll may wait."""
        if not self._events:
            return self._wake_s
        return 0.0 if self._is_somebody_waiting() else max(0.0, self._due_s - time.monotonic())

    def _is_somebody_waiting(self) -> bool:
        return self._is_urgent and self._executor.num_parts <= _FEW_PARTS

    def _is_due(self) -> bool:
        return len(self._events) >= (_BATCH_EVENTS if self._is_urgent else _GROUP_EVENTS) or time.monotonic() >= self._due_s

    def _watch_parent(self, pid: int) -> None:
        try:
            fd = os.pidfd_open(pid)
        except OSError as error:
            # Gone already, or a sandbox refuses pidfds: then the pipe still tells.
            sys.stderr.write(f"{describe(error)}\n")
        else:
            self._loop.watch(fd, self._stop_as_orphan)
        # It may have died before it was watched, and its number may be another's by now.
        if os.getppid() != pid:
            self._stop_as_orphan()

    def _stop(self) -> None:
        self._is_stopping = True

    def _stop_as_orphan(self) -> None:
        self._is_stopping = self._is_orphan = True

    def _hear(self) -> None:
        while self._line.has_news():
            for batch in self._line.receive():
                for command in decode_commands(batch):
                    if isinstance(command, OpenStore):
                        if not self._executor.renew(command.store, command.spec):
                            self._open(command)
                    elif isinstance(command, Stop):
                        self._stop()
                    else:
                        self._executor.obey(command)

    def _open(self, command: OpenStore) -> None:
        wire = open_wire(command.spec)
        if not wire.is_local:
            wire.on_expired = partial(self._note_expired, command.store)
        self._executor.open(command.store, command.spec.root, wire)

    def _note_expired(self, store: int) -> None:
        # By whichever thread was refused; those that were refused together say so once.
        self._expired.add(store)

    def _flush(self) -> None:
        if self._line.send(encode(self._events)):
            self._events = []


def _nothing() -> None:
    """What a message does to the fetch loop: it wakes it."""


def main() -> None:
    """Reads the welcome from standard input, and works."""
    # Both are the coordinator's to handle: a Ctrl-C in the terminal reaches the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        WorkerLoop(decode_welcome(sys.stdin.buffer.read())).run()
    except S3dlioError as error:
        # The coordinator reads the last line of standard error when a worker ends with a code.
        sys.stderr.write(f"{describe(error)}\n")
        sys.exit(3)


if __name__ == "__main__":
    main()
