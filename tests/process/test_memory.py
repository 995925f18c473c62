"""The memory of a pool, end to end: reserved before it is written, capped, never reused under a view, inherited by nobody (M1-M7)."""

from __future__ import annotations

import os
import stat
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import s3dlio
from tests.process.kit import Bucket, wait_quiet, wait_until, worker_processes
from tests.support.processes import ScriptProcess
from tests.support.remains import memfds, open_fds, shm_entries, socket_directories

KIB, MIB = 1 << 10, 1 << 20


def test_m1_more_than_the_machine_has_is_refused_at_once(procs: int) -> None:
    with pytest.raises(s3dlio.InsufficientMemoryError) as caught:
        s3dlio.Pool(procs=procs, memory_bytes="1000TiB")
    text = str(caught.value)
    assert str(1000 << 40) in text
    assert "available" in text
    assert "memory_bytes" in text


LIMITED = """
import resource, sys, s3dlio
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
try:
    with s3dlio.Pool(procs=0, memory_bytes="64MiB") as pool:
        print("READ", [len(view) for _, view in pool.fetch(sys.argv[1:])], flush=True)
except s3dlio.InsufficientMemoryError as error:
    print("REFUSED", error, flush=True)
"""


def test_m1_limited_address_space_is_lived_with_or_explained(bucket: Bucket) -> None:
    with ScriptProcess(LIMITED, [bucket.add("key", KIB)]) as caller:
        words = caller.read_line().split(" ")
        assert words[0] == "READ" or "ulimit" in " ".join(words)
        assert caller.wait(20) == 0


def test_m2_every_granted_page_is_reserved(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(30, 100 * KIB)
    before = set(memfds(os.getpid()))
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="16MiB") as pool:
        [segment] = [inode for inode, name in memfds(os.getpid()).items() if name == "s3dlio" and inode not in before]
        held = list(pool.fetch(uris))
        blocks = [os.stat(f"/proc/self/fd/{fd}") for fd in open_fds(os.getpid()) if _inode(fd) == segment]
        # Source: stat(2): st_blocks counts units of 512 bytes that are allocated.
        assert blocks[0].st_blocks * 512 >= pool.stats()["memory_reserved_bytes"] >= 30 * 100 * KIB
        assert bucket.check(held) == uris


def _inode(fd: int) -> int:
    try:
        return os.stat(f"/proc/self/fd/{fd}").st_ino
    except FileNotFoundError:
        return -1


@pytest.mark.parametrize("is_size_known", [False, True], ids=["unknown", "known"])
def test_m3_object_larger_than_the_cap_names_the_cap(bucket: Bucket, procs: int, is_size_known: bool) -> None:
    uri = bucket.add("large", 5 * MIB)
    small = bucket.fill(4, KIB)
    wanted = [small[0], s3dlio.ObjectRef(uri, 5 * MIB) if is_size_known else uri, *small[1:]]
    with s3dlio.Pool(procs=procs, jobs=2, memory_bytes="4MiB") as pool:
        found = list(pool.fetch(wanted, errors="return"))
        error = found.pop(1)[1]
        assert isinstance(error, s3dlio.ObjectTooLargeError)
        assert str(4 * MIB) in str(error)
        assert error.uri == uri
        assert bucket.check(found) == small
        del found
        assert wait_quiet(pool)["memory_used_bytes"] == 0


def test_m4_views_live_through_release_epochs_and_close(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(40, 50 * KIB)
    pool = s3dlio.Pool(procs=procs, jobs=4, memory_bytes="8MiB")
    kept = []
    for number, (uri, view) in enumerate(pool.fetch(uris)):
        if number % 4 == 0:
            kept.append((uri, view[10:-10]))
        del view
    for _ in range(3):
        assert bucket.check(pool.fetch(uris)) == uris
    pool.close()
    assert len(kept) == 10
    for uri, piece in kept:
        assert bytes(piece) == bucket.data(uri)[10:-10]
        piece[0] = 7
        assert piece[0] == 7


def test_m4_views_held_beyond_the_cap_are_an_error_and_not_a_hang(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(40, 500 * KIB)
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="4MiB") as pool:
        held = []
        with pytest.raises(s3dlio.ViewsHeldError) as caught:
            held.extend(pool.fetch(uris))
        text = str(caught.value)
        assert f"{len(held)} views" in text
        assert str(4 * MIB) in text
        assert "memory_bytes" in text
        assert "release" in text
        assert len(held) >= 6
        assert bucket.check(held) == uris[: len(held)]
        held.clear()
        assert bucket.check(pool.fetch(uris)) == uris


def test_m6_no_name_anywhere_and_every_descriptor_closes_on_exec(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(20, KIB)
    shm = shm_entries()
    before = set(open_fds(os.getpid()))
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="8MiB") as pool:
        for folder in socket_directories():
            assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
        assert bool(socket_directories()) == bool(procs)
        wait_until(lambda: bool(bucket.check(pool.fetch(uris))) and not socket_directories(), "the door is closed")
        assert shm_entries() <= shm
        for fd in set(open_fds(os.getpid())) - before:
            assert not _is_inheritable(fd), f"{fd} would be inherited: {open_fds(os.getpid()).get(fd)}"


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


@pytest.mark.parametrize("is_spawn", [False, True], ids=["subprocess", "posix-spawn"])
def test_m7_programs_that_the_user_starts_inherit_nothing(bucket: Bucket, procs: int, is_spawn: bool) -> None:
    uris = bucket.fill(20, KIB)
    before = Counter(open_fds(os.getpid()).values())
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="8MiB") as pool:
        held = list(pool.fetch(uris))
        s3dlio.get(uris[0])
        ours = {*(Counter(open_fds(os.getpid()).values()) - before)}
        assert any("memfd:s3dlio" in target for target in ours)
        if is_spawn:
            pid = os.posix_spawnp("sleep", ["sleep", "60"], {})
        else:
            child = subprocess.Popen(["sleep", "60"], close_fds=False)
            pid = child.pid
        try:
            inherited = set(open_fds(pid).values())
        finally:
            os.kill(pid, 9)
            if is_spawn:
                os.waitpid(pid, 0)
            else:
                child.wait()
        assert not inherited & ours
        assert bucket.check(held) == uris


def test_a5_workers_have_no_credentials_and_no_frameworks(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    canaries = {"AWS_ACCESS_KEY_ID": "CANARYACCESS", "AWS_SECRET_ACCESS_KEY": "CANARYSECRET", "AWS_SESSION_TOKEN": "CANARYTOKEN"}
    for name, value in canaries.items():
        monkeypatch.setenv(name, value)
    for name in ("s3dlio", "json", "msgspec", "zmq", "signal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(77)")
    monkeypatch.chdir(tmp_path)
    uris = bucket.fill(20, KIB)
    with s3dlio.Pool(procs=2, jobs=2, memory_bytes="8MiB") as pool:
        wait_until(lambda: bool(bucket.check(pool.fetch(uris))) and not socket_directories(), "both workers work")
        assert pool.stats()["worker_restarts"] == 0
        for worker in worker_processes():
            folder = Path(f"/proc/{worker.pid}")
            seen = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            assert b"CANARY" not in seen
            maps = (folder / "maps").read_text()
            for package in ("numpy", "torch", "jax", "tensorflow", "botocore", "google", "azure"):
                assert f"/{package}/" not in maps
            assert (folder / "cmdline").read_bytes().split(b"\0")[1:4] == [b"-P", b"-m", b"s3dlio.engine.pool.worker"]


def test_a_worker_imports_neither_numpy_nor_an_sdk() -> None:
    source = (
        "import sys, s3dlio.engine.pool.worker, s3dlio.engine.stores.s3_wire\n"
        "print({n.partition('.')[0] for n in sys.modules} & {'numpy', 'torch', 'boto3', 'botocore', 'google', 'azure'})"
    )
    with ScriptProcess(source) as process:
        assert process.read_line() == "set()"
        assert process.wait(20) == 0
