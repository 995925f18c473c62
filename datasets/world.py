"""Which process of how many this is, and which worker of a DataLoader.

Nothing is started, imported or initialised to find out: a framework is asked only if it is loaded and knows already. Whoever iterates asks
when the iteration begins, since the same script runs `init_process_group` after it has made its data sets.

Rules:

* Arguments decide alone: they may mean something else than the launcher, the data-parallel rank in a group of models for instance.
* Otherwise all who speak must agree; ranks that believe in different worlds would read samples twice, and others never.
* A launcher may have started fewer processes than there are: Slurm one per node, and torchrun in each of these one per GPU. Then the inner
  one is right, and the outer one is no contradiction.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from s3dlio.engine.config import environment
from s3dlio.engine.errors import ConfigurationError

_NOBODY: Final = "no launcher"


class World(NamedTuple):
    """The place of this process among those that share the samples."""

    rank: int
    size: int
    source: str
    """Who says so, for messages."""

    @property
    def is_alone(self) -> bool:
        """Whether nobody said anything of others."""
        return self.source == _NOBODY


class Worker(msgspec.Struct, frozen=True):
    """The place of this process among the workers of its DataLoader."""

    index: int
    count: int


def find_world(rank: int | None = None, world_size: int | None = None) -> World:
    """Returns rank and world size: those given, or what torch.distributed, JAX, torchrun, MPI and Slurm say, or 0 of 1.

    Raises:
        ConfigurationError: Only one of the two is given or set, one is no number, the rank is not below the world size, or two sources
            contradict each other; the text names them with their values.
    """
    if rank is not None or world_size is not None:
        return _checked("the arguments", "rank", rank, "world_size", world_size)
    found = [world for ask in _SOURCES for world in ask()]
    if not found:
        return World(0, 1, _NOBODY)
    inner = found[0]
    for outer in found[1:]:
        if not _agree(inner, outer):
            raise ConfigurationError(
                f"{inner.source} says rank {inner.rank} of {inner.size}, and {outer.source} says rank {outer.rank} of {outer.size}; "
                "pass rank= and world_size= to say what holds, or clear what is left of another launcher"
            )
    return inner


def find_worker() -> Worker:
    """Returns which worker of a torch DataLoader this is, and of how many; 0 of 1 elsewhere."""
    info = _worker_info()
    return Worker(0, 1) if info is None else Worker(info.id, info.num_workers)


def is_in_data_loader() -> bool:
    """Whether this process is a worker of a torch DataLoader."""
    return _worker_info() is not None


def can_have_children() -> bool:
    """Whether this process may start worker processes: daemons must not, and workers of a DataLoader are many already."""
    return not multiprocessing.current_process().daemon and _worker_info() is None


def _worker_info() -> Any:
    data = sys.modules.get("torch.utils.data")
    return None if data is None else data.get_worker_info()


def _agree(inner: World, outer: World) -> bool:
    """Whether two sources may both be right: they say the same, or `outer` counts groups of equally many processes.

    Processes of one group have consecutive ranks, or are dealt out in turn (Open MPI's `--map-by node`).
    """
    if (inner.rank, inner.size) == (outer.rank, outer.size):
        return True
    per_group, rest = divmod(inner.size, outer.size)
    return per_group > 1 and not rest and outer.rank in (inner.rank // per_group, inner.rank % outer.size)


def _ask_torch() -> Iterator[World]:
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        yield World(distributed.get_rank(), distributed.get_world_size(), "torch.distributed")


def _ask_jax() -> Iterator[World]:
    jax = sys.modules.get("jax")
    # Without its distributed runtime, asking would only start the backend, and there is one process.
    is_initialized = getattr(getattr(jax, "distributed", None), "is_initialized", None)
    if jax is not None and is_initialized is not None and is_initialized():
        yield World(jax.process_index(), jax.process_count(), "jax.distributed")


def _ask_torchrun() -> Iterator[World]:
    yield from _ask_environment("the environment", "RANK", "WORLD_SIZE")


def _ask_mpi() -> Iterator[World]:
    yield from _ask_environment("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")
    yield from _ask_environment("MPI", "PMI_RANK", "PMI_SIZE")


def _ask_slurm() -> Iterator[World]:
    found = environment("SLURM_PROCID", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS")
    # A batch script and an interactive shell are rank 0 of all tasks of the job, by these variables, and run alone all the same: only what
    # srun started is a step with a number. Source: srun(1), sbatch(1), "OUTPUT ENVIRONMENT VARIABLES".
    if "SLURM_PROCID" in found and ("SLURM_STEP_ID" in found or "SLURM_JOB_ID" not in found):
        yield from _ask_environment(
            "Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in found else "SLURM_NTASKS"
        )


def _ask_environment(source: str, rank_name: str, size_name: str) -> Iterator[World]:
    found = environment(rank_name, size_name)
    if found:
        yield _checked(source, rank_name, found.get(rank_name), size_name, found.get(size_name))


def _checked(source: str, rank_name: str, rank: object, size_name: str, size: object) -> World:
    if rank is None or size is None:
        given, missing = (size_name, rank_name) if rank is None else (rank_name, size_name)
        raise ConfigurationError(f"{source} has {given} and no {missing}; they are set together or not at all")
    world = World(_number(rank_name, rank), _number(size_name, size), source)
    if not world.rank < world.size:
        raise ConfigurationError(f"{rank_name}={rank} is not below {size_name}={size} ({source})")
    return world


def _number(name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdecimal():
        return int(value)
    raise ConfigurationError(f"{name} is a whole number from 0 on, not {value!r}")


_SOURCES: Final[tuple[Callable[[], Iterator[World]], ...]] = (_ask_torch, _ask_jax, _ask_torchrun, _ask_mpi, _ask_slurm)
"""From the innermost to the outermost: who was started by whom."""
