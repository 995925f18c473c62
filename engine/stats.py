"""Counting without keeping: a histogram of latencies in bounded memory. Pure."""

from __future__ import annotations

import math

_STEPS_PER_E = 50
"""Buckets are 2 % wide: exp(1/50)."""


class LatencyHistogram:
    """Counts durations in buckets that are 2 % wide; the maximum is exact."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._num = 0
        self._max_s = 0.0

    def add(self, seconds: float) -> None:
        """Counts one duration."""
        bucket = int(math.log(seconds) * _STEPS_PER_E) if seconds > 1e-9 else -1000
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self._num += 1
        self._max_s = max(self._max_s, seconds)

    def percentile_s(self, fraction: float) -> float:
        """Returns the duration that `fraction` of all do not exceed, to 2 %; 0.0 if there are none."""
        wanted = fraction * self._num
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return min(math.exp((bucket + 0.5) / _STEPS_PER_E), self._max_s)
        return self._max_s

    def summary_ms(self) -> dict[str, float]:
        """Returns p50, p95, p99 and max in milliseconds."""
        found = {f"p{percent}": self.percentile_s(percent / 100) for percent in (50, 95, 99)}
        return {name: round(seconds * 1000, 3) for name, seconds in {**found, "max": self._max_s}.items()}
