"""Files as the source of a transfer (case L6)."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

import pytest

from s3dlio.engine.errors import NotFoundError, UnsupportedError
from s3dlio.engine.ops.local_walk import walk
from s3dlio.engine.ops.transfer_names import Item, Refused
from s3dlio.engine.stores.registry import locate


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "b" / "deep").mkdir(parents=True)
    for name in ("a", "b/one", "b/deep/two", "c", ".hidden"):
        (root / name).write_bytes(name.encode())
    (root / "empty").mkdir()
    return root


def found(root: Path, *, recursive: bool = True, follow_symlinks: bool = False, under: str = "") -> tuple[dict[str, int], dict[str, type]]:
    """Returns names with sizes, and paths relative to `root` with the classes of errors."""
    store, path = locate(f"file://{root}")
    files, refused = {}, {}
    for one in walk(store, path, recursive=recursive, follow_symlinks=follow_symlinks, under=under):
        if isinstance(one, Item):
            assert one.uri == f"file://{root}/{one.name.removeprefix(under)}"
            assert one.version
            files[one.name] = one.size
        else:
            assert isinstance(one, Refused)
            refused[one.uri.removeprefix(f"file://{root}/")] = type(one.error)
    return files, refused


def test_all_files_are_found_in_order_with_their_relative_names(tree: Path) -> None:
    files, refused = found(tree)
    assert list(files.items()) == [(".hidden", 7), ("a", 1), ("b/deep/two", 10), ("b/one", 5), ("c", 1)]
    assert refused == {}
    assert list(found(tree, under="x/")[0]) == ["x/.hidden", "x/a", "x/b/deep/two", "x/b/one", "x/c"]
    assert list(found(tree, recursive=False)[0]) == [".hidden", "a", "c"]


def test_what_s3dlio_is_writing_is_no_file_yet(tree: Path) -> None:
    (tree / ".s3dlio-0123456789abcdef.part").write_bytes(b"half")
    assert ".s3dlio-0123456789abcdef.part" not in found(tree)[0]


def test_l6_symbolic_links_are_refused_unless_they_are_to_be_followed(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"1234")
    (tree / "out").symlink_to(outside)
    (tree / "file").symlink_to(outside / "secret")
    files, refused = found(tree)
    assert refused == {"file": UnsupportedError, "out": UnsupportedError}
    assert len(files) == 5
    files, refused = found(tree, follow_symlinks=True)
    assert refused == {}
    assert files["out/secret"] == files["file"] == 4


def test_l6_a_loop_of_directories_is_noticed_and_the_others_go_on(tree: Path) -> None:
    (tree / "b" / "up").symlink_to("..")
    (tree / "b" / "self").symlink_to("self")
    (tree / "twice").symlink_to("b")  # no loop: only seen by two ways
    files, refused = found(tree, follow_symlinks=True)
    assert refused["b/up"] is UnsupportedError
    assert refused["b/self"] is not None
    assert files["twice/one"] == 5
    assert "c" in files


@pytest.mark.timeout(10)
def test_l6_special_files_and_dangling_links_are_reported_and_not_opened(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    (tree / "dangling").symlink_to("nothing")
    files, refused = found(tree, follow_symlinks=True)
    assert refused == {"fifo": UnsupportedError, "dangling": NotFoundError}
    assert len(files) == 5


def test_l6_a_directory_that_vanishes_is_reported(tree: Path, tmp_path: Path) -> None:
    store, path = locate(f"file://{tree}")
    walking = walk(store, path, recursive=True, follow_symlinks=False)
    assert [next(walking).uri for _ in range(2)][-1].endswith("/a")
    (tree / "b").rename(tmp_path / "b")
    rest = [*walking]
    assert [type(one) for one in rest] == [Refused, Item]
    assert isinstance(rest[0], Refused)
    assert isinstance(rest[0].error, NotFoundError)


def test_l6_a_file_that_vanishes_is_reported(tree: Path) -> None:
    store, path = locate(f"file://{tree}")
    walking = walk(store, path, recursive=True, follow_symlinks=False)
    next(walking)
    (tree / "a").unlink()
    missing = next(walking)
    assert isinstance(missing, Refused)
    assert isinstance(missing.error, NotFoundError)


def test_a_tree_that_is_deeper_than_the_stack_of_python_is_walked(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "/".join("d" * 300)
    path.mkdir(parents=True)
    (path / "f").write_bytes(b"x")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    try:
        files, refused = found(tmp_path / "deep")
    finally:
        sys.setrecursionlimit(before)
    assert refused == {}
    assert [name[-4:] for name in files] == ["/d/f"]


def test_a_name_that_is_no_utf_8_is_reported(tree: Path) -> None:
    os.close(os.open(os.fsencode(tree) + b"/\xff", os.O_CREAT | os.O_WRONLY))
    files, refused = found(tree)
    assert len(files) == 5
    assert list(refused.values()) == [UnsupportedError]
