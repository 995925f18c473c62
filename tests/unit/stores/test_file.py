"""Files are read piece by piece, and are of one version all the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

import s3dlio
from s3dlio.engine.stores import file_wire
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
