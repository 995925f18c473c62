"""TFRecord files through `ObjectStoreIterableDataset`: record by record, shuffled within a buffer, resumed within a file (C8, C9)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import s3dlio
from s3dlio import ObjectStoreIterableDataset, ObjectStoreMapDataset
from tests.process.kit import Bucket, content
from tests.process.torch_kit import Corpus, cut, dealt, flat, is_in_segment, raw, tfrecord

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it
COUNTS = (5, 1, 0, 8, 3)
"""Records of each file."""
NUM = sum(COUNTS)


def record(file: int, number: int) -> bytes:
    return content(f"record {file} {number}", 30 + 7 * number)


RECORDS = [record(file, number) for file, count in enumerate(COUNTS) for number in range(count)]


@pytest.fixture
def shards(tmp_path: Path) -> Corpus:
    corpus = Corpus(tmp_path)
    for file, count in enumerate(COUNTS):
        corpus.add(f"{file}.tfrecord", tfrecord(record(file, number) for number in range(count)))
    return corpus


def make(shards: Corpus, **arguments: Any) -> ObjectStoreIterableDataset:
    return ObjectStoreIterableDataset(shards.uri, decode="tfrecord", **{"procs": 0, **arguments})


def read(dataset: Iterable[Any]) -> list[bytes]:
    return [raw(sample) for sample in dataset]


def read_batches(dataset: Iterable[Any]) -> list[list[bytes]]:
    return [[raw(sample) for sample in batch] for batch in dataset]


# Streams.


def test_records_come_one_by_one_in_the_order_of_their_files(shards: Corpus, procs: int) -> None:
    dataset = make(shards, procs=procs)
    samples = list(dataset)
    assert [raw(sample) for sample in samples] == RECORDS
    assert all(sample.dtype == torch.uint8 and is_in_segment(sample) for sample in samples)
    samples[0].zero_()
    with pytest.raises(TypeError, match="nobody knows"):
        len(dataset)
    with pytest.raises(s3dlio.ConfigurationError, match="ObjectStoreIterableDataset"):
        ObjectStoreMapDataset(shards.uri, decode="tfrecord")


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_of_records_are_lists_that_go_over_the_ends_of_files(shards: Corpus, shuffle: bool) -> None:
    whole = read(make(shards, shuffle=shuffle, shuffle_buffer=4))
    for drop_last in (False, True):
        dataset = make(shards, shuffle=shuffle, shuffle_buffer=4, batch_size=4, drop_last=drop_last)
        assert read_batches(dataset) == cut(whole, 4, drop_last=drop_last)  # type: ignore[arg-type, comparison-overlap]
    lengths = make(shards, shuffle=shuffle, shuffle_buffer=4, batch_size=NUM, transform=len)
    assert [batch.tolist() for batch in lengths] == [[len(data) for data in whole]]


def test_c10_shuffled_records_come_once_in_an_order_of_seed_and_epoch(shards: Corpus, procs: int) -> None:
    dataset = make(shards, shuffle=True, seed=3, shuffle_buffer=4, procs=procs)
    orders = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        orders.append(read(dataset))
        assert sorted(orders[-1]) == sorted(RECORDS)
    assert orders[0] == orders[2] != orders[1]
    assert read(make(shards, shuffle=True, seed=3, shuffle_buffer=4, procs=0)) == orders[0]
    assert read(make(shards, shuffle=True, seed=4, shuffle_buffer=4)) != orders[0]


@pytest.mark.parametrize("size", [1, 2, 4, NUM, 1000])
def test_a_record_leaves_the_buffer_at_most_its_size_too_early(tmp_path: Path, size: int) -> None:
    corpus = Corpus(tmp_path)
    corpus.add("one.tfrecord", tfrecord(RECORDS))
    order = [RECORDS.index(data) for data in read(make(corpus, shuffle=True, shuffle_buffer=size))]
    assert sorted(order) == list(range(NUM))
    assert all(came_from <= place + size for place, came_from in enumerate(order))
    assert order != list(range(NUM)) or size == 1


def test_files_are_dealt_to_ranks_and_workers(shards: Corpus) -> None:
    with pytest.warns(UserWarning, match="5 files cannot be shared out evenly over 2 ranks"):
        parts = [read(make(shards, rank=rank, world_size=2)) for rank in range(2)]
    files = dealt(range(5), 2)
    assert parts == [[record(file, number) for file in part for number in range(COUNTS[file])] for part in files]
    loader: Any = DataLoader(make(shards, batch_size=3), batch_size=None, num_workers=2)
    first, second = (cut(part, 3) for part in parts)  # type: ignore[arg-type]
    found = read_batches(loader)
    assert sorted(flat(found)) == sorted(RECORDS)
    assert found[:4] == [first[0], second[0], first[1], second[1]]


# Resumed within a file.


@pytest.mark.parametrize("shuffle", [False, True])
def test_c9_a_state_goes_on_at_any_record(shards: Corpus, shuffle: bool) -> None:
    whole = read(make(shards, shuffle=shuffle, shuffle_buffer=4))
    dataset = make(shards, shuffle=shuffle, shuffle_buffer=4)
    iterator = iter(dataset)
    for num in range(NUM + 1):
        state = json.loads(json.dumps(dataset.state_dict()))
        other = make(shards, shuffle=shuffle, shuffle_buffer=4)
        other.load_state_dict(state)
        assert read(islice(other, 2)) == whole[num : num + 2]
        # Once more from there, by a state that was taken of a resumed run.
        last = make(shards, shuffle=shuffle, shuffle_buffer=4)
        last.load_state_dict(json.loads(json.dumps(other.state_dict())))
        assert read(last) == whole[num + 2 :]
        assert read(last) == whole
        next(iterator, None)
    assert next(iterator, None) is None
    ended = make(shards, shuffle=shuffle, shuffle_buffer=4)
    ended.load_state_dict(dataset.state_dict())
    assert read(ended) == []


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_c9_a_state_goes_on_at_any_batch_of_records(shards: Corpus, shuffle: bool, drop_last: bool) -> None:
    arguments: dict[str, Any] = {"shuffle": shuffle, "shuffle_buffer": 5, "batch_size": 3, "drop_last": drop_last}
    whole = read_batches(make(shards, **arguments))
    assert len(whole) == (5 if drop_last else 6)
    for num in range(len(whole) + 1):
        dataset = make(shards, **arguments)
        iterator = iter(dataset)
        assert read_batches(islice(iterator, num)) == whole[:num]
        other = make(shards, **arguments)
        other.load_state_dict(dataset.state_dict())
        assert read_batches(other) == whole[num:]
    list(iterator)
    ended = make(shards, **arguments)
    ended.load_state_dict(dataset.state_dict())
    assert read_batches(ended) == []


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_c9_a_stateful_loader_goes_on_within_files(shards: Corpus, shuffle: bool, num_workers: int) -> None:
    def load() -> Any:
        dataset = make(shards, shuffle=shuffle, shuffle_buffer=3, batch_size=2)
        return StatefulDataLoader(dataset, batch_size=None, num_workers=num_workers)

    whole = read_batches(load())
    assert sorted(flat(whole)) == sorted(RECORDS)
    for num in (1, 4, 7):
        loader = load()
        iterator = iter(loader)
        assert read_batches(islice(iterator, num)) == whole[:num]
        state = loader.state_dict()
        list(iterator)
        other = load()
        other.load_state_dict(state)
        assert read_batches(other) == whole[num:]


def test_c9_another_world_goes_on_between_files_and_nowhere_else(shards: Corpus) -> None:
    for num in range(NUM):
        dataset = make(shards)
        seen = read(islice(dataset, num))
        states = dataset.state_dict()
        others = [make(shards, rank=rank, world_size=2, tail="pad") for rank in range(2)]
        for other in others:
            other.load_state_dict(states)
        # Behind 5 and 6 and 14 records, a file has ended.
        if num in (0, 5, 6, 14):
            assert set(seen + read(others[0]) + read(others[1])) == set(RECORDS)
        else:
            with pytest.raises(s3dlio.ConfigurationError, match="file"):
                next(iter(others[0]))
    shuffled = make(shards, shuffle=True)
    next(iter(shuffled))
    other = make(shards, shuffle=True, rank=0, world_size=2, tail="pad")
    other.load_state_dict(shuffled.state_dict())
    with pytest.raises(s3dlio.ConfigurationError, match="file"):
        next(iter(other))


def test_c9_a_state_of_another_buffer_is_refused(shards: Corpus) -> None:
    dataset = make(shards, shuffle=True, shuffle_buffer=4)
    next(iter(dataset))
    other = make(shards, shuffle=True, shuffle_buffer=5)
    with pytest.raises(s3dlio.ConfigurationError, match=r"4 records.*5"):
        list(_loaded(other, dataset.state_dict()))


def _loaded(dataset: ObjectStoreIterableDataset, state: dict[str, Any]) -> ObjectStoreIterableDataset:
    dataset.load_state_dict(state)
    return dataset


# Records that are not what was written (C8).


@pytest.mark.parametrize("shuffle", [False, True])
def test_c8_a_record_whose_crc_does_not_hold_is_named_with_its_byte_and_skipped_with_the_rest_of_its_file(
    shards: Corpus, shuffle: bool
) -> None:
    data = bytearray(shards.files["3.tfrecord"])
    begin = sum(16 + len(record(3, number)) for number in range(4))
    data[begin + 12 + 20] ^= 1
    shards.add("3.tfrecord", bytes(data))
    good = [one for one in RECORDS if one not in [record(3, number) for number in range(4, 8)]]
    found: list[bytes] = []
    with pytest.raises(s3dlio.DecodeError, match=rf"/3\.tfrecord.*\b{begin}\b"):
        found.extend(map(raw, make(shards, shuffle=shuffle, shuffle_buffer=2)))
    assert set(found) <= set(good)
    skipping = make(shards, shuffle=shuffle, shuffle_buffer=2, on_error="skip")
    assert sorted(read(skipping)) == sorted(good)
    assert [skipped["uri"] for skipped in skipping.skipped] == [f"{shards.uri}/3.tfrecord"]
    whole = read(skipping)
    for num in range(len(good) + 1):
        iterator = iter(skipping)
        assert read(islice(iterator, num)) == whole[:num]
        other = make(shards, shuffle=shuffle, shuffle_buffer=2, on_error="skip")
        assert read(_loaded(other, skipping.state_dict())) == whole[num:]


def test_c9_after_an_error_the_state_stands_before_the_record_that_failed(shards: Corpus) -> None:
    whole = shards.files["3.tfrecord"]
    for shuffle in (False, True):
        expected = read(make(shards, shuffle=shuffle, shuffle_buffer=2))
        (shards.folder / "3.tfrecord").write_bytes(whole[:-9] + b"123456789")
        dataset = make(shards, shuffle=shuffle, shuffle_buffer=2)
        found: list[bytes] = []
        with pytest.raises(s3dlio.DecodeError):
            found.extend(map(raw, dataset))
        state = dataset.state_dict()
        (shards.folder / "3.tfrecord").write_bytes(whole)
        other = make(shards, shuffle=shuffle, shuffle_buffer=2)
        other.load_state_dict(state)
        assert found + read(other) == expected


def test_a_missing_file_is_an_error_at_its_place_or_skipped(bucket: Bucket, procs: int) -> None:
    for file, count in enumerate(COUNTS):
        bucket.server.objects[bucket.path(f"{file}")] = tfrecord(record(file, number) for number in range(count))
    del bucket.server.objects[bucket.path("1")]
    uris = [f"s3://bucket/{file}" for file in range(5)]
    found = []
    dataset = ObjectStoreIterableDataset(uris, decode="tfrecord", procs=procs)
    with pytest.raises(s3dlio.NotFoundError, match="s3://bucket/1"):
        found.extend(map(raw, dataset))
    assert found == RECORDS[:5]
    skipping = ObjectStoreIterableDataset(uris, decode="tfrecord", procs=procs, on_error="skip")
    assert read(skipping) == RECORDS[:5] + RECORDS[6:]
    assert [skipped["uri"] for skipped in skipping.skipped] == [uris[1]]
