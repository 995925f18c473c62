"""What a data set has delivered: a state that a checkpoint can hold, and what is left from there. Pure; knows no process.

A state says of what it is, which epoch, and in *layers* who has delivered how much. The first layer shares the order of the epoch out over
ranks; each further one shares what the layers before it left, over other ranks. In a layer each rank has *deals*: the first deals its part
out to its workers; each further one deals what was left of the part, in other batches or to other workers.

    order ──► layer: 4 ranks ──what was left──► layer: 2 ranks
                rank 0 ──► deal: 2 workers ──what was left──► deal: 8 workers, other batches

So the same layout goes on exactly. Another number of workers or another batch size needs the state of all workers of the rank; another
number of ranks, or another `tail`, the states of all ranks.

Rules:

* What was delivered is not left. All else is, also what `drop` and `drop_last` would have omitted; until everyone has had their whole
  share: then the epoch is over, and nothing is left.
* A state is input. All of it is checked, and it holds text and numbers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import islice
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from s3dlio.engine.errors import ConfigurationError

from .order import Layout, Positions, Share, Tail, rank_part

VERSION: Final = 1
Kind = Literal["objects", "tfrecord"]
_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_MAX_NAMED: Final = 8
"""A message names so many ranks or workers at most."""


class Count(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How much one worker has delivered of its share."""

    samples: _Natural
    position: dict[str, Any] | None = None
    """Where it stands within the sample that comes next, if that is a file of records: as the reader of records has it."""


class Deal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a rank's part, or what was left of it, is dealt to its workers, and what those have delivered."""

    num_workers: _Positive
    batch_size: _Positive | None
    drop_last: bool
    delivered: dict[_Natural, Count]
    """By worker."""

    def __post_init__(self) -> None:
        _check_below("worker", self.delivered, self.num_workers)

    @property
    def layout(self) -> Layout:
        """The layout in which the rank is a world of its own."""
        return Layout(1, self.num_workers, self.batch_size, self.drop_last)

    @property
    def missing(self) -> Iterator[int]:
        """The workers of which nothing is known."""
        return (worker for worker in range(self.num_workers) if worker not in self.delivered)


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the order, or what was left of it, is shared out over ranks."""

    world_size: _Positive
    tail: Tail
    ranks: dict[_Natural, Annotated[list[Deal], msgspec.Meta(min_length=1)]]
    """The deals of each rank; all but the last are complete."""

    def __post_init__(self) -> None:
        _check_below("rank", self.ranks, self.world_size)
        for rank, deals in self.ranks.items():
            for deal in deals[:-1]:
                require_workers(deal, rank)

    @property
    def missing(self) -> Iterator[int]:
        """The ranks of which nothing is known."""
        return (rank for rank in range(self.world_size) if rank not in self.ranks)


class Subject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a state is of."""

    kind: Kind
    dataset: str
    """The URI of the prefix, or another name."""
    listing: str
    """The digest of the listing."""
    num_objects: _Natural
    seed: int
    shuffle: bool


class State(Subject, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far an epoch is. All layers but the last are complete."""

    version: Literal[1] = VERSION
    epoch: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    layers: list[Layer] = []

    def __post_init__(self) -> None:
        for layer in self.layers[:-1]:
            require_ranks(layer)

    def to_dict(self) -> dict[str, Any]:
        """Returns the form for checkpoints: dicts, lists, text and numbers, none of them shared with this object."""
        found: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return found


_WORDS: Final = {
    "kind": "kind of samples",
    "dataset": "data set",
    "num_objects": "number of objects",
    "listing": "listing, whose digest is",
    "seed": "seed",
    "shuffle": "shuffle",
    "epoch": "epoch",
}
"""How messages call what two states may differ in, in the order in which they are compared."""


def read_state(given: object) -> State:
    """Returns the state that `State.to_dict` gave, once more as an object.

    Raises:
        ConfigurationError: It is none, or of another version, or makes no sense; where.
    """
    if not isinstance(given, dict) or "version" not in given:
        raise ConfigurationError(f"a state is the dict that state_dict() returned, not {_show(given)}")
    version = given["version"]
    if type(version) is not int or version != VERSION:
        raise ConfigurationError(f"the state has version {_show(version)}; this s3dlio reads version {VERSION}")
    try:
        return msgspec.convert(given, State, str_keys=True)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"the state makes no sense: {error}") from None


def check_state(given: object, subject: Subject) -> State:
    """Returns the state that `State.to_dict` gave, if it fits the data set.

    Raises:
        ConfigurationError: As `read_state`; or it is of another subject, named with this one; or a count is more than there was.
    """
    state = read_state(given)
    for name, word in _WORDS.items():
        if name != "epoch" and getattr(state, name) != getattr(subject, name):
            theirs, ours = _show(getattr(state, name)), _show(getattr(subject, name))
            raise ConfigurationError(f"the state is of another {word} {theirs}; here it is {ours}")
    left(np.arange(subject.num_objects), state.layers)
    return state


def merge_states(states: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Returns one state of all that the states of single ranks, or of single workers, say.

    With those of all ranks, it loads in a world of any size; a state of the only rank there was needs no merging.

    Args:
        states: What `state_dict()` returned, on each of the ranks, in any order; all at the same point of the training.

    Raises:
        ConfigurationError: There are none; they are of different data sets, epochs or layouts; or they contradict each other.
    """
    found = [read_state(given) for given in states]
    if not found:
        raise ConfigurationError("there are no states to merge")
    return reduce(_join, found).to_dict()


def left(order: Positions, layers: Sequence[Layer]) -> Positions:
    """Returns the positions that the layers have not delivered, in order.

    Raises:
        ConfigurationError: A worker cannot have delivered so many samples.
    """
    for layer in layers:
        order = _left_by_layer(order, layer)
    return order


def left_of_part(num: int, deals: Sequence[Deal], rank: int) -> NDArray[np.int64]:
    """Returns which of the `num` samples of a rank's part the deals have not delivered, by number, in order.

    Raises:
        ConfigurationError: As `left`.
    """
    return _deal(num, deals, rank)[1]


def require_ranks(layer: Layer) -> None:
    """Passes if all ranks and their workers are known, and stand between two samples.

    Raises:
        ConfigurationError: Who is missing, or stands within a file.
    """
    if len(layer.ranks) < layer.world_size:
        raise ConfigurationError(_missing("ranks {}", layer.missing))
    for rank, deals in layer.ranks.items():
        require_workers(deals[-1], rank)


def require_workers(deal: Deal, rank: int) -> None:
    """Passes if all workers of a rank are known, and stand between two samples.

    Raises:
        ConfigurationError: Who is missing, or stands within a file.
    """
    if len(deal.delivered) < deal.num_workers:
        raise ConfigurationError(_missing(f"workers {{}} of rank {rank}", deal.missing))
    for worker, count in deal.delivered.items():
        if count.position is not None:
            raise ConfigurationError(
                f"worker {worker} of rank {rank} stands within a file, and only the same worker in the same layout can read on there: "
                "take the state where a file ends, or keep world_size, tail, num_workers and batch_size"
            )


def _left_by_layer(sequence: Positions, layer: Layer) -> Positions:
    layout = Layout(layer.world_size, tail=layer.tail)
    slots = np.arange(len(sequence))
    is_delivered = np.zeros(len(sequence), np.bool_)
    is_over = True
    for rank, deals in layer.ranks.items():
        part = rank_part(slots, layout, rank)
        of_part, rest = _deal(len(part), deals, rank)
        is_delivered[part[of_part]] = True
        is_over = is_over and not len(rest)
    return sequence[:0] if is_over else sequence[~is_delivered]


def _deal(num: int, deals: Sequence[Deal], rank: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Returns which of `num` samples were delivered, and those that are left, by number; none when all shares are."""
    is_delivered = np.zeros(num, np.bool_)
    rest = np.arange(num, dtype=np.int64)
    for deal in deals:
        is_over = len(deal.delivered) == deal.num_workers
        for worker, count in deal.delivered.items():
            share = Share(rest, deal.layout, 0, worker)
            _check_count(share, count.samples, worker, rank)
            is_delivered[share.samples(0, count.samples)] = True
            is_over = is_over and count.samples == share.num_samples
        rest = rest[:0] if is_over else rest[~is_delivered[rest]]
    return is_delivered, rest


def _check_count(share: Share, num: int, worker: int, rank: int) -> None:
    try:
        share.units_in(num)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"worker {worker} of rank {rank} cannot have delivered what the state says: {error}"
        ) from None


def _join(one: State, other: State) -> State:
    for name, word in _WORDS.items():
        _require_same(word, getattr(one, name), getattr(other, name))
    _require_same("number of layers", len(one.layers), len(other.layers))
    if not one.layers:
        return one
    _require_same("layers before the last:", one.layers[:-1], other.layers[:-1])
    mine, yours = one.layers[-1], other.layers[-1]
    _require_same("world_size", mine.world_size, yours.world_size)
    _require_same("tail", mine.tail, yours.tail)
    ranks = dict(mine.ranks)
    for rank, deals in yours.ranks.items():
        ranks[rank] = _join_deals(ranks[rank], deals, f"of rank {rank}") if rank in ranks else deals
    return replace(one, layers=[*one.layers[:-1], replace(mine, ranks=dict(sorted(ranks.items())))])


def _join_deals(mine: list[Deal], yours: list[Deal], where: str) -> list[Deal]:
    _require_same(f"number of deals {where}", len(mine), len(yours))
    _require_same(f"deals before the last {where}:", mine[:-1], yours[:-1])
    last, other = mine[-1], yours[-1]
    _require_same(f"layout {where}", last.layout, other.layout)
    for worker in last.delivered.keys() & other.delivered.keys():
        _require_same(f"count of worker {worker} {where}", last.delivered[worker], other.delivered[worker])
    delivered = dict(sorted({**last.delivered, **other.delivered}.items()))
    return [*mine[:-1], replace(last, delivered=delivered)]


def _require_same(what: str, one: object, other: object) -> None:
    if one != other:
        raise ConfigurationError(
            f"states of one moment can be merged; these have {what} {_show(one)} and {_show(other)}"
        )


def _check_below(what: str, known: Iterable[int], bound: int) -> None:
    for number in known:
        if number >= bound:
            raise ConfigurationError(f"{what} {number} of {bound}")


def _missing(what: str, numbers: Iterator[int]) -> str:
    named = ", ".join(map(str, islice(numbers, _MAX_NAMED)))
    more = "" if next(numbers, None) is None else ", ..."
    return f"the states of {what.format(named + more)} are missing; call s3dlio.merge_states with all of them"


def _show(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}..."
