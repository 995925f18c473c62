"""What was wrong once: places, states and errors at the edges of the PyTorch data sets."""

from __future__ import annotations

import pickle
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import s3dlio
from s3dlio import ObjectStoreIterableDataset, ObjectStoreMapDataset
from tests.process.torch_kit import Corpus, raw, tfrecord

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it


@pytest.fixture
def forty(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path).fill(40, 200)


@pytest.fixture
def shards(tmp_path: Path) -> Corpus:
    """Four TFRecord files of ten records; a record says which of the forty it is."""
    corpus = Corpus(tmp_path)
    for shard in range(4):
        corpus.add(f"{shard}.tfrecord", tfrecord([bytes([10 * shard + number]) for number in range(10)]))
    return corpus


def numbers(samples: Any) -> list[int]:
    return [raw(sample)[0] for sample in samples]


def test_a_data_set_that_a_launcher_has_pickled_takes_the_place_of_the_rank_that_it_is_in(
    forty: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = pickle.dumps(ObjectStoreIterableDataset(forty.uri))
    found = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        dataset = pickle.loads(sent)  # noqa: TID251
        found.append(forty.positions(DataLoader(dataset, batch_size=None, num_workers=2)))
    assert [sorted(part) for part in found] == [list(range(0, 40, 2)), list(range(1, 40, 2))]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_c9_a_checkpoint_of_an_epochs_end_does_not_take_the_next_one_back(forty: Corpus, num_workers: int) -> None:
    def make() -> ObjectStoreIterableDataset:
        return ObjectStoreIterableDataset(forty.uri, shuffle=True, procs=0)

    def epoch_of(dataset: ObjectStoreIterableDataset, loader: Any, epoch: int) -> list[int]:
        dataset.set_epoch(epoch)
        return forty.positions(loader)

    dataset = make()
    loader: Any = StatefulDataLoader(dataset, batch_size=None, num_workers=num_workers)
    epoch_of(dataset, loader, 2)
    state = loader.state_dict()
    expected = epoch_of(dataset, loader, 3)

    resumed = make()
    other: Any = StatefulDataLoader(resumed, batch_size=None, num_workers=num_workers)
    other.load_state_dict(state)
    assert epoch_of(resumed, other, 3) == expected
    assert resumed.epoch == 3
    assert sorted(expected) == list(range(40))


def test_c9_a_loaded_state_is_for_one_iteration_whatever_number_of_workers_the_next_one_has(forty: Corpus) -> None:
    dataset = ObjectStoreIterableDataset(forty.uri, procs=0)
    before = iter(dataset)
    assert len([*islice(before, 25)]) == 25
    dataset.load_state_dict(dataset.state_dict())
    assert sorted(forty.positions(DataLoader(dataset, batch_size=None, num_workers=2))) == list(range(25, 40))
    again = forty.positions(DataLoader(dataset, batch_size=None, num_workers=1))
    assert sorted(again) == list(range(40))


@pytest.mark.parametrize("batch_size", [None, 3, 4])
def test_c9_shuffled_records_that_an_error_stopped_are_all_there_afterwards(
    shards: Corpus, batch_size: int | None
) -> None:
    calls = 0

    def fail_once(record: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 14:
            raise ArithmeticError("boom")
        return record

    arguments: dict[str, Any] = {"decode": "tfrecord", "shuffle": True, "shuffle_buffer": 7, "batch_size": batch_size}
    whole = ObjectStoreIterableDataset(shards.uri, procs=0, **arguments)
    expected = _flat(whole, batch_size)
    dataset = ObjectStoreIterableDataset(shards.uri, procs=0, transform=fail_once, **arguments)
    first: list[int] = []
    with pytest.raises(ArithmeticError, match="boom") as raised:
        first.extend(number for one in dataset for number in _flat([one], batch_size))
    assert any("while making a sample of file://" in note and ".tfrecord" in note for note in raised.value.__notes__)
    state = dataset.state_dict()
    resumed = ObjectStoreIterableDataset(shards.uri, procs=0, **arguments)
    resumed.load_state_dict(state)
    assert first + _flat(resumed, batch_size) == expected
    assert sorted(expected) == list(range(40))


def _flat(samples: Any, batch_size: int | None) -> list[int]:
    return numbers(samples) if batch_size is None else [number for batch in samples for number in numbers(batch)]


def test_c8_the_good_record_in_front_of_a_bad_one_is_delivered(shards: Corpus) -> None:
    data = bytearray(shards.files["0.tfrecord"])
    # A record of one byte is 17 bytes long; the byte itself stands behind the twelve of its head.
    data[5 * 17 + 12] ^= 1
    shards.add("0.tfrecord", bytes(data))
    dataset = ObjectStoreIterableDataset(shards.uri, decode="tfrecord", procs=0)
    seen: list[int] = []
    with pytest.raises(s3dlio.DecodeError, match="record 5 at byte 85"):
        seen.extend(raw(record)[0] for record in dataset)
    assert seen == [0, 1, 2, 3, 4]


def test_c9_a_state_beyond_the_end_of_a_file_is_refused(shards: Corpus) -> None:
    dataset = ObjectStoreIterableDataset(shards.uri, decode="tfrecord", procs=0)
    next(iter(dataset))
    state = dataset.state_dict()
    state["layers"][0]["ranks"]["0"][0]["delivered"]["0"]["position"] = {"next": [0, 999]}
    dataset.load_state_dict(state)
    with pytest.raises(s3dlio.DecodeError, match="stands before record 999, and the file has 10"):
        next(iter(dataset))


def test_a_reader_comes_out_of_a_data_loaders_worker(forty: Corpus) -> None:
    dataset = ObjectStoreIterableDataset(forty.uri, return_type="reader")
    assert forty.positions(DataLoader(dataset, batch_size=None, num_workers=1, timeout=30)) == list(range(40))
    reader = next(iter(ObjectStoreIterableDataset(forty.uri, return_type="reader", procs=0)))
    reader.seek(17)
    again = pickle.loads(pickle.dumps(reader))  # noqa: TID251
    assert (again.tell(), again.read()) == (17, forty.data[0][17:])


def test_what_a_decode_of_ones_own_cannot_read_is_skipped_and_what_a_transform_raises_is_not(forty: Corpus) -> None:
    bad = forty.data[7]

    def refuse(view: Any) -> Any:
        if bytes(view) == bad:
            raise ZeroDivisionError("odd pixels")
        return bytes(view)

    dataset = ObjectStoreIterableDataset(forty.uri, decode=refuse, on_error="skip", procs=0)
    assert forty.positions(dataset) == [*range(7), *range(8, 40)]
    assert [record["uri"] for record in dataset.skipped] == [forty.uris[7]]
    assert "odd pixels" in dataset.skipped[0]["error"]
    for kind in (ObjectStoreIterableDataset, ObjectStoreMapDataset):
        options: dict[str, Any] = {"on_error": "skip", "procs": 0} if kind is ObjectStoreIterableDataset else {}
        stopped: Any = kind(forty.uri, transform=lambda tensor: refuse(tensor.numpy()), **options)
        with pytest.raises(ZeroDivisionError) as raised:
            list(stopped) if options else stopped[7]
        assert forty.uris[7] in raised.value.__notes__[0]


def test_a_share_of_which_nothing_can_be_read_is_no_epoch(forty: Corpus) -> None:
    for name in forty.names:
        (forty.folder / name).write_bytes(b"changed")
    listed = ObjectStoreIterableDataset(forty.uri, decode="npy", on_error="skip", procs=0)
    with pytest.raises(s3dlio.DecodeError, match=forty.names[-1]):
        list(listed)
    assert len(listed.skipped) == 40


def test_stats_count_records_as_samples(shards: Corpus) -> None:
    dataset = ObjectStoreIterableDataset(shards.uri, decode="tfrecord", procs=0)
    assert len([*dataset]) == 40
    assert dataset.stats()["samples"] == 40


def test_a_batch_is_of_the_same_kind_whatever_memory_there_is(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path).fill(8, 1 << 20)
    dataset = ObjectStoreIterableDataset(corpus.uri, batch_size=8, memory_bytes="16MiB", procs=0)
    assert next(iter(dataset)).shape == (8, 1 << 20)
    small = ObjectStoreIterableDataset(corpus.uri, batch_size=8, memory_bytes="8MiB", procs=0)
    with pytest.raises(s3dlio.ConfigurationError, match="raise memory_bytes, or lower batch_size"):
        next(iter(small))


class Pair(NamedTuple):
    first: Any
    second: Any


def test_tuples_stay_what_they_are(forty: Corpus) -> None:
    dataset = ObjectStoreIterableDataset(forty.uri, decode=lambda view: Pair(view[:3], {"rest": view[3:]}), procs=0)
    sample = next(iter(dataset))
    assert type(sample) is Pair
    assert torch.equal(sample.first, torch.tensor([*forty.data[0][:3]], dtype=torch.uint8))
    assert raw(sample.second["rest"]) == forty.data[0][3:]


def test_numbers_of_numpy_are_numbers(forty: Corpus) -> None:
    dataset = ObjectStoreIterableDataset(forty.uri, seed=np.int64(3), batch_size=np.int64(5), shuffle=True, procs=0)
    dataset.set_epoch(np.int64(1))
    assert dataset.epoch == 1
    assert [len(batch) for batch in dataset] == [5] * 8
    samples = ObjectStoreMapDataset(forty.uri)
    assert forty.positions([samples[np.int64(-1)]]) == [39]
    for index in (1.7, "x", slice(1, 3)):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            samples[index]  # type: ignore[call-overload, index]
    with pytest.raises(s3dlio.ConfigurationError, match="loader_opts is a dict"):
        ObjectStoreMapDataset(forty.uri, loader_opts=[1])  # type: ignore[arg-type]
    with pytest.raises(s3dlio.ConfigurationError, match="enable_sharding is not an argument"):
        ObjectStoreMapDataset(forty.uri, enable_sharding=False)
