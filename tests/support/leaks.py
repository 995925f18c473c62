"""Finds what a test leaves behind in its own process, and around it.

Owns: the snapshot of descriptors, threads, children, /dev/shm entries and socket directories, and the comparison of two of them.

Rule: a leak is what is there after a test and was not there before it, once engine and collector had their chance, less what is
named in `_is_process_global` and less the servers that outlive a test, which are started under `standing()`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

from .azurite import close_clients as close_azure_clients
from .gcs_server import close_clients as close_gcs_clients
from .remains import open_fds, path_holders, shm_entries, socket_directories
from .s3_endpoint import close_clients

SETTLE_S = 3.0
"""How long a leak is given to go away: a server's thread closes its end only after it saw ours close."""
_TICK_S = 0.01


@dataclass(frozen=True)
class Snapshot:
    """What exists at one moment, as counts, since several descriptors may link to the same thing."""

    fds: Counter[str] = field(default_factory=Counter)
    """Link targets of /proc/self/fd."""
    threads: Counter[str] = field(default_factory=Counter)
    """Live Python threads: name and ident."""
    children: Counter[psutil.Process] = field(default_factory=Counter)
    """Descendants of this process, zombies included: a child that nobody waited for is left behind too."""
    files: Counter[str] = field(default_factory=Counter)
    """Entries of /dev/shm, and socket directories."""

    def minus(self, before: Snapshot) -> Snapshot:
        """Returns what is here and was not there."""
        return Snapshot(
            self.fds - before.fds,
            self.threads - before.threads,
            self.children - before.children,
            self.files - before.files,
        )

    def and_still(self, later: Snapshot) -> Snapshot:
        """Returns what is in both."""
        return Snapshot(
            self.fds & later.fds, self.threads & later.threads, self.children & later.children, self.files & later.files
        )

    def plus(self, other: Snapshot) -> Snapshot:
        """Returns both together."""
        return Snapshot(
            self.fds + other.fds, self.threads + other.threads, self.children + other.children, self.files + other.files
        )

    def __bool__(self) -> bool:
        return any((self.fds, self.threads, self.children, self.files))

    def __str__(self) -> str:
        kinds = (("fd", self.fds), ("thread", self.threads), ("child", self.children), ("file", self.files))
        return "\n".join(f"  {kind}: {what} (x{n})" for kind, found in kinds for what, n in found.items())


_standing = Snapshot()


def take_snapshot() -> Snapshot:
    """Returns what exists now."""
    return Snapshot(
        Counter(target for fd, target in open_fds(os.getpid()).items() if not _is_process_global(fd, target)),
        Counter(f"{thread.name} ({thread.ident})" for thread in threading.enumerate()),
        Counter(child for child in psutil.Process().children(recursive=True) if not _is_tracker(child.pid)),
        Counter(shm_entries() | socket_directories()),
    )


def open_books() -> Snapshot:
    """Returns what exists now, at the beginning of a test.

    What is alive is set aside, so that the collections at the test's end look at its own objects alone: of a process that has loaded
    SDKs and frameworks each would take half a second, and all together 80 % of the suite's time.
    """
    gc.collect()
    gc.freeze()
    return take_snapshot()


def find_leaks(before: Snapshot, settle_s: float = SETTLE_S) -> Snapshot:
    """Returns what stays behind since `before`, after the engine was shut down, garbage was collected and `settle_s` passed."""
    shut_down_engine()
    close_clients()
    close_gcs_clients()
    close_azure_clients()
    if not (found := _since(before)):
        return found
    gc.collect()
    deadline = time.monotonic() + settle_s
    tick = threading.Event()
    while found and time.monotonic() < deadline:
        tick.wait(_TICK_S)
        # A thread that ended just now may have left its connections in a cycle.
        gc.collect()
        # What comes and goes meanwhile is of other programs: the tests that run beside these, say.
        found = found.and_still(_since(before))
    if found:
        # It may hang on a cycle that is older than the test.
        gc.unfreeze()
        gc.collect()
        found = found.and_still(_since(before))
    return _without_foreign_files(found)


def shut_down_engine() -> None:
    """Ends the engine's warm workers, pools and stores, if this process ever loaded the engine."""
    if "s3dlio.engine.stores.registry" in sys.modules:
        importlib.import_module("s3dlio.engine.ops.lifecycle").shutdown()


@contextlib.contextmanager
def standing() -> Iterator[None]:
    """Whatever is started within is no leak from now on: for servers that outlive the test which asked for them first."""
    global _standing
    before = take_snapshot()
    yield
    _standing = _standing.plus(take_snapshot().minus(before))


def _since(before: Snapshot) -> Snapshot:
    found = take_snapshot().minus(before)
    # What stands may be part of `before` already, or have come since; only in the second case is it still in `found`.
    return found.minus(_standing) if found else found


def _without_foreign_files(found: Snapshot) -> Snapshot:
    """Leaves out the /dev/shm entries of other programs on this machine: those that a process outside our tree holds."""
    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    held_by = {path: path_holders(path) for path in found.files}
    # What nobody holds may be gone by now: its process ended while it was looked for.
    files = Counter(
        {path: n for path, n in found.files.items() if held_by[path] & ours or (not held_by[path] and os.path.lexists(path))}
    )
    return Snapshot(found.fds, found.threads, found.children, files)


def _is_process_global(fd: int, target: str) -> bool:
    # OpenSSL and old random modules open it once for the life of the process.
    if target == "/dev/urandom":
        return True
    # The pipe to multiprocessing's resource tracker, which lives until the interpreter ends.
    return fd == _tracker_attribute("_fd")


def _is_tracker(pid: int) -> bool:
    return pid == _tracker_attribute("_pid")


def _tracker_attribute(name: str) -> object:
    module = sys.modules.get("multiprocessing.resource_tracker")
    return None if module is None else getattr(module._resource_tracker, name)
