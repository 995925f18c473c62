"""What JAX and TensorFlow share: slots are lent until too many are out, and a batch has samples of one shape."""

from __future__ import annotations

import numpy as np
import pytest

import s3dlio
from s3dlio.datasets.dense import Loans, check_sizes, dense_options, native, stack
from s3dlio.datasets.listing import from_uris
from s3dlio.datasets.options import Options
from tests.unit.datasets.views import view_of


def test_slots_are_lent_up_to_a_quarter_of_the_memory_and_copied_beyond() -> None:
    loans = Loans(4000)
    arrays = [np.ndarray.view(view_of(bytes([number]) * 300), np.ndarray).reshape(3, 100) for number in range(5)]
    lent = [loans.lend(array) for array in arrays]
    assert [one is array for one, array in zip(lent, arrays, strict=True)] == [True, True, True, False, False]
    assert all((one == array).all() and one.flags.owndata for one, array in zip(lent[3:], arrays[3:], strict=True))


def test_whatever_is_derived_from_a_lent_slot_holds_it_and_what_is_given_back_is_lent_again() -> None:
    loans = Loans(4000)

    def lend() -> np.ndarray:
        return loans.lend(np.ndarray.view(view_of(bytes(1000)), np.ndarray)[np.newaxis])

    def is_lent() -> bool:
        return lend().base is not None

    for derive in (
        lambda one: one[:, -1:],
        lambda one: one.reshape(10, 100).T,
        lambda one: np.lib.stride_tricks.as_strided(one, (2, 2), (500, 1)),
        memoryview,
        lambda one: np.frombuffer(one, "f4"),
    ):
        kept = derive(lend())
        assert not is_lent()
        del kept
        assert is_lent()
    circle = [lend()]
    circle.append(circle)  # type: ignore[arg-type]
    del circle
    # What only a cycle holds is found before anything is copied.
    assert is_lent()


def test_a_slot_larger_than_a_quarter_is_always_copied_and_memory_of_its_own_never() -> None:
    loans = Loans(100)
    array = np.ndarray.view(view_of(bytes(30)), np.ndarray)
    assert loans.lend(array) is not array
    own = np.zeros(1000)
    assert loans.lend(own) is own
    assert loans.lend(own[5:]).base is own


def test_samples_of_one_shape_are_stacked_in_the_byte_order_of_the_machine() -> None:
    found = stack([np.array([1, 2], ">i4"), np.array([3, 4], ">i4")], ["a", "b"])
    assert found.dtype == np.dtype("=i4")
    assert found.dtype.isnative
    assert found.tolist() == [[1, 2], [3, 4]]
    assert stack([1, 2.5], ["a", "b"]).tolist() == [1, 2.5]
    views = [view_of(b"ab"), view_of(b"cd")]
    assert type(stack(views, ["a", "b"])) is np.ndarray
    swapped = np.array([1], ">f8")
    assert native(swapped).tolist() == [1]
    same = np.array([1.0])
    assert native(same) is same


def test_the_first_sample_of_another_shape_is_named_and_what_it_differs_from() -> None:
    with pytest.raises(
        s3dlio.ConfigurationError,
        match=r"^s3://b/3: its shape is \(4,\), and that of s3://b/1, .* \(2,\); give pad_to=",
    ):
        stack([np.zeros(2), np.zeros(2), np.zeros(4), np.zeros(5)], [f"s3://b/{number}" for number in range(1, 5)])


@pytest.mark.parametrize(
    ("sizes", "arguments", "is_refused"),
    [
        ([3, 5], {"batch_size": 2}, True),
        ([3, None, 5], {"batch_size": 2}, True),
        ([3, None, 3], {"batch_size": 2}, False),
        ([None, None], {"batch_size": 2}, False),
        ([], {"batch_size": 2}, False),
        ([0, 1], {"batch_size": 2}, True),
        ([3, 5], {"batch_size": 1}, False),
        ([3, 5], {"batch_size": 2, "pad_to": 5}, False),
        ([3, 5], {"batch_size": 2, "decode": "npy"}, False),
    ],
)
def test_objects_that_are_known_to_be_no_rows_are_refused(
    sizes: list[int | None], arguments: dict[str, object], is_refused: bool
) -> None:
    listing = from_uris([s3dlio.ObjectRef(f"s3://b/{number}", size) for number, size in enumerate(sizes)])
    options = Options(**arguments)  # type: ignore[arg-type]
    if is_refused:
        with pytest.raises(s3dlio.ConfigurationError, match=r"bytes, and a batch is one array; give pad_to=.*decode="):
            check_sizes(listing, options)
    else:
        check_sizes(listing, options)


def test_a_batch_size_of_loader_opts_stands_for_the_default_and_against_any_other() -> None:
    assert dense_options({"batch_size": 1}, {"batch_size": 8}, {}).batch_size == 8
    assert dense_options({"batch_size": 1}, None, {}).batch_size == 1
    with pytest.raises(s3dlio.ConfigurationError, match="batch_size is 2, and 8 in loader_opts"):
        dense_options({"batch_size": 2}, {"batch_size": 8}, {})
    with pytest.raises(s3dlio.ConfigurationError, match="loader_opts is a dict"):
        dense_options({"batch_size": 1}, 5, {})  # type: ignore[arg-type]
    with pytest.raises(s3dlio.ConfigurationError, match="batch_size is a whole number from 1 on, not None"):
        dense_options({"batch_size": None}, None, {})
