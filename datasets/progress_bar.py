"""A bar on standard error that shows how far an epoch is, and how much of the time the loop waits for data."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .waiting import Waiting

_EVERY_S: Final = 0.2


class ProgressBar:
    """Drawn by the loop itself, a few times a second; no thread. On a pipe nothing is drawn."""

    def __init__(self, title: str, total: int | None, waiting: Waiting) -> None:
        """Draws the empty bar.

        Args:
            title: What is read.
            total: Samples of this process; None where nobody knows.
            waiting: What is counted.
        """
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._waiting = waiting
        self._num = 0
        self._next_s = 0.0
        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.completed}/{task.total} samples, {task.fields[facts]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            disable=not console.file.isatty(),  # rich takes a pipe for a terminal where FORCE_COLOR is set
        )
        self._task = self._bars.add_task(title, total=total, facts="")
        self._bars.start()

    def add(self, num: int) -> None:
        """Counts samples as delivered."""
        self._num += num
        now_s = time.perf_counter()
        if now_s >= self._next_s:
            self._next_s = now_s + _EVERY_S
            self._draw()

    def _draw(self) -> None:
        found = self._waiting.summary()
        facts = f"{found['samples_per_s']:,.0f}/s, {found['bytes_per_s'] / 2**20:,.0f} MiB/s, waiting {found['waited_share']:.0%}"
        self._bars.update(self._task, completed=self._num, facts=facts)
        self._bars.refresh()

    def close(self) -> None:
        """Draws the last state and leaves it there."""
        self._draw()
        self._bars.stop()
