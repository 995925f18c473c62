"""Where ours does other than s3torchconnector, and means to: the whole list, each with its reason and what both do.

`docs/migrating-from-s3torchconnector.md` tells users the same. What is not here must be the same: the other files of this folder see to it.
"""

from __future__ import annotations

import gc
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.compat.both import OURS, THEIRS, Pair, Side
from tests.compat.test_differential_datasets import ranked
from tests.support.answers import s3_error
from tests.support.scripted_server import ScriptedServer

BIG = bytes(range(256)) * (72 << 10)
OBJECTS = {"a": b"0123456789", "empty": b"", "train/1": b"one", "train/2": b"two"}


def listed(side: Side) -> list[str]:
    return [one.key for page in side.new_client().list_objects(side.bucket) for one in page.object_info]


def whole_read(side: Side) -> Any:
    reader = side.new_client().get_object(side.bucket, "a")
    found = reader.read()
    return [
        type(found).__name__,
        bytes(found) == b"0123456789",
        type(reader.read()).__name__,
        type(reader.read(3)).__name__,
    ]


def text_over_a_reader(side: Side) -> Any:
    import io

    reader = side.new_client().get_object(side.bucket, "a")
    return [side.tried(lambda: list(io.TextIOWrapper(reader))), side.tried(lambda: reader.read1(3))]


def own_product_token(side: Side) -> Any:
    agent = side.module("s3torchconnector._user_agent").UserAgent()
    return [agent.prefix.split("/")[0], side.top.__version__ == agent.prefix.split(" ")[0].split("/")[1]]


def more_names(side: Side) -> Any:
    return [
        [name for name in ("S3Client", "S3Item") if hasattr(side.top, name)],
        hasattr(side.module("s3torchconnector.dcp"), "RoundRobinPrefixStrategy"),
    ]


def a_part_of_an_object(side: Side) -> Any:
    return side.tried(lambda: side.new_client().get_object(side.bucket, "a", start=2, end=5).read())


def requester_pays(side: Side) -> Any:
    return side.tried(lambda: side.top.S3ClientConfig(requester_pays=True).requester_pays)


def requests_of_a_small_write(side: Side) -> Any:
    writer = side.new_client().put_object(side.bucket, "new")
    found = [side.raw()]
    writer.write(b"some data")
    writer.close()
    return [*found, side.raw()]


def a_write_into_a_missing_bucket(side: Side) -> Any:
    client = side.new_client()
    writer = side.tried(client.put_object, f"{side.bucket}-missing", "new")
    if isinstance(writer, Exception):
        return ["at construction", type(writer).__name__]
    writer.write(b"data")
    return ["at close", side.tried(writer.close)]


def a_writer_whose_block_fails(side: Side) -> Any:
    found = []
    for data in (b"half of it", BIG):
        writer = side.new_client().put_object(side.bucket, f"broken {len(data)}")

        def fail(writer: Any = writer, data: bytes = data) -> None:
            with writer:
                writer.write(data)
                raise KeyError("inside")

        found.append(type(side.tried(fail)).__name__)
        found.append(writer.closed)
        del writer, fail
        gc.collect()
    return [*found, [key for key in listed(side) if key.startswith("broken")]]


def a_writer_that_is_only_forgotten(side: Side) -> Any:
    writer = side.new_client().put_object(side.bucket, "forgotten")
    writer.write(b"half of it")
    del writer
    gc.collect()
    return "forgotten" in listed(side)


def any_buffer_is_written(side: Side) -> Any:
    import array

    with side.new_client().put_object(side.bucket, "new") as writer:
        found = [
            side.tried(writer.write, one)
            for one in (bytearray(b"abc"), array.array("H", [1, 2, 3]), torch.ones(4, dtype=torch.uint8).numpy())
        ]
    return [*found, side.new_client().head_object(side.bucket, "new").size]


def readinto_counts_bytes(side: Side) -> Any:
    import array

    found = []
    for constructor in (side.top.S3ReaderConstructor.sequential(), side.top.S3ReaderConstructor.range_based()):
        target = array.array("H", [0] * 4)
        reader = side.new_client().get_object(side.bucket, "a", reader_constructor=constructor)
        found.append([side.tried(reader.readinto, target), target.tobytes()])
    return found


def a_short_stream(side: Side) -> Any:
    import types

    readers = side.module("s3torchconnector.s3reader")
    given = ("b", "k", lambda: types.SimpleNamespace(size=10), lambda start=0, end=None: iter([b"0123"]))
    return [
        side.tried(readers.RangedS3Reader(*given).read),
        side.tried(readers.RangedS3Reader(*given, buffer_size=0).read),
    ]


def an_object_written_over_while_it_is_read(side: Side) -> Any:
    client = side.new_client()
    with client.put_object(side.bucket, "changes") as writer:
        writer.write(b"old" * 1000)
    reader = client.get_object(side.bucket, "changes", reader_constructor=side.top.S3ReaderConstructor.range_based(100))
    first = reader.read(3)
    with client.put_object(side.bucket, "changes") as writer:
        writer.write(b"new" * 1000)
    reader.seek(1500)
    second = side.tried(reader.read, 3)
    return [first, second if isinstance(second, bytes) else type(second).__name__]


def a_range_with_an_end_and_no_start(side: Side) -> Any:
    return b"".join(side.new_client()._get_object_stream(side.bucket, "a", None, 4))


def an_empty_range(side: Side) -> Any:
    client = side.new_client()
    found = [
        side.tried(lambda span=span: b"".join(client._get_object_stream(side.bucket, "a", *span)))
        for span in ((0, 0), (4, 4), (10, None))
    ]
    return [type(one).__name__ if isinstance(one, Exception) else one for one in found]


def head_with_attempts(side: Side, attempts: int) -> str:
    client = side.new_client(s3client_config=side.top.S3ClientConfig(max_attempts=attempts))
    return type(side.tried(client.head_object, side.bucket, "a")).__name__


def max_attempts_of_nonsense(side: Side) -> Any:
    # Apart: what panics in upstream's client leaves threads behind, and a later fork hangs.
    return side.in_processes(head_with_attempts, [(0,), (65,)])


def what_an_exception_says(side: Side) -> Any:
    error = side.tried(side.new_client().get_object(side.bucket, "missing").read)
    again = pickle.loads(pickle.dumps(error))  # noqa: TID251 (its own)
    return [[getattr(one, name, None) for name in ("code", "status")] for one in (error, again)]


def an_object_info_as_text(side: Side) -> Any:
    native = side.module("s3torchconnectorclient._mountpoint_s3_client")
    return repr(native.ObjectInfo("k", "e", 1, 2, None, None))


def rank_is_asked_at_the_iteration(side: Side) -> Any:
    dataset = side.top.S3IterableDataset.from_prefix(side.uri("train/"), region=side.region, enable_sharding=True)
    with ranked(1, 2):
        return [item.key for item in dataset]


def dcp_takes_an_endpoint(side: Side) -> Any:
    made = side.module("s3torchconnector.dcp")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ENDPOINT_URL")
        found = [side.tried(lambda: made.S3FileSystem(side.region, endpoint=side.url).exists(side.uri("a")))]
        found += [
            side.tried(kind, side.region, side.uri("x"), endpoint=side.url)
            for kind in (made.S3StorageReader, made.S3StorageWriter)
        ]
    return [type(one).__name__ for one in found]


def a_path_object_in_dcp(side: Side) -> Any:
    from pathlib import Path

    return side.tried(side.module("s3torchconnector.dcp").S3FileSystem(side.region).exists, Path(side.uri("a")))


def saving_rank_by_rank(side: Side) -> Any:
    from torch.distributed.checkpoint.planner import SavePlan

    made = side.module("s3torchconnector.dcp")
    found = []
    for rank in range(2):
        with ranked(rank, 2):
            writer = made.S3StorageWriter(side.region, side.uri("step"))
            writer.set_up_storage_writer(is_coordinator=True, rank=rank, use_collectives=False)
            [plan] = writer.prepare_global_plan([writer.prepare_local_plan(SavePlan([]))])
            found.append(plan.storage_data.prefix)
    return found


def a_ranged_reader_pickles(side: Side) -> Any:
    reader = side.new_client().get_object(
        side.bucket, "a", reader_constructor=side.top.S3ReaderConstructor.range_based()
    )
    found = side.tried(lambda: pickle.loads(pickle.dumps(reader)).read())  # noqa: TID251 (its own)
    return type(found).__name__ if isinstance(found, Exception) else bytes(found)


def a_store_that_forbids(side: Side) -> Any:
    with ScriptedServer() as server:
        server.script = lambda _: s3_error(403, "AccessDenied")
        error = side.tried(side.new_client(endpoint=server.url).get_object("bucket", "key").read)
    return str(error)


def no_credentials(side: Side) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        error = side.tried(side.new_client().get_object(side.bucket, "a").read)
    return [str(error), side.raw()]


def two_configs_in_dcp(side: Side) -> Any:
    config = side.top.S3ClientConfig(max_attempts=3)
    made = side.module("s3torchconnector.dcp").S3FileSystem
    found = side.tried(made, side.region, side.new_client(), config)
    return type(found).__name__


def where_logs_go(side: Side) -> Any:
    import logging

    with side.logged(logging.INFO) as lines:
        side.top.S3MapDataset.from_objects([], region=side.region)
    # In pieces, since the comparison leaves out the package's name.
    return lines[0].split(" ")[1].split(".")[:2]


def what_is_changed_in_a_whole_object(side: Side) -> Any:
    reader = side.new_client().get_object(side.bucket, "a")
    found = side.tried(memoryview(reader.read()).__setitem__, 0, 65)
    reader.seek(0)
    return [type(found).__name__, reader.read(3)]


def lightning_storage_options(side: Side) -> Any:
    checkpoint = side.module("s3torchconnector.lightning").S3LightningCheckpoint(side.region)
    return side.tried(checkpoint.save_checkpoint, {}, side.uri("a.ckpt"), storage_options={"anything": 1})


def a_range_of_an_empty_object(side: Side) -> Any:
    client = side.new_client()
    found = [
        side.tried(lambda span=span: b"".join(client._get_object_stream(side.bucket, "empty", *span)))
        for span in ((0, 5), (0, None))
    ]
    return [type(one).__name__ if isinstance(one, Exception) else one for one in found]


def other_schemes(side: Side) -> Any:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "x").write_bytes(b"a file")
        dataset = side.top.S3MapDataset.from_prefix(
            f"file://{folder}/", region="", transform=lambda item: bytes(item.read())
        )
        return [
            side.tried(lambda: list(dataset)),
            side.tried(side.module("s3torchconnector._s3dataset_common").parse_s3_uri, "gs://b/k"),
        ]


def an_object_that_changes_after_others_were_read(side: Side) -> Any:
    client = side.new_client()
    items = iter(side.top.S3IterableDataset.from_prefix(side.uri("train/"), region=side.region))
    found = [next(items).read()]
    # So that whoever fetches ahead has done it.
    time.sleep(0.5)  # noqa: TID251 (from without there is nothing to wait for)
    client.delete_object(side.bucket, "train/2")
    return [*found, side.tried(lambda: next(items).read())]


def an_object_that_grew_since_it_was_listed(side: Side) -> Any:
    client = side.new_client()
    found = []
    for constructor in (side.top.S3ReaderConstructor.sequential(), side.top.S3ReaderConstructor.range_based()):
        with client.put_object(side.bucket, "train/1") as writer:
            writer.write(b"one")
        dataset = side.top.S3MapDataset.from_prefix(
            side.uri("train/"), region=side.region, reader_constructor=constructor
        )
        found.append(len(dataset))
        with client.put_object(side.bucket, "train/1") as writer:
            writer.write(b"longer")
        reader = dataset[0]
        found.append(reader.seek(0, 2))
        reader.seek(0)
        found.append(b"".join(iter(lambda reader=reader: reader.read(3), b"")))
        found.append([dataset[0].read(), b"".join(dataset[0]), dataset[0].readinto(bytearray(9))])
    return found


@dataclass(frozen=True)
class Difference:
    """One of them."""

    script: Callable[[Side], Any]
    because: str
    theirs: Any
    ours: Any


ONLY_S3 = ["raised", "ValueError", "Only s3:// URIs are supported"]
ODD_VIEW = ["raised", "ValueError", "memoryview assignment: lvalue and rvalue have different structures"]
EARLY_END = ["raised", "S3Exception", "s3://b/k ended early: of bytes 0 to 10, only 4 came"]


def no_bytes(kind: str) -> list[str]:
    return ["raised", "TypeError", f"argument 'data': '{kind}' object cannot be cast as 'bytes'"]


DIFFERENCES = [
    Difference(
        whole_read,
        "A whole object is read in place: the view compares, slices and decodes as bytes do, and nothing is copied.",
        ["bytes", True, "bytes", "bytes"],
        ["BytesView", True, "bytes", "bytes"],
    ),
    Difference(
        text_over_a_reader,
        "A reader says that it is a buffered file, and lines of text are read from one by `read1`.",
        [["raised", "UnsupportedOperation", "read1"]] * 2,
        [["0123456789"], "b''"],
    ),
    Difference(own_product_token, "Servers' logs shall tell us apart.", ["s3torchconnector", True], ["s3dlio", True]),
    Difference(more_names, "The guide imports them from there.", [[], False], [["S3Client", "S3Item"], True]),
    Difference(
        a_part_of_an_object,
        "The guide reads a part so; its end is inclusive.",
        ["raised", "TypeError", "S3Client.get_object() got an unexpected keyword argument 'start'"],
        "b'2345'",
    ),
    Difference(
        requester_pays,
        "Upstream has it after 1.5.0.",
        ["raised", "TypeError", "S3ClientConfig.__init__() got an unexpected keyword argument 'requester_pays'"],
        True,
    ),
    Difference(
        requests_of_a_small_write,
        "One request in place of three, and none before there is something to write.",
        [["CREATE new"], ["PART new", "COMPLETE new"]],
        [[], ["PUT new"]],
    ),
    Difference(
        a_write_into_a_missing_bucket,
        "A small object is sent when it is closed, so that is where it fails.",
        ["at construction", "S3Exception"],
        ["at close", ["raised", "S3Exception", "Service error: The bucket does not exist"]],
    ),
    Difference(
        a_writer_whose_block_fails,
        "U1: what failed is never committed, not even when the writer is collected.",
        ["KeyError", False, "KeyError", False, ["broken 10", "broken 18874368"]],
        ["KeyError", True, "KeyError", True, []],
    ),
    Difference(a_writer_that_is_only_forgotten, "U1: only a close commits.", True, False),
    Difference(
        any_buffer_is_written,
        "Whatever has a buffer can be written.",
        [*(no_bytes(kind) for kind in ("bytearray", "array", "ndarray")), 0],
        [3, 6, 4, 13],
    ),
    Difference(
        readinto_counts_bytes,
        "The file protocol counts bytes, not items.",
        [[8, "b'01234567'"], [ODD_VIEW, repr(bytes(8))]],
        [[8, "b'01234567'"], [8, "b'01234567'"]],
    ),
    Difference(
        a_short_stream,
        "Bytes that did not come are never zeros.",
        [repr(b"0123" + bytes(6)), repr(b"0123" + bytes(6))],
        [EARLY_END, EARLY_END],
    ),
    Difference(
        an_object_written_over_while_it_is_read,
        "A reader reads one version of its object.",
        ["b'old'", "b'new'"],
        ["b'old'", "S3Exception"],
    ),
    Difference(a_range_with_an_end_and_no_start, "It ends where it was said.", "b'0123456789'", "b'0123'"),
    Difference(
        a_store_that_forbids,
        "The text goes on: what may help, and whose credentials they were.",
        "Client error: Forbidden: scripted",
        "Client error: Forbidden: scripted; these credentials have no permission for it; the credentials came from the environment "
        "(AWS_ACCESS_KEY_ID)",
    ),
    Difference(
        no_credentials,
        "Who has none asks unsigned, which public data needs; it is the store that says no. The cause says that nobody signed.",
        ["Client error: No signing credentials available, see CRT debug logs", []],
        ["Client error: Forbidden: <no message>", ["GET a"]],
    ),
    Difference(two_configs_in_dcp, "A configuration that has no effect is a mistake.", "S3FileSystem", "ValueError"),
    Difference(
        where_logs_go,
        "Loggers are named after their modules.",
        ["s3torchconnector", "s3map_dataset"],
        ["s3dlio", "compat"],
    ),
    Difference(
        what_is_changed_in_a_whole_object,
        "The view is the reader's own memory, and tensors over it may be written to.",
        ["TypeError", "b'012'"],
        ["NoneType", "b'A12'"],
    ),
    Difference(
        lightning_storage_options,
        "No argument is accepted and ignored.",
        None,
        [
            "raised",
            "TypeError",
            "`storage_options` are not supported by S3LightningCheckpoint; say in `s3client_config` how to ask the store",
        ],
    ),
    Difference(
        a_range_of_an_empty_object,
        "It holds no byte, whatever was asked.",
        ["S3Exception", "S3Exception"],
        ["b''", "b''"],
    ),
    Difference(
        an_empty_range, "An empty range is empty.", ["b'0'", "S3Exception", "S3Exception"], ["b''", "b''", "b''"]
    ),
    Difference(
        max_attempts_of_nonsense,
        "An error that `except Exception` catches; and more than 64 attempts are no nonsense.",
        ["PanicException", "PanicException"],
        ["S3Exception", "HeadObjectResult"],
    ),
    Difference(
        what_an_exception_says,
        "Programs shall not have to read texts.",
        [[None, None], [None, None]],
        [["NoSuchKey", 404], ["NoSuchKey", 404]],
    ),
    Difference(
        an_object_info_as_text,
        "It is a Python value.",
        'PyObjectInfo { key: "k", etag: "e", size: 1, last_modified: 2, storage_class: None, restore_status: None }',
        "ObjectInfo(key='k', etag='e', size=1, last_modified=2, storage_class=None, restore_status=None)",
    ),
    Difference(
        rank_is_asked_at_the_iteration,
        "A data set may be built before the process group, and is sharded all the same.",
        ["train/1", "train/2"],
        ["train/2"],
    ),
    Difference(
        dcp_takes_an_endpoint,
        "Upstream knows it from the environment only.",
        ["TypeError"] * 3,
        ["bool", "S3StorageReader", "S3StorageWriter"],
    ),
    Difference(a_path_object_in_dcp, "The annotation allows a Path, which makes `s3:/` of `s3://`.", ONLY_S3, True),
    Difference(
        saving_rank_by_rank,
        "Each rank has a name of its own; upstream's write over one another.",
        ["__0_", "__0_"],
        ["__0_", "__1_"],
    ),
    Difference(a_ranged_reader_pickles, "As the sequential one does.", "TypeError", "b'0123456789'"),
    Difference(
        other_schemes,
        "All stores of the engine, by the same classes.",
        [ONLY_S3, ONLY_S3],
        [["b'a file'"], ["gs://b", "k"]],
    ),
    Difference(
        an_object_that_changes_after_others_were_read,
        "What was fetched ahead is read as it was then.",
        ["b'one'", ["raised", "S3Exception", "Service error: The key does not exist"]],
        ["b'one'", "b'two'"],
    ),
    Difference(
        an_object_that_grew_since_it_was_listed,
        "An object is read to its end, whatever an old listing said of it.",
        [2, 3, "b'lon'", ["b'longer'", "b'longer'", 6], 2, 3, "b'lon'", ["b'lon'", "b'lon'", 3]],
        [2, 3, "b'longer'", ["b'longer'", "b'longer'", 6]] * 2,
    ),
]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda one: one.script.__name__)
def test_both_do_what_the_table_says(pair: Pair, difference: Difference) -> None:
    seen = pair.run(__name__, difference.script.__name__, OBJECTS, {})
    for side, wanted in ((THEIRS, difference.theirs), (OURS, difference.ours)):
        assert "broke" not in seen[side], seen[side]["broke"]
        assert seen[side]["result"] == wanted, side
    assert seen[OURS]["left in the bucket"]["uploads"] == []
