"""Every kind of caller: very many threads, daemonic processes, notebooks, ranks, and several pools in one process (P10, P14)."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

import s3dlio
from tests.process.kit import Bucket, alternate, worker_processes
from tests.support.processes import ScriptProcess, wait_gone

KIB = 1 << 10


def test_128_threads_that_call_get_at_once_each_get_their_own_bytes(bucket: Bucket) -> None:
    uris = bucket.fill(128, 64 * KIB)
    barrier = threading.Barrier(128)
    wrong: list[object] = []

    def read(number: int) -> None:
        try:
            barrier.wait(30)
            for step in range(3):
                uri = uris[(number + step * 41) % 128]
                view = s3dlio.get(uri)
                if bytes(view) != bucket.data(uri):
                    wrong.append(uri)
                del view
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(128)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert not any(thread.is_alive() for thread in threads)
    # Each drove its own requests: there is no thread and no process of ours, and descriptors are counted when the test has ended.
    assert {thread.name.partition(":")[0] for thread in threading.enumerate()} <= {"MainThread", "ObjectServer"}
    assert worker_processes() == []


DAEMONIC = """
import hashlib, multiprocessing, sys, s3dlio

def digest(views):
    found = hashlib.sha256()
    for view in views:
        found.update(view)
    return found.hexdigest()

def work(uris, queue):
    assert multiprocessing.current_process().daemon
    results = [digest(s3dlio.get_many(uris))]
    for procs in (0, 2):
        with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="8MiB") as pool:
            results.append(digest(view for _, view in pool.fetch(uris)))
    queue.put(results)

if __name__ == "__main__":
    method, *uris = sys.argv[1:]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    if method == "fork":
        # As a training program does, which has looked at its data before its loader forks.
        s3dlio.get(uris[0])
    child = context.Process(target=work, args=(uris, queue), daemon=True)
    child.start()
    print("DIGESTS", *queue.get(timeout=60), flush=True)
    child.join()
    print("CODE", child.exitcode, flush=True)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_p10_a_daemonic_process_may_use_everything(bucket: Bucket, method: str, tmp_path: Path) -> None:
    uris = bucket.fill(20, 10 * KIB)
    expected = hashlib.sha256(b"".join(bucket.data(uri) for uri in uris)).hexdigest()
    path = tmp_path / "program.py"
    path.write_text(DAEMONIC)
    # A file, since spawn and forkserver import the main module again.
    source = "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    with ScriptProcess(source, [str(path), method, *uris]) as program:
        assert program.expect("DIGESTS", 60) == [expected] * 3
        assert program.expect("CODE") == ["0"]
        assert program.wait(20) == 0
        assert program.stderr_text() == ""


KILLED_DAEMON = """
import multiprocessing, os, signal, sys, s3dlio

def work(uris):
    pool = s3dlio.Pool(procs=2, jobs=4, memory_bytes="8MiB")
    assert len(list(pool.fetch(uris))) == len(uris)
    print("WORKING", flush=True)
    signal.pause()

child = multiprocessing.get_context("fork").Process(target=work, args=(sys.argv[1:],), daemon=True)
child.start()
sys.stdin.readline()
"""


def test_p10_a_daemonic_process_that_is_terminated_takes_its_workers_with_it(bucket: Bucket) -> None:
    with ScriptProcess(KILLED_DAEMON, bucket.fill(8, KIB)) as program:
        program.expect("WORKING")
        below = program.descendants()
        assert len(below) >= 3
        # multiprocessing terminates its daemonic children when the program ends.
        program.send_line()
        assert program.wait(20) == 0
        assert wait_gone(below, 2) == []


NOTEBOOK = """
import asyncio, hashlib, sys
uris = sys.argv[1:]
# As IPython has it: the cells run in a loop that runs already, and the main module has no file.
import __main__
assert not hasattr(__main__, "__file__")

def digest(views):
    found = hashlib.sha256()
    for view in views:
        found.update(view)
    return found.hexdigest()

async def cells():
    import s3dlio
    results = [digest(s3dlio.get_many(uris)), digest(map(s3dlio.get, uris))]
    for procs in (0, 2):
        with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="8MiB") as pool:
            results.append(digest(view for _, view in pool.fetch(uris)))
    pool = s3dlio.Pool(procs=2, jobs=4, memory_bytes="8MiB")
    results.append(digest(view for _, view in await asyncio.to_thread(lambda: list(pool.fetch(uris)))))
    # A cell that is interrupted in the middle, and run again; nobody closes anything.
    try:
        for uri, view in pool.fetch(uris):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    results.append(digest(view for _, view in pool.fetch(uris)))
    print("DIGESTS", *results, flush=True)

asyncio.new_event_loop().run_until_complete(cells())
"""


def test_a_notebook_that_runs_in_a_loop_and_has_no_file_reads_everything(bucket: Bucket) -> None:
    uris = bucket.fill(20, 10 * KIB)
    expected = hashlib.sha256(b"".join(bucket.data(uri) for uri in uris)).hexdigest()
    with ScriptProcess(NOTEBOOK, uris) as program:
        assert program.expect("DIGESTS", 60) == [expected] * 6
        assert program.wait(20) == 0
        assert "Traceback" not in program.stderr_text()


def test_p14_pools_of_one_process_share_nothing(bucket: Bucket) -> None:
    uris = bucket.fill(30, 10 * KIB)
    pools = [s3dlio.Pool(procs=procs, jobs=4, memory_bytes="8MiB") for procs in (0, 1, 2)]
    try:
        seen = bucket.check(alternate(*(pool.fetch(uris) for pool in pools)))
        assert sorted(seen) == sorted(uris * 3)
        for number, pool in enumerate(pools):
            pool.close()
            for other in pools[number + 1 :]:
                assert bucket.check(other.fetch(uris)) == uris
    finally:
        for pool in pools:
            pool.close()


def test_p14_threads_with_a_pool_each(bucket: Bucket) -> None:
    uris = bucket.fill(30, 10 * KIB)
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            with s3dlio.Pool(procs=1, jobs=4, memory_bytes="8MiB") as pool:
                for _ in range(2):
                    assert bucket.check(pool.fetch(uris)) == uris
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
