"""The leak finder finds what is really there, and lets pass what is allowed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.support.leaks import find_leaks, standing, take_snapshot
from tests.support.processes import ScriptProcess
from tests.support.remains import path_holders


def test_nothing_left_is_no_leak() -> None:
    before = take_snapshot()
    with socket.socket():
        pass
    assert not find_leaks(before, settle_s=0)


def test_a_descriptor_left_open_is_found() -> None:
    before = take_snapshot()
    read_end, write_end = os.pipe()
    leaks = find_leaks(before, settle_s=0)
    os.close(read_end)
    os.close(write_end)
    assert sum(leaks.fds.values()) == 2
    assert "fd: pipe:" in str(leaks)
    assert not leaks.threads


def test_a_second_descriptor_of_a_known_file_is_found() -> None:
    first = os.open(os.devnull, os.O_RDONLY)
    before = take_snapshot()
    second = os.dup(first)
    leaks = find_leaks(before, settle_s=0)
    os.close(first)
    os.close(second)
    assert leaks.fds == {os.devnull: 1}


def test_a_socket_in_a_reference_cycle_is_collected_and_no_leak() -> None:
    before = take_snapshot()
    cycle: list[object] = [open(os.devnull, closefd=True)]  # noqa: SIM115
    cycle.append(cycle)
    cycle[0].close()  # type: ignore[attr-defined]
    del cycle
    assert not find_leaks(before, settle_s=0)


def test_a_running_thread_is_found() -> None:
    before = take_snapshot()
    event = threading.Event()
    thread = threading.Thread(target=event.wait, name="forgotten")
    thread.start()
    leaks = find_leaks(before, settle_s=0)
    event.set()
    thread.join()
    assert [name.partition(" ")[0] for name in leaks.threads] == ["forgotten"]


def test_what_goes_away_in_time_is_no_leak() -> None:
    before = take_snapshot()
    event = threading.Event()
    thread = threading.Thread(target=event.wait, args=(0.1,))
    thread.start()
    assert not find_leaks(before, settle_s=10)
    thread.join()


@pytest.mark.parametrize("state", ["running", "zombie"])
def test_a_child_is_found_running_or_not_waited_for(state: str) -> None:
    before = take_snapshot()
    program = "import sys; sys.stdin.read()" if state == "running" else ""
    child = subprocess.Popen([sys.executable, "-S", "-c", program], stdin=subprocess.PIPE)
    if state == "zombie":
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    leaks = find_leaks(before, settle_s=0)
    child.communicate()
    assert [process.pid for process in leaks.children] == [child.pid]


def test_a_shm_entry_that_nobody_else_holds_is_found() -> None:
    before = take_snapshot()
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        leaks = find_leaks(before, settle_s=0)
        assert leaks.files == {file.name: 1}


def test_a_shm_entry_of_a_program_outside_is_let_pass() -> None:
    before = take_snapshot()
    name = Path("/dev/shm") / f"kit-test-{os.getpid()}"
    name.touch(exist_ok=False)
    # A grandchild whose parent is gone is outside our tree, like any other program; it lives as long as its stdin.
    program = (
        f"import os, sys\nf = open({str(name)!r})\nif os.fork():\n    os._exit(0)\nprint(flush=True)\nsys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    child.wait()
    files = find_leaks(before, settle_s=0).files
    name.unlink()
    child.communicate()
    assert not files


def test_a_socket_directory_is_found() -> None:
    before = take_snapshot()
    folder = tempfile.mkdtemp(prefix="s3dlio-")
    leaks = find_leaks(before, settle_s=0)
    os.rmdir(folder)
    assert leaks.files == {folder: 1}


def test_what_is_started_as_standing_is_no_leak_but_its_twin_is() -> None:
    before = take_snapshot()
    with standing():
        first = os.pipe()
    assert not find_leaks(before, settle_s=0)
    second = os.pipe()
    leaks = find_leaks(before, settle_s=0)
    for end in (*first, *second):
        os.close(end)
    assert sum(leaks.fds.values()) == 2


def test_a_semaphore_is_known_by_the_process_that_made_it() -> None:
    source = "import multiprocessing; lock = multiprocessing.get_context('spawn').Lock(); print(lock._semlock.name, flush=True); input()"
    with ScriptProcess(source) as program:
        path = f"/dev/shm/sem.{program.read_line().removeprefix('/')}"
        assert path_holders(path) == {program.pid}
        program.send_line()
        assert program.wait() == 0
    assert path_holders(path) == set()
