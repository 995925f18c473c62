"""What the first sample promises, and how those that keep it, and those that do not, are told apart."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest

import s3dlio
from s3dlio.datasets.structures import Form, as_array, conform, forms_of, map_leaves, texts
from tests.unit.datasets.views import view_of

URI = "s3://b/k"
Pair = namedtuple("Pair", "one two")  # noqa: PYI024 (as a user's)


def test_a_sample_has_a_form_for_each_number_text_and_array() -> None:
    sample = {
        "n": 1,
        "list": [[1.5], [2.5]],
        "text": "ü",
        "inner": (np.zeros((2, 3), ">f4"), Pair(True, b"a"), view_of(b"abc")),
    }
    assert forms_of(sample, URI) == {
        "n": Form(np.dtype("i8"), ()),
        "list": Form(np.dtype("f8"), (2, 1)),
        "text": Form(np.dtype(object), ()),
        "inner": (
            Form(np.dtype("f4"), (2, 3)),
            (Form(np.dtype(bool), ()), Form(np.dtype(object), ())),
            Form(np.dtype("u1"), (3,)),
        ),
    }
    found = conform(sample, forms_of(sample, URI), URI)
    assert found["list"].tolist() == [[1.5], [2.5]]
    assert found["text"].item() == "ü".encode()
    assert found["inner"][2].tobytes() == b"abc"
    assert type(found["inner"][2]) is np.ndarray


@pytest.mark.parametrize(
    ("first", "other", "words"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, "it has not the names a"),
        ({"a": 1}, {"b": 1}, "it has not the names a"),
        ({"a": 1}, (1,), "it has not the names a"),
        ((1, 2), (1,), "it is no tuple of 2"),
        ((1, 2), [1, 2], "it is no tuple of 2"),
        (1, {"a": 1}, "has a dict in it"),
        (1, 1.5, r"float64 of shape \(\), and the first object int64 of shape \(\)"),
        ("text", 1, "int64.*object"),
        (np.zeros(3), np.zeros(4), r"\(4,\).*\(3,\)"),
        (np.zeros(3), np.zeros((3, 1)), r"\(3, 1\).*\(3,\)"),
        (np.zeros(3, "f4"), np.zeros(3, "f8"), "float64.*float32"),
    ],
)
def test_what_is_not_as_the_first_is_refused_with_its_uri(first: Any, other: Any, words: str) -> None:
    forms = forms_of(first, URI)
    conform(first, forms, URI)
    with pytest.raises(s3dlio.ConfigurationError, match=f"s3://b/other: .*{words}"):
        conform(other, forms, "s3://b/other")


def test_a_form_without_a_length_takes_any() -> None:
    form = Form(np.dtype("u1"), (None, None, 3))
    form.check(np.dtype("u1"), (5, 7, 3), URI)
    for shape in ((5, 7, 4), (5, 7), (5, 7, 3, 1)):
        with pytest.raises(s3dlio.ConfigurationError):
            form.check(np.dtype("u1"), shape, URI)


@pytest.mark.parametrize("leaf", [{1}, object(), [1, "a", None], [[1], [1, 2]], np.array([None])])
def test_what_no_array_of_numbers_or_texts_can_be_is_refused(leaf: Any) -> None:
    with pytest.raises(s3dlio.ConfigurationError, match=URI):
        as_array(leaf, URI)


def test_texts_keep_zeros_at_their_end_and_arrays_of_them_their_shape() -> None:
    assert texts(["a\0", b"b\0\0"]).tolist() == [b"a\0", b"b\0\0"]
    assert as_array(np.array([["a", "ü"]]), URI).tolist() == [[b"a", "ü".encode()]]
    assert as_array("x\0", URI).item() == b"x\0"
    assert texts([]).shape == (0,)


def test_several_structures_are_gone_through_together() -> None:
    assert map_leaves(lambda a, b: a + b, {"x": (1, 2)}, {"x": (10, 20)}) == {"x": (11, 22)}
    assert map_leaves(len, [1, 2, 3]) == 3
