"""When short-lived credentials are fetched anew: well ahead of their expiry, and again soon where that failed. Pure: the time is given."""

from __future__ import annotations

from typing import Final

_AHEAD_S: Final = 600.0
"""Ten minutes: what botocore calls the mandatory refresh, and longer than a request may take with all its attempts."""
_PAUSE_S: Final = 10.0
"""Between two attempts, also where what came was about to expire too."""


class Renewal:
    """The plan for one set of credentials. Times are Unix times in s, since that is what an expiry is."""

    def __init__(self, expires_at_s: float | None, now_s: float) -> None:
        self.due_s = float("inf")
        self._expired_s = float("-inf")
        """When the store last refused them, and others were asked for."""
        self.note(expires_at_s, now_s)

    def note(self, expires_at_s: float | None, now_s: float) -> None:
        """Credentials have come; None lasts for ever."""
        if expires_at_s is None:
            self.due_s = float("inf")
            return
        half_s = now_s + (expires_at_s - now_s) / 2
        self.due_s = max(expires_at_s - _AHEAD_S, half_s, now_s + _PAUSE_S)

    def expire(self, now_s: float) -> bool:
        """The store refuses them as expired, whatever the plan was; returns whether it is time to ask for others.

        Whoever asked a moment ago, because many requests were refused at once, need not ask again.
        """
        if now_s < self._expired_s + _PAUSE_S:
            return False
        self._expired_s = now_s
        return True

    def note_failure(self, now_s: float) -> None:
        """None have come."""
        self.due_s = now_s + _PAUSE_S
