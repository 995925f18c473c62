"""Writes to local disks in threads, beside the requests that the caller drives: each waits for an fsync, and many wait at once."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from ..errors import S3dlioError
from ..pool.inline import inline_fetcher
from ..stores.base import Operation, run

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

_MAX_THREADS: Final = 8
"""500 files of 64 KiB, each with fsync: 3.6 to 4.8 s in one thread, 0.5 s in six."""


class Beside:
    """Operations on local stores under way in threads. Whoever leaves the `with` by an error waits for those that have begun."""

    def __init__(self, max_at_once: int, on_end: Callable[[int, Any], None]) -> None:
        """Starts no thread before there is work.

        Args:
            max_at_once: Operations at once.
            on_end: Told of each, in the caller's thread.
        """
        self._max = min(max_at_once, _MAX_THREADS)
        self._on_end = on_end
        self._threads: ThreadPoolExecutor | None = None
        self._under_way: dict[Future[Any], int] = {}

    def begin(self, number: int, operation: Operation[Any]) -> None:
        """Begins an operation, when there is room."""
        if self._threads is None:
            # Here: an interpreter that is ending lets nobody import it any more, and who reads then has no use for it.
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(self._max, "s3dlio-write")
        while len(self._under_way) >= self._max:
            self._take()
        self._under_way[self._threads.submit(run, operation, inline_fetcher().run)] = number

    def finish(self) -> None:
        """Waits for all."""
        while self._under_way:
            self._take()

    def _take(self) -> None:
        from concurrent.futures import FIRST_COMPLETED, wait

        for future in wait(self._under_way, return_when=FIRST_COMPLETED).done:
            number = self._under_way.pop(future)
            error = future.exception()
            if error is not None and not isinstance(error, S3dlioError):
                raise error
            self._on_end(number, future.result() if error is None else error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
