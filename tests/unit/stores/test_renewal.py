"""When credentials are due."""

from __future__ import annotations

import math

import pytest

from s3dlio.engine.stores.renewal import Renewal


@pytest.mark.parametrize(
    ("life_s", "due_in_s"),
    [(3600, 3000), (1300, 700), (1200, 600), (300, 150), (30, 15), (5, 10), (-100, 10)],
)
def test_credentials_are_due_ten_minutes_before_they_expire_or_at_half_their_life(life_s: float, due_in_s: float) -> None:
    assert Renewal(1e9 + life_s, 1e9).due_s == 1e9 + due_in_s


def test_credentials_that_last_are_never_due() -> None:
    renewal = Renewal(None, 1e9)
    assert renewal.due_s == math.inf
    renewal.note(1e9 + 3600, 1e9)
    renewal.note(None, 1e9)
    assert renewal.due_s == math.inf


def test_a_failure_is_tried_again_soon() -> None:
    renewal = Renewal(1e9 + 3600, 1e9)
    renewal.note_failure(1e9 + 3000)
    assert renewal.due_s == 1e9 + 3010
