"""The model of `_model.py` between two ranks: each has a model of half the size, whose tensors are its halves of the whole one's."""

from __future__ import annotations

import torch
from _model import make_model, require_same
from _ranks import WORLD_SIZE
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard


class Sharded:
    """One rank's halves."""

    def __init__(self, mib: int, rank: int) -> None:
        self._mesh = init_device_mesh("cpu", (WORLD_SIZE,))
        # The other rank's are other bytes.
        self._halves = make_model(mib // WORLD_SIZE, seed=rank)

    def make_full(self) -> dict[str, DTensor]:
        """Makes the state that is saved."""
        return {name: self._shard(half) for name, half in self._halves.items()}

    def make_empty(self) -> dict[str, DTensor]:
        """Makes a state to load into."""
        return {name: self._shard(torch.zeros_like(half)) for name, half in self._halves.items()}

    def require_same(self, state: dict[str, DTensor]) -> None:
        """Compares this rank's halves with what they were.

        Raises:
            AssertionError: They are others.
        """
        require_same({name: tensor.to_local() for name, tensor in state.items()}, self._halves)

    def _shard(self, half: torch.Tensor) -> DTensor:
        return DTensor.from_local(half, self._mesh, [Shard(0)])
