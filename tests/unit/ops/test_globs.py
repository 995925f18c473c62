"""Patterns of `list`: against fnmatch where it has the same rules, against a naive matcher where it has not."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s3dlio.engine.errors import ConfigurationError
from s3dlio.engine.ops.globs import compile_pattern

FLAT_GLOBS = st.text(alphabet="ab-*?[]!^.\\&|~é\n", max_size=12)
FLAT_NAMES = st.text(alphabet="ab-!^.[]\\&|~é\n", max_size=12)


@given(FLAT_GLOBS, FLAT_NAMES)
@example("[a-]", "-")
@example("[]-a]", "]")
@example("[!]", "!")
@example("[b-a]", "b")
@example("[!b-a]", "x")
@example("[a-c-e]", "b")
@example("[--a]", "A")
@example("[^a]", "^")
@example("[[:a]", ":")
@example("*a*b*", "xaxxbx")
@example("**", ".hidden")
def test_globs_without_slashes_agree_with_fnmatch(glob: str, name: str) -> None:
    assert compile_pattern(glob)(name) == bool(re.match(fnmatch.translate(glob), name))


def naive_match(glob: str, key: str, at_start: bool = True) -> bool:
    """The rules of the module's docstring, word by word, with plain backtracking."""
    if not glob:
        return not key
    if at_start and glob.startswith("**/"):
        rests = [key, *(key[i + 1 :] for i, char in enumerate(key) if char == "/")]
        return any(naive_match(glob[3:], rest) for rest in rests)
    if glob.startswith("**"):
        return any(naive_match(glob[2:], key[i:], False) for i in range(len(key) + 1))
    if glob[0] == "*":
        reach = len(key.partition("/")[0])
        return any(naive_match(glob[1:], key[i:], False) for i in range(reach + 1))
    if not key or (glob[0] == "?" and key[0] == "/") or glob[0] not in ("?", key[0]):
        return False
    return naive_match(glob[1:], key[1:], glob[0] == "/")


@given(
    st.lists(st.sampled_from(["a", "b", "/", "?", "*", "**", "**/", "/**/"]), max_size=8).map("".join),
    st.text(alphabet="ab/", max_size=10),
)
@example("**a*b/", "a/ab/")
@example("a/**/b", "a/b")
def test_globs_with_slashes_agree_with_a_naive_matcher(glob: str, key: str) -> None:
    if "***" in glob or "/" not in glob:
        return
    assert compile_pattern(glob)(key) == naive_match(glob, key)


@pytest.mark.parametrize(
    ("pattern", "key", "wanted"),
    [
        ("*.npz", "train/0001.npz", True),
        ("*.npz", "train/0001.npz.tmp", False),
        ("*", "a/.hidden", True),
        ("train/*.npz", "train/0001.npz", True),
        ("train/*.npz", "train/deep/0001.npz", False),
        ("train/*.npz", "more/train/0001.npz", False),
        ("train/**/*.npz", "train/0001.npz", True),
        ("train/**/*.npz", "train/x/y/0001.npz", True),
        ("**/0001.npz", "0001.npz", True),
        ("train/**", "train/x/y", True),
        ("a?b/c", "a/b/c", False),
        ("a[!x]b/c", "a/b/c", False),
        ("a[.-0]b/c", "a/b/c", False),
        ("a[b/c", "a[b/c", True),
        ("a+(b)$", "x/a+(b)$", True),
        ("*.bin", "x/new\nline.bin", True),
    ],
)
def test_a_glob_is_held_against_the_basename_unless_it_has_a_slash(pattern: str, key: str, wanted: bool) -> None:
    assert compile_pattern(pattern)(key) is wanted


def test_a_compiled_regular_expression_is_searched_anywhere_in_the_relative_key() -> None:
    matches = compile_pattern(re.compile(r"in/\d+", re.IGNORECASE))
    assert matches("TRAIN/12.npz")
    assert not matches("train/x.npz")


def test_no_pattern_takes_every_key() -> None:
    assert compile_pattern(None)("")


@pytest.mark.parametrize("pattern", [re.compile(rb"x"), b"*", 7])
def test_what_is_no_pattern_is_a_configuration_error(pattern: object) -> None:
    with pytest.raises(ConfigurationError, match=r"bytes|compiled"):
        compile_pattern(pattern)  # type: ignore[arg-type]


@pytest.mark.timeout(10)
def test_many_stars_over_a_hostile_key_take_no_exponential_time() -> None:
    assert not compile_pattern("*a" * 30 + "b")("a" * 1024)
    assert not compile_pattern("x/" + "**a" * 30 + "b")("x/" + "a" * 1022)
