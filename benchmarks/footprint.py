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
    num_processes: int = 0
    num_samples: int = 0

    def take(self, pid: int) -> None:
        """Samples once."""
        pids = [pid, *descendants(pid)]
        self.pss_bytes = max(self.pss_bytes, sum(_pss_bytes(one) for one in pids))
        self.segment_bytes = max(self.segment_bytes, _segment_bytes(pid))
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


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        # It ended since it was listed.
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


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
