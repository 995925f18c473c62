"""`put`: how many objects, by which names, of what data."""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path
from typing import Any

import pytest

import s3dlio

_numbers = itertools.count(1)


@pytest.fixture
def root() -> str:
    return f"memory://synthetic-{next(_numbers)}/"


def read(prefix: str) -> list[bytes]:
    return [bytes(view) for view in s3dlio.get_many(s3dlio.list(prefix))]


def test_names_come_of_a_template_and_sizes_of_text(root: str) -> None:
    s3dlio.put(f"{root}p", 3, template="{:03d}-of-{}", size="1KiB")
    assert s3dlio.list_keys(root, recursive=True) == [f"p/00{n}-of-3" for n in range(3)]
    assert read(f"{root}p/") == [bytes(1024)] * 3


def test_zeros_are_zeros_and_random_objects_differ(root: str) -> None:
    s3dlio.put(root, 20, size=5000, object_type="random")
    found = read(root)
    assert {len(data) for data in found} == {5000}
    assert len(set(found)) == 20
    blocks = [data[at : at + 512] for data in found for at in range(0, 4608, 512)]
    assert len(set(blocks)) == len(blocks)
    assert all(len(zlib.compress(data)) > 4900 for data in found)


def test_single_pass_makes_one_object_many_times(root: str) -> None:
    s3dlio.put(root, 4, size=1000, object_type="random", data_gen_mode="single-pass")
    assert len(set(read(root))) == 1


def test_prand_makes_the_same_in_each_run(root: str) -> None:
    for run in ("a/", "b/"):
        s3dlio.put(root + run, 2, size=1000, object_type="random", data_gen_algorithm="prand")
    assert read(f"{root}a/") == read(f"{root}b/")


def test_factors_say_how_well_the_data_compresses_and_repeats(root: str) -> None:
    s3dlio.put(root, 1, size=80_000, object_type="raw", compress_factor=4, dedup_factor=2, chunk_size=8000, data_gen_mode="single-pass")
    (data,) = read(root)
    chunks = [data[at : at + 8000] for at in range(0, 80_000, 8000)]
    assert chunks[::2] == chunks[1::2]
    assert len(set(chunks)) == 5
    assert all(chunk[2000:] == bytes(6000) and any(chunk[:2000]) for chunk in chunks)


def test_a_bucket_is_made_where_it_is_asked_for_and_directories_always(root: str, tmp_path: Path) -> None:
    s3dlio.put(root, 1, size=1, should_create_bucket=True)
    s3dlio.put(f"file://{tmp_path}/new/dir", 1, size=1, should_create_bucket=True)
    assert (tmp_path / "new" / "dir" / "object-0").read_bytes() == b"\0"


@pytest.mark.parametrize(
    "wrong",
    [
        {"num": -1}, {"num": 2.0}, {"template": "same"}, {"template": "{}{}{}"}, {"template": "{0}"}, {"template": "{"}, {"size": "big"},
        {"size": -1}, {"max_in_flight": 0}, {"object_type": "npz"}, {"object_type": None}, {"dedup_factor": 2}, {"compress_factor": 2},
        {"object_type": "random", "dedup_factor": 0}, {"data_gen_algorithm": "sha"}, {"data_gen_mode": "x"}, {"chunk_size": 0},
    ],
)  # fmt: skip
def test_arguments_without_sense_are_refused_before_anything_is_written(root: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(s3dlio.ConfigurationError):
        s3dlio.put(root, **{"num": 1, **wrong})
    assert s3dlio.list(root) == []
