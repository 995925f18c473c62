"""Batches that `ObjectStoreIterableDataset` makes itself: one slot, never copied, and alive as long as anything made of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import s3dlio
from s3dlio import ObjectStoreIterableDataset
from tests.process.kit import Bucket, content
from tests.process.torch_kit import Corpus, cut, extent, is_in_segment, npy, raw
from tests.support.answers import reset_after

KIB = 1 << 10


def test_a_batch_is_one_writable_tensor_that_was_never_copied(tmp_path: Path, procs: int) -> None:
    corpus = Corpus(tmp_path).fill(10, 1000)
    batches = list(ObjectStoreIterableDataset(corpus.uri, batch_size=4, procs=procs))
    assert [(batch.dtype, tuple(batch.shape)) for batch in batches] == [(torch.uint8, (num, 1000)) for num in (4, 4, 2)]
    assert corpus.batches(batches) == cut(range(10), 4)
    for batch in batches:
        assert batch.is_contiguous()
        assert is_in_segment(batch)
        batch.fill_(7)
    assert all(bool((batch == 7).all()) for batch in batches)
    assert len({extent(batch)[0] for batch in batches}) == 3
    assert corpus.data == [(tmp_path / name).read_bytes() for name in corpus.names]


def test_the_batches_of_an_epoch_come_through_the_same_memory_again_and_again(tmp_path: Path, procs: int) -> None:
    corpus = Corpus(tmp_path).fill(60, 50_000)
    dataset = ObjectStoreIterableDataset(corpus.uri, batch_size=4, procs=procs, memory_bytes="1MiB")
    addresses, found = set(), []
    for batch in dataset:
        assert is_in_segment(batch)
        addresses.add(extent(batch)[0])
        found.extend(corpus.positions(batch))
        batch.fill_(255)
    assert found == list(range(60))
    assert len(addresses) < 15


def test_objects_of_several_or_unknown_sizes_make_lists_of_tensors(bucket: Bucket, tmp_path: Path, procs: int) -> None:
    corpus = Corpus(tmp_path).fill(7, [100, 200, 1])
    batches = list(ObjectStoreIterableDataset(corpus.uri, batch_size=3, procs=procs))
    assert [type(batch) for batch in batches] == [list] * 3
    assert corpus.batches(batches) == cut(range(7), 3)
    assert all(is_in_segment(sample) for batch in batches for sample in batch)
    uris = bucket.fill(3, 100)
    [batch] = ObjectStoreIterableDataset(uris, batch_size=3, procs=procs)
    assert [raw(sample) for sample in batch] == [bucket.data(uri) for uri in uris]


def test_return_types_of_batches(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path).fill(5, 300)

    def batches(**arguments: Any) -> list[Any]:
        return list(ObjectStoreIterableDataset(corpus.uri, batch_size=3, procs=0, **arguments))

    views = batches(return_type="view")
    assert [view.shape for view in views] == [(3, 300), (2, 300)]
    assert all(isinstance(view, np.ndarray) and is_in_segment(view) for view in views)
    for return_type, kind in (("bytes", bytes), ("reader", object)):
        found = batches(return_type=return_type)
        assert [len(batch) for batch in found] == [3, 2]
        assert all(isinstance(sample, kind) for batch in found for sample in batch)
        assert corpus.batches(found) == cut(range(5), 3)


# Padded batches.


def test_shorter_objects_are_padded_with_zeros_also_where_longer_ones_lay(tmp_path: Path, procs: int) -> None:
    s3dlio.configure(poison_freed=True)
    sizes = [60_000, 60_000, 59_999, 60_000, 1, 2, 0, 30_000]
    corpus = Corpus(tmp_path).fill(48, sizes)
    dataset = ObjectStoreIterableDataset(corpus.uri, batch_size=4, pad_to=60_001, procs=procs, memory_bytes="1MiB")
    found: list[bytes] = []
    for _ in range(2):
        for batch, lengths in dataset:
            assert (batch.dtype, tuple(batch.shape), lengths.dtype) == (torch.uint8, (4, 60_001), torch.int64)
            assert batch.is_contiguous()
            assert is_in_segment(batch)
            for row, length in zip(batch, lengths.tolist(), strict=True):
                assert not row[length:].any()
                found.append(raw(row[:length]))
    assert found == 2 * corpus.data


def test_objects_of_unknown_sizes_are_padded_too_and_one_that_is_too_long_is_an_error_of_its_own(
    bucket: Bucket, procs: int
) -> None:
    uris = [bucket.add(f"o{number}", size) for number, size in enumerate([10, 500, 501, 0])]
    dataset = ObjectStoreIterableDataset(uris, batch_size=2, pad_to=500, procs=procs)
    iterator = iter(dataset)
    batch, lengths = next(iterator)
    assert lengths.tolist() == [10, 500]
    assert [raw(row[:length]) for row, length in zip(batch, lengths, strict=True)] == [
        bucket.data(uri) for uri in uris[:2]
    ]
    del batch
    with pytest.raises(s3dlio.ObjectTooLargeError, match=r"s3://bucket/o2.*501.*500"):
        next(iterator)
    skipping = ObjectStoreIterableDataset(uris, batch_size=2, pad_to=500, procs=procs, on_error="skip")
    _, (last, last_lengths) = skipping
    assert last_lengths.tolist() == [0]
    assert not last.any()
    assert [record["uri"] for record in skipping.skipped] == [uris[2]]


def test_an_object_that_is_listed_as_longer_than_the_rows_is_named_before_anything_is_fetched(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path).fill(9, [10, 20, 30])
    with pytest.raises(s3dlio.ConfigurationError, match=r"0002\.bin.*30 bytes.*pad_to=29"):
        next(iter(ObjectStoreIterableDataset(corpus.uri, batch_size=3, pad_to=29, procs=0)))


def test_padded_rows_go_through_the_transform_one_by_one(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path).fill(4, [3, 5])

    def total(row: torch.Tensor) -> torch.Tensor:
        assert tuple(row.shape) == (6,)
        return row.long().sum()

    [(sums, lengths)] = ObjectStoreIterableDataset(corpus.uri, batch_size=4, pad_to=6, transform=total, procs=0)
    assert sums.tolist() == [sum(data) for data in corpus.data]
    assert lengths.tolist() == [3, 5, 3, 5]


# Decoded batches.


@pytest.mark.parametrize("dtype", ["uint8", "float32", ">i4", "int64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_one_shape_make_one_tensor_over_the_slot(tmp_path: Path, dtype: str, order: Any) -> None:
    corpus = Corpus(tmp_path)
    arrays = [np.asarray(np.arange(15).reshape(3, 5) * (number + 1), dtype, order=order) for number in range(7)]
    for number, array in enumerate(arrays):
        corpus.add(f"{number}.npy", npy(array))
    batches = list(ObjectStoreIterableDataset(corpus.uri, batch_size=3, decode="npy", procs=0))
    assert [tuple(batch.shape) for batch in batches] == [(3, 3, 5), (3, 3, 5), (1, 3, 5)]
    assert np.array_equal(torch.cat(batches).numpy(), np.stack(arrays))
    if not dtype.startswith(">"):  # torch knows no big-endian numbers
        assert all(is_in_segment(batch) and str(batch.dtype) == f"torch.{dtype}" for batch in batches)
    views = list(ObjectStoreIterableDataset(corpus.uri, batch_size=3, decode="npy", procs=0, return_type="view"))
    assert [view.dtype for view in views] == [np.dtype(dtype)] * 3
    assert np.array_equal(np.concatenate(views), np.stack(arrays))


def test_npy_of_several_shapes_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    for name, shapes in {"same-size": [(2, 3), (3, 2)], "other-size": [(2, 3), (7,)]}.items():
        corpus = Corpus(tmp_path / name)
        for number, shape in enumerate(shapes):
            corpus.add(f"{number}.npy", npy(np.ones(shape)))
        with pytest.raises(s3dlio.ConfigurationError, match="transform give equal shapes"):
            list(ObjectStoreIterableDataset(corpus.uri, batch_size=2, decode="npy", procs=0))
        flat = ObjectStoreIterableDataset(
            corpus.uri, batch_size=2, decode="npy", transform=lambda array: array.sum(), procs=0
        )
        assert [batch.tolist() for batch in flat] == [[6.0, float(np.prod(shapes[1]))]]


def test_decoded_and_transformed_samples_are_collated(tmp_path: Path, procs: int) -> None:
    corpus = Corpus(tmp_path)
    for number in range(5):
        corpus.add(f"{number}.json", f'{{"x": [{number}, 2.5], "name": "n{number}"}}'.encode())
    pids = set()

    def transform(sample: dict[str, Any]) -> dict[str, Any]:
        pids.add(os.getpid())
        return {"x": torch.tensor(sample["x"]), "name": sample["name"]}

    first, last = ObjectStoreIterableDataset(corpus.uri, batch_size=3, decode="json", transform=transform, procs=procs)
    assert first["x"].tolist() == [[0, 2.5], [1, 2.5], [2, 2.5]]
    assert last == {"x": last["x"], "name": ["n3", "n4"]}
    assert pids == {os.getpid()}


# Errors in a batch.


@pytest.mark.parametrize(
    ("procs", "missing"), [(2, [1, 5]), (0, [0]), (0, [2, 5]), (0, [3, 4, 5]), (0, [7]), (0, [*range(7)])]
)
def test_a_skipped_sample_leaves_no_gap_in_its_batch(bucket: Bucket, procs: int, missing: list[int]) -> None:
    uris = bucket.fill(8, 4 * KIB)
    for number in missing:
        del bucket.server.objects[bucket.path(f"o{number:04d}")]
    pinned: list[Any] = [s3dlio.ObjectRef(uri, 4 * KIB, None) for uri in uris]
    dataset = ObjectStoreIterableDataset(pinned, batch_size=3, procs=procs, on_error="skip")
    batches = list(dataset)
    left = [[number for number in batch if number not in missing] for batch in cut(range(8), 3)]
    assert [tuple(batch.shape) for batch in batches] == [(len(batch), 4 * KIB) for batch in left if batch]
    expected = [bucket.data(uris[number]) for batch in left for number in batch]
    assert [raw(row) for batch in batches for row in batch] == expected
    assert all(batch.is_contiguous() and is_in_segment(batch) for batch in batches)
    assert sorted(record["uri"] for record in dataset.skipped) == [uris[number] for number in missing]


def test_a_sample_that_cannot_be_decoded_is_skipped_or_raised_as_one_that_cannot_be_fetched(
    tmp_path: Path, procs: int
) -> None:
    corpus = Corpus(tmp_path)
    files = [npy(np.full(4, number)) for number in range(6)]
    files[4] = b"#" * len(files[4])
    for number, data in enumerate(files):
        corpus.add(f"{number}.npy", data)
    dataset = ObjectStoreIterableDataset(corpus.uri, batch_size=3, decode="npy", procs=procs)
    seen = []
    with pytest.raises(s3dlio.DecodeError, match=r"/4\.npy"):
        seen.extend(batch.tolist() for batch in dataset)
    assert seen == [[[0] * 4, [1] * 4, [2] * 4]]
    skipping = ObjectStoreIterableDataset(corpus.uri, batch_size=3, decode="npy", procs=procs, on_error="skip")
    assert [batch[:, 0].tolist() for batch in skipping] == [[0, 1, 2], [3, 5]]
    assert [record["uri"] for record in skipping.skipped] == [corpus.uris[4]]


def test_c10_a_batch_whose_objects_fail_at_first_comes_whole_and_in_its_turn(bucket: Bucket) -> None:
    uris = bucket.fill(9, 4 * KIB)
    for number in (1, 4, 5):
        bucket.server.faults[bucket.path(f"o{number:04d}")] = [reset_after(1000), reset_after(3000)]
    pinned: list[Any] = [s3dlio.ObjectRef(uri, 4 * KIB, None) for uri in uris]
    batches = list(ObjectStoreIterableDataset(pinned, batch_size=3, procs=2))
    assert [raw(row) for batch in batches for row in batch] == [content(uri.rsplit("/", 1)[1], 4 * KIB) for uri in uris]
