"""`.npy` over a view: numpy is the oracle, and what numpy would refuse or unpickle is refused (C6)."""

from __future__ import annotations

import io
import struct
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from s3dlio.datasets.npy import npy_layout, read_npy
from s3dlio.engine.errors import DecodeError
from tests.unit.datasets.views import Payload, view_of

URI = "s3://bucket/a.npy"


def saved(array: NDArray[Any], version: tuple[int, int] | None = None) -> bytearray:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # That the version is a newer one.
        warnings.simplefilter("ignore")
        np.lib.format.write_array(file, array, version=version)
    return bytearray(file.getvalue())


def file_of(header: str, data: bytes = b"", major: int = 1) -> bytearray:
    """A file with any header, right or wrong."""
    text = header.encode("utf-8")
    return bytearray(
        b"\x93NUMPY" + bytes((major, 0)) + struct.pack("<H" if major == 1 else "<I", len(text)) + text + data
    )


def header(descr: str, shape: str, is_fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {is_fortran}, 'shape': {shape}, }}\n"


def assert_same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


dtypes = st.one_of(
    hnp.scalar_dtypes(),
    hnp.byte_string_dtypes(min_len=1),
    hnp.unicode_string_dtypes(min_len=1),
    hnp.array_dtypes(hnp.scalar_dtypes(), max_size=4, allow_subarrays=True),
)
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4)))


@given(array=arrays, is_fortran=st.booleans(), version=st.sampled_from([(3, 0), None]))
def test_what_numpy_saves_is_read_over_the_same_memory(
    array: NDArray[Any], is_fortran: bool, version: tuple[int, int] | None
) -> None:
    content = saved(np.asfortranarray(array) if is_fortran else array, version)
    view = view_of(content)
    found = read_npy(view, URI)
    expected = np.load(io.BytesIO(content), allow_pickle=False)
    assert_same(found, expected)
    assert found.flags.writeable
    assert not found.size or found.strides == expected.strides
    if found.size and found.flags.aligned:
        assert np.shares_memory(found, np.asarray(view))


@pytest.mark.parametrize("descr", [">f4", ">i8", ">U3", ">M8[us]"])
def test_big_endian_stays_as_it_is(descr: str) -> None:
    found = read_npy(view_of(saved(np.zeros(3, descr))))
    assert found.dtype == np.dtype(descr)
    assert found.dtype.byteorder == ">"


def test_an_array_holds_the_view_to_the_last_slice() -> None:
    view = view_of(saved(np.arange(10)))
    seen = weakref.ref(view)
    part = read_npy(view)[3:4]
    del view
    assert seen() is not None
    assert part[0] == 3
    del part
    assert seen() is None


def test_elements_that_do_not_lie_aligned_are_copied() -> None:
    content = saved(np.arange(5.0))
    memory = np.zeros(len(content) + 1, np.uint8)
    memory[1:] = content
    found = read_npy(memory[1:])
    assert found.flags.aligned
    assert found.tolist() == [0, 1, 2, 3, 4]
    assert not np.shares_memory(found, memory)


def test_layouts_of_files_of_one_kind_are_equal_so_that_a_batch_is_one_array() -> None:
    files = [saved(np.full((2, 3), number, ">i4")) for number in range(4)]
    slot = view_of(b"".join(files))
    rows = np.asarray(slot).reshape(4, len(files[0]))
    [layout] = {npy_layout(row) for row in rows}
    dtype, shape, is_fortran, offset = layout
    assert (dtype, shape, is_fortran, offset) == (np.dtype(">i4"), (2, 3), False, len(files[0]) - 24)
    batch: NDArray[Any] = np.ndarray((4, *shape), dtype, slot, offset, (len(files[0]), 12, 4))
    assert [np.unique(one).tolist() for one in batch] == [[0], [1], [2], [3]]


def test_c6_objects_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    armed, sentinel = tmp_path / "armed", tmp_path / "sentinel"
    np.load(io.BytesIO(saved(np.array([Payload(armed)], object))), allow_pickle=True)
    assert armed.exists()
    with pytest.raises(DecodeError, match=r"s3://bucket/a\.npy: .*Python objects"):
        read_npy(view_of(saved(np.array([Payload(sentinel)], object))), URI)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "descr",
    ["'|O'", "'O'", "'i4,O'", "[('a', '<i4'), ('b', '|O')]", "[('a', [('b', '|O', (2,))])]", "'T'", "('|O', (2,))"],
)
def test_c6_dtypes_whose_bytes_would_be_pointers_are_refused(descr: str) -> None:
    # The bytes are an address where nothing is: whoever follows it ends by SIGSEGV.
    data = b"\x10" * 64
    for shape in ("(1,)", "(2,)", "(4,)", "(8,)", "()", "(0,)"):
        with pytest.raises(DecodeError, match="Python objects"):
            read_npy(view_of(file_of(header(descr, shape), data)))


@pytest.mark.parametrize(
    ("descr", "shape"),
    [
        ("'<f8'", f"({10**12},)"),
        ("'<f8'", f"({10**6}, {10**6})"),
        ("'|u1'", f"({2**63},)"),
        ("'<f8'", f"({2**62}, {2**62}, 4)"),
        ("'<f8'", f"(0, {2**62}, {2**62})"),
        ("'|V0'", f"({10**12},)"),
        ("[]", f"({10**12},)"),
        ("'<f8'", "(" + "1," * 40 + ")"),
    ],
)
def test_c6_a_header_that_claims_more_than_there_is_costs_nothing(descr: str, shape: str) -> None:
    with pytest.raises(DecodeError, match="claims"):
        read_npy(view_of(file_of(header(descr, shape), bytes(64))))


@pytest.mark.parametrize(
    "content",
    [
        file_of(header("'<f8'", "(1,)", "1"), bytes(8)),
        file_of(header("'<f8'", "(True,)"), bytes(8)),
        file_of(header("'<f8'", "(-1,)"), bytes(8)),
        file_of(header("'<f8'", "[1]"), bytes(8)),
        file_of(header("'<f8'", "(1.0,)"), bytes(8)),
        file_of(header("('<f8', (1,))", "(1,)"), bytes(8)),
        file_of(header("None", "(1,)"), bytes(8)),
        file_of(header("'no such dtype'", "(1,)"), bytes(8)),
        file_of(header("__import__('os').getpid()", "(1,)"), bytes(8)),
        file_of("{'descr': '<f8', 'shape': (1,)}", bytes(8)),
        file_of("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), 'more': 1}", bytes(8)),
        file_of("[" * 3000 + "]" * 3000, bytes(8)),
        file_of("-" * 9000 + "1", bytes(8)),
        file_of("(" * 5000, bytes(8)),
        file_of("'\\d'", bytes(8)),
        file_of("", bytes(8)),
        file_of(" " * 20_000 + header("'<f8'", "(1,)"), bytes(8)),
        file_of(header("'<f8'", "(1,)"), bytes(8), major=4),
        file_of(header("'<f8'", "(1,)"), bytes(8), major=0),
        bytearray(b"\x93NUMPY\x01\x01" + bytes(100)),
        bytearray(b"\x93NUMPY\x03\x00\xff\xff\xff\xff" + bytes(100)),
        bytearray(b"\x93NUMPY\x03\x00\x04\x00\x00\x00\xff\xff\xff\xff"),
        bytearray(),
        bytearray(b"PK\x03\x04"),
    ],
)
def test_c6_headers_that_make_no_sense_are_refused_by_name_of_the_object(content: bytearray) -> None:
    with pytest.raises(DecodeError, match=r"^s3://bucket/a\.npy: ") as caught:
        read_npy(view_of(content), URI)
    assert caught.value.uri == URI


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_a_file_that_was_cut_anywhere_or_goes_on_is_refused(version: tuple[int, int]) -> None:
    whole = saved(np.arange(7, dtype=np.int16), version)
    assert read_npy(view_of(whole)).tolist() == list(range(7))
    for end in range(len(whole)):
        with pytest.raises(DecodeError):
            read_npy(view_of(whole[:end]))
    with pytest.raises(DecodeError, match="7 elements of 2 bytes from byte 128 on; the file has 15 bytes there"):
        read_npy(view_of(whole + b"\0"))


literals: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=3)
    | st.sampled_from(["<f8", "|O", "a", "i4,O", "<M8[s]", "|V3", "<U2"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.tuples(inner, inner, inner) | st.tuples(inner)
    ),
    max_leaves=8,
)
shapes = literals | st.lists(st.integers(-1, 5) | st.integers(), max_size=4).map(tuple)


changes = st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), min_size=1, max_size=4)


def judge(content: bytearray) -> None:
    """Either it is refused, or it is what numpy reads."""
    try:
        found = read_npy(view_of(content), URI)
    except DecodeError:
        return
    assert not found.dtype.hasobject
    assert_same(found, np.load(io.BytesIO(content), allow_pickle=False))


@given(descr=literals, is_fortran=literals, shape=shapes, num=st.integers(0, 100))
def test_c6_any_literals_as_a_header_are_refused_or_read_as_numpy_does(
    descr: Any, is_fortran: Any, shape: Any, num: int
) -> None:
    judge(file_of(header(repr(descr), repr(shape), repr(is_fortran)), bytes(num), major=3))


@given(
    array=arrays,
    is_fortran=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_c6_any_bytes_changed_in_a_header_are_refused_or_read_as_numpy_does(
    array: NDArray[Any], is_fortran: bool, changes: list[tuple[int, int]]
) -> None:
    content = saved(np.asfortranarray(array) if is_fortran else array)
    for at, byte in changes:
        content[at % len(content)] = byte
    judge(content)


def test_views_and_plain_arrays_and_memoryviews_are_read() -> None:
    content = saved(np.arange(4))
    for view in (view_of(content), np.frombuffer(content, np.uint8), memoryview(content)):
        assert read_npy(view).tolist() == [0, 1, 2, 3]
    assert type(read_npy(view_of(content))) is np.ndarray
