"""The process harness, against real children: protocol, signals, descendants, and what they hold."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.processes import ScriptProcess, is_alive, wait_gone
from tests.support.remains import holders, memfds, open_fds, path_holders, socket_directories

_PARENT_OF_TWO = """
import subprocess, sys
program = "import sys; print('UP', flush=True); sys.stdin.read()"
for new_session in (False, True):
    child = subprocess.Popen([sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             start_new_session=new_session)
    child.stdout.readline()
    print("CHILD", child.pid, flush=True)
print("READY", flush=True)
sys.stdin.read()
"""


def test_lines_and_arguments_go_both_ways() -> None:
    program = "import sys\nprint('noise')\nprint('READY', *sys.argv[1:], flush=True)\nprint('GOT', sys.stdin.readline(), flush=True)"
    with ScriptProcess(program, ["a", "b"]) as child:
        assert child.expect("READY") == ["a", "b"]
        child.send_line("hello")
        assert child.read_line() == "GOT hello"
        assert child.wait() == 0


def test_a_program_that_dies_shows_its_traceback() -> None:
    with ScriptProcess("raise SystemError('broken on purpose')") as child:
        with pytest.raises(AssertionError, match="broken on purpose"):
            child.expect("READY")
        assert child.wait() == 1


def test_a_signal_reaches_the_program_and_shows_in_its_exit_code() -> None:
    with ScriptProcess("import sys; print('READY', flush=True); sys.stdin.read()") as child:
        child.expect("READY")
        child.send_signal(signal.SIGTERM)
        assert child.wait() == -signal.SIGTERM


def test_descendants_are_known_before_a_kill_and_gone_only_when_they_ended() -> None:
    with ScriptProcess(_PARENT_OF_TWO) as child:
        expected = {int(child.expect("CHILD")[0]), int(child.expect("CHILD")[0])}
        child.expect("READY")
        descendants = child.descendants()
        assert {process.pid for process in descendants} == expected
        assert wait_gone(descendants, 0.05) == descendants
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        # Their stdin was a pipe from the dead parent, so they end by themselves.
        assert wait_gone(descendants, 10) == []


def test_closing_kills_descendants_that_would_stay() -> None:
    program = "import os, signal\nif os.fork() == 0:\n    os.setsid()\n    print('READY', os.getpid(), flush=True)\nsignal.pause()"
    with ScriptProcess(program) as child:
        child.expect("READY")
        (descendant,) = child.descendants()
        assert is_alive(descendant)
    assert not is_alive(descendant)


def test_memfds_are_found_by_their_inode_when_open_and_when_only_mapped() -> None:
    program = """
import mmap, os, sys
fd = os.memfd_create("kit-test")
os.ftruncate(fd, 4096)
mapped = mmap.mmap(fd, 4096)
print("READY", os.fstat(fd).st_ino, flush=True)
sys.stdin.readline()
os.close(fd)
print("CLOSED", flush=True)
sys.stdin.read()
"""
    with ScriptProcess(program) as child:
        inode = int(child.expect("READY")[0])
        assert memfds(child.pid) == {inode: "kit-test"}
        assert holders([inode]) == {child.pid}
        child.send_line()
        child.expect("CLOSED")
        assert holders([inode]) == {child.pid}
    assert holders([inode]) == set()


def test_open_descriptors_and_holders_of_a_path_are_read_from_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "held"
    path.touch()
    with path.open() as file:
        assert open_fds(os.getpid())[file.fileno()] == str(path)
        assert os.getpid() in path_holders(str(path))
    assert path_holders(str(path)) == set()


def test_socket_directories_are_those_with_our_prefix(tmp_path: Path) -> None:
    (tmp_path / "s3dlio-abc").mkdir()
    (tmp_path / "other").mkdir()
    assert socket_directories(str(tmp_path)) == {str(tmp_path / "s3dlio-abc")}


def test_the_whole_environment_can_be_given() -> None:
    with ScriptProcess(
        "import os; print('READY', *os.environ, flush=True)", env={"ONLY": "1", "LC_ALL": "C.UTF-8"}
    ) as child:
        assert child.expect("READY") == ["ONLY", "LC_ALL"]
