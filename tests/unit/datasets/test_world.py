"""Who this process is, by what launchers and frameworks say. The environments are those that the launchers make."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from s3dlio.datasets.world import Worker, World, can_have_children, find_worker, find_world
from s3dlio.engine.errors import ConfigurationError

LAUNCHED = [
    ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3"}, 3, 8),
    ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, 1, 2),
    ({"PMI_RANK": "0", "PMI_SIZE": "4"}, 0, 4),
    ({"SLURM_PROCID": "5", "SLURM_NTASKS": "6"}, 5, 6),
    (
        {
            "SLURM_PROCID": "5",
            "SLURM_NTASKS": "6",
            "SLURM_JOB_ID": "77",
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NUM_TASKS": "6",
        },
        5,
        6,
    ),
]
NAMES = {name for environment, _, _ in LAUNCHED for name in environment}

SetEnvironment = Callable[[dict[str, str]], None]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides what this test run was launched by, and what it has loaded."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name in ("torch.distributed", "torch.utils.data", "jax"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> SetEnvironment:
    def launch(environment: dict[str, str]) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return launch


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    return lambda name, module: monkeypatch.setitem(sys.modules, name, module)


def torch_distributed(rank: int, size: int, available: bool = True, initialized: bool = True) -> Any:
    return SimpleNamespace(
        is_available=lambda: available,
        is_initialized=lambda: initialized,
        get_rank=lambda: rank,
        get_world_size=lambda: size,
    )


def jax_with(rank: int, size: int, initialized: bool) -> Any:
    def refuse() -> int:
        raise AssertionError("asked before its distributed runtime was initialised: that would start the backend")

    return SimpleNamespace(
        distributed=SimpleNamespace(is_initialized=lambda: initialized),
        process_index=(lambda: rank) if initialized else refuse,
        process_count=(lambda: size) if initialized else refuse,
    )


def test_without_a_launcher_this_is_process_0_of_1() -> None:
    assert find_world()[:2] == (0, 1)


@pytest.mark.parametrize(("environment", "rank", "size"), LAUNCHED)
def test_a_launcher_is_believed(environment: dict[str, str], rank: int, size: int, launched: SetEnvironment) -> None:
    launched(environment)
    assert find_world()[:2] == (rank, size)


def test_arguments_decide_alone_since_they_may_mean_groups_of_models(launched: SetEnvironment, loaded: Any) -> None:
    launched({"RANK": "5", "WORLD_SIZE": "8"})
    loaded("torch.distributed", torch_distributed(5, 8))
    assert find_world(1, 2) == World(1, 2, "the arguments")
    assert find_world(0, 1)[:2] == (0, 1)


def test_torch_distributed_is_asked_once_it_is_initialised(loaded: Any) -> None:
    loaded("torch.distributed", torch_distributed(2, 4))
    assert find_world() == World(2, 4, "torch.distributed")
    loaded("torch.distributed", torch_distributed(2, 4, initialized=False))
    assert find_world()[:2] == (0, 1)
    # A build without it has no is_initialized at all.
    loaded("torch.distributed", SimpleNamespace(is_available=lambda: False))
    assert find_world()[:2] == (0, 1)


def test_jax_is_asked_only_where_its_distributed_runtime_is_up(loaded: Any) -> None:
    loaded("jax", jax_with(3, 4, True))
    assert find_world() == World(3, 4, "jax.distributed")
    loaded("jax", jax_with(3, 4, False))
    assert find_world()[:2] == (0, 1)
    # Older versions have no such question.
    loaded("jax", SimpleNamespace(distributed=SimpleNamespace()))
    assert find_world()[:2] == (0, 1)


def test_the_installed_frameworks_are_understood_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    import jax
    import torch.distributed
    import torch.utils.data

    assert jax.distributed.is_initialized() is torch.distributed.is_initialized() is False
    assert sys.modules["torch.distributed"] is torch.distributed
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert find_world() == World(0, 1, "no launcher")
    assert find_worker() == Worker(0, 1)
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert find_world() == World(0, 1, "torch.distributed")
    finally:
        torch.distributed.destroy_process_group()


def test_sources_that_agree_are_one(launched: SetEnvironment, loaded: Any) -> None:
    for environment in ({"RANK": "1"}, {"OMPI_COMM_WORLD_RANK": "1"}, {"PMI_RANK": "1"}, {"SLURM_PROCID": "1"}):
        launched(environment)
    for environment in ({"WORLD_SIZE": "2"}, {"OMPI_COMM_WORLD_SIZE": "2"}, {"PMI_SIZE": "2"}, {"SLURM_NTASKS": "2"}):
        launched(environment)
    loaded("torch.distributed", torch_distributed(1, 2))
    loaded("jax", jax_with(1, 2, True))
    assert find_world() == World(1, 2, "torch.distributed")


@pytest.mark.parametrize(
    ("rank", "size", "task", "tasks"),
    [(9, 16, 1, 2), (7, 16, 0, 2), (3, 4, 0, 1), (0, 4, 0, 2), (3, 4, 1, 2), (2, 4, 0, 2)],
    ids=["second node", "first node", "one task", "first of all", "last of all", "dealt out in turn"],
)
def test_a_launcher_that_started_one_process_per_node_does_not_contradict_the_inner_one(
    rank: int, size: int, task: int, tasks: int, launched: SetEnvironment
) -> None:
    launched({"RANK": str(rank), "WORLD_SIZE": str(size), "SLURM_PROCID": str(task), "SLURM_NTASKS": str(tasks)})
    assert find_world()[:2] == (rank, size)


@pytest.mark.parametrize(
    ("rank", "size", "task", "tasks"),
    [(0, 4, 1, 4), (0, 4, 0, 8), (0, 1, 3, 8), (5, 6, 2, 4), (0, 4, 1, 2)],
    ids=["other rank", "other size", "inner has one", "groups of unequal size", "rank of another group"],
)
def test_sources_that_contradict_each_other_are_named_with_their_values(
    rank: int, size: int, task: int, tasks: int, launched: SetEnvironment, loaded: Any
) -> None:
    loaded("torch.distributed", torch_distributed(rank, size))
    launched({"SLURM_PROCID": str(task), "SLURM_NTASKS": str(tasks)})
    with pytest.raises(ConfigurationError) as caught:
        find_world()
    assert f"torch.distributed says rank {rank} of {size}, and Slurm says rank {task} of {tasks}" in str(caught.value)
    assert "pass rank= and world_size=" in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "1"}, "RANK and no WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE and no RANK"),
        ({"RANK": "1", "WORLD_SIZE": ""}, "RANK and no WORLD_SIZE"),
        ({"PMI_SIZE": "2"}, "PMI_SIZE and no PMI_RANK"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_RANK and no OMPI_COMM_WORLD_SIZE"),
        ({"SLURM_PROCID": "1"}, "SLURM_PROCID and no SLURM_NTASKS"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is a whole number from 0 on, not 'one'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is a whole number from 0 on, not '-1'"),
        ({"RANK": "0", "WORLD_SIZE": "1.5"}, "WORLD_SIZE is a whole number from 0 on, not '1.5'"),
        ({"RANK": "²", "WORLD_SIZE": "3"}, "RANK is a whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK=0 is not below WORLD_SIZE=0"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(
    environment: dict[str, str], message: str, launched: SetEnvironment
) -> None:
    launched(environment)
    with pytest.raises(ConfigurationError) as caught:
        find_world()
    assert message in str(caught.value)


@pytest.mark.parametrize(("rank", "size"), [(1, None), (None, 2), (2, 2), (-1, 2), (True, 2), (0, 0), ("0", 1.0)])
def test_arguments_that_make_no_sense_are_refused(rank: Any, size: Any) -> None:
    with pytest.raises(ConfigurationError):
        find_world(rank, size)


def test_slurm_says_nothing_where_srun_started_nothing(launched: SetEnvironment) -> None:
    # A job of 8 tasks whose script runs python by itself: Slurm gives it the number of a task that it is not.
    launched({"SLURM_JOB_ID": "77", "SLURM_NTASKS": "8"})
    assert find_world()[:2] == (0, 1)
    launched({"SLURM_PROCID": "0"})
    assert find_world()[:2] == (0, 1)
    launched({"SLURM_STEP_ID": "0", "SLURM_PROCID": "4"})
    assert find_world()[:2] == (4, 8)


def test_a_step_of_slurm_counts_its_own_tasks_and_not_those_of_the_job(launched: SetEnvironment) -> None:
    launched(
        {
            "SLURM_JOB_ID": "77",
            "SLURM_NTASKS": "8",
            "SLURM_STEP_ID": "1",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_PROCID": "1",
        }
    )
    assert find_world()[:2] == (1, 2)


def test_a_worker_of_a_dataloader_is_known_and_has_no_children(loaded: Any) -> None:
    assert find_worker() == Worker(0, 1)
    assert can_have_children()
    loaded("torch.utils.data", SimpleNamespace(get_worker_info=lambda: SimpleNamespace(id=1, num_workers=3)))
    assert find_worker() == Worker(1, 3)
    assert not can_have_children()
    loaded("torch.utils.data", SimpleNamespace(get_worker_info=lambda: None))
    assert find_worker() == Worker(0, 1)
    assert can_have_children()


def test_a_daemon_has_no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    assert not can_have_children()
