"""The retry policy, as pure functions.

What is retried: an error whose class says `retryable` (connection refused, reset or closed early, a timeout, a body that is too short
or misframed, a wrong checksum, 408, 429, 5xx). Every other error is final at once: asking again would give the same answer.

How: the n-th consecutive failure without a new byte is followed by a random wait below `min(backoff_max_s, backoff_initial_s * 2**n)`
("full jitter"), or by the server's `Retry-After` up to `retry_after_max_s`. A byte received resets the count, never the deadline.
After `max_attempts` failures, or when the wait would pass the deadline, the last error is final.
A kept connection that the server had closed, or on which bytes come that nobody announced in the answer before, is opened anew once,
silently: of a read nothing was lost, so nothing is counted; of a write the attempt is, since its answer may have been lost.

Source: "Exponential Backoff and Jitter", AWS Architecture Blog; RFC 9110 §10.2.3 (Retry-After), §9.2.2 (idempotent methods).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Settings


def delay_s(failures: int, limits: Settings, jitter: float, retry_after_s: float | None = None) -> float:
    """Returns how long to wait before the next attempt, in seconds.

    Args:
        failures: Consecutive failures so far, at least 1.
        limits: The settings in force.
        jitter: A random number in [0, 1).
        retry_after_s: What the server asked for, if it did.
    """
    if retry_after_s is not None:
        return min(retry_after_s, limits.retry_after_max_s)
    return jitter * min(limits.backoff_max_s, limits.backoff_initial_s * 2.0 ** min(failures - 1, 30))


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Returns the seconds that a `Retry-After` header asks for; None where it is absent or makes no sense.

    Source: RFC 9110 §10.2.3: delay-seconds or an HTTP-date.
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:12])
    # Imported here, and not by each worker at its start: 10 ms for what hardly any server sends.
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, OverflowError):  # a year or an offset beyond what a date can be overflows
        return None
