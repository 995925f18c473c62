"""Trains a small network with JAX on the pictures of shapes.py.

python examples/shapes.py s3://bucket/shapes/
python examples/train_jax.py s3://bucket/shapes/
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp

from s3dlio import JaxIterable

EPOCHS = 6
ACCURACY = 0.95
Parameters = dict[str, jax.Array]


def logits(parameters: Parameters, batch: jax.Array) -> jax.Array:
    pixels = batch[:, 1:].astype(jnp.float32) / 255
    hidden = jax.nn.relu(pixels @ parameters["w1"] + parameters["b1"])
    return hidden @ parameters["w2"] + parameters["b2"]


def loss(parameters: Parameters, batch: jax.Array) -> jax.Array:
    chances = jax.nn.log_softmax(logits(parameters, batch))
    return -jnp.take_along_axis(chances, batch[:, :1].astype(jnp.int32), axis=1).mean()


@jax.jit
def step(parameters: Parameters, momentum: Parameters, batch: jax.Array) -> tuple[Parameters, Parameters]:
    gradients = jax.grad(loss)(parameters, batch)
    momentum = jax.tree.map(lambda old, new: 0.9 * old + new, momentum, gradients)
    return jax.tree.map(lambda value, change: value - 0.02 * change, parameters, momentum), momentum


def main() -> None:
    prefix = sys.argv[1].rstrip("/")
    keys = jax.random.split(jax.random.key(0), 2)
    parameters = {
        "w1": jax.random.normal(keys[0], (784, 128)) * 0.05,
        "b1": jnp.zeros(128),
        "w2": jax.random.normal(keys[1], (128, 4)) * 0.1,
        "b2": jnp.zeros(4),
    }
    momentum = jax.tree.map(jnp.zeros_like, parameters)

    # Every batch is a jax.Array [32, 785] of bytes, on the device before it is asked for.
    batches = JaxIterable(f"{prefix}/train/", batch_size=32, shuffle=True, seed=7, drop_last=True)
    for epoch in range(EPOCHS):
        batches.set_epoch(epoch)
        for batch in batches:
            parameters, momentum = step(parameters, momentum, batch)
        print(
            f"epoch {epoch}: {batches.stats()['samples']} samples, loss of the last batch {loss(parameters, batch):.3f}"
        )

    right = total = 0
    for batch in JaxIterable(f"{prefix}/test/", batch_size=100):
        right += int((logits(parameters, batch).argmax(1) == batch[:, 0]).sum())
        total += len(batch)
    print(f"accuracy {right / total:.3f} on {total} pictures it has not seen")
    sys.exit(0 if right / total >= ACCURACY else f"that is below {ACCURACY}")


if __name__ == "__main__":
    main()
