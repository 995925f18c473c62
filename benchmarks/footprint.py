"""Peak memory of a fetch through a capped pool, summed over all its processes.

Owns the sampling, from outside the measured processes. PSS counts a page that several processes map once in the sum; pages of the
segment that no process has touched yet are in no PSS, so the segment's own size is sampled too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .contenders._clock import descendants

_INTERVAL_S = 0.02


@dataclass
class Peak:
    """The highest values seen."""

    pss_bytes: int = 0
    """Of the process and its descendants together."""
    segment_bytes: int = 0
    """Pages that the process's memfds (or unlinked `/dev/shm` files) hold."""
    held_bytes: int = 0
    """The highest sum of the two, where a page of the segment counts once, whether or not a process has touched it."""
    num_processes: int = 0
    num_samples: int = 0

    def take(self, pid: int) -> None:
        """Samples once."""
        pids = [pid, *descendants(pid)]
        rollups = [_rollup(one) for one in pids]
        pss, shared = (sum(rollup.get(name, 0) for rollup in rollups) for name in ("Pss", "Pss_Shmem"))
        segment = _segment_bytes(pid)
        self.pss_bytes = max(self.pss_bytes, pss)
        self.segment_bytes = max(self.segment_bytes, segment)
        self.held_bytes = max(self.held_bytes, pss + max(0, segment - shared))
        self.num_processes = max(self.num_processes, len(pids))
        self.num_samples += 1


@contextmanager
def sampled(pid: int) -> Iterator[Peak]:
    """Samples `pid` and its descendants every 20 ms while the `with` block runs."""
    peak, stop = Peak(), threading.Event()

    def sample() -> None:
        while not stop.wait(_INTERVAL_S):
            peak.take(pid)

    thread = threading.Thread(target=sample, name="footprint")
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _rollup(pid: int) -> dict[str, int]:
    """Returns what the kernel sums up of a process's memory, in bytes; nothing of one that ended since it was listed."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: int(size.split()[0]) * 1024 for name, _, size in (line.partition(":") for line in lines)}


def _segment_bytes(pid: int) -> int:
    found: dict[int, int] = {}
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            if os.readlink(link).startswith(("/memfd:", "/dev/shm/")):
                status = os.stat(link)
                found[status.st_ino] = status.st_blocks * 512
        except FileNotFoundError:
            continue
    return sum(found.values())
