"""The three readers, their constructors and the writer: the same with both packages."""

from __future__ import annotations

import functools
import io
import pickle
import random
from collections.abc import Iterator
from typing import Any

from tests.compat.both import Side, same

DATA = bytes(range(256)) * 40
LINES = b"one\ntwo\n\nthree, without an end"
KINDS = ("sequential", "ranged", "unbuffered", "small buffer")


def constructor(side: Side, kind: str) -> Any:
    made = side.top.S3ReaderConstructor
    return {
        "sequential": made.sequential,
        "ranged": made.range_based,
        "unbuffered": lambda: made.range_based(buffer_size=0),
        "small buffer": lambda: made.range_based(100),
    }[kind]()


def reader_of(side: Side, kind: str, key: str = "a", **given: Any) -> Any:
    return side.new_client().get_object(side.bucket, key, reader_constructor=constructor(side, kind), **given)


class Source:
    """What a reader is given by users' own tests: a size, and streams of chunks."""

    def __init__(self, data: bytes, chunk_bytes: int = 7) -> None:
        self.data = data
        self.chunk_bytes = chunk_bytes
        self.asked: list[Any] = []

    @property
    def size(self) -> int:
        return len(self.data)

    def info(self) -> Source:
        self.asked.append("info")
        return self

    def stream(self, start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        self.asked.append((start, end))
        data = self.data[start or 0 : len(self.data) if end is None else end]
        return iter([data[at : at + self.chunk_bytes] for at in range(0, len(data), self.chunk_bytes)])


@same({"a": DATA, "empty": b""})
def test_nothing_is_sent_until_something_is_read(side: Side) -> Any:
    found = []
    for kind in KINDS:
        for key in ("a", "empty"):
            reader = reader_of(side, kind, key)
            found.append(
                [
                    kind,
                    reader.bucket,
                    reader.key,
                    reader.tell(),
                    reader.readable(),
                    reader.seekable(),
                    reader.writable(),
                ]
            )
            found.append([reader.closed, isinstance(reader, io.BufferedIOBase), side.sent()])
            found.append(
                [reader.read(), reader.tell(), side.sent(), reader.read(), reader.read(4), reader.tell(), side.sent()]
            )
            found.append([reader.seek(0), reader.read(5), side.sent()])
    return found


@same({"a": DATA})
def test_a_size_that_is_known_is_not_asked_for(side: Side) -> Any:
    client = side.new_client()
    info = next(iter(client.list_objects(side.bucket))).object_info[0]
    found = [side.sent()]
    for kind in KINDS:
        reader = client.get_object(side.bucket, "a", object_info=info, reader_constructor=constructor(side, kind))
        found.append(
            [kind, reader.seek(0, io.SEEK_END), side.sent(), reader.seek(-3, io.SEEK_END), reader.read(), side.sent()]
        )
    for kind in KINDS:
        reader = reader_of(side, kind)
        found.append([kind, reader.seek(-3, io.SEEK_END), side.sent(), reader.read(), side.sent()])
        reader = reader_of(side, kind)
        found.append([kind, reader.seek(20), side.sent(), reader.seek(10, io.SEEK_CUR), side.sent(), reader.tell()])
    return found


@same({"a": DATA})
def test_what_a_read_gives_is_bytes_but_for_a_whole_object(side: Side) -> Any:
    found = []
    for kind in KINDS:
        reader = reader_of(side, kind)
        found += [
            type(reader.read(3)).__name__,
            type(reader.read(0)).__name__,
            type(reader.read()).__name__,
            type(reader.read()).__name__,
        ]
    return found


@same({"a": DATA, "empty": b""})
def test_odd_arguments_raise_the_same(side: Side) -> Any:
    found = []
    for kind in KINDS:
        for key in ("a", "empty"):
            reader = reader_of(side, kind, key)
            for size in ("3", 3.0, b"", object, True, -1, -7, 1 << 40):
                reader.seek(0)
                found.append([kind, "read", str(size), side.tried(reader.read, size)])
            for given in (
                (-1,),
                (1.0,),
                ("1",),
                (None,),
                (0, 3),
                (0, -1),
                (0, "1"),
                (0, None),
                (-1, 1),
                (-1 << 40, 2),
                (1 << 40,),
                (1 << 40, 1),
            ):
                reader.seek(5)
                found.append([kind, "seek", str(given), side.tried(reader.seek, *given), reader.tell()])
            found.append(type(side.tried(reader.seek, offset=0)).__name__)
            for target in (bytearray(), bytearray(4), memoryview(bytearray(4)), bytearray(20000)):
                reader.seek(1)
                count = reader.readinto(target)
                found.append([kind, "readinto", count, bytes(target[:count]), reader.tell()])
            reader.seek(1)
            if key == "a":
                found.append([kind, type(side.tried(reader.readinto, b"read only")).__name__])
            found.append([type(side.tried(reader.readinto, one)).__name__ for one in (None, 5)])
            found.append(
                [type(side.tried(getattr(reader, name))).__name__ for name in ("fileno", "detach", "isatty", "flush")]
            )
            found.append([side.tried(reader.write, b"x"), type(side.tried(reader.truncate)).__name__])
    return found


@same({"lines": LINES, "a": DATA})
def test_lines_and_iteration(side: Side) -> Any:
    found: list[Any] = []
    for kind in KINDS:
        found.append(list(reader_of(side, kind, "lines")))
        found.append(b"".join(reader_of(side, kind, "lines")))
        reader = reader_of(side, kind, "lines")
        found += [reader.readline(), reader.readline(2), reader.readlines(), reader.readline(), reader.tell()]
        found.append(
            io.TextIOWrapper(io.BufferedReader(io.BytesIO(bytes(reader_of(side, kind, "lines").read())))).readlines()
        )
        with reader_of(side, kind, "a") as reader:
            found += [reader.read(2), reader.closed]
        found += [
            reader.closed,
            side.tried(reader.read, 2),
            side.tried(reader.tell),
            side.tried(reader.seek, 1),
            reader.close(),
        ]
        found.append(side.tried(reader.__enter__))
    return found


@same({"a": DATA})
def test_a_reader_that_was_not_read_pickles(side: Side) -> Any:
    found = []
    for kind in ("sequential", "unbuffered"):
        reader = pickle.loads(pickle.dumps(reader_of(side, kind)))  # noqa: TID251 (its own)
        found.append([type(reader).__name__, reader.key, reader.read(5), reader.read()])
    return found


@same({"a": DATA})
def test_prefetch_is_of_the_sequential_reader(side: Side) -> Any:
    found: list[Any] = []
    for kind in KINDS:
        reader = reader_of(side, kind)
        found.append([kind, hasattr(reader, "prefetch")])
    reader = reader_of(side, "sequential")
    found += [reader.prefetch(), side.sent(), reader.prefetch(), reader.tell(), reader.read(3), side.sent()]
    return found


@same()
def test_constructors_and_their_names(side: Side) -> Any:
    made, readers = side.top.S3ReaderConstructor, side.module("s3torchconnector.s3reader")
    kinds = [
        made.sequential(),
        made.default(),
        made.range_based(),
        made.range_based(5),
        made.range_based(buffer_size=0),
        made.dcp_optimized(),
        None,
    ]
    kinds += [
        functools.partial(readers.RangedS3Reader),
        functools.partial(int),
        lambda **_: None,
        readers.SequentialS3Reader,
        made.dcp_optimized(float("inf")),
    ]
    return [
        [made.get_reader_type_string(kind) for kind in kinds],
        [made.sequential().func is readers.SequentialS3Reader, made.range_based(5).func is readers.RangedS3Reader],
        [made.range_based(5).keywords, made.range_based().keywords, made.sequential().keywords],
        [type(made.dcp_optimized()).__name__, made.dcp_optimized()._item_ranges_by_file],
        [side.tried(made.dcp_optimized, size) for size in (-1, -0.5, 0, 3.5, "1")][:4],
        side.tried(readers.S3Reader),
        sorted(readers.S3Reader.__abstractmethods__),
        [side.tried(readers.SequentialS3Reader, bucket, "k", None, None) for bucket in ("", None)],
        [side.tried(readers.RangedS3Reader, bucket, "k", None, None) for bucket in ("", None)],
        readers.SequentialS3Reader("b", "", None, None).key,
    ]


@same({"a": DATA})
def test_a_users_own_constructor_is_called_by_keywords(side: Side) -> Any:
    calls: list[Any] = []

    def own(**given: Any) -> Any:
        calls.append(
            [
                sorted(given),
                given["bucket"],
                given["key"],
                given["get_object_info"]().size,
                b"".join(given["get_stream"]()),
            ]
        )
        calls.append(b"".join(given["get_stream"](3, 9)))
        calls.append(b"".join(given["get_stream"](start=3, end=9)))
        return "mine"

    dataset = side.top.S3MapDataset.from_prefix(side.uri(), region=side.region, reader_constructor=own)
    objects = side.top.S3IterableDataset.from_objects([side.uri("a")], region=side.region, reader_constructor=own)
    return [dataset[0], list(objects), calls, side.new_client().get_object(side.bucket, "a", reader_constructor=own)]


def run(side: Side, reader: Any, asked: list[Any], moves: random.Random, longest: int) -> list[Any]:
    """Does what a program might, and notes what it sees."""
    seen: list[Any] = []
    for _ in range(moves.randrange(2, 9)):
        at, count = moves.randrange(-longest, longest + 5), moves.choice([0, 1, 3, 8, 50, longest, longest + 9])
        into = bytearray(count)
        name, *given = moves.choice(
            [
                ("read", count),
                ("read",),
                ("seek", at),
                ("seek", at, io.SEEK_CUR),
                ("seek", at, io.SEEK_END),
                ("readinto", into),
                ("readline",),
                ("tell",),
            ]
        )
        what = side.tried(getattr(reader, name), *given)
        seen.append([name, str(given), what, bytes(into), reader.tell()])
    return [seen, "info" in asked]


@same()
def test_readers_of_users_own_streams_do_the_same_in_any_order(side: Side) -> Any:
    readers = side.module("s3torchconnector.s3reader")
    found = []
    for seed in range(300):
        moves = random.Random(seed)
        data = bytes(moves.randrange(10, 30) for _ in range(moves.choice([0, 1, 13, 64, 200])))
        source = Source(data, moves.choice([1, 7, 64, 1000]))
        given = ("bucket", "key", source.info, source.stream)
        kind = moves.choice([None, 0, 5, 40, 1000])
        reader = (
            readers.SequentialS3Reader(*given) if kind is None else readers.RangedS3Reader(*given, buffer_size=kind)
        )
        found.append([seed, kind, run(side, reader, source.asked, moves, len(data))])
    return found


@same()
def test_the_dcp_reader_refuses_what_it_cannot_read(side: Side) -> Any:
    readers = side.module("s3torchconnector.s3reader")
    source = Source(DATA)

    def make(spans: Any, gap: Any = 10, bucket: Any = "b", key: Any = "k") -> Any:
        ranges = spans and [readers.ItemRange(*span) for span in spans]
        return side.tried(readers.DCPOptimizedS3Reader, bucket, key, ranges, source.info, source.stream, gap)

    return [
        [make([(0, 5)], bucket=""), make([(0, 5)], key=""), make([]), make(None), make([(0, 0), (5, 5)])],
        [make([(0, 5)], gap="1"), make([(0, 5)], gap=None), make([(0, 5)], gap=-1), make([(0, 5)], gap=float("inf"))],
        [
            make([(5, 3)]),
            make([(-1, 3)]),
            make([(10, 20), (0, 5)]),
            make([(0, 10), (5, 15)]),
            make([(0, 10), (0, 10)]),
            make([(0, 10), (10, 10), (10, 20)]),
        ],
        source.asked,
        [
            readers.ItemRange(1, 2) == readers.ItemRange(1, 2),
            repr(readers.ItemRange(1, 2)),
            repr(readers.RangeGroup(1, 2, [])),
        ],
    ]


@same()
def test_the_dcp_reader_reads_its_items_in_order(side: Side) -> Any:
    """Up to the first error: after one, upstream's place among the items is another with each call."""
    readers = side.module("s3torchconnector.s3reader")
    found = []
    for seed in range(200):
        moves = random.Random(seed)
        edges = sorted(moves.sample(range(len(DATA)), 8))
        spans = list(zip(edges[::2], edges[1::2], strict=True))
        source = Source(DATA, moves.choice([64, 1000, 5000]))
        ranges = [readers.ItemRange(*span) for span in spans]
        gap = moves.choice([0, 100, 3000, float("inf")])
        reader = readers.DCPOptimizedS3Reader("b", "k", ranges, source.info, source.stream, gap)
        wanted = moves.sample(spans, moves.randrange(1, 4)) if moves.random() < 0.2 else spans
        found.append([seed, spans, read_items(side, reader, moves, wanted)])
    return found


def read_items(side: Side, reader: Any, moves: random.Random, spans: list[tuple[int, int]]) -> list[Any]:
    seen: list[Any] = [reader.tell()]
    for start, end in spans:
        if moves.random() < 0.05:
            continue
        seen.append(side.tried(reader.seek, start))
        for _ in range(moves.randrange(1, 5)):
            count = moves.choice(
                [4, 10, (end - start) // 4, (end - start) // 2, 20, 3000 if moves.random() < 0.1 else 1]
            )
            into = bytearray(count)
            step = moves.choice(
                [
                    functools.partial(reader.read, count),
                    functools.partial(reader.readinto, into),
                    functools.partial(reader.seek, start + count // 3),
                    functools.partial(reader.seek, 1, 1),
                ]
            )
            what = side.tried(step)
            seen.append([what, bytes(into), reader.tell()])
            if isinstance(what, Exception):
                return seen
    return seen


@same()
def test_odd_arguments_of_the_dcp_reader(side: Side) -> Any:
    readers = side.module("s3torchconnector.s3reader")
    source = Source(DATA)
    reader = readers.DCPOptimizedS3Reader(
        "b", "k", [readers.ItemRange(10, 20), readers.ItemRange(30, 40)], source.info, source.stream
    )
    found = [
        reader.bucket,
        reader.key,
        reader.tell(),
        reader.seek(10),
        side.tried(reader.read),
        side.tried(reader.read, -1),
        side.tried(reader.read, "1"),
    ]
    found += [
        side.tried(reader.seek, 1, 2),
        side.tried(reader.seek, -1),
        side.tried(reader.seek, 1.0),
        side.tried(reader.seek, 0, 9),
        side.tried(reader.seek, 0, "x"),
        # Upstream stands at -1 now.
        reader.seek(10),
    ]
    found += [
        side.tried(reader.read, 0),
        type(side.tried(reader.readinto, None)).__name__,
        side.tried(reader.readinto, bytearray()),
    ]
    found += [
        side.tried(reader.read, 100),
        reader.seek(12),
        reader.read(3),
        reader.closed,
        reader.readable(),
        reader.seekable(),
        reader.writable(),
    ]
    found += [side.tried(reader.seek, 0), side.tried(reader.read, 5)]
    found += [
        reader.close(),
        reader.closed,
        type(side.tried(reader.read, 2)).__name__,
    ]
    return found


@same({"a": DATA, "b.metadata": b"meta"})
def test_the_dcp_constructor_gives_each_file_its_reader(side: Side) -> Any:
    import types

    made = side.top.S3ReaderConstructor.dcp_optimized(5)
    client = side.new_client()

    def of(key: str) -> Any:
        return client.get_object(side.bucket, key, reader_constructor=made)

    items = [types.SimpleNamespace(storage_index=index) for index in (0, 1, 2)]
    storage = {
        index: types.SimpleNamespace(relative_path=name, offset=offset, length=length)
        for index, (name, offset, length) in enumerate([("a", 5, 10), ("other", 0, 3), ("a", 20, 5)])
    }
    found = [type(of("b.metadata")).__name__, of("b.metadata").read(), side.tried(of, "a")]
    found += [side.tried(made.set_item_ranges_by_file, items, {}, side.uri())]
    made.set_item_ranges_by_file(items, storage, side.uri().rstrip("/"))
    found.append({uri: [[one.start, one.end] for one in ranges] for uri, ranges in made._item_ranges_by_file.items()})
    reader = of("a")
    found += [
        type(reader).__name__,
        reader.seek(5),
        reader.read(4),
        reader.seek(20),
        reader.read(5),
        side.sent(),
        side.tried(of, "c"),
    ]
    made.set_item_ranges_by_file([], storage, side.uri())
    return [*found, made._item_ranges_by_file, side.tried(of, "a")]


class Sink:
    """A stream of a user's own test."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def write(self, data: Any) -> None:
        self.calls.append([type(data).__name__, list(data)])

    def close(self) -> None:
        self.calls.append("close")


@same()
def test_a_writer_over_a_users_own_stream(side: Side) -> Any:
    sink = Sink()
    writer = side.top.S3Writer(sink)
    found: list[Any] = [
        writer.stream is sink,
        writer.tell(),
        writer.closed,
        writer.readable(),
        writer.writable(),
        writer.seekable(),
    ]
    found += [
        writer.write(b"abc"),
        writer.write(memoryview(b"de")),
        writer.write([1, 2]),
        writer.write(b""),
        writer.tell(),
        writer.flush(),
    ]
    found += [
        side.tried(writer.read),
        side.tried(writer.seek, 0),
        type(side.tried(writer.write, 5)).__name__,
        writer.tell(),
    ]
    found += [
        writer.close(),
        writer.close(),
        writer.closed,
        writer.writable(),
        writer.tell(),
        side.tried(writer.write, b"x"),
        sink.calls,
    ]
    found += [writer.flush(), side.tried(writer.writelines, [b"x"])]
    other = Sink()
    with side.top.S3Writer(other) as writer:
        found += [writer.tell(), writer.write(b"1234"), side.tried(writer.writelines, [b"5", b"6"])]
        writer.__enter__()
        found.append(writer.tell())
    return [*found, other.calls, isinstance(writer, io.BufferedIOBase)]


@same()
def test_what_is_written_is_there_after_the_close(side: Side) -> Any:
    client = side.new_client()
    big = bytes(range(256)) * (72 << 10)
    for key, pieces in {
        "empty": [],
        "one": [b"one"],
        "some": [b"a", b"", b"bc" * 1000, memoryview(b"end")],
        "big": [big],
        "many": [big[: 3 << 20]] * 6,
    }.items():
        with client.put_object(side.bucket, key) as writer:
            for piece in pieces:
                assert writer.write(piece) == len(piece)
            assert key not in [one.key for page in client.list_objects(side.bucket) for one in page.object_info]
    with client.put_object(side.bucket, "glacier", "GLACIER_IR") as writer:
        writer.write(b"cold")
    with client.put_object(side.bucket, "ünï cödé/%41+", storage_class="STANDARD_IA") as writer:
        writer.write(b"named")
    with client.put_object(side.bucket, "one") as writer:
        writer.write(b"written over")
    return [one for one in side.sent() if one.startswith("WRITE")]


@same()
def test_a_native_stream_takes_bytes_and_one_close(side: Side) -> Any:
    stream = side.new_client()._client.put_object(side.bucket, "a")
    found = [type(stream).__name__, stream.bucket, stream.key, stream.write(b"abc"), stream.close()]
    found += [side.tried(stream.close), side.tried(stream.write, b"x")]
    return found


@same({"there": b"old"})
def test_what_fails_inside_a_writer_is_not_seen_while_the_writer_lives(side: Side) -> Any:
    client = side.new_client()
    writer = client.put_object(side.bucket, "new")

    def fail() -> None:
        with writer:
            writer.write(b"half of it")
            raise KeyError("inside")

    found = [side.tried(fail), [one.key for page in client.list_objects(side.bucket) for one in page.object_info]]
    # What becomes of it when the writer is forgotten is in the table of what was wanted.
    writer.stream, kept = Sink(), writer.stream
    writer.close()
    del kept
    return found


@same()
def test_a_checkpoint_saves_and_loads_with_torch(side: Side) -> Any:
    import torch

    saved = {"weights": torch.arange(3000, dtype=torch.float32).reshape(30, 100), "epoch": 7, "name": "cödé"}
    checkpoint = side.top.S3Checkpoint(region=side.region, endpoint=side.url)
    with checkpoint.writer(side.uri("model.pt")) as writer:
        torch.save(saved, writer)
    with checkpoint.writer(side.uri("old.pt")) as writer:
        torch.save(saved, writer, _use_new_zipfile_serialization=False)
    found = [checkpoint.region, checkpoint.endpoint == side.url, [one for one in side.sent() if "LIST" not in one]]
    for key in ("model.pt", "old.pt"):
        with checkpoint.reader(side.uri(key)) as reader:
            loaded = torch.load(reader, weights_only=True)
        found.append([torch.equal(loaded["weights"], saved["weights"]), loaded["epoch"], loaded["name"]])
    ranged = side.new_client().get_object(
        side.bucket, "model.pt", reader_constructor=side.top.S3ReaderConstructor.range_based()
    )
    found.append(torch.equal(torch.load(ranged, weights_only=True)["weights"], saved["weights"]))
    found += [
        side.tried(checkpoint.reader, "/local"),
        side.tried(checkpoint.writer, ""),
        side.tried(checkpoint.reader, "s3://"),
    ]
    found.append(side.tried(lambda: torch.load(checkpoint.reader(side.uri("missing")), weights_only=True)))
    client = side.new_client()
    client.delete_object(side.bucket, "model.pt")
    client.delete_object(side.bucket, "old.pt")
    return [*found, checkpoint._client.region]
