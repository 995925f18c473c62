"""Threads that Python did not start, and that run some of it: those of a framework, which calls a data set from its own.

The interpreter ends such a thread where it stands, once it asks for the lock again, and a framework that waits for the thread waits for
ever. So a data set that is called from them ends its iterations first, and waits here until they are gone.
"""

from __future__ import annotations

import sys
import threading
import time
from types import FrameType
from typing import Final

_LAST_WAIT_S: Final = 10.0
"""For those that are in Python: as long as a user's function may take."""
_QUIET_S: Final = 0.25
"""For those that are about to come back: who has not come by then will not."""


def wait_until_gone(folder: str) -> None:
    """Waits until no such thread runs functions that are defined below `folder`, nor any has for a while."""
    tick = threading.Event()
    begun_s = since_s = time.monotonic()
    while time.monotonic() - since_s < _QUIET_S and time.monotonic() - begun_s < _LAST_WAIT_S:
        if _is_in_python(folder):
            since_s = time.monotonic()
        tick.wait(0.005)


def _is_in_python(folder: str) -> bool:
    started = {one.ident for one in threading.enumerate() if not isinstance(one, threading._DummyThread)}
    return any(ident not in started and _comes_from(frame, folder) for ident, frame in sys._current_frames().items())


def _comes_from(frame: FrameType | None, folder: str) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(folder):
            return True
        frame = frame.f_back
    return False
