"""Requests that wait for their next attempt, and the decision whether there is one. `retry.py` holds the policy's arithmetic."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..errors import ChecksumMismatchError, ObjectChangedError, S3dlioError, describe
from ..retry import delay_s, parse_retry_after
from .request import Fetch

if TYPE_CHECKING:
    from ..config import Settings

MAX_MISMATCHES = 3
"""Bytes that were wrong so often are wrong in the store, or on a way that nothing here can change."""


class Delayed:
    """Requests by the moment when they are due, on the clock of their loop."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Fetch]] = []
        """(due, tie-breaker, fetch)."""
        self._ties = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def due_s(self) -> float:
        """When the first one is due; there must be one."""
        return self._heap[0][0]

    def put(self, due_s: float, fetch: Fetch) -> None:
        """Adds a request."""
        heapq.heappush(self._heap, (due_s, next(self._ties), fetch))

    def pop_due(self, now_s: float) -> Iterator[Fetch]:
        """Takes out and yields what is due."""
        while self._heap and self._heap[0][0] <= now_s:
            yield heapq.heappop(self._heap)[2]

    def forget(self, fetch: Fetch) -> None:
        """Takes a request out, if it is there."""
        self._heap = [entry for entry in self._heap if entry[2] is not fetch]
        heapq.heapify(self._heap)

    def clear(self) -> None:
        """Takes all out."""
        self._heap.clear()


def wait_before_retry(fetch: Fetch, error: S3dlioError, limits: Settings) -> float | None:
    """Returns how long to wait before the next attempt, in seconds; None if there is to be none."""
    # Of a write it means that a condition did not hold.
    if isinstance(error, ObjectChangedError) and not fetch.is_exchange and not fetch.is_pinned and not fetch.was_restarted:
        fetch.was_restarted = True
        fetch.restart()
        return 0.0
    if isinstance(error, ChecksumMismatchError):
        # All of it came, so no count of failures stands in the way of asking for ever.
        fetch.restart()
        fetch.mismatches += 1
        if fetch.mismatches == MAX_MISMATCHES:
            return None
    if not error.retryable:
        return None
    return backoff_s(error, fetch.failures, limits)


def backoff_s(error: S3dlioError, failures: int, limits: Settings) -> float:
    """Returns how long to wait after so many failures in a row, the last of them `error`."""
    asked = parse_retry_after(error.retry_after, datetime.now(UTC))
    return delay_s(failures, limits, random.random(), asked)


def finish_error(fetch: Fetch, error: S3dlioError) -> S3dlioError:
    """Returns `error` with what only the loop knows: the URI, the attempts, the time."""
    error.uri = error.uri or fetch.uri
    error.attempts = fetch.attempts
    if error.retryable:
        error.cause = error.cause or describe(error)
        error.message = f"{error.message}; gave up after {time.monotonic() - fetch.begun_s:.1f} s"
    return error
