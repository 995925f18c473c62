"""A child process under test: a script, a line protocol over its pipes, and what it leaves behind.

Owns: starting a Python script in a session of its own, talking with it, signalling it, and ending every process it started.
Processes are `psutil.Process` objects, which know a pid together with its start time, so a reused pid is never mistaken (P15).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
_TICK_S = 0.01


class ScriptProcess:
    """Runs `source` as a Python program in a new session.

    The program prints lines (`print("READY", port, flush=True)`) that the test waits for, and reads lines from its stdin. Its stdin
    ends when the test's process dies, however it dies.

    Args:
        source: The text of the program.
        args: Its `sys.argv[1:]`.
        env: Its whole environment; this process's where None.
    """

    def __init__(self, source: str, args: Sequence[str] = (), env: Mapping[str, str] | None = None) -> None:
        # A file, since nobody would read a pipe; close() closes it.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._unread = bytearray()
        self._seen: dict[int, psutil.Process] = {}
        self.popen = subprocess.Popen(
            [sys.executable, "-c", source, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=REPOSITORY,
            env=None if env is None else dict(env),
            start_new_session=True,
            bufsize=0,
        )
        self.process = psutil.Process(self.popen.pid)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def read_line(self, timeout_s: float = 30.0) -> str:
        """Returns the next line of stdout without its newline.

        Raises:
            AssertionError: None came in time, or the program ended; the text holds its stderr.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            data = self._read_some(deadline - time.monotonic())
            assert data, f"the program ended or fell silent for {timeout_s} s; its stderr:\n{self.stderr_text()}"
            self._unread += data
        line, _, rest = bytes(self._unread).partition(b"\n")
        self._unread = bytearray(rest)
        return line.decode()

    def expect(self, word: str, timeout_s: float = 30.0) -> list[str]:
        """Reads lines up to the first that begins with `word`, and returns the words after it."""
        deadline = time.monotonic() + timeout_s
        while True:
            first, *rest = self.read_line(max(0.0, deadline - time.monotonic())).split(" ")
            if first == word:
                return rest

    def send_line(self, text: str = "") -> None:
        """Writes a line to the program's stdin."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(text.encode() + b"\n")

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the program alone (not to its group)."""
        self.popen.send_signal(number)

    def send_signal_to_group(self, number: signal.Signals) -> None:
        """Sends a signal to the program's process group, as a terminal does on Ctrl-C."""
        os.killpg(self.popen.pid, number)

    def descendants(self) -> list[psutil.Process]:
        """Returns all live processes below the program, at any depth, or in its session; call it before a kill."""
        found = {p.pid: p for p in _in_session(self.popen.pid) if p.pid != self.popen.pid}
        if self.process.is_running():
            found |= {p.pid: p for p in self.process.children(recursive=True)}
        self._seen |= found
        return [p for p in found.values() if is_alive(p)]

    def wait(self, timeout_s: float = 30.0) -> int:
        """Waits for the program to end and returns its exit code; that of a death by signal n is -n."""
        return self.popen.wait(timeout_s)

    def stderr_text(self) -> str:
        """Returns what the program wrote to stderr so far."""
        return os.pread(self._stderr.fileno(), 1 << 20, 0).decode(errors="replace")

    def close(self) -> None:
        """Kills the program and every process seen below it, and closes the pipes."""
        doomed = [self.process, *self.descendants(), *self._seen.values()]
        for process in doomed:
            # It may end between the look and the kill.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout, self._stderr):
            assert pipe is not None
            pipe.close()
        left = wait_gone(doomed, 10.0)
        assert not left, f"processes survive a SIGKILL: {left}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_some(self, timeout_s: float) -> bytes:
        assert self.popen.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.popen.stdout, selectors.EVENT_READ)
            ready = selector.select(max(0.0, timeout_s))
        return os.read(self.popen.stdout.fileno(), 1 << 16) if ready else b""


def is_alive(process: psutil.Process) -> bool:
    """Says whether the process runs; a zombie does not, whoever has yet to reap it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_gone(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Waits until all have ended, at most `timeout_s`, and returns those that have not."""
    deadline = time.monotonic() + timeout_s
    tick = threading.Event()
    left = [p for p in processes if is_alive(p)]
    while left and time.monotonic() < deadline:
        tick.wait(_TICK_S)
        left = [p for p in left if is_alive(p)]
    return left


def _in_session(session: int) -> Iterable[psutil.Process]:
    for pid in psutil.pids():
        # Processes come and go while we look.
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(pid) == session:
                yield psutil.Process(pid)
