"""The retry policy: jitter, caps, and every form of Retry-After (N11)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s3dlio.engine.config import settings
from s3dlio.engine.retry import delay_s, parse_retry_after

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
jitters = st.floats(0, 1, exclude_max=True)


@given(failures=st.integers(1, 10_000), jitter=jitters)
def test_n9_full_jitter_stays_below_the_doubling_bound_and_the_cap(failures: int, jitter: float) -> None:
    limits = settings(backoff_initial_s=0.1, backoff_max_s=5.0)
    bound = min(5.0, 0.1 * 2 ** min(failures - 1, 60))
    wait_s = delay_s(failures, limits, jitter)
    assert 0 <= wait_s <= bound
    # "Full" jitter: the whole interval below the bound is used, in proportion.
    assert wait_s == pytest.approx(jitter * bound)


def test_n9_waits_double_from_failure_to_failure_until_the_cap() -> None:
    limits = settings(backoff_initial_s=0.1, backoff_max_s=1.0)
    assert [delay_s(n, limits, 1.0) for n in range(1, 7)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1000000000", 1e9),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=3), usegmt=True), 0.0),
        ("Sat, 31 Jan 2026 12:00:30 -0000", 30.0),
        ("-5", None),
        ("1e9", None),
        ("7.5", None),
        ("soon", None),
        ("", None),
        ("٧", None),
        ("Mon, 1 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 1 Jan 2030 00:00:00 +999999999999999999999999", None),
        (None, None),
    ],
)
def test_n11_retry_after_is_understood_or_ignored(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@given(value=st.one_of(st.text(max_size=60), st.from_regex(r"\A[A-Z][a-z]{2}, \d{1,9} Jan \d{1,30} \d\d:\d\d:\d\d [+-]?\w{1,9}\Z")))
@example("Mon, 1 Jan 0000 00:00:00 GMT")
@example("Mon, 1 Jan 9999 23:59:59 -2359")
@example("9" * 400)
def test_n11_no_retry_after_raises_or_is_negative(value: str) -> None:
    found = parse_retry_after(value, NOW)
    assert found is None or found >= 0


def test_n11_a_long_retry_after_is_cut_to_the_cap() -> None:
    limits = settings(retry_after_max_s=60.0)
    assert delay_s(1, limits, 0.5, 1e9) == 60.0
    assert delay_s(1, limits, 0.5, 7.0) == 7.0
    # What the server asks for stands in place of the jitter, also where it is shorter.
    assert delay_s(9, limits, 0.99, 0.0) == 0.0
