"""Orders, parts and shares against what they promise, counted by sets: every position once, equal parts, the same on every machine."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Philox

from s3dlio.datasets import order
from s3dlio.datasets.order import (
    Layout,
    Positions,
    Share,
    Tail,
    epoch_order,
    num_units,
    omitted,
    rank_part,
    repeated,
)
from s3dlio.engine.errors import ConfigurationError

nums = st.integers(0, 60) | st.integers(60, 300)
worlds = st.integers(1, 9) | st.integers(10, 70)
tails = st.sampled_from(["uneven", "pad", "drop"])
seeds = st.integers(-5, 5) | st.integers()
layouts = st.builds(
    Layout,
    world_size=worlds,
    num_workers=st.integers(1, 5),
    batch_size=st.none() | st.integers(1, 9) | st.integers(10, 400),
    drop_last=st.booleans(),
    tail=tails,
)


def shares_of(sequence: Positions, layout: Layout, rank: int) -> list[Share]:
    return [Share(sequence, layout, rank, worker) for worker in range(layout.num_workers)]


def units_of(share: Share) -> list[list[int]]:
    return [share.unit(index).tolist() for index in range(len(share))]


def delivered(sequence: Positions, layout: Layout) -> Counter[int]:
    shares = (share for rank in range(layout.world_size) for share in shares_of(sequence, layout, rank))
    return Counter(chain.from_iterable(share.samples().tolist() for share in shares))


# The order of an epoch.


def test_c10_the_order_of_an_epoch_is_the_same_in_every_version() -> None:
    # A change here means that a resumed run delivers samples twice and never: it needs another version of the state.
    assert epoch_order(10, seed=0, epoch=0).tolist() == [3, 7, 6, 9, 2, 0, 5, 4, 1, 8]
    assert epoch_order(10, seed=0, epoch=1).tolist() == [7, 0, 9, 5, 8, 6, 4, 3, 2, 1]
    assert epoch_order(10, seed=-3, epoch=0).tolist() == [3, 8, 6, 7, 2, 5, 9, 1, 0, 4]
    assert epoch_order(7, seed=2**100, epoch=3).tolist() == [1, 0, 3, 4, 6, 2, 5]
    assert epoch_order(100_000, seed=1234, epoch=5)[:5].tolist() == [37763, 71865, 97211, 43724, 54171]


@given(num=nums, key=st.binary(min_size=16, max_size=16))
def test_c10_positions_are_sorted_by_the_upper_bits_of_their_random_numbers(num: int, key: bytes) -> None:
    with mock.patch.object(order, "blake2b", return_value=SimpleNamespace(digest=lambda: key)):
        found = epoch_order(num, 0, 0).tolist()
    numbers = Philox(key=np.frombuffer(key, "<u8")).random_raw(num).tolist()
    assert found == sorted(range(num), key=lambda position: numbers[position] >> max(num - 1, 0).bit_length())


@given(num=nums, seed=seeds, epoch=st.integers(0, 2**70))
def test_c10_an_order_is_a_permutation_that_only_seed_and_epoch_decide(num: int, seed: int, epoch: int) -> None:
    found = epoch_order(num, seed, epoch)
    assert found.dtype == np.uint32
    assert sorted(found.tolist()) == list(range(num))
    assert found.tolist() == epoch_order(num, seed, epoch).tolist()


@given(seed=seeds, other=seeds, epoch=st.integers(0, 100), later=st.integers(0, 100))
def test_another_seed_or_another_epoch_gives_another_order(seed: int, other: int, epoch: int, later: int) -> None:
    is_same = (seed, epoch) == (other, later)
    assert np.array_equal(epoch_order(100, seed, epoch), epoch_order(100, other, later)) == is_same


@given(num=nums, seed=seeds, epoch=st.integers(0, 5))
def test_without_shuffling_the_order_is_that_of_the_listing(num: int, seed: int, epoch: int) -> None:
    assert epoch_order(num, seed, epoch, shuffle=False).tolist() == list(range(num))


def test_every_place_is_as_likely_as_any_other() -> None:
    # 20 000 orders of 5: each position is 4 000 times at each place, give or take 5 standard deviations of 57.
    places = np.zeros((5, 5), np.int64)
    for epoch in range(20_000):
        places[np.arange(5), epoch_order(5, 0, epoch)] += 1
    assert np.all(np.abs(places - 4000) < 5 * 57)


def test_numbers_may_have_more_digits_than_python_prints() -> None:
    assert sorted(epoch_order(10, 10**5000, -(10**5000)).tolist()) == list(range(10))


# Parts of ranks.


@given(num=nums, layout=layouts)
def test_a_part_is_every_nth_sample(num: int, layout: Layout) -> None:
    sequence = epoch_order(num, 0, 0)
    for rank in range(layout.world_size):
        part = rank_part(sequence, layout, rank).tolist()
        expected = sequence.tolist()[rank :: layout.world_size]
        assert part[: len(expected)] == expected[: len(part)]
        assert abs(len(part) - len(expected)) <= (layout.tail != "uneven")


@given(num=nums, world_size=worlds, tail=st.sampled_from(["pad", "drop"]))
def test_padded_and_cut_parts_are_equal(num: int, world_size: int, tail: Tail) -> None:
    layout = Layout(world_size, tail=tail)
    lengths = {len(rank_part(epoch_order(num, 0, 0), layout, rank)) for rank in range(world_size)}
    assert lengths == {-(-num // world_size) if tail == "pad" else num // world_size}


@given(layout=layouts)
def test_of_nothing_everyone_gets_nothing(layout: Layout) -> None:
    nothing = epoch_order(0, 0, 0)
    assert not delivered(nothing, layout)
    assert not len(repeated(nothing, layout))
    assert not len(omitted(nothing, layout))


def test_a_sequence_begins_again_until_all_ranks_have_one() -> None:
    layout = Layout(8, tail="pad")
    sequence = epoch_order(3, 0, 0, shuffle=False)
    assert [rank_part(sequence, layout, rank).tolist() for rank in range(8)] == [[0], [1], [2], [0], [1], [2], [0], [1]]
    assert repeated(sequence, layout).tolist() == [0, 1, 2, 0, 1]


# Shares of workers.


@given(num=nums, layout=layouts)
def test_uneven_shares_have_each_object_exactly_once_over_ranks_and_workers(num: int, layout: Layout) -> None:
    layout = Layout(layout.world_size, layout.num_workers, layout.batch_size)
    assert delivered(epoch_order(num, 3, 1), layout) == Counter(range(num))


@given(num=nums, layout=layouts)
def test_what_is_repeated_or_omitted_is_said(num: int, layout: Layout) -> None:
    sequence = epoch_order(num, 3, 1)
    again, never = Counter(repeated(sequence, layout).tolist()), Counter(omitted(sequence, layout).tolist())
    assert not (again and never)
    found = delivered(sequence, layout)
    assert found == Counter(range(num)) + again - never
    assert len(never) == num - len(found)
    if layout.tail != "pad":
        assert not again
    if layout.tail != "drop" and not (layout.drop_last and layout.batch_size):
        assert not never


@given(num=nums, layout=layouts)
def test_what_is_omitted_stands_in_the_order_of_the_sequence_and_is_little(num: int, layout: Layout) -> None:
    sequence = epoch_order(num, 3, 1).tolist()
    never = omitted(np.array(sequence, np.uint32), layout).tolist()
    places = [sequence.index(position) for position in never]
    assert places == sorted(places)
    of_batches = (layout.batch_size or 1) - 1 if layout.drop_last else 0
    assert len(never) <= (layout.world_size - 1) * (layout.tail == "drop") + layout.world_size * of_batches


@given(num=nums, layout=layouts)
def test_c10_workers_take_the_batches_of_their_rank_in_turn(num: int, layout: Layout) -> None:
    sequence = epoch_order(num, 3, 1)
    size = layout.batch_size or 1
    for rank in range(min(layout.world_size, 12)):
        part = rank_part(sequence, layout, rank).tolist()
        batches = [part[at : at + size] for at in range(0, len(part), size)]
        if layout.drop_last and batches and len(batches[-1]) < size:
            batches.pop()
        shares = shares_of(sequence, layout, rank)
        assert [units_of(share) for share in shares] == [batches[w :: layout.num_workers] for w in range(len(shares))]
        assert num_units(num, layout, rank) == len(batches) == sum(map(len, shares))


@given(num=nums, layout=layouts, data=st.data())
def test_samples_are_those_of_the_units_one_after_another(num: int, layout: Layout, data: st.DataObject) -> None:
    rank, worker = data.draw(st.integers(0, layout.world_size - 1)), data.draw(st.integers(0, layout.num_workers - 1))
    share = Share(epoch_order(num, 3, 1), layout, rank, worker)
    units = units_of(share)
    flat = list(chain.from_iterable(units))
    assert share.num_samples == len(flat)
    start, stop = data.draw(st.integers(0, len(flat) + 3)), data.draw(st.none() | st.integers(0, len(flat) + 3))
    assert share.samples(start, stop).tolist() == flat[start:stop]
    ends = [0, *np.cumsum([len(unit) for unit in units]).tolist()]
    for end in range(len(flat) + 2):
        if end in ends:
            assert share.units_in(end) == ends.index(end)
        else:
            with pytest.raises(ConfigurationError, match="more than the" if end > len(flat) else "within a batch"):
                share.units_in(end)


def test_a_unit_that_is_not_there_is_no_other_one() -> None:
    share = Share(epoch_order(5, 0, 0), Layout(1, batch_size=2), 0, 0)
    for index in (-1, 3):
        with pytest.raises(IndexError):
            share.unit(index)


def test_units_and_samples_are_views_of_the_order() -> None:
    sequence = epoch_order(1000, 0, 0)
    share = Share(sequence, Layout(2, 3, 8), 1, 2)
    assert all(np.shares_memory(share.unit(index), sequence) for index in range(len(share)))
    assert np.shares_memory(Share(sequence, Layout(2, 3), 1, 2).samples(5), sequence)


@pytest.mark.parametrize("huge", [2**31, 2**64, 10**30])
def test_numbers_beyond_all_reason_share_as_any_others(huge: int) -> None:
    sequence = epoch_order(10, 0, 0)
    assert Share(sequence, Layout(1, batch_size=huge), 0, 0).samples().tolist() == sequence.tolist()
    assert not len(Share(sequence, Layout(1, batch_size=huge, drop_last=True), 0, 0))
    assert not len(Share(sequence, Layout(1, num_workers=huge), 0, huge - 1))
    assert not len(Share(sequence, Layout(huge), huge - 1, 0))
    assert len(Share(sequence, Layout(huge, tail="pad"), huge - 1, 0)) == 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"world_size": 0}, "world_size is at least 1, not 0"),
        ({"num_workers": -1}, "num_workers is at least 1, not -1"),
        ({"batch_size": 0}, "batch_size is at least 1, not 0"),
        ({"tail": "even"}, "tail is one of uneven, pad, drop, not 'even'"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Layout(**{"world_size": 1, **wrong})  # type: ignore[arg-type]
