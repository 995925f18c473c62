"""Counting without keeping: a histogram of latencies in bounded memory. Pure."""

from __future__ import annotations

_FINE_BITS = 6
"""Buckets are 1/64 of their octave wide: 1.6 % at most."""
_FINE = 1 << _FINE_BITS


class LatencyHistogram:
    """Counts durations in buckets that are 1.6 % wide; the maximum is exact."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._num = 0
        self._max_s = 0.0

    def add(self, seconds: float) -> None:
        """Counts one duration."""
        bucket = int(seconds * 1e6)
        if bucket >= _FINE:
            # The octave, and the highest bits within it: integers all the way, as this runs once per object.
            shift = bucket.bit_length() - _FINE_BITS - 1
            bucket = (shift << _FINE_BITS) + (bucket >> shift)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self._num += 1
        self._max_s = max(self._max_s, seconds)

    def percentile_s(self, fraction: float) -> float:
        """Returns the duration that `fraction` of all do not exceed, to 1.6 %; 0.0 if there are none."""
        wanted = fraction * self._num
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return min(_middle_us(bucket) / 1e6, self._max_s)
        return self._max_s

    def summary_ms(self) -> dict[str, float]:
        """Returns p50, p95, p99 and max in milliseconds."""
        found = {f"p{percent}": self.percentile_s(percent / 100) for percent in (50, 95, 99)}
        return {name: round(seconds * 1000, 3) for name, seconds in {**found, "max": self._max_s}.items()}


def _middle_us(bucket: int) -> float:
    """Returns the middle of a bucket in microseconds."""
    if bucket < 2 * _FINE:
        return bucket + 0.5
    shift = (bucket >> _FINE_BITS) - 1
    return ((bucket - (shift << _FINE_BITS)) + 0.5) * (1 << shift)
