"""Files are written whole or not at all, and a failure leaves nothing but what was there."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.errors import InternalError, RequestRejectedError
from s3dlio.engine.stores import file_write
from s3dlio.engine.stores.base import Operation, run
from s3dlio.engine.stores.file import FileStore
from s3dlio.engine.stores.file_write import NewFile, is_temporary
from s3dlio.engine.stores.memory import MemoryStore

OLD, NEW = b"old" * 1000, b"new" * 2000


def do(operation: Operation[Any]) -> Any:
    """Drives an operation that asks nobody."""

    def refuse(fetch: object) -> Any:
        raise InternalError("a file system asks for nothing")

    return run(operation, refuse)


def refuse_tmpfile(patch: pytest.MonkeyPatch) -> None:
    """Makes this a file system whose files all have names."""
    real = os.open

    def open_(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(path, flags, *args, **more)

    patch.setattr(os, "open", open_)


@pytest.fixture(params=["without a name", "by another name"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    if request.param == "by another name":
        refuse_tmpfile(monkeypatch)
    return FileStore()


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o022)
    yield lambda value: (os.umask(value), None)[1]
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def upload(store: FileStore, path: Path, *parts: bytes, create_only: bool = False) -> None:
    began = do(store.begin_upload(str(path), create_only))
    try:
        for number, part in enumerate(parts):
            do(began.put_part(number, memoryview(part), is_last=number == len(parts) - 1))
        do(began.complete())
    finally:
        do(began.abort())


def test_a_file_is_made_with_its_directories_and_replaced(store: FileStore, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / ("n" * 255)
    for data in (OLD, NEW, b""):
        do(store.put(str(path), memoryview(data)))
        assert path.read_bytes() == data
    assert os.listdir(path.parent) == [path.name]


def test_u5_create_only_never_replaces(store: FileStore, tmp_path: Path) -> None:
    path = tmp_path / "key"
    do(store.put(str(path), memoryview(OLD), create_only=True))
    for again in (lambda: do(store.put(str(path), memoryview(NEW), create_only=True)), lambda: upload(store, path, NEW, create_only=True)):
        with pytest.raises(s3dlio.AlreadyExistsError) as raised:
            again()
        assert raised.value.uri == f"file://{path}"
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["key"]


def test_u5_of_two_who_create_at_once_one_is_told(store: FileStore, tmp_path: Path) -> None:
    path = tmp_path / "key"
    first, second = (do(store.begin_upload(str(path), create_only=True)) for _ in range(2))
    for one, data in ((first, OLD), (second, NEW)):
        do(one.put_part(0, memoryview(data), is_last=True))
    do(second.complete())
    with pytest.raises(s3dlio.AlreadyExistsError):
        do(first.complete())
    do(first.abort())
    assert path.read_bytes() == NEW
    assert os.listdir(tmp_path) == ["key"]


def test_u5_a_name_whose_answer_was_lost_is_ours(store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(*args: Any, **more: Any) -> None:
        real(*args, **more)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link)
    do(store.put(f"{tmp_path}/key", memoryview(NEW), create_only=True))
    assert (tmp_path / "key").read_bytes() == NEW
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMLINK])
def test_u5_where_there_are_no_hard_links_a_rename_that_never_replaces_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise OSError(code, os.strerror(code))

    refuse_tmpfile(monkeypatch)
    monkeypatch.setattr(os, "link", refuse)
    path, store = tmp_path / "key", FileStore()
    others = do(store.begin_upload(str(path), create_only=True))
    do(store.put(str(path), memoryview(OLD), create_only=True))
    with pytest.raises(s3dlio.AlreadyExistsError):
        do(others.complete())
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["key"]


def test_parts_lie_one_behind_the_other_and_the_last_may_come_again(store: FileStore, tmp_path: Path) -> None:
    path = tmp_path / "dir" / "key"
    path.parent.mkdir()
    path.write_bytes(OLD)
    began = do(store.begin_upload(str(path)))
    assert began.is_sequential
    do(began.put_part(0, memoryview(b"aaa"), is_last=False))
    do(began.put_part(1, memoryview(b"wrong, and longer"), is_last=False))
    do(began.put_part(1, memoryview(b"bb"), is_last=False))
    for number in (0, 3):
        with pytest.raises(InternalError):
            do(began.put_part(number, memoryview(b"!"), is_last=False))
    do(began.put_part(2, memoryview(b"c"), is_last=True))
    assert path.read_bytes() == OLD
    assert [one.uri for one in s3dlio.list_iter(f"file://{tmp_path}", recursive=True)] == [f"file://{path}"]
    do(began.complete())
    assert path.read_bytes() == b"aaabbc"
    upload(store, path)
    assert path.read_bytes() == b""


def test_u1_an_upload_that_is_aborted_leaves_what_was_there(store: FileStore, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(OLD)
    began = do(store.begin_upload(str(path)))
    do(began.put_part(0, memoryview(NEW), is_last=False))
    do(began.abort())
    do(began.abort())
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["key"]


def test_what_a_killed_process_left_is_in_no_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_tmpfile(monkeypatch)
    (tmp_path / ".hidden.part").write_bytes(b"mine")
    new = NewFile(str(tmp_path / "key"), create_only=False)
    (left,) = (name for name in os.listdir(tmp_path) if is_temporary(name))
    assert s3dlio.list(f"file://{tmp_path}") == [f"file://{tmp_path}/.hidden.part"]
    new.close()
    assert left not in os.listdir(tmp_path)


# What stands in the way.


def test_l8_what_is_no_file_is_never_replaced(store: FileStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dir").mkdir()
    for name, expected in (("fifo", s3dlio.UnsupportedError), ("dir", IsADirectoryError), ("dir/", s3dlio.InvalidUriError)):
        with pytest.raises(expected) as raised:
            do(store.put(f"{tmp_path}/{name}", memoryview(NEW)))
        assert raised.value.uri == f"file://{tmp_path}/{name}"  # type: ignore[attr-defined]
    assert sorted(os.listdir(tmp_path)) == ["dir", "fifo"]


def test_k3_a_key_below_a_file_is_an_error_that_names_the_file(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD)
    with pytest.raises(s3dlio.AlreadyExistsError, match="a is there, and is no directory"):
        do(store.put(f"{tmp_path}/a/b", memoryview(NEW)))
    assert (tmp_path / "a").read_bytes() == OLD


def test_l5_a_symbolic_link_is_replaced_and_its_target_is_not(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(OLD)
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    do(store.put(f"{tmp_path}/link", memoryview(NEW)))
    assert ((tmp_path / "outside").read_bytes(), (tmp_path / "link").read_bytes()) == (OLD, NEW)
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_l8_a_new_file_has_the_mode_that_the_umask_leaves(
    store: FileStore, tmp_path: Path, umask: Callable[[int], None], mask: int, mode: int
) -> None:
    umask(mask)
    do(store.put(f"{tmp_path}/dir/key", memoryview(NEW)))
    upload(store, tmp_path / "dir" / "other", NEW)
    assert mode_of(tmp_path / "dir/key") == mode_of(tmp_path / "dir/other") == mode
    assert mode_of(tmp_path / "dir") == 0o777 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o755])
def test_l8_a_file_that_is_replaced_keeps_its_mode_and_a_read_only_one_is_replaced(store: FileStore, tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(OLD)
    path.chmod(mode)
    do(store.put(str(path), memoryview(NEW)))
    assert (path.read_bytes(), mode_of(path)) == (NEW, mode)


# Deleting, copying, directories.


def test_delete_many_says_what_was_refused(store: FileStore, tmp_path: Path) -> None:
    for name in ("a", "full/b"):
        do(store.put(f"{tmp_path}/{name}", memoryview(NEW)))
    (tmp_path / "empty").mkdir()
    keys = [f"{tmp_path}/{name}" for name in ("a", "missing", "full", "full/", "empty/", "a/below")]
    refused = do(store.delete_many(keys))
    assert [type(one) for one in refused] == [
        type(None), type(None), s3dlio.IsADirectoryUriError, RequestRejectedError, type(None), type(None)
    ]  # fmt: skip
    assert [one.uri for one in refused if one] == [f"file://{tmp_path}/full", f"file://{tmp_path}/full/"]
    assert sorted(os.listdir(tmp_path)) == ["full"]


def in_the_kernel(patch: pytest.MonkeyPatch) -> None:
    pass


def between_file_systems(patch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    patch.setattr(os, "copy_file_range", refuse)


@pytest.mark.parametrize("way", [in_the_kernel, between_file_systems])
@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_a_copy_has_the_bytes_and_is_a_file_of_its_own(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[pytest.MonkeyPatch], None], size: int
) -> None:
    way(monkeypatch)
    monkeypatch.setattr(file_write, "_COPY_BYTES", 100_000)
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    assert do(store.copy(f"{tmp_path}/new/b", store, f"{tmp_path}/a")) is True
    (tmp_path / "a").write_bytes(b"changed")
    assert (tmp_path / "new" / "b").read_bytes() == data
    assert do(store.copy(f"{tmp_path}/a", store, f"{tmp_path}/a")) is True
    assert (tmp_path / "a").read_bytes() == b"changed"


def test_a_copy_of_nothing_or_of_no_file_is_an_error_of_the_source(store: FileStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, expected in (("missing", s3dlio.NotFoundError), ("fifo", s3dlio.UnsupportedError), ("", IsADirectoryError)):
        with pytest.raises(expected) as raised:
            do(store.copy(f"{tmp_path}/b", store, f"{tmp_path}/{name}"))
        assert raised.value.uri == f"file://{tmp_path}/{name}"  # type: ignore[attr-defined]
    assert do(store.copy(f"{tmp_path}/b", MemoryStore("memory://copies/"), "a")) is False
    assert os.listdir(tmp_path) == ["fifo"]


@pytest.mark.parametrize("change", [b"longer and other" * 30_000, b"shorter"])
def test_i1_a_file_that_changes_while_it_is_copied_leaves_no_copy(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: bytes
) -> None:
    source = tmp_path / "a"
    source.write_bytes(bytes(300_000))
    real, calls = os.copy_file_range, []

    def copy(*args: Any) -> int:
        calls.append(args)
        if len(calls) == 2:
            source.write_bytes(change)
        return real(*args)

    monkeypatch.setattr(os, "copy_file_range", copy)
    monkeypatch.setattr(file_write, "_COPY_BYTES", 100_000)
    with pytest.raises(s3dlio.ObjectChangedError) as raised:
        do(store.copy(f"{tmp_path}/b", store, str(source)))
    assert raised.value.uri == f"file://{source}"
    assert os.listdir(tmp_path) == ["a"]


def test_a_prefix_is_a_directory_and_may_be_made_twice(store: FileStore, tmp_path: Path) -> None:
    for key in ("a/b/c", "a/b/c/", "a"):
        do(store.make_prefix(f"{tmp_path}/{key}"))
    assert (tmp_path / "a/b/c").is_dir()
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(s3dlio.AlreadyExistsError) as raised:
        do(store.make_prefix(f"{tmp_path}/file"))
    assert raised.value.uri == f"file://{tmp_path}/file"


def test_there_are_no_buckets(store: FileStore) -> None:
    for operation in (store.create_bucket(), store.delete_bucket()):
        with pytest.raises(s3dlio.UnsupportedError):
            do(operation)


# Interrupts and failures at every step.

STEPS = ("fchmod", "pwrite", "ftruncate", "fsync", "link", "rename", "unlink")


def count_steps(patch: pytest.MonkeyPatch, on_step: Callable[[int, str], None]) -> None:
    """Calls `on_step` with its number and name, before and after each step of a write."""
    seen: list[str] = []

    def wrap(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def step(*args: Any, **more: Any) -> Any:
            seen.append(f"before {name}")
            on_step(len(seen), seen[-1])
            result = real(*args, **more)
            seen.append(f"after {name}")
            on_step(len(seen), seen[-1])
            return result

        return step

    for name in STEPS:
        patch.setattr(os, name, wrap(name))


@pytest.mark.parametrize("create_only", [False, True])
def test_l3_ctrl_c_at_any_step_leaves_the_old_file_or_the_new_one_and_nothing_else(
    store: FileStore, tmp_path: Path, create_only: bool
) -> None:
    path = tmp_path / "dir" / "key"
    was_interrupted, number = True, 0
    while was_interrupted:
        number += 1
        path.unlink(missing_ok=True)
        if not create_only:
            do(store.put(str(path), memoryview(OLD)))
        with pytest.MonkeyPatch.context() as patch:
            count_steps(patch, lambda at, name: signal.raise_signal(signal.SIGINT) if at == number else None)  # noqa: B023
            try:
                do(store.put(str(path), memoryview(NEW), create_only))
                was_interrupted = False
            except KeyboardInterrupt:
                pass
        left = {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)} if path.parent.exists() else {}
        assert left in ({"key": NEW}, {} if create_only else {"key": OLD}), f"interrupted at step {number}"
    assert number > 2 * 4


@pytest.mark.parametrize("step", ["pwrite", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_l1_a_full_disk_is_an_error_that_names_the_free_space_and_leaves_the_target(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    path = tmp_path / "key"
    path.write_bytes(OLD)

    def refuse(*args: Any) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, step, refuse)
    for write in (lambda: do(store.put(str(path), memoryview(NEW))), lambda: upload(store, path, NEW[:100], NEW[100:])):
        with pytest.raises(s3dlio.NoSpaceError, match=rf"{os.strerror(code)}: \d+ bytes were free in {tmp_path}") as raised:
            write()
        assert raised.value.uri == f"file://{path}"
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("step", ["mkdir", "link", "rename"])
def test_l1_a_disk_without_room_for_names_is_full_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(s3dlio.NoSpaceError, match=r"\d+ bytes were free in /"):
        do(FileStore().put(f"{tmp_path}/{'dir/' if step == 'mkdir' else ''}key", memoryview(NEW)))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("code", "is_error"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_l2_a_directory_that_cannot_be_synced_is_an_error_unless_there_is_no_such_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_error: bool
) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(code, os.strerror(code))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    if is_error:
        with pytest.raises(RequestRejectedError, match="Input/output error"):
            do(FileStore().put(f"{tmp_path}/key", memoryview(NEW)))
    else:
        do(FileStore().put(f"{tmp_path}/key", memoryview(NEW)))
    assert (tmp_path / "key").read_bytes() == NEW


def test_l1_the_kernel_says_that_a_device_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_full(self: NewFile) -> None:
        self.fd = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)

    monkeypatch.setattr(NewFile, "_open", open_full)
    with pytest.raises(s3dlio.NoSpaceError, match="No space left on device"):
        do(FileStore().put(f"{tmp_path}/key", memoryview(NEW)))
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_taken_away_is_an_error_and_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    refuse_tmpfile(monkeypatch)
    began = do(FileStore().begin_upload(f"{tmp_path}/key"))
    fds = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(s3dlio.PermissionDeniedError) as raised:
            do(began.abort())
    assert raised.value.uri == f"file://{tmp_path}/key"
    assert len(os.listdir("/proc/self/fd")) == len(fds) - 1
    do(began.abort())
    assert os.listdir(tmp_path) == []
