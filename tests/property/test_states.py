"""States under any history of interrupted runs: what comes is what the uninterrupted run would deliver, or what a model of lists has left.

A *run* is all workers of all ranks, each a `Progress` of its own, as in as many processes. Each delivers some units and stops; then the
states travel as JSON, are merged or not, and another run goes on, in the same layout or another.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from s3dlio.datasets.order import Layout, Share, epoch_order, omitted, repeated
from s3dlio.datasets.progress import Progress, Tally
from s3dlio.datasets.state import Subject, merge_states
from s3dlio.engine.errors import ConfigurationError

nums = st.integers(0, 12) | st.integers(0, 60)
layouts = st.builds(
    Layout,
    world_size=st.integers(1, 4) | st.integers(1, 9),
    num_workers=st.integers(1, 3),
    batch_size=st.none() | st.integers(1, 7) | st.integers(8, 100),
    drop_last=st.booleans(),
    tail=st.sampled_from(["uneven", "pad", "drop"]),
)
whole_layouts = layouts.map(lambda layout: Layout(layout.world_size, layout.num_workers, layout.batch_size))
Place = tuple[int, int]
"""A rank and a worker."""
Advance = Callable[[int], int]
"""How many of so many units come before the interruption."""


def advances(data: st.DataObject) -> Advance:
    """Stops are more often at an end, or all at one, than chance would have it."""
    kind = data.draw(st.sampled_from(["none", "all", "some", "some", "some"]))
    return lambda num: {"none": 0, "all": num}[kind] if kind != "some" else data.draw(st.integers(0, num))


def subject(num: int, *, seed: int = 7, shuffle: bool = True) -> Subject:
    return Subject(kind="objects", dataset="s3://b/p/", listing="0a1b", num_objects=num, seed=seed, shuffle=shuffle)


def travel(state: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(state))
    return found


def places_of(layout: Layout) -> list[Place]:
    return [(rank, worker) for rank in range(layout.world_size) for worker in range(layout.num_workers)]


def begin(num: int, layout: Layout, place: Place, state: dict[str, Any] | None) -> tuple[Progress, Tally]:
    progress = Progress(subject(num))
    if state is not None:
        progress.load(travel(state))
    return progress, progress.begin(epoch_order(num, 7, progress.epoch), layout, *place)


def advance(tally: Tally, num_units: int) -> list[list[int]]:
    """Hands the next units out."""
    found = []
    for index in range(tally.num_units, tally.num_units + num_units):
        unit = tally.share.unit(index).tolist()
        tally.note(len(unit))
        found.append(unit)
    return found


def num_left(tally: Tally) -> int:
    return len(tally.share) - tally.num_units


def uninterrupted(num: int, layout: Layout, place: Place) -> list[list[int]]:
    share = Share(epoch_order(num, 7, 0), layout, *place)
    return [share.unit(index).tolist() for index in range(len(share))]


@given(num=nums, layout=layouts, data=st.data())
def test_c9_a_run_in_the_same_layout_goes_on_exactly_however_often_it_is_interrupted(
    num: int, layout: Layout, data: st.DataObject
) -> None:
    place = data.draw(st.sampled_from(places_of(layout)))
    state, found = None, []
    for _ in range(3):
        progress, tally = begin(num, layout, place, state)
        found += advance(tally, advances(data)(num_left(tally)))
        state = progress.to_dict()
    _, tally = begin(num, layout, place, state)
    found += advance(tally, num_left(tally))
    assert found == uninterrupted(num, layout, place)


@given(num=nums, layout=layouts, data=st.data())
def test_c9_a_merged_state_in_the_same_layout_is_as_good_as_the_own_one(
    num: int, layout: Layout, data: st.DataObject
) -> None:
    halted = {place: begin(num, layout, place, None) for place in places_of(layout)}
    stop = advances(data)
    found = {place: advance(tally, stop(num_left(tally))) for place, (_, tally) in halted.items()}
    merged = merge_states(travel(progress.to_dict()) for progress, _ in halted.values())
    for place in halted:
        _, tally = begin(num, layout, place, merged)
        assert found[place] + advance(tally, num_left(tally)) == uninterrupted(num, layout, place)


class Model:
    """What is left of an epoch, as lists: of everything when ranks change, of a rank's part when only its workers or batches do."""

    def __init__(self, num: int) -> None:
        self.sequence: list[int] = epoch_order(num, 7, 0).tolist()
        self.layout: Layout | None = None
        self.parts: list[list[int]] = []
        self.shares: dict[Place, list[list[int]]] = {}
        self.delivered: dict[Place, int] = {}
        """Units."""
        self.in_layer: set[int] = set()

    def share(self, layout: Layout) -> None:
        before, self.layout = self.layout, layout
        if before is None or (before.world_size, before.tail) != (layout.world_size, layout.tail):
            is_over = before is not None and all(self.is_over(rank) for rank in range(before.world_size))
            self.sequence = [] if is_over else [at for at in self.sequence if at not in self.in_layer]
            self.in_layer = set()
            self.parts = self.split(self.sequence, layout)
        elif before == layout:
            return
        else:
            self.parts = [self.left_of(rank) for rank in range(layout.world_size)]
        self.deal(layout)

    def split(self, sequence: list[int], layout: Layout) -> list[list[int]]:
        world_size, num = layout.world_size, len(sequence)
        if layout.tail == "drop":
            sequence = sequence[: num // world_size * world_size]
        while layout.tail == "pad" and sequence and len(sequence) % world_size:
            sequence = [*sequence, sequence[len(sequence) - num]]
        return [sequence[rank::world_size] for rank in range(world_size)]

    def deal(self, layout: Layout) -> None:
        size = layout.batch_size or 1
        self.shares, self.delivered = {}, {}
        for rank, part in enumerate(self.parts):
            assert len(set(part)) == len(part)
            batches = [part[at : at + size] for at in range(0, len(part), size)]
            if layout.drop_last and batches and len(batches[-1]) < size:
                batches.pop()
            for worker in range(layout.num_workers):
                self.shares[rank, worker] = batches[worker :: layout.num_workers]
                self.delivered[rank, worker] = 0

    def is_over(self, rank: int) -> bool:
        return all(self.delivered[place] == len(self.shares[place]) for place in self.shares if place[0] == rank)

    def left_of(self, rank: int) -> list[int]:
        if self.is_over(rank):
            return []
        places = [place for place in self.shares if place[0] == rank]
        gone = {at for place in places for unit in self.shares[place][: self.delivered[place]] for at in unit}
        return [at for at in self.parts[rank] if at not in gone]

    def note(self, place: Place, units: list[list[int]]) -> None:
        start = self.delivered[place]
        assert units == self.shares[place][start : start + len(units)]
        self.delivered[place] += len(units)
        self.in_layer |= set(chain.from_iterable(units))

    def left(self) -> list[list[list[int]]]:
        return [self.shares[place][self.delivered[place] :] for place in sorted(self.shares)]


def run(
    num: int, layout: Layout, state: dict[str, Any] | None, model: Model, stop: Advance
) -> tuple[dict[str, Any], Counter[int]]:
    """Has all workers of all ranks go on from `state` and deliver some; returns the merged state, and what they delivered."""
    model.share(layout)
    states, found = [], Counter[int]()
    for place in places_of(layout):
        progress, tally = begin(num, layout, place, state)
        units = advance(tally, stop(num_left(tally)))
        model.note(place, units)
        found.update(chain.from_iterable(units))
        states.append(travel(progress.to_dict()))
    return merge_states(states), found


def run_all(num: int, layouts: Iterable[Layout], data: st.DataObject, model: Model) -> Counter[int]:
    """Has run after run go on; the last one ends the epoch. Returns what they delivered."""
    *first, last = layouts
    state, found = None, Counter[int]()
    for layout in first:
        state, delivered = run(num, layout, state, model, advances(data))
        found += delivered
    state, delivered = run(num, last, state, model, lambda num: num)
    assert not any(chain.from_iterable(model.left()))
    # The epoch is over: in every layout.
    after, nothing = run(
        num, data.draw(st.sampled_from([*first, last]) | globals()["layouts"]), state, model, lambda num: num
    )
    assert not nothing
    assert not any(chain.from_iterable(model.left()))
    assert after["num_objects"] == num
    return found + delivered


@given(num=nums, history=st.lists(whole_layouts, min_size=1, max_size=4), data=st.data())
def test_c9_over_any_worlds_each_object_comes_exactly_once(
    num: int, history: list[Layout], data: st.DataObject
) -> None:
    assert run_all(num, history, data, Model(num)) == Counter(range(num))


@given(num=nums, layout=layouts, others=st.lists(st.tuples(st.integers(1, 3), st.none() | st.integers(1, 9), st.booleans()),
       max_size=3), data=st.data())  # fmt: skip
def test_c9_other_workers_and_batches_of_a_rank_go_on_with_its_own_part(
    num: int, layout: Layout, others: list[tuple[int, int | None, bool]], data: st.DataObject
) -> None:
    # Each rank loads its own state only, and never sees one of another rank; they need not even have the same batches.
    rank = data.draw(st.integers(0, layout.world_size - 1))
    state, found = None, []
    history = [layout, *(Layout(layout.world_size, *other, layout.tail) for other in others)]
    for at, now in enumerate(history):
        stop = advances(data) if at < len(history) - 1 else (lambda num: num)
        states = []
        for worker in range(now.num_workers):
            progress, tally = begin(num, now, (rank, worker), state)
            found += list(chain.from_iterable(advance(tally, stop(num_left(tally)))))
            states.append(progress.to_dict())
        state = merge_states(states)
        assert [*state["layers"][-1]["ranks"]] == [str(rank)]
    part = list(chain.from_iterable(uninterrupted(num, Layout(layout.world_size, tail=layout.tail), (rank, 0))))
    assert len(set(found)) == len(found)
    assert set(found) <= set(part)
    if not any(now.drop_last and now.batch_size for now in history):
        assert sorted(found) == sorted(part)


@settings(max_examples=200)
@given(num=nums, history=st.lists(layouts, min_size=1, max_size=4), data=st.data())
def test_c9_whatever_the_tail_what_comes_is_what_was_left(num: int, history: list[Layout], data: st.DataObject) -> None:
    model = Model(num)
    found = run_all(num, history, data, model)
    if all(layout.tail != "pad" for layout in history):
        assert set(found.values()) <= {1}
    if all(layout.tail != "drop" and not (layout.drop_last and layout.batch_size) for layout in history):
        assert found.keys() == set(range(num))


@given(num=nums, first=whole_layouts, last=layouts, data=st.data())
def test_c9_in_another_world_the_tail_rule_holds_for_what_was_left(
    num: int, first: Layout, last: Layout, data: st.DataObject
) -> None:
    model = Model(num)
    state, found = run(num, first, None, model, advances(data))
    rest = epoch_order(num, 7, 0)
    rest = rest[[at not in found for at in rest.tolist()]]
    is_same_world = (first.world_size, first.tail) == (last.world_size, last.tail)
    _, delivered = run(num, last, state, model, lambda num: num)
    if not is_same_world:
        again, never = Counter(repeated(rest, last).tolist()), Counter(omitted(rest, last).tolist())
        assert delivered == Counter(rest.tolist()) + again - never
    else:
        assert set(found).isdisjoint(delivered)


@given(num=nums, layout=layouts, data=st.data())
def test_merging_neither_depends_on_the_order_nor_on_how_often(num: int, layout: Layout, data: st.DataObject) -> None:
    states = []
    for place in places_of(layout):
        progress, tally = begin(num, layout, place, None)
        advance(tally, data.draw(st.integers(0, num_left(tally))))
        states.append(progress.to_dict())
    merged = merge_states(states)
    shuffled = data.draw(st.permutations(states))
    assert merge_states([*shuffled, *states[:2]]) == merged
    cut = data.draw(st.integers(1, len(states)))
    parts = [part for part in (shuffled[:cut], shuffled[cut:]) if part]
    assert merge_states(merge_states(part) for part in parts) == merged
    assert merge_states([merged]) == merged


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([]) | st.just({})


def spoil(state: Any, data: st.DataObject) -> Any:
    """Returns the state with one value in it replaced, removed or added, at any depth."""
    if not isinstance(state, dict | list) or not state or data.draw(st.integers(0, 5)) == 0:
        return data.draw(values | st.integers(-2, 20))
    if isinstance(state, list):
        at = data.draw(st.integers(0, len(state) - 1))
        return [*state[:at], spoil(state[at], data), *state[at + 1 :]]
    key = data.draw(st.sampled_from([*state]))
    changed = data.draw(st.sampled_from(["value", "value", "value", "key", "gone", "more"]))
    if changed == "value":
        return {**state, key: spoil(state[key], data)}
    others = {name: value for name, value in state.items() if name != key}
    if changed == "gone":
        return others
    name: Any = data.draw(st.text(max_size=3) | st.integers(-1, 10**20).map(str) | st.integers(-1, 9))
    return {**(others if changed == "key" else state), name: state[key]}


@settings(max_examples=200)
@given(num=nums, history=st.lists(layouts, min_size=1, max_size=2), now=layouts, data=st.data())
def test_c9_of_a_damaged_state_there_is_an_error_or_another_state_that_makes_sense(
    num: int, history: list[Layout], now: Layout, data: st.DataObject
) -> None:
    state, model = None, Model(num)
    for layout in history:
        state, _ = run(num, layout, state, model, advances(data))
    spoiled = spoil(state, data)
    progress = Progress(subject(num))
    try:
        merge_states([spoiled, spoiled])
        progress.load(spoiled)
        tally = progress.begin(epoch_order(num, 7, progress.epoch), now, 0, 0)
    except ConfigurationError:
        return
    found = list(chain.from_iterable(advance(tally, num_left(tally))))
    assert len(set(found)) == len(found)
    assert set(found) <= set(range(num))
    Progress(subject(num)).load(travel(progress.to_dict()))
