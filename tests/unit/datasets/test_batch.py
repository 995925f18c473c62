import numpy as np
import pytest

from s3dlio.datasets.batch import Rows, close_gaps, npy_rows, plan_rows, rows_of, zero_tails
from s3dlio.engine.errors import ConfigurationError

_MANY = 1 << 30


def _plan(sizes, batch_size=4, pad_to=None, is_npy=False, max_bytes=_MANY):
    return plan_rows(np.array(sizes, np.int64), batch_size, pad_to, is_npy, max_bytes, lambda at: f"s3://b/{at}")


def _numbered(num, stride):
    return np.arange(num * stride, dtype=np.uint8)


def test_objects_of_one_size_lie_side_by_side():
    assert _plan([100, 100, 100]) == Rows(100, 100)


def test_npy_files_lie_as_they_are_aligned_in_a_file():
    assert _plan([130, 130], is_npy=True) == Rows(192, 130)


@pytest.mark.parametrize("sizes", [[], [5, 6], [-1, -1], [5, -1], [0, 0]])
def test_other_objects_have_slots_of_their_own(sizes):
    assert _plan(sizes) is None


def test_padded_objects_lie_in_rows_of_that_length_whether_their_size_is_known_or_not():
    assert _plan([3, -1, 8], pad_to=8) == Rows(8, 8)


def test_an_object_longer_than_pad_to_is_named():
    with pytest.raises(ConfigurationError, match=r"s3://b/2: the object has 9 bytes, more than pad_to=8"):
        _plan([3, 4, 9], pad_to=8)


@pytest.mark.parametrize("pad_to", [None, 100])
def test_a_batch_of_more_than_the_memory_allows_says_what_to_do(pad_to):
    # A list in its place would be another kind of batch than a larger machine gives.
    assert _plan([100], batch_size=4, pad_to=pad_to, max_bytes=400) == Rows(100, 100)
    with pytest.raises(ConfigurationError, match=r"more than half of the 798 bytes .* raise memory_bytes, or lower batch_size"):
        _plan([100], batch_size=4, pad_to=pad_to, max_bytes=399)


def test_rows_are_a_view_of_the_slot():
    slot = _numbered(3, 8)
    array = rows_of(slot, 2, Rows(8, 5))
    assert array.tolist() == [[0, 1, 2, 3, 4], [8, 9, 10, 11, 12]]
    slot[8] = 99
    assert array[1, 0] == 99
    assert rows_of(slot, 3, Rows(8, 8)).flags.c_contiguous


def test_what_lies_behind_shorter_objects_is_zeroed():
    array = rows_of(_numbered(3, 4) + 1, 3, Rows(4, 4))
    zero_tails(array, np.array([4, 1, 0]))
    assert array.tolist() == [[1, 2, 3, 4], [5, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("gaps", [(), (0,), (3,), (1, 2), (0, 1, 2, 3)])
def test_gaps_are_closed_within_the_same_memory(gaps):
    slot = _numbered(4, 3)
    expected = np.delete(slot.reshape(4, 3).copy(), list(gaps), axis=0)
    closed = close_gaps(rows_of(slot, 4, Rows(3, 3)), gaps)
    assert np.array_equal(closed, expected)
    assert closed.base is not None
    assert not len(closed) or np.shares_memory(closed, slot)


def _files(dtype, shape, offset, stride, order="C"):
    """Rows of `.npy`-like files: `offset` bytes of header, and then numbers that differ from row to row."""
    slot = np.zeros(3 * stride, np.uint8)
    arrays = []
    for row in range(3):
        one = np.ndarray(shape, dtype, slot[row * stride + offset :], order=order)
        one[...] = np.arange(one.size).reshape(shape) + 100 * row
        arrays.append(one.copy())
    return rows_of(slot, 3, Rows(stride, stride)), np.stack(arrays)


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_one_kind_are_one_array_over_the_rows(order):
    rows, expected = _files(np.dtype("<f4"), (2, 3), 64, 128, order)
    joined = npy_rows(rows, [(np.dtype("<f4"), (2, 3), order == "F", 64)] * 3)
    assert joined.shape == (3, 2, 3)
    assert np.array_equal(joined, expected)
    assert np.shares_memory(joined, rows)


def test_a_batch_of_scalars_is_a_row_of_numbers():
    rows, expected = _files(np.dtype("<i8"), (), 64, 128)
    assert np.array_equal(npy_rows(rows, [(np.dtype("<i8"), (), False, 64)] * 3), expected)


def test_arrays_of_several_kinds_are_not_joined():
    rows, _ = _files(np.dtype("<f4"), (2, 3), 64, 128)
    kinds = [(np.dtype("<f4"), (2, 3), False, 64), (np.dtype("<i4"), (2, 3), False, 64), (np.dtype("<f4"), (2, 3), False, 64)]
    assert npy_rows(rows, kinds) is None


def test_rows_that_are_no_whole_number_of_elements_apart_are_not_joined():
    rows, _ = _files(np.dtype("S6"), (2,), 64, 128)
    assert npy_rows(rows, [(np.dtype("S6"), (2,), False, 64)] * 3) is None
