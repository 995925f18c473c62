"""The data sets of s3torchconnector in the workers of a DataLoader and in forked processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from s3dlio.compat.s3torchconnector import S3IterableDataset, S3MapDataset, S3Reader
from tests.compat.dataset_kit import BUCKET, REGION, ListedServer, answered_after, expected, key_and_data
from tests.process.kit import wait_until
from tests.support.processes import ScriptProcess
from tests.support.s3_endpoint import S3Endpoint

PREFIX = f"s3://{BUCKET}/o/"
Kind = type[S3IterableDataset] | type[S3MapDataset]


@pytest.fixture
def server(s3_env: Callable[[S3Endpoint | str], None]) -> Iterator[ListedServer]:
    with ListedServer() as found:
        s3_env(found.url)
        yield found


@pytest.fixture(params=[S3IterableDataset, S3MapDataset], ids=["iterable", "map"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def key_data_and_process(reader: S3Reader) -> tuple[str, bytes, int]:
    return (*key_and_data(reader), os.getpid())


def load(dataset: Any, how: str, num_workers: int = 2) -> tuple[list[tuple[str, bytes]], set[int]]:
    """Returns what a DataLoader gives, and which processes it is from."""
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=num_workers,
        collate_fn=list,
        multiprocessing_context=how if num_workers else None,
    )
    found = [one for batch in loader for one in batch]
    return [(key, data) for key, data, _ in found], {pid for _, _, pid in found}


def test_forked_workers_fetch_ahead_by_themselves_also_after_their_parent_did(server: ListedServer, kind: Kind) -> None:
    keys = server.fill(24)
    dataset = kind.from_prefix(PREFIX, region=REGION, transform=key_data_and_process)
    # The parent is in the middle of an iteration of its own, with objects under way.
    under_way = iter(dataset)
    assert [next(under_way)[:2] for _ in range(3)] == expected(server, keys[:3])
    given = {"enable_sharding": True} if kind is S3IterableDataset else {}
    shared = kind.from_prefix(PREFIX, region=REGION, transform=key_data_and_process, **given)
    server.requests.clear()
    found, pids = load(shared, "fork")
    assert sorted(found) == expected(server, keys)
    assert sorted(set(server.gets())) == keys
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert [sample[:2] for sample in under_way] == expected(server, keys[3:])


def test_a_worker_has_the_objects_of_its_batch_fetched_together(server: ListedServer) -> None:
    keys = server.fill(8)
    server.faults[f"/{BUCKET}/{keys[0]}"] = [answered_after(server, 8)]
    dataset = S3MapDataset.from_prefix(PREFIX, region=REGION, transform=key_data_and_process)
    found, _ = load(dataset, "fork")
    assert found == expected(server, keys)


def test_spawned_workers_read_their_share(server: ListedServer) -> None:
    keys = server.fill(12)
    dataset = S3IterableDataset.from_prefix(PREFIX, region=REGION, transform=key_data_and_process, enable_sharding=True)
    # Used before it is pickled.
    assert next(iter(dataset))[:2] == expected(server, keys)[0]
    found, pids = load(dataset, "spawn")
    assert sorted(found) == expected(server, keys)
    assert len(pids) == 2


SERVED = """
from torch.utils.data import DataLoader
from s3dlio.compat.s3torchconnector import S3MapDataset
from tests.compat.dataset_kit import key_and_data

if __name__ == "__main__":
    dataset = S3MapDataset.from_prefix("s3://bucket/o/", region="us-east-1", transform=key_and_data)
    print(len(dataset), flush=True)
    loader = DataLoader(dataset, batch_size=4, num_workers=1, collate_fn=list, multiprocessing_context="forkserver")
    print([one for batch in loader for one in batch], flush=True)
"""


def test_a_worker_of_a_fork_server_gets_the_list_that_its_parent_has(server: ListedServer) -> None:
    keys = server.fill(8)
    with ScriptProcess(SERVED) as program:
        assert program.read_line(60) == "8"
        assert program.read_line(60) == repr(expected(server, keys))
        assert program.wait() == 0
        wait_until(lambda: not program.descendants(), "nothing is left of the fork server")
    assert len(server.lists()) == 1


def test_without_sharding_each_worker_gives_everything(server: ListedServer) -> None:
    keys = server.fill(5)
    dataset = S3IterableDataset.from_prefix(PREFIX, region=REGION, transform=key_data_and_process)
    found, _ = load(dataset, "fork")
    assert sorted(found) == sorted(expected(server, keys) * 2)


def test_readers_themselves_come_out_of_a_worker_unread(server: ListedServer, kind: Kind) -> None:
    keys = server.fill(5)
    loader = DataLoader(kind.from_prefix(PREFIX, region=REGION), batch_size=None, num_workers=1)
    readers = list(loader)
    assert not server.gets()
    assert [key_and_data(reader) for reader in readers] == expected(server, keys)


def test_a_forked_child_reads_readers_of_its_parent_and_goes_on_with_its_iteration(
    server: ListedServer, tmp_path: Path
) -> None:
    keys = server.fill(20)
    readers = iter(S3IterableDataset.from_prefix(PREFIX, region=REGION))
    held = list(islice(readers, 6))
    assert key_and_data(held[0]) == expected(server, keys)[0]
    pid = os.fork()
    if pid == 0:
        try:
            found = [key_and_data(reader) for reader in [*held[1:], *readers]]
            (tmp_path / "found").write_text(repr(found))
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert (tmp_path / "found").read_text() == repr(expected(server, keys[1:]))
    assert [key_and_data(reader) for reader in [*held[1:], *readers]] == expected(server, keys[1:])


RANKS = """
import os, sys
import torch.distributed as distributed
from torch.utils.data import DataLoader
from s3dlio.compat.s3torchconnector import S3IterableDataset

(store,) = sys.argv[1:]

def key_of(reader):
    return reader.key

def main():
    dataset = S3IterableDataset.from_prefix("s3://bucket/o/", region="us-east-1", transform=key_of, enable_sharding=True)
    children = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                distributed.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
                loader = DataLoader(dataset, batch_size=None, num_workers=rank + 1, multiprocessing_context="fork")
                found = repr([list(loader), list(dataset)])
                distributed.barrier()
                distributed.destroy_process_group()
                with open(store + str(rank), "w") as file:
                    file.write(found)
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    for rank in range(2):
        print(open(store + str(rank)).read(), flush=True)

if __name__ == "__main__":
    main()
"""


def test_the_ranks_of_a_process_group_share_with_different_numbers_of_workers(
    server: ListedServer, tmp_path: Path
) -> None:
    keys = server.fill(11)
    with ScriptProcess(RANKS, [str(tmp_path / "store")]) as program:
        first, second = keys[0::2], keys[1::2]
        assert program.read_line(60) == repr([first, first])
        # The workers of a DataLoader give in turn.
        assert program.read_line(60) == repr([second, second])
        assert program.wait() == 0


def test_batches_of_tensors_come_out_of_a_plain_data_loader(server: ListedServer) -> None:
    keys = server.fill(6, 64)
    dataset = S3IterableDataset.from_prefix(
        PREFIX, region=REGION, transform=lambda reader: torch.frombuffer(reader.read(), dtype=torch.uint8)
    )
    batches = list(DataLoader(dataset, batch_size=3))
    assert [batch.shape for batch in batches] == [(3, 64)] * 2
    assert [bytes(row.numpy()) for batch in batches for row in batch] == [server.data(key) for key in keys]
