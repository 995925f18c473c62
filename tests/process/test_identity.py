"""Who a worker is and when it is (P1, P15, P16), and what of a pool the network can see (S2)."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import s3dlio
from tests.process.kit import Bucket, wait_until, worker_processes
from tests.support.processes import ScriptProcess, wait_gone
from tests.support.remains import socket_directories

KIB = 1 << 10


def test_p15_workers_are_killed_by_their_pidfd_and_never_by_a_number(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = bucket.fill(20, KIB)
    with s3dlio.Pool(procs=2, jobs=2, memory_bytes="16MiB") as pool:
        wait_until(lambda: bool(bucket.check(pool.fetch(uris))) and not socket_directories(), "two workers")
        core = pool._core
        assert core is not None

        def never(*_: Any) -> None:
            raise AssertionError("a number may be another's by now")

        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", never)
            patch.setattr(os, "killpg", never)
            core._crew.kill(0, "for the test")
            wait_until(lambda: pool.stats()["worker_restarts"] == 1, "its death is noticed")
            # Long gone: it is not in the books any more, and whoever has its number now is not meant.
            core._crew.kill(0, "for the test")
            assert bucket.check(pool.fetch(uris)) == uris


def test_p15_a_signal_to_a_worker_that_has_ended_meets_nobody(bucket: Bucket) -> None:
    uris = bucket.fill(20, KIB)
    with s3dlio.Pool(procs=1, jobs=2, memory_bytes="16MiB") as pool:
        assert bucket.check(pool.fetch(uris)) == uris
        core = pool._core
        assert core is not None
        [worker] = worker_processes()
        worker.kill()
        assert wait_gone([worker], 5) == []
        # Dead, and its death not yet taken notice of.
        core._crew.kill(0, "too late")
        assert bucket.check(pool.fetch(uris)) == uris
        wait_until(lambda: pool.stats()["worker_restarts"] == 1, "it is noticed")


def test_p15_a_worker_watches_the_very_process_that_started_it(bucket: Bucket) -> None:
    with s3dlio.Pool(procs=1, jobs=2, memory_bytes="16MiB") as pool:
        assert bucket.check(pool.fetch([bucket.add("key", KIB)]))
        [worker] = worker_processes()
        # Source: pidfd_open(2): /proc/<pid>/fdinfo of a pidfd has a line `Pid:`.
        watched = {
            int(line.split()[1])
            for info in Path(f"/proc/{worker.pid}/fdinfo").iterdir()
            for line in info.read_text().splitlines()
            if line.startswith("Pid:")
        }
        assert watched == {os.getpid()}


REAPER = """
import os, signal, sys, s3dlio
uris = sys.argv[1:]
# The kernel reaps what ends, so every number is free at once.
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with s3dlio.Pool(procs=2, jobs=2, memory_bytes="16MiB") as pool:
    assert len(list(pool.fetch(uris))) == len(uris)
    print("READY", flush=True)
    sys.stdin.readline()
    while pool.stats()["worker_restarts"] < 2 or pool.stats()["workers"] < 2:
        assert len(list(pool.fetch(uris))) == len(uris)
print("DONE", flush=True)
"""


def test_p15_a_program_that_reaps_every_child_keeps_a_whole_pool(bucket: Bucket) -> None:
    with ScriptProcess(REAPER, bucket.fill(20, KIB)) as caller:
        caller.expect("READY")
        wait_until(lambda: len(worker_processes(caller.pid)) == 2, "two workers")
        for worker in worker_processes(caller.pid):
            worker.kill()
        caller.send_line()
        caller.expect("DONE")
        assert caller.wait(20) == 0
        assert caller.stderr_text().count("\n") == caller.stderr_text().count("killed by") + caller.stderr_text().count("exited with")


class Clock:
    """A wall clock that jumps by a year, to and fro, whenever it is read."""

    def __init__(self) -> None:
        self.num_reads = 0

    def __call__(self) -> float:
        self.num_reads += 1
        return 1.7e9 + (365 * 86_400) * (-1) ** self.num_reads


def test_p16_a_wall_clock_that_jumps_changes_nothing(bucket: Bucket, procs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = bucket.fill(100, 10 * KIB)
    s3dlio.configure(worker_silence_s=2, worker_start_s=20)
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", Clock())
            patch.setattr(time, "time_ns", lambda: 0)
            for _ in range(3):
                assert bucket.check(pool.fetch(uris)) == uris
                assert [bytes(view) for view in s3dlio.get_many(uris[:10])] == [bucket.data(uri) for uri in uris[:10]]
        assert pool.stats()["worker_restarts"] == 0


def test_p16_the_budget_of_restarts_does_not_read_the_wall_clock(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = bucket.fill(10, KIB)
    s3dlio.configure(worker_restarts_per_minute=1)
    with s3dlio.Pool(procs=1, jobs=4, memory_bytes="16MiB") as pool:
        assert bucket.check(pool.fetch(uris)) == uris
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", Clock())
            worker_processes()[0].kill()
            assert bucket.check(pool.fetch(uris)) == uris
            wait_until(lambda: bool(bucket.check(pool.fetch(uris))) and pool.stats()["worker_restarts"] == 1, "one restart")
            worker_processes()[0].kill()
            # A year has passed for whoever asks the wrong clock, and the budget would be there again.
            with pytest.raises(s3dlio.WorkerLostError):
                bucket.check(pair for _ in range(100) for pair in pool.fetch(uris))


def _listening(pid: int) -> set[Any]:
    """Returns the addresses at which a process can be reached, by TCP or UDP: /proc/net, and the inodes of its descriptors."""
    found = psutil.Process(pid).net_connections("inet")
    return {one.laddr for one in found if one.status == psutil.CONN_LISTEN or one.type == socket.SOCK_DGRAM}


def test_s2_no_socket_of_a_pool_can_be_reached_from_the_network(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(20, KIB)
    # The test's own server listens in this process.
    before = _listening(os.getpid())
    with s3dlio.Pool(procs=procs, jobs=2, memory_bytes="16MiB") as pool:
        assert _listening(os.getpid()) == before, "while the workers start"
        wait_until(lambda: bool(bucket.check(pool.fetch(uris))) and not socket_directories(), "all work")
        assert _listening(os.getpid()) == before
        for worker in worker_processes():
            assert _listening(worker.pid) == set()


@pytest.mark.parametrize("moment", ["before", "after"], ids=["before-it-reports", "after-it-reported"])
def test_p1_worker_killed_around_its_report_loses_and_doubles_nothing(
    bucket: Bucket, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3dlio.engine.pool import crew
    from tests.process.test_liars import EPILOGUE, PRELUDE

    # The first worker ends itself in the act of reporting its tenth object: with the report in its hand, or out of it.
    body = f"""
    num = 0
    def _flush(self):
        self.num += sum(type(event) is PartFetched for event in self._events)
        if self.num >= 10 and {moment == "before"}:
            os.kill(os.getpid(), {signal.SIGKILL.value})
        super()._flush()
        if self.num >= 10:
            # Its last words are on their way: ZeroMQ's own thread sends them.
            import time
            time.sleep(0.05)
            os.kill(os.getpid(), {signal.SIGKILL.value})
"""
    real = crew.subprocess.Popen
    monkeypatch.setattr(
        crew.subprocess, "Popen", lambda command, **rest: real([command[0], "-P", "-c", PRELUDE + body + EPILOGUE], **rest)
    )
    uris = bucket.fill(200, 10 * KIB)
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB") as pool:
        wait_until(lambda: bucket.check(pool.fetch(uris)) == uris and pool.stats()["worker_restarts"] == 1, "it has died")
        assert bucket.check(pool.fetch(uris)) == uris
        assert pool.stats()["objects"] % 200 == 0
