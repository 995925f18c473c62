"""Daemon threads for calls that block: started as needed, kept for a while, never joined at the end of the process.

`concurrent.futures` would wait for a call that hangs when the interpreter ends; nobody waits here. A forked child begins without any.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from ..errors import ConnectFailedError

MAX_THREADS: Final = 64
_IDLE_S: Final = 5.0

Work = Callable[[], None]


class _Crew:
    """The threads of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.queue: SimpleQueue[Work | None] = SimpleQueue()
        """None ends one thread."""
        self.num_threads = 0
        self.num_free = 0
        """Threads that wait, less the work that is queued for them."""
        self.is_ended = False


_crew = _Crew()


def run_in_thread(work: Work) -> None:
    """Has `work` done soon, by a thread; it must not raise.

    Raises:
        ConnectFailedError: There is no thread, and the system refuses to start one.
    """
    while not _take(_crew, work):
        pass


def _take(crew: _Crew, work: Work) -> bool:
    """Gives work to a crew; False if that has ended meanwhile."""
    with crew.lock:
        if crew.is_ended:
            return False
        if crew.num_free <= 0 and crew.num_threads < MAX_THREADS:
            try:
                threading.Thread(target=_serve, args=(crew,), name="s3dlio-sdk", daemon=True).start()
            except RuntimeError as error:
                if not crew.num_threads:
                    raise ConnectFailedError("no thread can be started; raise `ulimit -u`", cause=str(error)) from None
            else:
                crew.num_threads += 1
                crew.num_free += 1
        crew.num_free -= 1
        crew.queue.put(work)
    return True


def end_threads() -> None:
    """Ends the threads, each after what it does now."""
    global _crew
    crew, _crew = _crew, _Crew()
    with crew.lock:
        crew.is_ended = True
        for _ in range(crew.num_threads):
            crew.queue.put(None)


def _forget() -> None:
    global _crew
    _crew = _Crew()


os.register_at_fork(after_in_child=_forget)


def _serve(crew: _Crew) -> None:
    while True:
        try:
            work = crew.queue.get(timeout=_IDLE_S)
        except Empty:
            with crew.lock:
                if crew.num_free <= 0:
                    continue  # work is on its way to this thread
                crew.num_free -= 1
                crew.num_threads -= 1
                return
        if work is None:
            return
        work()
        del work
        with crew.lock:
            crew.num_free += 1
