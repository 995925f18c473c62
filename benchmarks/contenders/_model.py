"""The model of the rows of checkpoints. Imports torch, and no storage library."""

from __future__ import annotations

import math

import torch

# A layer of a transformer in small: int32, so that any bytes compare.
_SHAPES = {"mlp.weight": (1536, 4096), "attention.weight": (512, 4096), "mlp.bias": (2048,), "attention.bias": (2048,)}
_LAYER_MIB = 32


def make_model(mib: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Makes layers of 32 MiB of weights, and 16 KiB of biases; each tensor has other bytes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: math.prod(shape) for name, shape in _SHAPES.items()}
    block = torch.randint(0, 1 << 30, (max(sizes.values()),), dtype=torch.int32, generator=generator)
    return {
        f"layers.{layer}.{name}": (block[: sizes[name]] + (layer * len(_SHAPES) + number)).view(shape)
        for layer in range(mib // _LAYER_MIB)
        for number, (name, shape) in enumerate(_SHAPES.items())
    }


def require_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Compares all that was loaded with what was saved.

    Raises:
        AssertionError: It is another model.
    """
    if found.keys() != wanted.keys():
        raise AssertionError(f"loaded {len(found)} tensors of {len(wanted)}")
    for name, tensor in wanted.items():
        if not torch.equal(found[name], tensor):
            raise AssertionError(f"{name} has other values than were saved")
