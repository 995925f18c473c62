"""The data sets in the workers of a torch `DataLoader`: forked, spawned, kept from epoch to epoch; and what they share with the parent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

import s3dlio
from s3dlio import ObjectStoreIterableDataset, ObjectStoreMapDataset
from tests.process.kit import Bucket, wait_until
from tests.process.torch_kit import TEN_SHUFFLED, Corpus, cut, dealt, flat, mark_process, part_of, raw
from tests.support.processes import ScriptProcess

KIB = 1 << 10


@pytest.fixture
def ten(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path).fill(10)


@contextmanager
def ended(loader: Any) -> Iterator[Any]:
    """Ends the workers that a loader keeps: those of a test that has failed would run on."""
    try:
        yield loader
    finally:
        iterator, loader._iterator = loader._iterator, None
        if iterator is not None:
            iterator._shutdown_workers()


# Who gets what.


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_c10_batches_of_the_data_set_come_in_the_same_order_for_any_number_of_workers(
    ten: Corpus, num_workers: int
) -> None:
    for drop_last in (False, True):
        dataset = ObjectStoreIterableDataset(ten.uri, shuffle=True, batch_size=3, drop_last=drop_last, procs=0)
        loader: Any = DataLoader(dataset, batch_size=None, num_workers=num_workers)
        batches = cut(TEN_SHUFFLED[0, 0], 3, drop_last=drop_last)
        assert len(loader) == len(dataset) == len(batches)
        found = list(loader)
        assert ten.batches(found) == batches
        assert all(batch.dtype == torch.uint8 and batch.is_contiguous() for batch in found)


def test_samples_are_dealt_to_the_workers_in_turn_where_the_loader_makes_the_batches(ten: Corpus) -> None:
    dataset = ObjectStoreIterableDataset(ten.uri, shuffle=True, transform=mark_process)
    found = list(DataLoader(dataset, batch_size=2, num_workers=2))
    first, second = dealt(TEN_SHUFFLED[0, 0], 2)
    expected = [batch for pair in zip(cut(first, 2), cut(second, 2), strict=True) for batch in pair]
    assert [ten.positions(samples) for samples, _ in found] == expected
    pids = [set(pids.tolist()) for _, pids in found]
    assert pids[0::2] == [pids[0]] * 3
    assert pids[1::2] == [pids[1]] * 3
    assert pids[0] != pids[1]
    assert os.getpid() not in pids[0] | pids[1]


@pytest.mark.parametrize("tail", ["pad", "drop"])
def test_ranks_and_workers_share_the_samples_between_them(ten: Corpus, tail: Any) -> None:
    seen: list[int] = []
    for rank in range(3):
        dataset = ObjectStoreIterableDataset(
            ten.uri, shuffle=True, batch_size=2, rank=rank, world_size=3, tail=tail, procs=0
        )
        found = ten.batches(DataLoader(dataset, batch_size=None, num_workers=2))
        assert found == cut(part_of(TEN_SHUFFLED[0, 0], rank, 3, tail), 2)
        seen.extend(flat(found))
    assert len(seen) == (12 if tail == "pad" else 9)


def test_more_workers_than_samples_leave_some_with_nothing(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path).fill(1)
    loader: Any = DataLoader(ObjectStoreIterableDataset(corpus.uri, batch_size=4), batch_size=None, num_workers=2)
    assert corpus.batches(loader) == [[0]]


def test_the_workers_divide_the_memory(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path).fill(24, 100 * KIB)
    dataset = ObjectStoreIterableDataset(corpus.uri, batch_size=4, memory_bytes="2MiB")
    assert flat(corpus.batches(DataLoader(dataset, batch_size=None, num_workers=2))) == list(range(24))


# Epochs.


def test_set_epoch_reaches_workers_that_stay(ten: Corpus) -> None:
    dataset = ObjectStoreIterableDataset(ten.uri, shuffle=True, batch_size=3)
    with ended(DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)) as loader:
        for epoch in (0, 0, 1, 1, 0):
            dataset.set_epoch(epoch)
            assert dataset.epoch == epoch
            assert ten.batches(loader) == cut(TEN_SHUFFLED[0, epoch], 3)
        assert ten.batches(loader) == cut(TEN_SHUFFLED[0, 0], 3)
        # The parent's own iteration is of the same epoch.
        dataset.set_epoch(1)
        assert ten.batches(dataset) == cut(TEN_SHUFFLED[0, 1], 3)
        dataset.close()


def test_p8_a_break_in_the_middle_and_another_epoch_of_the_same_workers(ten: Corpus) -> None:
    dataset = ObjectStoreIterableDataset(ten.uri, shuffle=True, batch_size=1)
    with ended(DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)) as loader:
        for stop in (1, 4):
            for number, _ in enumerate(loader):
                if number == stop:
                    break
            assert flat(ten.batches(loader)) == TEN_SHUFFLED[0, 0]


STARTED = """
import os, sys
from torch.utils.data import DataLoader
from s3dlio import ObjectStoreIterableDataset, ObjectStoreMapDataset
from tests.process.torch_kit import mark_process, raw
method, uri = sys.argv[1:]
def numbers(samples):
    return [raw(sample)[0] for sample in samples]
arguments = {"num_workers": 1, "multiprocessing_context": method, "persistent_workers": True}
dataset = ObjectStoreIterableDataset(uri, shuffle=True, batch_size=3, on_error="skip", transform=mark_process)
os.unlink(os.path.join(uri.removeprefix("file://"), "0004.bin"))
loader = DataLoader(dataset, batch_size=None, **arguments)
for epoch in (1, 0):
    dataset.set_epoch(epoch)
    found = list(loader)
    print([numbers(samples) for samples, _ in found], flush=True)
    assert all(os.getpid() not in pids.tolist() for _, pids in found)
print([os.path.basename(record["uri"]) for record in dataset.skipped], flush=True)
os.unlink(os.path.join(uri.removeprefix("file://"), "0003.bin"))
dataset = ObjectStoreMapDataset(uri, transform=mark_process)
loader = DataLoader(dataset, batch_size=4, **arguments)
found = list(loader)
print([numbers(samples) for samples, _ in found], flush=True)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_started_workers_share_epoch_listing_and_what_was_skipped(tmp_path: Path, method: str) -> None:
    corpus = Corpus(tmp_path)
    for number in range(10):
        corpus.add(f"{number:04d}.bin", bytes([number]) * 100)
    with ScriptProcess(STARTED, [method, corpus.uri]) as program:
        for epoch in (1, 0):
            kept = [[number for number in batch if number != 4] for batch in cut(TEN_SHUFFLED[0, epoch], 3)]
            assert json.loads(program.read_line(60)) == [batch for batch in kept if batch]
        assert program.read_line() == "['0004.bin', '0004.bin']"
        assert json.loads(program.read_line()) == [[0, 1, 2, 5], [6, 7, 8, 9]]
        assert program.wait() == 0
        wait_until(lambda: not program.descendants(), "the fork server and the resource tracker have ended too")


# Errors and skips.


def test_an_error_comes_out_of_a_worker_at_its_place_with_its_uri(bucket: Bucket) -> None:
    uris = bucket.fill(8, 100)
    del bucket.server.objects[bucket.path("o0004")]
    pinned: list[Any] = [s3dlio.ObjectRef(uri, 100, None) for uri in uris]
    for wanted in (pinned, uris):
        iterator = iter(DataLoader(ObjectStoreIterableDataset(wanted, batch_size=2), batch_size=None, num_workers=2))
        assert [raw(row) for _ in range(2) for row in next(iterator)] == [bucket.data(uri) for uri in uris[:4]]
        with pytest.raises(FileNotFoundError, match="s3://bucket/o0004"):
            next(iterator)
        # The other worker goes on: what it has is not lost by that.
        assert [raw(row) for batch in iterator for row in batch] == [bucket.data(uri) for uri in uris[6:]]


def test_samples_that_workers_skip_are_recorded_in_the_parent(bucket: Bucket) -> None:
    uris = bucket.fill(9, 100)
    missing = [1, 4, 5]
    for number in missing:
        del bucket.server.objects[bucket.path(f"o{number:04d}")]
    pinned: list[Any] = [s3dlio.ObjectRef(uri, 100, None) for uri in uris]
    for wanted in (pinned, uris):
        dataset = ObjectStoreIterableDataset(wanted, batch_size=3, on_error="skip")
        found = [raw(row) for batch in DataLoader(dataset, batch_size=None, num_workers=2) for row in batch]
        assert found == [bucket.data(uri) for number, uri in enumerate(uris) if number not in missing]
        assert sorted(record["uri"] for record in dataset.skipped) == [uris[number] for number in missing]


# P11: what cannot be pickled.


def test_p11_what_cannot_be_pickled_is_named_when_it_has_to_be_and_not_before(ten: Corpus) -> None:
    def local(sample: Any) -> int:
        return len(sample)

    kinds = [ObjectStoreIterableDataset, ObjectStoreMapDataset]
    for kind, argument in ((kind, argument) for kind in kinds for argument in ("transform", "decode")):
        dataset: Any = kind(ten.uri, **{argument: local})
        assert [sample for batch in DataLoader(dataset, batch_size=5, num_workers=1) for sample in batch.tolist()] == [
            1000
        ] * 10
        spawning: Any = DataLoader(dataset, batch_size=5, num_workers=1, multiprocessing_context="spawn")
        with pytest.raises(
            s3dlio.ConfigurationError, match=rf"{argument}=.*local cannot be pickled.*function or class of a module"
        ):
            iter(spawning)
        nameless: Any = kind(ten.uri, **{argument: lambda sample: sample})
        with pytest.raises(s3dlio.ConfigurationError, match=rf"{argument}=.*<lambda> cannot be pickled"):
            iter(DataLoader(nameless, num_workers=1, multiprocessing_context="spawn"))
        assert isinstance(repr(nameless), str)


# Map data sets.


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_map_data_set_is_read_in_any_order_by_any_number_of_workers(ten: Corpus, num_workers: int) -> None:
    dataset = ObjectStoreMapDataset(ten.uri)
    assert ten.positions([dataset[3]]) == [3]  # so that this process has connections and memory to inherit
    arguments: dict[str, Any] = {"batch_size": 4, "num_workers": num_workers}
    assert ten.batches(DataLoader(dataset, **arguments)) == cut(range(10), 4)
    shuffled = list(DataLoader(dataset, shuffle=True, **arguments))
    assert sorted(flat(ten.batches(shuffled))) == list(range(10))
    assert [len(batch) for batch in shuffled] == [4, 4, 2]
    sampler = DistributedSampler(dataset, 2, 1, seed=3)
    assert flat(ten.batches(DataLoader(dataset, sampler=sampler, **arguments))) == list(sampler)
    assert ten.positions([dataset[-1]]) == [9]


def test_an_error_of_a_map_data_set_comes_out_of_a_worker_with_its_uri(bucket: Bucket) -> None:
    uris = bucket.fill(4, 100)
    del bucket.server.objects[bucket.path("o0002")]
    iterator = iter(DataLoader(ObjectStoreMapDataset(uris), batch_size=1, num_workers=1))
    assert [raw(next(iterator)) for _ in range(2)] == [bucket.data(uri) for uri in uris[:2]]
    with pytest.raises(FileNotFoundError, match="s3://bucket/o0002"):
        next(iterator)
    assert [raw(batch) for batch in iterator] == [bucket.data(uris[3])]


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found:UserWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_loaders_that_pin_memory_give_the_same_bytes(ten: Corpus, num_workers: int) -> None:
    batches = ObjectStoreIterableDataset(ten.uri, batch_size=4, procs=0)
    assert ten.batches(DataLoader(batches, batch_size=None, num_workers=num_workers, pin_memory=True)) == cut(
        range(10), 4
    )
    samples = ObjectStoreMapDataset(ten.uri)
    assert ten.batches(DataLoader(samples, batch_size=4, num_workers=num_workers, pin_memory=True)) == cut(range(10), 4)
