"""What `stats()` says a training waited for is what it did wait for; and the bar that shows it."""

from __future__ import annotations

import os
import pty
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from s3dlio import ObjectStoreIterableDataset
from tests.process.kit import Bucket, wait_until
from tests.process.torch_kit import Corpus, tfrecord
from tests.process.training_kit import BATCH, KINDS, Training, honest_answer
from tests.support.scripted_server import Connection, Handler, Request

SIZE = 20_000
NUM = 12
LATE_S = 0.08
WAITS = ("first_byte", "transfer", "slot_wait")


def late(delay_s: float = LATE_S) -> Handler:
    """Answers after a while."""

    def handle(request: Request, connection: Connection) -> None:
        threading.Event().wait(delay_s)
        honest_answer(request, connection)(request, connection)

    return handle


def trickling(delay_s: float = LATE_S, num_pieces: int = 4) -> Handler:
    """Answers at once, and sends the body in pieces."""

    def handle(request: Request, connection: Connection) -> None:
        answer = honest_answer(request, connection)
        connection.send(answer.head())
        step = len(answer.body) // num_pieces
        connection.send(memoryview(answer.body)[:step])
        for begin in range(step, len(answer.body), step):
            threading.Event().wait(delay_s / num_pieces)
            connection.send(memoryview(answer.body)[begin : begin + step])

    return handle


def clocked(dataset: Any, training: Training) -> tuple[float, list[list[int]]]:
    """Reads to the end; returns how long the loop waited for what came, in seconds, by a clock around each step, and what came."""
    waited_s, found, iterator = 0.0, [], iter(dataset)
    while True:
        begun_s = time.perf_counter()
        given = next(iterator, None)
        if given is None:
            return waited_s, found
        waited_s += time.perf_counter() - begun_s
        found.append(training.unit(given))


def assert_adds_up(stats: dict[str, Any], waited_s: float) -> None:
    split = stats["split_s"]
    assert set(split) == {"listing", *WAITS, "consumer"}
    assert all(part >= 0 for part in split.values())
    assert sum(split[name] for name in WAITS) == pytest.approx(stats["waited_s"])
    # Around it lie the steps from what has come to what the loop gets, and on a busy machine whoever runs in between.
    assert stats["waited_s"] == pytest.approx(waited_s, rel=0.15, abs=0.15)
    assert stats["waited_s"] + split["consumer"] == pytest.approx(stats["seconds"], rel=0.1, abs=0.1)
    assert stats["waited_share"] == pytest.approx(stats["waited_s"] / stats["seconds"])


@pytest.mark.parametrize("kind", KINDS)
def test_stats_count_samples_and_bytes_of_the_epoch(bucket: Bucket, kind: str, procs: int) -> None:
    training = Training(bucket, kind, num=26, nbytes=SIZE, procs=procs, on_error="skip")
    del bucket.server.objects[training.path(training.order()[7])]
    dataset = training.dataset()
    before = dataset.stats()
    assert (before["samples"], before["bytes"], before["waited_s"]) == (0, 0, 0)
    for _ in range(2):
        waited_s, found = clocked(dataset, training)
        stats = dataset.stats()
        assert stats["samples"] == sum(map(len, found)) == 25
        assert stats["bytes"] == 25 * SIZE
        assert stats["samples_per_s"] == pytest.approx(25 / stats["seconds"])
        assert stats["bytes_per_s"] == pytest.approx(25 * SIZE / stats["seconds"])
        assert_adds_up(stats, waited_s)
        # An epoch that is over is not slower for what comes after it.
        threading.Event().wait(0.05)
        assert dataset.stats()["seconds"] == stats["seconds"]
    assert stats["skipped"] == 2


def test_stats_count_records_of_files_as_samples(tmp_path: Any, procs: int) -> None:
    corpus = Corpus(tmp_path)
    for number in range(3):
        corpus.add(f"{number}.tfrecord", tfrecord([b"record"] * 10))
    dataset = ObjectStoreIterableDataset(corpus.uri, decode="tfrecord", procs=procs)
    assert len(list(dataset)) == 30
    stats = dataset.stats()
    assert stats["samples"] == 30
    assert stats["bytes"] == sum(map(len, corpus.data))


@pytest.mark.parametrize(
    ("answer", "cause"), [(late(), "first_byte"), (trickling(), "transfer")], ids=["late", "trickling"]
)
@pytest.mark.parametrize("kind", ["samples", "rows"])
def test_a_server_that_is_late_and_one_that_is_slow_are_told_apart(
    bucket: Bucket, kind: str, procs: int, answer: Handler, cause: str
) -> None:
    # One sample or batch at a time, so that the loop waits for the whole of each.
    training = Training(bucket, kind, num=NUM, nbytes=SIZE, procs=procs, jobs=BATCH, prefetch=1)
    units = training.units(training.order())
    dataset = training.dataset()
    assert training.read(dataset) == units, "connections are there, and workers have started"
    for number in range(NUM):
        training.fault(number, answer)
    waited_s, found = clocked(dataset, training)
    assert found == units
    stats = dataset.stats()
    assert_adds_up(stats, waited_s)
    split = stats["split_s"]
    least_s = len(units) * LATE_S * 0.7
    assert split[cause] >= least_s
    assert split[cause] > 0.6 * stats["waited_s"]
    assert split["consumer"] < least_s


def test_a_slow_loop_waits_for_itself(bucket: Bucket) -> None:
    training = Training(bucket, "samples", num=NUM, nbytes=SIZE)
    dataset = training.dataset()
    training.read(dataset)
    begun_s = time.perf_counter()
    for _ in dataset:
        threading.Event().wait(LATE_S)
    span_s = time.perf_counter() - begun_s
    stats = dataset.stats()
    assert NUM * LATE_S * 0.9 <= stats["split_s"]["consumer"] <= span_s
    assert stats["waited_s"] + stats["split_s"]["consumer"] == pytest.approx(span_s, rel=0.1, abs=0.1)
    assert stats["waited_share"] < 0.5


def test_time_in_decode_and_transform_is_the_loops_own(bucket: Bucket) -> None:
    def slow(sample: Any) -> Any:
        threading.Event().wait(LATE_S)
        return sample

    training = Training(bucket, "samples", num=NUM, nbytes=SIZE, transform=slow)
    dataset = training.dataset()
    training.read(dataset)
    assert training.read(dataset) == training.units(training.order())
    assert dataset.stats()["split_s"]["consumer"] >= NUM * LATE_S * 0.9


def test_memory_that_is_held_shows_as_the_wait_for_a_slot(bucket: Bucket, procs: int) -> None:
    training = Training(bucket, "samples", num=8, nbytes=400_000, procs=procs, memory_bytes="1MiB")
    dataset = training.dataset()
    iterator = iter(dataset)
    held = [next(iterator), next(iterator)]
    timer = threading.Timer(0.6, held.clear)
    timer.start()
    training.unit(next(iterator))
    timer.join()
    assert len(training.read(iterator)) == 5
    split = dataset.stats()["split_s"]
    assert split["slot_wait"] >= 0.4
    assert split["slot_wait"] > split["first_byte"] + split["transfer"]


def test_workers_that_start_show_as_the_wait_for_a_slot_and_not_as_the_stores(bucket: Bucket) -> None:
    training = Training(bucket, "samples", num=NUM, nbytes=SIZE)
    dataset = training.dataset()
    waited_s, _ = clocked(dataset, training)
    stats = dataset.stats()
    assert_adds_up(stats, waited_s)
    assert stats["split_s"]["slot_wait"] > 0.5 * stats["waited_s"]


def test_listing_is_timed_once_and_is_part_of_no_epoch(tmp_path: Any) -> None:
    corpus = Corpus(tmp_path).fill(300, 10)
    begun_s = time.perf_counter()
    dataset = ObjectStoreIterableDataset(corpus.uri, procs=0)
    took_s = time.perf_counter() - begun_s
    listing_s = dataset.stats()["split_s"]["listing"]
    assert 0 < listing_s <= took_s
    for _ in range(2):
        assert len(list(dataset)) == 300
        assert dataset.stats()["split_s"]["listing"] == listing_s


@pytest.mark.parametrize("kind", ["samples", "rows"])
def test_queue_depth_is_what_lies_ready_for_the_loop(bucket: Bucket, kind: str) -> None:
    training = Training(bucket, kind, nbytes=SIZE, prefetch=4)
    dataset = training.dataset()
    assert dataset.stats()["queue_depth"] == 0
    iterator = iter(dataset)
    next(iterator)
    # Four at a time, of which the loop has one.
    wait_until(lambda: dataset.stats()["queue_depth"] >= 3, "what was asked for has come")
    assert dataset.stats()["queue_depth"] <= 4
    assert len(list(iterator)) == len(training.units(range(40))) - 1
    assert dataset.stats()["queue_depth"] == 0


# The bar.


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Makes standard error a terminal, and gives the other end of it."""
    ours, theirs = pty.openpty()
    try:
        with monkeypatch.context() as patch, os.fdopen(theirs, "w") as stderr:
            patch.setenv("TERM", "xterm")
            patch.setenv("COLUMNS", "160")
            patch.setattr("sys.stderr", stderr)
            yield ours
    finally:
        os.close(ours)


def _drawn(terminal: int) -> str:
    os.set_blocking(terminal, False)
    data = b""
    try:
        while piece := os.read(terminal, 1 << 16):
            data += piece
    except BlockingIOError:
        pass
    return data.decode()


@pytest.mark.parametrize("kind", ["samples", "rows"])
def test_progress_draws_a_bar_on_a_terminal_up_to_the_end_of_the_epoch(
    bucket: Bucket, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(bucket, kind, num=26, nbytes=SIZE, procs=0, progress=True)
    units = training.units(training.order())
    dataset = training.dataset()
    with terminal(monkeypatch) as screen:
        assert training.read(dataset) == units
        text = _drawn(screen)
        assert "26/26 samples" in text
        assert "waiting" in text
        assert "MiB/s" in text
        for number, _ in enumerate(dataset):
            if number == 1:
                break
        text = _drawn(screen)
        assert f"{sum(map(len, units[:2]))}/26 samples" in text
        assert "26/26" not in text


@pytest.mark.parametrize("forced", ["", "1"])
def test_progress_says_nothing_on_a_pipe(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    training = Training(bucket, "samples", num=NUM, nbytes=SIZE, procs=0, progress=True)
    read, write = os.pipe()
    with os.fdopen(write, "w") as stderr, os.fdopen(read) as reader:
        monkeypatch.setenv("FORCE_COLOR", forced)
        monkeypatch.setattr("sys.stderr", stderr)
        assert len(training.read(training.dataset())) == NUM
        monkeypatch.undo()
        stderr.close()
        assert reader.read() == ""
