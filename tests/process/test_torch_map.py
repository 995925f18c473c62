"""`ObjectStoreMapDataset`: samples by number, whole batches in one call, and any sampler."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, Subset

import s3dlio
from s3dlio import ObjectStoreMapDataset
from tests.process.kit import Bucket
from tests.process.torch_kit import Corpus, raw
from tests.support.answers import cut_after, reset_after, s3_error
from tests.support.scripted_server import Connection, Handler, Request

KIB = 1 << 10


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path).fill(12, [1000, 1, 70_000])


def test_samples_have_numbers_also_from_the_end(corpus: Corpus) -> None:
    dataset = ObjectStoreMapDataset(corpus.uri)
    assert len(dataset) == 12
    assert corpus.positions(dataset[number] for number in range(12)) == list(range(12))
    assert corpus.positions(dataset[number] for number in range(-12, 0)) == list(range(12))
    assert corpus.positions([dataset[np.int64(3)], dataset[torch.tensor(4)]]) == [3, 4]
    for number in (12, -13, 1 << 70):
        with pytest.raises(IndexError, match=rf"no sample {number} among 12"):
            dataset[number]
        with pytest.raises(IndexError, match=rf"no sample {number} among 12"):
            dataset.__getitems__([0, number])
    assert corpus.positions(dataset) == list(range(12))


def test_a_sample_is_a_writable_tensor_or_what_was_asked_for(corpus: Corpus) -> None:
    tensor = ObjectStoreMapDataset(corpus.uri)[0]
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.uint8, (1000,))
    tensor.zero_()
    assert isinstance(ObjectStoreMapDataset(corpus.uri, return_type="view")[0], s3dlio.BytesView)
    assert ObjectStoreMapDataset(corpus.uri, return_type="bytes")[0] == corpus.data[0]
    with ObjectStoreMapDataset(corpus.uri, return_type="reader")[0] as reader:
        assert (len(reader), reader.seek(-10, 2), reader.read()) == (1000, 990, corpus.data[0][-10:])


def test_a_pattern_a_list_and_a_manifest_say_what_the_samples_are(corpus: Corpus) -> None:
    corpus.add("labels/a.json", b"{}")
    assert len(ObjectStoreMapDataset(corpus.uri)) == 13
    assert (
        len(ObjectStoreMapDataset(corpus.uri, "*.bin"))
        == len(ObjectStoreMapDataset(uri=corpus.uri, pattern="*.bin"))
        == 12
    )
    uris = [corpus.uris[number] for number in (3, 1, 3)]
    assert corpus.positions(ObjectStoreMapDataset(uris)) == [3, 1, 3]
    (corpus.folder / "manifest.txt").write_text("# two\n\n" + "\n".join(uris[:2]) + "\n")
    assert corpus.positions(ObjectStoreMapDataset(manifest=f"{corpus.uri}/manifest.txt")) == [3, 1]
    sized = "".join(
        json.dumps({"uri": uri, "size": 1000, "more": 1}) + "\n" for uri in (corpus.uris[3], corpus.uris[0])
    )
    (corpus.folder / "manifest.jsonl").write_text(sized)
    assert corpus.positions(ObjectStoreMapDataset(manifest=f"{corpus.uri}/manifest.jsonl")) == [3, 0]


def test_nothing_below_a_prefix_is_an_error_that_names_it(corpus: Corpus) -> None:
    for arguments in ({"uri": f"{corpus.uri}/nothing"}, {"uri": corpus.uri, "pattern": "*.jpg"}):
        with pytest.raises(s3dlio.NotFoundError, match=str(corpus.folder)):
            ObjectStoreMapDataset(**arguments)  # type: ignore[arg-type]


def waits_for(count: int) -> Handler:
    """Answers when `count` requests have come, and never before."""
    lock, all_here, seen = threading.Lock(), threading.Event(), []

    def handle(request: Request, connection: Connection) -> None:
        with lock:
            seen.append(request)
            if len(seen) == count:
                all_here.set()
        connection.wait_for(all_here)
        honest: Any = connection.server
        honest.honest(request)(request, connection)

    return handle


def test_a_batch_is_fetched_in_one_call_with_all_its_requests_in_flight(bucket: Bucket) -> None:
    s3dlio.configure(first_byte_timeout_s=5.0, max_attempts=1)
    uris = bucket.fill(16, 2 * KIB)
    handler = waits_for(16)
    bucket.server.faults.update({bucket.path(f"o{number:04d}"): [handler] for number in range(16)})
    [batch] = DataLoader(ObjectStoreMapDataset(uris), batch_size=16, shuffle=True)
    assert {raw(row) for row in batch} == {bucket.data(uri) for uri in uris}
    assert len(bucket.server.requests) == 16


def test_jobs_limit_the_requests_in_flight(bucket: Bucket) -> None:
    s3dlio.configure(first_byte_timeout_s=0.3, max_attempts=1)
    uris = bucket.fill(4, 100)
    handler = waits_for(4)
    bucket.server.faults.update({bucket.path(f"o{number:04d}"): [handler] for number in range(4)})
    with pytest.raises(s3dlio.StoreTimeoutError):
        ObjectStoreMapDataset(uris, jobs=3).__getitems__(range(4))


def test_getitems_gives_any_order_and_the_same_sample_twice(corpus: Corpus) -> None:
    dataset = ObjectStoreMapDataset(corpus.uri)
    wanted = [5, -1, 5, 0, 2, 5]
    found = dataset.__getitems__(wanted)
    assert corpus.positions(found) == [5, 11, 5, 0, 2, 5]
    found[0].zero_()
    assert corpus.positions(found[1:]) == [11, 5, 0, 2, 5]
    assert dataset.__getitems__([]) == []


def test_samples_come_whole_though_requests_fail(bucket: Bucket) -> None:
    uris = bucket.fill(8, 2 * KIB)
    for number, fault in enumerate((reset_after(100), s3_error(503, "SlowDown"), cut_after(1999))):
        bucket.server.faults[bucket.path(f"o{2 * number:04d}")] = [fault, fault]
    assert [raw(sample) for sample in ObjectStoreMapDataset(uris).__getitems__(range(8))] == [
        bucket.data(uri) for uri in uris
    ]


def test_the_first_error_in_the_order_asked_for_is_raised_with_its_uri(bucket: Bucket) -> None:
    uris = bucket.fill(6, 100)
    for number in (1, 4):
        del bucket.server.objects[bucket.path(f"o{number:04d}")]
    dataset = ObjectStoreMapDataset(uris)
    with pytest.raises(s3dlio.NotFoundError, match="o0004") as caught:
        dataset.__getitems__([0, 4, 1])
    assert caught.value.uri == uris[4]
    with pytest.raises(s3dlio.NotFoundError, match="o0001"):
        next(iter(DataLoader(dataset, batch_size=6)))
    assert raw(dataset[5]) == bucket.data(uris[5])


# Samplers and loaders in one process.


def test_a_shuffling_loader_and_the_samplers_of_torch_decide_what_is_read(corpus: Corpus) -> None:
    dataset = ObjectStoreMapDataset(corpus.uri, return_type="bytes")
    expected, sampler = (RandomSampler(dataset, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    loader: Iterable[Any] = DataLoader(dataset, batch_size=5, sampler=sampler, collate_fn=list)
    assert [number for batch in loader for number in corpus.positions(batch)] == list(expected)
    shuffling: Iterable[Any] = DataLoader(dataset, batch_size=5, shuffle=True, collate_fn=list)
    assert sorted(number for batch in shuffling for number in corpus.positions(batch)) == list(range(12))
    assert corpus.positions(DataLoader(Subset(dataset, [7, 3]), batch_size=None)) == [7, 3]


def test_a_distributed_sampler_gives_each_rank_its_own(corpus: Corpus) -> None:
    dataset = ObjectStoreMapDataset(corpus.uri, return_type="bytes")
    seen: list[int] = []
    for rank in range(4):
        sampler = DistributedSampler(dataset, num_replicas=4, rank=rank, shuffle=True, seed=5)
        sampler.set_epoch(2)
        loader: Iterable[Any] = DataLoader(dataset, batch_size=2, sampler=sampler, collate_fn=list)
        found = [number for batch in loader for number in corpus.positions(batch)]
        assert found == list(sampler)
        seen.extend(found)
    assert sorted(seen) == list(range(12))


def test_a_copy_reads_the_same(corpus: Corpus) -> None:
    dataset = ObjectStoreMapDataset(corpus.uri)
    for other in (copy.copy(dataset), copy.deepcopy(dataset)):
        assert corpus.positions(other) == list(range(12))
