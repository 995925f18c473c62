"""How many requests a host gets that asks for fewer: additive increase, multiplicative decrease. Pure: the time is given.

A host that answers SlowDown (429, 503) gets nothing for a moment, and then half as many requests at once as it had; each answer that
is no refusal lets it have a little more, until it has all again and is forgotten. The moment grows with each refusal in a row, as the
wait of a single request does. Hosts that never asked for it cost nothing here.

Source: Chiu and Jain, "Analysis of the increase and decrease algorithms for congestion avoidance", 1989.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from .origin import Origin
from .request import Fetch

if TYPE_CHECKING:
    from collections.abc import Callable

class _Throttle:
    """What one host gets."""

    __slots__ = ("cut_s", "num_refusals", "paused_until_s", "waiting", "window")

    def __init__(self, window: float) -> None:
        self.window = window
        """Requests that it gets at once."""
        self.num_refusals = 0
        """Cuts in a row."""
        self.paused_until_s = 0.0
        self.cut_s = float("-inf")
        """When the window was last cut."""
        self.waiting: deque[Fetch] = deque()


class Throttles:
    """The hosts that asked for fewer requests, and the requests that wait for them."""

    def __init__(self) -> None:
        self._by_origin: dict[Origin, _Throttle] = {}

    def __bool__(self) -> bool:
        return bool(self._by_origin)

    @property
    def num_waiting(self) -> int:
        """Requests that are held back."""
        return sum(len(throttle.waiting) for throttle in self._by_origin.values())

    def due_in_s(self, clock_s: float) -> float:
        """Returns in how long a pause ends that requests wait for; infinite where none do.

        Those that wait for the answers to others are told by these (`ease`), and not by time.
        """
        pauses = [throttle.paused_until_s - clock_s for throttle in self._by_origin.values() if throttle.waiting]
        return min((pause_s for pause_s in pauses if pause_s > 0), default=float("inf"))

    def refuse(
        self, origin: Origin, num_active: int, sent_s: float, now_s: float, clock_s: float, pause_s: Callable[[int], float]
    ) -> None:
        """A host refused a request because there were too many.

        Args:
            origin: The host.
            num_active: Requests that it has now, with the one that it refused.
            sent_s: When it was sent. What was sent before the last cut says nothing new.
            now_s: The loop's clock.
            clock_s: The monotonic clock, by which pauses are kept: the host's time goes on while nobody waits here.
            pause_s: Returns how long it gets nothing, after so many refusals in a row.
        """
        throttle = self._by_origin.get(origin)
        if throttle is None:
            throttle = self._by_origin[origin] = _Throttle(num_active)
        if sent_s <= throttle.cut_s:
            return
        throttle.num_refusals += 1
        throttle.window = max(1.0, min(throttle.window, num_active) / 2)
        throttle.paused_until_s = clock_s + pause_s(throttle.num_refusals)
        throttle.cut_s = now_s

    def hold_back(self, fetch: Fetch, num_active: int, clock_s: float) -> bool:
        """Whether a request must wait, and then keeps it; `num_active` is how many its host has."""
        throttle = self._by_origin.get(fetch.wire.origin)
        if throttle is None or (num_active < throttle.window and clock_s >= throttle.paused_until_s):
            return False
        throttle.waiting.append(fetch)
        return True

    def ease(self, origin: Origin, most: int) -> None:
        """A host answered: it may have a little more, and is forgotten once that is `most`."""
        throttle = self._by_origin.get(origin)
        if throttle is not None:
            throttle.num_refusals = 0
            throttle.window += 1 / throttle.window
            if throttle.window >= most and not throttle.waiting:
                del self._by_origin[origin]

    def release(self, clock_s: float, num_active: Callable[[Origin], int]) -> list[Fetch]:
        """Takes out what may be tried now, in the order in which it was held back; `num_active` says how many requests a host has."""
        released: list[Fetch] = []
        for origin, throttle in self._by_origin.items():
            if throttle.waiting and clock_s >= throttle.paused_until_s:
                num = max(0, math.ceil(throttle.window - num_active(origin)))
                released += [throttle.waiting.popleft() for _ in range(min(num, len(throttle.waiting)))]
        return released

    def pop_overdue(self, now_s: float) -> list[Fetch]:
        """Takes out what is past its deadline, by the loop's clock."""
        overdue = [fetch for throttle in self._by_origin.values() for fetch in throttle.waiting if fetch.deadline_s < now_s]
        for fetch in overdue:
            self.forget(fetch)
        return overdue

    def forget(self, fetch: Fetch) -> None:
        """Takes a request out, if it is there."""
        for throttle in self._by_origin.values():
            if fetch in throttle.waiting:
                throttle.waiting.remove(fetch)

    def clear(self) -> None:
        """Forgets all."""
        self._by_origin.clear()
