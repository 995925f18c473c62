"""Requests of a loop that have no connection, by the reason.

It is not their turn, they wait before their next attempt, their host asked for fewer, or its name is being looked up.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from .delayed import Delayed
from .origin import Origin
from .request import Fetch
from .throttles import Throttles


class Backlog:
    """What waits, by the reason."""

    def __init__(self) -> None:
        self.queue: deque[Fetch] = deque()
        """Requests that may begin, the next one on the left."""
        self.delayed = Delayed()
        self.throttles = Throttles()
        self.nameless: list[tuple[float, Fetch]] = []
        """Requests to hosts whose addresses are looked up, and since when, by the loop's clock."""

    def __len__(self) -> int:
        return len(self.queue) + len(self.delayed) + self.throttles.num_waiting + len(self.nameless)

    @property
    def is_to_be_swept(self) -> bool:
        """Whether something here may come to its deadline."""
        return bool(self.nameless) or (bool(self.throttles) and self.throttles.num_waiting > 0)

    def due_in_s(self, now_s: float) -> float:
        """Returns when there is more in the queue, at the earliest; infinite where time alone changes nothing.

        `now_s` is of the loop's clock, which stands still while nobody waits. A pause that a host asked for does not.
        """
        due_in_s = max(0.0, self.delayed.due_s - now_s) if self.delayed else float("inf")
        return min(due_in_s, self.throttles.due_in_s(time.monotonic())) if self.throttles else due_in_s

    def release(self, now_s: float, num_active: Callable[[Origin], int]) -> None:
        """Puts what is due in front of the queue; `num_active` says how many requests a host has."""
        if self.throttles:
            self.queue.extendleft(reversed(self.throttles.release(time.monotonic(), num_active)))
        if self.delayed:
            self.queue.extendleft(self.delayed.pop_due(now_s))

    def release_named(self, named: set[tuple[str, int]]) -> None:
        """Puts what waited for these (host, port) in front of the queue."""
        released = [fetch for _, fetch in self.nameless if fetch.wire.origin[:2] in named]
        self.nameless = [entry for entry in self.nameless if entry[1].wire.origin[:2] not in named]
        self.queue.extendleft(reversed(released))

    def pop_nameless(self, before_s: float) -> list[Fetch]:
        """Takes out what has waited for a name since `before_s` or longer."""
        released = [fetch for since_s, fetch in self.nameless if since_s <= before_s]
        self.nameless = [entry for entry in self.nameless if entry[0] > before_s]
        return released

    def forget(self, fetch: Fetch) -> None:
        """Takes a request out, if it is there."""
        if fetch in self.queue:
            self.queue.remove(fetch)
        self.delayed.forget(fetch)
        self.throttles.forget(fetch)
        self.nameless = [entry for entry in self.nameless if entry[1] is not fetch]

    def clear(self) -> None:
        """Takes all out."""
        self.queue.clear()
        self.delayed.clear()
        self.throttles.clear()
        self.nameless.clear()
