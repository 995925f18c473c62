"""Whole trees to every store and back, held against the file system on one side and the oracle on the other."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

import s3dlio
from tests.conformance.names import CALLED_SITES, usable_keys
from tests.conformance.places import Place, Site

TREE = {f"{folder}file{n}.bin": random.Random(n).randbytes(n * 1777) for n, folder in enumerate(["", "", "a/", "a/b/", "a b/c#d/", "é/"])}
"""By relative path; the first is empty."""


def test_upload_keeps_relative_paths(place: Place, tmp_path: Path) -> None:
    _write_tree(tmp_path / "src", TREE)
    place.fill("dest2", "de")
    for source in (str(tmp_path / "src"), f"file://{tmp_path}/src/", tmp_path / "src"):
        done = place.verbs.upload(source, place.uri("dest/"))
        assert (done.files, done.bytes, done.skipped, done.failed) == (len(TREE), _num_bytes(TREE), 0, ())
        assert place.contents() == {"de": b"de", "dest2": b"dest2"} | {f"dest/{key}": data for key, data in TREE.items()}
    assert place.oracle.leftovers() == []


def test_download_keeps_relative_paths(place: Place, tmp_path: Path) -> None:
    for key, data in TREE.items():
        place.write(f"src/{key}", data)
    place.fill("src2", "sr", "src.bin")
    for target in (str(tmp_path / "new" / "dest"), f"file://{tmp_path}/new/dest"):
        done = place.verbs.download(place.uri("src/"), target)
        assert (done.files, done.bytes, done.skipped, done.failed) == (len(TREE), _num_bytes(TREE), 0, ())
        assert _read_tree(tmp_path) == {f"new/dest/{key}": data for key, data in TREE.items()}


def test_one_object_goes_up_and_comes_down(place: Place, tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(b"data")
    place.verbs.upload(str(tmp_path / "one.bin"), place.uri("name"))
    place.verbs.upload(str(tmp_path / "one.bin"), place.uri("dir/"))
    assert place.contents() == {"dir/one.bin": b"data", "name": b"data"}
    place.verbs.download(place.uri("name"), str(tmp_path / "down"))
    assert (tmp_path / "down" / "name").read_bytes() == b"data"


def test_long_files_go_up_in_parts_and_come_down_in_parts(place: Place, tmp_path: Path) -> None:
    # Where parts may not be so short they are as short as they may be: of 5 MiB on S3, of 256 KiB on GCS.
    s3dlio.configure(part_bytes=128 << 10, split_above_bytes=1 << 20, put_part_bytes=128 << 10, multipart_above_bytes=1 << 20)
    tree = {"long": random.Random(1).randbytes((5 << 20) + 1), "edge": random.Random(2).randbytes(1 << 20), "short": b"1"}
    _write_tree(tmp_path / "src", tree)
    assert place.verbs.upload(str(tmp_path / "src"), place.uri("dest/")).bytes == _num_bytes(tree)
    assert place.contents() == {f"dest/{key}": data for key, data in tree.items()}
    assert place.oracle.leftovers() == []
    assert place.verbs.download(place.uri("dest/"), str(tmp_path / "down")).bytes == _num_bytes(tree)
    assert _read_tree(tmp_path / "down") == tree


def test_what_is_there_already_is_skipped_and_what_changed_is_not(place: Place, tmp_path: Path) -> None:
    _write_tree(tmp_path / "src", TREE)
    for path in (tmp_path / "src").rglob("*.bin"):
        os.utime(path, (1e9, 1e9))
    assert place.verbs.upload(str(tmp_path / "src"), place.uri("dest/"), skip_existing=True).files == len(TREE)
    again = place.verbs.upload(str(tmp_path / "src"), place.uri("dest/"), skip_existing=True)
    assert (again.files, again.skipped) == (0, len(TREE))
    (tmp_path / "src" / "file1.bin").write_bytes(b"of another size")
    place.oracle.delete(place.prefix + "dest/a/file2.bin")
    third = place.verbs.upload(str(tmp_path / "src"), place.uri("dest/"), skip_existing=True)
    assert (third.files, third.skipped) == (2, len(TREE) - 2)
    expected = TREE | {"file1.bin": b"of another size"}
    assert place.contents() == {f"dest/{key}": data for key, data in expected.items()}
    assert place.verbs.download(place.uri("dest/"), str(tmp_path / "down"), skip_existing=True).files == len(TREE)
    down = place.verbs.download(place.uri("dest/"), str(tmp_path / "down"), skip_existing=True)
    assert (down.files, down.skipped) == (0, len(TREE))
    place.write("dest/file1.bin", b"and another one")
    (tmp_path / "down" / "a" / "file2.bin").unlink()
    down = place.verbs.download(place.uri("dest/"), str(tmp_path / "down"), skip_existing=True)
    assert (down.files, down.skipped) == (2, len(TREE) - 2)
    assert _read_tree(tmp_path / "down") == TREE | {"file1.bin": b"and another one"}


@pytest.mark.parametrize("site", CALLED_SITES, indirect=True, scope="module")
def test_k1_keys_go_round(site: Site, tmp_path: Path) -> None:
    # Control characters and backslashes make no names of files: see `download`.
    place, back = site.new_root(), site.new_root()
    wanted = {key: key.encode() for key in set(usable_keys(place.name)) & set(usable_keys("file")) if not {*"\n\\"} & {*key}}
    for key, data in wanted.items():
        place.write(f"p/{key}" if len(key) < 500 else key, data)
    expected = place.contents()
    site.verbs.download(place.root, str(tmp_path / "down"))
    assert _read_tree(tmp_path / "down") == expected
    site.verbs.upload(str(tmp_path / "down"), back.root)
    assert back.contents() == expected


def test_sources_that_are_not_there_are_not_found(place: Place, tmp_path: Path) -> None:
    place.fill("there", "dir2/a")
    with pytest.raises(s3dlio.NotFoundError):
        place.verbs.upload(str(tmp_path / "missing"), place.uri("dest/"))
    for key in ("missing", "dir/", "dir", "ther"):
        with pytest.raises(s3dlio.NotFoundError):
            place.verbs.download(place.uri(key), str(tmp_path / "down"))
    assert _read_tree(tmp_path) == {}
    assert place.keys() == ["dir2/a", "there"]


def _write_tree(root: Path, tree: dict[str, bytes]) -> None:
    for name, data in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _read_tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _num_bytes(tree: dict[str, bytes]) -> int:
    return sum(len(data) for data in tree.values())
