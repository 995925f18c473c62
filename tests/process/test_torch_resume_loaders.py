"""States of data sets in the loaders of torch and torchdata: exact to the sample, whatever process iterates (C9)."""

from __future__ import annotations

import json
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


def test_c9_merged_states_go_on_in_the_workers_of_loaders_and_back(ten: Corpus) -> None:
    olds = [make(ten, rank=rank, world_size=2, tail="drop") for rank in range(2)]
    seen = flat(ten.positions(take(old, 2)) for old in olds)
    merged = s3dlio.merge_states(old.state_dict() for old in olds)
    snapshots, more = [], []
    for rank in range(3):
        new = make(ten, rank=rank, world_size=3, tail="pad", batch_size=1)
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
