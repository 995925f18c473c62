"""What names keys get as files, and when two sides are the same: decisions without I/O."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s3dlio.engine.errors import AlreadyExistsError, S3dlioError, UnsafeNameError
from s3dlio.engine.ops.transfer_names import (
    Found,
    Item,
    Refused,
    Shadows,
    distinct,
    is_up_to_date,
    path_of,
    time_ns,
)
from s3dlio.engine.ops.transfer_summary import TransferSummary

PYTHON_STORAGE_NAMES = [
    "../../local/target",
    "../escape.txt",
    "go/four/levels/deep/../../../../../somefile1",
    "go/four/levels/deep/../some_dir/../../../../../invalid/path1",
    "simple_blob",
    "data/file.txt",
    "data/../sibling.txt",
    "/etc/passwd",
    "/local/usr/a.txt",
    "dir/./file.txt",
    "go/four/levels/deep/../somefile2",
    "go/four/levels/deep/../some_dir/valid/path1",
    "go/four/levels/deep/../some_dir/../../../../valid/path2",
]
"""All 13 names of python-storage's tests/system/test_transfer_manager.py, those that it skips and those that it takes."""
HARMLESS = {"simple_blob", "data/file.txt"}


def item(name: str, size: int = 1, last_modified: str | None = None) -> Item:
    store: Any = None
    return Item(f"s3://b/p/{name}", store, f"p/{name}", name, size, "v", last_modified)


@pytest.mark.parametrize("name", PYTHON_STORAGE_NAMES)
def test_l4_names_of_python_storage_are_taken_as_they_are_or_refused(name: str) -> None:
    if name in HARMLESS:
        assert path_of(name, "s3://b/k") == tuple(name.split("/"))
    else:
        with pytest.raises(UnsafeNameError) as caught:
            path_of(name, "s3://b/k")
        assert caught.value.uri == "s3://b/k"


@pytest.mark.parametrize(
    "name",
    [
        "", "/", ".", "..", "../x", "/etc/x", "a/../../x", "/../x", "a//b", "a/", "./a", "a/.", "a/..", "..\\x", "a\\b", "C:/x", "c:x",
        "a\0b", "a\nb", "a\x1b[2Jb", "a\x7f", "a\x9b", "\ud800",
    ],
)  # fmt: skip
def test_l4_a_name_that_leaves_the_target_or_hides_is_refused(name: str) -> None:
    with pytest.raises(UnsafeNameError):
        path_of(name, "s3://b/k")


@pytest.mark.parametrize("name", ["ab:c", "12:30", "..a", "a..", "...", " ", "~", "-rf", "日本/ü", "a/.hidden", "%2e%2e/x", "con"])
def test_l4_a_name_that_is_only_odd_is_taken(name: str) -> None:
    assert "/".join(path_of(name, "s3://b/k")) == name


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b:", "\\", "c\n", "~"]) | st.text(max_size=4), max_size=6).map("/".join))
@example("a/../../b")
def test_l4_whatever_is_taken_lies_below_the_target_and_names_it_alone(name: str) -> None:
    try:
        path = path_of(name, "s3://b/k")
    except UnsafeNameError:
        return
    joined = os.path.join("/target", *path)
    assert os.path.normpath(joined) == joined
    assert joined == f"/target/{name}"


def names_of(found: list[Found]) -> tuple[list[str], list[str]]:
    taken = [one.name for one in found if isinstance(one, Item)]
    refused = [one.uri.removeprefix("s3://b/p/") for one in found if isinstance(one, Refused)]
    return taken, refused


def through_shadows(names: list[str]) -> tuple[list[str], list[str]]:
    shadows = Shadows()
    found = [one for name in names for one in shadows.add(item(name))]
    return names_of([*found, *shadows.end()])


def test_k3_the_key_that_is_a_directory_of_others_is_refused_and_they_go_on() -> None:
    taken, refused = through_shadows(["a", "a!", "a-b", "a/b", "a/c", "a0", "ab", "b"])
    assert refused == ["a"]
    assert sorted(taken) == ["a!", "a-b", "a/b", "a/c", "a0", "ab", "b"]


def test_k3_a_conflict_is_found_across_any_number_of_keys_in_between() -> None:
    between = [f"a-{index:05d}" for index in range(5000)]
    shadows = Shadows()
    found = [one for name in ["a", *between, "a/b"] for one in shadows.add(item(name))]
    # All but the keys that the last one begins with are decided at once: nothing is kept that grows with the listing.
    assert len(shadows._held) == 1
    assert names_of([*found, *shadows.end()])[1] == ["a"]


@given(st.lists(st.text(alphabet="a/-0", min_size=1, max_size=6), unique=True, max_size=12))
def test_k3_of_any_sorted_keys_just_those_are_refused_that_others_lie_below(names: list[str]) -> None:
    names = sorted(names)
    wanted = [name for name in names if any(other.startswith(f"{name}/") for other in names)]
    taken, refused = through_shadows(names)
    assert sorted(refused) == wanted
    assert sorted(taken) == [name for name in names if name not in wanted]


def test_two_sources_that_come_to_one_place_are_one_and_an_error() -> None:
    first, second = item("x"), item("x")._replace(uri="s3://b/other/x")
    found = [*distinct([first, second, item("y")])]
    assert [type(one) for one in found] == [Item, Refused, Item]
    assert isinstance(found[1], Refused)
    assert isinstance(found[1].error, AlreadyExistsError)
    assert found[1].uri == "s3://b/other/x"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1970-01-01T00:00:01Z", 10**9),
        ("2026-01-31T12:00:00Z", 1769860800 * 10**9),
        ("2026-01-31T12:00:00.250000+00:00", 1769860800 * 10**9 + 250_000_000),
        ("2026-01-31T12:00:00", 1769860800 * 10**9),
        ("1969-12-31T23:59:59Z", -(10**9)),
        ("yesterday", None),
        (None, None),
    ],
)
def test_a_time_of_a_listing_is_read_exactly_or_not_at_all(text: str | None, wanted: int | None) -> None:
    assert time_ns(text) == wanted


@pytest.mark.parametrize(
    ("size", "written", "wanted"),
    [
        (7, "2026-01-31T12:00:01Z", True),
        (7, "2026-01-31T12:00:00Z", False),
        (7, "2026-01-31T11:59:59Z", False),
        (8, "2026-01-31T12:00:01Z", False),
        (None, "2026-01-31T12:00:01Z", False),
        (7, None, False),
    ],
)
def test_an_object_is_up_to_date_if_it_has_the_size_and_was_written_after_the_change(
    size: int | None, written: str | None, wanted: bool
) -> None:
    source = item("x", 7, "2026-01-31T12:00:00Z")
    assert is_up_to_date(source, size, written) is wanted
    assert not is_up_to_date(source._replace(last_modified=None), size, written)


def test_a_summary_says_in_words_what_was_done_and_what_was_not() -> None:
    failed = tuple((f"s3://b/k\n{index}", S3dlioError("no luck", uri=f"s3://b/k\n{index}")) for index in range(12))
    summary = TransferSummary(files=1000, bytes=65_536_000, skipped=3, failed=failed, seconds=2.0)
    first, *rest = str(summary).split("\n")
    assert first == "1,000 files, 65,536,000 bytes in 2.0 s (33 MB/s), 3 skipped, 12 failed"
    assert len(rest) == 11
    assert rest[0] == "  s3://b/k\\n0: no luck"
    assert rest[-1] == "  ... and 2 more"
    assert summary.as_dict()["failed"][1] == {"uri": "s3://b/k\n1", "error": "S3dlioError: s3://b/k\\n1: no luck"}
