"""Iterations over `ObjectStoreIterableDataset` that end early, fail, are dropped, or run side by side (P8)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio import ObjectStoreIterableDataset
from tests.process.kit import alternate, wait_quiet, wait_until, worker_processes
from tests.process.torch_kit import TEN_SHUFFLED, Corpus, cut, raw


@pytest.fixture
def ten(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path).fill(10)


def test_p8_a_break_and_a_second_epoch_leave_nothing_and_miss_nothing(ten: Corpus, procs: int) -> None:
    dataset = ObjectStoreIterableDataset(ten.uri, shuffle=True, batch_size=3, procs=procs, memory_bytes="1MiB")
    for stop in (0, 1, 3):
        for number, _ in enumerate(dataset):
            if number == stop:
                break
        assert ten.batches(dataset) == cut(TEN_SHUFFLED[0, 0], 3)


def test_p8_an_exception_whose_traceback_holds_the_iterator_does_not_stop_the_next_epoch(
    tmp_path: Path, procs: int
) -> None:
    corpus = Corpus(tmp_path).fill(40, 100_000)
    dataset = ObjectStoreIterableDataset(corpus.uri, procs=procs, memory_bytes="1MiB")

    def train() -> None:
        for number, _ in enumerate(dataset):
            if number == 5:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        train()
    assert corpus.positions(dataset) == list(range(40))
    assert caught.value.__traceback__ is not None


def test_p8_an_error_that_is_kept_holds_nothing_that_was_fetched_ahead(tmp_path: Path, procs: int) -> None:
    corpus = Corpus(tmp_path).fill(40, 100_000)
    dataset = ObjectStoreIterableDataset(corpus.uri, procs=procs, memory_bytes="1MiB")
    (tmp_path / "0003.bin").write_bytes(b"shorter")
    with pytest.raises(s3dlio.ObjectChangedError, match=r"0003\.bin") as caught:
        list(dataset)
    pool: Any = dataset._stream.source._pool
    assert wait_quiet(pool)["memory_used_bytes"] == 0
    assert caught.value.__traceback__ is not None


def test_p8_iterators_that_are_dropped_or_closed_let_go_of_their_memory(tmp_path: Path, procs: int) -> None:
    corpus = Corpus(tmp_path).fill(20, 100_000)
    dataset = ObjectStoreIterableDataset(corpus.uri, procs=procs, memory_bytes="1MiB")
    for _ in range(5):
        iterator = iter(dataset)
        next(iterator)
        del iterator
        closed: Any = iter(dataset)
        next(closed)
        closed.close()
        gc.collect()
    assert corpus.positions(dataset) == list(range(20))
    wait_until(lambda: dataset.stats()["in_flight"] == 0, "nothing is in flight")


def test_p8_two_iterators_over_one_data_set_do_not_disturb_each_other(tmp_path: Path, procs: int) -> None:
    corpus = Corpus(tmp_path).fill(40, 100_000)
    dataset = ObjectStoreIterableDataset(corpus.uri, procs=procs, memory_bytes="1MiB")
    one, other = iter(dataset), iter(dataset)

    def mark(name: str, iterator: Iterator[Any]) -> Iterator[tuple[str, bytes]]:
        return ((name, raw(sample)) for sample in iterator)

    found = list(alternate(mark("one", one), mark("other", other)))
    for name in ("one", "other"):
        assert [data for whose, data in found if whose == name] == corpus.data


def test_p8_a_dropped_data_set_ends_its_processes_at_once(ten: Corpus) -> None:
    def use(num: int) -> None:
        dataset = ObjectStoreIterableDataset(ten.uri, procs=1)
        for number, _ in enumerate(dataset):
            if number == num:
                break

    gc.disable()
    try:
        for num in (3, 100):
            use(num)
            wait_until(lambda: not worker_processes(), "the worker is gone, and no collection was needed")
    finally:
        gc.enable()


def test_a_closed_data_set_has_no_processes_and_starts_others_for_the_next_iteration(ten: Corpus) -> None:
    dataset = ObjectStoreIterableDataset(ten.uri, procs=2)
    kept = list(dataset)
    assert len(worker_processes()) == 2
    dataset.close()
    dataset.close()
    wait_until(lambda: not worker_processes(), "the workers are gone")
    assert ten.positions(kept) == list(range(10))
    assert ten.positions(dataset) == list(range(10))
