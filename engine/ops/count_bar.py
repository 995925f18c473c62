"""A line on standard error that counts what a long call has done. On a pipe nothing is drawn."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, Self

_EVERY_S: Final = 0.2


class CountBar:
    """Drawn by the caller itself, a few times a second, as long as the `with` lasts; no thread."""

    def __init__(self, title: str, *, is_wanted: bool) -> None:
        """Prepares the line; `title` says what is counted, as "deleted"."""
        self._title = title
        self._is_drawn = is_wanted and sys.stderr.isatty()
        self._next_s = 0.0
        self._num = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_drawn:
            self._draw("\n")

    def add(self, num: int) -> None:
        """Counts."""
        self._num += num
        now_s = time.monotonic()
        if self._is_drawn and now_s >= self._next_s:
            self._next_s = now_s + _EVERY_S
            self._draw("")

    def _draw(self, end: str) -> None:
        sys.stderr.write(f"\r{self._title}: {self._num:,}{end}")
        sys.stderr.flush()
