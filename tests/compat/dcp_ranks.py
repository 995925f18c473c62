"""Two ranks of a process group that save and load checkpoints, with s3torchconnector and with ours, as a test tells them.

Owns: the two processes and what they do. Both packages are in both processes, since loading torch takes seconds, and so each can load
what the other saved.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.processes import ScriptProcess
from tests.support.s3_endpoint import S3Endpoint, endpoint_env

THEIRS, OURS = "s3torchconnector", "s3dlio.compat.s3torchconnector"
WORLD_SIZE = 2
REGION = "us-east-1"
_PROGRAM = "import sys; from tests.compat.dcp_ranks import serve; serve(int(sys.argv[1]), sys.argv[2])"
_START_TIMEOUT_S = 90.0


class Ranks:
    """The processes; `run` has both do the same, and returns what each saw."""

    def __init__(self, endpoint: S3Endpoint, folder: Path) -> None:
        env = dict(os.environ)  # noqa: TID251 (for another process)
        endpoint_env(env, endpoint)
        self._processes = [
            ScriptProcess(_PROGRAM, [str(rank), str(folder / "group")], env) for rank in range(WORLD_SIZE)
        ]
        try:
            for process in self._processes:
                process.expect("READY", _START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def run(self, name: str, **given: Any) -> list[Any]:
        """Runs one of the functions below in each process, with keywords that JSON can say."""
        for process in self._processes:
            process.send_line(json.dumps([name, given]))
        return [json.loads(" ".join(process.expect("DONE", 60.0))) for process in self._processes]

    def close(self) -> None:
        for process in self._processes:
            process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(rank: int, store: str) -> None:
    """Does what standard input asks for, until that ends."""
    import torch.distributed as dist

    talk = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD_SIZE)
    # It warns of every checkpoint that lacks the metadata of the whole.
    logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
    print("READY", file=talk, flush=True)
    for line in sys.stdin:
        name, given = json.loads(line)
        print("DONE", json.dumps(globals()[name](rank, **given)), file=talk, flush=True)
    dist.destroy_process_group()


def save(
    rank: int,
    package: str,
    path: str,
    strategy: list[Any] | None = None,
    use_collectives: bool = True,
    **options: Any,
) -> list[str]:
    """Saves the state, and returns the warnings.

    Args:
        rank: Of this process.
        package: Whose writer does it.
        path: URI of the checkpoint.
        strategy: Name and keywords of a prefix strategy.
        use_collectives: Whether the ranks plan together.
        options: More of the writer's.
    """
    import torch.distributed.checkpoint as dcp

    made = importlib.import_module(f"{package}.dcp.s3_prefix_strategy")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        prefix_strategy = None if strategy is None else getattr(made, strategy[0])(**strategy[1])
        writer = importlib.import_module(f"{package}.dcp").S3StorageWriter(
            REGION, path, prefix_strategy=prefix_strategy, **options
        )
        dcp.save(_state(rank, use_collectives), storage_writer=writer, use_collectives=use_collectives)
    return [str(one.message) for one in warned]


def load(
    rank: int,
    package: str,
    path: str,
    reader: str = "dcp_optimized",
    dim: int = 0,
    use_collectives: bool = True,
) -> bool:
    """Loads the state, and returns whether it is what was saved.

    Args:
        rank: Of this process.
        package: Whose reader does it.
        path: URI of the checkpoint.
        reader: Which of the `S3ReaderConstructor`.
        dim: Along which the long tensor is spread over the ranks; it was saved along the first.
        use_collectives: Whether the ranks saved together.
    """
    import torch
    import torch.distributed.checkpoint as dcp

    constructor = getattr(importlib.import_module(f"{package}.s3reader").S3ReaderConstructor, reader)()
    storage = importlib.import_module(f"{package}.dcp").S3StorageReader(REGION, path, reader_constructor=constructor)
    wanted = _state(rank, use_collectives, dim)
    found = _emptied(_state(rank, use_collectives, dim))
    dcp.load(found, storage_reader=storage)
    return set(found) == set(wanted) and all(
        torch.equal(_local(found[name]), _local(wanted[name])) if isinstance(wanted[name], torch.Tensor)
        # What is no tensor is as one of the ranks had it.
        else found[name]["epoch"] == wanted[name]["epoch"]
        for name in wanted
    )  # fmt: skip


def _state(rank: int, use_collectives: bool, dim: int = 0) -> dict[str, Any]:
    """Returns a state that is spread over the ranks, or, of ranks that are on their own, one for each."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    whole = torch.arange(40 * 60, dtype=torch.float32).reshape(40, 60)
    plain = {"bias": torch.arange(7) * 3, "empty": torch.zeros(0), "note": {"epoch": 12, "seen": [1, 2]}}
    if not use_collectives:
        return {"mine": whole + 10_000 * rank, **plain}
    mesh = init_device_mesh("cpu", (WORLD_SIZE,))
    spread = {f"weight{number}": distribute_tensor(whole + number, mesh, [Shard(dim)]) for number in range(3)}
    return {**spread, **plain}


def _emptied(state: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {
        name: torch.zeros_like(value) if isinstance(value, torch.Tensor) else {"epoch": None, "seen": []}
        for name, value in state.items()
    }


def _local(tensor: Any) -> Any:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
