"""S3Client, S3ClientConfig, listings and errors: the same with both packages."""

from __future__ import annotations

import ast
import copy
import dataclasses
import importlib.util
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.compat.both import Side, same

NAMES = {
    "a.bin": b"0123456789",
    "dir/": b"",
    "dir/one": b"1",
    "dir/sub/two": b"22",
    "empty": b"",
    "ünï/cödé + %41": b"odd",
}


def signature(found: Any) -> list[list[Any]]:
    """The names, kinds and defaults of a call; annotations may be better than upstream's."""
    return [
        [one.name, one.kind.name, None if one.default is inspect.Parameter.empty else repr(one.default)]
        for one in inspect.signature(found).parameters.values()
    ]


def names_defined_in(source: str) -> list[str]:
    """The public classes, functions and constants of a module, but for its logger; it is not run."""
    found = []
    for one in ast.parse(source).body:
        if isinstance(one, (ast.ClassDef, ast.FunctionDef)):
            found.append(one.name)
        elif isinstance(one, (ast.Assign, ast.AnnAssign)):
            targets = one.targets if isinstance(one, ast.Assign) else [one.target]
            found += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in found if not name.startswith("_") and name not in ("log", "logger")]


@same()
def test_every_module_is_there_with_all_that_it_defines(side: Side) -> Any:
    looked_at, missing = [], []
    for package in ("s3torchconnector", "s3torchconnectorclient"):
        [folder] = importlib.util.find_spec(package).submodule_search_locations or []
        for path in sorted([*Path(folder).rglob("*.py"), *Path(folder).rglob("*.pyi")]):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            try:
                module = side.module(name)
            except ImportError as error:
                missing.append(f"{name}: {error}")
                continue
            looked_at.append(name)
            missing += [f"{name}.{one}" for one in names_defined_in(path.read_text()) if not hasattr(module, one)]
    assert len(looked_at) > 25
    return [one for one in missing if "'lightning'" not in one]


@same()
def test_every_public_name_is_there(side: Side) -> Any:
    upstream = {
        "s3torchconnector": "S3IterableDataset S3MapDataset S3Checkpoint S3Reader S3ReaderConstructor S3Writer S3Exception S3ClientConfig "
        "__version__",
        "s3torchconnector.s3reader": "S3Reader S3ReaderConstructor SequentialS3Reader RangedS3Reader DCPOptimizedS3Reader "
        "DCPOptimizedConstructor ItemRange RangeGroup GetStreamCallable S3ReaderConstructorProtocol DCPS3ReaderConstructorProtocol",
        "s3torchconnector.s3reader.constructor": "S3ReaderConstructor DCPOptimizedConstructor",
        "s3torchconnector.s3reader.ranged": "RangedS3Reader DEFAULT_BUFFER_SIZE",
        "s3torchconnector.s3reader.sequential": "SequentialS3Reader",
        "s3torchconnector.s3reader.dcp_optimized": "DCPOptimizedS3Reader DEFAULT_MAX_GAP_SIZE FIND_ITEM_ERROR_PREFIX FALLBACK_GUIDANCE "
        "ItemRange RangeGroup",
        "s3torchconnector.s3reader.protocol": "GetStreamCallable S3ReaderConstructorProtocol DCPS3ReaderConstructorProtocol",
        "s3torchconnector.dcp": "S3FileSystem S3StorageReader S3StorageWriter S3PrefixStrategyBase DefaultPrefixStrategy "
        "NumericPrefixStrategy BinaryPrefixStrategy HexPrefixStrategy",
        "s3torchconnector.dcp.s3_prefix_strategy": "RoundRobinPrefixStrategy",
        "s3torchconnector.dcp.s3_file_system": "S3FileSystem S3StorageReader S3StorageWriter StorageMetadata",
        "s3torchconnector._s3client": "S3Client S3ClientConfig MockS3Client",
        "s3torchconnector._s3client.s3client_config": "S3ClientConfig",
        "s3torchconnector._s3dataset_common": "parse_s3_uri get_objects_from_uris get_objects_from_prefix identity",
        "s3torchconnector._s3_bucket_iterable": "S3BucketIterable",
        "s3torchconnector._s3bucket_key_data": "S3BucketKeyData",
        "s3torchconnector._user_agent": "UserAgent",
        "s3torchconnector._version": "__version__",
        "s3torchconnector.s3checkpoint": "S3Checkpoint",
        "s3torchconnector.s3iterable_dataset": "S3IterableDataset",
        "s3torchconnector.s3map_dataset": "S3MapDataset",
        "s3torchconnector.s3writer": "S3Writer",
        "s3torchconnectorclient": "S3Exception LOG_TRACE __version__",
        "s3torchconnectorclient._mountpoint_s3_client": "MountpointS3Client MockMountpointS3Client GetObjectStream PutObjectStream "
        "ListObjectStream ListObjectResult ObjectInfo HeadObjectResult RestoreStatus S3Exception join_all_managed_threads __version__",
    }
    return {
        module: [
            [name, type(getattr(side.module(module), name, None)).__name__ != "NoneType"] for name in names.split()
        ]
        for module, names in upstream.items()
    }


@same()
def test_what_a_star_import_brings_is_there(side: Side) -> Any:
    upstream = [
        "S3Checkpoint",
        "S3ClientConfig",
        "S3Exception",
        "S3IterableDataset",
        "S3MapDataset",
        "S3Reader",
        "S3Writer",
    ]
    upstream += ["S3ReaderConstructor", "__version__"]
    return [name in side.top.__all__ for name in upstream]


@same()
def test_the_constants_are_the_same(side: Side) -> Any:
    dcp = side.module("s3torchconnector.s3reader.dcp_optimized")
    ranged = side.module("s3torchconnector.s3reader.ranged")
    return [
        ranged.DEFAULT_BUFFER_SIZE,
        dcp.DEFAULT_MAX_GAP_SIZE,
        dcp.FIND_ITEM_ERROR_PREFIX,
        side.client.LOG_TRACE,
        side.top.S3Exception is side.client.S3Exception,
        side.module("s3torchconnectorclient._mountpoint_s3_client").S3Exception is side.client.S3Exception,
        [one.__name__ for one in side.top.S3Exception.__mro__],
    ]


MORE = {"args", "kwargs", "requester_pays"}
CALLS = (
    "s3torchconnector:S3ClientConfig",
    "s3torchconnector:S3IterableDataset",
    "s3torchconnector:S3IterableDataset.from_prefix",
    "s3torchconnector:S3IterableDataset.from_objects",
    "s3torchconnector:S3MapDataset",
    "s3torchconnector:S3MapDataset.from_prefix",
    "s3torchconnector:S3MapDataset.from_objects",
    "s3torchconnector:S3Checkpoint",
    "s3torchconnector:S3Checkpoint.reader",
    "s3torchconnector:S3Checkpoint.writer",
    "s3torchconnector:S3Writer",
    "s3torchconnector:S3ReaderConstructor.range_based",
    "s3torchconnector:S3ReaderConstructor.dcp_optimized",
    "s3torchconnector:S3ReaderConstructor.get_reader_type_string",
    "s3torchconnector.s3reader:SequentialS3Reader",
    "s3torchconnector.s3reader:SequentialS3Reader.read",
    "s3torchconnector.s3reader:SequentialS3Reader.seek",
    "s3torchconnector.s3reader:RangedS3Reader",
    "s3torchconnector.s3reader:RangedS3Reader.read",
    "s3torchconnector.s3reader:RangedS3Reader.seek",
    "s3torchconnector.s3reader:DCPOptimizedS3Reader",
    "s3torchconnector.s3reader:DCPOptimizedConstructor.set_item_ranges_by_file",
    "s3torchconnector.s3reader:ItemRange",
    "s3torchconnector._s3client:S3Client",
    "s3torchconnector._s3client:S3Client.put_object",
    "s3torchconnector._s3client:S3Client.list_objects",
    "s3torchconnector._s3client:S3Client.head_object",
    "s3torchconnector._s3client:S3Client.delete_object",
    "s3torchconnector._s3client:S3Client.copy_object",
    "s3torchconnector._s3client:MockS3Client",
    "s3torchconnector._user_agent:UserAgent",
    "s3torchconnector._s3bucket_key_data:S3BucketKeyData",
    "s3torchconnector.dcp:BinaryPrefixStrategy",
    "s3torchconnector.dcp.s3_prefix_strategy:RoundRobinPrefixStrategy",
)


@same()
def test_arguments_have_the_same_names_order_and_defaults(side: Side) -> Any:
    found = {}
    for call in CALLS:
        module, _, path = call.partition(":")
        target = side.module(module)
        for name in path.split("."):
            target = getattr(target, name)
        try:
            # What ours takes beyond upstream's is in the table of what was wanted.
            found[call] = [one for one in signature(target) if one[0] not in MORE]
        except ValueError as error:
            found[call] = repr(error)
    return found


@same()
def test_a_config_has_the_same_fields_order_and_manners(side: Side) -> Any:
    config = side.top.S3ClientConfig
    one = config(5.0, 16 << 20, True, True, 3, "mine")
    return [
        [field.name for field in dataclasses.fields(config)][:6],
        [
            {name: value for name, value in dataclasses.asdict(each).items() if name not in MORE}
            for each in (config(), one)
        ],
        one == config(5.0, 16 << 20, True, True, 3, "mine"),
        hash(one) == hash(copy.deepcopy(one)),
        pickle.loads(pickle.dumps(one)) == one,  # noqa: TID251 (its own)
        side.tried(setattr, one, "part_size", 1),
        repr(config()).startswith("S3ClientConfig(throughput_target_gbps=10.0, part_size=8388608, "),
    ]


@same({"a": b"one"})
def test_a_part_size_out_of_bounds_is_told_when_the_client_is_needed(side: Side) -> Any:
    found = []
    for size in (756, (5 << 20) - 1, 5 << 20, 5 << 30, (5 << 30) + 1):
        client = side.new_client(s3client_config=side.top.S3ClientConfig(part_size=size))
        found += [size, side.tried(lambda client=client: client.head_object(side.bucket, "a").size)]
    return found


@same({"a": b"one"})
def test_a_client_says_its_properties_and_builds_its_native_client_late(side: Side) -> Any:
    config = side.top.S3ClientConfig(part_size=6 << 20, throughput_target_gbps=3.0)
    client = side.new_client(s3client_config=config, endpoint=side.url)
    before = client._native_client
    native = client._client
    return [
        before,
        client.region,
        client.s3client_config == config,
        native is client._client,
        native is client._native_client,
        type(native).__name__,
        native.part_size,
        native.throughput_target_gbps,
        native.region,
        native.max_attempts,
        native.unsigned,
        native.force_path_style,
        native.profile,
        native.endpoint,
        native.user_agent_prefix == client.user_agent_prefix,
        side.sent(),
    ]


@same(NAMES)
def test_a_listing_comes_in_pages_with_every_field(side: Side) -> Any:
    stream = side.new_client().list_objects(side.bucket, "", "", 2)
    fields = [
        stream.bucket,
        stream.prefix,
        stream.delimiter,
        stream.max_keys,
        stream.complete,
        stream.continuation_token,
    ]
    before = side.sent()
    pages = []
    for page in stream:
        pages.append(
            [type(page).__name__, [[one.key, one.size, one.etag, one.storage_class] for one in page.object_info]]
        )
        pages.append([list(page.common_prefixes), stream.complete, stream.continuation_token is None, len(side.raw())])
    return [type(stream).__name__, fields, before, pages, side.tried(next, stream), iter(stream) is stream]


@same(NAMES)
def test_a_listing_with_a_delimiter_has_common_prefixes(side: Side) -> Any:
    client = side.new_client()
    return [
        [
            [[one.key for one in page.object_info], page.common_prefixes]
            for page in client.list_objects(side.bucket, prefix, "/")
        ]
        for prefix in ("", "dir/", "d", "none")
    ]


@same(NAMES)
def test_info_of_a_listing_is_a_value(side: Side) -> Any:
    info = next(iter(side.new_client().list_objects(side.bucket, "a"))).object_info[0]
    again = pickle.loads(pickle.dumps(info))  # noqa: TID251 (its own)
    made = type(info)("k", "etag", 5, 7, None, None)
    return [
        type(info).__name__,
        [info.key, info.etag, info.size, info.storage_class, info.restore_status, type(info.last_modified).__name__],
        [again.key, again.etag, again.size, again.last_modified == info.last_modified],
        [made.key, made.etag, made.size, made.last_modified, made.storage_class, made.restore_status],
        [type(side.tried(setattr, made, "size", 6)).__name__, made.size],
    ]


@same(NAMES)
def test_a_head_has_every_field(side: Side) -> Any:
    import boto3

    client = side.new_client()
    found = []
    for key in ("a.bin", "empty", "ünï/cödé + %41"):
        head = client.head_object(side.bucket, key)
        there = boto3.client("s3").head_object(Bucket=side.bucket, Key=key)
        found.append(
            [type(head).__name__, head.size, head.etag == there["ETag"], head.storage_class, head.restore_status]
        )
        found.append(
            [
                head.last_modified - int(there["LastModified"].timestamp()),
                hasattr(head, "key"),
            ]
        )
    return found


@same(NAMES)
def test_a_listing_can_be_taken_up_again_from_its_state(side: Side) -> Any:
    native = side.module("s3torchconnectorclient._mountpoint_s3_client")
    client = side.new_client()
    stream = client.list_objects(side.bucket, "", "", 2)
    first = [one.key for one in next(stream).object_info]
    again = native.ListObjectStream._from_state(
        client._client,
        stream.bucket,
        stream.prefix,
        stream.delimiter,
        stream.max_keys,
        stream.continuation_token,
        stream.complete,
    )
    return [first, [[one.key for one in page.object_info] for page in again]]


@same({"a": b"one", "b c/%d+é": b"two"})
def test_copies_and_deletions(side: Side) -> Any:
    client = side.new_client()
    steps = [client.copy_object(side.bucket, "a", side.bucket, "copy of a"), side.sent()[-1:]]
    steps += [client.delete_object(side.bucket, "a"), side.sent()]
    steps += [client.delete_object(side.bucket, "was never there"), side.sent()]
    steps += [
        client.copy_object(side.bucket, "b%20c/%25d%2B%C3%A9", side.bucket, "copy of b"),
        client.delete_object(side.bucket, "b c/%d+é"),
    ]
    return steps


def failing(side: Side, client: Any, bucket: str, key: str) -> dict[str, Any]:
    def write() -> None:
        with client.put_object(bucket, key) as writer:
            writer.write(b"data")

    calls = {
        "get": lambda: client.get_object(bucket, key).read(),
        "get a part": lambda: client.get_object(
            bucket, key, reader_constructor=side.top.S3ReaderConstructor.range_based()
        ).read(3),
        "stream": lambda: next(client._get_object_stream(bucket, key, 0, 3)),
        "prefetch": lambda: client.get_object(bucket, key).prefetch(),
        "head": lambda: client.head_object(bucket, key),
        "delete": lambda: client.delete_object(bucket, key),
        "copy": lambda: client.copy_object(bucket, key, bucket, "there"),
        "list": lambda: [one.object_info for one in client.list_objects(bucket)],
        "put": write,
    }
    return {name: side.tried(call) for name, call in calls.items()}


@same()
def test_errors_of_a_missing_key(side: Side) -> Any:
    found = failing(side, side.new_client(), side.bucket, "missing")
    del found["list"], found["put"]
    return found


@same()
def test_errors_of_a_missing_bucket(side: Side) -> Any:
    found = failing(side, side.new_client(), f"{side.bucket}-missing", "missing")
    # Where a writer finds out is in the table of what was wanted; here, that it does.
    found["put"] = [type(found["put"]).__name__, "bucket" in str(found["put"])]
    return found


@same({"a": b"one"})
def test_errors_are_exceptions_that_travel(side: Side) -> Any:
    error = side.tried(side.new_client().head_object, side.bucket, "missing")
    again = pickle.loads(pickle.dumps(error))  # noqa: TID251 (its own)
    own = pickle.loads(pickle.dumps(side.top.S3Exception("one", 2)))  # noqa: TID251 (its own)
    return [
        [isinstance(one, side.top.S3Exception) for one in (error, again, own)],
        [one.args for one in (error, again, own)],
        isinstance(error, OSError),
        [str(side.top.S3Exception()), str(side.top.S3Exception("text")), repr(side.top.S3Exception("text"))],
    ]


@same({"a": b"one"})
def test_an_endpoint_given_wins_and_an_empty_one_is_none(side: Side) -> Any:
    found = [side.new_client(endpoint="").head_object(side.bucket, "a").size]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        found.append(side.new_client(endpoint=side.url).head_object(side.bucket, "a").size)
    return found


@same({"a": b"one"})
def test_a_client_pickles_before_and_after_use(side: Side) -> Any:
    client = side.new_client(s3client_config=side.top.S3ClientConfig(max_attempts=3))
    before = pickle.loads(pickle.dumps(client))  # noqa: TID251 (its own)
    found = [before.head_object(side.bucket, "a").size, before.region, before.s3client_config.max_attempts]
    client.head_object(side.bucket, "a")
    after = pickle.loads(pickle.dumps(client))  # noqa: TID251 (its own)
    native = pickle.loads(pickle.dumps(client._client))  # noqa: TID251 (its own)
    return [*found, after.head_object(side.bucket, "a").size, native.head_object(side.bucket, "a").size, native.region]


@same({"a": b"one"})
def test_user_agents_have_the_same_grammar(side: Side) -> Any:
    agent = side.module("s3torchconnector._user_agent").UserAgent
    token = agent().prefix.split(" ")[0]
    side.new_client(user_agent=agent(["one", "", "two"])).head_object(side.bucket, "a")
    headers = side.headers("user-agent")
    prefix = agent(["one", "two"]).prefix
    return [
        prefix.removeprefix(token),
        agent().prefix.removeprefix(token),
        agent([]).prefix == agent().prefix == agent.get_default_prefix(),
        [prefix in (one or "") for one in headers],
        side.tried(agent, "text"),
        side.tried(agent, ("a", "b")),
    ]


@same({"a": b"one"})
def test_what_is_logged_has_the_same_words(side: Side) -> Any:
    with side.logged() as lines:
        client = side.new_client()
        info = client.head_object(side.bucket, "a")
        client.get_object(side.bucket, "a")
        client.get_object(side.bucket, "a", object_info=info)
        list(client.list_objects(side.bucket, "pre"))
        with client.put_object(side.bucket, "new") as writer:
            writer.write(b"data")
        client.copy_object(side.bucket, "a", side.bucket, "c")
        client.delete_object(side.bucket, "c")
        side.tried(raise_inside, client.put_object(side.bucket, "gone"))
        side.top.S3MapDataset.from_prefix(side.uri("p"), region=side.region)
        side.top.S3MapDataset.from_objects([], region=side.region)
        side.top.S3IterableDataset.from_prefix(side.uri("p"), region=side.region)
        side.top.S3IterableDataset.from_objects([], region=side.region)
    client.delete_object(side.bucket, "gone")
    return lines


def raise_inside(writer: Any) -> None:
    with writer:
        raise KeyError("inside")


@same({"a": bytes(range(256)) * 4})
def test_a_stream_of_an_object_is_an_iterator_of_bytes(side: Side) -> Any:
    client = side.new_client()
    found = []
    for span in ((None, None), (0, None), (5, None), (10, 20), (1000, 5000), (3, 4), (1023, 1024)):
        stream = client._get_object_stream(side.bucket, "a", *span)
        names = [type(stream).__name__, stream.bucket, stream.key, stream.tell()]
        chunks = list(stream)
        found.append(
            [
                span,
                names,
                b"".join(chunks),
                sorted({type(one).__name__ for one in chunks}),
                stream.tell(),
                iter(stream) is stream,
            ]
        )
        found.append(side.tried(next, stream))
    return found


@same({"a": b"0123456789"})
def test_streams_of_odd_ranges(side: Side) -> Any:
    """The texts are those of Amazon's C library, and are left out."""
    client = side.new_client()
    spans = ((5, 3), (11, None), (20, 30), (-1, 3), (0, -1), ("a", None), (2.0, None), (8, 1 << 40), (0, 1 << 63))
    found = []
    for span in spans:
        what = side.tried(lambda span=span: b"".join(client._get_object_stream(side.bucket, "a", *span)))
        found.append([span, type(what).__name__ if isinstance(what, Exception) else what])
    return found


@same({"big": bytes(range(256)) * (80 << 10)})
def test_a_large_object_comes_in_chunks_of_the_part_size(side: Side) -> Any:
    client = side.new_client(s3client_config=side.top.S3ClientConfig(part_size=8 << 20))
    stream = client._get_object_stream(side.bucket, "big")
    chunks = []
    for chunk in stream:
        chunks.append(len(chunk))
        assert stream.tell() == sum(chunks)
    return chunks


@same()
def test_the_mock_client_needs_no_server(side: Side) -> Any:
    client = side.module("s3torchconnector._s3client").MockS3Client(side.region, "mock-bucket")
    client.add_object("a", b"0123456789")
    client.add_object("b/c", b"")
    found = [
        [[one.key, one.size] for page in client.list_objects("mock-bucket") for one in page.object_info],
        client.get_object("mock-bucket", "a").read(),
        client.get_object("mock-bucket", "a", reader_constructor=side.top.S3ReaderConstructor.range_based()).read(3),
        client.get_object("mock-bucket", "b/c").read(),
        client.head_object("mock-bucket", "a").size,
        side.tried(client.head_object, "mock-bucket", "missing"),
        side.tried(lambda: client.get_object("mock-bucket", "missing").read()),
        side.tried(lambda: client.get_object("another", "a").read()),
        side.tried(lambda: list(client.list_objects("another"))),
    ]
    with client.put_object("mock-bucket", "written") as writer:
        writer.write(b"some")
        writer.write(b"thing")
    found.append(client.get_object("mock-bucket", "written").read())
    client.copy_object("mock-bucket", "a", "mock-bucket", "copy")
    client.remove_object("a")
    client.delete_object("mock-bucket", "b/c")
    found.append([one.key for page in client.list_objects("mock-bucket") for one in page.object_info])
    return [*found, isinstance(client, side.module("s3torchconnector._s3client").S3Client), side.sent()]


@same()
def test_uris_are_read_alike(side: Side) -> Any:
    uris = [None, "", "s3://", "s3:///k", "s3://b", "s3://b/", "s3://b/a//b", "s3://b/k?x#y", "s3://b/ k %20"]
    uris += ["S3://b/k", "/k", "s3:/b/k", "https://b/k", "ftp://b", "b/k"]
    return [[uri, side.tried(side.module("s3torchconnector._s3dataset_common").parse_s3_uri, uri)] for uri in uris]
