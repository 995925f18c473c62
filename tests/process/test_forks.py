"""Forks after use, children of every kind, and many processes at once (P10, P14). Each runs in a program of its own."""

from __future__ import annotations

import pytest

from tests.process.kit import Bucket
from tests.support.processes import ScriptProcess, wait_gone

KIB = 1 << 10

PRELUDE = """
import hashlib, multiprocessing, os, sys, s3dlio
procs, uris = int(sys.argv[1]), sys.argv[2:]
def digest(pairs):
    found = hashlib.sha256()
    for uri, view in pairs:
        found.update(view)
    return found.hexdigest()
def join(pid):
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
"""

SAME_POOL = (
    PRELUDE
    + """
pool = s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB")
expected = digest(pool.fetch(uris))
inline = digest(zip(uris, s3dlio.get_many(uris)))
running = pool.fetch(uris)
next(running)
held = list(pool.fetch(uris[:10]))
kept = [bytes(view) for _, view in held]
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    try:
        next(running)
    except s3dlio.PoolClosedError as error:
        refused = "fork" in str(error)
    results = [refused, digest(pool.fetch(uris)), digest(zip(uris, s3dlio.get_many(uris))), bytes(s3dlio.get(uris[0])) == kept[0]]
    os.read(read, 1)
    results.append([bytes(view) for _, view in held] == kept)
    print("CHILD", results == [True, expected, expected, True, True], flush=True)
    if sys.argv[0] == "-c" and os.environ.get("LEAVE") == "_exit":
        os._exit(5)
    sys.exit(5)
rest = digest(running)
del held
for _ in range(5):
    assert digest(pool.fetch(uris)) == expected == inline
os.write(write, b"x")
code = join(pid)
print("PARENT", code, digest(pool.fetch(uris)) == expected, pool.stats()["worker_restarts"], pool.stats()["workers"], flush=True)
assert digest(zip(uris, s3dlio.get_many(uris))) == expected
"""
)


@pytest.mark.parametrize("leave", ["sys.exit", "_exit"])
def test_p10_fork_after_use_works_on_both_sides(bucket: Bucket, procs: int, leave: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAVE", leave)
    uris = bucket.fill(40, 20 * KIB)
    with ScriptProcess(SAME_POOL, [str(procs), *uris]) as program:
        assert program.expect("CHILD") == ["True"]
        assert program.expect("PARENT") == ["5", "True", "0", str(procs)]
        left = program.descendants()
        assert program.wait(20) == 0
        assert program.stderr_text() == ""
        # A child that leaves by _exit ends nothing itself: its workers see that it is gone, and go too.
        assert wait_gone([*left, *program.descendants()], 10.0) == []


CHILDREN = """
import multiprocessing, os, sys, s3dlio

def work(uris, procs, queue):
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="8MiB") as pool:
        total = sum(sum(view.tolist()) for _, view in pool.fetch(uris))
    queue.put((total, sum(sum(view.tolist()) for view in s3dlio.get_many(uris))))

if __name__ == "__main__":
    method, procs, uris = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    context = multiprocessing.get_context(method)
    with s3dlio.Pool(procs=1, jobs=4, memory_bytes="8MiB") as pool:
        total = sum(sum(view.tolist()) for _, view in pool.fetch(uris))
        queue = context.Queue()
        children = [context.Process(target=work, args=(uris, procs, queue)) for _ in range(2)]
        for child in children:
            child.start()
        found = [queue.get(timeout=60) for _ in children]
        for child in children:
            child.join()
        again = sum(sum(view.tolist()) for _, view in pool.fetch(uris))
        print("DONE", found == [(total, total)] * 2, again == total, [child.exitcode for child in children] == [0, 0], flush=True)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_p10_multiprocessing_children_have_pools_of_their_own(bucket: Bucket, procs: int, method: str, tmp_path: object) -> None:
    uris = bucket.fill(8, KIB)
    path = f"{tmp_path}/program.py"
    with open(path, "w") as file:
        file.write(CHILDREN)
    # A file, since spawn and forkserver import the main module again.
    source = f"import runpy, sys; sys.argv[0] = {path!r}; runpy.run_path({path!r}, run_name='__main__')"
    if method != "fork":
        source = f"import os, sys; os.execv(sys.executable, [sys.executable, {path!r}, *sys.argv[1:]])"
    with ScriptProcess(source, [method, str(procs), *uris]) as program:
        assert program.expect("DONE", 60) == ["True", "True", "True"]
        assert program.wait(20) == 0
        assert program.stderr_text() == ""


EIGHT = (
    PRELUDE
    + """
print("READY", flush=True)
sys.stdin.readline()
with s3dlio.Pool(procs=1, jobs=4, memory_bytes="8MiB") as pool:
    print("DIGEST", digest(pool.fetch(uris)), flush=True)
    sys.stdin.readline()
"""
)


def test_p14_eight_processes_each_with_a_pool(bucket: Bucket) -> None:
    import hashlib
    from contextlib import ExitStack

    uris = bucket.fill(30, 5 * KIB)
    expected = hashlib.sha256(b"".join(bucket.data(uri) for uri in uris)).hexdigest()
    with ExitStack() as stack:
        programs = [stack.enter_context(ScriptProcess(EIGHT, ["1", *uris])) for _ in range(8)]
        for program in programs:
            program.expect("READY")
        for program in programs:
            program.send_line()
        # All eight hold their pools until the last has read everything.
        assert [program.expect("DIGEST", 60) for program in programs] == [[expected]] * 8
        for program in programs:
            program.send_line()
        assert [program.wait(20) for program in programs] == [0] * 8
        assert [program.stderr_text() for program in programs] == [""] * 8


OPENING = (
    PRELUDE
    + """
import signal, threading
from s3dlio.engine import config
from s3dlio.engine.stores import registry
held, forked = threading.Event(), threading.Event()
def hold():
    # As a thread does that opens a bucket for the first time: the chain of credentials may ask the network.
    with registry._lock, config._lock:
        held.set()
        forked.wait()
threading.Thread(target=hold).start()
held.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    s3dlio.get(uris[0])
    os._exit(7)
forked.set()
print("CHILD", join(pid), flush=True)
"""
)


def test_p10_a_child_does_not_wait_for_a_thread_that_it_has_not(bucket: Bucket) -> None:
    with ScriptProcess(OPENING, ["0", bucket.add("key", KIB)]) as program:
        assert program.expect("CHILD") == ["7"]
        assert program.wait() == 0
