"""A bar on standard error that shows how far a transfer is. Drawn by the transfer itself, a few times a second; no thread."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from ..text import clean
from .transfer_run import State

_EVERY_S: Final = 0.1


class TransferBar:
    """As long as the `with` lasts. On a pipe nothing is drawn."""

    def __init__(self, title: str) -> None:
        # rich takes as long to import as all that a transfer without a bar needs.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        console = Console(stderr=True)
        self._next_s = 0.0
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[files]}", markup=False),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            disable=not console.file.isatty(),  # rich takes a pipe for a terminal where FORCE_COLOR is set
        )
        self._task = self._bars.add_task(clean(title), total=None, files="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.refresh()
        self._bars.stop()

    def tell(self, state: State) -> None:
        """Shows how far it is."""
        total = "" if state.total_files is None else f"/{state.total_files:,}"
        files = f"{state.files + state.skipped:,}{total} files"
        if state.failed:
            files += f", {state.failed:,} failed"
        self._bars.update(self._task, completed=state.bytes, total=state.total_bytes, files=files)
        if state.elapsed_s >= self._next_s:
            self._next_s = state.elapsed_s + _EVERY_S
            self._bars.refresh()
