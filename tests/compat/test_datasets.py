"""The data sets of s3torchconnector in one process: what they send and when, what they fetch ahead, and what they hold."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch.distributed
import torch.utils.data
from torch.utils.data import DataLoader, Subset

import s3dlio
from s3dlio.compat.s3torchconnector import (
    S3ClientConfig,
    S3Exception,
    S3IterableDataset,
    S3MapDataset,
    S3ReaderConstructor,
)
from s3dlio.compat.s3torchconnector._ahead import _Shared
from s3dlio.compat.s3torchconnector._s3bucket_key_data import S3BucketKeyData
from s3dlio.compat.s3torchconnector._s3client import MockS3Client, S3Client
from s3dlio.compat.s3torchconnector._s3dataset_common import parse_s3_uri
from s3dlio.compat.s3torchconnector.s3reader import RangedS3Reader, SequentialS3Reader
from s3dlio.engine.pool.rooms import process_rooms
from tests.compat.dataset_kit import BUCKET, REGION, ListedServer, answered_after, expected, key_and_data
from tests.support.answers import s3_error
from tests.support.s3_endpoint import S3Endpoint

KIB, MIB = 1 << 10, 1 << 20
PREFIX = f"s3://{BUCKET}/o/"
Kind = type[S3IterableDataset] | type[S3MapDataset]


@pytest.fixture
def server(s3_env: Callable[[S3Endpoint | str], None]) -> Iterator[ListedServer]:
    with ListedServer() as found:
        s3_env(found.url)
        s3dlio.configure(max_attempts=3, backoff_initial_s=0.01, backoff_max_s=0.05)
        yield found


@pytest.fixture(params=[S3IterableDataset, S3MapDataset], ids=["iterable", "map"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def uris(keys: list[str]) -> list[str]:
    return [f"s3://{BUCKET}/{key}" for key in keys]


def sent(value: Any) -> Any:
    """Returns what another process gets."""
    return pickle.loads(pickle.dumps(value))  # noqa: TID251 (what the test itself has pickled)


# URIs.


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("s3://b/k", ("b", "k")),
        ("s3://b", ("b", "")),
        ("s3://b/", ("b", "")),
        ("s3://b//a/../k?x#y%2F", ("b", "/a/../k?x#y%2F")),
        ("gs://b/k/l", ("gs://b", "k/l")),
        ("gs://b", ("gs://b", "")),
        ("az://account/container/k/l", ("az://account/container", "k/l")),
        ("az://account/container", ("az://account/container", "")),
        ("memory://b/k", ("memory://b", "k")),
        ("file:///a/b", ("file://", "/a/b")),
        ("direct:///a/b", ("direct://", "/a/b")),
    ],
)
def test_a_uri_is_split_into_bucket_and_key_as_raw_text(uri: str, found: tuple[str, str]) -> None:
    assert parse_s3_uri(uri) == found


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        (None, "Only s3:// URIs are supported"),
        ("", "Only s3:// URIs are supported"),
        ("b/k", "Only s3:// URIs are supported"),
        ("s3:/b/k", "Only s3:// URIs are supported"),
        ("S3://b/k", "Only s3:// URIs are supported"),
        ("http://b/k", "Only s3:// URIs are supported"),
        ("s3://", "Bucket name must be non-empty"),
        ("s3:///k", "Bucket name must be non-empty"),
        ("gs://", "Bucket name must be non-empty"),
        ("az://account", "Bucket name must be non-empty"),
        ("az://account//k", "Bucket name must be non-empty"),
        ("file://", "Bucket name must be non-empty"),
    ],
)
def test_a_uri_without_scheme_or_bucket_is_refused_in_the_words_of_upstream(
    uri: str | None, text: str, kind: Kind
) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        parse_s3_uri(uri)  # type: ignore[arg-type]
    # The data set says so when it is looked at, and not when it is made.
    for dataset in (
        kind.from_prefix(uri, region=REGION),  # type: ignore[arg-type]
        kind.from_objects([f"s3://{BUCKET}/good", uri], region=REGION),  # type: ignore[list-item]
    ):
        with pytest.raises(ValueError, match=f"^{text}$"):
            next(iter(dataset))


# What is sent, and when.


def test_building_and_iterating_send_nothing_but_the_listing(server: ListedServer, kind: Kind) -> None:
    keys = server.fill(25)
    server.page_size = 10
    dataset = kind.from_prefix(PREFIX, region=REGION)
    assert not server.requests
    assert [reader.key for reader in dataset] == keys
    assert [reader.bucket for reader in dataset] == [BUCKET] * 25
    # An iterable data set lists anew, a map data set has its list.
    assert len(server.lists()) == len(server.requests) == (6 if kind is S3IterableDataset else 3)


def test_what_is_listed_is_read_once_and_asked_for_its_size_never(server: ListedServer, kind: Kind) -> None:
    keys = [
        *server.fill(40),
        *(server.add(name, 0).removeprefix(f"s3://{BUCKET}/") for name in ("o/empty", "o/folder/")),
    ]
    server.add("other")
    dataset = kind.from_prefix(PREFIX, region=REGION, transform=key_and_data)
    for _ in range(2):
        server.requests.clear()
        assert list(dataset) == expected(server, keys)
        assert sorted(server.gets()) == keys
        assert not server.heads()


def test_objects_that_were_named_are_read_in_their_order_and_asked_for_their_size_only_where_that_is_needed(
    server: ListedServer, kind: Kind
) -> None:
    keys = server.fill(12)[::-1]
    dataset = kind.from_objects(uris(keys), region=REGION, transform=key_and_data)
    assert not server.requests
    assert list(dataset) == expected(server, keys)
    assert sorted(server.gets()) == sorted(keys)
    assert len(server.requests) == 12
    at_end = kind.from_objects(uris(keys[:2]), region=REGION, transform=lambda reader: reader.seek(0, 2))
    assert list(at_end) == [100, 100]
    assert server.heads() == keys[:2]
    assert list(kind.from_objects(uris(keys)[0], region=REGION, transform=key_and_data)) == expected(server, keys[:1])


def test_the_last_page_of_a_listing_is_asked_for_only_when_somebody_comes_near(server: ListedServer) -> None:
    server.fill(500, 10)
    server.page_size = 100
    samples = iter(S3IterableDataset.from_prefix(PREFIX, region=REGION, transform=key_and_data))
    next(samples)
    assert len(server.lists()) == 1


def test_a_generator_of_uris_serves_one_epoch(server: ListedServer) -> None:
    keys = server.fill(5)
    dataset = S3IterableDataset.from_objects((uri for uri in uris(keys)), region=REGION, transform=key_and_data)
    assert list(dataset) == expected(server, keys)
    assert list(dataset) == []
    listed = S3MapDataset.from_objects((uri for uri in uris(keys)), region=REGION, transform=key_and_data)
    assert list(listed) == list(listed) == expected(server, keys)


def test_an_own_listing_may_be_given(server: ListedServer, kind: Kind) -> None:
    keys = server.fill(3)
    clients = []

    def find(client: S3Client) -> Iterator[S3BucketKeyData]:
        clients.append(client)
        return (S3BucketKeyData(BUCKET, key) for key in keys)

    dataset = kind(REGION, find, transform=key_and_data)
    assert list(dataset) == list(dataset) == expected(server, keys)
    assert {*clients} == {dataset._get_client()}
    assert len(clients) == (2 if kind is S3IterableDataset else 1)


# Arguments.


def test_region_and_endpoint_are_told_and_reach_the_server(
    object_server: Any, server: ListedServer, kind: Kind
) -> None:
    keys = server.fill(2)
    # The environment's server knows nothing of it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", object_server.url)
        dataset = kind.from_prefix(PREFIX, region="eu-west-7", endpoint=server.url, transform=key_and_data)
        assert (dataset.region, dataset.endpoint) == ("eu-west-7", server.url)
        assert list(dataset) == expected(server, keys)
    assert "eu-west-7" in server.requests[-1].headers["authorization"]
    for name in ("region", "endpoint"):
        with pytest.raises(AttributeError):
            setattr(dataset, name, "other")
    with pytest.raises(TypeError, match="region"):
        kind.from_prefix(PREFIX)  # type: ignore[call-arg]


def test_the_configuration_of_the_client_is_looked_at_when_it_is_used(server: ListedServer, kind: Kind) -> None:
    keys = server.fill(2)
    dataset = kind.from_prefix(PREFIX, region=REGION, s3client_config=S3ClientConfig(part_size=756))
    with pytest.raises(S3Exception, match=r"^invalid configuration: part size must be at between 5MiB and 5GiB$"):
        iter(dataset).__next__()
    config = S3ClientConfig(unsigned=True)
    unsigned = kind.from_prefix(PREFIX, region=REGION, s3client_config=config, transform=key_and_data)
    assert list(unsigned) == expected(server, keys)
    assert all("authorization" not in request.headers for request in server.requests)


def test_who_asks_says_which_data_set_and_which_reader(server: ListedServer, kind: Kind) -> None:
    server.fill(2)
    name = "iterable" if kind is S3IterableDataset else "map"
    for constructor, word in (
        (None, "sequential"),
        (S3ReaderConstructor.range_based(), "range_based"),
        (partial(SequentialS3Reader), "sequential"),
        (SequentialS3Reader, "unknown"),
    ):
        server.requests.clear()
        dataset = kind.from_prefix(PREFIX, region=REGION, transform=key_and_data, reader_constructor=constructor)
        assert len(list(dataset)) == 2
        agents = {request.headers["user-agent"] for request in server.requests}
        assert len(agents) == 1
        assert f"(md/dataset#{name} md/reader_type#{word})" in agents.pop()


def test_building_is_logged(caplog: pytest.LogCaptureFixture, kind: Kind) -> None:
    with caplog.at_level(logging.INFO):
        kind.from_prefix("s3://b/p", region=REGION)
        kind.from_objects("s3://b/p", region=REGION)
    assert [(record.name, record.message) for record in caplog.records] == [
        (kind.__module__, f"Building {kind.__name__} from_prefix s3_uri='s3://b/p'"),
        (kind.__module__, f"Building {kind.__name__} from_objects"),
    ]


# Readers.


def test_readers_are_made_by_the_given_constructor(server: ListedServer, kind: Kind) -> None:
    keys = server.fill(3)
    made = []

    def construct(**given: Any) -> SequentialS3Reader:
        made.append({*given})
        return SequentialS3Reader(**given)

    dataset = kind.from_prefix(PREFIX, region=REGION, reader_constructor=construct, transform=key_and_data)
    assert list(dataset) == expected(server, keys)
    assert made == [{"bucket", "key", "get_object_info", "get_stream"}] * 3
    ranged = kind.from_prefix(PREFIX, region=REGION, reader_constructor=S3ReaderConstructor.range_based(buffer_size=0))
    server.requests.clear()
    readers = list(ranged)
    assert all(type(reader) is RangedS3Reader for reader in readers)
    assert [(reader.seek(50), bytes(reader.read(10))) for reader in readers] == [
        (50, server.data(key)[50:60]) for key in keys
    ]
    assert [request.headers["range"] for request in server.requests if "range" in request.headers] == [
        "bytes=50-59"
    ] * 3
    assert server.gets() == keys


def test_a_reader_has_the_manners_of_a_file(server: ListedServer, kind: Kind) -> None:
    (key,) = server.fill(1, 1000)
    data = server.data(key)
    reader = next(iter(kind.from_prefix(PREFIX, region=REGION)))
    assert isinstance(reader, SequentialS3Reader)
    assert bytes(reader.read(10)) == data[:10]
    assert reader.tell() == 10
    assert reader.seek(-10, 2) == 990
    assert bytes(reader.read()) == data[990:]
    assert reader.read() == b""
    assert reader.seek(0) == 0
    assert b"".join(reader) == data
    assert reader.seek(3) == 3
    assert reader.readinto(into := bytearray(5)) == 5
    assert into == data[3:8]
    assert server.gets() == [key]


def test_a_reader_that_nobody_has_read_is_pickled_and_reads_by_itself(server: ListedServer, kind: Kind) -> None:
    keys = server.fill(3)
    readers = sent(list(kind.from_prefix(PREFIX, region=REGION)))
    server.requests.clear()
    assert key_and_data(readers[1]) == expected(server, keys)[1]
    assert server.gets() == [keys[1]]


# What is fetched ahead.


def test_the_first_read_has_those_after_it_fetched_too(server: ListedServer) -> None:
    keys = server.fill(30)
    server.faults[f"/{BUCKET}/{keys[0]}"] = [answered_after(server, 8)]
    dataset = S3IterableDataset.from_prefix(PREFIX, region=REGION, transform=key_and_data)
    assert list(dataset) == expected(server, keys)


def test_who_prefetches_has_those_after_it_fetched_too(server: ListedServer) -> None:
    keys = server.fill(30)
    server.faults[f"/{BUCKET}/{keys[0]}"] = [answered_after(server, 8)]
    first, *_ = readers = list(S3IterableDataset.from_prefix(PREFIX, region=REGION))
    first.prefetch()
    assert keys[0] in server.gets()
    assert [key_and_data(reader) for reader in readers] == expected(server, keys)
    assert sorted(server.gets()) == keys


def test_the_objects_of_a_batch_are_fetched_together(server: ListedServer) -> None:
    keys = server.fill(30)
    dataset = S3MapDataset.from_prefix(PREFIX, region=REGION, transform=key_and_data)
    wanted = [7, -1, 0, 7, 3, 20, 11]
    server.faults[f"/{BUCKET}/{keys[7]}"] = [answered_after(server, 7)]
    assert dataset.__getitems__(wanted) == expected(server, [keys[index] for index in wanted])
    assert sorted(server.gets()) == sorted(keys[index] for index in wanted)
    with pytest.raises(IndexError):
        dataset.__getitems__([0, 30])


def test_a_batch_whose_readers_nobody_reads_sends_nothing(server: ListedServer) -> None:
    keys = server.fill(4)
    dataset = S3MapDataset.from_prefix(PREFIX, region=REGION)
    readers = dataset.__getitems__([2, 1])
    assert not server.gets()
    assert [key_and_data(reader) for reader in readers] == expected(server, [keys[2], keys[1]])


def test_a_subclass_that_adds_to_samples_adds_to_those_of_batches_too(server: ListedServer) -> None:
    keys = server.fill(12)

    class Labelled(S3MapDataset):
        def __getitem__(self, i: int) -> Any:
            return super().__getitem__(i), i, self._get_object(0).key

    dataset = Labelled.from_prefix(PREFIX, region=REGION, transform=key_and_data)
    server.faults[f"/{BUCKET}/{keys[0]}"] = [answered_after(server, 4)]
    loader = DataLoader(Subset(dataset, range(12)), batch_size=4, collate_fn=list)
    assert [one for batch in loader for one in batch] == [
        (sample, number, keys[0]) for number, sample in enumerate(expected(server, keys))
    ]


def test_two_data_sets_that_read_each_other_keep_their_batches_apart(server: ListedServer) -> None:
    keys = server.fill(6)
    inner = S3MapDataset.from_prefix(PREFIX, region=REGION, transform=key_and_data)
    outer = S3MapDataset.from_prefix(
        PREFIX, region=REGION, transform=lambda reader: (key_and_data(reader), inner[5], inner.__getitems__([1, 2]))
    )
    found = expected(server, keys)
    assert outer.__getitems__([5, 0]) == [(found[5], found[5], found[1:3]), (found[0], found[5], found[1:3])]


@pytest.mark.parametrize("listed", [True, False])
def test_what_is_fetched_ahead_has_a_bound_in_bytes(server: ListedServer, *, listed: bool) -> None:
    keys = server.fill(40, 100 * KIB)
    s3dlio.configure(memory_bytes=4 * MIB)
    dataset = (
        S3IterableDataset.from_prefix(PREFIX, region=REGION, transform=key_and_data)
        if listed
        else S3IterableDataset.from_objects(uris(keys), region=REGION, transform=key_and_data)
    )
    most = 0
    for number, sample in enumerate(dataset, 1):
        assert sample == (sample[0], server.data(sample[0]))
        if listed:
            # A quarter of the memory is for what nobody has read: ten objects.
            assert len(server.gets()) <= number + 10
        most = max(most, process_rooms().arena.slots.used_bytes)
    assert sorted(server.gets()) == keys
    # Slots are rounded up to 128 KiB; two more are held by the sample that was read, and by the one that is made of its reader.
    assert 5 * 128 * KIB <= most <= 12 * 128 * KIB


def test_a_long_object_is_read_in_parts_and_not_ahead(server: ListedServer) -> None:
    s3dlio.configure(memory_bytes=8 * MIB)
    keys = server.fill(3, 1000)
    keys.insert(1, server.add("o/0000-long", 12 * MIB).removeprefix(f"s3://{BUCKET}/"))
    config = S3ClientConfig(part_size=5 * MIB)
    readers = list(S3IterableDataset.from_prefix(PREFIX, region=REGION, s3client_config=config))
    assert key_and_data(readers[0]) == expected(server, keys)[0]
    assert keys[1] not in server.gets()
    assert bytes(readers[1].read(100)) == server.data(keys[1])[:100]
    assert all("range" in request.headers for request in server.requests_of(f"/{BUCKET}/{keys[1]}"))
    assert [key_and_data(reader) for reader in readers[2:]] == expected(server, keys[2:])


def test_whoever_reads_a_little_of_objects_of_unknown_size_is_not_given_them_all(server: ListedServer) -> None:
    keys = [server.add(f"o/{number}", 12 * MIB).removeprefix(f"s3://{BUCKET}/") for number in range(2)]
    config = S3ClientConfig(part_size=5 * MIB)
    for reader in S3IterableDataset.from_objects(uris(keys), region=REGION, s3client_config=config):
        assert bytes(reader.read(100)) == server.data(reader.key)[:100]
    assert all("range" in request.headers for request in server.requests)


def test_objects_that_are_passed_over_are_not_waited_for(server: ListedServer, kind: Kind) -> None:
    keys = server.fill(90)
    dataset = kind.from_prefix(PREFIX, region=REGION)
    found = [key_and_data(reader) for number, reader in enumerate(dataset) if number % 30 == 7]
    assert found == expected(server, keys[7::30])


def test_who_reads_few_of_many_objects_has_few_fetched(server: ListedServer) -> None:
    """A program that chooses by the key, as of one kind of file among several, would pay for all of them."""
    server.fill(400)
    kept = [reader for reader in S3IterableDataset.from_prefix(PREFIX, region=REGION) if reader.key.endswith("0")]
    assert [bytes(reader.read()) for reader in kept] == [server.data(reader.key) for reader in kept]
    assert len(server.gets()) < 3 * len(kept)


def test_who_goes_on_in_the_middle_or_reads_all_again_has_them_fetched_ahead(server: ListedServer) -> None:
    keys = server.fill(200)
    readers = list(S3IterableDataset.from_prefix(PREFIX, region=REGION))
    server.faults[f"/{BUCKET}/{keys[100]}"] = [answered_after(server, 8)]
    assert readers[100].read() == server.data(keys[100])
    assert len(server.gets()) >= 8
    for reader in [*readers[101:140:10], *readers[140:181]]:
        reader.read()
    # What was sent may not have arrived yet.
    deadline, tick = time.monotonic() + 10.0, threading.Event()
    while keys[181] not in server.gets() and time.monotonic() < deadline:
        tick.wait(0.01)
    assert keys[181] in server.gets()


def test_readers_may_be_collected_and_read_later_in_any_order(server: ListedServer) -> None:
    keys = server.fill(30)
    dataset = S3IterableDataset.from_prefix(PREFIX, region=REGION)
    server.faults[f"/{BUCKET}/{keys[0]}"] = [answered_after(server, 8)]
    readers = list(dataset)
    assert [key_and_data(reader) for reader in readers] == expected(server, keys)
    assert [key_and_data(reader) for reader in [*dataset][::-1]] == expected(server, keys[::-1])


def test_threads_may_read_the_readers_of_one_data_set(server: ListedServer, kind: Kind) -> None:
    keys = server.fill(60)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(key_and_data, kind.from_prefix(PREFIX, region=REGION)))
    assert found == expected(server, keys)


def test_nothing_is_fetched_for_an_iteration_that_was_left(server: ListedServer) -> None:
    keys = server.fill(30)
    readers = list(islice(S3IterableDataset.from_prefix(PREFIX, region=REGION), 5))
    assert [key_and_data(reader) for reader in readers] == expected(server, keys[:5])
    assert sorted(server.gets()) == keys[:5]
    for sample in S3IterableDataset.from_prefix(PREFIX, region=REGION, transform=key_and_data):
        assert sample == expected(server, keys[:1])[0]
        break


def test_a_reader_that_was_read_holds_nothing_of_the_others(server: ListedServer) -> None:
    server.fill(30)
    samples = iter(S3IterableDataset.from_prefix(PREFIX, region=REGION))
    gc.disable()
    try:
        first = next(samples)
        (shared,) = (one for one in gc.get_objects() if type(one) is _Shared)
        gone = weakref.ref(shared)
        del shared
        first.read()
        del samples
        # Counting references is enough: no cycle waits for the collector.
        assert gone() is None
    finally:
        gc.enable()


def test_the_same_readers_come_whatever_the_stream_of_the_client_is(
    server: ListedServer, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    keys = server.fill(3)
    asked = []

    def stream(client: S3Client, bucket: str, key: str, start: Any = None, end: Any = None) -> Iterator[bytes]:
        asked.append((bucket, key, start, end))
        return iter([b"other ", key.encode()])

    monkeypatch.setattr(S3Client, "_get_object_stream", stream)
    dataset = kind.from_prefix(PREFIX, region=REGION, transform=key_and_data)
    assert list(dataset) == [(key, b"other " + key.encode()) for key in keys]
    assert asked == [(BUCKET, key, None, None) for key in keys]


def test_a_mocked_client_serves_a_data_set(kind: Kind) -> None:
    client = MockS3Client(REGION, "mocked")
    for number in range(5):
        client.add_object(f"p/{number}", bytes([number]))
    dataset = kind.from_prefix("s3://mocked/p/", region=REGION, transform=key_and_data)
    dataset._client = client
    assert list(dataset) == [(f"p/{number}", bytes([number])) for number in range(5)]


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_other_stores_serve_a_data_set(scheme: str, tmp_path: Any, kind: Kind) -> None:
    root = f"file://{tmp_path}" if scheme == "file" else "memory://of-data-sets"
    for number in range(5):
        s3dlio.put_bytes(f"{root}/p/{number}", bytes([number]) * 10)
    dataset = kind.from_prefix(f"{root}/p/", region=REGION, transform=lambda reader: bytes(reader.read()))
    assert list(dataset) == [bytes([number]) * 10 for number in range(5)]


# Errors.


def test_an_error_comes_at_its_place_and_only_there(server: ListedServer, kind: Kind) -> None:
    keys = server.fill(6)
    samples = iter(list(kind.from_prefix(PREFIX, region=REGION)))
    for number in (2, 3):
        server.faults[f"/{BUCKET}/{keys[number]}"] = [s3_error(404, "NoSuchKey")] * 2
    found = []
    for reader in samples:
        try:
            found.append(bytes(reader.read()))
        except S3Exception as error:
            found.append(str(error).encode())
    gone = b"Service error: The key does not exist"
    assert found == [gone if number in (2, 3) else server.data(key) for number, key in enumerate(keys)]


def test_an_object_that_was_written_anew_after_it_was_listed_is_read_as_it_is(server: ListedServer) -> None:
    keys = server.fill(4)
    dataset = S3MapDataset.from_prefix(PREFIX, region=REGION, transform=key_and_data)
    assert len(dataset) == 4
    server.add(keys[1], 70)
    server.objects[f"/{BUCKET}/{keys[2]}"] = bytes(100)
    assert dataset.__getitems__(range(4)) == expected(server, keys)
    assert [dataset[number] for number in range(4)] == expected(server, keys)


def test_a_listing_that_breaks_off_is_an_error_where_it_breaks_and_goes_on_after_it(server: ListedServer) -> None:
    keys = server.fill(20)
    server.page_size = 10
    server.list_faults = [None, s3_error(403, "AccessDenied")]
    samples = iter(S3IterableDataset.from_prefix(PREFIX, region=REGION, transform=key_and_data))
    assert [next(samples) for _ in range(10)] == expected(server, keys[:10])
    with pytest.raises(S3Exception, match=r"^Client error: Forbidden: scripted"):
        next(samples)
    assert list(samples) == expected(server, keys[10:])


def test_an_error_of_a_transform_is_the_users_and_the_iteration_goes_on(server: ListedServer) -> None:
    keys = server.fill(3)

    def picky(reader: Any) -> str:
        if reader.key == keys[1]:
            raise LookupError("not this one")
        return str(reader.key)

    samples = iter(S3IterableDataset.from_prefix(PREFIX, region=REGION, transform=picky))
    assert next(samples) == keys[0]
    with pytest.raises(LookupError, match="not this one"):
        next(samples)
    assert list(samples) == keys[2:]


# The map data set.


def test_a_map_data_set_lists_once_when_it_is_looked_at_and_takes_its_list_along(server: ListedServer) -> None:
    keys = server.fill(5)
    dataset = S3MapDataset.from_prefix(PREFIX, region=REGION, transform=key_and_data)
    unseen = sent(dataset)
    assert len(dataset) == 5
    assert (dataset[-1], dataset[0]) == (dataset[4], expected(server, keys)[0])
    for index in (5, -6):
        with pytest.raises(IndexError):
            dataset[index]
    assert len(server.lists()) == 1
    seen = sent(dataset)
    assert list(seen) == expected(server, keys)
    assert len(server.lists()) == 1
    assert list(unseen) == expected(server, keys)
    assert len(server.lists()) == 2


# The shares of ranks and workers.


class FakeWorker:
    def __init__(self, id: int, num_workers: int) -> None:
        self.id = id
        self.num_workers = num_workers


def be_rank(patch: pytest.MonkeyPatch, rank: int | None, world_size: int = 1) -> None:
    patch.setattr(torch.distributed, "is_initialized", lambda: rank is not None)
    patch.setattr(torch.distributed, "get_rank", lambda: rank)
    patch.setattr(torch.distributed, "get_world_size", lambda: world_size)


def be_worker(patch: pytest.MonkeyPatch, id: int, num_workers: int) -> None:
    # Where `torch.utils.data` keeps what its function says.
    patch.setattr(torch.utils.data._utils.worker, "_worker_info", FakeWorker(id, num_workers))


@pytest.mark.parametrize("num_workers", [(0, 0), (2, 2), (3, 1)])
def test_each_object_goes_to_one_rank_and_there_to_one_worker(
    server: ListedServer, monkeypatch: pytest.MonkeyPatch, num_workers: tuple[int, int]
) -> None:
    keys = server.fill(17)
    found: list[str] = []
    for rank in range(2):
        be_rank(monkeypatch, rank, 2)
        dataset = S3IterableDataset.from_prefix(
            PREFIX, region=REGION, enable_sharding=True, transform=lambda reader: reader.key
        )
        for worker in range(max(1, num_workers[rank])):
            with pytest.MonkeyPatch.context() as patch:
                if num_workers[rank]:
                    be_worker(patch, worker, num_workers[rank])
                part = list(dataset)
            assert part == keys[rank::2][worker :: max(1, num_workers[rank])]
            found += part
    assert sorted(found) == keys


def test_without_sharding_everybody_reads_everything(server: ListedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = server.fill(5)
    be_rank(monkeypatch, 1, 2)
    be_worker(monkeypatch, 1, 2)
    dataset = S3IterableDataset.from_prefix(PREFIX, region=REGION, transform=lambda reader: reader.key)
    assert list(dataset) == keys


def test_the_rank_is_asked_when_the_iteration_starts(server: ListedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = server.fill(5)
    dataset = S3IterableDataset.from_prefix(
        PREFIX, region=REGION, enable_sharding=True, transform=lambda reader: reader.key
    )
    assert list(dataset) == keys
    be_rank(monkeypatch, 1, 2)
    assert list(dataset) == keys[1::2]
    be_rank(monkeypatch, 0, 3)
    assert list(dataset) == keys[0::3]


def test_a_pickle_knows_the_rank_of_who_made_it(server: ListedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = server.fill(5)
    dataset = S3IterableDataset.from_prefix(PREFIX, region=REGION, enable_sharding=True)
    be_rank(monkeypatch, 1, 2)
    other = sent(dataset)
    # As in a worker that is spawned, which has no process group.
    be_rank(monkeypatch, None)
    be_worker(monkeypatch, 1, 2)
    assert [reader.key for reader in other] == keys[1::2][1::2]


# Pickles and copies.


def test_a_data_set_is_pickled_before_and_after_use(server: ListedServer, kind: Kind) -> None:
    keys = server.fill(3)
    dataset = kind.from_prefix(PREFIX, region=REGION, transform=key_and_data)
    for _ in range(2):
        for other in (sent(dataset), copy.deepcopy(dataset)):
            assert type(other) is kind
            assert list(other) == expected(server, keys)
        assert list(dataset) == expected(server, keys)


@pytest.mark.parametrize("num_read", [0, 1, 14, 25])
def test_the_pickle_of_an_iteration_goes_on_where_it_was(server: ListedServer, num_read: int) -> None:
    keys = server.fill(25)
    server.page_size = 10
    samples = iter(S3IterableDataset.from_prefix(PREFIX, region=REGION, transform=key_and_data))
    assert list(islice(samples, num_read)) == expected(server, keys[:num_read])
    other = sent(samples)
    assert list(other) == list(samples) == expected(server, keys[num_read:])


def test_a_thread_that_iterates_meets_no_other(server: ListedServer, kind: Kind) -> None:
    keys = server.fill(40)
    dataset = kind.from_prefix(PREFIX, region=REGION, transform=key_and_data)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(list(dataset))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected(server, keys)] * 4
