"""States of `ObjectStoreIterableDataset`: exact to the sample, for any world, and refused where they do not fit (C9)."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio import ObjectStoreIterableDataset
from tests.process.torch_kit import TEN_SHUFFLED, Corpus, cut, flat

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it


@pytest.fixture
def ten(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path).fill(10)


def make(corpus: Corpus, **arguments: Any) -> ObjectStoreIterableDataset:
    return ObjectStoreIterableDataset(corpus.uri, **{"shuffle": True, "procs": 0, **arguments})


def take(dataset: Iterable[Any], num: int) -> list[Any]:
    """Returns the first `num` units, and asks for no more."""
    return list(islice(dataset, num))


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(state))
    assert found == state
    return found


# The same layout.


@pytest.mark.parametrize("num", range(11))
def test_c9_a_state_goes_on_at_any_sample(ten: Corpus, num: int) -> None:
    dataset = make(ten)
    dataset.set_epoch(1)
    assert ten.positions(take(dataset, num)) == TEN_SHUFFLED[0, 1][:num]
    state = through_json(dataset.state_dict())
    other = make(ten)
    other.load_state_dict(state)
    assert other.epoch == 1
    assert other.state_dict() == state
    assert ten.positions(other) == TEN_SHUFFLED[0, 1][num:]
    # What was loaded held for that one iteration.
    assert ten.positions(other) == TEN_SHUFFLED[0, 1]
    other.set_epoch(0)
    assert ten.positions(other) == TEN_SHUFFLED[0, 0]


@pytest.mark.parametrize("num", range(5))
def test_c9_a_state_goes_on_at_any_batch_and_counts_nothing_that_was_only_fetched_ahead(ten: Corpus, num: int) -> None:
    batches = cut(TEN_SHUFFLED[0, 0], 3)
    dataset = make(ten, batch_size=3, procs=1)
    iterator = iter(dataset)
    assert ten.batches(islice(iterator, num)) == batches[:num]
    state = through_json(dataset.state_dict())
    other = make(ten, batch_size=3)
    other.load_state_dict(state)
    assert ten.batches(other) == batches[num:]
    assert ten.batches(iterator) == batches[num:]


def test_c9_a_state_may_be_taken_of_a_resumed_run_again_and_again(ten: Corpus) -> None:
    state, found = make(ten).state_dict(), []
    for _ in range(10):
        dataset = make(ten)
        dataset.load_state_dict(state)
        found += take(dataset, 1)
        state = through_json(dataset.state_dict())
    assert ten.positions(found) == TEN_SHUFFLED[0, 0]


def test_c9_an_epoch_that_has_ended_has_nothing_left_until_another_is_set(ten: Corpus) -> None:
    dataset = make(ten, batch_size=4)
    assert len(list(dataset)) == 3
    other = make(ten, batch_size=4)
    other.load_state_dict(dataset.state_dict())
    other.set_epoch(0)  # the same one: a training loop says so before each iteration
    assert list(other) == []
    other.set_epoch(1)
    assert ten.batches(other) == cut(TEN_SHUFFLED[0, 1], 4)


def test_c9_a_state_is_the_callers_own(ten: Corpus) -> None:
    dataset = make(ten)
    take(dataset, 4)
    state = dataset.state_dict()
    before = copy.deepcopy(state)
    other = make(ten)
    other.load_state_dict(state)
    take(other, 2)
    take(dataset, 1)
    assert state == before


def test_c9_an_iteration_that_was_begun_and_not_asked_yet_stands_at_its_beginning(ten: Corpus) -> None:
    dataset = make(ten, batch_size=4)
    assert len(list(dataset)) == 3
    iterator = iter(dataset)
    other = make(ten, batch_size=4)
    other.load_state_dict(dataset.state_dict())
    dataset.set_epoch(1)
    assert ten.batches(iterator) == ten.batches(other) == cut(TEN_SHUFFLED[0, 0], 4)


def test_c9_another_batch_size_goes_on_with_the_samples_that_are_left(ten: Corpus) -> None:
    dataset = make(ten, batch_size=3)
    take(dataset, 2)
    other = make(ten, batch_size=2)
    other.load_state_dict(dataset.state_dict())
    assert ten.batches(other) == cut(TEN_SHUFFLED[0, 0][6:], 2)


# Another world.


def ranks(corpus: Corpus, world_size: int, tail: str = "uneven", **arguments: Any) -> list[ObjectStoreIterableDataset]:
    return [make(corpus, rank=rank, world_size=world_size, tail=tail, **arguments) for rank in range(world_size)]


@pytest.mark.filterwarnings("ignore:10 samples cannot be shared out evenly")
@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 1), (3, 2), (4, 4), (2, 5)])
def test_c9_merged_states_of_all_ranks_go_on_in_any_world(ten: Corpus, before: int, after: int) -> None:
    for counts in ([0] * 5, [1, 0, 2, 1, 0], [2] * 5, [9] * 5):
        olds = ranks(ten, before)
        seen = Counter(ten.positions(flat(take(old, num) for old, num in zip(olds, counts, strict=False))))
        merged = through_json(s3dlio.merge_states(old.state_dict() for old in reversed(olds)))
        for new in ranks(ten, after, batch_size=2):
            new.load_state_dict(merged)
            seen.update(flat(ten.batches(new)))
        assert seen == Counter(range(10))


def test_c9_a_state_that_lacks_ranks_names_them(ten: Corpus) -> None:
    olds = ranks(ten, 4, "pad")
    for old in olds:
        take(old, 1)
    new = make(ten)
    new.load_state_dict(s3dlio.merge_states(olds[number].state_dict() for number in (0, 2)))
    with pytest.raises(s3dlio.ConfigurationError, match=r"ranks 1, 3.*merge_states"):
        next(iter(new))
    again = make(ten, rank=2, world_size=4, tail="pad")
    again.load_state_dict(olds[2].state_dict())
    assert len(list(again)) == 2


# States that do not fit.


def test_c9_a_state_of_something_else_is_refused_with_both_named(
    ten: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dataset = make(ten)
    take(dataset, 2)
    state = dataset.state_dict()
    elsewhere = Corpus(tmp_path_factory.mktemp("other")).fill(10)
    (longer := Corpus(tmp_path_factory.mktemp("longer"))).fill(11)
    for other, text in (
        (make(ten, seed=5), r"seed.*\b0\b.*\b5\b|seed.*\b5\b.*\b0\b"),
        (make(ten, shuffle=False), "shuffle"),
        (make(elsewhere), f"{ten.uri}.*{elsewhere.uri}|{elsewhere.uri}.*{ten.uri}"),
        (make(longer), f"{ten.uri}.*{longer.uri}|{longer.uri}.*{ten.uri}"),
        (make(ten, decode="tfrecord"), "tfrecord"),
    ):
        fresh = other.state_dict()
        with pytest.raises(s3dlio.ConfigurationError, match=text):
            other.load_state_dict(state)
        assert other.state_dict() == fresh
    ten.add("0003.bin", b"changed")
    with pytest.raises(s3dlio.ConfigurationError, match="listing"):
        make(ten).load_state_dict(state)


def test_c9_what_is_no_state_is_refused(ten: Corpus) -> None:
    dataset = make(ten)
    take(dataset, 2)
    state = dataset.state_dict()
    [(_, count)] = state["layers"][0]["ranks"]["0"][0]["delivered"].items()
    count["samples"] = 11
    for wrong in (
        None,
        {},
        [],
        "state",
        {**dataset.state_dict(), "version": 99},
        {**dataset.state_dict(), "epoch": -1},
        state,
    ):
        with pytest.raises(s3dlio.ConfigurationError):
            make(ten).load_state_dict(wrong)  # type: ignore[arg-type]
    with pytest.raises(s3dlio.ConfigurationError):
        s3dlio.merge_states([])
