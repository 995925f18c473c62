"""Distributed checkpoints in one process: the file system below them, what fails, and where they may lie."""

from __future__ import annotations

import copy
import importlib.util
import logging
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint._extension import ExtensionRegistry, StreamTransformExtension

from s3dlio.compat.s3torchconnector import S3ClientConfig
from s3dlio.compat.s3torchconnector._s3client import S3Client
from s3dlio.compat.s3torchconnector.dcp import HexPrefixStrategy, S3FileSystem, S3StorageReader, S3StorageWriter
from s3dlio.compat.s3torchconnector.s3reader import S3ReaderConstructor
from s3dlio.compat.s3torchconnectorclient import S3Exception
from s3dlio.engine.errors import MissingExtraError
from tests.support.moto_server import MotoServer
from tests.support.s3_endpoint import S3Endpoint

REGION = "us-east-1"
STATE = {"weight": torch.arange(3000.0).reshape(30, 100), "bias": torch.arange(5), "epoch": 3}

alone = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@pytest.fixture
def endpoint(moto_s3: MotoServer, s3_env: Callable[[S3Endpoint | str], None]) -> S3Endpoint:
    s3_env(moto_s3.endpoint)
    return moto_s3.endpoint


@pytest.fixture
def bucket(endpoint: S3Endpoint) -> str:
    return endpoint.new_bucket()


def keys(endpoint: S3Endpoint, bucket: str) -> list[str]:
    return [one["Key"] for one in endpoint.client().list_objects_v2(Bucket=bucket).get("Contents", [])]


def write(files: S3FileSystem, uri: str | Path, data: bytes) -> None:
    with files.create_stream(uri, "wb") as stream:
        stream.write(data)


def read(files: S3FileSystem, uri: str | Path) -> bytes:
    with files.create_stream(uri, "rb") as stream:
        return bytes(stream.read())


def emptied() -> dict[str, Any]:
    return {name: torch.zeros_like(value) if isinstance(value, torch.Tensor) else None for name, value in STATE.items()}


def assert_loads(reader: S3StorageReader) -> None:
    found = emptied()
    dcp.load(found, storage_reader=reader)
    assert found["epoch"] == STATE["epoch"]
    assert torch.equal(found["weight"], STATE["weight"])
    assert torch.equal(found["bias"], STATE["bias"])


def test_a_file_is_written_read_renamed_and_removed(endpoint: S3Endpoint, bucket: str) -> None:
    files = S3FileSystem(REGION)
    old, new = f"s3://{bucket}/run 1/a+b%20ü?#&=.tmp", f"s3://{bucket}/run 1/done"
    assert not files.exists(old)
    write(files, old, b"some bytes")
    assert files.exists(old)
    assert read(files, old) == b"some bytes"
    files.rename(old, new)
    assert keys(endpoint, bucket) == ["run 1/done"]
    assert read(files, new) == b"some bytes"
    files.rm_file(new)
    files.rm_file(new)
    assert keys(endpoint, bucket) == []


def test_a_path_gets_back_the_slash_that_it_lost(endpoint: S3Endpoint, bucket: str) -> None:
    files = S3FileSystem(REGION)
    folder = Path(f"s3://{bucket}/folder")
    assert files.init_path(folder) is folder
    assert files.concat_path(folder, ".metadata") == f"s3://{bucket}/folder/.metadata"
    assert files.concat_path(f"s3://{bucket}", "a") == f"s3://{bucket}/a"
    assert files.concat_path(Path("file:///tmp/x"), "a") == "file:///tmp/x/a"
    assert files.concat_path(Path("/tmp/x"), "a") == "/tmp/x/a"
    write(files, folder / "one", b"1")
    assert files.exists(folder / "one")
    files.rename(folder / "one", folder / "two")
    assert keys(endpoint, bucket) == ["folder/two"]


def test_what_is_no_checkpoint_s_place_is_told_apart() -> None:
    for kind in (S3FileSystem, S3StorageReader, S3StorageWriter):
        assert kind.validate_checkpoint_id("s3://bucket/a")
        assert kind.validate_checkpoint_id(Path("anything"))
        assert not kind.validate_checkpoint_id("/tmp/a")
        assert not kind.validate_checkpoint_id("s3:///a")


def test_a_mode_other_than_rb_and_wb_is_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"^Invalid mode='r' mode argument: create_stream only supports rb"),
        S3FileSystem(REGION).create_stream("s3://bucket/key", "r"),
    ):
        pass


def test_buckets_that_differ_are_refused_before_anything_is_asked() -> None:
    client = Mock()
    with pytest.raises(ValueError, match="rename does not support cross-buckets operations"):
        S3FileSystem(REGION, s3_client=client).rename("s3://one/key", "s3://two/key")
    assert client.mock_calls == []


def test_a_deletion_is_tried_three_times(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    client = Mock()
    client.delete_object.side_effect = S3Exception("no")
    naps: list[float] = []
    monkeypatch.setattr(S3FileSystem._delete_with_retry.retry, "sleep", naps.append)  # type: ignore[attr-defined]
    with pytest.raises(S3Exception, match="no"):
        S3FileSystem(REGION, s3_client=client).rename("s3://one/a b/c", "s3://one/d")
    client.copy_object.assert_called_once_with(src_bucket="one", src_key="a%20b/c", dst_bucket="one", dst_key="d")
    assert client.delete_object.call_count == 3
    assert len(naps) == 2
    assert "this was the 3rd time calling it" in caplog.text


def test_a_file_that_cannot_be_removed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    client = Mock()
    client.delete_object.side_effect = S3Exception("no")
    S3FileSystem(REGION, s3_client=client).rm_file("s3://one/a")
    assert caplog.record_tuples[-1][1:] == (logging.ERROR, "Failed to remove object from S3")


def test_a_store_that_does_not_say_whether_a_file_exists_is_an_error() -> None:
    client = Mock()
    client.head_object.side_effect = S3Exception("Client error: Forbidden: <no message>")
    with pytest.raises(S3Exception, match="Forbidden"):
        S3FileSystem(REGION, s3_client=client).exists("s3://one/a")


def test_a_client_is_not_told_how_to_ask() -> None:
    config = S3ClientConfig(part_size=16 << 20)
    client = S3Client(REGION, s3client_config=config)
    assert S3FileSystem(REGION, s3_client=client, s3client_config=config)._client is client
    with pytest.raises(ValueError, match="s3client_config is for a client that is made here"):
        S3FileSystem(REGION, s3_client=client, s3client_config=S3ClientConfig())
    with pytest.raises(ValueError, match="endpoint is for a client that is made here"):
        S3FileSystem(REGION, s3_client=client, endpoint="http://127.0.0.1:1")


def test_requests_say_that_a_checkpoint_is_what_they_are_for() -> None:
    files = S3FileSystem(REGION, reader_constructor=S3ReaderConstructor.range_based())
    assert files._client.user_agent_prefix.endswith(f"(dcp; {torch.__version__}; md/reader_type#range_based)")


def test_u1_an_exception_while_a_file_is_written_leaves_nothing(endpoint: S3Endpoint, bucket: str) -> None:
    files = S3FileSystem(REGION)

    def write_half() -> None:
        with files.create_stream(f"s3://{bucket}/a", "wb") as stream:
            stream.write(bytes(6 << 20))
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        write_half()
    assert keys(endpoint, bucket) == []
    assert "Uploads" not in endpoint.client().list_multipart_uploads(Bucket=bucket)


@alone
@pytest.mark.parametrize("path", [str, Path])
def test_a_checkpoint_comes_back_by_an_endpoint_that_the_environment_does_not_know(
    endpoint: S3Endpoint, bucket: str, monkeypatch: pytest.MonkeyPatch, path: Callable[[str], Any]
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    config = S3ClientConfig(force_path_style=True)
    place = path(f"s3://{bucket}/a b/c")
    where: dict[str, Any] = {"endpoint": endpoint.url, "s3client_config": config}
    writer = S3StorageWriter(REGION, place, prefix_strategy=HexPrefixStrategy(min_prefix_length=2), **where)
    dcp.save(STATE, storage_writer=writer)
    assert keys(endpoint, bucket) == ["a b/c/.metadata", "a b/c/00/__0_0.distcp"]
    assert_loads(S3StorageReader(REGION, place, **where))
    assert writer.checkpoint_id == place


@alone
@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_checkpoint_may_lie_in_any_store(tmp_path: Path, scheme: str) -> None:
    place = f"file://{tmp_path}/c" if scheme == "file" else "memory://checkpoints/c"
    dcp.save(STATE, storage_writer=S3StorageWriter("", place))
    assert_loads(S3StorageReader("", place))
    assert_loads(S3StorageReader("", place, reader_constructor=S3ReaderConstructor.default()))
    assert not S3FileSystem("").exists(f"{place}/.metadata.tmp")


@alone
def test_writers_and_readers_go_to_other_processes(bucket: str) -> None:
    place = f"s3://{bucket}/c"
    dcp.save(STATE, storage_writer=pickle.loads(pickle.dumps(S3StorageWriter(REGION, place, thread_count=2))))  # noqa: TID251
    reader = S3StorageReader(REGION, place)
    assert_loads(copy.deepcopy(reader))
    assert_loads(pickle.loads(pickle.dumps(reader)))  # noqa: TID251
    assert_loads(reader)


@alone
def test_a_save_that_runs_beside_the_training_is_complete_when_its_future_is(bucket: str) -> None:
    place = f"s3://{bucket}/c"
    assert_saved = dcp.async_save(STATE, storage_writer=S3StorageWriter(REGION, place), no_dist=True)
    assert assert_saved.result(60) is not None  # type: ignore[union-attr]
    assert_loads(S3StorageReader(REGION, place))


@alone
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_file_that_fails_in_a_thread_of_torch_s_fails_the_checkpoint(
    endpoint: S3Endpoint, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = S3StorageWriter(REGION, f"s3://{bucket}/c", thread_count=2)
    put_object = writer.fs._client.put_object  # type: ignore[attr-defined]
    others_turn = threading.Event()

    def refuse_elsewhere(bucket: str, key: str) -> Any:
        if threading.current_thread() is not threading.main_thread():
            others_turn.set()
            raise S3Exception("Client error: Forbidden: <no message>")
        if key.endswith(".distcp"):
            assert others_turn.wait(30)
        return put_object(bucket, key)

    monkeypatch.setattr(writer.fs._client, "put_object", refuse_elsewhere)  # type: ignore[attr-defined]
    with pytest.raises(dcp.api.CheckpointException, match="Forbidden"):
        dcp.save(STATE, storage_writer=writer)
    assert "c/.metadata" not in keys(endpoint, bucket)


@alone
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_of_torch_s_that_opens_no_file_fails_the_checkpoint(
    endpoint: S3Endpoint, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size_of = filesystem._item_size
    others_turn = threading.Event()

    def refuse_elsewhere(item: Any) -> int:
        if threading.current_thread() is not threading.main_thread():
            others_turn.set()
            raise MemoryError
        return size_of(item)

    writer = S3StorageWriter(REGION, f"s3://{bucket}/c", thread_count=2)
    put_object = writer.fs._client.put_object  # type: ignore[attr-defined]

    def put_later(bucket: str, key: str) -> Any:
        assert others_turn.wait(30)
        return put_object(bucket, key)

    monkeypatch.setattr(filesystem, "_item_size", refuse_elsewhere)
    monkeypatch.setattr(writer.fs._client, "put_object", put_later)  # type: ignore[attr-defined]
    with pytest.raises(dcp.api.CheckpointException, match="items were written"):
        dcp.save(STATE, storage_writer=writer)
    assert "c/.metadata" not in keys(endpoint, bucket)


def test_a_missing_tenacity_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "s3dlio.compat.s3torchconnector.dcp.s3_file_system"
    spec = importlib.util.spec_from_file_location(name + "_again", importlib.import_module(name).__file__)
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.setitem(sys.modules, "tenacity", None)
    with pytest.raises(MissingExtraError, match=r"pip install 's3dlio-shm\[dcp\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


class Inverted(StreamTransformExtension):
    """Every byte is the complement of what was written."""

    @staticmethod
    def registry_name() -> str:
        return "inverted"

    @staticmethod
    def from_descriptor(version: str) -> Inverted:
        return Inverted()

    def get_descriptor(self) -> str:
        return "inverted/1"

    def transform_to(self, output: Any) -> Any:
        return SimpleNamespace(
            write=lambda data: output.write(invert(bytes(data))), close=output.close, flush=output.flush
        )

    def transform_from(self, input: Any) -> Any:
        return SimpleNamespace(read=lambda size=-1: invert(bytes(input.read(size))), seekable=lambda: False)


def invert(data: bytes) -> bytes:
    return bytes(255 - byte for byte in data)


@alone
def test_a_stream_that_was_transformed_is_transformed_back(bucket: str) -> None:
    place = f"s3://{bucket}/c"
    dcp.save(STATE, storage_writer=S3StorageWriter(REGION, place, _extensions=[Inverted()]))
    registry = ExtensionRegistry()
    registry.register(Inverted)
    assert_loads(S3StorageReader(REGION, place, _extension_registry=registry))


def test_a_saved_shard_that_two_others_are_cut_from_is_read_once() -> None:
    reader = S3StorageReader(REGION, "s3://bucket/c")
    place = {
        "a": SimpleNamespace(relative_path="one", offset=100, length=10),
        "b": SimpleNamespace(relative_path="one", offset=0, length=100),
        "c": SimpleNamespace(relative_path="two", offset=0, length=5),
    }
    reader.storage_data = place
    items = [SimpleNamespace(storage_index=name, number=number) for number, name in enumerate("abcab")]
    plan: Any = SimpleNamespace(items=list(items))
    assert reader.prepare_local_plan(plan) is plan
    assert [items.index(item) for item in plan.items] == [1, 2, 4, 0, 3]
    ranges = reader._reader_constructor._item_ranges_by_file  # type: ignore[union-attr]
    assert {uri: [(one.start, one.end) for one in found] for uri, found in ranges.items()} == {
        "s3://bucket/c/one": [(0, 100), (100, 110)],
        "s3://bucket/c/two": [(0, 5)],
    }
