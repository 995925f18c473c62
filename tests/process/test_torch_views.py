"""What is held of a data set's memory: nobody writes to it (M4), and holding all of it is an error that says what to do."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import s3dlio
from s3dlio import ObjectStoreIterableDataset, ObjectStoreMapDataset
from tests.process.kit import wait_quiet
from tests.process.torch_kit import Corpus, npy, raw

KIB = 1 << 10


@pytest.fixture(autouse=True)
def poisoned(clean_aws_env: None) -> None:
    s3dlio.configure(poison_freed=True)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path).fill(40, 32 * KIB)


def derived(batch: torch.Tensor) -> Iterator[tuple[Any, bytes]]:
    """Yields things that are made of a batch without a copy, each with the bytes that it must keep."""
    array = batch.numpy()
    for made in (
        batch[1],
        batch[:, 100:200],
        batch.view(-1)[5:7],
        batch.t(),
        array[2],
        array[:, ::7],
        torch.from_numpy(array[1:]),
        array[0].view(np.uint32),
        batch[0].view(torch.int16),
        batch.detach().unsqueeze(0),
    ):
        yield made, np.asarray(made).tobytes()


def test_m4_whatever_is_made_of_a_batch_keeps_its_bytes_over_batches_epochs_and_the_close(
    corpus: Corpus, procs: int
) -> None:
    dataset = ObjectStoreIterableDataset(corpus.uri, batch_size=4, procs=procs, memory_bytes="2MiB")
    held: list[tuple[Any, bytes]] = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        for number, batch in enumerate(dataset):
            if number == 2 + epoch:
                held.extend(derived(batch))
        del batch
    for made, data in held:
        assert np.asarray(made).tobytes() == data
    dataset.close()
    del dataset
    gc.collect()
    for made, data in held:
        assert np.asarray(made).tobytes() == data


def test_m4_the_slot_is_free_when_the_last_of_them_is_gone(corpus: Corpus, procs: int) -> None:
    dataset = ObjectStoreIterableDataset(corpus.uri, batch_size=4, procs=procs, memory_bytes="2MiB")
    batch: Any = next(iter(dataset))
    rest = batch.numpy()[3, 10:11]
    del batch
    pool: Any = dataset._stream.source._pool
    assert pool.stats()["memory_used_bytes"] > 0
    assert rest.tobytes() == corpus.data[3][10:11]
    del rest
    assert wait_quiet(pool)["memory_used_bytes"] == 0


def test_m4_samples_of_every_kind_keep_their_bytes_while_others_come(corpus: Corpus) -> None:
    for return_type in ("tensor", "view", "bytes", "reader"):
        dataset = ObjectStoreIterableDataset(corpus.uri, procs=0, return_type=return_type, memory_bytes="1MiB")
        held = [sample for number, sample in zip(range(9), dataset, strict=False) if number % 3 == 0]
        assert sum(1 for _ in dataset) == 40
        assert [raw(sample) for sample in held] == corpus.data[:9:3]


def test_m4_decoded_arrays_keep_their_bytes_while_others_come(tmp_path: Path) -> None:
    arrays = [np.random.default_rng(number).integers(0, 1 << 30, (64, 64)) for number in range(40)]
    files = Corpus(tmp_path / "npy")
    for number, array in enumerate(arrays):
        files.add(f"{number:02d}.npy", npy(array))
    for batch_size in (None, 2):
        dataset = ObjectStoreIterableDataset(
            files.uri, procs=0, decode="npy", batch_size=batch_size, memory_bytes="1MiB"
        )
        held = [sample for number, sample in enumerate(dataset) if number % 5 == 0]
        assert sum(1 for _ in dataset) == 40 // (batch_size or 1)
        step = 5 * (batch_size or 1)
        found = [sample.numpy() if batch_size is None else sample[0].numpy() for sample in held]
        assert all(np.array_equal(one, other) for one, other in zip(found, arrays[::step], strict=True))


def test_m4_samples_of_a_map_data_set_keep_their_bytes(corpus: Corpus) -> None:
    dataset = ObjectStoreMapDataset(corpus.uri)
    held = dataset.__getitems__(range(40))
    slices = [tensor[5:50] for tensor in dataset.__getitems__(range(40))]
    for _ in range(3):
        dataset.__getitems__(range(40))
    assert [raw(tensor) for tensor in held] == corpus.data
    assert [raw(piece) for piece in slices] == [data[5:50] for data in corpus.data]


@pytest.mark.parametrize("batch_size", [None, 4])
def test_holding_too_much_is_an_error_that_names_the_remedy_and_ends_with_it(
    corpus: Corpus, procs: int, batch_size: int | None
) -> None:
    dataset = ObjectStoreIterableDataset(corpus.uri, batch_size=batch_size, procs=procs, memory_bytes="1MiB")
    held: list[Any] = []
    with pytest.raises(s3dlio.ViewsHeldError, match=r"release views.*copy what you keep.*or raise memory_bytes"):
        held.extend(dataset)
    samples = held if batch_size is None else [row for batch in held for row in batch]
    assert 8 <= len(samples) <= 32
    assert [raw(sample) for sample in samples] == corpus.data[: len(samples)]
    samples.clear()
    held.clear()
    found = [raw(row) for one in dataset for row in ([one] if batch_size is None else one)]
    assert found == corpus.data
    roomy = ObjectStoreIterableDataset(corpus.uri, batch_size=batch_size, procs=0, memory_bytes="4MiB")
    assert len(list(roomy)) == 40 // (batch_size or 1)


def test_m4_a_fork_sees_the_same_bytes(corpus: Corpus) -> None:
    dataset = ObjectStoreIterableDataset(corpus.uri, batch_size=4, procs=0, memory_bytes="1MiB")
    batch = next(iter(dataset))
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def look() -> None:
        send.send(corpus.batches([batch])[0])
        send.send(sum(len(more) for more in dataset))

    child = context.Process(target=look)
    child.start()
    assert receive.recv() == [0, 1, 2, 3]
    assert receive.recv() == 40
    child.join()
    receive.close()
    send.close()
    assert child.exitcode == 0
    child.close()
    assert corpus.batches([batch]) == [[0, 1, 2, 3]]
