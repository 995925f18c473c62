"""The commands that copy, move and delete, and those of buckets, in this process: what is done, what is printed, the exit codes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import s3dlio
from s3dlio.engine.cli.app import app

_numbers = itertools.count(1)


def run(*args: str) -> Any:
    return CliRunner().invoke(app, args)


@pytest.fixture
def bucket() -> Iterator[str]:
    """A bucket of memory with three objects."""
    root = f"memory://cli-objects-{next(_numbers)}/"
    s3dlio.put_many([(root + key, key.encode()) for key in ("a", "dir/b", "dir/c")])
    yield root
    s3dlio.delete(root, recursive=True)
    s3dlio.delete_bucket(root)


def test_cp_takes_paths_and_uris_and_gives_a_directory_the_name_of_the_source(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for target in (f"{tmp_path}/made", f"{tmp_path}/new/", f"file://{tmp_path}/whole"):
        assert run("cp", f"{bucket}dir/b", target).exit_code == 0
    assert [(tmp_path / name).read_bytes() for name in ("made/b", "new/b", "whole")] == [b"dir/b"] * 3
    assert run("cp", f"{tmp_path}/whole", f"{bucket}up/").exit_code == 0
    assert bytes(s3dlio.get(f"{bucket}up/whole")) == b"dir/b"


def test_mv_leaves_nothing_behind(bucket: str, tmp_path: Path) -> None:
    assert run("mv", f"{bucket}a", f"{tmp_path}/a").exit_code == 0
    assert (tmp_path / "a").read_bytes() == b"a"
    assert not s3dlio.exists(f"{bucket}a")


def test_cp_onto_itself_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"kept")
    found = run("mv", f"{tmp_path}/a", f"file://{tmp_path}/./a")
    assert found.exit_code == 2
    assert found.stderr.startswith("error: ")
    assert (tmp_path / "a").read_bytes() == b"kept"


@pytest.mark.parametrize("command", ["cp", "mv"])
def test_a_prefix_is_no_object_even_where_it_has_a_marker(bucket: str, command: str) -> None:
    s3dlio.mkdir(f"{bucket}dir")
    found = run(command, f"{bucket}dir/", f"{bucket}other/")
    assert found.exit_code == 2
    assert "upload and download take trees" in found.stderr
    assert s3dlio.list_keys(bucket, recursive=True) == ["a", "dir/", "dir/b", "dir/c"]


def test_rm_takes_one_object_and_with_r_all_below(bucket: str) -> None:
    assert run("rm", f"{bucket}dir").exit_code == 0
    assert run("rm", f"{bucket}a").exit_code == 0
    assert s3dlio.list_keys(bucket, recursive=True) == ["dir/b", "dir/c"]
    assert run("rm", "-r", f"{bucket}dir").exit_code == 0
    assert s3dlio.list_keys(bucket, recursive=True) == []


def test_rm_without_r_refuses_a_bucket_a_pattern_and_what_is_not_empty(bucket: str) -> None:
    for uri, code in ((bucket, 2), (f"{bucket}*", 2), (f"{bucket}dir/", 1)):
        found = run("rm", uri)
        assert found.exit_code == code
        assert "error: " in found.stderr
    assert s3dlio.list_keys(bucket, recursive=True) == ["a", "dir/b", "dir/c"]


def test_mkdir_makes_a_directory_or_a_marker(bucket: str, tmp_path: Path) -> None:
    assert run("mkdir", f"file://{tmp_path}/x/y").exit_code == 0
    assert (tmp_path / "x" / "y").is_dir()
    assert run("mkdir", f"{bucket}new").exit_code == 0
    assert s3dlio.stat(f"{bucket}new/")["size"] == 0


def test_buckets_are_made_listed_and_taken_away() -> None:
    name = f"memory://cli-made-{next(_numbers)}/"
    assert run("create-bucket", name).exit_code == 0
    assert name in [line.split()[-1] for line in run("list-buckets", "memory://").stdout.splitlines()]
    found = json.loads(run("list-buckets", "memory://", "--json").stdout)
    assert name in [bucket["uri"] for bucket in found]
    assert run("delete-bucket", name).exit_code == 0
    assert run("delete-bucket", name).exit_code == 1


def test_a_bucket_that_is_named_by_an_object_is_a_mistake_of_the_caller() -> None:
    for command in ("create-bucket", "delete-bucket"):
        assert run(command, "memory://bucket/key").exit_code == 2
