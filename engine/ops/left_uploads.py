"""Uploads whose writer is gone without having closed or aborted them: they are aborted, and never completed.

Rules:

* What a writer drops in the course of the program is aborted at once. What the garbage collector finds, perhaps in the middle of some
  other call of the same thread, is aborted by the next call of a writer, by `shutdown`, or at the end of the interpreter.
* At the end of the interpreter what still is open is aborted too.
* A forked child leaves the uploads of its parent alone.
"""

from __future__ import annotations

import atexit
import gc
import os
import threading
from collections import deque
from contextlib import suppress
from typing import Any, Final

from ..errors import S3dlioError
from ..pool.inline import inline_fetcher
from ..stores.base import Upload, run
from .under_way import UnderWay
from .uploads import throw_away


class LeftUpload:
    """An upload that was begun, as it is known to whoever may have to abort it."""

    def __init__(self, upload: Upload, uri: str, parts: UnderWay) -> None:
        self._upload = upload
        self._parts = parts
        self._uri = uri
        self._pid = os.getpid()
        _open[id(self)] = self
        if _note_collector not in gc.callbacks:
            gc.callbacks.append(_note_collector)

    def forget(self) -> bool:
        """Told that it has an end; returns False where somebody has seen to that before, or it is the parent's."""
        return _open.pop(id(self), None) is not None and self._pid == os.getpid()

    def drop(self) -> None:
        """Told that its writer is gone."""
        if _collecting == threading.get_ident():
            _dropped.append(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Aborts it, unless that was done; a silent server is given a few seconds. Errors go to the log."""
        if self.forget():
            self._parts.settle()
            run(throw_away(self._upload, self._uri), inline_fetcher().run_briefly)


_open: Final[dict[int, LeftUpload]] = {}
_dropped: Final[deque[LeftUpload]] = deque()
"""Found by the garbage collector."""
_collecting = 0
"""The thread in which it runs."""


def abort_dropped() -> None:
    """Aborts what the garbage collector has found."""
    while _dropped:
        with suppress(IndexError):  # another thread may do this at once
            _dropped.popleft().abort()


def _abort_all() -> None:
    _dropped.clear()
    for left in [*_open.values()]:
        with suppress(S3dlioError):
            left.abort()


def _note_collector(phase: str, _info: dict[str, Any]) -> None:
    global _collecting
    _collecting = threading.get_ident() if phase == "start" else 0


atexit.register(_abort_all)
