"""What the command line shows besides its results: the error line, and live progress, both on standard error.

Knows nothing of stores and pools. Whatever comes from outside (a key, a server's text) is escaped before it reaches a terminal (K4).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from ..text import clean

if TYPE_CHECKING:
    from ..ops.mp_get import Progress

_RATE_WINDOW_S = 1.0
"""The rates beside a bar are those of the last second: short enough to show a stall, long enough to be read."""
_BAR_CHARS = 24


def print_error(text: str) -> None:
    """Prints one line `error: ...` on standard error, red on a terminal, with newlines and control characters escaped."""
    Console(stderr=True).print(Text(f"error: {clean(text)}", style="red"), soft_wrap=True)


def print_note(text: str) -> None:
    """Prints one plain line on standard error, escaped."""
    Console(stderr=True).print(Text(clean(text)), soft_wrap=True)


class LiveProgress:
    """Bars on standard error, one for each phase, as long as the `with` lasts.

    No thread draws them: each report draws. On a pipe nothing is drawn; with `is_log` each phase leaves one line there at its end.
    """

    def __init__(self, *, is_log: bool = False) -> None:
        self._console = Console(stderr=True)
        is_drawn = self._console.file.isatty()  # rich takes a pipe for a terminal where FORCE_COLOR is set
        self._is_log = is_log and not is_drawn
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(_BAR_CHARS),
            TextColumn("{task.fields[facts]}", markup=False),
            console=self._console,
            auto_refresh=False,
            disable=not is_drawn,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    @contextmanager
    def phase(self, description: str) -> Iterator[Callable[[Progress], None]]:
        """Adds a bar and yields the function that reports to it. At the end it shows how many there were, and how long that took."""
        name = clean(description)
        past: deque[Progress] = deque()
        bar = self._bars.add_task(name, total=None, facts="")

        def report(now: Progress) -> None:
            past.append(now)
            while len(past) > 2 and now.elapsed_s - past[1].elapsed_s > _RATE_WINDOW_S:
                past.popleft()
            facts = f"{_counts(now)}{_rates(now, past[0])}"
            self._bars.update(bar, completed=now.attempted, total=now.total_objects, facts=facts)
            self._bars.refresh()

        yield report
        if past:
            last = past[-1]
            facts = f"{_counts(last)} in {last.elapsed_s:.1f} s"
            self._bars.update(bar, completed=last.attempted, total=max(1, last.attempted), facts=facts)
            self._bars.refresh()
            if self._is_log:
                self._console.print(Text(f"{name}: {facts}"), soft_wrap=True)


def _counts(now: Progress) -> str:
    total = "" if now.total_objects is None else f"/{now.total_objects:,}"
    failed = f", {now.failed:,} failed" if now.failed else ""
    return f"{now.attempted:,}{total} objects{failed}"


def _rates(now: Progress, since: Progress) -> str:
    duration_s = now.elapsed_s - since.elapsed_s
    if duration_s <= 0:
        return ""
    objects_per_s = (now.succeeded - since.succeeded) / duration_s
    bytes_per_s = (now.total_bytes - since.total_bytes) / duration_s
    return f"  {objects_per_s:,.0f}/s  {bytes_per_s / 1e6:,.0f} MB/s"
