"""`make_tf_dataset`: a `tf.data.Dataset` of batches that are what its spec says, for loops, graphs and `model.fit`."""

from __future__ import annotations

import gc
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio
from tests.process.dense_kit import TEN_SHUFFLED, fill, is_in_segment, npy, png, put, rows, wait_free
from tests.process.kit import Bucket, wait_until, worker_processes
from tests.support.answers import s3_error, stall_before_headers
from tests.support.apart import Child, apart, start
from tests.support.processes import wait_gone

pytestmark = pytest.mark.timeout(240)

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
KIB = 1 << 10


@pytest.fixture(scope="module")
def child(private_temporary_folder: None) -> Iterator[Child]:
    with Child("tests.process.test_tensorflow", QUIET) as child:
        yield child


def warm_up() -> None:
    import tensorflow as tf

    for _ in tf.data.Dataset.from_generator(lambda: iter([1]), output_signature=tf.TensorSpec((), tf.int32)).prefetch(
        2
    ):
        pass
    s3dlio.make_tf_dataset  # noqa: B018 (loads the module)


def joined(batches: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([batch.numpy() for batch in batches])


# What a batch is.


@apart
def test_the_snippet_of_the_guide_runs_as_printed(tmp_path: str) -> None:
    (Path(tmp_path) / "train").mkdir()
    for number in range(70):
        (Path(tmp_path) / "train" / f"{number:02d}").write_bytes(bytes([number]) * 100)
    from s3dlio import make_tf_dataset

    ds = make_tf_dataset(uri=f"file://{tmp_path}/train/", batch_size=32, shuffle=True)
    found = []
    for batch in ds:
        found += batch[:, 99].numpy().tolist()
    assert sorted(found) == list(range(70))
    assert found != list(range(70))


@apart
def test_batches_have_the_static_spec_and_every_byte_in_its_place(bucket: Bucket, procs: int) -> None:
    import tensorflow as tf

    refs = fill(bucket, 70, 5000)
    dataset = s3dlio.make_tf_dataset(refs, 32, procs=procs)
    assert isinstance(dataset, tf.data.Dataset)
    assert dataset.element_spec == tf.TensorSpec((None, 5000), tf.uint8)
    assert len(dataset) == 3
    for _ in range(2):
        found = list(dataset)
        assert [tuple(batch.shape) for batch in found] == [(32, 5000), (32, 5000), (6, 5000)]
        assert (joined(found) == rows(bucket, refs)).all()
    whole = s3dlio.make_tf_dataset(refs, 32, drop_last=True, procs=procs)
    assert whole.element_spec == tf.TensorSpec((32, 5000), tf.uint8)
    assert (joined(whole) == rows(bucket, refs[:64])).all()
    assert dataset.stats()["samples"] == 70
    # Nobody knows how many batches are left where objects may be skipped; and then no length is static.
    skipping = s3dlio.make_tf_dataset(refs, 32, drop_last=True, on_error="skip", procs=procs)
    assert skipping.element_spec == tf.TensorSpec((None, 5000), tf.uint8)
    assert skipping.cardinality() == tf.data.UNKNOWN_CARDINALITY


@apart
def test_the_order_is_that_of_the_seed_and_the_epoch_which_never_advances_by_itself(bucket: Bucket) -> None:
    refs = fill(bucket, 10, 100)
    dataset = s3dlio.make_tf_dataset(refs, 4, True, procs=0)
    derived = dataset.prefetch(2)
    for epoch in (0, 0, 1, 1, 0):
        dataset.set_epoch(epoch)
        assert dataset.epoch == epoch
        assert (joined(derived) == rows(bucket, refs, TEN_SHUFFLED[0, epoch])).all()


@apart
def test_ranks_have_their_part_and_tensorflow_deals_nothing_out_among_them(bucket: Bucket) -> None:
    import tensorflow as tf

    refs = fill(bucket, 10, 100)
    for rank in range(2):
        dataset = s3dlio.make_tf_dataset(refs, 2, True, rank=rank, world_size=2, procs=0)
        assert len(dataset) == 3
        assert (joined(dataset) == rows(bucket, refs, TEN_SHUFFLED[0, 0][rank::2])).all()
        assert dataset.options().experimental_distribute.auto_shard_policy == tf.data.experimental.AutoShardPolicy.OFF


@apart
def test_unequal_objects_are_padded_or_come_one_by_one_or_are_refused_with_what_helps(bucket: Bucket) -> None:
    import tensorflow as tf

    refs = fill(bucket, 6, [10, 20, 5])
    padded = s3dlio.make_tf_dataset(refs, 4, pad_to=20, procs=0)
    assert padded.element_spec == (tf.TensorSpec((None, 20), tf.uint8), tf.TensorSpec((None,), tf.int64))
    found = list(padded)
    assert [lengths.numpy().tolist() for _, lengths in found] == [[10, 20, 5, 10], [20, 5]]
    assert joined(array for array, _ in found).tolist() == [
        [*bucket.data(ref.uri), *[0] * (20 - (ref.size or 0))] for ref in refs
    ]
    single = s3dlio.make_tf_dataset(refs, procs=0)
    assert single.element_spec == tf.TensorSpec((1, None), tf.uint8)
    assert [batch.numpy().tobytes() for batch in single] == [bucket.data(ref.uri) for ref in refs]
    with pytest.raises(s3dlio.ConfigurationError, match=r"5 to 20 bytes.*pad_to=.*decode="):
        s3dlio.make_tf_dataset(refs, 2)
    # Of unknown sizes: at the first batch that is no array.
    equal = fill(bucket, 3, 7, "e")
    unknown = s3dlio.make_tf_dataset([ref.uri for ref in equal] + [refs[0].uri], 2, procs=0)
    assert unknown.element_spec == tf.TensorSpec((None, None), tf.uint8)
    batches = iter(unknown)
    assert (next(batches).numpy() == rows(bucket, equal[:2])).all()
    with pytest.raises(
        tf.errors.OpError, match=r"o0000: its shape is \(10,\)[^$]*e0002[^$]*\(7,\)[^$]*pad_to=[^$]*decode="
    ):
        next(batches)


@apart
def test_the_first_npy_file_says_what_all_of_them_are(bucket: Bucket) -> None:
    import tensorflow as tf

    for dtype in ("<f4", ">i2", "<f8", "?", "<c8", "<u8"):
        arrays = [(np.arange(12).reshape(3, 4) + number).astype(dtype) for number in range(6)]
        refs = [put(bucket, f"{dtype}{number}", npy(array)) for number, array in enumerate(arrays)]
        dataset = s3dlio.make_tf_dataset(refs, 4, decode="npy", procs=0)
        assert dataset.element_spec == tf.TensorSpec((None, 3, 4), tf.as_dtype(np.dtype(dtype).newbyteorder("=")))
        assert (joined(dataset) == np.array(arrays)).all()
    # Another shape of as many bytes, another dtype, more of everything: each an error that says what was promised.
    for other in (np.zeros((4, 3), "f4"), np.zeros((3, 4), "i4"), np.zeros((5, 5), "f8")):
        refs = [put(bucket, f"{number}", npy(array)) for number, array in enumerate((np.zeros((3, 4), "f4"), other))]
        for batch_size in (1, 2):
            with pytest.raises(tf.errors.OpError, match=r"s3://bucket/1: it becomes[^$]*float32 of shape \(3, 4\)"):
                list(s3dlio.make_tf_dataset(refs, batch_size, decode="npy", procs=0))


@apart
def test_images_have_the_size_of_the_first_or_any_one_by_one(bucket: Bucket) -> None:
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 7, 3), np.uint8)
    refs = [put(bucket, f"{number}.png", png(one)) for number, one in enumerate(pixels)]
    dataset = s3dlio.make_tf_dataset(refs, 4, decode="image", procs=0)
    assert dataset.element_spec == tf.TensorSpec((None, 5, 7, 3), tf.uint8)
    assert (joined(dataset) == pixels).all()
    larger = np.zeros((9, 8, 3), np.uint8)
    refs.insert(2, put(bucket, "larger.png", png(larger)))
    with pytest.raises(
        tf.errors.OpError, match=r"larger.png: it becomes uint8 of shape \(9, 8, 3\)[^$]*\(5, 7, 3\)[^$]*decode="
    ):
        list(s3dlio.make_tf_dataset(refs, 4, decode="image", procs=0))
    dataset = s3dlio.make_tf_dataset(refs, decode="image", procs=0)
    assert dataset.element_spec == tf.TensorSpec((1, None, None, 3), tf.uint8)
    assert [batch.shape[1:3] for batch in dataset] == [(5, 7), (5, 7), (9, 8), (5, 7), (5, 7)]
    resized = dataset.map(lambda batch: tf.image.resize(batch, (4, 4))).unbatch().batch(5)
    assert [batch.shape for batch in resized] == [(5, 4, 4, 3)]


@apart
def test_json_and_functions_give_structures_of_numbers_and_text(bucket: Bucket) -> None:
    import tensorflow as tf

    texts = ["a", "ü and more", "z\0"]
    samples = [{"n": number, "list": [number / 2, 1.5], "text": text} for number, text in enumerate(texts)]
    refs = [put(bucket, f"{number}.json", json.dumps(sample).encode()) for number, sample in enumerate(samples)]
    dataset = s3dlio.make_tf_dataset(refs, 2, decode="json", procs=0)
    assert dataset.element_spec == {
        "n": tf.TensorSpec((None,), tf.int64),
        "list": tf.TensorSpec((None, 2), tf.float64),
        "text": tf.TensorSpec((None,), tf.string),
    }
    assert joined(batch["n"] for batch in dataset).tolist() == [0, 1, 2]
    assert joined(batch["list"] for batch in dataset).tolist() == [[0, 1.5], [0.5, 1.5], [1, 1.5]]
    assert [text.decode() for text in joined(batch["text"] for batch in dataset).tolist()] == texts
    raw = fill(bucket, 3, 10)
    dataset = s3dlio.make_tf_dataset(
        raw, 3, decode=lambda view: (view[1:].reshape(3, 3) / 2, int(view[0]), bytes(view[:2])), procs=0
    )
    [(halves, first, two)] = dataset
    assert (halves.numpy().reshape(3, 9) == rows(bucket, raw)[:, 1:] / 2).all()
    assert first.numpy().tolist() == rows(bucket, raw)[:, 0].tolist()
    assert two.numpy().tolist() == [bucket.data(ref.uri)[:2] for ref in raw]
    # What no tensor can be is refused at once, with the URI it was seen at; what differs later, in its turn.
    for decode in (lambda view: {1, 2}, lambda view: [[1], [1, 2]], lambda view: np.datetime64("2020-01-01")):
        with pytest.raises(s3dlio.ConfigurationError):
            s3dlio.make_tf_dataset(raw, decode=decode)
    calls: list[int] = []
    for later in ({"a": 1, "b": 2}, (1, 2), {"b": 1}, {"a": "text"}, {"a": 1.5}):
        calls.clear()

        def decode(view: Any, later: Any = later) -> Any:
            calls.append(1)
            return {"a": 1} if len(calls) < 3 else later

        batches = iter(s3dlio.make_tf_dataset(raw, decode=decode, procs=0))
        assert next(batches)["a"].numpy().tolist() == [1]
        with pytest.raises(tf.errors.OpError, match=r"o0001: it becomes"):
            next(batches)


@apart
def test_records_are_strings_as_tensorflow_itself_reads_them(bucket: Bucket, tmp_path: str) -> None:
    import tensorflow as tf

    features = [
        tf.train.Example(
            features=tf.train.Features(feature={"x": tf.train.Feature(int64_list=tf.train.Int64List(value=[n]))})
        )
        for n in range(10)
    ]
    refs = []
    for number in range(2):
        path = f"{tmp_path}/{number}.tfrecord"
        with tf.io.TFRecordWriter(path) as writer:
            for one in features[5 * number : 5 * number + 5]:
                writer.write(one.SerializeToString())
        refs.append(put(bucket, f"{number}.tfrecord", Path(path).read_bytes()))

    def parse(batch: Any) -> Any:
        return tf.io.parse_example(batch, {"x": tf.io.FixedLenFeature((), tf.int64)})["x"]

    dataset = s3dlio.make_tf_dataset(refs, 4, decode="tfrecord", procs=0)
    assert dataset.element_spec == tf.TensorSpec((None,), tf.string)
    assert joined(dataset).tolist() == [one.SerializeToString() for one in features]
    parsed = s3dlio.make_tf_dataset(
        refs, 4, True, drop_last=True, decode="tfrecord", shuffle_buffer=6, map_fn=parse, procs=0
    )
    assert parsed.element_spec == tf.TensorSpec((4,), tf.int64)
    found = joined(parsed).tolist()
    assert len(set(found)) == 8
    assert found != sorted(found)


# With the rest of TensorFlow.


@apart
def test_map_fn_is_a_graph_over_batches_and_graphs_may_iterate(bucket: Bucket) -> None:
    import tensorflow as tf

    refs = fill(bucket, 10, 8)
    eager = []

    def split(batch: Any) -> Any:
        eager.append(tf.executing_eagerly())
        return tf.cast(batch[:, 1:], tf.float32), batch[:, 0]

    dataset = s3dlio.make_tf_dataset(refs, 4, map_fn=split, procs=0)
    assert dataset.element_spec == (tf.TensorSpec((None, 7), tf.float32), tf.TensorSpec((None,), tf.uint8))
    assert eager == [False]
    assert (joined(labels for _, labels in dataset) == rows(bucket, refs)[:, 0]).all()
    [(array, lengths)] = s3dlio.make_tf_dataset(
        refs, 10, pad_to=9, map_fn=lambda array, lengths: (array + 1, lengths * 2), procs=0
    )
    assert (array.numpy()[:, :8] == rows(bucket, refs) + 1).all()
    assert lengths.numpy().tolist() == [16] * 10

    @tf.function
    def total() -> Any:
        found = tf.constant(0, tf.int64)
        for batch in plain:
            found += tf.reduce_sum(tf.cast(batch, tf.int64))
        return found

    plain = s3dlio.make_tf_dataset(refs, 4, procs=0)
    for _ in range(2):
        assert total().numpy() == rows(bucket, refs).astype(int).sum()
    both = tf.data.Dataset.zip((plain, plain.repeat(2).skip(1))).shuffle(5).cache().prefetch(2)
    assert sum(len(one) for one, _ in both) == 10


@apart
def test_a_model_is_fitted_and_a_callback_shuffles_each_epoch_anew(bucket: Bucket) -> None:
    import keras
    import tensorflow as tf

    refs = fill(bucket, 10, 9)
    firsts = rows(bucket, refs)[:, 0].tolist()
    assert len(set(firsts)) == 10
    seen: list[int] = []

    def note(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        seen.extend(labels.tolist())
        return labels

    def split(batch: Any) -> Any:
        labels = tf.numpy_function(note, [batch[:, 0]], tf.uint8)
        labels.set_shape(batch.shape[:1])
        return tf.cast(batch[:, 1:], tf.float32), tf.cast(labels, tf.float32)

    # All in one batch, since batches are mapped in parallel.
    dataset = s3dlio.make_tf_dataset(refs, 10, True, map_fn=split, procs=0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    epochs: list[int] = []
    anew = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: (dataset.set_epoch(epoch), seen.clear()),
        on_epoch_end=lambda epoch, logs: epochs.append([firsts.index(one) for one in seen]),
    )
    history = model.fit(dataset.prefetch(2), epochs=3, shuffle=False, callbacks=[anew], verbose=0)
    assert epochs[:2] == [TEN_SHUFFLED[0, 0], TEN_SHUFFLED[0, 1]]
    assert sorted(epochs[2]) == list(range(10))
    assert len(history.history["loss"]) == 3
    assert model.evaluate(dataset, verbose=0) >= 0
    assert model.predict(dataset, verbose=0).shape == (10, 1)
    # An error ends the training, with its URI, and is no end of an epoch.
    del bucket.server.objects[bucket.path("o0006")]
    with pytest.raises(tf.errors.OpError, match=r"NotFoundError: s3://bucket/o0006"):
        model.fit(dataset, epochs=1, shuffle=False, verbose=0)
    keras.backend.clear_session()


# Failures.


@apart
def test_an_error_comes_in_its_turn_with_its_text_through_whatever_is_made_of_the_data_set(
    bucket: Bucket, procs: int
) -> None:
    import tensorflow as tf

    refs = fill(bucket, 10, 50)
    del bucket.server.objects[bucket.path("o0005")]
    dataset = s3dlio.make_tf_dataset(refs, 2, procs=procs)
    for derived in (dataset, dataset.map(lambda batch: batch + 1), dataset.prefetch(3), dataset.repeat()):
        batches = iter(derived)
        assert len([next(batches), next(batches)]) == 2
        with pytest.raises(tf.errors.OpError, match=r"NotFoundError: s3://bucket/o0005.*HTTP 404"):
            next(batches)
    for error in (StopIteration, ValueError, MemoryError, NotImplementedError, KeyError):

        def fail(view: Any, error: Any = error) -> Any:
            if bytes(view) == bucket.data(refs[1].uri):
                raise error("of the user")
            return view

        with pytest.raises(tf.errors.OpError, match=r"of the user[^$]*while decoding s3://bucket/o0001") as caught:
            list(s3dlio.make_tf_dataset(refs[:3], decode=fail, procs=procs))
        assert not isinstance(caught.value, tf.errors.OutOfRangeError)


@apart
def test_skipped_objects_are_recorded_and_their_batch_is_shorter(bucket: Bucket) -> None:
    refs = fill(bucket, 10, 50)
    for number in (0, 6, 7, 9):
        del bucket.server.objects[bucket.path(f"o{number:04d}")]
    logging.getLogger("s3dlio").addHandler(logging.NullHandler())
    for batch_size, lengths, decode in ((4, [3, 2, 1], None), (1, [1] * 6, None), (4, [3, 2, 1], np.sum)):
        dataset = s3dlio.make_tf_dataset(refs, batch_size, decode=decode, on_error="skip", procs=0)
        found = list(dataset)
        assert [len(batch) for batch in found] == lengths
        expected = rows(bucket, [refs[number] for number in (1, 2, 3, 4, 5, 8)])
        assert (joined(found) == (expected if decode is None else expected.sum(1))).all()
        assert [one["uri"] for one in dataset.skipped] == [refs[number].uri for number in (0, 6, 7, 9)]


@apart
def test_p1_a_worker_that_is_killed_costs_no_sample_and_repeats_none(bucket: Bucket) -> None:
    refs = fill(bucket, 60, 3000)
    bucket.server.faults[bucket.path("o0030")] = [s3_error(503, "SlowDown")]
    seen = []
    for number, batch in enumerate(s3dlio.make_tf_dataset(refs, 4, procs=2)):
        seen.append(batch)
        if number in (1, 5):
            worker_processes()[0].kill()
    assert (joined(seen) == rows(bucket, refs)).all()


# Memory, processes, and the end.


@apart
def test_m4_tensors_stay_intact_however_many_are_kept_and_no_slot_is_held_at_the_end(
    bucket: Bucket, procs: int
) -> None:
    s3dlio.configure(poison_freed=True)
    refs = fill(bucket, 120, 32 * KIB)
    expected = rows(bucket, refs)
    dataset = s3dlio.make_tf_dataset(refs, 2, memory_bytes="1MiB", procs=procs)
    for _ in range(2):
        kept = list(dataset.prefetch(8))
        gc.collect()
        # Tensors lie over slots, which shows something here, until too many do.
        lent = [is_in_segment(np.asarray(memoryview(batch)).ctypes.data, 64 * KIB) for batch in kept]
        assert 0 < sum(lent) <= 4
        assert (joined(kept) == expected).all()
        cut = [batch[1:, :100] for batch in kept[:2]]
        del kept
    # All of an epoch in TensorFlow's own buffers.
    mixed = joined(dataset.shuffle(60, seed=1))
    assert sorted(row.tobytes() for row in mixed) == sorted(row.tobytes() for row in expected)
    assert (joined(dataset.cache()) == expected).all()
    assert (joined(cut) == expected[1:4:2, :100]).all()
    del cut
    wait_free(dataset._stream)


@apart
def test_p8_workers_end_with_the_last_thing_that_is_made_of_the_data_set(bucket: Bucket) -> None:
    refs = fill(bucket, 60, 1000)

    def one_batch(derive: Any) -> Any:
        dataset = s3dlio.make_tf_dataset(refs, 2, procs=2)
        derived = derive(dataset)
        assert (next(iter(derived)).numpy() == rows(bucket, refs[:2])).all()
        assert len(worker_processes()) == 2
        return derived

    for derive in (
        lambda one: one,
        lambda one: one.prefetch(3),
        lambda one: one.map(lambda batch: batch).repeat().take(9),
    ):
        kept = one_batch(derive)
        gc.collect()
        # Left in the middle, and what make_tf_dataset returned is known to nobody: it works on.
        assert len(worker_processes()) == 2
        assert (joined(kept)[:18] == rows(bucket, refs[:18])).all()
        workers = worker_processes()
        del kept
        gc.collect()
        assert wait_gone(workers, 10) == []
    batches = iter(one_batch(lambda one: one.prefetch(2)))
    assert (next(batches).numpy() == rows(bucket, refs[:2])).all()
    assert len(worker_processes()) == 2
    del batches
    gc.collect()
    wait_until(lambda: worker_processes() == [], "the workers have ended")
    # After `close`, what was under way ends in an error, and the next iteration has other workers.
    dataset = s3dlio.make_tf_dataset(refs, 2, procs=2)
    assert (joined(dataset) == rows(bucket, refs)).all()
    dataset.close()
    assert worker_processes() == []
    assert (joined(dataset) == rows(bucket, refs)).all()


@apart
def test_what_tensorflow_remembers_of_a_data_set_that_is_gone_is_an_error_and_no_empty_epoch(bucket: Bucket) -> None:
    import tensorflow as tf
    from tensorflow.python.data.ops.dataset_ops import _VariantDataset

    refs = fill(bucket, 4, 10)
    dataset = s3dlio.make_tf_dataset(refs, 2, procs=0)
    rest = _VariantDataset(dataset._variant_tensor, dataset.element_spec)
    assert (joined(rest) == rows(bucket, refs)).all()
    del dataset
    gc.collect()
    with pytest.raises(tf.errors.OpError, match="the data set is gone"):
        list(rest)


ENDING = """
import sys, threading
how, *uris = sys.argv[1:]
import tensorflow as tf
import s3dlio
dataset = s3dlio.make_tf_dataset([s3dlio.ObjectRef(uri, 1000) for uri in uris], 2, procs=2)
batches = iter(dataset.prefetch(3))
next(batches)
print("READING", flush=True)
sys.stdin.readline()
if how == "daemon":
    thread = threading.Thread(target=lambda: list(batches), daemon=True)
    thread.start()
    thread.join(1)
    assert thread.is_alive()
elif how == "error":
    raise RuntimeError("of the loop")
elif how == "exit":
    sys.exit(3)
"""


@pytest.mark.parametrize("first_silent", [3, 30])
@pytest.mark.parametrize(("how", "code"), [("end", 0), ("exit", 3), ("error", 1), ("daemon", 0)])
def test_p9_a_program_ends_in_the_middle_of_an_epoch_whatever_the_threads_of_tensorflow_wait_for(
    bucket: Bucket, how: str, code: int, first_silent: int
) -> None:
    refs = fill(bucket, 40, 1000)
    is_over = threading.Event()
    # Ahead of the loop, threads of TensorFlow wait for the store, or for the loop.
    bucket.server.faults[bucket.path(f"o{first_silent:04d}")] = [stall_before_headers(is_over)]
    with start(ENDING, [how, *(ref.uri for ref in refs)], QUIET) as program:
        program.expect("READING", 100)
        below = program.descendants()
        assert len(below) >= 2
        program.send_line()
        assert program.wait(60) == code
        assert wait_gone(below, 5) == []
        is_over.set()
        assert ("of the loop" in program.stderr_text()) is (how == "error")


# Arguments.


@apart
def test_wrong_arguments_are_refused_with_what_is_right(bucket: Bucket) -> None:
    refs = fill(bucket, 3, 10)
    for arguments, words in (
        ({"batch_size": 0}, "batch_size is a whole number from 1 on"),
        ({"batch_size": None}, "batch_size is a whole number from 1 on"),
        ({"shuffle": 1}, "shuffle is True or False"),
        ({"pad_to": 50, "decode": "npy"}, "pad_to.*decode"),
        ({"decode": "numpy"}, "decode is one of"),
        ({"map_fn": 3}, "map_fn is a function of a batch, not int"),
        ({"prefetch": 0}, "prefetch is a whole number from 1 on"),
        ({"world_size": 2}, "rank and world_size"),
        ({"pattern": "*"}, "pattern chooses among the keys below a prefix"),
        ({"num_workers": 2}, "procs="),
        ({"transform": len}, "'transform' is not an argument"),
        ({"loader_opts": {"batch_size": 2}, "batch_size": 3}, "batch_size is 3, and 2 in loader_opts"),
    ):
        with pytest.raises(s3dlio.ConfigurationError, match=words):
            s3dlio.make_tf_dataset(refs, **arguments)
    with pytest.raises(s3dlio.ConfigurationError, match="uri="):
        s3dlio.make_tf_dataset()
    with pytest.raises(s3dlio.NotFoundError, match="s3://bucket/none"):
        s3dlio.make_tf_dataset(["s3://bucket/none", refs[0].uri], decode="npy")
    with pytest.raises(s3dlio.DecodeError, match=refs[0].uri):
        s3dlio.make_tf_dataset(refs, decode="npy")
    # Where objects may be skipped, the first that can be read says what they are.
    refs.append(put(bucket, "array.npy", npy(np.arange(3))))
    dataset = s3dlio.make_tf_dataset(["s3://bucket/none", *refs], decode="npy", on_error="skip", procs=0)
    assert joined(dataset).tolist() == [[0, 1, 2]]
    assert len(dataset.skipped) == 4


@apart
def test_arguments_of_the_original_mean_what_they_meant(bucket: Bucket) -> None:
    refs = fill(bucket, 6, 10)
    older = {
        "writable": True,
        "suppress_nonwritable_warning": True,
        "loader_opts": {"batch_size": 4, "drop_last": True, "prefetch": 0},
    }
    assert [batch.shape for batch in s3dlio.make_tf_dataset(refs, procs=0, **older)] == [(4, 10)]
