"""Files are read piece by piece, and are of one version all the same; and listings of them, whatever lies there."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.stores import file_wire
from s3dlio.engine.stores.file import FileStore
from s3dlio.engine.stores.file_wire import iso_of
from s3dlio.engine.types import ObjectRef

DATA, NEW = (random.Random(seed).randbytes(10_500) for seed in (1, 2))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(file_wire, "_PIECE_BYTES", 1000)
    made = tmp_path / "data.bin"
    made.write_bytes(DATA)
    return made


def change_after(num_pieces: int, change: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has `change` happen behind the n-th piece."""
    real, seen = file_wire.read_exactly, []

    def fill(fd: int, out: memoryview, offset: int) -> None:
        real(fd, out, offset)
        seen.append(offset)
        if len(seen) == num_pieces:
            change()

    monkeypatch.setattr(file_wire, "read_exactly", fill)


@pytest.mark.parametrize(("start", "length"), [(0, None), (0, 999), (0, 1000), (1, 1001), (9_000, 1500), (10_500, None)])
def test_any_piece_of_a_file_is_exact(path: Path, start: int, length: int | None) -> None:
    end = None if length is None else start + length
    assert bytes(s3dlio.get_range(f"file://{path}", start, length)) == DATA[start:end]
    assert bytes(s3dlio.get(f"file://{path}")) == DATA


@pytest.mark.parametrize("num_pieces", [1, 5, 11])
def test_i1_a_file_that_changes_is_read_again_whole_where_nobody_pinned_it(
    path: Path, num_pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_after(num_pieces, lambda: path.write_bytes(NEW[:9000]), monkeypatch)
    assert bytes(s3dlio.get(f"file://{path}")) == NEW[:9000]


@pytest.mark.parametrize("num_pieces", [1, 5, 11])
def test_i1_a_pinned_file_that_changes_is_an_error(path: Path, num_pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"file://{path}"
    entry = s3dlio.list(uri) and next(iter(s3dlio.list_iter(uri)))
    change_after(num_pieces, lambda: path.write_bytes(NEW), monkeypatch)
    (found,) = s3dlio.get_many([ObjectRef(uri, entry.size, entry.version)], errors="return")  # type: ignore[list-item]
    assert isinstance(found, s3dlio.ObjectChangedError)
    assert found.uri == uri


def test_i1_a_file_that_never_stays_the_same_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = file_wire.read_exactly

    def fill(fd: int, out: memoryview, offset: int) -> None:
        real(fd, out, offset)
        path.write_bytes(random.randbytes(5000))

    monkeypatch.setattr(file_wire, "read_exactly", fill)
    with pytest.raises(s3dlio.ObjectChangedError):
        s3dlio.get(f"file://{path}")


@pytest.mark.parametrize("scheme", ["file", "direct"])
def test_k1_a_name_that_no_file_can_have_is_an_error_of_the_uri(path: Path, scheme: str) -> None:
    assert s3dlio.exists(f"{scheme}://{path}")
    uri = f"{scheme}://{path.parent}/\ud800"
    for call in (s3dlio.get, s3dlio.stat, s3dlio.list, s3dlio.delete, lambda uri: s3dlio.put_bytes(uri, b"")):
        with pytest.raises(s3dlio.InvalidUriError, match="no file can have this name"):
            call(uri)


def test_i1_a_file_that_does_not_tell_its_size_is_an_error_and_not_empty(tmp_path: Path) -> None:
    uri = "file:///proc/self/status"
    assert s3dlio.stat(uri)["size"] == 0
    for call in (s3dlio.get, lambda uri: s3dlio.copy(uri, f"file://{tmp_path}/copy")):
        with pytest.raises(s3dlio.UnsupportedError, match="does not tell how many") as raised:
            call(uri)
        assert raised.value.uri == uri
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("then", [NEW, b""])
def test_what_is_empty_when_it_is_opened_may_have_bytes_a_moment_later(path: Path, monkeypatch: pytest.MonkeyPatch, then: bytes) -> None:
    path.write_bytes(b"")
    real = os.pread

    def pread(*args: Any) -> bytes:
        if contents:
            path.write_bytes(NEW)
        found = real(*args)
        if contents:
            path.write_bytes(contents.pop())
        return found

    contents = [then]
    monkeypatch.setattr(os, "pread", pread)
    assert bytes(s3dlio.get(f"file://{path}")) == then
    assert contents == []


def test_a_socket_is_said_to_be_none_of_the_files_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for scheme in ("file", "direct"):
            with pytest.raises(s3dlio.UnsupportedError) as raised:
                s3dlio.get(f"{scheme}://{tmp_path}/socket")
            assert not isinstance(raised.value, s3dlio.DirectIOUnsupportedError)


# Listings.


def test_k3_a_link_that_leads_nowhere_or_to_itself_hides_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"data")
    for name, target in (("a", "a"), ("c", "missing"), ("d", "b/below"), ("e", "b"), ("f", ".")):
        (tmp_path / name).symlink_to(target)
    root = f"file://{tmp_path}"
    assert s3dlio.list(root) == [f"{root}/b", f"{root}/e", f"{root}/f/"]
    assert s3dlio.list(root, recursive=True) == [f"{root}/b", f"{root}/e"]


def test_directories_may_lie_deeper_than_python_calls(tmp_path: Path) -> None:
    # Paths end at 4096 bytes.
    deep = tmp_path / "/".join("d" * 1200)
    uri = f"file://{deep}/key"
    try:
        s3dlio.put_bytes(uri, b"data")
        assert s3dlio.list(f"file://{tmp_path}", recursive=True) == [uri]
    finally:
        while deep != tmp_path:
            for name in os.listdir(deep) if deep.exists() else ():
                (deep / name).unlink()
            if deep.exists():
                deep.rmdir()
            deep = deep.parent


def test_directories_and_files_that_vanish_under_a_listing_are_left_out(tmp_path: Path) -> None:
    for name in ("a/x", "b/x", "c/x", "d", "e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"data")
    root = f"file://{tmp_path}"
    walk = FileStore()._walk(str(tmp_path), True)
    assert next(walk).uri == f"{root}/a/x"
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "d").unlink()
    assert [entry.uri for entry in walk] == [f"{root}/c/x", f"{root}/e"]


@pytest.mark.parametrize(
    ("second", "expected"),
    [(0, "1970-01-01T00:00:00Z"), (1 << 60, "9999-12-31T23:59:59Z"), (-(1 << 60), "0001-01-01T00:00:00Z"), (-1, "1969-12-31T23:59:59Z")],
)
def test_a_time_that_is_in_no_calendar_breaks_no_listing(second: int, expected: str) -> None:
    found = SimpleNamespace(st_mtime_ns=second * 1_000_000_000 + 999_999_999)
    assert iso_of(found) == expected  # type: ignore[arg-type]
