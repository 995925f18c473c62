"""The demo itself: makes the data set, measures `mp_get`, trains on `Pool.fetch` with every byte checked, prints one table.

`python -P -m s3dlio.engine.cli.demo_run FOLDER SCALE GUARD_PID GUARD_PIPE`, started by `demo.py` with an environment that points at the
local S3 server. It reads the data set through that server only; FOLDER serves to put it there.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, NoReturn

import numpy as np
from rich.console import Console
from rich.table import Table

from ..errors import ChecksumMismatchError, InternalError, S3dlioError
from ..memory.view import BytesView
from ..ops.lifecycle import shutdown
from ..ops.mp_get import Progress, mp_get
from ..pool.pool import Pool
from .console import LiveProgress, print_error
from .demo_data import DemoData, Family

_PROCS = 2
_NUM_EPOCHS = 2
_REPORT_S = 0.1


class Phase(NamedTuple):
    """What one phase moved, and how long it took."""

    name: str
    num_objects: int
    num_bytes: int
    duration_s: float


def main() -> None:
    """Runs the demo, waits until its server and its folder are gone, and prints the table.

    Raises:
        SystemExit: 1 after an error, which standard error names; 128 + signal.
    """
    folder, scale, guard_pid, guard_pipe = sys.argv[1:]
    signal.signal(signal.SIGTERM, _exit_on_signal)
    with _guarded(int(guard_pid), int(guard_pipe)):
        phases = _run(folder, float(scale))
    _show(phases)


def _exit_on_signal(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def _guarded(guard_pid: int, guard_pipe: int) -> Iterator[None]:
    """Tells the guard at the end that it is the end, and waits for it: a prompt comes back when all is cleaned up."""
    try:
        yield
    finally:
        # A second Ctrl-C need not break off what is over in a moment.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(guard_pipe)
        os.waitpid(guard_pid, 0)


def _run(folder: str, scale: float) -> list[Phase]:
    try:
        # Blocked by demo.py, until here: a Ctrl-C that came meanwhile is raised by this line.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        with LiveProgress(is_log=True) as live:
            return [*_measure(DemoData(scale), folder, live)]
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except (S3dlioError, OSError) as error:
        print_error(str(error))
        raise SystemExit(1) from error
    finally:
        shutdown()


def _measure(data: DemoData, folder: str, live: LiveProgress) -> Iterator[Phase]:
    _make(data, folder, live)
    for family in (data.small, data.large):
        yield _mp_get(family, live)
    # The workers of mp_get stay warm for the next one; there is none, and two cores are few.
    shutdown()
    with Pool(procs=_PROCS) as pool:
        for epoch in range(_NUM_EPOCHS):
            yield _train(pool, data, epoch, live)


def _make(data: DemoData, folder: str, live: LiveProgress) -> None:
    with live.phase("make the data set") as report:
        counter = _Counter(len(data.expected), report)
        for num_bytes in data.write(folder):
            counter.add(num_bytes)


def _mp_get(family: Family, live: LiveProgress) -> Phase:
    name = f"mp_get {family}"
    with live.phase(name) as report:
        result = mp_get(family.uri, procs=_PROCS, progress=report)
    for failure in result["errors"]:
        raise InternalError(f"mp_get failed: {failure['error']}", uri=failure["uri"])
    if (found := result["succeeded"]) != family.num_objects:
        raise InternalError(f"mp_get found {found} of {family.num_objects} objects", uri=family.uri)
    return Phase(name, found, result["total_bytes"], result["duration_seconds"])


def _train(pool: Pool, data: DemoData, epoch: int, live: LiveProgress) -> Phase:
    """Runs one epoch in an order of its own; each object must come once, with the bytes that it was made of.

    Raises:
        ChecksumMismatchError: An object has other bytes.
        InternalError: An object came twice, or not at all.
    """
    name = f"Pool.fetch, epoch {epoch + 1}"
    order = [*data.expected]
    random.Random(epoch).shuffle(order)
    missing = set(order)
    with live.phase(name) as report:
        counter = _Counter(len(order), report)
        for uri, view in pool.fetch(order):
            assert isinstance(view, BytesView)
            if not np.array_equal(view, data.expected[uri]):
                raise ChecksumMismatchError("the bytes are not those that were written", uri=uri)
            if uri not in missing:
                raise InternalError("the object came twice in one epoch", uri=uri)
            missing.remove(uri)
            counter.add(len(view))
    if missing:
        raise InternalError(f"{len(missing)} objects did not come", uri=min(missing))
    return Phase(name, counter.num_objects, counter.num_bytes, counter.elapsed_s())


class _Counter:
    """Counts objects and bytes, and reports ten times a second."""

    def __init__(self, total_objects: int, report: Callable[[Progress], None]) -> None:
        self.num_objects = 0
        self.num_bytes = 0
        self._total_objects = total_objects
        self._report = report
        self._begun_s = time.perf_counter()
        self._next_s = 0.0

    def elapsed_s(self) -> float:
        return time.perf_counter() - self._begun_s

    def add(self, num_bytes: int) -> None:
        self.num_objects += 1
        self.num_bytes += num_bytes
        now_s = self.elapsed_s()
        if now_s >= self._next_s or self.num_objects == self._total_objects:
            self._next_s = now_s + _REPORT_S
            num = self.num_objects
            self._report(Progress(num, num, 0, self.num_bytes, self._total_objects, now_s))


def _show(phases: list[Phase]) -> None:
    table = Table(title="objects from a local S3 server (rclone) into shared memory", title_justify="left")
    table.add_column("phase")
    for name in ("objects", "MB", "seconds", "objects/s", "MB/s"):
        table.add_column(name, justify="right")
    for name, num_objects, num_bytes, duration_s in phases:
        table.add_row(
            name,
            f"{num_objects:,}",
            f"{num_bytes / 1e6:,.0f}",
            f"{duration_s:.2f}",
            f"{num_objects / duration_s:,.0f}",
            f"{num_bytes / 1e6 / duration_s:,.0f}",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print("In each epoch every object came once, shuffled, and every byte was checked.")
    console.print("The server and its data are removed.")


if __name__ == "__main__":
    main()
