"""Hosts that ask for fewer requests get fewer, and more again later: the arithmetic of N10."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from s3dlio.engine.fetch.origin import Origin
from s3dlio.engine.fetch.request import Fetch
from s3dlio.engine.fetch.throttles import Throttles

HERE, THERE = Origin("here", 80), Origin("there", 80)


def request(origin: Origin = HERE) -> Fetch:
    wire: Any = SimpleNamespace(origin=origin)
    return Fetch(None, "s3://bucket/key", wire, "key")


def refuse(throttles: Throttles, num_active: int, now_s: float, sent_s: float | None = None) -> None:
    throttles.refuse(HERE, num_active, now_s if sent_s is None else sent_s, now_s, now_s, lambda refusals: 1.0 * refusals)


def release(throttles: Throttles, now_s: float, num_active: int = 0) -> list[Fetch]:
    return throttles.release(now_s, lambda _origin: num_active)


@pytest.fixture
def throttles() -> Throttles:
    found = Throttles()
    assert not found
    refuse(found, 32, 100.0)
    assert found
    return found


def test_n10_a_refusing_host_gets_nothing_for_a_moment_and_then_half(throttles: Throttles) -> None:
    fetch = request()
    assert throttles.hold_back(fetch, 0, 100.5)
    assert (throttles.num_waiting, throttles.due_in_s(100.5)) == (1, 0.5)
    assert release(throttles, 100.9) == []
    assert release(throttles, 101.0) == [fetch]
    assert not throttles.hold_back(fetch, 15, 101.0)
    assert throttles.hold_back(fetch, 16, 101.0)


def test_n10_other_hosts_are_not_held_back(throttles: Throttles) -> None:
    assert not throttles.hold_back(request(THERE), 1000, 100.5)


def test_n10_refusals_of_what_was_sent_before_the_cut_are_one_refusal(throttles: Throttles) -> None:
    for _ in range(31):
        refuse(throttles, 31, 100.01, sent_s=99.99)
    assert throttles.due_in_s(100.01) == float("inf")
    throttles.hold_back(request(), 0, 100.5)
    assert throttles.due_in_s(100.5) == 0.5
    assert not throttles.hold_back(request(), 15, 101.0)


def test_n10_the_pause_grows_with_each_refusal_in_a_row_and_an_answer_ends_the_row(throttles: Throttles) -> None:
    refuse(throttles, 16, 102.0)
    throttles.hold_back(request(), 0, 102.0)
    assert throttles.due_in_s(102.0) == 2.0
    release(throttles, 104.0)
    throttles.ease(HERE, 64)
    refuse(throttles, 8, 105.0)
    throttles.hold_back(request(), 0, 105.0)
    assert throttles.due_in_s(105.0) == 1.0


def test_n10_one_request_at_least_is_always_let_through(throttles: Throttles) -> None:
    for second in range(101, 201):
        refuse(throttles, 1, float(second * 1000))
    assert not throttles.hold_back(request(), 0, 1e9)
    assert throttles.hold_back(request(), 1, 1e9)


def test_n10_a_host_that_answers_has_everything_again_and_is_forgotten(throttles: Throttles) -> None:
    num_answers = 0
    while throttles:
        throttles.ease(HERE, 64)
        num_answers += 1
    # Additively: one more in the window for a window of answers, from 16 to 64.
    assert sum(range(16, 64)) * 0.9 < num_answers < sum(range(16, 65)) * 1.1


def test_n10_a_request_that_waits_is_not_forgotten_with_its_host(throttles: Throttles) -> None:
    fetch = request()
    throttles.hold_back(fetch, 99, 102.0)
    for _ in range(10_000):
        throttles.ease(HERE, 64)
    assert release(throttles, 103.0) == [fetch]
    throttles.ease(HERE, 64)
    assert not throttles


def test_n10_a_cancelled_request_does_not_wait_any_more(throttles: Throttles) -> None:
    fetch = request()
    throttles.hold_back(fetch, 99, 100.5)
    throttles.forget(fetch)
    assert throttles.num_waiting == 0
    assert release(throttles, 1e9) == []


def test_n10_what_waits_for_answers_does_not_make_the_loop_turn(throttles: Throttles) -> None:
    fetches = [request() for _ in range(40)]
    for fetch in fetches:
        throttles.hold_back(fetch, 16, 101.5)
    assert throttles.due_in_s(101.5) == float("inf")
    assert release(throttles, 101.5, num_active=16) == []
    assert release(throttles, 101.5, num_active=14) == fetches[:2]


def test_n10_what_is_held_back_still_has_its_deadline(throttles: Throttles) -> None:
    fetch = request()
    fetch.deadline_s = 200.0
    throttles.hold_back(fetch, 99, 100.5)
    assert throttles.pop_overdue(199.0) == []
    assert throttles.pop_overdue(201.0) == [fetch]
    assert throttles.num_waiting == 0
