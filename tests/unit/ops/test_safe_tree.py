"""A tree that is written to and never left. The oracle is the file system, looked at by other calls."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s3dlio.engine.errors import (
    AlreadyExistsError,
    IsADirectoryUriError,
    NoSpaceError,
    PermissionDeniedError,
    S3dlioError,
    UnsafeNameError,
    UnsupportedError,
)
from s3dlio.engine.ops import safe_tree
from s3dlio.engine.ops.safe_tree import SafeTree, Stamp
from s3dlio.engine.stores.file_write import is_temporary

DATA = memoryview(b"new bytes")
STAMP = Stamp(1_700_000_000 * 10**9, "v1")
FLIPS_S = 1.0


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the target, with one file in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_bytes(b"old")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def tree(root: Path) -> Iterator[SafeTree]:
    found = SafeTree(str(root))
    yield found
    found.close()


def test_a_file_appears_with_its_directories_its_bytes_and_its_stamp(root: Path, tree: SafeTree) -> None:
    tree.put(("a", "b", "file"), DATA, STAMP)
    tree.sync()
    path = root / "a" / "b" / "file"
    assert path.read_bytes() == b"new bytes"
    assert path.stat().st_mtime_ns == STAMP.mtime_ns
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_nothing_is_seen_before_the_commit_and_nothing_is_left_after_a_discard(root: Path, tree: SafeTree) -> None:
    file = tree.begin(("file",))
    file.write(3, DATA)
    assert list(root.iterdir()) == []
    file.discard()
    file.discard()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("is_nameless", [True, False])
def test_what_is_not_committed_is_gone_when_the_tree_is_closed(
    root: Path, monkeypatch: pytest.MonkeyPatch, is_nameless: bool
) -> None:
    if not is_nameless:
        monkeypatch.setattr(safe_tree.OpenFile, "_open_nameless", lambda self: None)
    tree = SafeTree(str(root))
    tree.begin(("a", "file")).write(0, DATA)
    names = [entry.name for entry in (root / "a").iterdir()]
    assert len(names) == (0 if is_nameless else 1)
    assert all(is_temporary(name) for name in names)
    tree.close()
    assert list((root / "a").iterdir()) == []


def test_a_file_system_without_nameless_files_gets_whole_files_too(
    root: Path, tree: SafeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_tree.OpenFile, "_open_nameless", lambda self: None)
    tree.put(("file",), DATA, STAMP)
    assert {entry.name: entry.read_bytes() for entry in root.iterdir()} == {"file": b"new bytes"}


@pytest.mark.parametrize("path", [(), ("",), (".",), ("..",), ("a", "..", "b"), ("a/b",), ("a\0",), ("/etc",)])
def test_l4_what_is_no_path_below_the_root_is_refused_here_too(tree: SafeTree, path: tuple[str, ...]) -> None:
    with pytest.raises(UnsafeNameError):
        tree.put(path, DATA, STAMP)
    with pytest.raises(UnsafeNameError):
        tree.make_directory(path)


def test_l2_a_file_is_synced_before_it_has_its_name_and_the_directories_behind_it(
    root: Path, tree: SafeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    honest_sync, honest_link, honest_rename = os.fsync, os.link, os.rename

    def fsync(fd: int) -> None:
        seen.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        honest_sync(fd)

    def link(source: str, name: str, **kwargs: Any) -> None:
        seen.append("temporary name" if is_temporary(name) else "name")
        honest_link(source, name, **kwargs)

    def rename(*args: Any, **kwargs: Any) -> None:
        seen.append("renamed")
        honest_rename(*args, **kwargs)

    monkeypatch.setattr(safe_tree.os, "fsync", fsync)
    monkeypatch.setattr(safe_tree.os, "link", link)
    monkeypatch.setattr(safe_tree.os, "rename", rename)
    tree.put(("a", "b", "file"), DATA, STAMP)
    tree.put(("a", "b", "other"), DATA, STAMP)
    tree.put(("a", "b", "file"), DATA, STAMP)
    # A name that nothing has is given at once: whatever moment the process dies at, there is no other one.
    assert seen == ["file", "name", "file", "name", "file", "temporary name", "renamed"]
    tree.sync()
    # The root and what is above it, `a` and `b`: each once.
    assert seen[7:] == ["directory"] * 4


def test_a_file_that_comes_into_the_place_at_the_last_moment_is_replaced(
    root: Path, tree: SafeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tree.begin(("file",))
    file.write(0, DATA)
    honest = safe_tree.SafeTree.check_place
    looks = []

    def check_place(tree: SafeTree, directory_fd: int, path: tuple[str, ...]) -> int | None:
        found = honest(tree, directory_fd, path)
        looks.append(found)
        (root / "file").write_bytes(b"somebody else's")
        return found

    monkeypatch.setattr(safe_tree.SafeTree, "check_place", check_place)
    file.commit(STAMP)
    assert looks[0] is None
    assert {entry.name: entry.read_bytes() for entry in root.iterdir()} == {"file": b"new bytes"}


def test_l5_a_symbolic_link_to_a_directory_is_not_followed(root: Path, tree: SafeTree, outside: Path) -> None:
    (root / "link").symlink_to(outside)
    for path in (("link", "file"), ("link", "new"), ("link", "deep", "new")):
        with pytest.raises(UnsupportedError, match="symbolic link"):
            tree.put(path, DATA, STAMP)
    with pytest.raises(UnsupportedError, match="symbolic link"):
        tree.make_directory(("link", "deep"))
    assert {entry.name: entry.read_bytes() for entry in outside.iterdir()} == {"file": b"old"}


def test_l5_a_symbolic_link_in_the_place_of_the_file_is_neither_followed_nor_replaced(
    root: Path, tree: SafeTree, outside: Path
) -> None:
    (root / "file").symlink_to(outside / "file")
    (root / "dangling").symlink_to(outside / "none")
    for name in ("file", "dangling"):
        with pytest.raises(UnsupportedError, match="symbolic link"):
            tree.put((name,), DATA, STAMP)
        assert (root / name).is_symlink()
    assert {entry.name: entry.read_bytes() for entry in outside.iterdir()} == {"file": b"old"}


def test_l5_a_symbolic_link_that_comes_during_the_download_is_replaced_and_not_followed(
    root: Path, tree: SafeTree, outside: Path
) -> None:
    file = tree.begin(("file",))
    file.write(0, DATA)
    (root / "file").symlink_to(outside / "file")
    with pytest.raises(UnsupportedError):
        file.commit(STAMP)
    file.discard()
    assert (outside / "file").read_bytes() == b"old"
    assert [entry.name for entry in root.iterdir()] == ["file"]


def test_l5_the_root_itself_may_be_reached_by_a_symbolic_link(tmp_path: Path, root: Path) -> None:
    root.mkdir()
    (tmp_path / "link").symlink_to(root)
    tree = SafeTree(str(tmp_path / "link"))
    tree.put(("file",), DATA, STAMP)
    tree.close()
    assert (root / "file").read_bytes() == b"new bytes"


def test_l5_a_hard_link_is_not_written_through(root: Path, tree: SafeTree, outside: Path) -> None:
    os.link(outside / "file", root / "file")
    tree.put(("file",), DATA, STAMP)
    assert (root / "file").read_bytes() == b"new bytes"
    assert (outside / "file").read_bytes() == b"old"


@pytest.mark.timeout(20)
def test_l5_a_fifo_a_socket_and_a_device_are_neither_opened_nor_replaced(root: Path, tree: SafeTree) -> None:
    os.mkfifo(root / "fifo")
    os.mknod(root / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "socket"))
        for name in ("fifo", "device", "socket"):
            with pytest.raises(UnsupportedError, match="device, a socket or a pipe"):
                tree.put((name,), DATA, STAMP)
            with pytest.raises(AlreadyExistsError):
                tree.put((name, "below"), DATA, STAMP)
            assert not tree.holds((name,), 0, STAMP)
    assert stat.S_ISFIFO((root / "fifo").lstat().st_mode)
    assert stat.S_ISCHR((root / "device").lstat().st_mode)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", ["directory", "file"])
def test_l5_a_symbolic_link_that_is_flipped_in_a_loop_leads_nowhere(
    root: Path, tree: SafeTree, outside: Path, what: str
) -> None:
    """Another thread makes the name a directory (or a file) and a link out of the tree, in turn, by atomic renames."""
    is_over = threading.Event()
    place, target = root / "flip", outside if what == "directory" else outside / "file"

    def flip() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            link, honest = root / f"link{number}", root / f"honest{number}"
            link.symlink_to(target)
            # The tree may make the directory in between.
            with contextlib.suppress(OSError):
                link.rename(place) if not place.is_dir() or place.is_symlink() else place.rename(root / f"gone{number}")
            with contextlib.suppress(OSError):
                link.rename(place)
            with contextlib.suppress(OSError):
                place.unlink()
            if what == "directory":
                honest.mkdir()
            else:
                honest.write_bytes(b"honest")
            with contextlib.suppress(OSError):
                honest.rename(place)

    flipper = threading.Thread(target=flip)
    flipper.start()
    until_s = time.monotonic() + FLIPS_S
    num_written = num_refused = 0
    try:
        while time.monotonic() < until_s:
            try:
                tree.put(("flip", "new") if what == "directory" else ("flip",), DATA, STAMP)
                num_written += 1
            except S3dlioError:
                num_refused += 1
    finally:
        is_over.set()
        flipper.join()
    assert num_written
    assert num_written + num_refused > 10
    assert {entry.name: entry.read_bytes() for entry in outside.iterdir()} == {"file": b"old"}


def test_k3_a_file_where_a_directory_must_be_and_a_directory_where_a_file_must_be(root: Path, tree: SafeTree) -> None:
    tree.put(("a",), DATA, STAMP)
    with pytest.raises(AlreadyExistsError, match="a file is in the way"):
        tree.put(("a", "b"), DATA, STAMP)
    tree.put(("c", "d"), DATA, STAMP)
    with pytest.raises(IsADirectoryUriError):
        tree.put(("c",), DATA, STAMP)
    assert (root / "a").read_bytes() == b"new bytes"
    assert (root / "c" / "d").read_bytes() == b"new bytes"


def test_l8_new_files_have_the_mode_of_the_umask_and_replaced_ones_keep_theirs(root: Path, tree: SafeTree) -> None:
    before = os.umask(0o027)
    try:
        tree.put(("new",), DATA, STAMP)
        (root / "old").write_bytes(b"old")
        (root / "old").chmod(0o4604)
        tree.put(("old",), DATA, STAMP)
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "new").stat().st_mode) == 0o640
    # Who replaces a file makes no new one with the rights of its owner.
    assert stat.S_IMODE((root / "old").stat().st_mode) == 0o604


def test_l1_a_full_disk_leaves_the_old_file_and_says_how_much_room_there_is(root: Path, tree: SafeTree) -> None:
    tree.put(("file",), memoryview(b"old"), STAMP)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(NoSpaceError, match="bytes are free"):
            tree.put(("file",), memoryview(bytes(8192)), STAMP)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert {entry.name: entry.read_bytes() for entry in root.iterdir()} == {"file": b"old"}


def test_a_file_is_known_again_by_size_time_and_version(root: Path, tree: SafeTree) -> None:
    tree.put(("file",), DATA, STAMP)
    path, size = root / "file", len(DATA)
    assert tree.holds(("file",), size, STAMP)
    assert not tree.holds(("file",), size + 1, STAMP)
    assert not tree.holds(("file",), size, STAMP._replace(version="v2"))
    assert not tree.holds(("file",), size, STAMP._replace(mtime_ns=(1_700_000_001) * 10**9))
    assert not tree.holds(("file",), size, STAMP._replace(mtime_ns=STAMP.mtime_ns - 1))  # type: ignore[operator]
    # As if the file system kept no more than seconds.
    assert tree.holds(("file",), size, STAMP._replace(mtime_ns=STAMP.mtime_ns + 500_000))  # type: ignore[operator]
    assert tree.holds(("file",), size, Stamp(None, "v1"))
    assert not tree.holds(("file",), size, Stamp(None, None))
    assert not tree.holds(("none",), size, STAMP)
    assert not tree.holds(("none", "deep"), size, STAMP)
    path.write_bytes(b"wen bytes")  # as long, but touched
    assert not tree.holds(("file",), size, STAMP)


def test_without_attributes_a_file_is_known_again_by_size_and_time(root: Path, tree: SafeTree) -> None:
    tree.put(("file",), DATA, STAMP)
    os.removexattr(root / "file", safe_tree.VERSION_ATTRIBUTE)
    assert tree.holds(("file",), len(DATA), STAMP)
    assert not tree.holds(("file",), len(DATA), Stamp(None, "v1"))


def test_a_link_to_a_file_that_would_do_is_not_that_file(root: Path, tree: SafeTree) -> None:
    tree.put(("file",), DATA, STAMP)
    (root / "link").symlink_to(root / "file")
    assert not tree.holds(("link",), len(DATA), STAMP)


def test_what_is_no_directory_cannot_be_the_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AlreadyExistsError):
        SafeTree(str(tmp_path / "file"))
    with pytest.raises(S3dlioError):
        SafeTree(str(tmp_path / "file" / "below"))


def test_l8_a_directory_of_another_user_is_a_permission_error(tmp_path: Path) -> None:
    """Run as the user `nobody`, since nothing is forbidden to root."""
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    for above in (tmp_path, *tmp_path.parents):
        above.chmod(0o755)
        if above.name.startswith("pytest-of-"):
            break
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            tree = SafeTree(str(root))
            try:
                tree.put(("file",), DATA, STAMP)
            except PermissionDeniedError:
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
