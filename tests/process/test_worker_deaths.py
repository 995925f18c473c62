"""Workers that die or hang: the epoch is still exactly once with the right bytes, or the error says who died of what."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

import s3dlio
from tests.process.kit import Bucket, wait_quiet, wait_until, worker_processes
from tests.support.answers import stall_after, stall_before_headers
from tests.support.processes import ScriptProcess, wait_gone
from tests.support.remains import socket_directories

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def pool(bucket: Bucket) -> Iterator[s3dlio.Pool]:
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="64MiB") as pool:
        yield pool


def ready_workers(pool: s3dlio.Pool, bucket: Bucket) -> list[psutil.Process]:
    """Returns both workers after they have shown that they work."""
    uris = bucket.fill(8, KIB, "warm")
    # The socket's name goes when all workers are connected.
    wait_until(lambda: bool(bucket.check(pool.fetch(uris))) and not socket_directories(), "two workers")
    return worker_processes()


def test_p1_idle_worker_killed_is_replaced_and_nothing_is_lost(pool: s3dlio.Pool, bucket: Bucket) -> None:
    uris = bucket.fill(60, 10 * KIB)
    victim, other = ready_workers(pool, bucket)
    victim.kill()
    assert wait_gone([victim], 5) == []
    assert bucket.check(pool.fetch(uris)) == uris
    wait_until(lambda: pool.stats()["worker_restarts"] == 1, "the restart is counted")
    # The dead one is noticed by whoever waits, so a fetch may have ended before the new one was there.
    wait_until(lambda: bool(bucket.check(pool.fetch(uris[:4]))) and pool.stats()["workers"] == 2, "another was started")
    assert victim.pid not in {process.pid for process in worker_processes()}
    assert other in worker_processes()


def test_p1_worker_killed_while_fetching_loses_no_object(pool: s3dlio.Pool, bucket: Bucket) -> None:
    uris = bucket.fill(40, 100 * KIB)
    victim, _ = ready_workers(pool, bucket)
    never = threading.Event()
    # One request of each worker stalls in the middle of its body, so the killed one is writing a slot.
    for key in ("o0004", "o0005", "o0006", "o0007"):
        bucket.server.faults[bucket.path(key)] = [stall_after(30 * KIB, never)]
    pairs = pool.fetch(uris)
    first = [next(pairs) for _ in range(4)]
    bucket.server.wait_for_requests(8 + 8)
    victim.kill()
    begun_s = time.monotonic()
    threading.Timer(0.8, never.set).start()
    seen = bucket.check(first) + bucket.check(pairs)
    assert seen == uris
    assert pool.stats()["worker_restarts"] == 1
    assert time.monotonic() - begun_s < 10


def test_p1_death_is_noticed_within_a_second_of_waiting(pool: s3dlio.Pool, bucket: Bucket) -> None:
    uri = bucket.add("stalled", 50 * KIB)
    workers = ready_workers(pool, bucket)
    never = threading.Event()
    bucket.server.faults[bucket.path("stalled")] = [stall_after(KIB, never)] * 2
    killed_s = 0.0

    def kill_the_one_that_fetches() -> None:
        nonlocal killed_s
        bucket.server.wait_for_requests(num_before + 1)
        killed_s = time.monotonic()
        for worker in workers:
            worker.kill()

    num_before = len(bucket.server.requests)
    bucket.server.faults[bucket.path("stalled")] = [stall_after(KIB, never)]
    thread = threading.Thread(target=kill_the_one_that_fetches)
    thread.start()
    assert bucket.check(pool.fetch([uri])) == [uri]
    thread.join()
    second = bucket.server.requests_of(bucket.path("stalled"))[1]
    # Noticed at once; what remains is the start of another worker on a busy machine.
    assert second.time_s - killed_s < 5
    assert pool.stats()["worker_restarts"] == 2


def test_p1_death_between_the_parts_of_a_split_object(pool: s3dlio.Pool, bucket: Bucket) -> None:
    uri = bucket.add("large", 40 * MIB)
    victim, _ = ready_workers(pool, bucket)
    gate = threading.Event()
    bucket.server.faults[bucket.path("large")] = [stall_after(MIB, gate)] * 5
    num_before = len(bucket.server.requests)

    def kill_one() -> None:
        bucket.server.wait_for_requests(num_before + 5)
        victim.kill()
        wait_gone([victim], 5)
        gate.set()

    thread = threading.Thread(target=kill_one)
    thread.start()
    assert bucket.check(pool.fetch([s3dlio.ObjectRef(uri, 40 * MIB)])) == [uri]
    thread.join()
    assert pool.stats()["objects"] % 8 == 1, "the epochs of eight, and this one object once"


def test_p1_views_delivered_before_stay_readable(pool: s3dlio.Pool, bucket: Bucket) -> None:
    uris = bucket.fill(20, 50 * KIB)
    workers = ready_workers(pool, bucket)
    held = list(pool.fetch(uris))
    for worker in workers:
        worker.kill()
    wait_gone(workers, 5)
    assert bucket.check(held) == uris
    assert bucket.check(pool.fetch(uris)) == uris
    assert bucket.check(held) == uris


def test_p1_kills_during_a_whole_epoch_deliver_each_object_once(bucket: Bucket) -> None:
    s3dlio.configure(worker_restarts_per_minute=20)
    uris = bucket.fill(600, 20 * KIB)
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="8MiB") as pool:
        seen = []
        for number, (uri, view) in enumerate(pool.fetch(uris, ordered=False)):
            assert bytes(view) == bucket.data(uri)
            seen.append(uri)
            if number % 150 == 75 and (alive := worker_processes()):
                alive[0].kill()
        assert Counter(seen) == Counter(uris)
        assert pool.stats()["worker_restarts"] >= 1


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS], ids=lambda number: number.name)
def test_p2_error_names_worker_signal_and_uri_when_the_budget_is_spent(bucket: Bucket, number: signal.Signals) -> None:
    s3dlio.configure(worker_restarts_per_minute=1)
    uri = bucket.add("poison", 10 * KIB)
    never = threading.Event()
    bucket.server.faults[bucket.path("poison")] = [stall_after(KIB, never)] * 3
    stop = threading.Event()

    def kill_whoever_fetches() -> None:
        for count in (1, 2):
            bucket.server.wait_for_requests(count)
            for worker in worker_processes():
                worker.send_signal(number)
            wait_gone(worker_processes(), 0)
        stop.set()

    with s3dlio.Pool(procs=1, jobs=2, memory_bytes="16MiB") as pool:
        thread = threading.Thread(target=kill_whoever_fetches)
        thread.start()
        with pytest.raises(s3dlio.WorkerLostError) as caught:
            list(pool.fetch([uri]))
        thread.join()
        assert number.name in str(caught.value)
        assert "worker 1" in str(caught.value)
        assert caught.value.uri == uri


def test_p2_worker_that_exits_with_a_code_is_named_with_it(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "no-number")
    s3dlio.configure(worker_restarts_per_minute=1)
    uri = bucket.add("never", KIB)
    with s3dlio.Pool(procs=2, jobs=2, memory_bytes="16MiB") as pool, pytest.raises(s3dlio.WorkerLostError, match="exited with code 1"):
        list(pool.fetch([uri]))


STARVING_CALLER = """
import resource, sys, s3dlio
uri = sys.argv[1]
s3dlio.configure(worker_restarts_per_minute=1)
pool = s3dlio.Pool(procs=1, jobs=2, memory_bytes="16MiB")
list(pool.fetch([uri]))
# Room for what this process has and a little more; a worker cannot map the segment with it.
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
print("READY", flush=True)
sys.stdin.readline()
try:
    for _ in range(1000):
        list(pool.fetch([uri]))
except s3dlio.WorkerLostError as error:
    print("LOST", error, flush=True)
"""


def test_p2_worker_without_address_space_says_so(bucket: Bucket) -> None:
    uri = bucket.add("key", KIB)
    with ScriptProcess(STARVING_CALLER, [uri]) as caller:
        caller.expect("READY")
        for worker in worker_processes(caller.pid):
            worker.kill()
        caller.send_line()
        text = " ".join(caller.expect("LOST"))
        assert "exited with code 3" in text
        assert "ulimit" in text


def test_p3_m5_stopped_worker_is_killed_and_cannot_write_late(bucket: Bucket) -> None:
    s3dlio.configure(worker_silence_s=0.6)
    uri = bucket.add("object", 200 * KIB)
    go_on = threading.Event()
    bucket.server.faults[bucket.path("object")] = [stall_after(100 * KIB, go_on)]
    stopped: list[psutil.Process] = []

    def stop_it() -> None:
        bucket.server.wait_for_requests(1)
        stopped.extend(worker_processes())
        for worker in stopped:
            worker.suspend()
        # Its socket now gets wrong news: were it to run again, it would write into a slot that is not its own.
        go_on.set()

    with s3dlio.Pool(procs=1, jobs=2, memory_bytes="16MiB") as pool:
        thread = threading.Thread(target=stop_it)
        thread.start()
        [(_, view)] = pool.fetch([uri])
        thread.join()
        # It was awaited dead before its slot was given on, so nothing can be written after this.
        assert wait_gone(stopped, 0) == []
        assert bytes(view) == bucket.data(uri)
        assert pool.stats()["worker_restarts"] == 1


def test_p3_slow_store_does_not_look_like_a_hang(bucket: Bucket) -> None:
    s3dlio.configure(worker_silence_s=0.4)
    uri = bucket.add("slow", 10 * KIB)
    go_on = threading.Event()
    bucket.server.faults[bucket.path("slow")] = [stall_before_headers(go_on)]
    with s3dlio.Pool(procs=1, jobs=2, memory_bytes="16MiB") as pool:
        timer = threading.Timer(1.6, go_on.set)
        timer.start()
        assert bucket.check(pool.fetch([uri])) == [uri]
        timer.join()
        assert pool.stats()["worker_restarts"] == 0


def test_p3_slow_store_does_not_look_like_a_hang_to_many_threads(bucket: Bucket) -> None:
    s3dlio.configure(worker_silence_s=0.8)
    uris = bucket.fill(8, 10 * KIB)
    go_on = threading.Event()
    for index in range(8):
        bucket.server.faults[bucket.path(f"o{index:04d}")] = [stall_before_headers(go_on)]
    with s3dlio.Pool(procs=1, jobs=8, memory_bytes="16MiB") as pool:
        threads = [threading.Thread(target=lambda uri=uri: bucket.check(pool.fetch([uri]))) for uri in uris]
        timer = threading.Timer(1.5, go_on.set)
        for thread in [*threads, timer]:
            thread.start()
        for thread in [*threads, timer]:
            thread.join(20)
        assert pool.stats()["worker_restarts"] == 0
        assert pool.stats()["objects"] == 8


def test_worker_killed_while_another_still_boots_leaves_that_one_its_door(bucket: Bucket) -> None:
    uris = bucket.fill(20, KIB)
    s3dlio.configure(worker_start_s=60)
    with s3dlio.Pool(procs=2, jobs=2, memory_bytes="16MiB") as pool:
        worker_processes()[0].kill()
        assert bucket.check(pool.fetch(uris)) == uris
        wait_until(lambda: bool(bucket.check(pool.fetch(uris))) and pool.stats()["workers"] == 2, "the other was replaced")
        assert pool.stats()["worker_restarts"] == 1
        wait_until(lambda: _num_connected(pool, bucket) == 2, "both workers fetch", 10)


def _num_connected(pool: s3dlio.Pool, bucket: Bucket) -> int:
    bucket.check(pool.fetch(bucket.fill(40, KIB)))
    return sum(bool(worker.net_connections("tcp")) for worker in worker_processes())


def test_long_pause_of_the_consumer_does_not_look_like_a_hang(bucket: Bucket) -> None:
    s3dlio.configure(worker_silence_s=0.3)
    uris = bucket.fill(300, 10 * KIB)
    pause = threading.Event()
    with s3dlio.Pool(procs=1, jobs=2, memory_bytes="16MiB") as pool:
        seen = []
        for uri, view in pool.fetch(uris):
            assert bytes(view) == bucket.data(uri)
            seen.append(uri)
            if len(seen) in (2, 100):
                pause.wait(1.0)
        del view
        assert seen == uris
        assert pool.stats()["worker_restarts"] == 0
        wait_quiet(pool)


def test_p1_what_only_this_process_can_read_survives_the_worker_it_was_meant_for(pool: s3dlio.Pool, bucket: Bucket) -> None:
    # Objects of memory:// lie here, so the coordinator reads them itself, on behalf of the worker that the scheduler chose.
    uris = [f"memory://here/{number}" for number in range(60)]
    for number, uri in enumerate(uris):
        s3dlio.put_bytes(uri, bytes([number]) * 100 * KIB)
    victim, _ = ready_workers(pool, bucket)
    pairs = pool.fetch(uris)
    seen = [next(pairs) for _ in range(3)]
    victim.kill()
    assert wait_gone([victim], 5) == []
    core = pool._core
    assert core is not None
    wait_until(lambda: core.wait(0.05) is None and pool.stats()["worker_restarts"] == 1, "its death is noticed")
    seen += list(pairs)
    assert [uri for uri, _ in seen] == uris
    assert all(bytes(view) == bytes([number]) * 100 * KIB for number, (_, view) in enumerate(seen))
    del seen
    assert wait_quiet(pool)["memory_used_bytes"] == 0
    assert core._local_owners == {}


def test_p2_a_pool_is_whole_again_as_soon_as_its_budget_allows(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = bucket.fill(40, 10 * KIB)
    s3dlio.configure(worker_restarts_per_minute=2)
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB") as pool:
        for _ in range(2):
            victims = ready_workers(pool, bucket)
            for victim in victims:
                victim.kill()
            assert wait_gone(victims, 5) == []
            # Without waiting for anything: a look is enough.
            wait_until(lambda: pool.stats()["worker_restarts"] == 2, "the deaths are noticed")
        wait_until(lambda: pool.stats()["workers"] == 0, "both are gone for good")
        core = pool._core
        assert core is not None
        with pytest.raises(s3dlio.WorkerLostError):
            list(pool.fetch(uris))
        core._supervisor._restarts.clear()  # a minute passes
        assert bucket.check(pool.fetch(uris)) == uris
        assert pool.stats()["workers"] == 2
        assert pool.stats()["worker_restarts"] == 4
