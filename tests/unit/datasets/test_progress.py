"""What a data set begins with, and what its state says, from iteration to iteration."""

from __future__ import annotations

from copy import copy
from typing import Any

import pytest

from s3dlio.datasets.order import Layout, epoch_order
from s3dlio.datasets.progress import Progress, Tally
from s3dlio.datasets.state import Subject
from s3dlio.engine.errors import ConfigurationError

NUM = 10


def new_progress() -> Progress:
    return Progress(Subject(kind="objects", dataset="d", listing="00", num_objects=NUM, seed=1, shuffle=True))


def begin(progress: Progress, layout: Layout = Layout(1), rank: int = 0, worker: int = 0) -> Tally:  # noqa: B008
    return progress.begin(epoch_order(NUM, 1, progress.epoch), layout, rank, worker)


def count(progress: Progress) -> Any:
    return progress.to_dict()["layers"][0]["ranks"]["0"][-1]["delivered"]["0"]["samples"]


def test_a_state_counts_what_was_noted() -> None:
    progress = new_progress()
    assert progress.num_delivered is None
    assert progress.to_dict()["layers"] == []
    tally = begin(progress)
    assert (progress.num_delivered, count(progress)) == (0, 0)
    tally.note(3)
    before = progress.to_dict()
    tally.note(2)
    assert (progress.num_delivered, count(progress), tally.num_units) == (5, 5, 5)
    assert before["layers"][0]["ranks"]["0"][0]["delivered"] == {"0": {"samples": 3}}


def test_more_than_the_share_is_not_counted() -> None:
    tally = begin(new_progress(), Layout(2), 1)
    tally.note(5)
    with pytest.raises(AssertionError):
        tally.note(1)


def test_a_second_iteration_begins_anew_and_the_state_is_that_of_the_last() -> None:
    progress = new_progress()
    first = begin(progress)
    first.note(7)
    second = begin(progress)
    second.note(1)
    first.note(1)
    assert count(progress) == 1
    assert second.share.samples().tolist() == first.share.samples().tolist()


def test_c9_what_was_loaded_holds_for_one_iteration() -> None:
    done = new_progress()
    begin(done).note(7)
    progress = new_progress()
    progress.load(done.to_dict())
    assert progress.to_dict() == done.to_dict()
    assert begin(progress).num_delivered == 7
    assert begin(progress).num_delivered == 0


def test_c9_what_was_loaded_stays_until_an_iteration_could_begin() -> None:
    done = new_progress()
    begin(done, Layout(2)).note(3)
    progress = new_progress()
    progress.load(done.to_dict())
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="the states of ranks 1 are missing"):
            begin(progress, Layout(3))
    assert progress.to_dict() == done.to_dict()
    assert begin(progress, Layout(2)).num_delivered == 3


def test_c9_a_state_is_loaded_with_its_epoch() -> None:
    done = new_progress()
    done.set_epoch(4)
    begin(done).note(7)
    progress = new_progress()
    progress.load(done.to_dict())
    assert progress.epoch == 4
    progress.set_epoch(4)
    tally = begin(progress)
    assert tally.share.samples(tally.num_delivered).tolist() == epoch_order(NUM, 1, 4)[7:].tolist()


def test_another_epoch_begins_anew() -> None:
    progress = new_progress()
    old = begin(progress)
    old.note(7)
    progress.set_epoch(1)
    old.note(1)
    assert progress.to_dict()["layers"] == []
    assert (progress.epoch, progress.num_delivered) == (1, None)
    assert begin(progress).num_delivered == 0


def test_c9_an_epoch_that_has_ended_has_nothing_more() -> None:
    done = new_progress()
    for rank_layout in (Layout(1), Layout(1, 1, 4, True)):
        tally = begin(done, rank_layout)
        tally.note(tally.share.num_samples)
        for now in (rank_layout, Layout(3), Layout(1, 2), Layout(2, 1, 1, tail="drop")):
            progress = new_progress()
            progress.load(done.to_dict())
            after = begin(progress, now)
            assert after.num_delivered == after.share.num_samples


def test_pickled_it_keeps_what_was_loaded_and_no_iteration() -> None:
    done = new_progress()
    begin(done).note(7)
    progress = new_progress()
    progress.load(done.to_dict())
    assert begin(copy(progress)).num_delivered == 7
    begin(progress).note(1)
    twin = copy(progress)
    assert twin.num_delivered is None
    assert begin(twin).num_delivered == 0
