"""Arrays of `JaxIterable` and the memory they lie over: nothing changes them, nobody runs out of slots, every slot comes back (M4).

JAX lays arrays of the CPU over the memory that it is given. The tests look that it does, since otherwise they would show nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import s3dlio
from tests.process.dense_kit import fill, is_in_segment, npy, put, rows, wait_free
from tests.process.kit import Bucket
from tests.support.apart import Child, apart, start
from tests.support.processes import wait_gone

KIB = 1 << 10
DEVICES = "--xla_force_host_platform_device_count=4"


@pytest.fixture(scope="module")
def child(private_temporary_folder: None) -> Iterator[Child]:
    with Child("tests.process.test_jax_memory", {"XLA_FLAGS": DEVICES, "JAX_PLATFORMS": "cpu"}) as child:
        yield child


def warm_up() -> None:
    import jax

    jax.block_until_ready(jax.device_put(np.zeros(4, np.uint8)) + 1)
    s3dlio.JaxIterable  # noqa: B018 (loads the module)


def is_lent(array: Any) -> bool:
    return is_in_segment(array.unsafe_buffer_pointer(), array.nbytes)


@apart
def test_m4_arrays_over_slots_stay_intact_while_epochs_go_on_in_the_same_memory(bucket: Bucket, procs: int) -> None:
    s3dlio.configure(poison_freed=True)
    refs = fill(bucket, 40, 4 * KIB)
    expected = rows(bucket, refs)
    dataset = s3dlio.JaxIterable(refs, batch_size=4, memory_bytes="1MiB", procs=procs)
    kept: dict[int, Any] = {}
    for epoch in range(30):
        for number, batch in enumerate(dataset):
            if epoch % 3 == 0 and number == epoch // 3:
                kept[number] = batch
            assert (np.asarray(batch) == expected[4 * number : 4 * number + 4]).all()
        del batch
        gc.collect()
        for number, batch in kept.items():
            assert (np.asarray(batch) == expected[4 * number : 4 * number + 4]).all(), (epoch, number)
        del batch
    assert len(kept) == 10
    assert all(is_lent(batch) for batch in kept.values())
    # What passed through is far more than the memory: the slots of all but the kept ones were used again and again.
    assert dataset.stats()["samples"] == 40
    stream = dataset._stream
    dataset.close()
    del dataset
    gc.collect()
    assert all((np.asarray(batch) == expected[4 * number : 4 * number + 4]).all() for number, batch in kept.items())
    del stream


@apart
def test_m4_derived_arrays_of_numpy_and_dlpack_hold_the_memory_too(bucket: Bucket) -> None:
    s3dlio.configure(poison_freed=True)
    refs = fill(bucket, 30, 16 * KIB)
    dataset = s3dlio.JaxIterable(refs, batch_size=2, memory_bytes="1MiB", procs=0)
    batches = iter(dataset)
    first = next(batches)
    assert is_lent(first)
    plain, exported = np.asarray(first), np.from_dlpack(first)
    corner = np.asarray(first)[1, -10:]
    assert not plain.flags.writeable
    del first
    for _ in range(3):
        for batch in dataset:
            assert batch.shape == (2, 16 * KIB)
            gc.collect()
    assert (plain == rows(bucket, refs[:2])).all()
    assert (exported == plain).all()
    assert corner.tobytes() == bucket.data(refs[1].uri)[-10:]


@apart
def test_whoever_keeps_every_batch_gets_copies_in_time_and_never_an_error(bucket: Bucket, procs: int) -> None:
    refs = fill(bucket, 120, 32 * KIB)
    dataset = s3dlio.JaxIterable(refs, batch_size=2, memory_bytes="1MiB", procs=procs)
    for _ in range(2):
        kept = [*dataset]
        lent = [is_lent(batch) for batch in kept]
        assert lent == sorted(lent, reverse=True)
        assert 0 < sum(lent) <= 4
        assert (np.concatenate(kept) == rows(bucket, refs)).all()
        del kept
    # Whoever keeps none gets no copies, but where JAX itself still works with some.
    gc.collect()
    assert sum(is_lent(batch) for batch in dataset) > 30


@apart
def test_a_loop_that_runs_ahead_of_its_computations_gets_all_it_asks_for(bucket: Bucket) -> None:
    import jax

    refs = fill(bucket, 128, 32 * KIB)

    @jax.jit
    def slow(total: Any, batch: Any) -> Any:
        numbers = batch.astype("float32")
        return (
            total
            + batch.astype("int32").sum()
            + (0 * jax.lax.fori_loop(0, 1000, lambda _, x: x * 0.5, numbers)).sum().astype("int32")
        )

    total = slow(0, np.zeros((2, 32 * KIB), np.uint8))
    jax.block_until_ready(total)
    # Nothing waits for a result, so that many are under way when the next batch is asked for.
    lent = []
    for batch in s3dlio.JaxIterable(refs, batch_size=2, memory_bytes="1MiB", procs=0):
        lent.append(is_lent(batch))
        total = slow(total, batch)
    del batch
    assert lent[0]
    assert not all(lent), "more than a quarter of the memory was never under way at once: nothing is shown"
    assert int(total) == int(rows(bucket, refs).astype(int).sum())


@apart
def test_arrays_that_are_donated_or_deleted_give_their_slots_back(bucket: Bucket) -> None:
    import jax

    refs = fill(bucket, 8, 16 * KIB)
    dataset = s3dlio.JaxIterable(refs, batch_size=2, procs=0)
    add = jax.jit(lambda batch: batch + 1, donate_argnums=0)
    batches = iter(dataset)
    donated, deleted = next(batches), next(batches)
    assert is_lent(donated)
    assert is_lent(deleted)
    result = add(donated)
    deleted.delete()
    assert donated.is_deleted()
    assert [*batches]
    del batches
    wait_free(dataset._stream)
    # The result lies elsewhere, or in memory that is its own for as long: it is right either way.
    assert (np.asarray(result) == rows(bucket, refs[:2]) + 1).all()
    assert (np.concatenate([*dataset]) == rows(bucket, refs)).all()


@apart
def test_what_a_transform_does_to_its_view_later_changes_no_array(bucket: Bucket) -> None:
    refs = fill(bucket, 6, 4 * KIB)
    views = []

    def keep(view: Any) -> Any:
        views.append(view)
        return view

    for arguments in ({}, {"pad_to": 4 * KIB}):
        found = [
            batch[0] if arguments else batch
            for batch in s3dlio.JaxIterable(refs, batch_size=2, transform=keep, procs=0, **arguments)
        ]
        for view in views:
            view[:] = 0
        assert (np.concatenate(found) == rows(bucket, refs)).all()
        views.clear()
        del view


@apart
def test_slots_are_free_when_arrays_and_loops_are_gone(bucket: Bucket, procs: int) -> None:
    refs = fill(bucket, 20, 8 * KIB)
    arrays = [put(bucket, f"{number}.npy", npy(np.full(2000, number, "f4"))) for number in range(20)]
    for wanted, arguments in (
        (refs, {}),
        (refs, {"batch_size": 3}),
        (refs, {"batch_size": 3, "pad_to": 9000}),
        (refs, {"batch_size": 3, "transform": lambda view: view[::2]}),
        (arrays, {"batch_size": 3, "decode": "npy"}),
    ):
        dataset = s3dlio.JaxIterable(wanted, procs=procs, **arguments)
        for batch in dataset:
            assert batch is not None
        del batch
        wait_free(dataset._stream)
        batches = iter(dataset)
        next(batches)
        del batches
        wait_free(dataset._stream)
        dataset.close()


@apart
def test_shards_on_several_devices_lie_over_the_slot_and_hold_it(bucket: Bucket) -> None:
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    s3dlio.configure(poison_freed=True)
    refs = fill(bucket, 32, 4 * KIB)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    dataset = s3dlio.JaxIterable(
        refs, batch_size=4, sharding=NamedSharding(mesh, PartitionSpec("data")), memory_bytes="1MiB", procs=0
    )
    batches = iter(dataset)
    parts = [shard.data for shard in next(batches).addressable_shards]
    assert all(is_lent(part) for part in parts)
    parts = parts[1:2]
    for _ in range(3):
        for batch in dataset:
            assert batch.shape == (4, 4 * KIB)
            gc.collect()
    assert (np.asarray(parts[0]) == rows(bucket, refs[1:2])).all()
    del batch, batches, parts
    wait_free(dataset._stream)


ENDING = """
import sys
import jax
import s3dlio
dataset = s3dlio.JaxIterable([s3dlio.ObjectRef(uri, 8192) for uri in sys.argv[1:]], batch_size=2, procs=2)
batches = iter(dataset)
kept = [next(batches) for _ in range(3)]
print("READING", flush=True)
sys.stdin.readline()
"""


def test_p9_a_program_ends_in_the_middle_of_an_epoch_with_arrays_that_lie_over_slots(bucket: Bucket) -> None:
    refs = fill(bucket, 40, 8 * KIB)
    with start(ENDING, [ref.uri for ref in refs], {"JAX_PLATFORMS": "cpu"}) as program:
        program.expect("READING", 60)
        below = program.descendants()
        assert len(below) >= 2
        program.send_line()
        assert program.wait(30) == 0
        assert wait_gone(below, 5) == []
        assert program.stderr_text() == ""
