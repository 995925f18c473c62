"""Checkpoints of torch.distributed and of Lightning: the same with both packages, and read by one what the other saved."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.distributed.checkpoint as dcp

from tests.compat.both import OURS, THEIRS, Pair, Side, same

NUM_RANKS = 2


def keys_in(side: Side, prefix: str = "") -> list[str]:
    return [one.key for page in side.new_client().list_objects(side.bucket, prefix) for one in page.object_info]


def clear(side: Side) -> None:
    client = side.new_client()
    for key in keys_in(side):
        client.delete_object(side.bucket, key)


def strategies(side: Side) -> dict[str, Any]:
    made = side.module("s3torchconnector.dcp")
    robin = side.module("s3torchconnector.dcp.s3_prefix_strategy").RoundRobinPrefixStrategy
    return {
        "none": None,
        "default": made.DefaultPrefixStrategy(),
        "binary": made.BinaryPrefixStrategy(),
        "hex": made.HexPrefixStrategy(epoch_num=3, min_prefix_length=4, prefix_count=20),
        "robin": robin(["left", "right/more"], epoch_num=1),
    }


def state(rank: int, *, is_filled: bool) -> dict[str, Any]:
    """A state of which each rank has a part of its own, and all have one."""
    factor = 1 if is_filled else 0
    return {
        f"part {rank}": torch.arange(5000, dtype=torch.float32) * factor + rank * factor,
        "shared": torch.ones(40, 50) * factor,
        "small": torch.tensor([1, 2, 3]) * factor,
        "step": 7 * factor,
    }


def equal(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(one, right[name]) if isinstance(one, torch.Tensor) else one == right[name]
        for name, one in left.items()
    )


def on_rank(side: Side, rank: int, folder: str) -> list[Any]:
    """Is one of the processes that gloo connects."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=NUM_RANKS)
    try:
        return save_and_load(side, rank)
    finally:
        torch.distributed.destroy_process_group()


def save_and_load(side: Side, rank: int) -> list[Any]:
    made = side.module("s3torchconnector.dcp")
    found: list[Any] = []
    for name, strategy in strategies(side).items():
        path = side.uri(f"{name}/step 1")
        dcp.save(
            state(rank, is_filled=True),
            storage_writer=made.S3StorageWriter(side.region, path, prefix_strategy=strategy),
        )
        loaded = state(rank, is_filled=False)
        reader = made.S3StorageReader(side.region, path)
        dcp.load(loaded, storage_reader=reader)
        found.append([name, equal(loaded, state(rank, is_filled=True)), keys_in(side, f"{name}/")])
    path = side.uri("threads")
    dcp.save(
        state(rank, is_filled=True),
        storage_writer=made.S3StorageWriter(side.region, path, None, None, 2, single_file_per_rank=False),
    )
    found.append(len(keys_in(side, "threads/")))
    for constructor in (
        side.top.S3ReaderConstructor.sequential(),
        side.top.S3ReaderConstructor.range_based(1000),
        side.top.S3ReaderConstructor.dcp_optimized(0),
    ):
        loaded = state(rank, is_filled=False)
        dcp.load(loaded, storage_reader=made.S3StorageReader(side.region, path, reader_constructor=constructor))
        found.append(equal(loaded, state(rank, is_filled=True)))
    return found


@same()
def test_two_ranks_save_and_load_with_each_prefix_strategy(side: Side) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        found = side.in_processes(on_rank, [(rank, folder) for rank in range(NUM_RANKS)])
    clear(side)
    return found


def save_with_dcp(side: Side) -> Any:
    made = side.module("s3torchconnector.dcp")
    dcp.save(
        state(0, is_filled=True), storage_writer=made.S3StorageWriter(side.region, side.uri("step 1")), no_dist=True
    )
    with side.top.S3Checkpoint(side.region).writer(side.uri("model.pt")) as writer:
        torch.save(state(0, is_filled=True), writer)
    return keys_in(side)


def load_with_dcp(side: Side) -> Any:
    made = side.module("s3torchconnector.dcp")
    loaded = state(0, is_filled=False)
    dcp.load(loaded, storage_reader=made.S3StorageReader(side.region, side.uri("step 1")), no_dist=True)
    with side.top.S3Checkpoint(side.region).reader(side.uri("model.pt")) as reader:
        whole = torch.load(reader, weights_only=True)
    return [equal(loaded, state(0, is_filled=True)), equal(whole, state(0, is_filled=True))]


def test_each_package_loads_what_the_other_saved(pair: Pair) -> None:
    for saver, loader in ((THEIRS, OURS), (OURS, THEIRS)):
        keys, loaded = pair.run_in_turn(__name__, [(saver, "save_with_dcp"), (loader, "load_with_dcp")])
        assert keys == ["model.pt", "step 1/.metadata", "step 1/__0_0.distcp"]
        assert loaded == [True, True]


@same({"there": b"data", "dir/ünï + %41": b"odd"})
def test_the_file_system_of_dcp(side: Side) -> Any:
    made = side.module("s3torchconnector.dcp")
    system = made.S3FileSystem(side.region)
    found: list[Any] = [system.exists(side.uri(key)) for key in ("there", "missing", "dir/", "dir/ünï + %41")]
    with system.create_stream(side.uri("new"), "wb") as stream:
        stream.write(b"written")
    with system.create_stream(side.uri("new"), "rb") as stream:
        found.append([type(stream).__name__, bytes(stream.read())])

    def other_mode() -> None:
        with system.create_stream(side.uri("new"), "ab"):
            pass

    def local() -> None:
        with system.create_stream("/local", "rb"):
            pass

    found += [side.tried(other_mode), side.tried(local)]
    found += [
        system.concat_path(side.uri("a"), "b"),
        system.concat_path(side.uri("a/"), "b"),
        system.concat_path(side.uri("a"), "/b"),
    ]
    found += [system.init_path(side.uri("a")), system.mkdir(side.uri("a")), system.mkdir("anything")]
    found += [
        system.rename(side.uri("new"), side.uri("renamed")),
        system.rename(side.uri("dir/ünï + %41"), side.uri("dir/ü 2")),
    ]
    found += [
        side.tried(system.rename, side.uri("a"), "s3://another/a"),
        side.tried(system.rename, side.uri("missing"), side.uri("b")),
    ]
    found += [
        system.rm_file(side.uri("there")),
        system.rm_file(side.uri("missing")),
        system.rm_file("s3://missing-bucket-of-nobody/k"),
    ]
    validate = made.S3FileSystem.validate_checkpoint_id
    found += [validate(one) for one in (side.uri(), "s3://", "/local", "gopher://b/k", Path("/local"), "")]
    found += [
        made.S3StorageReader.validate_checkpoint_id(side.uri()),
        made.S3StorageWriter.validate_checkpoint_id("/local"),
    ]
    return [*found, [made.S3FileSystem._escape_path(one) for one in ("a b/c+d%/é", "", "/", "a//b", "~-_.")]]


@same()
def test_prefixes_of_the_strategies(side: Side) -> Any:
    made = side.module("s3torchconnector.dcp")
    robin = side.module("s3torchconnector.dcp.s3_prefix_strategy").RoundRobinPrefixStrategy

    class Own(made.S3PrefixStrategyBase):  # type: ignore[misc, name-defined]
        def generate_prefix(self, rank: int) -> str:
            return f"own{rank}/"

    found: list[Any] = [
        [name, [strategy(rank) for rank in range(5)]] for name, strategy in strategies(side).items() if strategy
    ]
    found += [
        Own()(3),
        side.tried(made.S3PrefixStrategyBase),
        side.tried(made.NumericPrefixStrategy, 3),
        side.tried(robin, []),
    ]
    for kind in (made.BinaryPrefixStrategy, made.HexPrefixStrategy):
        for given in (
            {"prefix_count": 300},
            {"min_prefix_length": 1, "prefix_count": 17},
            {"epoch_num": 0},
            {"epoch_num": True},
        ):
            strategy = kind(**given)
            found.append(
                [
                    str(given),
                    [strategy(rank) for rank in (0, 1, 16, 17, 299, 300)],
                    strategy.prefix_count,
                    strategy.min_prefix_len,
                    len(strategy.prefix_map),
                ]
            )
        for given in (
            {"min_prefix_length": 0},
            {"epoch_num": "1"},
            {"epoch_num": 1.0},
            {"prefix_count": 0},
            {"prefix_count": "2"},
            {"prefix_count": 1.5},
        ):
            found.append([str(given), side.tried(kind, **given)])
    return found


@same()
def test_a_checkpoint_that_is_not_there(side: Side) -> Any:
    made = side.module("s3torchconnector.dcp")
    found = []
    for path in (side.uri("missing"), f"s3://{side.bucket}-missing/x", "/local"):
        reader = side.tried(made.S3StorageReader, side.region, path)
        error = (
            reader
            if isinstance(reader, BaseException)
            else side.tried(dcp.load, state(0, is_filled=False), storage_reader=reader, no_dist=True)
        )
        found.append([type(error).__name__, str(error).splitlines()[-1]])
    return found


@same()
def test_lightning_saves_loads_and_removes(side: Side) -> Any:
    made = side.module("s3torchconnector.lightning").S3LightningCheckpoint
    from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO

    checkpoint = made(side.region, side.top.S3ClientConfig(max_attempts=3), side.url)
    path = side.uri("dir/epoch=1.ckpt")
    found: list[Any] = [
        isinstance(checkpoint, CheckpointIO),
        checkpoint.region,
        checkpoint.save_checkpoint(state(0, is_filled=True), path),
        keys_in(side),
    ]
    loaded = checkpoint.load_checkpoint(path)
    found.append(equal(loaded, state(0, is_filled=True)))
    found.append(
        equal(checkpoint.load_checkpoint(path, map_location="cpu", weights_only=True), state(0, is_filled=True))
    )
    odd = side.uri("odd.ckpt")
    checkpoint.save_checkpoint({"path": Path("/x")}, odd)
    for trust in (None, True, False):
        error = side.tried(checkpoint.load_checkpoint, odd, weights_only=trust)
        found.append(type(error).__name__)
    for call in (
        lambda one: checkpoint.save_checkpoint({}, one),
        checkpoint.load_checkpoint,
        checkpoint.remove_checkpoint,
    ):
        found += [side.tried(call, one) for one in (Path("/local"), "/local", "s3://", 5)]
    found += [
        checkpoint.remove_checkpoint(odd),
        checkpoint.remove_checkpoint(odd),
        side.tried(checkpoint.load_checkpoint, odd),
    ]
    side.headers("user-agent")
    checkpoint.load_checkpoint(path)
    found.append([agent.partition("(")[2].partition(")")[0] for agent in side.headers("user-agent") if agent])
    later = AsyncCheckpointIO(checkpoint)
    later.save_checkpoint(state(1, is_filled=True), side.uri("later.ckpt"))
    later.teardown()
    found += [
        equal(checkpoint.load_checkpoint(side.uri("later.ckpt")), state(1, is_filled=True)),
        checkpoint.teardown(),
    ]
    clear(side)
    return found


@same()
def test_a_trainer_saves_and_resumes(side: Side) -> Any:
    import lightning
    from lightning.pytorch.demos.boring_classes import BoringModel

    made = side.module("s3torchconnector.lightning").S3LightningCheckpoint
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "accelerator": "cpu",
    }
    first = lightning.Trainer(max_steps=2, plugins=[made(side.region)], **quiet)
    model = BoringModel()
    first.fit(model)
    path = side.uri("trained.ckpt")
    first.save_checkpoint(path)
    found: list[Any] = [keys_in(side)]
    second = lightning.Trainer(max_steps=3, plugins=[made(side.region)], **quiet)
    second.fit(BoringModel(), ckpt_path=path)
    found.append(second.global_step)
    clear(side)
    return found
