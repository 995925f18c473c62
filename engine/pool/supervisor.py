"""Judges worker processes: how many may be started again, and who hangs. Pure: the time is given.

Rules:

* A dead worker is replaced, at most so many times a minute; until then the others do its work.
* Deaths that an object is known to have caused do not count, as long as the workers achieve something in between: the object has failed
  and will kill no more. Where every object kills, it is the workers that are broken, and the budget ends it.
* Time counts only while the pool is waited for. A worker hangs if it has work, and its counter in shared memory stands still for that
  long: its loop turns at least every few seconds whatever the network does, so only a stopped or a stuck process stands still.
"""

from __future__ import annotations

from collections import deque

_WINDOW_S = 60.0


class Supervisor:
    """The books on deaths and on progress."""

    def __init__(self, restarts_per_minute: int, silence_s: float) -> None:
        self._restarts_per_minute = restarts_per_minute
        self._silence_s = silence_s
        self._restarts: deque[float] = deque()
        """When workers were started again, within the last minute."""
        self._num_free = 0
        """Restarts to come that will not count."""
        self._progress = -1
        """How much had been achieved when deaths were last forgiven."""
        self._waited_s = 0.0
        """Time spent waiting, since the beginning."""
        self._seen: dict[int, tuple[int, float]] = {}
        """By worker: its counter, and how much had been waited when it last moved."""

    def num_restarts_allowed(self, now_s: float) -> int:
        """Returns how many workers may be started again at `now_s`."""
        while self._restarts and now_s - self._restarts[0] > _WINDOW_S:
            self._restarts.popleft()
        if self._restarts_per_minute == 0:
            return 0
        return self._restarts_per_minute - len(self._restarts) + self._num_free

    def note_restarts(self, now_s: float, num: int) -> None:
        """Counts `num` restarts."""
        num_counted = max(0, num - self._num_free)
        self._num_free -= num - num_counted
        self._restarts.extend([now_s] * num_counted)

    def forgive(self, num: int, progress: int) -> None:
        """Takes deaths off the books that an object is known to have caused: the last, whose restart is still to come, and those before.

        Args:
            num: How many deaths.
            progress: How much the workers have achieved until now. Where that is what it was the last time, nothing is forgiven.
        """
        if progress == self._progress:
            return
        self._progress = progress
        self._num_free += 1
        for _ in range(min(num - 1, len(self._restarts))):
            self._restarts.pop()

    def note_wait(self, seconds: float) -> None:
        """Counts time in which the pool was waited for and nothing arrived."""
        self._waited_s += seconds

    def is_hanging(self, worker: int, has_work: bool, counter: int) -> bool:
        """Whether a worker with this counter stands still for too long."""
        seen = self._seen.get(worker)
        if seen is None or seen[0] != counter or not has_work:
            self._seen[worker] = (counter, self._waited_s)
            return False
        return self._waited_s - seen[1] > self._silence_s

    def forget(self, worker: int) -> None:
        """Drops the books on a worker that has died."""
        self._seen.pop(worker, None)
