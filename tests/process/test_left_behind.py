"""Callers that are killed or interrupted, and loops that are left early: nothing stays behind (P4, P7, P8)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import s3dlio
from tests.process.kit import Bucket, wait_quiet, wait_until, worker_processes
from tests.support.answers import stall_after
from tests.support.processes import ScriptProcess, is_alive, wait_gone
from tests.support.remains import holders, memfds, open_fds, shm_entries, socket_directories

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the programs under test, and of nobody else."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


READER = """
import itertools, os, sys, s3dlio
uris = sys.argv[2:]
if sys.argv[1] == "with-a-child":
    with s3dlio.Pool(procs=1, memory_bytes="32MiB") as early:
        next(iter(early.fetch(uris[:1])))
        pid = os.fork()
    if pid == 0:
        import signal
        signal.pause()
def say(uri, view, seen=[]):
    seen.append(uri)
    if len(seen) == 2:
        if sys.argv[1] == "with-a-late-child" and os.fork() == 0:
            os.execvp("sleep", ["sleep", "60"])
        print("READING", flush=True)
try:
    s3dlio.mp_get(procs=2, jobs=4, uris=itertools.cycle(uris), sink=say, memory_bytes="256MiB")
except KeyboardInterrupt:
    print("INTERRUPTED", flush=True)
    sys.exit(130)
"""


@pytest.mark.parametrize("mode", ["plain", "with-a-child", "with-a-late-child"])
def test_p4_killed_caller_leaves_nothing_after_two_seconds(bucket: Bucket, mode: str, folder: Path) -> None:
    uris = bucket.fill(4, 32 * MIB)
    shm = shm_entries()
    with ScriptProcess(READER, [mode, *uris]) as caller:
        caller.expect("READING")
        workers = worker_processes(caller.pid)
        assert len(workers) == 2
        inodes = set(memfds(workers[0].pid)) & set(memfds(caller.pid))
        assert inodes
        strangers = {process.pid for process in caller.descendants()} - {worker.pid for worker in workers}
        caller.send_signal(signal.SIGKILL)
        caller.wait()
        assert wait_gone(workers, 2.0) == []
        # A forked child of the user's own may live on with what it inherited; nobody else holds the memory.
        assert holders(inodes) <= strangers
        assert socket_directories(str(folder)) == set()
        assert list(folder.iterdir()) == []
        assert shm_entries() <= shm


STARTER = """
import s3dlio, sys
print("STARTING", flush=True)
pool = s3dlio.Pool(procs=2, memory_bytes="32MiB")
print("STARTED", flush=True)
sys.stdin.readline()
"""


def test_p4_caller_killed_while_its_workers_boot_leaves_no_socket_directory(folder: Path) -> None:
    with ScriptProcess(STARTER) as caller:
        caller.expect("STARTED")
        workers = worker_processes(caller.pid)
        caller.send_signal(signal.SIGKILL)
        caller.wait()
        assert wait_gone(workers, 5.0) == []
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("is_terminal", [False, True], ids=["caller-alone", "whole-group"])
def test_p7_sigint_is_one_clean_interrupt(bucket: Bucket, is_terminal: bool, folder: Path) -> None:
    uris = bucket.fill(4, MIB)
    with ScriptProcess(READER, ["plain", *uris]) as caller:
        caller.expect("READING")
        workers = worker_processes(caller.pid)
        (caller.send_signal_to_group if is_terminal else caller.send_signal)(signal.SIGINT)
        caller.expect("INTERRUPTED")
        assert caller.wait(10) == 130
        assert wait_gone(workers, 2.0) == []
        assert caller.stderr_text() == ""
        assert list(folder.iterdir()) == []


def test_p7_sigterm_ends_everything(bucket: Bucket, folder: Path) -> None:
    uris = bucket.fill(4, MIB)
    with ScriptProcess(READER, ["plain", *uris]) as caller:
        caller.expect("READING")
        workers = worker_processes(caller.pid)
        caller.send_signal_to_group(signal.SIGTERM)
        assert caller.wait(10) == -signal.SIGTERM
        assert wait_gone(workers, 2.0) == []
        assert caller.stderr_text() == ""
        assert list(folder.iterdir()) == []


def test_p7_workers_ignore_sigint_and_sighup(bucket: Bucket) -> None:
    uris = bucket.fill(20, KIB)
    with s3dlio.Pool(procs=2, jobs=2, memory_bytes="16MiB") as pool:
        wait_until(lambda: bool(bucket.check(pool.fetch(uris))) and pool.stats()["objects"] >= 40, "two epochs")
        workers = worker_processes()
        # Until it has set its handlers, a booting worker is not to be signalled: only the pool knows its number.
        wait_until(lambda: all(_ignores(worker.pid, signal.SIGHUP) for worker in workers), "handlers are set")
        for worker in workers:
            worker.send_signal(signal.SIGINT)
            worker.send_signal(signal.SIGHUP)
        assert bucket.check(pool.fetch(uris)) == uris
        assert all(is_alive(worker) for worker in workers)
        assert pool.stats()["worker_restarts"] == 0


def _ignores(pid: int, number: signal.Signals) -> bool:
    # Source: proc_pid_status(5), SigIgn: a mask in hexadecimal.
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    return bool(mask >> (number - 1) & 1)


@pytest.fixture
def pool(bucket: Bucket, procs: int) -> Iterator[s3dlio.Pool]:
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        bucket.check(pool.fetch(bucket.fill(8, KIB, "warm")))
        yield pool


def assert_clean_and_usable(pool: s3dlio.Pool, bucket: Bucket, uris: list[str]) -> None:
    stats = wait_quiet(pool)
    assert stats["views_held"] == 0
    assert stats["memory_used_bytes"] == 0
    assert bucket.check(pool.fetch(uris)) == uris
    assert wait_quiet(pool)["memory_used_bytes"] == 0


def test_p8_break_leaves_nothing_and_the_next_epoch_works(pool: s3dlio.Pool, bucket: Bucket) -> None:
    uris = bucket.fill(60, 30 * KIB)
    fds = len(open_fds(os.getpid()))
    for ordered in (True, False):
        for uri, view in pool.fetch(uris, ordered=ordered):
            assert bytes(view) == bucket.data(uri)
            break
        del view
        assert_clean_and_usable(pool, bucket, uris)
    # An inline pool opens its connections in this process, up to its jobs.
    assert len(open_fds(os.getpid())) <= fds + 2 * 4 + 2


def test_p8_dropped_and_closed_iterators_are_over(pool: s3dlio.Pool, bucket: Bucket) -> None:
    uris = bucket.fill(60, 30 * KIB)
    iterator = pool.fetch(uris)
    next(iterator)
    del iterator
    assert_clean_and_usable(pool, bucket, uris)
    closed = pool.fetch(uris)
    next(closed)
    closed.close()  # type: ignore[attr-defined]
    assert list(closed) == []
    assert_clean_and_usable(pool, bucket, uris)


def test_p8_break_while_a_body_stalls_frees_its_slot(pool: s3dlio.Pool, bucket: Bucket) -> None:
    uris = bucket.fill(6, 100 * KIB)
    never = threading.Event()
    for index in range(1, 6):
        bucket.server.faults[bucket.path(f"o{index:04d}")] = [stall_after(50 * KIB, never)]
    for uri, view in pool.fetch(uris):
        assert bytes(view) == bucket.data(uri)
        break
    del view
    bucket.server.faults.clear()
    assert_clean_and_usable(pool, bucket, uris)


def test_p8_exception_in_the_loop_with_its_traceback_held(pool: s3dlio.Pool, bucket: Bucket) -> None:
    uris = bucket.fill(60, 30 * KIB)

    def train() -> None:
        for _, view in pool.fetch(uris):
            raise ArithmeticError(len(view))

    with pytest.raises(ArithmeticError) as held:
        train()
    # The frame in the traceback still holds the iterator and one view.
    assert bucket.check(pool.fetch(uris)) == uris
    assert pool.stats()["views_held"] == 1
    held.value.__traceback__ = None
    del held
    assert_clean_and_usable(pool, bucket, uris)


def test_p8_hundred_short_epochs_leave_no_descriptor(pool: s3dlio.Pool, bucket: Bucket) -> None:
    uris = bucket.fill(12, KIB)
    for uri, view in pool.fetch(uris):
        assert bytes(view) == bucket.data(uri)
    before = 0
    for number in range(120):
        next(iter(pool.fetch(uris)))
        if number == 20:
            # By now the workers have the connections that they need; the server's ends of them are here.
            before = len(open_fds(os.getpid()))
    assert len(open_fds(os.getpid())) <= before + 8
    del view
    assert_clean_and_usable(pool, bucket, uris)
