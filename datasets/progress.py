"""How far a data set is: what an iteration begins with, and what it has delivered since. One per data set and process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from s3dlio.engine.errors import ConfigurationError

from .order import Layout, Positions, Share, rank_part
from .state import Count, Deal, Layer, State, Subject, check_state, left, left_of_part, require_ranks, require_workers


class Tally:
    """What one iteration delivers, and what it has delivered. Counts samples of the whole share, also those before it was resumed."""

    __slots__ = ("_before", "_deals", "_layer", "_worker", "num_delivered", "position", "share")

    def __init__(
        self, share: Share, before: Sequence[Layer], layer: Layer, deals: Sequence[Deal], worker: int, count: Count
    ) -> None:
        self.share = share
        self.num_delivered = count.samples
        """Samples of `share` that were handed out; the next one is that of this number."""
        self.position = count.position
        """Where a reader of records stands in the sample that comes next; None at its beginning."""
        self._before = before
        self._layer = layer
        self._deals = deals
        self._worker = worker

    @property
    def num_units(self) -> int:
        """Units of `share` that were handed out; the next one is that of this number."""
        return self.share.units_in(self.num_delivered)

    def note(self, num: int, position: dict[str, Any] | None = None) -> None:
        """Counts `num` more samples as delivered; 0 for a record that does not end its file.

        Args:
            num: With batches, those of whole units.
            position: What makes a reader of records go on from here, in text and numbers; replaces the one before.
        """
        self.num_delivered += num
        self.position = position
        assert self.num_delivered <= self.share.num_samples

    def layers(self) -> list[Layer]:
        """Returns the layers of a state that has what was delivered; in the last one only this worker of this rank."""
        count = Count(self.num_delivered, self.position)
        [rank] = self._layer.ranks
        return [*self._before, _with_count(self._layer, rank, self._deals, self._worker, count)]


class Progress:
    """The state of a data set, before, while and after it is iterated.

    What was loaded holds for the one iteration that begins next; each one after it begins the epoch anew. The state is that of the
    iteration that began last, whatever becomes of older ones. Pickled, it keeps what the next iteration begins with, and none that runs.
    """

    def __init__(self, subject: Subject) -> None:
        """Begins with epoch 0."""
        self._subject = subject
        self._next = _fresh(subject, 0)
        self._tally: Tally | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the iteration that began last, or that begins next."""
        return self._next.epoch

    @property
    def num_delivered(self) -> int | None:
        """The samples that the iteration that began last has delivered of its share; None before there is one."""
        return None if self._tally is None else self._tally.num_delivered

    def set_epoch(self, epoch: int) -> None:
        """Makes `epoch` the next one. Another one begins anew; the same one stays as it is, also what was loaded."""
        if epoch != self._next.epoch:
            self._next = _fresh(self._subject, epoch)
            self._tally = None

    def forget(self) -> None:
        """Has the next iteration begin its epoch anew, whatever was loaded."""
        self._next = _fresh(self._subject, self._next.epoch)

    def load(self, given: object) -> None:
        """Has the next iteration go on from a state, in its epoch.

        Raises:
            ConfigurationError: As `check_state`. Nothing has changed then.
        """
        self._next = check_state(given, self._subject)
        self._tally = None

    def begin(self, order: Positions, layout: Layout, rank: int, worker: int) -> Tally:
        """Returns what an iteration delivers, and how much of that was delivered already.

        Args:
            order: Of `epoch`.
            layout: As it is now. `num_workers` and the batches may have changed if all workers of the rank are in the state,
                `world_size` and `tail` if all ranks are.
            rank: Below `layout.world_size`.
            worker: Below `layout.num_workers`.

        Raises:
            ConfigurationError: They are not. The state is kept: the next iteration raises it again.
        """
        assert len(order) == self._subject.num_objects
        layers, deals, count = self._enter(layout, rank, worker)
        part = rank_part(left(order, layers), layout, rank)
        if len(deals) > 1:
            part = part[left_of_part(len(part), deals[:-1], rank)]
        share = Share(part, deals[-1].layout, 0, worker)
        layer = Layer(layout.world_size, layout.tail, {rank: deals})
        self._tally = Tally(share, layers, layer, deals, worker, count)
        self._next = _fresh(self._subject, self._next.epoch)
        return self._tally

    def _enter(self, layout: Layout, rank: int, worker: int) -> tuple[list[Layer], list[Deal], Count]:
        """Returns the layers that are complete, the deals of the rank in the one that holds now, and what the worker has delivered.

        Raises:
            ConfigurationError: As `begin`.
        """
        layers = self._next.layers
        deals: list[Deal] = []
        if layers and (layers[-1].world_size, layers[-1].tail) == (layout.world_size, layout.tail):
            if rank not in layers[-1].ranks:
                require_ranks(layers[-1])
            deals = layers[-1].ranks[rank]
            layers = layers[:-1]
        elif layers:
            require_ranks(layers[-1])
        return layers, *_continue(deals, layout, rank, worker)

    def to_dict(self) -> dict[str, Any]:
        """Returns the state, as `state_dict` gives it: of the iteration that began last, or as it was loaded."""
        state = self._next if self._tally is None else replace(self._next, layers=self._tally.layers())
        return state.to_dict()

    def to_dict_of(self, layout: Layout, rank: int, worker: int) -> dict[str, Any]:
        """Returns the state as `to_dict`; where no iteration has begun, as if that of this worker had, and delivered nothing.

        So the states of all ranks can be merged, whether each has asked for its first sample or not.
        """
        if self._tally is None:
            try:
                layers, deals, count = self._enter(layout, rank, worker)
            except ConfigurationError:
                # What was loaded is not complete: an iteration will say so. Here it is handed on.
                return self.to_dict()
            layer = Layer(layout.world_size, layout.tail, {})
            return replace(self._next, layers=[*layers, _with_count(layer, rank, deals, worker, count)]).to_dict()
        return self.to_dict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_subject": self._subject, "_next": self._next, "_tally": None}


def _with_count(layer: Layer, rank: int, deals: Sequence[Deal], worker: int, count: Count) -> Layer:
    """Returns the layer with one worker of one rank in it, and its count in the last deal."""
    return replace(layer, ranks={rank: [*deals[:-1], replace(deals[-1], delivered={worker: count})]})


def _continue(deals: list[Deal], layout: Layout, rank: int, worker: int) -> tuple[list[Deal], Count]:
    """Returns the deals of a rank with the one that holds now at the end, and what the worker has delivered of that."""
    now = Deal(layout.num_workers, layout.batch_size, layout.drop_last, {})
    if deals and deals[-1].layout == now.layout:
        if worker not in deals[-1].delivered:
            require_workers(deals[-1], rank)
        return deals, deals[-1].delivered[worker]
    if deals:
        require_workers(deals[-1], rank)
    return [*deals, now], Count(0)


def _fresh(subject: Subject, epoch: int) -> State:
    return State(**msgspec.structs.asdict(subject), epoch=epoch)
