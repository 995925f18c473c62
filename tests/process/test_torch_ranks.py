"""The PyTorch data sets in several processes that train together, and handed from one process to another."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from s3dlio import ObjectStoreIterableDataset
from tests.process.kit import wait_until
from tests.process.torch_kit import Corpus, cut, part_of
from tests.support.processes import ScriptProcess

GROUP = """
import os, sys
import torch.distributed as distributed
from s3dlio import ConfigurationError, ObjectStoreIterableDataset
from tests.process.torch_kit import raw
uri, store = sys.argv[1:]
made_before = ObjectStoreIterableDataset(uri, batch_size=2, tail="pad", procs=0)

def train(rank):
    distributed.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
    def numbers(dataset):
        return [[raw(row)[0] for row in batch] for batch in dataset]
    found = [numbers(made_before), numbers(made_before)]
    found.append(numbers(ObjectStoreIterableDataset(uri, batch_size=2, tail="pad", procs=0)))
    other = ObjectStoreIterableDataset(uri, ["00*", "000[0-8]*"][rank], batch_size=2, tail="pad", procs=0)
    try:
        numbers(other)
    except ConfigurationError as error:
        found.append("listed different objects" in str(error) and "manifest" in str(error))
    distributed.barrier()
    distributed.destroy_process_group()
    with open(store + str(rank), "w") as file:
        file.write(repr(found))

children = []
for rank in range(2):
    pid = os.fork()
    if pid == 0:
        try:
            train(rank)
        finally:
            os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
for rank in range(2):
    print(open(store + str(rank)).read(), flush=True)
"""


@pytest.fixture
def ten(tmp_path: Path) -> Corpus:
    corpus = Corpus(tmp_path / "objects")
    for number in range(10):
        corpus.add(f"{number:04d}.bin", bytes([number]) * 100)
    return corpus


def test_ranks_of_a_process_group_share_the_samples_and_find_out_that_they_listed_different_objects(
    ten: Corpus, tmp_path: Path
) -> None:
    with ScriptProcess(GROUP, [ten.uri, str(tmp_path / "store")]) as program:
        for rank in range(2):
            mine = cut(part_of(range(10), rank, 2), 2)
            assert program.read_line(60) == repr([mine, mine, mine, True])
        assert program.wait() == 0


STARTED = """
import multiprocessing, os, sys
from s3dlio import ObjectStoreIterableDataset, ObjectStoreMapDataset
from tests.process.torch_kit import read_into, read_sent

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    queue = context.Queue()
    dataset = ObjectStoreIterableDataset(sys.argv[1], procs=1, tail="pad")
    dataset.set_epoch(3)
    samples = ObjectStoreMapDataset(sys.argv[1])
    list(dataset)
    children = []
    for rank in range(2):
        os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), "2"
        if len(sys.argv) == 3:
            children.append(context.Process(target=read_into, args=(queue, rank, dataset, samples)))
            children[-1].start()
        else:
            inbox = context.Queue()
            children.append(context.Process(target=read_sent, args=(queue, rank, inbox)))
            children[-1].start()
            inbox.put((dataset, samples))
    for found in sorted(queue.get(timeout=60) for _ in children):
        print(found, flush=True)
    for child in children:
        child.join()
"""


@pytest.mark.parametrize("how", ["fork", "spawn", "fork and a queue"])
def test_a_data_set_that_is_handed_to_processes_finds_the_rank_of_each(ten: Corpus, how: str) -> None:
    with ScriptProcess(STARTED, [ten.uri, *how.split(" ", 1)]) as program:
        for rank in range(2):
            assert program.read_line(60) == repr((rank, part_of(range(10), rank, 2), list(range(10)), 3))
        assert program.wait() == 0
        wait_until(lambda: not program.descendants(), "nothing is left of the children")


def test_a_copy_goes_on_by_itself(ten: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ObjectStoreIterableDataset(ten.uri, procs=0, tail="pad")
    dataset.set_epoch(2)
    dataset.load_state_dict(json.loads(json.dumps(_after(dataset, 4))))
    other = copy.deepcopy(dataset)
    dataset.set_epoch(5)
    assert other.epoch == 2
    assert ten.positions(other) == list(range(4, 10))
    assert ten.positions(dataset) == list(range(10))
    # The copy is as good as the one it is of: it asks for its rank when it iterates.
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ten.positions(other) == [1, 3, 5, 7, 9]


def _after(dataset: ObjectStoreIterableDataset, num: int) -> dict[str, object]:
    for number, _ in enumerate(dataset, 1):
        if number == num:
            break
    return dataset.state_dict()
