"""P9: interpreters that end in the middle of work, in every way: none hangs, none says a word, none leaves anything behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.process.kit import Bucket, wait_until, worker_processes
from tests.support.answers import stall_after
from tests.support.processes import ScriptProcess, wait_gone
from tests.support.remains import holders, memfds

KIB = 1 << 10

PRELUDE = """
import atexit, itertools, os, sys, threading, s3dlio
procs, stalled, *uris = int(sys.argv[1]), *sys.argv[2:]
endless = itertools.cycle(uris)
def new_pool():
    return s3dlio.Pool(procs=procs, jobs=4, memory_bytes="32MiB")
def say_and_wait():
    print("READY", flush=True)
    sys.stdin.readline()
def read_for_ever(started=None):
    for number, (uri, view) in enumerate(pool.fetch(endless)):
        if number == 20 and started is not None:
            started.set()
def in_thread(work, daemon):
    started = threading.Event()
    thread = threading.Thread(target=work, args=(started,), daemon=daemon)
    thread.start()
    started.wait()
    return thread
pool = new_pool()
pairs = pool.fetch(endless)
kept = next(pairs)
"""

WAYS: dict[str, tuple[str, int]] = {
    "end-of-main-with-an-undrained-generator": ("say_and_wait()", 0),
    "sys-exit-in-flight": ("say_and_wait()\nsys.exit(3)", 3),
    "os-exit-in-flight": ("say_and_wait()\nos._exit(4)", 4),
    "closed-pool-and-a-view": ("pool.close()\nsay_and_wait()", 0),
    "daemon-thread-that-reads": ("in_thread(read_for_ever, True)\nsay_and_wait()", 0),
    "four-daemon-threads-that-read": ("[in_thread(read_for_ever, True) for _ in range(4)]\nsay_and_wait()", 0),
    "daemon-thread-in-mp-get": (
        """
def work(started):
    s3dlio.mp_get(procs=max(procs, 1), jobs=4, uris=endless, sink=lambda uri, view: started.set(), memory_bytes="32MiB")
in_thread(work, True)
say_and_wait()
""",
        0,
    ),
    "daemon-thread-that-waits-for-a-silent-server": (
        """
def work(started):
    started.set()
    list(pool.fetch([stalled]))
in_thread(work, True)
say_and_wait()
""",
        0,
    ),
    "daemon-thread-in-get-from-a-silent-server": (
        """
def work(started):
    started.set()
    s3dlio.get(stalled)
in_thread(work, True)
say_and_wait()
""",
        0,
    ),
    "sys-exit-in-a-thread": (
        """
def work(started):
    next(pool.fetch(endless))
    started.set()
    sys.exit(9)
in_thread(work, False).join()
assert len(next(pairs)[1]) == len(kept[1])
say_and_wait()
""",
        0,
    ),
    "thread-that-goes-on-after-main": (
        """
asked = threading.Event()
def work(started):
    started.set()
    asked.wait()
    threading.main_thread().join()
    assert len(list(pool.fetch(uris))) == len(uris)
    print("DONE", flush=True)
in_thread(work, False)
say_and_wait()
asked.set()
""",
        0,
    ),
    "atexit-handler-that-reads": (
        """
atexit.register(lambda: print("DONE", len(list(pool.fetch(uris))) == len(uris), len(s3dlio.get(uris[0])) > 0, flush=True))
say_and_wait()
""",
        0,
    ),
    "object-whose-end-uses-the-pool": (
        """
class Late:
    def __del__(self):
        try:
            list(pool.fetch(uris))
        except RuntimeError:
            pass
late = Late()
late.self = late
say_and_wait()
sys.exit(5)
""",
        5,
    ),
    "generator-in-a-cycle": ("cycle = [pairs]\ncycle.append(cycle)\ndel pairs, kept\nsay_and_wait()", 0),
    "many-gets-in-hand": ("views = s3dlio.get_many(uris)\nhalf = iter(views)\nnext(half)\nsay_and_wait()", 0),
}


INLINE = [
    "end-of-main-with-an-undrained-generator",
    "daemon-thread-that-reads",
    "daemon-thread-that-waits-for-a-silent-server",
    "daemon-thread-in-get-from-a-silent-server",
    "object-whose-end-uses-the-pool",
]
"""The ways in which a pool without processes is another matter."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("procs", "way"), [*((2, way) for way in WAYS), *((0, way) for way in INLINE)])
def test_p9_an_interpreter_that_ends_in_the_middle_ends_at_once_and_leaves_nothing(
    bucket: Bucket, procs: int, folder: Path, way: str
) -> None:
    source, code = WAYS[way]
    uris = bucket.fill(40, 10 * KIB)
    never = threading.Event()
    stalled = bucket.add("stalled", 10 * KIB)
    bucket.server.faults[bucket.path("stalled")] = [stall_after(KIB, never)] * 5
    with ScriptProcess(PRELUDE + source, [str(procs), stalled, *uris]) as program:
        program.expect("READY")
        workers = worker_processes(program.pid)
        inodes = set(memfds(program.pid))
        program.send_line()
        assert program.wait(20) == code
        assert program.stderr_text() == ""
        assert wait_gone(workers, 2) == []
        assert holders(inodes) == set()
        assert list(folder.iterdir()) == []


def test_p9_an_exception_that_ends_the_program_is_all_that_it_says(bucket: Bucket, procs: int) -> None:
    source = PRELUDE + "say_and_wait()\nfor uri, view in pairs: raise LookupError('of the user')"
    with ScriptProcess(source, [str(procs), "s3://bucket/none", *bucket.fill(40, 10 * KIB)]) as program:
        program.expect("READY")
        workers = worker_processes(program.pid)
        program.send_line()
        assert program.wait(20) == 1
        text = program.stderr_text()
        assert text.startswith("Traceback")
        assert text.rstrip().endswith("LookupError: of the user")
        assert text.count("Traceback") == 1
        assert wait_gone(workers, 2) == []


OTHER = PRELUDE + """
say_and_wait()
print(len(list(pool.fetch(uris))), flush=True)
"""
HOLDER = PRELUDE + """
held = [view for _, view in itertools.islice(pairs, 100)]
print("HOLDING", flush=True)
import signal
signal.pause()
"""


def test_p5_a_consumer_that_is_killed_with_views_in_hand_leaves_no_memory_and_no_worker(
    bucket: Bucket, procs: int, folder: Path
) -> None:
    with ScriptProcess(HOLDER, [str(procs), "s3://bucket/none", *bucket.fill(40, 100 * KIB)]) as caller:
        caller.expect("HOLDING")
        workers = worker_processes(caller.pid)
        inodes = set(memfds(caller.pid))
        assert inodes
        caller.popen.kill()
        caller.wait()
        assert wait_gone(workers, 2.0) == []
        assert holders(inodes) == set()
        assert list(folder.iterdir()) == []


def test_p5_one_of_two_consumers_that_is_killed_does_not_disturb_the_other(bucket: Bucket, folder: Path) -> None:
    uris = bucket.fill(40, 100 * KIB)
    with (
        ScriptProcess(HOLDER, ["2", "s3://bucket/none", *uris]) as victim,
        ScriptProcess(OTHER, ["2", "s3://bucket/none", *uris]) as other,
    ):
        victim.expect("HOLDING")
        other.expect("READY")
        theirs: list[psutil.Process] = worker_processes(victim.pid)
        victim.popen.kill()
        victim.wait()
        assert wait_gone(theirs, 2.0) == []
        alive: Callable[[], bool] = lambda: len(worker_processes(other.pid)) == 2  # noqa: E731 (a name for the condition)
        wait_until(alive, "the workers of the other live")
        other.send_line()
        assert other.read_line() == "40"
        assert other.wait(20) == 0
        assert other.stderr_text() == ""
