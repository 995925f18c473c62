"""What a state looks like, and every reason to refuse one."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

import s3dlio
from s3dlio.datasets.order import Layout, epoch_order
from s3dlio.datasets.progress import Progress, Tally
from s3dlio.datasets.state import Subject, merge_states, read_state
from s3dlio.engine.errors import ConfigurationError

NUM = 20


def subject(**other: Any) -> Subject:
    known = {
        "kind": "objects",
        "dataset": "s3://b/p/",
        "listing": "0a1b",
        "num_objects": NUM,
        "seed": 7,
        "shuffle": True,
    }
    return Subject(**{**known, **other})


def begin(layout: Layout, rank: int, worker: int, state: dict[str, Any] | None = None) -> tuple[Progress, Tally]:
    progress = Progress(subject())
    if state is not None:
        progress.load(state)
    return progress, progress.begin(epoch_order(NUM, 7, progress.epoch), layout, rank, worker)


def state_of(layout: Layout, rank: int = 0, worker: int = 0, num: int = 0, position: Any = None) -> dict[str, Any]:
    progress, tally = begin(layout, rank, worker)
    tally.note(num, position)
    return progress.to_dict()


def changed(path: str, value: Any) -> dict[str, Any]:
    """Returns a good state of 2 ranks and 2 workers with another value at a path of names and numbers."""
    state = deepcopy(GOOD)
    *way, last = path.split("/")
    at: Any = state
    for name in way:
        at = at[int(name)] if isinstance(at, list) else at[name]
    at[last] = value
    return state


def refuses(state: Any, text: str) -> None:
    progress = Progress(subject())
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        progress.load(state)
    assert progress.to_dict() == Progress(subject()).to_dict()


GOOD = state_of(Layout(2, 2, 4, tail="pad"), 1, 0, 4)
DEAL = "layers/0/ranks/1/0"


def test_a_state_is_text_and_numbers_and_says_what_it_is_of() -> None:
    assert GOOD == {
        "version": 1,
        "kind": "objects",
        "dataset": "s3://b/p/",
        "listing": "0a1b",
        "num_objects": 20,
        "seed": 7,
        "shuffle": True,
        "epoch": 0,
        "layers": [
            {
                "world_size": 2,
                "tail": "pad",
                "ranks": {
                    "1": [{"num_workers": 2, "batch_size": 4, "drop_last": False, "delivered": {"0": {"samples": 4}}}]
                },
            }
        ],
    }
    assert json.loads(json.dumps(GOOD)) == GOOD
    assert read_state(GOOD).to_dict() == GOOD


def test_numbers_of_ranks_may_have_become_integers() -> None:
    # YAML and some checkpoint formats do that.
    state = changed("layers/0/ranks", {1: GOOD["layers"][0]["ranks"]["1"]})
    assert read_state(state).to_dict() == GOOD


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"kind": "tfrecord"}, "of another kind of samples 'objects'; here it is 'tfrecord'"),
        ({"dataset": "s3://b/q/"}, "of another data set 's3://b/p/'; here it is 's3://b/q/'"),
        ({"num_objects": 21}, "of another number of objects 20; here it is 21"),
        ({"listing": "ffff"}, "of another listing, whose digest is '0a1b'; here it is 'ffff'"),
        ({"seed": 8}, "of another seed 7; here it is 8"),
        ({"shuffle": False}, "of another shuffle True; here it is False"),
    ],
)
def test_c9_a_state_of_something_else_is_refused_and_both_are_named(other: dict[str, Any], text: str) -> None:
    progress = Progress(subject(**other))
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        progress.load(GOOD)
    assert progress.to_dict()["layers"] == []


@pytest.mark.parametrize("version", [2, 0, "1", True, 1.0, None, np.zeros(2), [1]])
def test_c9_a_state_of_another_version_is_refused_and_both_are_named(version: Any) -> None:
    refuses({**GOOD, "version": version}, "; this s3dlio reads version 1")
    refuses({**GOOD, "version": 2}, "the state has version 2; this s3dlio reads version 1")


@pytest.mark.parametrize("given", [None, [], "state", 3, {}, {"layers": []}, [GOOD]])
def test_what_is_no_state_is_refused(given: Any) -> None:
    refuses(given, "a state is the dict that state_dict() returned, not ")


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("layers", None, "Expected `array`, got `null` - at `$.layers`"),
        ("epoch", -1, "at `$.epoch`"),
        ("epoch", 2**63, "at `$.epoch`"),
        ("epoch", True, "at `$.epoch`"),
        ("extra", 1, "unknown field `extra`"),
        ("layers/0/world_size", 0, "at `$.layers[0].world_size`"),
        ("layers/0/world_size", 1, "rank 1 of 1"),
        ("layers/0/tail", "even", "at `$.layers[0].tail`"),
        ("layers/0/ranks/2", [], "of length >= 1"),
        ("layers/0/ranks/-1", [], "at `key` in `$.layers[0].ranks`"),
        ("layers/0/ranks/one", [], "at `key` in `$.layers[0].ranks`"),
        (f"{DEAL}/num_workers", 0, "Expected `int` >= 1"),
        (f"{DEAL}/batch_size", 0, "Expected `int` >= 1"),
        (f"{DEAL}/drop_last", "yes", "Expected `bool`, got `str`"),
        (f"{DEAL}/delivered/2", {"samples": 0}, "worker 2 of 2"),
        (f"{DEAL}/delivered/0/samples", -1, "Expected `int` >= 0"),
        (f"{DEAL}/delivered/0/samples", 1.5, "Expected `int`, got `float`"),
        (f"{DEAL}/delivered/0/samples", np.int64(4), "Expected `int`, got `numpy.int64`"),
        (f"{DEAL}/delivered/0/position", "here", "Expected `object | null`, got `str`"),
        (
            f"{DEAL}/delivered/0/samples",
            12,
            "worker 0 of rank 1 cannot have delivered what the state says: 12 samples are more than the 6",
        ),
        (f"{DEAL}/delivered/0/samples", 10**30, "are more than the 6 of the share"),
        (f"{DEAL}/delivered/0/samples", 3, "3 samples end within a batch of 4"),
    ],
)
def test_c9_a_state_that_makes_no_sense_is_refused_and_the_place_is_named(path: str, value: Any, text: str) -> None:
    refuses(changed(path, value), text)


def test_c9_all_layers_and_deals_but_the_last_are_complete() -> None:
    later = state_of(Layout(1))["layers"][0]
    refuses({**GOOD, "layers": [*GOOD["layers"], later]}, "the states of ranks 0 are missing")
    deal = GOOD["layers"][0]["ranks"]["1"][0]
    refuses(changed("layers/0/ranks/1", [deal, deal]), "the states of workers 1 of rank 1 are missing")


# What a state needs to go on in another layout.


@pytest.mark.parametrize("now", [Layout(1), Layout(3), Layout(2, tail="drop"), Layout(4, 2, 4, tail="pad")])
def test_c9_another_world_needs_the_states_of_all_ranks(now: Layout) -> None:
    for _ in range(2):
        with pytest.raises(
            ConfigurationError, match=r"^the states of ranks 0 are missing; call s3dlio\.merge_states with all of them$"
        ):
            begin(now, 0, 0, GOOD)


def test_c9_missing_ranks_are_named_but_not_a_thousand_of_them() -> None:
    state = merge_states([state_of(Layout(5), 0), state_of(Layout(5), 3)])
    with pytest.raises(ConfigurationError, match="the states of ranks 1, 2, 4 are missing"):
        begin(Layout(1), 0, 0, state)
    with pytest.raises(ConfigurationError, match=r"ranks 1, 2, 3, 4, 5, 6, 7, 8, \.\.\. are missing"):
        begin(Layout(1), 0, 0, state_of(Layout(10**18)))


def test_c9_the_state_of_another_rank_or_worker_is_not_ones_own() -> None:
    with pytest.raises(ConfigurationError, match="the states of ranks 0 are missing"):
        begin(Layout(2, 2, 4, tail="pad"), 0, 0, GOOD)
    with pytest.raises(ConfigurationError, match="the states of workers 1 of rank 1 are missing"):
        begin(Layout(2, 2, 4, tail="pad"), 1, 1, GOOD)


@pytest.mark.parametrize(
    "now", [Layout(2, 1, 4, tail="pad"), Layout(2, 2, 5, tail="pad"), Layout(2, 2, 4, True, "pad")]
)
def test_c9_other_workers_or_batches_need_the_states_of_all_workers_of_the_rank(now: Layout) -> None:
    with pytest.raises(ConfigurationError, match="the states of workers 1 of rank 1 are missing"):
        begin(now, 1, 0, GOOD)


def test_c9_another_world_needs_all_workers_of_all_ranks() -> None:
    state = merge_states(
        [GOOD, state_of(Layout(2, 2, 4, tail="pad"), 0, 0), state_of(Layout(2, 2, 4, tail="pad"), 0, 1)]
    )
    with pytest.raises(ConfigurationError, match="the states of workers 1 of rank 1 are missing"):
        begin(Layout(1), 0, 0, state)


def test_c9_within_a_file_only_the_same_worker_in_the_same_layout_goes_on() -> None:
    within = state_of(Layout(1), num=3, position={"record": 17})
    _, tally = begin(Layout(1), 0, 0, within)
    assert (tally.num_delivered, tally.position) == (3, {"record": 17})
    for other in (Layout(1, 2), Layout(2), Layout(1, tail="pad")):
        with pytest.raises(ConfigurationError, match="worker 0 of rank 0 stands within a file"):
            begin(other, 0, 0, within)
    tally.note(1)
    assert tally.position is None


# Merging.


def test_c9_states_of_ranks_and_of_workers_merge_into_a_complete_one() -> None:
    layout = Layout(2, 2, 4)
    states = [state_of(layout, rank, worker, 4 * (rank == worker)) for rank in range(2) for worker in range(2)]
    merged = s3dlio.merge_states(state for state in states)
    assert list(merged["layers"][0]["ranks"]) == ["0", "1"]
    _, tally = begin(Layout(1), 0, 0, merged)
    assert tally.share.num_samples == NUM - 8


def other_subject(**other: Any) -> dict[str, Any]:
    progress = Progress(subject(**other))
    progress.begin(epoch_order(progress.to_dict()["num_objects"], 7, 0), Layout(2, 2, 4, tail="pad"), 1, 0).note(4)
    return progress.to_dict()


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({**GOOD, "epoch": 1}, "epoch 0 and 1"),
        (other_subject(seed=8), "seed 7 and 8"),
        (other_subject(dataset="s3://c/"), "data set 's3://b/p/' and 's3://c/'"),
        (other_subject(listing="ffff"), "listing, whose digest is '0a1b' and 'ffff'"),
        (other_subject(num_objects=30), "number of objects 20 and 30"),
        (other_subject(shuffle=False), "shuffle True and False"),
        (other_subject(kind="tfrecord"), "kind of samples 'objects' and 'tfrecord'"),
        (Progress(subject()).to_dict(), "number of layers 1 and 0"),
        (state_of(Layout(3, 2, 4, tail="pad")), "world_size 2 and 3"),
        (state_of(Layout(2, 2, 4)), "tail 'pad' and 'uneven'"),
        (state_of(Layout(2, 3, 4, tail="pad"), 1), "layout of rank 1 Layout("),
        (state_of(Layout(2, 2, 5, tail="pad"), 1), "layout of rank 1 Layout("),
        (
            state_of(Layout(2, 2, 4, tail="pad"), 1),
            "count of worker 0 of rank 1 Count(samples=4, position=None) and Count(samples=0",
        ),
    ],
)
def test_c9_states_of_different_moments_are_not_merged(other: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"states of one moment can be merged; these have {text}")):
        merge_states([GOOD, other])


def test_c9_states_that_went_different_ways_are_not_merged() -> None:
    one, other = state_of(Layout(1), num=5), state_of(Layout(1), num=6)
    of_ranks = [begin(Layout(2), rank, 0, state)[0].to_dict() for rank, state in enumerate((one, other))]
    with pytest.raises(ConfigurationError, match="these have layers before the last"):
        merge_states(of_ranks)
    of_workers = [begin(Layout(1, 2), 0, worker, state)[0].to_dict() for worker, state in enumerate((one, other))]
    with pytest.raises(ConfigurationError, match="these have deals before the last of rank 0"):
        merge_states(of_workers)
    with pytest.raises(ConfigurationError, match="these have number of deals of rank 0 1 and 2"):
        merge_states([one, of_workers[0]])


def test_of_no_state_nothing_is_merged() -> None:
    with pytest.raises(ConfigurationError, match="there are no states to merge"):
        merge_states([])
    with pytest.raises(ConfigurationError, match="a state is the dict"):
        merge_states(GOOD)  # type: ignore[arg-type]
