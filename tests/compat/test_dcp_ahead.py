"""What a load plan reads of many files: fetched side by side, of one version each, and only if the plan reads it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from s3dlio.compat.s3torchconnector import S3Client, S3Exception, S3ReaderConstructor
from s3dlio.compat.s3torchconnector.dcp import S3StorageReader, S3StorageWriter, _groups_ahead
from s3dlio.compat.s3torchconnector.dcp._groups_ahead import GroupsAhead
from tests.support.moto_server import MotoServer
from tests.support.object_server import ObjectServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Connection, Handler, Request

REGION = "us-east-1"
DATA = bytes(range(250)) * 4


@pytest.fixture
def server(object_server: ObjectServer, s3_env: Callable[[S3Endpoint | str], None]) -> ObjectServer:
    s3_env(object_server.url)
    object_server.objects |= {f"/bucket/c/{name}": bytes([number]) + DATA for number, name in enumerate("abc")}
    return object_server


@pytest.fixture
def client() -> S3Client:
    return S3Client(REGION)


def planned(spans: dict[str, list[tuple[int, int]]], max_gap_size: int = 0) -> Any:
    """Returns the constructor that a plan for these ranges of files has told what it reads."""
    constructor = S3ReaderConstructor.dcp_optimized(max_gap_size)
    names = [(name, span) for name, found in spans.items() for span in found]
    items: Any = [SimpleNamespace(storage_index=number) for number in range(len(names))]
    places: Any = {
        number: SimpleNamespace(relative_path=name, offset=start, length=end - start)
        for number, (name, (start, end)) in enumerate(names)
    }
    constructor.set_item_ranges_by_file(items, places, "s3://bucket/c")
    return constructor


def open_file(client: S3Client, ahead: GroupsAhead, name: str) -> Any:
    return client.get_object("bucket", f"c/{name}", reader_constructor=ahead.construct)


def read_item(reader: Any, start: int, end: int) -> bytes:
    reader.seek(start)
    found: bytes = reader.read(end - start)
    return found


def asked(server: ObjectServer) -> list[tuple[str, str | None]]:
    return sorted((one.path.removeprefix("/bucket/c/"), one.headers.get("range")) for one in server.requests)


def after(event: threading.Event, server: ObjectServer) -> Handler:
    """Answers honestly, once `event` is set."""

    def answer(request: Request, connection: Connection) -> None:
        connection.wait_for(event)
        server.honest(request)(request, connection)

    return answer


def first(act: Callable[[], object], server: ObjectServer) -> Handler:
    """Does `act`, and answers honestly."""

    def answer(request: Request, connection: Connection) -> None:
        act()
        server.honest(request)(request, connection)

    return answer


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_load_waits_for_no_file_before_it_asks_for_the_next(
    moto_s3: MotoServer, object_server: ObjectServer, s3_env: Callable[[S3Endpoint | str], None]
) -> None:
    s3_env(moto_s3.endpoint)
    bucket = moto_s3.endpoint.new_bucket()
    state = {f"weight{number}": torch.arange(100.0) + number for number in range(4)}
    dcp.save(state, storage_writer=S3StorageWriter(REGION, f"s3://{bucket}/c", single_file_per_rank=False))
    s3 = moto_s3.endpoint.client()
    for one in s3.list_objects_v2(Bucket=bucket)["Contents"]:
        body = s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()
        object_server.objects[f"/{bucket}/{one['Key']}"] = body
    last_is_asked = threading.Event()
    files = sorted(path for path in object_server.objects if path.endswith(".distcp"))
    assert len(files) == 4
    for path in files[:-1]:
        object_server.faults[path] = [after(last_is_asked, object_server)]
    object_server.faults[files[-1]] = [first(last_is_asked.set, object_server)]
    found = {name: torch.zeros(100) for name in state}
    dcp.load(found, storage_reader=S3StorageReader(REGION, f"s3://{bucket}/c", endpoint=object_server.url))
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert [len(object_server.requests_of(path)) for path in files] == [1] * 4


def test_nothing_is_asked_for_before_the_first_item_is_read(server: ObjectServer, client: S3Client) -> None:
    with GroupsAhead(client, planned({name: [(1, 9), (40, 90)] for name in "abc"})) as ahead:
        readers = {name: open_file(client, ahead, name) for name in "abc"}
        assert server.requests == []
        for reader in readers.values():
            assert read_item(reader, 1, 9) == DATA[:8]
            assert read_item(reader, 40, 90) == DATA[39:89]
    assert asked(server) == [(name, span) for name in "abc" for span in ("bytes=1-8", "bytes=40-89")]


def test_what_is_not_read_is_given_up_and_what_is_read_again_is_asked_for_again(
    server: ObjectServer, client: S3Client
) -> None:
    with GroupsAhead(client, planned({name: [(0, 10)] for name in "abc"})) as ahead:
        assert read_item(open_file(client, ahead, "c"), 0, 10) == server.objects["/bucket/c/c"][:10]
        assert read_item(open_file(client, ahead, "a"), 0, 10) == server.objects["/bucket/c/a"][:10]
        assert read_item(open_file(client, ahead, "c"), 0, 10) == server.objects["/bucket/c/c"][:10]
    assert [one for one in asked(server) if one[0] == "c"] == [("c", "bytes=0-9")] * 2


def test_a_long_group_has_a_stream_of_its_own(
    server: ObjectServer, client: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_groups_ahead, "_LONGEST_BYTES", 50)
    with GroupsAhead(client, planned({"a": [(0, 10), (20, 80)], "b": [(5, 55)]})) as ahead:
        reader = open_file(client, ahead, "a")
        assert read_item(reader, 0, 10) == server.objects["/bucket/c/a"][:10]
        server.requests.clear()
        assert read_item(reader, 20, 80) == DATA[19:79]
        assert ("a", "bytes=20-79") in asked(server)
        assert read_item(open_file(client, ahead, "b"), 5, 55) == DATA[4:54]


def test_a_file_that_changes_between_two_groups_is_an_error(server: ObjectServer, client: S3Client) -> None:
    def change() -> None:
        server.objects["/bucket/c/a"] = DATA + b"x"

    server.faults["/bucket/c/a"] = [first(lambda: None, server), first(change, server)]
    with GroupsAhead(client, planned({"a": [(0, 10), (20, 30)]})) as ahead:
        reader = open_file(client, ahead, "a")
        read_item(reader, 0, 10)
        with pytest.raises(S3Exception, match="s3://bucket/c/a changed while it was read"):
            read_item(reader, 20, 30)


def test_a_file_that_is_missing_is_the_error_of_who_reads_it(server: ObjectServer, client: S3Client) -> None:
    with GroupsAhead(client, planned({"a": [(0, 10)], "missing": [(0, 10)], "b": [(0, 10)]})) as ahead:
        read_item(open_file(client, ahead, "a"), 0, 10)
        with pytest.raises(S3Exception, match=r"^Service error: The key does not exist$"):
            read_item(open_file(client, ahead, "missing"), 0, 10)
        assert read_item(open_file(client, ahead, "b"), 0, 10) == server.objects["/bucket/c/b"][:10]


def test_a_file_that_is_too_short_is_an_error(server: ObjectServer, client: S3Client) -> None:
    size = len(server.objects["/bucket/c/a"])
    with GroupsAhead(client, planned({"a": [(size - 5, size + 5)]})) as ahead:
        reader = open_file(client, ahead, "a")
        with pytest.raises(ValueError, match=f"S3 stream exhausted at position {size} while reading item"):
            read_item(reader, size - 5, size + 5)


def test_streams_that_somebody_put_in_the_place_of_the_client_s_are_used(server: ObjectServer) -> None:
    class Own(S3Client):
        def _get_object_stream(self, bucket: str, key: str, start: int | None = None, end: int | None = None) -> Any:
            assert start is not None
            return iter([bytes(server.objects[f"/{bucket}/{key}"][start:end])])

    client = Own(REGION)
    with GroupsAhead(client, planned({"a": [(3, 10)]})) as ahead:
        assert read_item(open_file(client, ahead, "a"), 3, 10) == DATA[2:9]
    assert server.requests == []
