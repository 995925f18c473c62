"""`JaxIterable`: batches of `jax.Array`s, every sample once, in the order of the seed, through failures, and resumed to the sample."""

from __future__ import annotations

import builtins
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio
from tests.process.dense_kit import TEN_SHUFFLED, fill, npy, png, put, rows, tfrecord
from tests.process.kit import Bucket, worker_processes
from tests.support.answers import s3_error
from tests.support.apart import Child, apart

DEVICES = "--xla_force_host_platform_device_count=4"


@pytest.fixture(scope="module")
def child(private_temporary_folder: None) -> Iterator[Child]:
    with Child("tests.process.test_jax", {"XLA_FLAGS": DEVICES, "JAX_PLATFORMS": "cpu"}) as child:
        yield child


def warm_up() -> None:
    import jax

    jax.block_until_ready(jax.device_put(np.zeros(4, np.uint8)) + 1)
    s3dlio.JaxIterable  # noqa: B018 (loads the module)


# What a batch is.


@apart
def test_the_snippet_of_the_guide_runs_as_printed(tmp_path: str) -> None:
    (Path(tmp_path) / "train").mkdir()
    for number in range(70):
        (Path(tmp_path) / "train" / f"{number:02d}").write_bytes(bytes([number]) * 100)
    from s3dlio import JaxIterable

    jax_iter = JaxIterable(uri=f"file://{tmp_path}/train/", batch_size=32)
    found = []
    for batch in jax_iter:
        found += np.asarray(batch)[:, 99].tolist()
    assert found == list(range(70))


@apart
def test_batches_are_uint8_arrays_of_jax_with_every_byte_in_its_place(bucket: Bucket, procs: int) -> None:
    import jax

    refs = fill(bucket, 70, 5000)
    dataset = s3dlio.JaxIterable(refs, batch_size=32, procs=procs)
    assert len(dataset) == 3
    for _ in range(2):
        found = list(dataset)
        assert all(isinstance(batch, jax.Array) for batch in found)
        assert [(batch.shape, str(batch.dtype)) for batch in found] == [
            ((32, 5000), "uint8"),
            ((32, 5000), "uint8"),
            ((6, 5000), "uint8"),
        ]
        assert (np.concatenate(found) == rows(bucket, refs)).all()
    whole = s3dlio.JaxIterable.from_prefix(refs, batch_size=32, drop_last=True, procs=procs)
    assert [len(batch) for batch in whole] == [32, 32]
    assert len(whole) == 2


@apart
def test_c10_the_order_is_that_of_the_seed_and_the_epoch_which_never_advances_by_itself(
    bucket: Bucket, procs: int
) -> None:
    refs = fill(bucket, 10, 100)
    dataset = s3dlio.JaxIterable(refs, batch_size=4, shuffle=True, procs=procs)
    for epoch in (0, 0, 1, 1, 0):
        dataset.set_epoch(epoch)
        assert (np.concatenate([*dataset]) == rows(bucket, refs, TEN_SHUFFLED[0, epoch])).all()
        assert dataset.epoch == epoch


@apart
def test_padded_batches_come_with_their_lengths(bucket: Bucket) -> None:
    refs = fill(bucket, 6, [10, 20, 5])
    found = list(s3dlio.JaxIterable(refs, batch_size=4, pad_to=20, procs=0))
    assert [np.asarray(lengths).tolist() for _, lengths in found] == [[10, 20, 5, 10], [20, 5]]
    padded = np.concatenate([array for array, _ in found])
    assert padded.tolist() == [[*bucket.data(ref.uri), *[0] * (20 - (ref.size or 0))] for ref in refs]


@apart
def test_npy_files_of_one_shape_become_one_array(bucket: Bucket) -> None:
    import jax

    for dtype, seen in (
        ("<f4", "float32"),
        (">i2", "int16"),
        ("?", "bool"),
        ("<c8", "complex64"),
        ("<f8", "float32"),
        ("<i8", "int32"),
    ):
        arrays = [(np.arange(12).reshape(3, 4) + number).astype(dtype) for number in range(6)]
        refs = [put(bucket, f"{dtype}{number}", npy(array)) for number, array in enumerate(arrays)]
        [one, two] = s3dlio.JaxIterable(refs, batch_size=4, decode="npy", procs=0)
        assert (one.shape, two.shape, str(one.dtype)) == ((4, 3, 4), (2, 3, 4), seen)
        assert (np.concatenate([one, two]) == np.array(arrays).astype(seen)).all()
        with jax.enable_x64(True):
            batch = next(iter(s3dlio.JaxIterable(refs, batch_size=6, decode="npy", procs=0)))
            assert batch.dtype == np.dtype(dtype).newbyteorder("=")
    fortran = [np.asfortranarray(np.arange(12.0, dtype="f4").reshape(3, 4) * number) for number in range(3)]
    refs = [put(bucket, f"f{number}", npy(array)) for number, array in enumerate(fortran)]
    [batch] = s3dlio.JaxIterable(refs, batch_size=3, decode="npy", procs=0)
    assert (np.asarray(batch) == np.array(fortran)).all()


@apart
def test_images_become_pixels_and_numbers_of_json_arrays(bucket: Bucket) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), np.uint8)
    refs = [put(bucket, f"{number}.png", png(one)) for number, one in enumerate(pixels)]
    [batch] = s3dlio.JaxIterable(refs, batch_size=3, decode="image", procs=0)
    assert (np.asarray(batch) == pixels).all()
    refs = [
        put(bucket, f"{number}.json", json.dumps({"a": number, "b": [number / 2, 1]}).encode()) for number in range(3)
    ]
    [batch] = s3dlio.JaxIterable(refs, batch_size=3, decode="json", procs=0)
    assert {name: np.asarray(one).tolist() for name, one in batch.items() if name == "a"} == {"a": [0, 1, 2]}
    assert [np.asarray(one).tolist() for one in batch["b"]] == [[0.0, 0.5, 1.0], [1, 1, 1]]


@apart
def test_a_transform_makes_any_tree_of_arrays_of_each_sample(bucket: Bucket) -> None:
    import jax

    refs = fill(bucket, 5, 64)

    def split(sample: Any) -> Any:
        assert isinstance(sample, s3dlio.BytesView)
        return {"x": sample[1:].reshape(9, 7) / 255, "y": (int(sample[0]), sample[:2])}

    expected = rows(bucket, refs)
    found = list(s3dlio.JaxIterable(refs, batch_size=3, transform=split, procs=0))
    assert all(isinstance(leaf, jax.Array) for batch in found for leaf in jax.tree.leaves(batch))
    assert [batch["x"].shape for batch in found] == [(3, 9, 7), (2, 9, 7)]
    np.testing.assert_allclose(
        np.concatenate([batch["x"] for batch in found]).reshape(5, 63), expected[:, 1:] / 255, rtol=1e-6
    )
    assert (np.concatenate([batch["y"][0] for batch in found]) == expected[:, 0]).all()
    assert (np.concatenate([batch["y"][1] for batch in found]) == expected[:, :2]).all()
    # After `pad_to` it sees padded rows, and after `decode` arrays.
    ragged = fill(bucket, 4, [3, 5], "r")
    [(sums, lengths)] = s3dlio.JaxIterable(
        ragged, batch_size=4, pad_to=8, transform=lambda row: (len(row), int(row.sum())), procs=0
    )
    assert np.asarray(sums[0]).tolist() == [8] * 4
    assert np.asarray(sums[1]).tolist() == [sum(bucket.data(ref.uri)) for ref in ragged]
    assert np.asarray(lengths).tolist() == [3, 5, 3, 5]
    arrays = [put(bucket, f"{number}.npy", npy(np.full(number + 1, 2.5, "f4"))) for number in range(3)]
    [batch] = s3dlio.JaxIterable(arrays, batch_size=3, decode="npy", transform=np.sum, procs=0)
    assert np.asarray(batch).tolist() == [2.5, 5, 7.5]
    # Without a known size there are no common rows, and yet the same batch.
    [batch] = s3dlio.JaxIterable([ref.uri for ref in refs], batch_size=5, procs=0)
    assert (np.asarray(batch) == expected).all()


@apart
def test_unequal_objects_come_one_by_one_or_are_refused_with_what_helps(bucket: Bucket) -> None:
    refs = fill(bucket, 4, [3, 5])
    found = [np.asarray(batch) for batch in s3dlio.JaxIterable(refs, procs=0)]
    assert [batch.shape for batch in found] == [(1, 3), (1, 5)] * 2
    assert [batch.tobytes() for batch in found] == [bucket.data(ref.uri) for ref in refs]
    # At once, where it is known,
    with pytest.raises(s3dlio.ConfigurationError, match=r"3 to 5 bytes.*pad_to=.*decode="):
        s3dlio.JaxIterable(refs, batch_size=2)
    # and at the first such batch where it is not.
    refs = fill(bucket, 6, [3, 3, 3, 5])
    batches = iter(s3dlio.JaxIterable([ref.uri for ref in refs], batch_size=2, procs=0))
    assert next(batches).shape == (2, 3)
    with pytest.raises(s3dlio.ConfigurationError, match=r"o0003: its shape is \(5,\).*o0002.*\(3,\).*pad_to=.*decode="):
        next(batches)
    mixed = [put(bucket, f"{number}.npy", npy(np.zeros(number))) for number in (1, 2)]
    with pytest.raises(
        s3dlio.ConfigurationError, match=r"2.npy: its shape is \(2,\), and that of s3://bucket/1.npy.* \(1,\)"
    ):
        list(s3dlio.JaxIterable(mixed, batch_size=2, decode="npy", procs=0))


@apart
def test_samples_that_are_no_numbers_or_not_alike_are_refused_with_what_helps(bucket: Bucket) -> None:
    refs = fill(bucket, 2, 4)
    for transform, words in (
        (lambda view: view.hex(), "arrays of numbers only.*transform"),
        (
            lambda view: {int(view[0]): 1},
            "o0001: what is made of it is not what is made of s3://bucket/o0000.*transform",
        ),
        (lambda view: object(), "arrays of numbers only"),
    ):
        with pytest.raises(s3dlio.ConfigurationError, match=words):
            list(s3dlio.JaxIterable(refs, batch_size=2, transform=transform, procs=0))


# What is ahead on the device, and what counts as delivered.


@apart
@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_batches_are_made_ahead_and_the_first_waits_for_none_of_them(bucket: Bucket, prefetch: int) -> None:
    refs = fill(bucket, 12, 10)
    made = itertools.count()
    dataset = s3dlio.JaxIterable(refs, transform=lambda view: (view, next(made))[0], prefetch=prefetch, procs=0)
    num_made = []
    for _ in dataset:
        num_made.append(next(made) - len(num_made))
    assert num_made == [min(12, number + min(number - 1, prefetch)) for number in range(1, 13)]


@apart
@pytest.mark.parametrize("prefetch", [1, 4])
def test_c9_a_state_counts_what_the_loop_got_and_goes_on_there(bucket: Bucket, prefetch: int) -> None:
    refs = fill(bucket, 10, 50)

    def make() -> s3dlio.JaxIterable:
        return s3dlio.JaxIterable(refs, batch_size=3, shuffle=True, seed=5, prefetch=prefetch, procs=0)

    one = make()
    one.set_epoch(3)
    whole = [np.asarray(batch).tobytes() for batch in one]
    for num in range(len(whole) + 1):
        first, second = make(), make()
        first.set_epoch(3)
        batches = iter(first)
        seen = [np.asarray(next(batches)).tobytes() for _ in range(num)]
        state = json.loads(json.dumps(first.state_dict()))
        second.load_state_dict(state)
        assert seen + [np.asarray(batch).tobytes() for batch in second] == whole
        assert second.epoch == 3


@apart
@pytest.mark.parametrize("shuffle", [False, True])
def test_c9_records_that_are_ahead_do_not_count_either(bucket: Bucket, shuffle: bool) -> None:
    records = [bytes([file, record]) * 4 for file in range(3) for record in range(4)]
    refs = [put(bucket, f"{file}.tfrecord", tfrecord(records[4 * file : 4 * file + 4])) for file in range(3)]

    def make() -> s3dlio.JaxIterable:
        return s3dlio.JaxIterable(
            refs, batch_size=2, decode="tfrecord", shuffle=shuffle, shuffle_buffer=5, prefetch=3, procs=0
        )

    whole = [np.asarray(batch).tobytes() for batch in make()]
    found = b"".join(whole)
    assert sorted(found[at : at + 8] for at in range(0, 96, 8)) == records
    assert (found == b"".join(records)) is not shuffle
    for num in range(len(whole)):
        first, second = make(), make()
        batches = iter(first)
        seen = [np.asarray(next(batches)).tobytes() for _ in range(num)]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert seen + [np.asarray(batch).tobytes() for batch in second] == whole
    with pytest.raises(TypeError):
        len(make())


# Failures.


@apart
def test_an_error_comes_in_its_turn_whatever_is_ahead_and_the_state_stands_before_it(
    bucket: Bucket, procs: int
) -> None:
    refs = fill(bucket, 10, 50)
    kept = bucket.server.objects.pop(bucket.path("o0005"))
    dataset = s3dlio.JaxIterable(refs, batch_size=2, prefetch=4, procs=procs)
    batches = iter(dataset)
    assert (np.concatenate([next(batches), next(batches)]) == rows(bucket, refs[:4])).all()
    with pytest.raises(s3dlio.NotFoundError, match=refs[5].uri):
        next(batches)
    assert list(batches) == []
    state = dataset.state_dict()
    bucket.server.objects[bucket.path("o0005")] = kept
    dataset.load_state_dict(state)
    assert (np.concatenate([*dataset]) == rows(bucket, refs[4:])).all()


@apart
@pytest.mark.parametrize("error", ["ValueError", "StopIteration", "KeyboardInterrupt"])
def test_no_error_of_a_transform_ends_an_epoch_quietly(bucket: Bucket, error: str) -> None:
    raised: type[BaseException] = getattr(builtins, error)
    refs = fill(bucket, 6, 10)
    number = itertools.count()

    def fail(view: Any) -> Any:
        if next(number) == 3:
            raise raised("of the user")
        return view

    batches = iter(s3dlio.JaxIterable(refs, transform=fail, prefetch=5, procs=0))
    # Ctrl-C does not wait for its turn.
    for _ in range(2 if raised is KeyboardInterrupt else 3):
        next(batches)
    with pytest.raises(RuntimeError if raised is StopIteration else raised) as caught:
        next(batches)
    if raised is ValueError:
        assert caught.value.__notes__ == ["while making a sample of s3://bucket/o0003"]


@apart
def test_skipped_objects_are_recorded_and_their_batch_is_shorter(bucket: Bucket) -> None:
    refs = fill(bucket, 10, 50)
    for number in (1, 6, 7, 9):
        del bucket.server.objects[bucket.path(f"o{number:04d}")]
    for batch_size, lengths in ((4, [3, 2, 1]), (1, [1] * 6)):
        dataset = s3dlio.JaxIterable(refs, batch_size=batch_size, on_error="skip", procs=0)
        found = list(dataset)
        assert [len(batch) for batch in found] == lengths
        assert (np.concatenate(found) == rows(bucket, [refs[number] for number in (0, 2, 3, 4, 5, 8)])).all()
        assert [one["uri"] for one in dataset.skipped] == [refs[number].uri for number in (1, 6, 7, 9)]
        assert dataset.stats()["skipped"] == 4
    # A batch of which nothing is left is none, and is no reason to take what comes after it for nothing.
    last = s3dlio.JaxIterable([refs[1], refs[0]], on_error="skip", procs=0)
    assert (np.concatenate([*last]) == rows(bucket, refs[:1])).all()
    with pytest.raises(s3dlio.NotFoundError, match=refs[9].uri):
        list(s3dlio.JaxIterable([refs[1], refs[9]], on_error="skip", procs=0))


@apart
def test_p1_a_worker_that_is_killed_costs_no_sample_and_repeats_none(bucket: Bucket) -> None:
    refs = fill(bucket, 60, 3000)
    bucket.server.faults[bucket.path("o0030")] = [s3_error(503, "SlowDown")]
    seen = []
    for number, batch in enumerate(s3dlio.JaxIterable(refs, batch_size=4, procs=2)):
        seen.append(batch)
        if number in (1, 5):
            worker_processes()[0].kill()
    assert (np.concatenate(seen) == rows(bucket, refs)).all()


@apart
def test_p8_a_loop_may_be_left_and_begun_again_and_arrays_outlive_all(bucket: Bucket, procs: int) -> None:
    refs = fill(bucket, 40, 3000)
    dataset = s3dlio.JaxIterable(refs, batch_size=4, procs=procs)
    for number, batch in enumerate(dataset):
        if number == 2:
            kept = batch
            break
    del batch
    other = iter(dataset)
    assert (np.asarray(next(other)) == rows(bucket, refs[:4])).all()
    assert (np.concatenate([*dataset]) == rows(bucket, refs)).all()
    dataset.close()
    assert worker_processes() == []
    # The iteration that was under way ends with the workers, in an error, and the next one has others.
    with pytest.raises(s3dlio.PoolClosedError):
        list(other)
    assert (np.concatenate([*dataset]) == rows(bucket, refs)).all()
    del dataset, other
    assert (np.asarray(kept) == rows(bucket, refs[8:12])).all()


# Several devices.


@apart
def test_a_sharding_of_several_devices_makes_global_arrays(bucket: Bucket) -> None:
    import jax
    from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

    refs = fill(bucket, 18, 512)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data", None))
    found = list(s3dlio.JaxIterable(refs, batch_size=8, sharding=sharding, drop_last=True, procs=0))
    assert [batch.sharding.is_equivalent_to(sharding, 2) for batch in found] == [True, True]
    for number, batch in enumerate(found):
        for shard in batch.addressable_shards:
            begin = 8 * number + shard.index[0].start
            assert (np.asarray(shard.data) == rows(bucket, refs[begin : begin + 2])).all()
    # Labels have one dimension of the two.
    dataset = s3dlio.JaxIterable(
        refs, batch_size=8, sharding=sharding, transform=lambda view: (view, int(view[0])), procs=0
    )
    images, labels = next(iter(dataset))
    assert images.sharding.is_equivalent_to(sharding, 2)
    assert [shard.data.shape for shard in labels.addressable_shards] == [(2,)] * 4
    assert np.asarray(labels).tolist() == rows(bucket, refs[:8])[:, 0].tolist()
    # The batch at the end cannot be shared out.
    with pytest.raises(s3dlio.ConfigurationError, match="drop_last"):
        list(dataset)
    device = jax.devices()[2]
    one = next(iter(s3dlio.JaxIterable(refs, batch_size=3, sharding=SingleDeviceSharding(device), pad_to=600, procs=0)))
    assert [array.devices() for array in one] == [{device}] * 2


RANK = """
import sys
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
import s3dlio

address, rank, *uris = sys.argv[1:]
jax.distributed.initialize(address, 2, int(rank))
refs = [s3dlio.ObjectRef(uri, 200) for uri in uris]
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = NamedSharding(mesh, PartitionSpec("data"))
total = jax.jit(lambda batch: batch.astype(int).sum())

dataset = s3dlio.JaxIterable(refs[:16], batch_size=4, shuffle=True, sharding=sharding, procs=1)
for batch in dataset:
    assert batch.shape == (8, 200)
    mine = [(shard.index[0].start, np.asarray(shard.data)) for shard in batch.addressable_shards]
    print("BATCH", int(total(batch)), *(f"{start}:{shard.tobytes().hex()}" for start, shard in mine), flush=True)
for arguments in ({"on_error": "skip"}, {}):
    try:
        list(s3dlio.JaxIterable(refs[:15], batch_size=4, sharding=sharding, procs=0, **arguments))
    except s3dlio.ConfigurationError as error:
        print("REFUSED", error, flush=True)
try:
    list(s3dlio.JaxIterable(refs[:16] if rank == "0" else refs[1:17], batch_size=4, sharding=sharding, procs=0))
except s3dlio.ConfigurationError as error:
    print("REFUSED", error, flush=True)
# Without a sharding each has arrays of its own, and its part of the samples all the same.
print("PART", *(np.asarray(batch).tobytes().hex() for batch in s3dlio.JaxIterable(refs[:16], procs=0)), flush=True)
s3dlio.shutdown()
jax.distributed.shutdown()
"""


def test_batches_of_several_processes_are_one_global_array(bucket: Bucket) -> None:
    from tests.support.apart import free_port, start

    refs = fill(bucket, 17, 200)
    address = f"127.0.0.1:{free_port()}"
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    uris = [ref.uri for ref in refs]
    with start(RANK, [address, "0", *uris], env) as one, start(RANK, [address, "1", *uris], env) as two:
        seen: list[bytes] = []
        for _ in range(2):
            lines = [program.expect("BATCH", 100) for program in (one, two)]
            assert lines[0][0] == lines[1][0]
            shards = dict(piece.split(":") for line in lines for piece in line[1:])
            assert sorted(shards, key=int) == ["0", "2", "4", "6"]
            batch = b"".join(bytes.fromhex(shards[start]) for start in ("0", "2", "4", "6"))
            assert sum(batch) == int(lines[0][0])
            seen += [batch[at : at + 200] for at in range(0, 1600, 200)]
        assert sorted(seen) == sorted(bucket.data(ref.uri) for ref in refs[:16])
        for program in (one, two):
            assert "on_error='skip'" in " ".join(program.expect("REFUSED", 60))
            assert "tail='pad' or 'drop'" in " ".join(program.expect("REFUSED", 60))
            assert "listed different objects" in " ".join(program.expect("REFUSED", 60))
        for rank, program in enumerate((one, two)):
            assert [bytes.fromhex(part) for part in program.expect("PART", 60)] == [
                bucket.data(ref.uri) for ref in refs[rank:16:2]
            ]
        assert (one.wait(60), two.wait(60)) == (0, 0)


# Arguments.


@apart
def test_wrong_arguments_are_refused_with_what_is_right(bucket: Bucket) -> None:
    refs = fill(bucket, 3, 10)
    for arguments, words in (
        ({"batch_size": 0}, "batch_size is a whole number from 1 on"),
        ({"batch_size": None}, "batch_size is a whole number from 1 on"),
        ({"batch_size": True}, "batch_size is a whole number from 1 on"),
        ({"prefetch": 0}, "prefetch is a whole number from 1 on"),
        ({"shuffle": 1}, "shuffle is True or False"),
        ({"seed": "a"}, "seed is a whole number"),
        ({"pad_to": 5}, "more than pad_to=5"),
        ({"pad_to": 50, "decode": "npy"}, "pad_to.*decode"),
        ({"decode": "numpy"}, "decode is one of"),
        ({"tail": "cut"}, "tail is one of"),
        ({"on_error": "ignore"}, "on_error is one of"),
        ({"rank": 0}, "rank and world_size"),
        ({"transform": 3}, "transform is a function of a sample, not int"),
        ({"sharding": "data"}, r"sharding is a jax.sharding.Sharding, not str"),
        ({"pattern": "*"}, "pattern chooses among the keys below a prefix"),
        ({"manifest": "file:///x"}, "uri=.*manifest="),
        ({"num_workers": 2}, "procs="),
        ({"loader_opts": {"part_size": 2}}, "s3dlio.configure"),
        ({"loader_opts": {"batch_size": 2}, "batch_size": 3}, "batch_size is 3, and 2 in loader_opts"),
        ({"collate": 2}, "'collate' is not an argument"),
    ):
        with pytest.raises(s3dlio.ConfigurationError, match=words):
            list(s3dlio.JaxIterable(refs, **{"procs": 0, **arguments}))
    with pytest.raises(s3dlio.ConfigurationError, match="uri="):
        s3dlio.JaxIterable()


@apart
def test_arguments_of_the_original_mean_what_they_meant(bucket: Bucket) -> None:
    refs = fill(bucket, 6, 10)
    older = {
        "writable": True,
        "suppress_nonwritable_warning": True,
        "loader_opts": {"batch_size": 4, "drop_last": True, "prefetch": 0},
    }
    dataset = s3dlio.JaxIterable(refs, procs=0, **older)
    assert [batch.shape for batch in dataset] == [(4, 10)]
    assert (dataset.stats()["samples"], dataset.stats()["bytes"]) == (4, 40)
    assert repr(dataset).startswith("JaxIterable(")


@pytest.mark.parametrize(
    ("name", "module", "line"),
    [
        ("JaxIterable", "jax", "pip install 's3dlio-shm[jax]'"),
        ("make_tf_dataset", "tensorflow", "pip install 's3dlio-shm[tensorflow]'"),
    ],
)
def test_without_the_framework_the_error_says_how_to_install_it(
    name: str, module: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(s3dlio.MissingExtraError) as caught:
        getattr(s3dlio, name)
    assert line in str(caught.value)
    assert isinstance(caught.value, ImportError)
