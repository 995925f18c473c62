"""What derives from a view holds its slot; what a view answers is what bytes would answer."""

from __future__ import annotations

import base64
import copy
import gc
import hashlib
import io
import operator
import pickle
import re
import struct
import subprocess
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.engine.memory.limits import PAGE_BYTES
from s3dlio.engine.memory.segment import HEADER_BYTES, Segment
from s3dlio.engine.memory.slots import Slot, Slots
from s3dlio.engine.memory.view import BytesView, Lease, lease_view, owned_view

DERIVED: dict[str, Callable[[Any], Any]] = {
    "memoryview": memoryview,
    "its own memoryview": lambda view: view.memoryview(),
    "a slice of a memoryview": lambda view: memoryview(view)[3:9],
    "numpy.frombuffer": lambda view: np.frombuffer(view, np.float32),
    "numpy.frombuffer, reshaped, transposed, cut": lambda view: np.frombuffer(view, np.float32).reshape(32, 32).T[1:],
    "numpy.asarray": np.asarray,
    "a slice": lambda view: view[10:20],
    "a slice of a slice": lambda view: view[10:20][::2],
    "another dtype": lambda view: view.view(np.int16),
    "another shape": lambda view: view.reshape(64, 64)[3],
    "numpy.broadcast_to": lambda view: np.broadcast_to(np.asarray(view), (3, 4096)),
    "numpy.lib.stride_tricks.as_strided": lambda view: np.lib.stride_tricks.as_strided(view, (10,), (2,)),
    "numpy.ascontiguousarray": np.ascontiguousarray,
    "numpy.split": lambda view: np.split(np.asarray(view), 4)[2],
    "a field of a structure": lambda view: np.asarray(view).view([("a", "u1"), ("b", "u1")])["a"],
    "the real part": lambda view: np.asarray(view).view(np.complex64).real,
    "a flat iterator": lambda view: view.flat,
    "a slice of an array of a slice": lambda view: np.asarray(view[10:90][2:])[1:][::2],
    "DLPack": np.from_dlpack,
    "torch.frombuffer": lambda view: torch.frombuffer(view, dtype=torch.float32),
    "torch.from_numpy": torch.from_numpy,
    "torch.as_tensor, another dtype, cut": lambda view: torch.as_tensor(view).view(torch.float32)[5:],
    "torch.from_dlpack": torch.from_dlpack,
    "torch, one number": lambda view: torch.from_numpy(view)[7],
    "an iterator": iter,
}


class Bench:
    """A segment with its slots, and a view of 4096 bytes in it."""

    def __init__(self) -> None:
        self.segment = Segment.create(1 << 24)
        self.slots = Slots(self.segment, first=HEADER_BYTES, size=(1 << 24) - HEADER_BYTES, cap_bytes=1 << 20)
        self.released: deque[Lease] = deque()
        self.leases: list[Lease] = []

    def view(self, content: bytes) -> BytesView:
        slot = self.slots.allocate(len(content))
        assert slot is not None
        self.segment.buffer[slot.start : slot.start + len(content)] = content
        return self.lease(slot, 0, len(content))

    def lease(self, slot: Slot, offset: int, nbytes: int) -> BytesView:
        view, lease = lease_view(self.segment.buffer, slot, offset, nbytes, self.released)
        self.leases.append(lease)
        return view

    def close(self) -> None:
        self.segment.close()
        del self.segment, self.slots, self.released, self.leases


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_a_view_is_a_writable_contiguous_array_over_the_slot_itself(bench: Bench) -> None:
    slot = bench.slots.allocate(5)
    assert slot is not None
    bench.segment.buffer[slot.start : slot.start + 5] = b"hello"
    view = bench.lease(slot, 0, 5)
    assert (view.dtype, view.shape, view.flags.writeable, view.flags.c_contiguous) == (np.uint8, (5,), True, True)
    view[0] = ord("j")
    assert bytes(view) == bytes(bench.segment.buffer[slot.start : slot.start + 5]) == b"jello"


def test_a_view_may_begin_anywhere_in_its_slot(bench: Bench) -> None:
    slot = bench.slots.allocate(100)
    assert slot is not None
    bench.segment.buffer[slot.start : slot.start + 100] = bytes(range(100))
    parts = [bench.lease(slot, at, 10) for at in (0, 50, 90)]
    assert [bytes(part) for part in parts] == [bytes(range(at, at + 10)) for at in (0, 50, 90)]


@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
def test_m4_whatever_derives_from_a_view_holds_the_slot_until_it_is_gone(bench: Bench, derive: Callable[[Any], Any]) -> None:
    view = bench.view(bytes(4096))
    derived = derive(view)
    del view
    gc.collect()
    assert not bench.released
    del derived
    assert len(bench.released) == 1


def test_m4_the_end_of_a_lease_says_which_grant_of_the_slot_it_was(bench: Bench) -> None:
    seen = []
    for _ in range(3):
        view = bench.view(b"x")
        del view
        lease = bench.released.popleft()
        assert lease.slot.generation == lease.generation
        seen.append(lease.generation)
        bench.slots.free(lease.slot)
    assert seen == sorted(set(seen))


def test_m4_a_view_outlives_the_segment_and_the_slots(bench: Bench) -> None:
    other = Bench()
    view = other.view(b"still here")
    other.close()
    del other
    gc.collect()
    assert bytes(view) == b"still here"
    view[:] = ord("x")
    assert view == b"xxxxxxxxxx"


def test_m4_a_slot_is_not_granted_again_while_a_view_of_it_lives(bench: Bench) -> None:
    held = [bench.view(bytes([number]) * PAGE_BYTES) for number in range(256)]
    assert bench.slots.allocate(1) is None
    assert not bench.released
    assert all(bytes(view) == bytes([number]) * PAGE_BYTES for number, view in enumerate(held))


def test_m4_a_lease_may_end_in_any_thread(bench: Bench) -> None:
    held = [bench.view(b"x") for _ in range(64)]
    threads = [threading.Thread(target=lambda: [held.pop() for _ in range(16)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bench.released) == 64
    assert len({lease.slot.start for lease in bench.released}) == 64


def test_an_empty_view_holds_its_slot_as_any_other(bench: Bench) -> None:
    view = bench.view(b"")
    assert len(view) == 0
    assert bytes(view) == view.to_bytes() == b""
    assert not bench.released
    del view
    assert len(bench.released) == 1


def test_a_copy_does_not_hold_the_slot(bench: Bench) -> None:
    view = bench.view(b"abc")
    copies = [copy.copy(view), copy.deepcopy(view), view.copy(), pickle.loads(pickle.dumps(view)), view[[0, 1, 2]]]  # noqa: TID251
    view[:] = 0
    del view
    assert len(bench.released) == 1
    assert all(type(one) is BytesView and one == b"abc" for one in copies)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_is_by_value_and_what_comes_back_is_writable(protocol: int) -> None:
    back = pickle.loads(pickle.dumps(owned_view(b"abc"), protocol))  # noqa: TID251
    assert type(back) is BytesView
    back[0] = 0
    assert back == b"\0bc"


def test_the_text_shows_the_length_and_never_the_contents() -> None:
    view = owned_view(b"secret")
    assert repr(view) == str(view) == f"{view}" == "BytesView(6 bytes)"


def test_an_element_is_an_int_and_iteration_gives_ints() -> None:
    view = owned_view(b"abc")
    assert [type(view[0]), type(view[-1]), type(view[np.int64(1)])] == [int] * 3
    assert [type(item) for item in view] == [int] * 3
    assert list(view) == [97, 98, 99]
    with pytest.raises(IndexError):
        view[3]


def test_a_view_is_true_if_it_is_not_empty() -> None:
    assert [bool(owned_view(data)) for data in (b"", b"\0", b"\0\0")] == [False, True, True]


def test_a_view_has_no_hash() -> None:
    with pytest.raises(TypeError):
        hash(owned_view(b"abc"))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, owned_view])
def test_equality_with_bytes_is_one_bool_from_either_side(kind: Callable[[bytes], Any]) -> None:
    view = owned_view(b"abc")
    for data, same in ((b"abc", True), (b"abd", False), (b"ab", False), (b"", False), (b"abca", False)):
        assert (view == kind(data)) is same
        assert (view != kind(data)) is not same
        assert (kind(data) == view) is same
    assert (owned_view(b"") == kind(b"")) is True


ORDERS = (operator.lt, operator.le, operator.gt, operator.ge)


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_order_and_sums_are_those_of_bytes_from_either_side(one: bytes, other: bytes) -> None:
    for kind in (bytes, bytearray, memoryview, owned_view):
        for compare in ORDERS:
            assert compare(owned_view(one), kind(other)) is compare(one, other)
            assert compare(kind(one), owned_view(other)) is compare(one, other)
        total = owned_view(one) + kind(other)
        assert (type(total), total) == (bytes, one + other)
        total = view = owned_view(one)
        total += kind(other)
        assert (type(total), total, view) == (bytes, one + other, one)
    for kind in (bytes, bytearray):
        total = kept = kind(one)
        assert (type(total + owned_view(other)), total + owned_view(other)) == (kind, one + other)
        total += owned_view(other)
        assert (type(total), total) == (kind, one + other)
        assert (total is kept) == (kind is bytearray or not other)
    assert owned_view(one)[::2] + owned_view(other)[::-1] == one[::2] + other[::-1]
    assert b"-".join([owned_view(one), owned_view(other)]) == one + b"-" + other


def test_what_bytes_cannot_do_is_numpys_or_an_error() -> None:
    view = owned_view(b"abc")
    assert (1 + view).tolist() == (view + 1).tolist() == [98, 99, 100]
    assert (view + np.ones(3, np.uint8)).tolist() == (np.ones(3, np.uint8) + view).tolist() == [98, 99, 100]
    assert (view < [98, 98, 98]).tolist() == [True, False, False]
    view.partition(1)
    assert view == b"abc"
    for act in (lambda: view + "abc", lambda: "abc" + view, lambda: memoryview(b"abc") + view):
        with pytest.raises(TypeError):
            act()


METHODS: dict[str, tuple[Any, ...]] = {
    "center": (20,), "count": (b"a",), "decode": (), "endswith": (b"\n",), "expandtabs": (4,), "find": (b"b",), "hex": (":", 2),
    "index": (b"a",), "join": ([b"1", b"2"],), "ljust": (20, b"."), "lstrip": (b" a",), "partition": (b"b",), "removeprefix": (b" a",),
    "removesuffix": (b"\n",), "replace": (b"a", b"xyz"), "rfind": (b"a",), "rindex": (b"a",), "rjust": (20,), "rpartition": (b"a",),
    "rsplit": (b"a", 1), "split": (b"a",), "splitlines": (True,), "startswith": (b" a",), "translate": (bytes(range(256))[::-1],),
    "zfill": (20,),
}  # fmt: skip


def test_every_method_of_bytes_gives_of_a_view_what_it_gives_of_bytes() -> None:
    data = b" aB\tab12\n ab\n"
    names = [name for name in dir(bytes) if not name.startswith("_") and name not in ("fromhex", "maketrans")]
    assert set(METHODS) <= set(names)
    for name in names:
        arguments = METHODS.get(name, ())
        expected = getattr(data, name)(*arguments)
        found = getattr(owned_view(data), name)(*arguments)
        assert (type(found), found) == (type(expected), expected), name
        # What it is given may be views too.
        seen = [owned_view(one) if isinstance(one, bytes) and name not in ("ljust", "translate") else one for one in arguments]
        assert getattr(owned_view(data), name)(*seen) == expected, name


def test_programs_that_take_bytes_take_views() -> None:
    data = b"\x01\x02\x03\x04"
    view = owned_view(data)
    assert int.from_bytes(view, "big") == int.from_bytes(data, "big")
    assert struct.unpack("<I", view) == struct.unpack("<I", data)
    assert hashlib.sha256(view).digest() == hashlib.sha256(data).digest()
    assert base64.b64encode(view) == base64.b64encode(data)
    assert zlib.decompress(owned_view(zlib.compress(data))) == data
    assert io.BytesIO(view).read() == data
    assert b"%b|%s" % (view, view) == data + b"|" + data
    assert str(owned_view(b"abc"), "ascii") == "abc"
    assert (int(owned_view(b"42\n")), float(owned_view(b" -1.5e3"))) == (42, -1500.0)
    match = re.search(rb"b(.)", owned_view(b"abc"))
    assert match is not None
    assert match[1] == b"c"
    assert pickle.loads(owned_view(pickle.dumps([1, 2]))) == [1, 2]  # noqa: TID251 (its own)


def test_equality_with_a_memoryview_full_of_gaps_looks_at_what_it_shows() -> None:
    assert owned_view(b"ace") == memoryview(b"abcdef")[::2]


def test_equality_with_an_array_or_a_number_goes_by_elements() -> None:
    view = owned_view(b"abc")
    for result in (view == np.frombuffer(b"abd", np.uint8), np.frombuffer(b"abd", np.uint8) == view, view == [97, 98, 0]):
        assert type(result) is np.ndarray
        assert result.tolist() == [True, True, False]
    assert (view != 97).tolist() == [False, True, True]


def test_equality_with_anything_else_is_false() -> None:
    view = owned_view(b"abc")
    assert [view == "abc", view == None, view == object(), view != "abc"] == [False, False, False, True]  # noqa: E711


FOREIGN: dict[str, Callable[[Any], Any]] = {
    "addition": lambda view: view + 1,
    "comparison": lambda view: view < 98,
    "inversion": lambda view: ~view,
    "another dtype": lambda view: view.view(np.int8),
    "astype": lambda view: view.astype(np.float32),
    "another shape": lambda view: view.reshape(2, 2),
    "numpy.reshape": lambda view: np.reshape(view, (2, 2)),
    "a new axis": lambda view: view[None],
    "stack": lambda view: np.stack([view, view]),
    "cumsum": lambda view: view.cumsum(),
    "argsort": lambda view: view.argsort(),
    "take": lambda view: view.take([[0], [1]]),
    "an outer product": lambda view: np.multiply.outer(view, view),
}


@pytest.mark.parametrize("derive", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_row_of_bytes_is_an_ordinary_array(derive: Callable[[Any], Any]) -> None:
    assert type(derive(owned_view(b"abcd"))) is np.ndarray


def test_no_method_of_ndarray_gives_a_view_of_another_shape_or_type() -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "astype": (np.int32,), "view": (np.int16,), "reshape": (2, 2), "getfield": (np.int8,), "take": ([[0]],),
        "argpartition": (1,), "repeat": (2,), "searchsorted": ([97],), "choose": ([np.zeros(1)] * 256,), "swapaxes": (0, 0),
        "compress": ([True],), "dot": (np.ones(1),), "clip": (0, 9),
    }  # fmt: skip
    silent = {"resize", "dump", "tofile", "setfield", "partition", "put", "sort", "setflags", "fill", "itemset"}
    for name in dir(np.ndarray):
        if name.startswith("_") or name in silent or not callable(getattr(np.ndarray, name)):
            continue
        try:
            result = getattr(owned_view(b"a" if name in ("squeeze", "dot") else b"abcd"), name)(*arguments.get(name, ()))
        except (TypeError, ValueError):
            continue
        for item in result if isinstance(result, tuple) else (result,):
            if isinstance(item, BytesView):
                assert (item.ndim, item.dtype) == (1, np.uint8), name


def test_reductions_are_numbers() -> None:
    view = owned_view(b"abc")
    assert (int(view.sum()), int(view.max()), float(view.mean())) == (294, 99, 98.0)


def test_arithmetic_in_place_leaves_a_view() -> None:
    view = kept = owned_view(b"abc")
    view += 1
    assert view is kept
    assert view == b"bcd"


def test_numpy_writes_into_a_view_that_is_given_as_out() -> None:
    view = owned_view(bytes(4))
    assert np.concatenate([np.array([1, 2], np.uint8), np.array([3, 4], np.uint8)], out=view) is view
    assert view == b"\x01\x02\x03\x04"


def test_dlpack_shares_the_memory(bench: Bench) -> None:
    view = bench.view(b"abcd")
    array = np.from_dlpack(view)
    view[0] = 0
    assert array.tolist() == [0, 98, 99, 100]


def test_owned_bytes_are_copied_and_an_owned_bytearray_is_not() -> None:
    data = bytearray(b"abc")
    owned_view(data)[0] = 0
    assert data == b"\0bc"
    source = b"abc"
    owned_view(source)[0] = 0
    assert source == b"abc"


def test_only_bytes_and_numbers_are_sought_in_a_view() -> None:
    with pytest.raises(TypeError):
        assert "abc" in owned_view(b"abc")
    with pytest.raises(ValueError, match="range"):
        assert 256 in owned_view(b"abc")


@given(st.binary(max_size=40), st.binary(max_size=3), st.none() | st.integers(-50, 50), st.none() | st.integers(-50, 50))
def test_searching_answers_as_bytes_do(data: bytes, sub: bytes, start: int | None, end: int | None) -> None:
    view = owned_view(data)
    assert view.find(sub, start, end) == data.find(sub, start, end)
    assert (sub in view) == (sub in data)
    assert view.startswith(sub) == data.startswith(sub)
    assert view.endswith(sub) == data.endswith(sub)
    assert view.startswith((b"\0\0", sub)) == data.startswith((b"\0\0", sub))
    assert view.endswith(()) is data.endswith(()) is False
    assert all((number in view) == (number in data) for number in (0, 97, 255))


@given(st.binary(max_size=40), st.slices(40))
def test_slices_and_their_text_answer_as_bytes_do(data: bytes, piece: slice) -> None:
    view, expected = owned_view(data)[piece], data[piece]
    assert type(view) is BytesView
    assert (bytes(view), view.to_bytes(), view.hex(), list(view)) == (expected, expected, expected.hex(), list(expected))
    assert view == expected
    assert view.decode("latin-1") == expected.decode("latin-1")
    assert view.decode(errors="replace") == expected.decode(errors="replace")
    assert view.find(b"a") == expected.find(b"a")


def test_text_that_is_no_text_raises_as_bytes_do() -> None:
    with pytest.raises(UnicodeDecodeError):
        owned_view(b"\xff").decode()


CHILD_READS_WHILE_PARENT_GOES_ON = """
import os, sys
from collections import deque
from s3dlio.engine.memory.segment import HEADER_BYTES, Segment
from s3dlio.engine.memory.slots import Slots
from s3dlio.engine.memory.view import lease_view

segment = Segment.create(1 << 26)
slots = Slots(segment, first=HEADER_BYTES, size=segment.size - HEADER_BYTES, cap_bytes=8192)
released = deque()
slot = slots.allocate(4096)
segment.buffer[slot.start:slot.start + 4096] = b"a" * 4096
view, lease = lease_view(segment.buffer, slot, 0, 4096, released)
slots.retire(slot)
parent_done, tell = os.pipe()
child = os.fork()
if child == 0:
    os.read(parent_done, 1)
    same = bytes(view) == b"a" * 4096
    del view
    os._exit(0 if same and len(released) == 1 else 1)
del view
slots.free(released.popleft().slot)
for _ in range(100):
    other = slots.allocate(8192)
    segment.buffer[other.start:other.start + 8192] = b"z" * 8192
    slots.free(other)
slots.trim()
os.write(tell, b"x")
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert not released
sys.exit(status)
"""


def test_p10_a_forked_child_reads_its_view_after_the_parent_freed_it_and_disturbs_nobody() -> None:
    subprocess.run([sys.executable, "-c", CHILD_READS_WHILE_PARENT_GOES_ON], check=True)
