"""The data sets, alone and in DataLoader, over ranks and workers: the same with both packages."""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed
from torch.utils.data import DataLoader

from tests.compat.both import Side, same

TRAIN = {f"train/{number:02d}": bytes([65 + number]) * (number * 3) for number in range(10)}
OTHERS = {"other/x": b"x", "train": b"no folder", "train/": b""}
IN_ORDER = sorted({**TRAIN, **OTHERS})


def key_and_bytes(item: Any) -> list[Any]:
    return [item.key, bytes(item.read())]


def where(item: Any) -> list[Any]:
    worker = torch.utils.data.get_worker_info()
    return [
        item.key,
        bytes(item.read()),
        None if worker is None else [worker.id, worker.num_workers],
        os.getpid() == _HOME,
    ]


def length(item: Any) -> int:
    return len(item.read())


def asked(item: Any) -> list[Any]:
    return [item.key, item.seek(0, 2)]


def rejecting(item: Any) -> Any:
    if item.key.endswith("03"):
        raise LookupError("not this one")
    return item.key


_HOME = os.getpid()


def both_kinds(side: Side, **given: Any) -> list[tuple[str, Any]]:
    made = [
        (f"{kind.__name__} {how}", make)
        for kind in (side.top.S3MapDataset, side.top.S3IterableDataset)
        for how, make in (
            ("prefix", lambda kind=kind: kind.from_prefix(side.uri("train/"), region=side.region, **given)),
            (
                "objects",
                lambda kind=kind: kind.from_objects(
                    [side.uri(key) for key in sorted(TRAIN)], region=side.region, **given
                ),
            ),
        )
    ]
    return [(name, make()) for name, make in made]


@contextmanager
def ranked(rank: int, world_size: int) -> Iterator[None]:
    """Lets this process be one rank of a job whose other ranks are not there."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@same({**TRAIN, **OTHERS})
def test_nothing_is_sent_until_it_is_needed(side: Side) -> Any:
    found = []
    for name, dataset in both_kinds(side):
        steps = [
            name,
            isinstance(dataset, (torch.utils.data.Dataset)),
            dataset.region,
            dataset.endpoint,
            dataset._client,
            side.sent(),
        ]
        if "Map" in name:
            steps += [len(dataset), side.sent(), len(dataset), dataset[0].key, dataset[-1].key, side.sent()]
        else:
            walk = iter(dataset)
            steps += [next(walk).key, next(walk).bucket, len(side.sent()) <= 1]
        found.append(steps)
    return found


@same({**TRAIN, **OTHERS})
def test_items_come_in_the_order_of_the_listing_or_of_the_uris(side: Side) -> Any:
    found: list[Any] = [
        [name, list(dataset), list(dataset)] for name, dataset in both_kinds(side, transform=key_and_bytes)
    ]
    backwards = [side.uri(key) for key in reversed(IN_ORDER)]
    for kind in (side.top.S3MapDataset, side.top.S3IterableDataset):
        found.append(list(kind.from_objects(backwards, region=side.region, transform=key_and_bytes)))
        found.append(list(kind.from_objects(side.uri("train/02"), region=side.region, transform=key_and_bytes)))
        found.append(list(kind.from_objects([side.uri("train/02")] * 3, region=side.region, transform=key_and_bytes)))
        found.append(list(kind.from_objects([], region=side.region)))
        found += [
            [prefix, [item.key for item in kind.from_prefix(side.uri(prefix), region=side.region)]]
            for prefix in ("", "train", "train/0", "train/03", "none", "o")
        ]
        found.append([item.key for item in kind.from_prefix(f"s3://{side.bucket}", region=side.region)])
    return found


@same({**TRAIN, **OTHERS})
def test_an_iterable_lists_each_time_and_a_map_once(side: Side) -> Any:
    iterable, mapped = (
        kind.from_prefix(side.uri("train/"), region=side.region)
        for kind in (side.top.S3IterableDataset, side.top.S3MapDataset)
    )
    found: list[Any] = []
    for _ in range(2):
        found.append([[item.key for item in iterable], [one for one in side.sent() if "LIST" in one]])
        found.append([[item.key for item in mapped], [one for one in side.sent() if "LIST" in one]])
    side.new_client().delete_object(side.bucket, "train/05")
    found += [[item.key for item in iterable], [item.key for item in mapped], side.tried(mapped[6].read)]
    walks = [iter(iterable), iter(iterable)]
    found.append([next(walks[number % 2]).key for number in range(6)])
    return found


@same({**TRAIN, **OTHERS})
def test_a_prefix_needs_no_head_and_uris_one_for_a_size(side: Side) -> Any:
    found = []
    for name, dataset in both_kinds(side, transform=asked):
        found.append([name, list(dataset), sorted(side.sent())])
    for name, dataset in both_kinds(side, transform=key_and_bytes):
        found.append([name, list(dataset), [one for one in side.sent() if one.startswith("HEAD")]])
    for name, dataset in both_kinds(
        side, transform=key_and_bytes, reader_constructor=side.top.S3ReaderConstructor.range_based()
    ):
        found.append([name, list(dataset), sorted(side.sent())])
    return found


@same({**TRAIN, **OTHERS})
def test_map_datasets_are_sequences(side: Side) -> Any:
    dataset = side.top.S3MapDataset.from_prefix(side.uri("train/"), region=side.region)
    found = [
        len(dataset),
        dataset[0].key,
        dataset[-1].key,
        dataset[-11].key,
        next(iter(dataset)).key,
        dataset[3] is dataset[3],
    ]
    found += [side.tried(dataset.__getitem__, index) for index in (11, -12, 1 << 70)]
    found += [type(side.tried(dataset.__getitem__, index)).__name__ for index in ("1", None, 1.0)]
    found.append([dataset[True].key, [item.key for item in torch.utils.data.Subset(dataset, [4, 2])]])
    data = dataset._dataset_bucket_key_pairs
    found.append([[type(one).__name__, one.bucket, one.key, one.object_info.size] for one in data])
    found.append(
        [
            hasattr(side.top.S3IterableDataset, "__len__"),
            type(dataset._get_client()).__name__,
            dataset._get_client() is dataset._client,
        ]
    )
    first = dataset[1]
    return [*found, first.read(2), first.read(), dataset[1].read(), type(first).__name__]


@same()
def test_bad_uris_are_told_at_the_first_iteration(side: Side) -> Any:
    found = []
    for uri in ("", "/local", "gopher://bucket/key", "s3://", "s3:///key", None):
        for kind in (side.top.S3MapDataset, side.top.S3IterableDataset):
            for make in (kind.from_prefix, kind.from_objects):
                given = uri if make == kind.from_prefix else [uri]
                dataset = make(given, region=side.region)
                found.append([uri, side.tried(lambda dataset=dataset: len(list(dataset)))])
            found.append(side.tried(kind.from_prefix, side.uri()))
            found.append(side.tried(kind.from_objects, [], region=side.region, nonsense=1))
    return found


@same(TRAIN)
def test_errors_of_datasets(side: Side) -> Any:
    found: list[Any] = []
    for kind in (side.top.S3MapDataset, side.top.S3IterableDataset):
        for make, what in (
            (kind.from_prefix, f"s3://{side.bucket}-missing/p"),
            (kind.from_objects, [side.uri("missing"), side.uri("train/02")]),
        ):
            dataset = make(what, region=side.region)
            walk = side.tried(iter, dataset)
            item = walk if isinstance(walk, Exception) else side.tried(next, walk)
            found.append(
                item if isinstance(item, Exception) else [item.key, side.tried(item.read), side.tried(item.seek, 0, 2)]
            )
            if not isinstance(item, Exception):
                found.append([bytes(one.read()) for one in walk])
        dataset = kind.from_prefix(side.uri("train/"), region=side.region, transform=rejecting)
        found.append(side.tried(list, dataset))
        dataset = kind.from_prefix(
            side.uri("train/"), region=side.region, s3client_config=side.top.S3ClientConfig(part_size=1)
        )
        found.append(side.tried(list, dataset))
    return found


@same({**TRAIN, **OTHERS})
def test_items_that_are_read_in_any_order_or_part_or_never(side: Side) -> Any:
    found = []
    for name, dataset in both_kinds(side):
        items = list(dataset)
        found.append([name, [[item.key, bytes(item.read())] for item in reversed(items)]])
        found.append([[item.read(2), item.seek(0), item.read(3), item.tell()] for item in dataset])
        found.append([bytes(item.read()) for number, item in enumerate(dataset) if number % 3 == 0])
        found.append([len(item.read()) for item in items])
        walk = iter(dataset)
        found.append([bytes(next(walk).read()) for _ in range(3)])
    return found


@same(TRAIN)
def test_a_generator_of_uris_serves_once(side: Side) -> Any:
    def uris() -> Iterator[str]:
        return (side.uri(key) for key in sorted(TRAIN))

    mapped = side.top.S3MapDataset.from_objects(uris(), region=side.region, transform=key_and_bytes)
    iterable = side.top.S3IterableDataset.from_objects(uris(), region=side.region, transform=key_and_bytes)
    return [
        list(mapped),
        list(mapped),
        list(iterable),
        list(iterable),
        type(side.tried(pickle.dumps, iterable)).__name__,
    ]


@same(TRAIN)
def test_a_datasets_own_listing_is_taken(side: Side) -> Any:
    data = side.module("s3torchconnector._s3bucket_key_data").S3BucketKeyData
    clients: list[Any] = []

    def some(client: Any) -> Any:
        clients.append(type(client).__name__)
        return [data(side.bucket, "train/01"), data(bucket=side.bucket, key="train/02", object_info=None)]

    found = [
        list(kind(side.region, some, transform=key_and_bytes))
        for kind in (side.top.S3MapDataset, side.top.S3IterableDataset)
    ]
    return [
        found,
        clients,
        repr(data("b", "k")),
        data("b", "k") == data("b", "k", None),
        side.tried(setattr, data("b", "k"), "key", "x"),
    ]


@same(TRAIN)
def test_datasets_pickle_before_and_after_use(side: Side) -> Any:
    found = []
    for name, dataset in both_kinds(
        side, transform=key_and_bytes, reader_constructor=side.top.S3ReaderConstructor.range_based(0)
    ):
        before = pickle.loads(pickle.dumps(dataset))  # noqa: TID251 (its own)
        found.append([name, list(before), before.region, before.endpoint])
        list(dataset)
        side.sent()
        after = pickle.loads(pickle.dumps(dataset))  # noqa: TID251 (its own)
        found.append([list(after), [one for one in side.sent() if one.startswith(("LIST", "HEAD"))]])
    return found


@same({**TRAIN, **OTHERS})
def test_the_seam_for_tests_with_a_mock_client(side: Side) -> Any:
    mock = side.module("s3torchconnector._s3client").MockS3Client(side.region, "mock-bucket")
    mock.add_object("a/1", b"one")
    mock.add_object("a/2", b"two")
    found = []
    for kind in (side.top.S3MapDataset, side.top.S3IterableDataset):
        for dataset in (
            kind.from_prefix("s3://mock-bucket/a/", region=side.region, transform=key_and_bytes),
            kind.from_objects(["s3://mock-bucket/a/2"], region=side.region, transform=key_and_bytes),
        ):
            dataset._client = mock
            found.append(list(dataset))
    return [*found, side.sent()]


@same({**TRAIN, **OTHERS})
def test_user_agents_name_the_dataset_and_the_reader(side: Side) -> Any:
    made = side.top.S3ReaderConstructor
    found = []
    for kind in (side.top.S3MapDataset, side.top.S3IterableDataset):
        for reader in (None, made.range_based(), lambda **given: given["key"]):
            list(kind.from_prefix(side.uri("train/"), region=side.region, reader_constructor=reader))
            found.append([agent.partition("(")[2].partition(")")[0] for agent in side.headers("user-agent") if agent])
    return found


@same({**TRAIN, **OTHERS})
def test_shards_of_ranks_are_the_same(side: Side) -> Any:
    found = []
    for rank, world_size in ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (11, 12)):
        with ranked(rank, world_size):
            for name, dataset in both_kinds(side, transform=key_and_bytes):
                found.append([rank, world_size, name, [key for key, _ in dataset]])
            for uri in ("train/", "none"):
                sharded = side.top.S3IterableDataset.from_prefix(
                    side.uri(uri), region=side.region, enable_sharding=True
                )
                found.append([item.key for item in sharded])
            objects = side.top.S3IterableDataset.from_objects(
                [side.uri(key) for key in TRAIN], region=side.region, enable_sharding=True, transform=key_and_bytes
            )
            found.append(list(objects))
    return found


@same({**TRAIN, **OTHERS})
def test_shards_of_ranks_and_workers_are_the_same(side: Side) -> Any:
    found = []
    for rank, world_size, num_workers in ((0, 1, 2), (1, 2, 3), (0, 2, 1)):
        with ranked(rank, world_size):
            for is_sharded in (True, False):
                dataset = side.top.S3IterableDataset.from_prefix(
                    side.uri("train/"), region=side.region, enable_sharding=is_sharded, transform=where
                )
                loader = DataLoader(dataset, batch_size=None, num_workers=num_workers, multiprocessing_context="fork")
                found.append([rank, world_size, num_workers, is_sharded, sorted(loader)])
    return found


@same({**TRAIN, **OTHERS})
def test_a_map_dataset_with_a_distributed_sampler(side: Side) -> Any:
    found = []
    with ranked(1, 2):
        for _, dataset in both_kinds(side, transform=key_and_bytes)[:2]:
            sampler = torch.utils.data.DistributedSampler(dataset, shuffle=True, seed=3)
            loader = DataLoader(dataset, batch_size=2, sampler=sampler, collate_fn=list)
            for epoch in range(2):
                sampler.set_epoch(epoch)
                found.append(list(loader))
    return found


@same({**TRAIN, **OTHERS})
def test_in_a_loader_without_workers(side: Side) -> Any:
    found = []
    for name, dataset in both_kinds(side, transform=length):
        found.append([name, [batch.tolist() for batch in DataLoader(dataset, batch_size=3)]])
        found.append([one.tolist() for one in DataLoader(dataset, batch_size=4, drop_last=True)])
    for name, dataset in both_kinds(side):
        found.append([name, [[item.key, bytes(item.read())] for item in DataLoader(dataset, batch_size=None)]])
        found.append(
            [
                [[item.key, bytes(item.read())] for item in batch]
                for batch in DataLoader(dataset, batch_size=4, collate_fn=list)
            ]
        )
        found.append(type(side.tried(list, DataLoader(dataset, batch_size=2))).__name__)
    mapped = both_kinds(side, transform=key_and_bytes)[0][1]
    generator = torch.Generator().manual_seed(5)
    found.append(list(DataLoader(mapped, batch_size=3, shuffle=True, generator=generator, collate_fn=list)))
    return found


@same({**TRAIN, **OTHERS})
def test_in_forked_workers(side: Side) -> Any:
    found: list[Any] = []
    mapped, iterable = (both_kinds(side, transform=where)[number][1] for number in (0, 3))
    # It has been used here before the fork.
    list(mapped)
    for dataset in (mapped, iterable):
        loader = DataLoader(
            dataset,
            batch_size=3,
            collate_fn=list,
            num_workers=2,
            multiprocessing_context="fork",
            persistent_workers=dataset is mapped,
        )
        found.append([sorted(batch) for batch in loader])
        if dataset is mapped:
            found.append([sorted(batch) for batch in loader])
        found.append(list(dataset)[:1])
        del loader
    raising = both_kinds(side, transform=rejecting)[0][1]
    loader = DataLoader(raising, batch_size=1, num_workers=1, multiprocessing_context="fork")
    error = side.tried(list, loader)
    found.append([type(error).__name__, str(error).rstrip().splitlines()[-1]])
    missing = side.top.S3MapDataset.from_objects([side.uri("missing")], region=side.region, transform=length)
    error = side.tried(list, DataLoader(missing, num_workers=1, multiprocessing_context="fork"))
    return [*found, type(error).__name__, "Service error: The key does not exist" in str(error)]


@same({**TRAIN, **OTHERS})
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_in_workers_of_other_starts(side: Side, start: str) -> Any:
    _, mapped = both_kinds(side, transform=where)[0]
    iterable = side.top.S3IterableDataset.from_prefix(
        side.uri("train/"), region=side.region, transform=where, enable_sharding=True
    )
    dataset = mapped if start == "spawn" else iterable
    dataset._get_client().head_object(side.bucket, "train/01")
    loader = DataLoader(dataset, batch_size=3, collate_fn=list, num_workers=1, multiprocessing_context=start)
    return [sorted(item for batch in loader for item in batch), list(dataset)[:1]]


@same(TRAIN)
def test_what_datasets_log(side: Side) -> Any:
    with side.logged(logging.INFO) as lines:
        side.top.S3MapDataset.from_prefix(side.uri("train/"), region=side.region)
    with side.logged() as deep:
        list(side.top.S3MapDataset.from_prefix(side.uri("train/00"), region=side.region, transform=key_and_bytes))
        list(side.top.S3IterableDataset.from_objects([side.uri("train/00")], region=side.region, transform=asked))
    return [lines, deep]


@same({"new/1": b"one"})
def test_an_object_that_is_written_before_its_turn_is_read(side: Side) -> Any:
    uris = [side.uri(f"new/{number}") for number in (1, 2, 3)]
    items = iter(side.top.S3IterableDataset.from_objects(uris, region=side.region))
    found = [next(items).read()]
    # So that whoever fetches ahead has been told that there is none.
    time.sleep(0.5)  # noqa: TID251 (from without there is nothing to wait for)
    with side.new_client().put_object(side.bucket, "new/2") as writer:
        writer.write(b"two")
    return [*found, next(items).read(), side.tried(lambda: next(items).read())]
