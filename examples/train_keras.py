"""Trains a small network with Keras, on TensorFlow, on the pictures of shapes.py.

python examples/shapes.py s3://bucket/shapes/
python examples/train_keras.py s3://bucket/shapes/
"""

from __future__ import annotations

import sys

import keras
import tensorflow as tf

from s3dlio import make_tf_dataset

EPOCHS = 6
ACCURACY = 0.95


def split(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns pixels, (batch, 784), from 0 to 1, and labels of a batch as it comes: [batch, 785] bytes."""
    return tf.cast(batch[:, 1:], tf.float32) / 255, tf.cast(batch[:, 0], tf.int32)


def main() -> None:
    prefix = sys.argv[1].rstrip("/")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(4)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])

    # The order is the data set's, and another one in each epoch; Keras has nothing to shuffle.
    train = make_tf_dataset(f"{prefix}/train/", batch_size=32, shuffle=True, seed=7, map_fn=split)
    next_order = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: train.set_epoch(epoch))
    model.fit(train.prefetch(2), epochs=EPOCHS, shuffle=False, callbacks=[next_order], verbose=2)
    test = make_tf_dataset(f"{prefix}/test/", batch_size=100, map_fn=split)
    _, accuracy = model.evaluate(test, verbose=0)
    print(f"accuracy {accuracy:.3f} on pictures it has not seen")
    sys.exit(0 if accuracy >= ACCURACY else f"that is below {ACCURACY}")


if __name__ == "__main__":
    main()
