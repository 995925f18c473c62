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
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import s3dlio
from s3dlio import ObjectStoreIterableDataset
from tests.process.torch_kit import TEN_SHUFFLED, Corpus, cut, dealt, flat
from tests.support.processes import ScriptProcess

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


def test_c9_merged_states_go_on_in_the_workers_of_loaders_and_back(ten: Corpus) -> None:
    olds = ranks(ten, 2, "drop")
    seen = flat(ten.positions(take(old, 2)) for old in olds)
    merged = s3dlio.merge_states(old.state_dict() for old in olds)
    snapshots, more = [], []
    for new in ranks(ten, 3, "pad", batch_size=1):
        new.load_state_dict(merged)
        loader: Any = StatefulDataLoader(new, batch_size=None, num_workers=2)
        iterator = iter(loader)
        more += flat(ten.batches(islice(iterator, 1)))
        snapshots += list(states_in(loader.state_dict()))
        list(iterator)
    assert len(snapshots) == 6
    last = make(ten)
    last.load_state_dict(s3dlio.merge_states(snapshots))
    rest = ten.positions(last)
    assert sorted(seen + more + rest) == list(range(10))


def states_in(nested: Any) -> Iterable[dict[str, Any]]:
    """Yields the states of our data sets that lie somewhere in the state of a loader."""
    if isinstance(nested, dict) and "layers" in nested:
        yield nested
    elif isinstance(nested, dict):
        for value in nested.values():
            yield from states_in(value)


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


# Loaders.


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_c9_a_stateful_loader_goes_on_at_any_batch(ten: Corpus, num_workers: int, batch_size: int | None) -> None:
    arguments: dict[str, Any] = {"batch_size": 2 if batch_size is None else None, "num_workers": num_workers}

    def load() -> Any:
        dataset = make(ten, batch_size=batch_size)
        dataset.set_epoch(1)
        return StatefulDataLoader(dataset, **arguments)

    whole = ten.batches(load())
    assert sorted(flat(whole)) == list(range(10))
    for num in (0, 1, 3, len(whole)):
        loader = load()
        iterator = iter(loader)
        assert ten.batches(islice(iterator, num)) == whole[:num]
        state = loader.state_dict()
        list(iterator)
        other = load()
        other.load_state_dict(state)
        assert ten.batches(other) == whole[num:]
        # The next epoch is whole again.
        assert ten.batches(other) == whole


@pytest.mark.parametrize("arguments", [{"num_workers": 0}, {"num_workers": 2, "persistent_workers": True}])
@pytest.mark.parametrize("num", [0, 1])
def test_c9_the_beginning_of_a_second_epoch_is_not_taken_for_the_end_of_the_first(
    ten: Corpus, arguments: dict[str, Any], num: int
) -> None:
    loader: Any = StatefulDataLoader(make(ten, batch_size=2), batch_size=None, **arguments)
    whole = cut(TEN_SHUFFLED[0, 0], 2)
    assert ten.batches(loader) == whole
    iterator = iter(loader)
    assert ten.batches(islice(iterator, num)) == whole[:num]
    state = loader.state_dict()
    assert ten.batches(iterator) == whole[num:]
    other: Any = StatefulDataLoader(make(ten, batch_size=2), batch_size=None, **arguments)
    other.load_state_dict(state)
    assert ten.batches(other) == whole[num:]
    for one in (loader, other):
        if arguments["num_workers"]:
            one._iterator._shutdown_workers()


RESUMED = """
import sys
from torchdata.stateful_dataloader import StatefulDataLoader
from s3dlio import ObjectStoreIterableDataset
from tests.process.torch_kit import raw
import json
dataset = ObjectStoreIterableDataset(sys.argv[1], shuffle=True, batch_size=2)
loader = StatefulDataLoader(dataset, batch_size=None, num_workers=2)
loader.load_state_dict(json.loads(sys.argv[2]))
print([raw(row)[0] for batch in loader for row in batch], dataset.epoch, flush=True)
"""


def test_c9_a_stateful_loader_goes_on_in_another_process(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    for number in range(10):
        corpus.add(f"{number}.bin", bytes([number]) * 50)
    loader: Any = StatefulDataLoader(make(corpus, batch_size=2), batch_size=None, num_workers=2)
    iterator = iter(loader)
    assert flat(corpus.batches(islice(iterator, 3))) == TEN_SHUFFLED[0, 0][:6]
    with ScriptProcess(RESUMED, [corpus.uri, json.dumps(loader.state_dict())]) as program:
        assert program.read_line(60) == f"{TEN_SHUFFLED[0, 0][6:]} 0"
        assert program.wait() == 0
    list(iterator)


def test_c9_the_parent_of_a_plain_loaders_workers_knows_no_state_and_says_who_does(ten: Corpus) -> None:
    dataset = make(ten, batch_size=3)
    list(DataLoader(dataset, batch_size=None, num_workers=1))
    with pytest.raises(s3dlio.ConfigurationError, match=r"StatefulDataLoader"):
        dataset.state_dict()
    take(dataset, 2)
    state = dataset.state_dict()
    other = make(ten, batch_size=3)
    other.load_state_dict(state)
    assert ten.batches(other) == cut(TEN_SHUFFLED[0, 0][6:], 3)


@pytest.mark.parametrize("keeps", [False, True])
def test_c9_a_loaded_state_holds_for_one_epoch_of_a_plain_loader(ten: Corpus, keeps: bool) -> None:
    dataset = make(ten, batch_size=1)
    take(dataset, 3)
    state = dataset.state_dict()
    resumed = make(ten, batch_size=1)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    loader: Any = DataLoader(resumed, batch_size=None, num_workers=2, persistent_workers=keeps)
    left = TEN_SHUFFLED[0, 0][3:]
    assert flat(ten.batches(loader)) == left
    for _ in range(2):
        assert flat(ten.batches(loader)) == TEN_SHUFFLED[0, 0]
    resumed.load_state_dict(state)
    if keeps:
        with pytest.raises(s3dlio.ConfigurationError, match="before the first iteration"):
            next(iter(loader))
        loader._iterator._shutdown_workers()
    else:
        assert flat(ten.batches(loader)) == left
    assert flat(ten.batches(make(ten, batch_size=1))) == flat(dealt(TEN_SHUFFLED[0, 0], 1))
