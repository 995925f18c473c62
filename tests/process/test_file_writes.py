"""What becomes of files when the process that writes them is killed, has no room, or is another user.

The steps of a write are watched from within, so that the order is seen on every machine: strace may be missing, or forbidden.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import REPOSITORY
from tests.support.small_disk import run_on_small_disk

OLD, NEW = "old " * 500, "new " * 2000

KILLED = """
import errno, json, os, signal, sys
import s3dlio
from s3dlio.engine.stores import file_write

folder, kind, create_only, old, new = sys.argv[1], sys.argv[2], sys.argv[3] == "True", sys.argv[4].encode(), sys.argv[5].encode()
key = folder + "/key"
real_open = os.open

def open_(path, flags, *args, **more):
    if kind == "named" and flags & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(errno.EOPNOTSUPP, "refused")
    return real_open(path, flags, *args, **more)

def put(data):
    from s3dlio.engine.stores.base import run
    from s3dlio.engine.stores.file import FileStore
    run(FileStore().put(key, memoryview(data), create_only), lambda fetch: fetch)

def child(kill_at, pipe):
    trace = []
    def step(name, is_folder):
        trace.append(name + (" folder" if is_folder else ""))
        if len(trace) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    def wrap(name):
        real = getattr(os, name)
        def call(*args, **more):
            is_folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{args[0]}")
            step("before " + name, is_folder)
            result = real(*args, **more)
            step("after " + name, is_folder)
            return result
        setattr(os, name, call)
    for name in ("pwrite", "ftruncate", "fsync", "link", "rename", "unlink"):
        wrap(name)
    put(new)
    os.write(pipe, json.dumps(trace).encode())

os.open = open_
put(b"")
os.unlink(key)
found, kill_at = [], 0
while True:
    kill_at += 1
    for name in os.listdir(folder):
        os.unlink(f"{folder}/{name}")
    if not create_only:
        put(old)
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child(kill_at, w)
        finally:
            os._exit(0)
    os.close(w)
    trace = os.read(r, 1 << 20)
    os.close(r)
    _, status = os.waitpid(pid, 0)
    names = os.listdir(folder)
    content = {name: open(f"{folder}/{name}", "rb").read().decode() for name in names if not file_write.is_temporary(name)}
    found.append([content, len(names) - len(content)])
    if not os.WIFSIGNALED(status):
        print(json.dumps({"trace": json.loads(trace), "found": found}))
        break
"""


def run_script(source: str, *args: str, **more: Any) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", source, *args], capture_output=True, text=True, timeout=60, cwd=REPOSITORY, check=False, **more
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("create_only", [False, True])
@pytest.mark.parametrize("kind", ["nameless", "named"])
def test_l2_killed_at_any_step_there_is_the_old_file_or_the_new_one(tmp_path: Path, kind: str, create_only: bool) -> None:
    told = json.loads(run_script(KILLED, str(tmp_path), kind, str(create_only), OLD, NEW))
    trace, found = told["trace"], told["found"]
    steps = [step.removeprefix("after ") for step in trace if step.startswith("after ")]
    naming = ["link"] if create_only else ["rename"] if kind == "named" else ["link", "rename"]
    cleaning = ["unlink"] if create_only and kind == "named" else []
    # Data, then the name, then the folder: the order that outlasts a loss of power.
    assert steps == ["pwrite", "ftruncate", "fsync", *naming, "fsync folder", *cleaning]
    before = {} if create_only else {"key": OLD}
    visible = 2 * steps.index(naming[-1]) + 1
    assert len(found) == len(trace) + 1
    for kill_at, (content, num_left) in enumerate(found[:-1], start=1):
        assert content == (before if kill_at <= visible else {"key": NEW}), f"killed at step {kill_at}"
        # Without a name nothing is left, but for the moment in which one file takes the place of the other.
        if kind == "nameless":
            is_between = not create_only and 2 * steps.index("link") + 2 <= kill_at <= visible
            assert num_left == (1 if is_between else 0), f"killed at step {kill_at}"
    assert found[-1] == [{"key": NEW}, 0]


FULL = """
import sys
import s3dlio

folder, size = sys.argv[1], int(sys.argv[2])
uri = f"file://{folder}/key"
if size:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        s3dlio.put_bytes(uri, b"old" * 1000)
    except s3dlio.UnsupportedError as error:
        assert "ulimit -f" in str(error)
    else:
        raise AssertionError("shared memory is a file, and no such file is allowed")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    s3dlio.put_bytes(uri, b"")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
s3dlio.put_bytes(uri, b"old" * 1000)
try:
    s3dlio.put_bytes(uri, bytes(1_000_000))
except s3dlio.NoSpaceError as error:
    assert isinstance(error, OSError) and error.uri == uri, error
    print(error)
import os
assert os.listdir(folder) == ["key"], os.listdir(folder)
assert open(f"{folder}/key", "rb").read() == b"old" * 1000
"""


def test_l1_a_full_disk_leaves_the_target_and_no_other_name(tmp_path: Path) -> None:
    said = run_on_small_disk(FULL, tmp_path, 65536, "0")
    assert "No space left on device: " in said
    num_free = int(said.split(" bytes were free")[0].rpartition(" ")[2])
    # What the old file takes is not free.
    assert 0 < num_free <= 65536 - 3000


def test_l1_a_limit_of_file_sizes_leaves_the_target_and_no_other_name(tmp_path: Path) -> None:
    said = run_script(FULL, str(tmp_path), "100000")
    assert f"file://{tmp_path}/key: File too large: " in said


STRANGER = """
import os, sys
import s3dlio

folder = sys.argv[1]
uri = f"file://{folder}/"
# Imported and opened before, since the stranger may not even read the interpreter's files.
s3dlio.put_bytes(uri + "warm", b"warm")
assert bytes(s3dlio.get(uri + "warm")) == b"warm" and s3dlio.list(uri) and s3dlio.exists(uri + "warm")
s3dlio.delete(uri + "warm")
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)

def denied(call, *args):
    try:
        call(*args)
    except s3dlio.PermissionDeniedError as error:
        assert isinstance(error, PermissionError) and error.uri.startswith(uri), error
    else:
        raise AssertionError(f"{call.__name__}{args} was allowed")

denied(s3dlio.get, uri + "secret")
denied(s3dlio.put_bytes, uri + "closed/key", b"new")
denied(s3dlio.put_bytes, uri + "closed/mine", b"new")
denied(s3dlio.delete, uri + "closed/key")
denied(s3dlio.put_bytes, uri + "closed/dir/key", b"new")
denied(s3dlio.get, uri + "shut/key")
denied(s3dlio.exists, uri + "shut/key")
denied(s3dlio.list, uri + "shut/key")
denied(s3dlio.list, uri + "shut/dir/")
# What may be written to and not read can take a file, and must not say otherwise when the file is there.
s3dlio.put_bytes(uri + "drop/dir/key", b"new")
s3dlio.put_bytes(uri + "drop/mine", b"new")
s3dlio.put_bytes(uri + "open/read-only", b"new")
print(oct(os.stat(folder + "/open/read-only").st_mode & 0o777))
"""


def test_l8_modes_are_the_file_systems_to_judge(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "secret").chmod(0)
    for name, mode in (("closed", 0o555), ("shut", 0o000), ("open", 0o777), ("drop", 0o333)):
        (tmp_path / name).mkdir()
        for file in ("key", "read-only"):
            (tmp_path / name / file).write_bytes(b"old")
            (tmp_path / name / file).chmod(0o444)
        (tmp_path / name).chmod(mode)
    # A stranger must come as far as this folder.
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(0o777)
        if folder.name.startswith("pytest-of-"):
            break
    assert run_script(STRANGER, str(tmp_path)) == "0o444\n"
    (tmp_path / "shut").chmod(0o755)
    (tmp_path / "drop").chmod(0o755)
    assert sorted(os.listdir(tmp_path / "drop")) == ["dir", "key", "mine", "read-only"]
    assert (tmp_path / "drop" / "dir" / "key").read_bytes() == b"new"
    assert (tmp_path / "closed" / "key").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path / "open")) == ["key", "read-only"]
    assert (tmp_path / "open" / "read-only").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path / "closed")) == ["key", "read-only"]
