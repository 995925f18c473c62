"""Requests of a loop that have no connection, by the reason.

It is not their turn, they wait before their next attempt, their host asked for fewer, or its name is being looked up.
"""

from __future__ import annotations

from collections import deque

from .delayed import Delayed
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
    def due_s(self) -> float:
        """When there is more in the queue, at the earliest, by the loop's clock; infinite where time alone changes nothing."""
        due_s = self.delayed.due_s if self.delayed else float("inf")
        return min(due_s, self.throttles.due_s) if self.throttles else due_s

    def release(self, now_s: float) -> None:
        """Puts what is due in front of the queue."""
        if self.throttles:
            self.queue.extendleft(reversed(self.throttles.release(now_s)))
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
