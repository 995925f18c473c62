"""TFRecord files: a CRC of the test's own and bytes of TensorFlow are the oracles; what does not hold is named by its byte (C8)."""

from __future__ import annotations

import json
import re
import struct
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.datasets.tfrecord import Place, Records, ShuffleBuffer
from s3dlio.engine.errors import ConfigurationError, DecodeError
from tests.unit.datasets.views import view_of

URI = "s3://bucket/a.tfrecord"

# Written by tensorflow 2.21: tf.io.TFRecordWriter, of the three records below.
WRITTEN = bytes.fromhex(
    "000000000000000029039807d8ea82a20800000000000000ff86240f61207265636f7264be6e4e083800000000000000a3797d57c8c9cacbcccdcecfd0d1d2d3"
    "d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeffb7f36dcb"
)
RECORDS = [b"", b"a record", bytes(range(200, 256))]


def crc32c(data: bytes) -> int:
    """Bit by bit. Source: RFC 3720, appendix B.4 (polynomial, and the vector below)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % (1 << 32))


def record_of(data: bytes, length: int | None = None) -> bytes:
    head = struct.pack("<Q", len(data) if length is None else length)
    return head + masked(head) + data + masked(data)


def file_of(records: Iterable[bytes]) -> bytes:
    return b"".join(record_of(data) for data in records)


def read(content: bytes, first: int = 0) -> Iterator[bytes]:
    for record in Records(view_of(content), URI).read_from(first):
        yield bytes(record)


def read_until_error(content: bytes) -> tuple[list[bytes], DecodeError | None]:
    found: list[bytes] = []
    try:
        for record in read(content):
            found.append(record)  # noqa: PERF402 (those before the error count)
    except DecodeError as error:
        return found, error
    return found, None


def test_what_tensorflow_writes_is_read() -> None:
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert file_of(RECORDS) == WRITTEN
    assert list(read(WRITTEN)) == RECORDS
    assert list(read(b"")) == []


@given(records=st.lists(st.binary(max_size=40), max_size=8), first=st.integers(0, 10))
def test_records_are_read_from_any_number_on(records: list[bytes], first: int) -> None:
    if first <= len(records):
        assert list(read(file_of(records), first)) == records[first:]
    else:
        with pytest.raises(DecodeError, match=f"stands before record {first}, and the file has {len(records)}"):
            list(read(file_of(records), first))


def test_records_lie_over_the_view_and_hold_it() -> None:
    view = view_of(WRITTEN)
    seen = weakref.ref(view)
    kept = list(Records(view, URI))[1]
    assert np.shares_memory(kept, np.asarray(view))
    del view
    assert seen() is not None
    del kept
    assert seen() is None


def test_c8_a_file_that_was_cut_anywhere_gives_its_whole_records_and_then_the_byte() -> None:
    starts = [0, 16, 40]
    ends = {0: 0, 16: 1, 40: 2, 112: 3}
    for end in range(len(WRITTEN) + 1):
        found, error = read_until_error(WRITTEN[:end])
        whole = max(num for at, num in ends.items() if at <= end)
        assert found == RECORDS[:whole]
        if end in ends:
            assert error is None
        else:
            assert str(error).startswith(f"{URI}: record {whole} at byte {starts[whole]}: ")
            assert f"ends at byte {end}" in str(error) or f"at byte {end}" in str(error)


@pytest.mark.parametrize("bit", range(8))
def test_c8_every_changed_bit_is_found_before_its_record_is_handed_out(bit: int) -> None:
    number_at = [0] * 16 + [1] * 24 + [2] * 72
    for at in range(len(WRITTEN)):
        changed = bytearray(WRITTEN)
        changed[at] ^= 1 << bit
        found, error = read_until_error(bytes(changed))
        assert found == RECORDS[: number_at[at]]
        assert f"record {number_at[at]} at byte" in str(error)


def test_c8_a_bad_crc_of_a_length_and_of_data_is_named_with_its_byte() -> None:
    length, data = bytearray(WRITTEN), bytearray(WRITTEN)
    length[16 + 9] ^= 1
    data[40 + 12 + 56] ^= 1
    [*found], error = read_until_error(bytes(length))
    assert (found, str(error)) == (
        RECORDS[:1],
        f"{URI}: record 1 at byte 16: the CRC of its length, at byte 24, does not hold",
    )
    [*found], error = read_until_error(bytes(data))
    assert (found, str(error)) == (
        RECORDS[:2],
        f"{URI}: record 2 at byte 40: the CRC of its data, at byte 108, does not hold",
    )
    assert error is not None
    assert error.uri == URI


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**63 - 1, 2**32, 9])
def test_c8_a_length_beyond_the_end_is_refused_though_its_crc_holds(length: int) -> None:
    content = record_of(b"good") + record_of(b"12345678", length)
    found, error = read_until_error(content)
    assert found == [b"good"]
    assert (
        str(error) == f"{URI}: record 1 at byte 20: it claims {length} bytes, and the file ends at byte {len(content)}"
    )


def test_c8_records_that_are_passed_over_are_still_measured() -> None:
    content = bytearray(WRITTEN)
    content[16] ^= 1
    with pytest.raises(DecodeError, match="record 1 at byte 16"):
        list(read(bytes(content), 2))


def test_c8_a_compressed_file_is_recognised() -> None:
    with pytest.raises(DecodeError, match="gzip"):
        list(read(b"\x1f\x8b\x08" + bytes(20)))


@given(
    records=st.lists(st.binary(max_size=20), min_size=1, max_size=5),
    changes=st.lists(st.tuples(st.integers(0), st.binary(max_size=12), st.integers(0, 12)), min_size=1, max_size=3),
)
def test_c8_whatever_is_changed_only_true_records_come_before_the_error(
    records: list[bytes], changes: list[tuple[int, bytes, int]]
) -> None:
    content = bytearray(file_of(records))
    first = len(content)
    for at, junk, removed in changes:
        place = at % (len(content) + 1)
        content[place : place + removed] = junk
        first = min(first, place)
    found, error = read_until_error(bytes(content))
    # Records are told by an oracle that reads what holds, from the beginning on.
    at, expected = 0, []
    while at < len(content):
        head = bytes(content[at : at + 8])
        end = at + 12 + int.from_bytes(head, "little")
        if (
            content[at + 8 : at + 12] != masked(head)
            or len(head) < 8
            or content[end : end + 4] != masked(bytes(content[at + 12 : end]))
        ):
            break
        expected.append(bytes(content[at + 12 : end]))
        at = end + 4
    assert found == expected
    assert (error is None) == (at == len(content))
    if error is not None:
        assert f"record {len(expected)} at byte {at}: " in str(error)


# --- the buffer


def stream(files: Sequence[int], start: Place = (0, 0)) -> Iterator[tuple[Place, str]]:
    """Records of files that have so many each, from a place on."""
    for file, num in enumerate(files):
        for number in range(num):
            if (file, number) >= start:
                yield (file, number), f"{file}/{number}"


def shuffled(
    files: Sequence[int], size: int, seed: int = 0, epoch: int = 0, key: tuple[int, ...] = (0, 0)
) -> list[str]:
    return [record for _, record in ShuffleBuffer[str](size, seed, epoch, key).shuffle(stream(files))]


file_lists = st.lists(st.integers(0, 12), max_size=6)


@given(files=file_lists, size=st.integers(1, 40), seed=st.integers(), epoch=st.integers(0, 3))
def test_each_record_comes_once_and_not_long_before_its_turn(
    files: list[int], size: int, seed: int, epoch: int
) -> None:
    given_order = [record for _, record in stream(files)]
    found = shuffled(files, size, seed, epoch)
    assert sorted(found) == sorted(given_order)
    assert all(given_order.index(record) <= index + size for index, record in enumerate(found))
    assert found == shuffled(files, size, seed, epoch)
    assert size > 1 or found == given_order


def test_seed_epoch_and_worker_each_give_another_order() -> None:
    orders = {
        tuple(shuffled([50], 50, *arguments))
        for arguments in [
            (0, 0),
            (1, 0),
            (0, 1),
            (-1, 0),
            (2**100, 0),
            (0, 0, (0, 1)),
            (0, 0, (1, 0)),
            (10, 0),
            (1, 1),
            (0, 10),
        ]
    }
    assert len(orders) == 10


def test_the_order_is_that_of_earlier_versions() -> None:
    # Every state that was ever saved relies on it.
    assert [int(record[2:]) for record in shuffled([12], 5, seed=7, epoch=3)] == [1, 0, 5, 3, 8, 4, 9, 6, 10, 2, 11, 7]
    assert shuffled([3000], 100)[-5:] == ["0/2824", "0/2953", "0/2843", "0/2802", "0/2983"]


def test_all_places_of_the_buffer_are_drawn_alike() -> None:
    num = 20_000
    lags = np.array([index - int(record[2:]) for index, record in enumerate(shuffled([num], 10)[:-10])])
    # A record waits for its draw with 1 chance in 10: the wait is geometric, of mean 10 and variance 90.
    waits = lags + 10
    assert abs(waits.mean() - 10) < 5 * (90 / num) ** 0.5
    assert abs(waits.var() - 90) < 10


@given(files=file_lists, size=st.integers(1, 10), seed=st.integers(0, 5), data=st.data())
def test_a_buffer_that_is_restored_goes_on_as_if_nothing_had_happened(
    files: list[int], size: int, seed: int, data: st.DataObject
) -> None:
    whole = shuffled(files, size, seed)
    taken = data.draw(st.integers(0, len(whole)))
    first = ShuffleBuffer[str](size, seed, 0, (0, 0))
    found = [record for _, record in islice(first.shuffle(stream(files)), taken)]
    state = json.loads(json.dumps(first.snapshot()))
    asked: list[Place] = []

    def read_again(places: Sequence[Place]) -> list[str]:
        asked.extend(places)
        return [f"{file}/{number}" for file, number in places]

    second = ShuffleBuffer[str](size, seed, 0, (0, 0))
    second.restore(state, read_again)
    assert asked == sorted(asked)
    assert second.snapshot() == state
    found += [record for _, record in second.shuffle(stream(files, second.next))]
    assert found == whole
    assert second.snapshot()["entries"] == []


def test_a_snapshot_says_what_was_yielded_and_nothing_more() -> None:
    buffer = ShuffleBuffer[str](3, 0, 0, (0, 0))
    assert buffer.snapshot() == {"size": 3, "drawn": 0, "entries": [], "next": [0, 0]}
    steps = buffer.shuffle(stream([2, 5]))
    place, _ = next(steps)
    state = buffer.snapshot()
    assert (state["drawn"], state["next"]) == (1, [1, 2])
    assert sorted([*map(tuple, state["entries"]), place]) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_the_buffer_keeps_no_record_that_it_gave_away() -> None:
    def source() -> Iterator[tuple[Place, np.ndarray[Any, Any]]]:
        for number in range(6):
            yield (0, number), np.array([number])

    buffer = ShuffleBuffer[np.ndarray[Any, Any]](2, 0, 0, (0, 0))
    steps = buffer.shuffle(source())
    for _ in range(6):
        seen = weakref.ref(next(steps)[1])
        assert seen() is None


GOOD = {"size": 3, "drawn": 1, "entries": [[0, 0], [1, 1]], "next": [1, 2]}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"size": 4}, "shuffle buffer of 4 records, and this one has 3"),
        ({"drawn": -1}, "drawn"),
        ({"drawn": "1"}, "drawn"),
        ({"drawn": True}, "drawn"),
        ({"drawn": 2**70}, "makes no sense"),
        ({"entries": [[0, 0], [0, 0]]}, "twice"),
        ({"entries": [[0, 0], [0, 1], [0, 2], [0, 3]]}, "room"),
        ({"entries": [[0, -1]]}, "makes no sense"),
        ({"entries": [[0, 0, 0]]}, "makes no sense"),
        ({"entries": None}, "makes no sense"),
        ({"next": [0, 1]}, "not read yet"),
        ({"next": [1]}, "makes no sense"),
        ({"more": 1}, "more"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused_before_anything_is_read(change: dict[str, Any], text: str) -> None:
    buffer = ShuffleBuffer[str](3, 0, 0, (0, 0))
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        buffer.restore({**GOOD, **change}, lambda places: pytest.fail("it was read"))
    for other in (None, [], "state", {}):
        with pytest.raises(ConfigurationError):
            buffer.restore(other, lambda places: pytest.fail("it was read"))
    buffer.restore(GOOD, lambda places: map(str, places))
    assert buffer.snapshot() == GOOD
