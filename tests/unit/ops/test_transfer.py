"""What `upload` and `download` mean: names, patterns, what is passed over, what fails. Over memory; the oracle is the file system."""

from __future__ import annotations

import asyncio
import os
import pty
import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.ops import transfer_run
from s3dlio.engine.ops.transfer_ends import read_item
from s3dlio.engine.ops.transfer_names import Item
from s3dlio.engine.pool.jobs import Job
from s3dlio.engine.stores import memory
from tests.support.direct_disk import direct_folder

PART_BYTES = 64 << 10
OLD_S = 1_600_000_000
"""A file changed then is older than any object that is written now."""


@pytest.fixture
def bucket() -> Iterator[str]:
    """An empty bucket of this process's memory."""
    root = f"memory://{uuid.uuid4().hex}/"
    yield root
    memory._buckets.pop(root, None)


@pytest.fixture
def small_parts(clean_aws_env: None) -> None:
    s3dlio.configure(
        part_bytes=PART_BYTES, split_above_bytes=2 * PART_BYTES, put_part_bytes=PART_BYTES, multipart_above_bytes=2 * PART_BYTES
    )


def fill(root: Path, files: dict[str, int]) -> dict[str, bytes]:
    """Writes files of random bytes, and returns what was written."""
    contents = {name: random.Random(name).randbytes(size) for name, size in files.items()}
    for name, data in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (OLD_S, OLD_S))
    return contents


def objects(bucket: str) -> dict[str, bytes]:
    """Returns a bucket's objects, by the dictionary behind it."""
    return {key: stored.data for key, stored in memory._buckets.get(bucket, {}).items()}


def put(bucket: str, contents: dict[str, bytes]) -> None:
    for key, data in contents.items():
        s3dlio.put_bytes(bucket + key, data)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


SIZES = {"a": 10, "b/empty": 0, "b/c/d": 70_000, "b/e": 300_001, "ü/ %2F+#?&.bin": 7}


def test_a_tree_goes_up_and_comes_down_with_its_relative_paths(bucket: str, small_parts: None, tmp_path: Path) -> None:
    contents = fill(tmp_path / "in", SIZES)
    up = s3dlio.upload(tmp_path / "in", f"{bucket}p/")
    assert objects(bucket) == {f"p/{name}": data for name, data in contents.items()}
    down = s3dlio.download(f"{bucket}p/", tmp_path / "out")
    assert files(tmp_path / "out") == contents
    for summary in (up, down):
        assert isinstance(summary, s3dlio.TransferSummary)
        assert (summary.files, summary.bytes, summary.skipped, summary.failed) == (5, sum(SIZES.values()), 0, ())
        assert summary.seconds > 0


@pytest.mark.parametrize("source", ["{path}", "file://{path}", "{path}/", "file://{path}/"])
@pytest.mark.parametrize("prefix", ["p", "p/"])
def test_a_directory_is_named_as_a_path_or_a_uri_with_a_slash_or_without(
    bucket: str, tmp_path: Path, source: str, prefix: str
) -> None:
    fill(tmp_path / "in", {"a": 1, "b/c": 2})
    s3dlio.upload(source.format(path=tmp_path / "in"), bucket + prefix)
    assert sorted(objects(bucket)) == ["p/a", "p/b/c"]


def test_a_relative_path_is_below_the_working_directory(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = fill(tmp_path / "in", {"a": 1})
    monkeypatch.chdir(tmp_path)
    s3dlio.upload("in", bucket)
    s3dlio.download(bucket, "out")
    assert files(tmp_path / "out") == contents


@pytest.mark.parametrize(("uri", "key"), [("p/", "p/file"), ("p", "p"), ("p/other", "p/other"), ("", "file")])
def test_a_single_file_becomes_the_object_that_is_named_or_keeps_its_name_below_a_prefix(
    bucket: str, tmp_path: Path, uri: str, key: str
) -> None:
    contents = fill(tmp_path, {"file": 5})
    assert s3dlio.upload(tmp_path / "file", bucket + uri).files == 1
    assert objects(bucket) == {key: contents["file"]}


def test_a_single_object_keeps_its_name_below_the_directory(bucket: str, tmp_path: Path) -> None:
    put(bucket, {"p/x": b"one", "p/xy": b"two", "p/x/z": b"three"})
    assert s3dlio.download(f"{bucket}p/x", tmp_path / "out").files == 1
    assert files(tmp_path / "out") == {"x": b"one"}


def test_a_prefix_without_its_slash_is_that_directory_and_not_what_else_begins_so(bucket: str, tmp_path: Path) -> None:
    put(bucket, {"p/x": b"one", "pq": b"two"})
    s3dlio.download(f"{bucket}p", tmp_path / "out")
    assert files(tmp_path / "out") == {"x": b"one"}


def test_the_form_of_the_real_library_takes_paths_and_globs_and_a_prefix(bucket: str, tmp_path: Path) -> None:
    fill(tmp_path, {"in/a.bin": 1, "in/b.bin": 2, "in/c.txt": 3, "in/sub/d.bin": 4, "tree/x/y": 5, "lone": 6})
    sources = [f"{tmp_path}/in/*.bin", str(tmp_path / "tree"), f"file://{tmp_path}/lone", f"{tmp_path}/in/s*"]
    assert s3dlio.upload(sources, f"{bucket}p", 4, True).files == 5
    assert sorted(objects(bucket)) == ["p/a.bin", "p/b.bin", "p/lone", "p/sub/d.bin", "p/x/y"]
    assert s3dlio.upload(f"{tmp_path}/in/*.txt", f"{bucket}glob").files == 1
    assert "glob/c.txt" in objects(bucket)
    s3dlio.upload(src_patterns=[f"{tmp_path}/lone"], dest_prefix=f"{bucket}named")
    assert "named/lone" in objects(bucket)


def test_a_file_whose_name_looks_like_a_glob_is_that_file(bucket: str, tmp_path: Path) -> None:
    fill(tmp_path, {"a[1]*": 5, "a1": 3})
    s3dlio.upload([tmp_path / "a[1]*"], f"{bucket}p")
    s3dlio.upload(tmp_path / "a[1]*", f"{bucket}q/")
    assert sorted(objects(bucket)) == ["p/a[1]*", "q/a[1]*"]


def test_a_glob_that_finds_a_directory_and_what_is_in_it_takes_each_file_once(bucket: str, tmp_path: Path) -> None:
    contents = fill(tmp_path, {"in/a": 1, "in/b/c": 2, "in-": 3})
    s3dlio.upload(f"{tmp_path}/in/**", f"{bucket}p")
    assert objects(bucket) == {"p/in/a": contents["in/a"], "p/in/b/c": contents["in/b/c"]}
    assert s3dlio.upload([f"{tmp_path}/**/*"], f"{bucket}q").files == 3


def test_files_of_two_sources_that_come_to_one_place_are_one_and_an_error(bucket: str, tmp_path: Path) -> None:
    contents = fill(tmp_path, {"one/x": 5, "two/x": 6, "two/y": 7})
    summary = s3dlio.upload([tmp_path / "one", tmp_path / "two"], f"{bucket}p", errors="return")
    assert objects(bucket) == {"p/x": contents["one/x"], "p/y": contents["two/y"]}
    assert [(uri, type(error)) for uri, error in summary.failed] == [(f"file://{tmp_path}/two/x", s3dlio.AlreadyExistsError)]


def test_one_level_only(bucket: str, tmp_path: Path) -> None:
    fill(tmp_path / "in", {"a": 1, "b/c": 2})
    s3dlio.upload(tmp_path / "in", f"{bucket}flat", recursive=False)
    assert sorted(objects(bucket)) == ["flat/a"]
    s3dlio.upload(tmp_path / "in", f"{bucket}p")
    s3dlio.download(f"{bucket}p/", tmp_path / "out", recursive=False)
    assert sorted(files(tmp_path / "out")) == ["a"]


def test_one_level_that_has_only_prefixes_is_there_and_has_no_object(bucket: str, tmp_path: Path) -> None:
    put(bucket, {"p/a/b": b"1"})
    assert s3dlio.download(f"{bucket}p/", tmp_path, recursive=False).files == 0


@pytest.mark.parametrize(
    ("pattern", "wanted"), [("*.bin", ["a.bin", "s/b.bin"]), ("s/*", ["s/b.bin", "s/c.txt"]), ("none", [])]
)
def test_a_pattern_selects_by_name_or_by_relative_path(bucket: str, tmp_path: Path, pattern: str, wanted: list[str]) -> None:
    fill(tmp_path / "in", {"a.bin": 1, "s/b.bin": 2, "s/c.txt": 3})
    s3dlio.upload(tmp_path / "in", f"{bucket}some", pattern=pattern)
    assert sorted(objects(bucket)) == [f"some/{name}" for name in wanted]
    s3dlio.upload(tmp_path / "in", f"{bucket}all")
    s3dlio.download(f"{bucket}all/", tmp_path / "out", pattern=pattern)
    assert sorted(files(tmp_path / "out")) == wanted


def test_a_pattern_concerns_a_single_file_too(bucket: str, tmp_path: Path) -> None:
    fill(tmp_path, {"a.bin": 1})
    assert s3dlio.upload(tmp_path / "a.bin", f"{bucket}p", pattern="*.txt").files == 0
    assert s3dlio.upload(tmp_path / "a.bin", f"{bucket}p", pattern="*.bin").files == 1
    assert s3dlio.download(f"{bucket}p", tmp_path / "out", pattern="q*").files == 0


def test_markers_of_directories_become_directories_and_an_empty_directory_is_no_object(bucket: str, tmp_path: Path) -> None:
    put(bucket, {"p/": b"", "p/d/": b"", "p/d/x": b"x", "p/e/": b""})
    summary = s3dlio.download(f"{bucket}p/", tmp_path / "out", skip_existing=True)
    assert files(tmp_path / "out") == {"d/x": b"x"}
    assert (tmp_path / "out" / "e").is_dir()
    assert summary.failed == ()
    assert s3dlio.upload(tmp_path / "out", f"{bucket}q").files == 1


def test_from_store_to_store_markers_and_keys_that_are_no_names_go_too(bucket: str) -> None:
    odd = {"a//b": b"1", "a/../b": b"2", "x\\y": b"3", "d/": b"", "a": b"4", "a/b": b"5"}
    put(bucket, {f"p/{key}": data for key, data in odd.items()})
    other = f"{bucket[:-1]}-other/"
    assert s3dlio.upload(f"{bucket}p/", f"{other}q").files == len(odd)
    assert objects(other) == {f"q/{key}": data for key, data in odd.items()}
    memory._buckets.pop(other)


def test_to_a_directory_by_its_uri_a_tree_is_written_as_a_download_is(tmp_path: Path) -> None:
    contents = fill(tmp_path / "in", SIZES)
    s3dlio.upload(tmp_path / "in", f"file://{tmp_path}/out")
    assert files(tmp_path / "out") == contents
    s3dlio.upload(tmp_path / "in" / "a", f"file://{tmp_path}/one/name")
    s3dlio.download(f"file://{tmp_path}/in/b", f"file://{tmp_path}/two")
    assert files(tmp_path / "one") == {"name": contents["a"]}
    assert files(tmp_path / "two") == {"empty": b"", "e": contents["b/e"], "c/d": contents["b/c/d"]}


# What is there already.


def test_a_download_passes_over_what_it_has_written_and_fetches_what_is_new_or_changed(
    bucket: str, small_parts: None, tmp_path: Path
) -> None:
    put(bucket, {"p/same": b"1", "p/longer": b"2", "p/rewritten": b"3", "p/gone": b"4", "p/large": bytes(300_000)})
    assert s3dlio.download(f"{bucket}p/", tmp_path, skip_existing=True).skipped == 0
    # Within the same second, and of the same size: only the version tells.
    put(bucket, {"p/longer": b"22", "p/rewritten": b"x"})
    (tmp_path / "gone").unlink()
    again = s3dlio.download(f"{bucket}p/", tmp_path, skip_existing=True)
    assert (again.files, again.skipped) == (3, 2)
    assert files(tmp_path) == {"same": b"1", "longer": b"22", "rewritten": b"x", "gone": b"4", "large": bytes(300_000)}
    (tmp_path / "same").write_bytes(b"!")  # here, and of the same size
    assert s3dlio.download(f"{bucket}p/", tmp_path, skip_existing=True).files == 1
    assert (tmp_path / "same").read_bytes() == b"1"
    assert s3dlio.download(f"{bucket}p/", tmp_path).files == 5


def test_an_upload_passes_over_what_is_there_and_sends_what_is_new_or_changed(
    bucket: str, small_parts: None, tmp_path: Path
) -> None:
    contents = fill(tmp_path, {"same": 5, "longer": 5, "touched": 5, "new": 5, "large": 300_000})
    s3dlio.upload(tmp_path, f"{bucket}p")
    s3dlio.delete(f"{bucket}p/new")
    contents |= {"longer": b"more than five", "touched": b"fiver"}
    (tmp_path / "longer").write_bytes(contents["longer"])
    os.utime(tmp_path / "longer", (OLD_S, OLD_S))
    (tmp_path / "touched").write_bytes(contents["touched"])
    again = s3dlio.upload(tmp_path, f"{bucket}p", skip_existing=True)
    assert (again.files, again.skipped) == (3, 2)
    assert objects(bucket) == {f"p/{name}": data for name, data in contents.items()}


def test_a_single_object_is_passed_over_too(bucket: str, tmp_path: Path) -> None:
    fill(tmp_path, {"x": 5})
    assert [s3dlio.upload(tmp_path / "x", f"{bucket}k", skip_existing=True).skipped for _ in range(2)] == [0, 1]
    assert [s3dlio.download(f"{bucket}k", tmp_path / "o", skip_existing=True).skipped for _ in range(2)] == [0, 1]


def test_a_file_has_the_time_of_its_object(bucket: str, tmp_path: Path) -> None:
    put(bucket, {"x": b"1"})
    s3dlio.download(f"{bucket}x", tmp_path)
    from datetime import datetime

    assert (tmp_path / "x").stat().st_mtime == datetime.fromisoformat(s3dlio.stat(f"{bucket}x")["last_modified"]).timestamp()


# What fails.


def test_l4_keys_that_lead_out_of_the_directory_are_refused_one_by_one_and_the_others_go_on(bucket: str, tmp_path: Path) -> None:
    bad = ["../x", "/etc/x", "a/../../x", "/../x", "..\\x", "C:/x", "nl\nx", "esc\x1b[2J", "a//b", "./c", "d/.", "dir/"]
    put(bucket, {f"p/{key}": b"evil" for key in bad} | {"p/good": b"1", "p/z/good": b"2"})
    out = tmp_path / "deep" / "out"
    summary = s3dlio.download(f"{bucket}p/", out, errors="return")
    assert files(tmp_path) == {"deep/out/good": b"1", "deep/out/z/good": b"2"}
    assert sorted(uri.removeprefix(f"{bucket}p/") for uri, _ in summary.failed) == sorted(bad)
    assert {type(error) for _, error in summary.failed} == {s3dlio.UnsafeNameError}
    with pytest.raises(s3dlio.UnsafeNameError) as caught:
        s3dlio.download(f"{bucket}p/", out)
    assert any("12 failed, 2 were transferred" in note for note in caught.value.__notes__)


def test_l4_keys_that_lead_out_of_a_directory_are_refused_past_the_page_cache_too(bucket: str) -> None:
    bad = ["../x", "a/../../x", "/../x", "a//b", "./c", "dir/"]
    put(bucket, {f"p/{key}": b"evil" for key in bad} | {"p/good": b"1", "p/z/": b""})
    with direct_folder() as folder:
        summary = s3dlio.upload(f"{bucket}p/", f"direct://{folder}/deep/out/", errors="return")
        assert files(folder) == {"deep/out/good": b"1"}
        assert (folder / "deep/out/z").is_dir()
    assert sorted(uri.removeprefix(f"{bucket}p/") for uri, _ in summary.failed) == sorted(bad)
    assert {type(error) for _, error in summary.failed} == {s3dlio.UnsafeNameError}


def test_k3_a_key_that_is_a_directory_of_others_is_one_error_and_the_others_go_on(bucket: str, tmp_path: Path) -> None:
    put(bucket, {"p/a": b"1", "p/a-": b"2", "p/a/b": b"3", "p/a/c/d": b"4", "p/b": b"5"})
    summary = s3dlio.download(f"{bucket}p/", tmp_path, errors="return")
    assert files(tmp_path) == {"a-": b"2", "a/b": b"3", "a/c/d": b"4", "b": b"5"}
    assert [(uri, type(error)) for uri, error in summary.failed] == [(f"{bucket}p/a", s3dlio.AlreadyExistsError)]


def test_l5_a_symbolic_link_in_the_target_is_an_error_of_its_own(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "outside")
    put(bucket, {"p/a/x": b"1", "p/b/x": b"2"})
    summary = s3dlio.download(f"{bucket}p/", tmp_path / "out", errors="return")
    assert [uri for uri, _ in summary.failed] == [f"{bucket}p/a/x"]
    assert list((tmp_path / "outside").iterdir()) == []
    assert (tmp_path / "out" / "b" / "x").read_bytes() == b"2"


def test_l6_what_is_no_file_is_reported_and_the_files_go_up(bucket: str, tmp_path: Path) -> None:
    contents = fill(tmp_path, {"in/a": 5, "out/b": 6})
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    os.mkfifo(tmp_path / "in" / "pipe")
    summary = s3dlio.upload(tmp_path / "in", bucket, errors="return")
    assert objects(bucket) == {"a": contents["in/a"]}
    assert [uri.rpartition("/")[2] for uri, _ in summary.failed] == ["link", "pipe"]
    with pytest.raises(s3dlio.UnsupportedError, match="follow_symlinks"):
        s3dlio.upload(tmp_path / "in", bucket)
    summary = s3dlio.upload(tmp_path / "in", bucket, errors="return", follow_symlinks=True)
    assert summary.files == 2
    assert objects(bucket)["link/b"] == contents["out/b"]


Change = Callable[[Path], object]


@pytest.mark.parametrize("size", [1000, 5 * PART_BYTES], ids=["at once", "in parts"])
@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), s3dlio.ObjectChangedError),
        (lambda path: path.write_bytes(b"less"), s3dlio.ObjectChangedError),
        (lambda path: os.utime(path, (1, 1)), s3dlio.ObjectChangedError),
        (lambda path: path.unlink(), s3dlio.NotFoundError),
    ],
    ids=["grows", "shrinks", "is touched", "vanishes"],
)
def test_l6_u1_a_file_that_changes_while_it_is_read_leaves_nothing_and_the_others_go_up(
    bucket: str, small_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, change: Change, wanted: type
) -> None:
    contents = fill(tmp_path, {"a": 10, "bad": size, "c": 300_000})
    aborted = []
    honest_abort = memory.MemoryUpload.abort

    def read_after_change(item: Item, start: int = 0, end: int | None = None) -> Job[Any]:
        if item.name == "bad" and start == (0 if size == 1000 else 3 * PART_BYTES):
            change(tmp_path / "bad")
        return read_item(item, start, end)

    monkeypatch.setattr(transfer_run, "read_item", read_after_change)
    monkeypatch.setattr(memory.MemoryUpload, "abort", lambda self: aborted.append(self._key) or honest_abort(self))
    summary = s3dlio.upload(tmp_path, f"{bucket}p", errors="return")
    assert objects(bucket) == {f"p/{name}": contents[name] for name in ("a", "c")}
    assert [(uri, type(error)) for uri, error in summary.failed] == [(f"file://{tmp_path}/bad", wanted)]
    assert aborted == ([] if size == 1000 else ["p/bad"])


def test_where_parts_must_come_one_after_the_other_they_do(
    bucket: str, small_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = fill(tmp_path, {"x": 5 * PART_BYTES + 1, "y": 4 * PART_BYTES})
    sent: dict[str, list[tuple[int, int, bool]]] = {}
    honest = memory.MemoryUpload.put_part

    def put_part(upload: Any, number: int, data: memoryview, is_last: bool) -> Any:
        sent.setdefault(upload._key, []).append((number, len(data), is_last))
        return honest(upload, number, data, is_last)

    monkeypatch.setattr(memory.MemoryUpload, "is_sequential", True)
    monkeypatch.setattr(memory.MemoryUpload, "min_part_bytes", 48 << 10)
    monkeypatch.setattr(memory.MemoryUpload, "put_part", put_part)
    s3dlio.upload(tmp_path, bucket)
    assert objects(bucket) == contents
    # Of two parts of 48 KiB each: the next multiple above what was asked for.
    assert sent == {
        "x": [(0, 98304, False), (1, 98304, False), (2, 98304, False), (3, 32769, True)],
        "y": [(0, 98304, False), (1, 98304, False), (2, 65536, True)],
    }


def test_an_object_that_changes_while_it_is_read_in_parts_leaves_no_file(
    bucket: str, small_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, {"p/a": bytes(5 * PART_BYTES)})
    (tmp_path / "a").write_bytes(b"old")

    def read_after_change(item: Item, start: int = 0, end: int | None = None) -> Job[Any]:
        if start == 2 * PART_BYTES:
            put(bucket, {"p/a": bytes(5 * PART_BYTES)})
        return read_item(item, start, end)

    monkeypatch.setattr(transfer_run, "read_item", read_after_change)
    with pytest.raises(s3dlio.ObjectChangedError):
        s3dlio.download(f"{bucket}p/", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_the_first_error_in_the_order_of_the_listing_is_raised(bucket: str, tmp_path: Path) -> None:
    put(bucket, {"p/..": b"", "p/a": b"1", "p/\\": b""})
    with pytest.raises(s3dlio.UnsafeNameError) as caught:
        s3dlio.download(f"{bucket}p/", tmp_path)
    assert caught.value.uri == f"{bucket}p/.."


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (lambda b, p: s3dlio.upload(p / "none", b), s3dlio.NotFoundError),
        (lambda b, p: s3dlio.upload([p / "none*"], b), s3dlio.NotFoundError),
        (lambda b, p: s3dlio.upload(f"{b}none/", b), s3dlio.NotFoundError),
        (lambda b, p: s3dlio.download(f"{b}none", p), s3dlio.NotFoundError),
        (lambda b, p: s3dlio.download(f"{b}none/", p), s3dlio.NotFoundError),
        (lambda b, p: s3dlio.download(f"file://{p}/none", p), s3dlio.NotFoundError),
        (lambda b, p: s3dlio.download(b, b), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.download(b, ""), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.download(b, p, 0), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.download(b, p, errors="ignore"), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.upload(p, str(p)), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.upload(p, b, errors="ignore"), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.upload(p, f"file://{p}"), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.upload([f"{p}/../{p.name}"], f"direct://{p}/x"), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.download(f"file://{p}", p / "x"), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.upload(f"{p.parent}/*", f"file://{p}/x"), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.upload(b, b), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.upload(f"{b}p", f"{b}p"), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.upload(f"{b}p/", f"{b}p/q"), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.upload(p), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.upload(p, b, src_patterns=[p]), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.upload([b], b), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.upload(p, f"file://{p}", create_bucket=True), s3dlio.ConfigurationError),
        (lambda b, p: s3dlio.upload(p, b, pattern=7), s3dlio.ConfigurationError),
    ],
)
def test_what_makes_no_sense_or_is_not_there_is_an_error(
    bucket: str, tmp_path: Path, call: Callable[[str, Path], Any], wanted: type[Exception]
) -> None:
    with pytest.raises(wanted):
        call(bucket, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_concerns_all_ends_the_transfer(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket, {f"{number:03d}": b"1" for number in range(100)})
    num_asked = 0

    def refuse(item: Item, start: int = 0, end: int | None = None) -> Job[Any]:
        nonlocal num_asked
        num_asked += 1
        yield from ()
        raise s3dlio.AuthenticationError("no credentials", uri=item.uri)

    monkeypatch.setattr(transfer_run, "read_item", refuse)
    with pytest.raises(s3dlio.AuthenticationError):
        s3dlio.download(bucket, tmp_path, 2, errors="return")
    assert num_asked < 10


def test_an_empty_directory_uploads_nothing_and_is_no_error(bucket: str, tmp_path: Path) -> None:
    assert s3dlio.upload(tmp_path, bucket).files == 0


def test_a_bucket_is_made_where_that_is_asked_for(bucket: str, tmp_path: Path) -> None:
    assert s3dlio.upload(tmp_path, bucket, create_bucket=True).files == 0
    assert bucket in memory._buckets


def test_memory_is_bounded_whatever_the_objects_are(
    bucket: str, small_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3dlio.configure(memory_bytes=4 * PART_BYTES)
    contents = fill(tmp_path / "in", {f"{number:02d}": 130_000 for number in range(20)} | {"large": 40 * PART_BYTES})
    held = [0]

    def watched(transfer: Any) -> bool:
        held[0] = max(held[0], transfer._bytes_held)
        return fill_(transfer)

    fill_ = transfer_run.Transfer._fill
    monkeypatch.setattr(transfer_run.Transfer, "_fill", watched)
    s3dlio.upload(tmp_path / "in", bucket)
    s3dlio.download(bucket, tmp_path / "out")
    assert files(tmp_path / "out") == contents
    assert 2 * PART_BYTES <= held[0] <= 4 * PART_BYTES


# For callers who await, and for those who watch.


def test_the_awaited_forms_do_the_same_beside_a_running_event_loop(bucket: str, small_parts: None, tmp_path: Path) -> None:
    contents = fill(tmp_path / "in", SIZES)

    async def main() -> list[int]:
        ticks = 0
        under_way = asyncio.ensure_future(s3dlio.upload_async(tmp_path / "in", f"{bucket}p"))
        while not under_way.done():
            ticks += 1
            await asyncio.sleep(0)
        down = await s3dlio.download_async(f"{bucket}p/", tmp_path / "out")
        with pytest.raises(s3dlio.NotFoundError):
            await s3dlio.download_async(f"{bucket}none/", tmp_path / "out")
        with pytest.raises(s3dlio.ConfigurationError):
            await s3dlio.upload_async(tmp_path, bucket, errors="ignore")  # type: ignore[arg-type]
        return [ticks, (await under_way).files, down.files]

    ticks, up, down = asyncio.run(main())
    assert ticks > 1
    assert (up, down) == (5, 5)
    assert files(tmp_path / "out") == contents


@pytest.mark.parametrize("forced", ["", "1"])
def test_progress_draws_nothing_on_a_pipe(
    bucket: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, forced: str
) -> None:
    monkeypatch.setenv("FORCE_COLOR", forced)
    fill(tmp_path / "in", {"a": 1})
    s3dlio.upload(tmp_path / "in", bucket, progress=True)
    assert capfd.readouterr() == ("", "")


def test_progress_draws_on_a_terminal(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    fill(tmp_path / "in", {"a": 1000})
    script = f"import s3dlio; s3dlio.upload({str(tmp_path / 'in')!r}, {bucket!r}, progress=True)"
    outer, inner = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", script], stderr=inner, stdout=subprocess.DEVNULL)
    os.close(inner)
    shown = b""
    with suppress(OSError), os.fdopen(outer, "rb", buffering=0) as terminal:  # EIO is the end
        while data := terminal.read(4096):
            shown += data
    assert child.wait(30) == 0
    assert b"1/1 files" in shown
    assert bucket.encode()[:20] in shown


def test_what_is_told_of_progress_grows_to_the_whole(bucket: str, small_parts: None, tmp_path: Path) -> None:
    from s3dlio.engine.ops.transfer_ends import StoreSource, TreeTarget
    from s3dlio.engine.stores.registry import locate

    put(bucket, {f"{number:03d}": bytes(number * 1000) for number in range(300)})
    told: list[transfer_run.State] = []
    source = StoreSource(*locate(bucket), recursive=True)
    transfer_run.Transfer(source, TreeTarget(str(tmp_path)), max_in_flight=4, skip_existing=False, tell=told.append).run()
    assert [state.files for state in told] == sorted(state.files for state in told)
    assert [state.bytes for state in told] == sorted(state.bytes for state in told)
    last = told[-1]
    assert (last.files, last.total_files, last.failed) == (300, 300, 0)
    assert last.bytes == last.total_bytes == sum(number * 1000 for number in range(300))
