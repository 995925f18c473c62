"""Starts that fail half way (P13), and interruptions at the worst moments (P7): what was begun is taken down, and the error says why."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import s3dlio
from s3dlio.engine.pool import crew
from tests.process.kit import Bucket, wait_quiet, wait_until, worker_processes
from tests.support.processes import ScriptProcess, wait_gone
from tests.support.remains import socket_directories

KIB = 1 << 10


def failing(real: Callable[..., Any], number: int, error: OSError) -> Callable[..., Any]:
    """Returns a function that works until it is called for the n-th time, and not from then on."""
    calls = 0

    def call(*args: Any, **rest: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= number:
            raise error
        return real(*args, **rest)

    return call


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("what", ["fork", "pidfd"])
def test_p13_the_nth_worker_that_cannot_be_started_takes_the_others_with_it(
    monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    started: list[psutil.Process] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **rest: Any) -> None:
            super().__init__(*args, **rest)
            started.append(psutil.Process(self.pid))

    error = OSError(errno.EAGAIN, "no more processes") if what == "fork" else OSError(errno.EMFILE, "no more descriptors")
    with monkeypatch.context() as patch:
        patch.setattr(crew.subprocess, "Popen", failing(Popen, number, error) if what == "fork" else Popen)
        if what == "pidfd":
            # psutil has none of its own.
            patch.setattr(os, "pidfd_open", failing(os.pidfd_open, number, error))
        with pytest.raises(s3dlio.WorkerLostError) as caught:
            s3dlio.Pool(procs=4, memory_bytes="16MiB")
    assert error.strerror in str(caught.value)
    assert len(started) == number - (what == "fork")
    assert wait_gone(started, 5) == []
    assert worker_processes() == []
    assert socket_directories() == set()


def test_p13_no_directory_for_the_socket_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", failing(tempfile.mkdtemp, 1, OSError(errno.ENOSPC, "the disk is full")))
        with pytest.raises(s3dlio.WorkerLostError, match="the disk is full"):
            s3dlio.Pool(procs=2, memory_bytes="16MiB")


def test_p13_a_restart_that_fails_leaves_the_work_to_the_others(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = bucket.fill(40, 10 * KIB)
    s3dlio.configure(worker_restarts_per_minute=1000)
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB") as pool:
        wait_until(lambda: bool(bucket.check(pool.fetch(uris))) and not socket_directories(), "two workers")
        with monkeypatch.context() as patch:
            patch.setattr(crew.subprocess, "Popen", failing(subprocess.Popen, 1, OSError(errno.EAGAIN, "no more processes")))
            worker_processes()[0].kill()
            wait_until(lambda: bucket.check(pool.fetch(uris)) == uris and pool.stats()["workers"] == 1, "one is left")
        assert socket_directories() == set()
        wait_until(lambda: bucket.check(pool.fetch(uris)) == uris and pool.stats()["workers"] == 2, "the next try succeeds")


SCARCE = """
import os, resource, sys, s3dlio
uris = sys.argv[1:]
# Modules are there, and what opens once for all is open.
with s3dlio.Pool(procs=2, jobs=2, memory_bytes="8MiB") as pool:
    assert len(list(pool.fetch(uris))) == len(uris)
num = max(map(int, os.listdir("/proc/self/fd"))) + 1
outcomes = []
for spare in range(0, 48, 6):
    resource.setrlimit(resource.RLIMIT_NOFILE, (num + spare, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        with s3dlio.Pool(procs=2, jobs=2, memory_bytes="8MiB") as pool:
            found = [len(view) for _, view in pool.fetch(uris)]
        outcomes.append("read" if len(found) == len(uris) else "wrong")
    except s3dlio.S3dlioError as error:
        outcomes.append(type(error).__name__)
    except OSError as error:
        outcomes.append("raw:" + str(error).replace(" ", "_"))
print("OUTCOMES", *outcomes, flush=True)
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
print("LEFT", len(os.listdir("/proc/self/fd")) - num, flush=True)
"""


def test_p13_too_few_descriptors_are_an_error_and_not_the_end_of_the_process(bucket: Bucket, tmp_path: Path) -> None:
    with ScriptProcess(SCARCE, bucket.fill(6, KIB)) as caller:
        outcomes = caller.expect("OUTCOMES", 60)
        assert "WorkerLostError" in outcomes, outcomes
        assert outcomes[-1] == "read"
        assert "wrong" not in outcomes
        assert not [outcome for outcome in outcomes if outcome.startswith("raw:") and "Too_many_open_files" not in outcome]
        assert int(caller.expect("LEFT")[0]) <= 1
        assert caller.wait(20) == 0
        assert caller.descendants() == []


@pytest.mark.parametrize("moment", ["before-the-wait", "in-the-wait", "after-the-wait"])
def test_p7_an_interrupt_on_the_way_into_a_wait_leaves_no_waiter_behind(
    bucket: Bucket, procs: int, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    from tests.support.answers import stall_before_headers

    uris, stalled = bucket.fill(8, KIB), bucket.add("stalled", KIB)
    bucket.server.faults[bucket.path("stalled")] = [stall_before_headers(never)]
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        assert bucket.check(pool.fetch(uris)) == uris
        core = pool._core
        assert core is not None

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            if moment == "before-the-wait":
                patch.setattr(pool, "_wait", interrupted)
            elif moment == "in-the-wait":
                patch.setattr(core, "wait", interrupted)
            else:
                patch.setattr(core, "note_wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                list(pool.fetch([stalled]))
        never.set()
        assert core.num_waiting == 0
        assert bucket.check(pool.fetch(uris)) == uris
        assert wait_quiet(pool)["memory_used_bytes"] == 0
    assert not core.finalizer.alive, "it was closed at once, and not left to a waiter that is not there"


TWICE = """
import os, signal, sys, s3dlio
pool = s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB")
list(pool.fetch(sys.argv[1:]))
print("READY", flush=True)
sys.stdin.readline()
try:
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("CLOSING", flush=True)
        pool.close()
        raise
except KeyboardInterrupt:
    print("INTERRUPTED", flush=True)
    sys.exit(130)
"""


def test_p7_a_second_interrupt_cuts_the_farewell_short_and_still_leaves_nobody(bucket: Bucket, tmp_path: Path) -> None:
    with ScriptProcess(TWICE, bucket.fill(8, KIB)) as caller:
        caller.expect("READY")
        workers = worker_processes(caller.pid)
        for worker in workers:
            # They do not hear that they are to stop, so the close waits its full second for them.
            worker.suspend()
        caller.send_line()
        wait_until(lambda: caller.process.status() == psutil.STATUS_SLEEPING, "it waits")
        caller.send_signal(signal.SIGINT)
        caller.expect("CLOSING")
        begun_s = time.monotonic()
        caller.send_signal(signal.SIGINT)
        caller.expect("INTERRUPTED")
        assert time.monotonic() - begun_s < 5
        assert caller.wait(10) == 130
        assert wait_gone(workers, 2) == []
        assert caller.stderr_text() == ""


def test_p4_p3_killed_caller_takes_stopped_workers_with_it(bucket: Bucket) -> None:
    with ScriptProcess(TWICE, bucket.fill(8, KIB)) as caller:
        caller.expect("READY")
        workers = worker_processes(caller.pid)
        for worker in workers:
            worker.suspend()
        # The signal is on its way when `suspend` returns.
        wait_until(lambda: all(worker.status() == psutil.STATUS_STOPPED for worker in workers), "the workers stand still")
        caller.send_signal(signal.SIGKILL)
        caller.wait()
        # Each is a process group of its own, so the kernel continues it when its parent is gone (setpgid(2), orphaned groups).
        assert wait_gone(workers, 2) == []
