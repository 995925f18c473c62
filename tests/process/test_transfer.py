"""Transfers that are interrupted, killed, or fail in part, as processes of their own (cases L2, L3, L4, U1)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from s3dlio.engine.stores.file_write import is_temporary
from tests.process.kit import Bucket
from tests.support.answers import Respond, stall_after, stall_before_headers
from tests.support.processes import REPOSITORY, ScriptProcess
from tests.support.scripted_server import Connection, Request

CLI = "from s3dlio.engine.cli.app import main; main()"
SIZE = 40 << 20
"""More than `split_above_bytes`: it goes in parts."""


def stall_one(bucket: Bucket, method: str, number: int, is_over: threading.Event) -> threading.Event:
    """Has the answer to that request of this method stop in the middle until `is_over`; returns what is set when it has begun."""
    is_stalled = threading.Event()
    honest, stall = bucket.server.honest, stall_after(1000, is_over)
    seen = 0

    def stalled(request: Request, connection: Connection) -> None:
        is_stalled.set()
        stall(request, connection)

    def step(request: Request) -> Callable[[Request, Connection], None]:
        nonlocal seen
        seen += request.method == method
        return stalled if seen == number and request.method == method else honest(request)

    bucket.server.script = step
    return is_stalled


def run_cli(*args: str) -> ScriptProcess:
    return ScriptProcess(CLI, args)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)], ids=["Ctrl-C", "SIGKILL"]
)
def test_l2_l3_a_download_that_is_interrupted_or_killed_leaves_the_old_file_and_nothing_else(
    bucket: Bucket, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    bucket.server.objects["/bucket/k"] = random.Random(1).randbytes(SIZE)
    (tmp_path / "k").write_bytes(b"old")
    is_over = threading.Event()
    is_stalled = stall_one(bucket, "GET", 4, is_over)
    with run_cli("download", "s3://bucket/k", str(tmp_path)) as process:
        assert is_stalled.wait(30)
        os.kill(process.pid, signum)
        assert process.popen.wait(30) == code
        is_over.set()
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    # A file system that has no files without a name keeps what was being written, under a name that listings pass over.
    assert {name: data for name, data in left.items() if signum == signal.SIGINT or not is_temporary(name)} == {"k": b"old"}


def test_l3_u1_an_upload_that_is_interrupted_is_aborted(bucket: Bucket, tmp_path: Path) -> None:
    with (tmp_path / "k").open("wb") as file:
        file.truncate(SIZE)
    is_stalled, is_over = threading.Event(), threading.Event()
    begun = b"<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>k</Key><UploadId>ID</UploadId></InitiateMultipartUploadResult>"

    def step(request: Request) -> Callable[[Request, Connection], None]:
        if request.method == "POST":
            return Respond(200, {"Content-Type": "application/xml"}, begun)
        if request.method == "PUT":
            is_stalled.set()
            return stall_before_headers(is_over, Respond(200))
        if request.method == "GET":  # ListParts
            return Respond(404, {}, b"<Error><Code>NoSuchUpload</Code></Error>")
        return Respond(204)

    bucket.server.script = step
    with run_cli("upload", str(tmp_path / "k"), "s3://bucket/k") as process:
        assert is_stalled.wait(30)
        os.kill(process.pid, signal.SIGINT)
        assert process.popen.wait(30) == 130
        is_over.set()
    assert [request.query for request in bucket.server.requests if request.method == "DELETE"] == ["uploadId=ID"]


def test_p9_an_interpreter_that_ends_in_the_middle_of_a_daemon_thread_s_transfer_says_nothing(tmp_path: Path) -> None:
    source = """
import pathlib, sys, threading, s3dlio
target = pathlib.Path(sys.argv[1])
for number in range(500):
    s3dlio.put_bytes(f"memory://b/{number}", bytes(1000))
def work():
    while True:
        s3dlio.download("memory://b/", target)
threading.Thread(target=work, daemon=True).start()
while not (target / "100").exists():
    threading.Event().wait(0.001)
"""
    with ScriptProcess(source, [str(tmp_path)]) as process:
        assert process.wait(60) == 0
        assert process.stderr_text() == ""
    # Whole, or not there: nothing was in the place of these.
    assert {path.read_bytes() for path in tmp_path.iterdir() if not is_temporary(path.name)} == {bytes(1000)}


def s3dlio(*args: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m s3dlio`, with pipes for a terminal."""
    command = [sys.executable, "-P", "-m", "s3dlio", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=REPOSITORY, check=False)


def test_l4_the_command_line_says_what_it_refused_and_ends_with_1(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "good").write_bytes(b"1")
    (source / "back\\slash").write_bytes(b"2")
    ended = s3dlio("download", f"file://{source}", str(target))
    assert ended.returncode == 1
    assert ended.stdout.startswith("1 files, 1 bytes in ")
    assert ended.stderr.count("\n") == 1
    assert "a backslash" in ended.stderr
    assert [path.name for path in target.iterdir()] == ["good"]
    ended = s3dlio("download", f"file://{source}", str(target), "--skip-existing", "--json")
    assert ended.returncode == 1
    said = json.loads(ended.stdout)
    assert (said["files"], said["skipped"], len(said["failed"])) == (0, 1, 1)


def test_the_command_line_uploads_several_sources_and_ends_with_0(tmp_path: Path) -> None:
    for name in ("in/a.bin", "in/b.txt", "tree/c/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    ended = s3dlio("upload", f"{tmp_path}/in/*.bin", f"{tmp_path}/tree", f"file://{tmp_path}/out")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("2 files, 16 bytes in ")
    assert (tmp_path / "out" / "a.bin").read_bytes() == b"in/a.bin"
    assert (tmp_path / "out" / "c" / "d").read_bytes() == b"tree/c/d"
    assert s3dlio("upload", f"{tmp_path}/none", f"file://{tmp_path}/out").returncode == 1
    assert s3dlio("download", "s3://", str(tmp_path)).returncode == 2
