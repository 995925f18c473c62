"""Threads that fetch small objects at once and share a loop: who leads, who follows, and what becomes of them when a leader goes (P10)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.fetch.request import Fetch
from s3dlio.engine.pool import crowd
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.pool.rooms import process_rooms
from tests.process.kit import Bucket, wait_until
from tests.support.answers import s3_error
from tests.support.processes import ScriptProcess
from tests.support.scripted_server import Connection, Handler, Request

KIB = 1 << 10
NUM = 12


class Held:
    """A fault: its request is seen, and answered when the test says so, honestly or by what is given."""

    def __init__(self, bucket: Bucket, uri: str, answer: Handler | None = None) -> None:
        self.is_asked = threading.Event()
        self.may_answer = threading.Event()
        self._bucket = bucket
        self._answer = answer
        bucket.server.faults[bucket.path(uri.removeprefix(f"s3://{bucket.name}/"))] = [self]

    def __call__(self, request: Request, connection: Connection) -> None:
        self.is_asked.set()
        connection.wait_for(self.may_answer)
        (self._answer or self._bucket.server.honest(request))(request, connection)


class Callers:
    """Threads that call `get` once each, and what came of it."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._threads: list[threading.Thread] = []

    def start(self, uri: str) -> None:
        def call() -> None:
            try:
                self.found[uri] = bytes(s3dlio.get(uri))
            except BaseException as error:  # noqa: BLE001 (the test looks at it)
                self.found[uri] = error

        self._threads.append(threading.Thread(target=call))
        self._threads[-1].start()

    def join(self) -> dict[str, Any]:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        return self.found


@pytest.fixture
def uris(bucket: Bucket) -> list[str]:
    """Small objects, one of which was read: from now on, small ones are expected."""
    s3dlio.configure(first_byte_timeout_s=60)
    uris = bucket.fill(NUM, 2 * KIB)
    s3dlio.get(bucket.add("first", KIB))
    return uris


@contextmanager
def interrupting_main(after: Callable[[], None], number: signal.Signals = signal.SIGINT) -> Iterator[None]:
    """Sends this thread a signal when `after` has returned in another one."""
    main = threading.main_thread().ident
    assert main is not None

    def wait_and_send() -> None:
        after()
        signal.pthread_kill(main, number)

    thread = threading.Thread(target=wait_and_send)
    thread.start()
    yield
    thread.join(30)


def test_p10_128_threads_that_share_a_loop_each_get_their_own_bytes(bucket: Bucket) -> None:
    sizes = [1, 100, 4 * KIB, 64 * KIB]
    uris = [bucket.add(f"o{n:04d}", sizes[n % 4]) for n in range(128)]
    s3dlio.get(uris[0])
    barrier = threading.Barrier(128)
    wrong: list[object] = []

    def read(number: int) -> None:
        try:
            barrier.wait(30)
            for step in range(6):
                uri = uris[(number + step * 41) % 128]
                view = s3dlio.get_range(uri, 1) if step == 3 else s3dlio.get(uri)
                if bytes(view) != bucket.data(uri)[step == 3 :]:
                    wrong.append(uri)
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(128)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert not any(thread.is_alive() for thread in threads)


def test_all_that_wait_are_in_flight_at_once_on_one_loop(bucket: Bucket, uris: list[str]) -> None:
    held = [Held(bucket, uri) for uri in uris]
    callers = Callers()
    for uri in uris:
        callers.start(uri)
    for one in held:
        assert one.is_asked.wait(10)
    assert len(inline_fetcher()._loops) == 0
    for one in held:
        one.may_answer.set()
    assert callers.join() == {uri: bucket.data(uri) for uri in uris}
    assert len(inline_fetcher()._loops) == 1


def test_a_leader_whose_request_has_ended_goes_and_another_leads(bucket: Bucket, uris: list[str]) -> None:
    held = [Held(bucket, uri) for uri in uris]
    callers = Callers()
    for uri, one in zip(uris, held, strict=True):
        callers.start(uri)
        assert one.is_asked.wait(10)
    # The first leads; each that goes finds another in its place, also when new ones come meanwhile.
    for number, (uri, one) in enumerate(zip(uris, held, strict=True)):
        one.may_answer.set()
        wait_until(lambda uri=uri: uri in callers.found, "its answer is handed over")
        late = bucket.add(f"late{number}", KIB)
        callers.start(late)
        wait_until(lambda late=late: late in callers.found, "one that came later is served")
    assert all(data == bucket.data(uri) for uri, data in callers.join().items())
    assert len(callers.found) == 2 * NUM


def test_errors_are_raised_where_they_belong_and_keep_nobody_s_memory(bucket: Bucket, uris: list[str]) -> None:
    wrong = [uri for number, uri in enumerate(uris) if number % 3 == 0]
    held = [Held(bucket, uri, s3_error(404, "NoSuchKey") if uri in wrong else None) for uri in uris]
    callers = Callers()
    for uri in uris:
        callers.start(uri)
    for one in held:
        assert one.is_asked.wait(10)
    for one in held:
        one.may_answer.set()
    for uri, found in callers.join().items():
        if uri in wrong:
            assert isinstance(found, s3dlio.NotFoundError)
            assert found.uri == uri
        else:
            assert found == bucket.data(uri)
    arena = process_rooms().arena
    with arena.lock:
        arena.collect()
    assert arena.num_leased == 0


def test_p10_a_leader_that_is_interrupted_raises_and_the_others_go_on(bucket: Bucket, uris: list[str]) -> None:
    held = [Held(bucket, uri) for uri in uris]
    callers = Callers()

    def others_follow() -> None:
        assert held[0].is_asked.wait(10)
        for uri in uris[1:]:
            callers.start(uri)
        for one in held[1:]:
            assert one.is_asked.wait(10)

    with interrupting_main(others_follow), pytest.raises(KeyboardInterrupt):
        s3dlio.get(uris[0])
    # What was held is never answered: the others have asked anew.
    assert callers.join() == {uri: bucket.data(uri) for uri in uris[1:]}
    assert [len(bucket.server.requests_of(bucket.path(uri[12:]))) for uri in uris] == [1] + [2] * (NUM - 1)
    assert bytes(s3dlio.get(uris[0])) == bucket.data(uris[0])
    for one in held:
        one.may_answer.set()


def test_p10_a_follower_that_is_interrupted_raises_and_nobody_else_hears_of_it(bucket: Bucket, uris: list[str]) -> None:
    held = [Held(bucket, uri) for uri in uris]
    callers = Callers()
    for uri, one in zip(uris[1:], held[1:], strict=True):
        callers.start(uri)
        assert one.is_asked.wait(10)
    with interrupting_main(lambda: held[0].is_asked.wait(10) and None), pytest.raises(KeyboardInterrupt):
        s3dlio.get(uris[0])
    # Its request is given up, by the leader.
    wait_until(lambda: not inline_fetcher()._crowd._left, "the leader has cancelled it")
    for one in held:
        one.may_answer.set()
    assert callers.join() == {uri: bucket.data(uri) for uri in uris[1:]}
    assert [len(bucket.server.requests_of(bucket.path(uri[12:]))) for uri in uris] == [1] * NUM
    assert bytes(s3dlio.get(uris[0])) == bucket.data(uris[0])


def test_whoever_follows_a_leader_that_is_held_up_goes_on_alone(
    bucket: Bucket, uris: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "_PATIENCE_S", 0.05)
    held = Held(bucket, uris[0])
    callers, is_over = Callers(), threading.Event()
    nested: list[bytes] = []

    def take_long(signum: int, frame: FrameType | None) -> None:
        # In the leader's own thread, in the middle of its wait.
        nested.append(bytes(s3dlio.get(uris[1])))
        for uri in uris[2:]:
            callers.start(uri)
        callers.join()
        is_over.set()

    before = signal.signal(signal.SIGUSR1, take_long)
    try:
        with interrupting_main(lambda: held.is_asked.wait(10) and None, signal.SIGUSR1):
            answering = threading.Thread(target=lambda: is_over.wait(30) and held.may_answer.set())
            answering.start()
            assert bytes(s3dlio.get(uris[0])) == bucket.data(uris[0])
            answering.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert nested == [bucket.data(uris[1])]
    assert callers.found == {uri: bucket.data(uri) for uri in uris[2:]}
    # Another crowd takes the place of the one that was stuck.
    assert bytes(s3dlio.get(uris[1])) == bucket.data(uris[1])
    assert not inline_fetcher()._crowd.is_stuck


def test_shutdown_lets_a_crowd_end_what_it_has_under_way(bucket: Bucket, uris: list[str]) -> None:
    s3dlio.get(bucket.add("second", 2 * KIB))
    s3dlio.get(bucket.add("third", 2 * KIB))
    held = [Held(bucket, uri) for uri in uris]
    callers = Callers()
    for uri in uris:
        callers.start(uri)
    for one in held:
        assert one.is_asked.wait(10)
    old = inline_fetcher()
    s3dlio.shutdown()
    for one in held:
        one.may_answer.set()
    # They had their memory beforehand, since the size was that of the last ones.
    assert callers.join() == {uri: bucket.data(uri) for uri in uris}
    assert not old._loops


def test_timeouts_are_judged_for_each_request_of_a_crowd(bucket: Bucket, uris: list[str]) -> None:
    s3dlio.configure(first_byte_timeout_s=0.5, max_attempts=1)
    held = [Held(bucket, uri) for uri in uris[:6]]
    callers = Callers()
    for uri in uris:
        callers.start(uri)
    for uri, found in callers.join().items():
        if uri in uris[:6]:
            assert isinstance(found, s3dlio.StoreTimeoutError)
            assert found.uri == uri
        else:
            assert found == bucket.data(uri)
    for one in held:
        one.may_answer.set()


FORKING = """
import os, sys, threading, s3dlio
uris = sys.argv[1:]
expected = [bytes(view) for view in s3dlio.get_many(uris)]
s3dlio.get(uris[0])
wrong, is_over = [], threading.Event()

def read(number):
    while not is_over.is_set():
        if bytes(s3dlio.get(uris[number])) != expected[number]:
            wrong.append(number)

threads = [threading.Thread(target=read, args=(number,)) for number in range(len(uris))]
for thread in threads:
    thread.start()
codes = []
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        # Somebody leads, and others follow, in the parent alone.
        os._exit(0 if [bytes(s3dlio.get(uri)) for uri in uris] == expected else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
is_over.set()
for thread in threads:
    thread.join(30)
print("DONE", codes == [0] * 10, wrong == [], any(thread.is_alive() for thread in threads), flush=True)
"""


def test_p10_a_fork_with_a_leader_under_way_works_on_both_sides(bucket: Bucket) -> None:
    with ScriptProcess(FORKING, bucket.fill(8, 8 * KIB)) as program:
        assert program.expect("DONE", 60) == ["True", "True", "False"]
        assert program.wait(20) == 0
        assert program.stderr_text() == ""


@pytest.mark.parametrize(
    ("wire", "is_shared"),
    [
        (SimpleNamespace(is_local=True), False),
        (SimpleNamespace(is_local=False, origin=None), False),
        (SimpleNamespace(is_local=False, origin=("host", 80), expires_at_s=None), True),
        (SimpleNamespace(is_local=False, origin=("host", 80), expires_at_s=4e9), True),
        (SimpleNamespace(is_local=False, origin=("host", 80), expires_at_s=1e9), False),
    ],
    ids=["local", "SDK lane", "lasting credentials", "valid credentials", "expired credentials"],
)
def test_what_would_hold_up_others_is_done_alone(wire: SimpleNamespace, is_shared: bool) -> None:
    assert crowd.may_share(Fetch(None, "s3://bucket/key", wire, "key")) is is_shared
