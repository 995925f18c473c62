"""Trains a small network with PyTorch on the pictures of shapes.py, stops in the middle, and goes on where it was.

python examples/shapes.py s3://bucket/shapes/
python examples/train_torch.py s3://bucket/shapes/
"""

from __future__ import annotations

import itertools
import sys

import torch
from torch import Tensor, nn

from s3dlio import ObjectStoreIterableDataset

EPOCHS = 5
ACCURACY = 0.95


def split(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Returns pixels, (batch, 784), from 0 to 1, and labels of a batch as it comes: [batch, 785] bytes."""
    return batch[:, 1:].float() / 255, batch[:, 0].long()


def train(
    model: nn.Module, batches: ObjectStoreIterableDataset, optimizer: torch.optim.Optimizer, most: int | None = None
) -> None:
    """Trains on the rest of the epoch, or on `most` batches of it."""
    for batch in itertools.islice(batches, most):
        pixels, labels = split(batch)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixels), labels).backward()
        optimizer.step()


def main() -> None:
    prefix = sys.argv[1].rstrip("/")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    # Each epoch has every picture once, in an order that only (seed, epoch) decides. A batch is one tensor that nobody has collated.
    batches = ObjectStoreIterableDataset(f"{prefix}/train/", batch_size=32, shuffle=True, seed=7)
    train(model, batches, optimizer, most=20)
    checkpoint = batches.state_dict()
    print("stopped after 20 batches; the state of the data set is text and numbers:", checkpoint["layers"])

    # In another process, on another day: the state loads with the model's, and the epoch goes on at batch 21.
    batches.load_state_dict(checkpoint)
    for epoch in range(batches.epoch, EPOCHS):
        batches.set_epoch(epoch)
        train(model, batches, optimizer)
        stats = batches.stats()
        print(
            f"epoch {epoch}: {stats['samples']} samples, {stats['samples_per_s']:,.0f}/s, waited {stats['waited_share']:.0%} of the time"
        )

    right = total = 0
    for batch in ObjectStoreIterableDataset(f"{prefix}/test/", batch_size=100):
        pixels, labels = split(batch)
        right += int((model(pixels).argmax(1) == labels).sum())
        total += len(labels)
    print(f"accuracy {right / total:.3f} on {total} pictures it has not seen")
    sys.exit(0 if right / total >= ACCURACY else f"that is below {ACCURACY}")


if __name__ == "__main__":
    main()
