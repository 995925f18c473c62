"""The command line as its own process against a real S3 server: results, exit codes, Ctrl-C, and no secret in any output."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.answers import Respond, stall_after
from tests.support.object_server import ObjectServer
from tests.support.processes import REPOSITORY, ScriptProcess, wait_gone
from tests.support.rclone_server import RcloneServer
from tests.support.s3_endpoint import S3Endpoint

CLI = "from s3dlio.engine.cli.app import main; main()"
UseServer = Callable[[S3Endpoint | str], None]
CANARY = "CANARYsecretCANARYsecretCANARY"


def s3dlio(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Runs `python -m s3dlio`, with pipes for a terminal."""
    command = [sys.executable, "-P", "-m", "s3dlio", *args]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, cwd=REPOSITORY, check=False)


@pytest.fixture
def bucket(rclone_s3: RcloneServer, s3_env: UseServer) -> str:
    s3_env(rclone_s3.endpoint)
    return rclone_s3.endpoint.new_bucket()


@pytest.fixture
def objects(bucket: str, rclone_s3: RcloneServer) -> dict[str, bytes]:
    """Thirty objects below `data/`, put there by boto3."""
    found = {f"data/{i:03d}.bin": os.urandom(1000 * i) for i in range(30)}
    for key, body in found.items():
        rclone_s3.endpoint.client().put_object(Bucket=bucket, Key=key, Body=body)
    return found


def test_put_then_get_through_a_real_server_gives_the_same_bytes(
    bucket: str, rclone_s3: RcloneServer, tmp_path: Path
) -> None:
    data = os.urandom(300_000)
    (tmp_path / "in.bin").write_bytes(data)
    assert s3dlio("put", str(tmp_path / "in.bin"), f"s3://{bucket}/folder/").returncode == 0
    assert rclone_s3.endpoint.client().get_object(Bucket=bucket, Key="folder/in.bin")["Body"].read() == data
    got = s3dlio("get", f"s3://{bucket}/folder/in.bin")
    assert (got.returncode, got.stdout, got.stderr) == (0, data, b"")


def test_ls_long_shows_what_the_server_lists(bucket: str, objects: dict[str, bytes]) -> None:
    found = s3dlio("ls", f"s3://{bucket}/data/", "--long")
    assert found.returncode == 0
    shown = {fields[2]: int(fields[0]) for fields in map(str.split, found.stdout.decode().splitlines())}
    assert shown == {f"s3://{bucket}/{key}": len(body) for key, body in objects.items()}


def test_stat_as_json_shows_the_size_of_the_object(bucket: str, objects: dict[str, bytes]) -> None:
    facts = json.loads(s3dlio("stat", f"s3://{bucket}/data/029.bin", "--json").stdout)
    assert facts["size"] == 29_000


def test_ls_into_a_closed_pipe_ends_without_a_traceback(bucket: str, objects: dict[str, bytes]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [sys.executable, "-P", "-m", "s3dlio", "ls", f"s3://{bucket}/data/"]
        found = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, timeout=60, check=False)
    assert found.returncode == 1
    assert found.stderr == b""


def test_mp_get_as_json_counts_every_object_once(bucket: str, objects: dict[str, bytes]) -> None:
    found = s3dlio("mp-get", f"s3://{bucket}/data", "--procs", "2", "--json")
    assert (found.returncode, found.stderr) == (0, b"")
    result = json.loads(found.stdout)
    assert (result["attempted"], result["succeeded"], result["failed"]) == (30, 30, 0)
    assert result["total_bytes"] == sum(map(len, objects.values()))
    assert sum(worker["objects"] for worker in result["workers"]) == 30


def test_mp_get_prints_a_summary(bucket: str, objects: dict[str, bytes]) -> None:
    found = s3dlio("mp-get", f"s3://{bucket}/data", "--procs", "2", "--num", "20", "--memory", "64MiB")
    assert found.returncode == 0
    text = found.stdout.decode()
    assert "20 of 20, 0 failed" in text
    assert all(word in text for word in ("throughput", "MB/s", "objects/s", "p99", "worker"))


def test_mp_get_exits_with_1_and_names_what_failed(bucket: str, objects: dict[str, bytes]) -> None:
    args = ("--procs", "1", "--template", "{:03d}.bin", "--num", "32")
    found = s3dlio("mp-get", f"s3://{bucket}/data/", *args)
    assert found.returncode == 1
    assert "30 of 32, 2 failed" in found.stdout.decode()
    first, *failures = found.stderr.decode().splitlines()
    assert first == "error: 2 of 32 objects failed; the first:"
    assert sorted(line.count(f"s3://{bucket}/data/03{i}.bin") for i, line in enumerate(sorted(failures))) == [1, 1]


def test_mp_get_of_an_empty_prefix_says_so(bucket: str, objects: dict[str, bytes]) -> None:
    found = s3dlio("mp-get", f"s3://{bucket}/nothing/", "--procs", "1")
    assert found.returncode == 0
    assert found.stderr.decode() == f"no object at s3://{bucket}/nothing/\n"


def test_a_missing_object_is_one_line_and_exit_code_1(bucket: str) -> None:
    found = s3dlio("get", f"s3://{bucket}/missing")
    assert (found.returncode, found.stdout) == (1, b"")
    assert found.stderr.decode().startswith(f"error: s3://{bucket}/missing: ")
    assert found.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", [["get"], ["ls"], ["stat"], ["mp-get", "--procs", "1"]])
def test_a5_refused_credentials_are_exit_code_1_and_no_output_holds_the_secret(
    command: list[str], bucket: str, objects: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    name, *options = command
    found = s3dlio("--log-level", "debug", name, f"s3://{bucket}/data/001.bin", *options)
    assert found.returncode == 1
    assert b"error: " in found.stderr
    assert CANARY.encode() not in found.stdout + found.stderr


def test_a5_the_traceback_of_a_bug_shows_no_local_variables(bucket: str) -> None:
    bug = f"""
        import s3dlio.engine.ops.objects as objects
        def list_iter(*args):
            secret = "{CANARY[:10]}" + "{CANARY[10:]}"
            return secret + 1
        objects.list_iter = list_iter
        from s3dlio.engine.cli.app import main
        main()
    """.replace("\n        ", "\n")
    found = subprocess.run(
        [sys.executable, "-c", bug, "ls", "s3://b/"], capture_output=True, timeout=60, cwd=REPOSITORY, check=False
    )
    assert found.returncode == 1
    assert b"TypeError" in found.stderr
    assert CANARY.encode() not in found.stderr


def test_get_refuses_to_write_binary_to_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "screen.bin").write_bytes(b"\x1b[2Jwiped")
    code, shown, error = _on_terminal("get", f"file://{tmp_path}/screen.bin")
    assert (code, shown) == (2, b"")
    assert b"binary" in error


def test_get_writes_text_to_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes("grüße\n".encode())
    code, shown, error = _on_terminal("get", f"file://{tmp_path}/text.txt")
    assert (code, shown, error) == (0, "grüße\r\n".encode(), b"")


def test_mp_get_shows_live_rates_on_a_terminal(bucket: str, objects: dict[str, bytes]) -> None:
    shown = _error_terminal("mp-get", f"s3://{bucket}/data/", "--procs", "1", "--json")
    assert b"30/30 objects" in shown
    assert b"MB/s" in shown


def _error_terminal(*args: str) -> bytes:
    """Runs a command whose standard error is a terminal of 120 columns, and returns what was shown there."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb") as terminal:
        try:
            termios.tcsetwinsize(theirs, (40, 120))
            command = [sys.executable, "-P", "-m", "s3dlio", *args]
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=theirs, timeout=60, check=True)
            os.set_blocking(ours, False)
            return terminal.read1(1 << 20)
        finally:
            os.close(theirs)


def _on_terminal(*args: str) -> tuple[int, bytes, bytes]:
    """Runs a command whose standard output is a terminal; returns its exit code, what was shown there, and its standard error."""
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-P", "-m", "s3dlio", *args]
        found = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, timeout=60, check=False)
        os.set_blocking(ours, False)
        try:
            shown = os.read(ours, 65536)
        except BlockingIOError:
            shown = b""
    finally:
        os.close(ours)
        os.close(theirs)
    return found.returncode, shown, found.stderr


def test_ctrl_c_ends_mp_get_with_130_and_leaves_no_process(object_server: ObjectServer, s3_env: UseServer) -> None:
    s3_env(object_server.url)
    asked = threading.Event()
    never = threading.Event()

    def stall(request: object, connection: object) -> None:
        asked.set()
        stall_after(10, never, Respond(200, {"ETag": '"x"'}, bytes(5000)))(request, connection)  # type: ignore[arg-type]

    for i in range(4):
        object_server.faults[f"/bucket/{i}"] = [stall] * 20
    args = ["mp-get", "s3://bucket/", "--procs", "2", "--template", "{}", "--num", "4"]
    with ScriptProcess(CLI, args) as cli:
        assert asked.wait(30)
        below = cli.descendants()
        assert below
        cli.send_signal_to_group(signal.SIGINT)
        assert cli.wait() == 130
        assert not wait_gone(below, 2.0)
        assert cli.stderr_text() == ""


def test_the_help_needs_nothing_heavy() -> None:
    heavy = ("numpy", "zmq", "boto3", "botocore", "rich", "msgspec", "s3dlio.engine.pool")
    source = f"import sys; import s3dlio.engine.cli.app; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-P", "-c", source], capture_output=True, timeout=60, check=True)
    assert found.stdout == b"[]\n"
