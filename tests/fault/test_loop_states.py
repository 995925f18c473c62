"""What an error, a cancel or a wait for space leaves in the loop and in the memory: nothing (the states between the answers)."""

from __future__ import annotations

import gc
import os
import random
import select
import threading
from collections.abc import Iterator

import pytest

import s3dlio
from s3dlio.engine.config import settings
from s3dlio.engine.fetch.loop import FetchLoop
from s3dlio.engine.fetch.request import Fetch, State
from s3dlio.engine.pool.rooms import process_rooms
from s3dlio.engine.stores.registry import locate
from tests.support.answers import chunked, cut_after, reset_after, s3_error, stall_after, stall_before_headers
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import Connection, Request

URI, PATH = "s3://bucket/key", "/bucket/key"
DATA = random.Random(5).randbytes(50_000)


@pytest.fixture
def loop(served: ObjectServer) -> Iterator[FetchLoop]:
    served.objects[PATH] = DATA
    made = FetchLoop(settings(), 2)
    yield made
    made.close()


def make_fetch(out: memoryview | None = None) -> Fetch:
    store, key = locate(URI)
    return Fetch(0, URI, store.wire, key, out=out)


def run_until(loop: FetchLoop, fetch: Fetch, state: State) -> list[Fetch]:
    """Polls until `fetch` is in `state`; returns all that `poll` gave."""
    given: list[Fetch] = []
    for _ in range(200):
        if fetch.state is state:
            return given
        given += loop.poll(0.1)
    raise AssertionError(f"{fetch.state!r} did not become {state!r}")


def used_bytes() -> int:
    gc.collect()
    arena = process_rooms().arena
    arena.collect()
    return arena.slots.used_bytes


def test_a_body_waits_in_the_socket_until_it_is_given_space(loop: FetchLoop, served: ObjectServer) -> None:
    fetch = make_fetch()
    loop.submit(fetch)
    assert run_until(loop, fetch, State.WANTS_SPACE) == [fetch]
    assert (fetch.size, fetch.missing_space, fetch.received) == (len(DATA), len(DATA), 0)
    assert loop.poll(0.05) == []
    out = memoryview(bytearray(len(DATA)))
    loop.supply(fetch, out)
    run_until(loop, fetch, State.DONE)
    assert bytes(out) == DATA
    assert len(served.requests) == 1


def test_waiting_for_space_is_no_silence(loop: FetchLoop, served: ObjectServer) -> None:
    loop.limits = settings(silence_timeout_s=0.2, first_byte_timeout_s=0.2)
    fetch = make_fetch()
    loop.submit(fetch)
    run_until(loop, fetch, State.WANTS_SPACE)
    for _ in range(10):
        assert loop.poll(0.1) == []
    loop.supply(fetch, memoryview(bytearray(len(DATA))))
    run_until(loop, fetch, State.DONE)
    assert fetch.attempts == 1


LARGE = random.Random(9).randbytes(1 << 20) * 24


def test_time_spent_waiting_for_space_does_not_count_against_the_deadline(loop: FetchLoop, served: ObjectServer) -> None:
    # A consumer that validates for ten minutes frees no slot; what was parked meanwhile must not fail when it goes on.
    served.objects[PATH] = LARGE
    loop.limits = settings(deadline_s=0.6)
    fetch = make_fetch()
    loop.submit(fetch)
    run_until(loop, fetch, State.WANTS_SPACE)
    for _ in range(10):
        loop.poll(0.1)
    loop.supply(fetch, memoryview(bytearray(len(LARGE))))
    while fetch.state < State.DONE:
        loop.poll(0.1)
    assert (fetch.state, fetch.error) == (State.DONE, None)


def test_time_spent_outside_of_poll_does_not_count_against_the_deadline(loop: FetchLoop, served: ObjectServer) -> None:
    served.objects[PATH] = LARGE
    loop.limits = settings(deadline_s=1.0)
    fetch = make_fetch(memoryview(bytearray(len(LARGE))))
    loop.submit(fetch)
    while fetch.size is None:
        loop.poll(0.1)
    threading.Event().wait(1.3)  # the caller computes
    while fetch.state < State.DONE:
        loop.poll(0.1)
    assert (fetch.state, fetch.error) == (State.DONE, None)


def test_a_fetch_that_waits_for_space_is_unfinished(loop: FetchLoop, served: ObjectServer) -> None:
    fetch = make_fetch()
    loop.submit(fetch)
    run_until(loop, fetch, State.WANTS_SPACE)
    loop.poll(0.05)
    assert loop.num_unfinished == 1
    loop.cancel(fetch)
    assert loop.poll(0.05) == [fetch]
    assert loop.num_unfinished == 0


def test_a_connection_that_breaks_while_its_body_waits_is_replaced(loop: FetchLoop, served: ObjectServer) -> None:
    served.faults[PATH] = [reset_after(0)]
    fetch = make_fetch()
    loop.submit(fetch)
    run_until(loop, fetch, State.WANTS_SPACE)
    served.wait_for_requests(1)
    loop.poll(0.3)
    out = memoryview(bytearray(len(DATA)))
    loop.supply(fetch, out)
    run_until(loop, fetch, State.DONE)
    assert bytes(out) == DATA


def test_a_chunked_body_waits_for_space_too(loop: FetchLoop, served: ObjectServer) -> None:
    served.faults[PATH] = [chunked(1000)]
    fetch = make_fetch()
    loop.submit(fetch)
    run_until(loop, fetch, State.WANTS_SPACE)
    out = memoryview(bytearray(fetch.missing_space))
    loop.supply(fetch, out)
    run_until(loop, fetch, State.DONE)
    assert bytes(out) == DATA


@pytest.mark.parametrize("state", [State.QUEUED, State.ACTIVE, State.WANTS_SPACE])
def test_a_cancelled_fetch_comes_back_once(loop: FetchLoop, served: ObjectServer, state: State) -> None:
    fetch = make_fetch()
    if state is State.QUEUED:
        loop.max_connections = 1
        loop.submit(make_fetch(memoryview(bytearray(len(DATA)))))
    loop.submit(fetch)
    given = run_until(loop, fetch, state)
    loop.cancel(fetch)
    for _ in range(5):
        given += loop.poll(0.02)
    assert [found.state for found in given if found is fetch and found.state is State.CANCELLED][-1:] == [State.CANCELLED]
    assert sum(found is fetch for found in given) == (2 if state is State.WANTS_SPACE else 1)
    loop.cancel(fetch)
    assert fetch not in loop.poll(0.02)


def test_a_fetch_cancelled_in_the_poll_in_which_it_wants_space_comes_back_once(loop: FetchLoop, served: ObjectServer) -> None:
    # As when the coordinator's command is read right after the head of the answer, in one turn of the loop.
    may_answer = threading.Event()
    served.faults[PATH] = [stall_before_headers(may_answer)]
    fetch = make_fetch()
    loop.submit(fetch)
    read_end, write_end = os.pipe()
    try:
        loop.watch(read_end, lambda: (os.read(read_end, 1), loop.cancel(fetch)))
        while not served.requests:
            assert loop.poll(0.01) == []
        may_answer.set()
        # The answer is in the socket before the command is in the pipe, and the loop has looked at neither.
        select.select([loop.fileno()], [], [], 10)
        os.write(write_end, b"x")
        given: list[Fetch] = []
        for _ in range(10):
            given += loop.poll(0.05)
    finally:
        os.close(read_end)
        os.close(write_end)
    assert fetch.state is State.CANCELLED
    assert sum(found is fetch for found in given) == 1


def test_a_cancel_lets_the_next_one_in_the_queue_begin(loop: FetchLoop, served: ObjectServer) -> None:
    served.faults[PATH] = [stall_after(0, threading.Event())]
    loop.max_connections = 1
    first, second = make_fetch(memoryview(bytearray(len(DATA)))), make_fetch(memoryview(bytearray(len(DATA))))
    loop.submit(first)
    loop.submit(second)
    loop.poll(0.1)
    loop.cancel(first)
    run_until(loop, second, State.DONE)
    assert loop.num_unfinished == 0


def test_a_cancelled_wait_before_a_retry_is_not_sent(loop: FetchLoop, served: ObjectServer) -> None:
    loop.limits = settings(backoff_initial_s=30, backoff_max_s=30, deadline_s=100)
    served.faults[PATH] = [s3_error(503, "SlowDown", {"Retry-After": "30"})]
    fetch = make_fetch(memoryview(bytearray(len(DATA))))
    loop.submit(fetch)
    run_until(loop, fetch, State.QUEUED)
    loop.cancel(fetch)
    assert loop.poll(0.05) == [fetch]
    assert (fetch.state, loop.num_unfinished) == (State.CANCELLED, 0)


def test_a_failed_object_among_many_gives_its_slot_back(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    s3dlio.get(URI)
    before = used_bytes()
    for _ in range(3):
        served.faults[PATH] = [cut_after(100), *[cut_after(0)] * 3]
        (found,) = s3dlio.get_many([URI], errors="return")
        assert isinstance(found, s3dlio.TruncatedBodyError)
        del found
        served.faults[PATH] = []
    assert used_bytes() == before


@pytest.mark.parametrize("verb", ["get", "get_range", "get_many"])
def test_a_failed_call_gives_its_slots_back_and_the_next_one_works(served: ObjectServer, verb: str) -> None:
    served.objects[PATH] = DATA
    served.objects["/bucket/good"] = DATA
    s3dlio.get(URI)
    before = used_bytes()
    served.faults[PATH] = [cut_after(100), *[cut_after(0)] * 3]
    call = {
        "get": lambda: s3dlio.get(URI),
        "get_range": lambda: s3dlio.get_range(URI, 10, 1000),
        "get_many": lambda: s3dlio.get_many(["s3://bucket/good", URI, "s3://bucket/good"]),
    }[verb]
    with pytest.raises(s3dlio.TruncatedBodyError):
        call()
    served.faults[PATH] = []
    assert used_bytes() == before
    assert bytes(s3dlio.get(URI)) == DATA


def test_a_restarted_read_that_needs_more_space_gives_the_old_slot_back(served: ObjectServer) -> None:
    served.objects[PATH] = DATA[:1000]
    s3dlio.get(URI)
    before = used_bytes()

    def grow(request: Request, connection: Connection) -> None:
        answer = served.honest(request)
        served.objects[PATH] = DATA
        reset_after(500, answer)(request, connection)

    served.faults[PATH] = [grow]
    view = s3dlio.get(URI)
    assert bytes(view) == DATA
    del view
    assert used_bytes() == before


def test_an_invalid_uri_in_the_middle_leaves_nothing_under_way(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    s3dlio.get(URI)
    before = used_bytes()
    with pytest.raises(s3dlio.InvalidUriError):
        s3dlio.get_many([URI, URI, "no-scheme", URI])
    assert used_bytes() == before
    assert bytes(s3dlio.get(URI)) == DATA


def test_an_interrupt_in_the_middle_of_many_leaves_nothing_behind(served: ObjectServer) -> None:
    class Interrupted(BaseException): ...

    def uris() -> Iterator[str]:
        yield from [URI] * 200

    served.objects[PATH] = DATA
    s3dlio.get(URI)
    before = used_bytes()
    real = FetchLoop.poll
    num_polls = 0

    def poll(self: FetchLoop, timeout_s: float | None) -> list[Fetch]:
        nonlocal num_polls
        num_polls += 1
        if num_polls == 20:
            raise Interrupted
        return real(self, timeout_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FetchLoop, "poll", poll)
        with pytest.raises(Interrupted):
            s3dlio.get_many(uris(), workers=4)
    assert used_bytes() == before
    assert bytes(s3dlio.get(URI)) == DATA


def test_threads_at_once_get_their_own_bytes(served: ObjectServer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    rng = random.Random(8)
    objects = {f"t{n}": rng.randbytes(rng.randrange(40_000)) for n in range(24)}
    for key, data in objects.items():
        served.objects[f"/bucket/{key}"] = data
        served.faults[f"/bucket/{key}"] = [reset_after(len(data) // 2)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda key: bytes(s3dlio.get(f"s3://bucket/{key}")), objects))
    assert found == list(objects.values())


def test_p7_a_loop_that_nobody_closed_keeps_no_descriptor(quick_settings: None) -> None:
    def descriptors() -> list[str]:
        return sorted(os.listdir("/proc/self/fd"))

    gc.collect()
    before = descriptors()
    for _ in range(3):
        dropped = FetchLoop(settings(), 1)
        dropped.listen()
        del dropped
    closed = FetchLoop(settings(), 1)
    closed.listen()
    closed.close()
    del closed
    gc.collect()
    assert descriptors() == before
