"""`delete`: exactly what was named, and with `recursive` exactly what lies below, on object stores and on disks."""

from __future__ import annotations

import asyncio
import errno
import inspect
import itertools
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

import s3dlio

_numbers = itertools.count(1)
KEYS = ["a*b", "axb", "m/x", "run1", "run10/x", "run2/sub/y", "run2/x"]


@pytest.fixture(params=["memory", "file"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    found = f"file://{tmp_path}/" if request.param == "file" else f"memory://removal-{next(_numbers)}/"
    s3dlio.put_many([(found + key, b"x") for key in KEYS])
    return found


def left(root: str) -> list[str]:
    return s3dlio.list_keys(root, recursive=True)


def test_a_star_is_a_character_like_any_other_without_recursive(root: str) -> None:
    s3dlio.delete(f"{root}a*b")
    assert left(root) == KEYS[1:]
    with pytest.raises(s3dlio.ConfigurationError, match="recursive=True"):
        s3dlio.delete(f"{root}a*b")
    assert left(root) == KEYS[1:]


def test_a_star_in_the_last_segment_is_a_glob_of_its_level_with_recursive(root: str) -> None:
    s3dlio.delete(f"{root}run*", recursive=True)
    assert left(root) == ["a*b", "axb", "m/x"]
    s3dlio.delete(f"{root}a[*]b", recursive=True)
    assert left(root) == ["axb", "m/x"]
    s3dlio.delete(f"{root}nothing*", recursive=True)
    s3dlio.delete(f"{root}no/such/*", recursive=True)
    assert left(root) == ["axb", "m/x"]


def test_a_star_in_an_earlier_segment_is_refused_with_recursive_and_nothing_is_deleted(root: str) -> None:
    s3dlio.put_many([(f"{root}r*/x", b"x")])
    for delete in (s3dlio.delete, lambda uri, recursive: asyncio.run(s3dlio.delete_async(uri, recursive))):
        with pytest.raises(s3dlio.ConfigurationError, match="last segment"):
            delete(f"{root}r*/x", recursive=True)
    assert left(root) == sorted([*KEYS, "r*/x"])
    s3dlio.delete(f"{root}r*/x")
    assert left(root) == KEYS


def test_a_child_prefix_of_a_listing_is_no_glob(root: str) -> None:
    s3dlio.put_many([(f"{root}r*/x", b"x"), (f"{root}r*/sub/y", b"y")])
    s3dlio.delete(f"{root}r*/", recursive=True)
    assert left(root) == KEYS


def test_recursive_takes_an_object_and_what_lies_below_its_name_and_no_sibling(root: str) -> None:
    s3dlio.delete(f"{root}run1", recursive=True)
    s3dlio.delete(f"{root}run2/", recursive=True)
    assert left(root) == ["a*b", "axb", "m/x", "run10/x"]
    s3dlio.delete(root, recursive=True)
    assert left(root) == []
    s3dlio.delete(root, recursive=True)


def test_a_slash_at_the_end_names_an_empty_directory_or_a_marker(root: str) -> None:
    s3dlio.mkdir(f"{root}empty/")
    s3dlio.mkdir(f"{root}m/")
    with pytest.raises(s3dlio.RequestRejectedError):
        s3dlio.delete(f"{root}m/")
    s3dlio.delete(f"{root}empty/")
    s3dlio.delete(f"{root}never/")
    assert f"{root}empty/" not in s3dlio.list(root)
    assert "m/x" in left(root)


def test_a_bucket_is_emptied_only_with_recursive() -> None:
    with pytest.raises(s3dlio.ConfigurationError):
        s3dlio.delete(f"memory://removal-{next(_numbers)}/")


def test_l5_a_link_is_removed_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(b"kept")
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    for link in ("tree/sub/link", "tree/file-link", "link"):
        (tmp_path / link).symlink_to(tmp_path / "precious")
    os.mkfifo(tmp_path / "tree" / "pipe")
    s3dlio.delete(f"file://{tmp_path}/tree", recursive=True)
    s3dlio.delete(f"file://{tmp_path}/link/", recursive=True)
    assert sorted(child.name for child in tmp_path.iterdir()) == ["precious"]
    assert (tmp_path / "precious" / "file").read_bytes() == b"kept"


@pytest.mark.parametrize("path", ["/", "//", "/./", "/tmp/.."])
def test_the_root_of_the_file_system_stays(path: str) -> None:
    with pytest.raises(s3dlio.ConfigurationError):
        s3dlio.delete(f"file://{path}", recursive=True)


def test_what_cannot_be_removed_is_named_and_counted_and_the_rest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree" / "locked").mkdir(parents=True)
    for name in ("a", "locked/b", "locked/c", "d"):
        (tmp_path / "tree" / name).write_bytes(b"x")
    unlink = os.unlink

    def refusing(name: str, *, dir_fd: int | None = None) -> None:
        if name in {"b", "c"}:
            raise PermissionError(errno.EPERM, "refused")
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refusing)
    with pytest.raises(s3dlio.PermissionDeniedError) as raised:
        s3dlio.delete(f"file://{tmp_path}/tree", recursive=True)
    monkeypatch.undo()
    assert all(f"file://{tmp_path}/tree/locked/{name}" in str(raised.value) for name in "bc")
    assert "2 of 4 objects were not deleted" in str(raised.value)
    assert sorted(path.name for path in (tmp_path / "tree").rglob("*")) == ["b", "c", "locked"]


@pytest.mark.parametrize("end", [".", "..", "../", "sub/.."])
def test_dots_name_no_directory_that_is_removed(tmp_path: Path, end: str) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "file").write_bytes(b"kept")
    with pytest.raises(s3dlio.ConfigurationError, match="by its name"):
        s3dlio.delete(f"file://{tmp_path}/tree/{end}", recursive=True)
    assert (tmp_path / "tree" / "file").read_bytes() == b"kept"


def test_what_somebody_else_removes_meanwhile_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, unlink = tmp_path / "tree", os.unlink
    for number in range(4):
        (tree / f"{number}" / "sub").mkdir(parents=True)
        (tree / f"{number}" / "sub" / "file").write_bytes(b"x")

    def too_late(name: str, *, dir_fd: int | None = None) -> None:
        monkeypatch.setattr(os, "unlink", unlink)
        shutil.rmtree(tree)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", too_late)
    s3dlio.delete(f"file://{tree}", recursive=True)
    assert not tree.exists()


def test_a_tree_may_be_deeper_than_the_stack_of_python(tmp_path: Path) -> None:
    (tmp_path / "/".join(["tree", *"d" * 300])).mkdir(parents=True)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    try:
        s3dlio.delete(f"file://{tmp_path}/tree", recursive=True)
    finally:
        sys.setrecursionlimit(limit)
    assert [*tmp_path.iterdir()] == []


def test_a_directory_that_cannot_be_read_goes_if_it_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree" / "closed-empty").mkdir(parents=True)
    (tmp_path / "tree" / "closed-full" / "sub").mkdir(parents=True)
    open_it = os.open

    def refusing(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        if path.startswith("closed"):
            raise PermissionError(errno.EACCES, "refused")
        return open_it(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(s3dlio.PermissionDeniedError, match=r"1 of 2 objects were not deleted: .*closed-full: Permission denied"):
        s3dlio.delete(f"file://{tmp_path}/tree", recursive=True)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["closed-full"]


def test_a_call_that_is_cancelled_goes_on_deleting_no_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        (tmp_path / f"{number}").write_bytes(b"x")
    is_begun, may_go_on, unlink = threading.Event(), threading.Event(), os.unlink

    def slow(name: str, *, dir_fd: int | None = None) -> None:
        is_begun.set()
        assert may_go_on.wait(20)
        unlink(name, dir_fd=dir_fd)

    async def main() -> None:
        task = asyncio.create_task(s3dlio.delete_async(f"file://{tmp_path}/*", recursive=True))
        await asyncio.to_thread(is_begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_go_on.set()

    monkeypatch.setattr(os, "unlink", slow)
    asyncio.run(main())  # which ends when its threads have
    assert len([*tmp_path.iterdir()]) == 19
