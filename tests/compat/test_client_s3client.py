"""`S3Client` and `MockS3Client`: parts of objects as files, what is logged, when the client below is made; all without a server."""

from __future__ import annotations

import gc
import io
import logging
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio.compat import s3torchconnector as ours
from s3dlio.compat.s3torchconnector import S3Client, S3ClientConfig, S3Exception, S3ReaderConstructor
from s3dlio.compat.s3torchconnector._s3client import MockS3Client
from s3dlio.compat.s3torchconnector._user_agent import UserAgent
from s3dlio.engine.memory.view import BytesView
from s3dlio.engine.stores import memory

DATA = bytes(range(100))


@pytest.fixture
def client() -> MockS3Client:
    made = MockS3Client("us-east-1", "bucket")
    made.add_object("key", DATA)
    return made


def test_the_package_exports_upstreams_names_and_two_of_the_guide() -> None:
    assert ours.S3Item is ours.S3Reader
    assert ours.__version__ == s3dlio.__version__
    assert {"S3Client", "S3Item", "S3Writer", "S3Exception"} < set(ours.__all__)
    for name in ours.__all__:
        assert hasattr(ours, name)


def test_importing_s3dlio_still_imports_no_framework() -> None:
    program = "import s3dlio, sys; print([name for name in ('torch', 'numpy', 'botocore') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Parts of objects.


@pytest.mark.parametrize("constructor", [None, S3ReaderConstructor.range_based(), S3ReaderConstructor.range_based(0)])
@pytest.mark.parametrize(("start", "end"), [(0, 9), (10, 10), (90, 99), (90, 500), (5, None), (None, 4), (0, 99)])
def test_start_and_end_are_a_file_of_their_own_and_the_end_is_inclusive(
    client: MockS3Client, constructor: Any, start: int | None, end: int | None
) -> None:
    expected = DATA[start or 0 : None if end is None else end + 1]
    reader = client.get_object("bucket", "key", start=start, end=end, reader_constructor=constructor)
    assert reader.read() == expected
    assert reader.seek(-1, io.SEEK_END) == len(expected) - 1
    assert reader.read(5) == expected[-1:]
    assert reader.read() == b""
    assert reader.seek(1_000_000) == len(expected)


def test_a_part_that_is_read_at_once_is_a_view(client: MockS3Client) -> None:
    found = client.get_object("bucket", "key", start=1, end=3).read()
    assert isinstance(found, BytesView)
    assert found == DATA[1:4]


@given(
    start=st.integers(0, 99), num=st.integers(1, 120), moves=st.lists(st.tuples(st.sampled_from("rs"), st.integers(0, 130)))
)
def test_a_part_reads_as_a_file_of_its_bytes(start: int, num: int, moves: list[tuple[str, int]]) -> None:
    client = MockS3Client("us-east-1", "bucket")
    client.add_object("key", DATA)
    model = io.BytesIO(DATA[start : start + num])
    size = len(model.getvalue())
    readers = [
        client.get_object("bucket", "key", start=start, end=start + num - 1, reader_constructor=constructor)
        for constructor in (None, S3ReaderConstructor.range_based(16))
    ]
    for move, number in moves:
        if move == "r":
            expected = model.read(number)
            assert [reader.read(number) for reader in readers] == [expected] * 2
        else:
            model.seek(min(number, size))
            assert [reader.seek(number) for reader in readers] == [model.tell()] * 2


def test_a_part_of_a_listed_object_asks_for_no_size(client: MockS3Client, monkeypatch: pytest.MonkeyPatch) -> None:
    (page,) = client.list_objects("bucket")
    (info,) = page.object_info
    monkeypatch.setattr(client, "head_object", lambda *_: pytest.fail("the size was known"))
    reader = client.get_object("bucket", "key", object_info=info, start=10, end=19)
    assert reader.seek(0, io.SEEK_END) == 10


@pytest.mark.parametrize(("start", "end"), [(-1, 4), (5, 4), (0, -1)])
def test_what_is_no_range_is_told_at_once(client: MockS3Client, start: int, end: int) -> None:
    with pytest.raises(ValueError, match="are no range"):
        client.get_object("bucket", "key", start=start, end=end)


def test_a_part_behind_the_end_is_an_error(client: MockS3Client) -> None:
    with pytest.raises(S3Exception):
        client.get_object("bucket", "key", start=101, end=110).read()


def test_a_part_goes_with_no_other_reader(client: MockS3Client) -> None:
    with pytest.raises(ValueError, match="dcp_optimized"):
        client.get_object("bucket", "key", start=0, end=1, reader_constructor=S3ReaderConstructor.dcp_optimized())


# The client below.


def test_a_configuration_without_meaning_is_told_at_the_first_use() -> None:
    client = S3Client("us-east-1", s3client_config=S3ClientConfig(part_size=756))
    assert client._native_client is None
    for _ in range(2):
        with pytest.raises(S3Exception, match="part size must be at between 5MiB and 5GiB"):
            client.head_object("bucket", "key")


def test_nobody_pays_for_unsigned_requests() -> None:
    with pytest.raises(ValueError, match="requester_pays"):
        S3ClientConfig(requester_pays=True, unsigned=True)


def test_the_whole_configuration_reaches_the_client_below() -> None:
    config = S3ClientConfig(20.0, 6 << 20, False, True, 7, "mine", True)
    native = S3Client("eu-west-3", endpoint="http://host", user_agent=UserAgent(["c"]), s3client_config=config)._client
    agent = UserAgent(["c"]).prefix
    expected = ("eu-west-3", agent, 20.0, 6 << 20, "mine", False, "http://host", True, 7, True)
    assert native.__getnewargs__() == expected
    assert agent.startswith(f"s3dlio/{s3dlio.__version__} ua/2.1 ")
    assert agent.endswith(" (c)")
    assert agent.isascii()


def test_many_threads_make_one_client_below() -> None:
    client = MockS3Client("us-east-1", "bucket")
    barrier = threading.Barrier(8)
    seen = []

    def look() -> None:
        barrier.wait()
        seen.append(client._client)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(native) for native in seen}) == 1


def test_a_client_pickles_before_and_after_use() -> None:
    client = S3Client("us-east-1", endpoint="http://host", s3client_config=S3ClientConfig(part_size=6 << 20))
    for _ in range(2):
        again = pickle.loads(pickle.dumps(client))  # noqa: TID251 (its own)
        assert again._client.__getnewargs__() == client._client.__getnewargs__()


def test_operations_are_logged_in_upstreams_words(client: MockS3Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "s3dlio.compat.s3torchconnector._s3client._s3client")
    client.get_object("bucket", "key")
    client.get_object("bucket", "key", object_info=client.head_object("bucket", "key"))
    client.put_object("bucket", "key").close()
    list(client.list_objects("bucket", "prefix"))
    client.copy_object("bucket", "key", "bucket", "other")
    client.delete_object("bucket", "key")
    assert caplog.messages == [
        "GetObject s3://bucket/key, object_info is None=True",
        "HeadObject s3://bucket/key",
        "GetObject s3://bucket/key, object_info is None=False",
        "PutObject s3://bucket/key",
        "ListObjects s3://bucket/prefix",
        "CopyObject s3://bucket/key to s3://bucket/other",
        "DeleteObject s3://bucket/key",
    ]


# The mock.


def test_a_mock_has_its_own_memory_and_leaves_none(client: MockS3Client) -> None:
    num_before = len(memory._buckets)
    other = MockS3Client("us-east-1", "bucket")
    other.add_object("theirs", b"x")
    assert [info.key for page in client.list_objects("bucket") for info in page.object_info] == ["key"]
    with pytest.raises(S3Exception, match=r"^Service error: The bucket does not exist$"):
        other.get_object("another", "key").read()
    assert len(memory._buckets) == num_before + 1
    del other
    gc.collect()
    assert len(memory._buckets) == num_before


def test_a_mock_keeps_its_objects_in_this_process(client: MockS3Client) -> None:
    again = pickle.loads(pickle.dumps(client._client))  # noqa: TID251 (its own)
    assert again.get_object("bucket", "key").read_rest() == DATA
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(client)


def test_a_missing_object_of_a_mock_is_told_when_it_is_opened(client: MockS3Client) -> None:
    with pytest.raises(S3Exception, match=r"^Service error: The key does not exist$"):
        client._client.get_object("bucket", "missing")
    with pytest.raises(S3Exception, match=r"^Service error: The object was not found$"):
        client.head_object("another", "key")


@pytest.mark.parametrize("data", ["text", 5, None, [1]])
def test_what_is_no_buffer_is_refused_with_upstreams_text(client: MockS3Client, data: Any) -> None:
    writer = client.put_object("bucket", "other")
    with pytest.raises(TypeError, match=rf"^argument 'data': '{type(data).__name__}' object cannot be cast as 'bytes'$"):
        writer.write(data)
    assert writer.tell() == 0
    writer.write(b"bytes")
    writer.close()
    assert client.get_object("bucket", "other").read() == b"bytes"


def test_a_client_may_be_made_of_another_one() -> None:
    class Wrapping(S3Client):
        def _client_builder(self) -> Any:
            return inner._client

    inner = S3Client("us-east-1")
    made: list[Any] = []
    # It would wait for itself for ever; a thread of its own, so that this test would not.
    thread = threading.Thread(target=lambda: made.append(Wrapping("us-east-1")._client), daemon=True)
    thread.start()
    thread.join(10)
    assert made == [inner._client]
