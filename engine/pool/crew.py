"""The worker processes of one pool: starting, talking to, missing and ending them.

A worker is identified by its pidfd from the first moment to the last, so a recycled process number is never watched or killed. It is
started (never forked from this process's state) with four things: the segment's descriptor, the read end of a pipe that ends when this
process does, its settings on standard input, and an environment without credentials. Standard error goes to a memfd of its own, whose
tail explains a death.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ..config import child_environment
from ..errors import UnsupportedError, WorkerLostError, describe
from .channel import Hub
from .messages import Command, Event, Stop, Welcome, WorkerStarted, decode_events, encode

if TYPE_CHECKING:
    from ..config import Settings
    from ..memory.segment import Segment

_TAIL_BYTES = 2048
_MAX_COMMANDS = 1024
"""Commands in one message: of 4.2 KB each, with the longest path there can be, they are a quarter of the longest message."""
_MAX_BATCHES = 1000
"""Read at once: a worker that talks without end does not keep its coordinator from everything else (S4)."""
_NOTHING = encode([])
_LAST_WORDS_S = 0.5
"""How long one that hears nothing any more may take to end, before it is killed."""
_FAREWELL_S = 1.0
"""How long a worker may take to stop by itself before it is killed."""


class WorkerDied(NamedTuple):
    """A process has ended: nothing writes for it any more."""

    worker: int
    reason: str
    """`killed by SIGSEGV`, `exited with code 3: ...`."""


class Reported(NamedTuple):
    """A batch of a worker's events."""

    worker: int
    events: list[Event]


class _Member:
    """One process."""

    __slots__ = ("fault", "index", "is_over", "is_started", "pidfd", "process", "started_s", "stderr_fd")

    def __init__(self, index: int, process: subprocess.Popen[bytes], stderr_fd: int, pidfd: int) -> None:
        self.index = index
        self.process = process
        self.stderr_fd = stderr_fd
        self.pidfd = pidfd
        self.fault = ""
        """Why it was killed from here, if it was."""
        self.started_s = time.monotonic()
        self.is_started = False
        self.is_over = False
        """Whether its process has ended, but was not buried yet."""


class Crew:
    """Starts workers, carries commands to them and events from them, and notices their deaths."""

    def __init__(self, settings: Settings, jobs: int, segment: Segment) -> None:
        """Starts nobody yet.

        Raises:
            UnsupportedError: The kernel has no pidfds.
            WorkerLostError: This process has no descriptors left.
        """
        if not hasattr(os, "pidfd_open"):
            raise UnsupportedError("worker processes need pidfd_open (Linux 5.3); use procs=0")
        self._settings = settings
        self._jobs = jobs
        self._segment = segment
        with contextlib.ExitStack() as stack:
            try:
                self._hub = Hub()
                stack.callback(self._hub.close)
                self._epoll = stack.enter_context(select.epoll())
                self._epoll.register(self._hub.fd, select.EPOLLIN)
                self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
                stack.callback(os.close, self._wake_fd)
                self._epoll.register(self._wake_fd, select.EPOLLIN)
                self._life_read, self._life_write = os.pipe2(os.O_CLOEXEC)
            except OSError as error:
                raise WorkerLostError("no worker process can be started", cause=describe(error)) from error
            stack.pop_all()
        self._members: dict[int, _Member] = {}
        self._by_pidfd: dict[int, _Member] = {}
        self._num_started = 0
        self._has_looked = False
        """Whether a wait has looked for deaths since the last `poll`."""

    @property
    def indices(self) -> list[int]:
        """The workers that live."""
        return [*self._members]

    def start(self, num: int) -> None:
        """Starts `num` more processes; they report `WorkerStarted` when they are ready.

        Raises:
            WorkerLostError: The system refuses to start one; those that were started before stay.
        """
        try:
            address, fds = self._hub.open_door()
            for _ in range(num):
                self._start_one(address, fds)
        except OSError as error:
            self._close_door_if_all_in()
            raise WorkerLostError("a worker process could not be started", cause=describe(error)) from error

    def send(self, worker: int, commands: list[Command]) -> None:
        """Queues commands; for a worker that is dying they are lost, and its death will say so."""
        # All parts of a dead worker may go to one other at once; ZeroMQ drops the peer of a message that is too long.
        for start in range(0, len(commands), _MAX_COMMANDS):
            if not self._hub.send(worker, encode(commands[start : start + _MAX_COMMANDS])):
                self._give_up(worker)

    def check_line(self, worker: int) -> None:
        """Says nothing to a worker: where a connection is broken, though both ends live, only a send tells."""
        if self._members[worker].is_started and not self._hub.send(worker, _NOTHING):
            self._give_up(worker)

    def _give_up(self, worker: int) -> None:
        """Nothing can be sent to a worker: dead, most likely, or about to say of what, which takes it a moment.

        A living one to which nothing gets through must not keep its parts.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._members[worker].process.wait(_LAST_WORDS_S)
            return
        self.kill(worker, "nothing could be sent to it")

    def poll(self) -> Iterator[Reported | WorkerDied]:
        """Yields what has happened, without waiting: what was said, and then who has died."""
        if self._has_looked:
            # Whoever waited has just looked, and who dies from now on ends the next wait.
            self._has_looked = False
        else:
            self._note_deaths(self._epoll.poll(0))
        yield from self._receive()
        deaths = [member for member in self._members.values() if member.is_over and member.process.poll() is not None]
        if deaths:
            # What it had said before it died may have arrived since.
            yield from self._receive()
        for member in deaths:
            yield self._bury(member)

    def has_news(self) -> bool:
        """Whether `poll` would have something; to be asked before `wait`, or a wake-up is lost."""
        return not self._hub.is_armed and self._hub.has_news()

    def wait(self, timeout_s: float) -> None:
        """Waits until something happens, at most `timeout_s`. Needs no lock: it touches nothing but the epoll set."""
        events = self._epoll.poll(timeout_s)
        self._note_deaths(events)
        self._has_looked = True
        if any(fd == self._wake_fd for fd, _ in events):
            # Several threads may have been woken by one call; the first takes it.
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)

    def _note_deaths(self, events: list[tuple[int, int]]) -> None:
        for fd, _ in events:
            member = self._by_pidfd.get(fd)
            if member is not None:
                member.is_over = True

    def wake(self, num: int) -> None:
        """Ends a `wait` of another thread."""
        os.eventfd_write(self._wake_fd, num)

    def _receive(self) -> Iterator[Reported]:
        for worker, batch in islice(self._hub.receive(), _MAX_BATCHES):
            member = self._members.get(worker)
            if member is not None and (events := self._read(member, batch)):
                yield Reported(worker, events)

    def _read(self, member: _Member, batch: bytes) -> list[Event]:
        """Returns a batch of events. Whoever sends what is none is broken, and is killed: its parts are for others to fetch."""
        try:
            events = decode_events(batch)
        except msgspec.DecodeError as error:
            self.kill(member.index, f"it sent what is no message ({describe(error)})")
            return []
        if member.is_started:
            return [event for event in events if not isinstance(event, WorkerStarted)]
        if events and isinstance(events[0], WorkerStarted):
            member.is_started = True
            self._close_door_if_all_in()
            return events
        return []

    def _close_door_if_all_in(self) -> None:
        if all(member.is_started for member in self._members.values()):
            self._hub.close_door()

    def progress(self, worker: int) -> int:
        """The turns of the worker's loop, read from shared memory: they go on as long as it lives and has work."""
        return self._segment.counters[worker % len(self._segment.counters)]

    def starting_for_s(self, worker: int) -> float | None:
        """How long a worker has been starting; None once it has started."""
        member = self._members[worker]
        return None if member.is_started else time.monotonic() - member.started_s

    def kill(self, worker: int, why: str) -> None:
        """Kills a worker that is of no use; its death comes out of `poll`, and says why."""
        member = self._members.get(worker)
        if member is not None:
            member.fault = member.fault or why
            _signal(member, signal.SIGKILL)

    def close(self) -> None:
        """Ends all workers, by word and then by force, and closes everything."""
        for index in self._members:
            self._hub.send(index, encode([Stop()]))
        self._close_life()
        deadline = time.monotonic() + _FAREWELL_S
        try:
            for member in self._members.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    member.process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            # Also where a second Ctrl-C has cut the farewell short.
            for member in [*self._members.values()]:
                _signal(member, signal.SIGKILL)
                self._bury(member)
            self._hub.close()
            self._epoll.close()
            os.close(self._wake_fd)

    def _close_life(self) -> None:
        os.close(self._life_read)
        os.close(self._life_write)

    def abandon(self) -> None:
        """In a forked child: lets go of the one thing that the parent's workers wait for, and touches nothing else."""
        os.close(self._life_write)

    def _start_one(self, address: str, fds: tuple[int, ...]) -> None:
        index = self._num_started
        self._num_started += 1
        welcome = Welcome(
            index, address, self._segment.fd, self._life_read, os.getpid(), self._settings, self._jobs
        )
        stderr_fd = os.memfd_create("s3dlio-stderr", os.MFD_CLOEXEC)
        try:
            # -P: the user's directory must not shadow modules. A group of its own: the terminal's Ctrl-C is not for it.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "s3dlio.engine.pool.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr_fd,
                env=child_environment(),
                pass_fds=(self._segment.fd, self._life_read, *fds),
                process_group=0,
            )
        except BaseException:
            os.close(stderr_fd)
            raise
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(encode(welcome))
            pidfd = os.pidfd_open(process.pid)
        except BaseException:
            # It is not in the books yet, so nobody else would end it. Not waited for until now, its number is still its own.
            process.kill()
            process.wait()
            os.close(stderr_fd)
            raise
        member = self._members[index] = _Member(index, process, stderr_fd, pidfd)
        self._by_pidfd[pidfd] = member
        self._epoll.register(pidfd, select.EPOLLIN)
        self._segment.counters[index % len(self._segment.counters)] = 0

    def _bury(self, member: _Member) -> WorkerDied:
        code = member.process.wait()
        tail = _tail(member.stderr_fd)
        self._epoll.unregister(member.pidfd)
        os.close(member.pidfd)
        os.close(member.stderr_fd)
        del self._members[member.index], self._by_pidfd[member.pidfd]
        self._close_door_if_all_in()
        reason = f"killed by {_signal_name(-code)}" if code < 0 else f"exited with code {code}"
        why = member.fault if member.fault and code == -signal.SIGKILL else tail
        return WorkerDied(member.index, f"{reason}: {why}" if why else reason)


def _signal(member: _Member, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(member.pidfd, number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tail(fd: int) -> str:
    """Returns the last line of what a worker wrote to standard error."""
    size = os.fstat(fd).st_size
    text = os.pread(fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode("utf-8", "replace").strip()
    return text.splitlines()[-1] if text else ""


