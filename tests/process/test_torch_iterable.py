"""`ObjectStoreIterableDataset` in the training process: every sample once, in the order of the seed, through failures and breaks."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import s3dlio
from s3dlio import ObjectStoreIterableDataset
from tests.process.kit import Bucket, worker_processes
from tests.process.torch_kit import TEN_SHUFFLED, Corpus, cut, part_of, raw
from tests.support.answers import cut_after, reset_after, s3_error


@pytest.fixture(params=[0, 1, 2], ids=["inline", "1-worker", "2-workers"])
def any_procs(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def ten(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path).fill(10)


# What comes, and in which order.


def test_every_object_below_a_prefix_comes_once_in_the_order_of_the_listing(tmp_path: Path, any_procs: int) -> None:
    corpus = Corpus(tmp_path).fill(30, [1000, 1, 70_000])
    for name in ("b/x.bin", "b/deep/er/y.bin", "b.bin", "ä.bin"):
        corpus.add(name, name.encode() * 50)
    dataset = ObjectStoreIterableDataset(corpus.uri, procs=any_procs)
    assert [raw(sample) for sample in dataset] == corpus.data
    assert len(dataset) == 34


def test_c10_the_order_is_a_function_of_seed_and_epoch_and_the_same_for_any_number_of_procs(
    ten: Corpus, any_procs: int
) -> None:
    samples = ObjectStoreIterableDataset(ten.uri, shuffle=True, procs=any_procs)
    batches = ObjectStoreIterableDataset(ten.uri, shuffle=True, procs=any_procs, batch_size=4)
    for epoch in (1, 0):
        samples.set_epoch(epoch)
        batches.set_epoch(epoch)
        assert ten.positions(samples) == TEN_SHUFFLED[0, epoch]
        assert ten.batches(batches) == cut(TEN_SHUFFLED[0, epoch], 4)
    other_seed = ObjectStoreIterableDataset(ten.uri, shuffle=True, seed=-3, procs=0)
    assert ten.positions(other_seed) == TEN_SHUFFLED[-3, 0]


def test_the_epoch_never_advances_by_itself(ten: Corpus) -> None:
    dataset = ObjectStoreIterableDataset(ten.uri, shuffle=True, procs=0)
    assert dataset.epoch == 0
    assert ten.positions(dataset) == ten.positions(dataset) == TEN_SHUFFLED[0, 0]
    dataset.set_epoch(1)
    assert dataset.epoch == 1
    assert ten.positions(dataset) == ten.positions(dataset) == TEN_SHUFFLED[0, 1]
    dataset.set_epoch(0)
    assert ten.positions(dataset) == TEN_SHUFFLED[0, 0]


def test_c10_the_order_is_the_same_when_requests_fail_and_workers_die(bucket: Bucket) -> None:
    uris = bucket.fill(10, 2000)
    for number, fault in enumerate((reset_after(100), s3_error(503, "SlowDown"), cut_after(1999))):
        bucket.server.faults[bucket.path(f"o{3 * number:04d}")] = [fault, fault]
    dataset = ObjectStoreIterableDataset(uris, shuffle=True, procs=2, prefetch=3)
    found = []
    for number, sample in enumerate(dataset):
        found.append(raw(sample))
        if number == 4:
            worker_processes()[0].kill()
    assert found == [bucket.data(uris[position]) for position in TEN_SHUFFLED[0, 0]]


@pytest.mark.parametrize("tail", ["uneven", "pad", "drop"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize(("batch_size", "drop_last"), [(None, False), (2, False), (2, True)])
@pytest.mark.filterwarnings("ignore:10 samples cannot be shared out evenly")
def test_ranks_share_the_order_by_position(
    ten: Corpus, tail: Any, world_size: int, batch_size: int | None, drop_last: bool
) -> None:
    seen: Counter[int] = Counter()
    for rank in range(world_size):
        dataset = ObjectStoreIterableDataset(
            ten.uri,
            shuffle=True,
            rank=rank,
            world_size=world_size,
            tail=tail,
            batch_size=batch_size,
            drop_last=drop_last,
            procs=0,
        )
        part = part_of(TEN_SHUFFLED[0, 0], rank, world_size, tail)
        units = part if batch_size is None else cut(part, batch_size, drop_last=drop_last)
        assert (ten.positions(dataset) if batch_size is None else ten.batches(dataset)) == units
        assert len(dataset) == len(units)
        seen.update(part)
    assert set(seen.values()) == ({1, 2} if tail == "pad" and 10 % world_size else {1})
    assert len(seen) == (10 // world_size * world_size if tail == "drop" else 10)


def test_rank_and_world_size_are_asked_when_the_iteration_starts(ten: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ObjectStoreIterableDataset(ten.uri, tail="pad", procs=0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ten.positions(dataset) == [1, 3, 5, 7, 9]
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "3")
    with pytest.raises(s3dlio.ConfigurationError, match=r"1 of 2.*0 of 3"):
        list(dataset)


def test_uneven_shares_are_warned_of_once_and_at_the_line_that_iterates(ten: Corpus) -> None:
    uneven = ObjectStoreIterableDataset(ten.uri, rank=0, world_size=3, procs=0)
    even = [
        ObjectStoreIterableDataset(ten.uri, rank=0, world_size=2, procs=0),
        ObjectStoreIterableDataset(ten.uri, rank=0, world_size=3, tail="pad", procs=0),
        ObjectStoreIterableDataset(ten.uri, procs=0),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for dataset in (uneven, uneven, *even):
            for _ in dataset:
                pass
        uneven.set_epoch(1)
        next(iter(uneven))
    assert [str(warning.message) for warning in caught if "10 samples" in str(warning.message)] == [
        str(caught[0].message)
    ]
    assert "tail='pad' or 'drop'" in str(caught[0].message)
    assert caught[0].filename == __file__


# When things fail.


def test_an_error_comes_at_its_place_with_its_uri_and_a_repaired_object_lets_the_rest_follow(
    bucket: Bucket, any_procs: int
) -> None:
    uris = bucket.fill(8, 500)
    lost = bucket.server.objects.pop(bucket.path("o0005"))
    dataset = ObjectStoreIterableDataset(uris, procs=any_procs)
    found: list[bytes] = []
    with pytest.raises(s3dlio.NotFoundError, match="o0005") as caught:
        found.extend(map(raw, dataset))
    assert caught.value.uri == uris[5]
    assert found == [bucket.data(uri) for uri in uris[:5]]
    state = dataset.state_dict()
    bucket.server.objects[bucket.path("o0005")] = lost
    dataset.load_state_dict(state)
    assert [raw(sample) for sample in dataset] == [bucket.data(uri) for uri in uris[5:]]
    assert dataset.skipped == []


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_exception_of_the_transform_comes_with_a_note_of_the_uri_and_its_sample_is_not_delivered(
    ten: Corpus, on_error: Any
) -> None:
    def refuse(sample: torch.Tensor) -> torch.Tensor:
        if raw(sample) == ten.data[6]:
            raise ZeroDivisionError("my own")
        return sample

    dataset = ObjectStoreIterableDataset(ten.uri, transform=refuse, procs=0, on_error=on_error)
    found: list[torch.Tensor] = []
    with pytest.raises(ZeroDivisionError, match="my own") as caught:
        found.extend(dataset)
    assert any(ten.uris[6] in note for note in caught.value.__notes__)
    assert ten.positions(found) == list(range(6))
    other = ObjectStoreIterableDataset(ten.uri, procs=0)
    other.load_state_dict(dataset.state_dict())
    assert ten.positions(other) == [6, 7, 8, 9]


@pytest.mark.parametrize("missing", [[0], [3], [6, 7], [0, 1, 2, 3, 4, 5, 6]])
def test_skipped_samples_are_left_out_and_recorded(bucket: Bucket, procs: int, missing: list[int]) -> None:
    uris = bucket.fill(8, 500)
    for number in missing:
        del bucket.server.objects[bucket.path(f"o{number:04d}")]
    dataset = ObjectStoreIterableDataset(uris, procs=procs, on_error="skip")
    assert [raw(sample) for sample in dataset] == [
        bucket.data(uri) for number, uri in enumerate(uris) if number not in missing
    ]
    assert [record["uri"] for record in dataset.skipped] == [uris[number] for number in missing]
    assert all("NotFoundError" in record["error"] for record in dataset.skipped)


def test_unusable_credentials_are_no_sample_to_skip(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = bucket.fill(3, 100)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    dataset = ObjectStoreIterableDataset(uris, procs=0, on_error="skip")
    with pytest.raises(s3dlio.AuthenticationError):
        list(dataset)
    assert dataset.skipped == []


# What a sample is.


def test_a_sample_is_a_writable_tensor_of_bytes_over_shared_memory_or_what_was_asked_for(
    ten: Corpus, procs: int
) -> None:
    from tests.process.torch_kit import is_in_segment

    sample = next(iter(ObjectStoreIterableDataset(ten.uri, procs=procs)))
    assert (sample.dtype, sample.shape) == (torch.uint8, (1000,))
    assert is_in_segment(sample)
    sample += 1
    assert raw(sample) == bytes((np.frombuffer(ten.data[0], np.uint8) + 1).astype(np.uint8))
    view = next(iter(ObjectStoreIterableDataset(ten.uri, procs=procs, return_type="view")))
    assert isinstance(view, s3dlio.BytesView)
    assert is_in_segment(view)
    data = next(iter(ObjectStoreIterableDataset(ten.uri, procs=procs, return_type="bytes")))
    assert type(data) is bytes
    reader = next(iter(ObjectStoreIterableDataset(ten.uri, procs=procs, return_type="reader")))
    assert raw(view) == data == reader.read() == ten.data[0]


def test_decode_comes_before_transform_and_both_run_where_the_loop_runs(tmp_path: Path, procs: int) -> None:
    import os

    corpus = Corpus(tmp_path)
    for number in range(6):
        corpus.add(f"{number}.json", json.dumps({"number": number}).encode())
    pids: set[int] = set()

    def transform(sample: dict[str, int]) -> int:
        pids.add(os.getpid())
        return sample["number"] * 10

    assert list(ObjectStoreIterableDataset(corpus.uri, decode="json", transform=transform, procs=procs)) == [
        0,
        10,
        20,
        30,
        40,
        50,
    ]
    by_function = ObjectStoreIterableDataset(
        corpus.uri, decode=lambda view: json.loads(bytes(view)), transform=transform, procs=procs
    )
    assert list(by_function) == [0, 10, 20, 30, 40, 50]
    assert pids == {os.getpid()}
