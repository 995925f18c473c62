"""The reader of distributed checkpoints: what upstream's reads it reads, by the same streams; and it survives what upstream's does not."""

from __future__ import annotations

import io
import itertools
import os
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import s3torchconnector.s3reader as theirs
from hypothesis import given
from hypothesis import strategies as st
from s3torchconnector.s3reader.dcp_optimized import _ItemViewBuffer as TheirBuffer

import s3dlio.compat.s3torchconnector.s3reader as ours
from s3dlio.compat.s3torchconnector import S3Exception
from s3dlio.compat.s3torchconnector.s3reader import DCPOptimizedS3Reader, ItemRange, S3ReaderConstructor, dcp_optimized
from s3dlio.compat.s3torchconnector.s3reader.dcp_optimized import _ItemViewBuffer

from .reader_kit import ChunkStream, RestStream, Source

DATA = bytes(range(256)) * 8
every_stream = pytest.mark.parametrize("stream", [ChunkStream, RestStream])


@st.composite
def layouts(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Ranges of items in order: gaps and lengths, some of them zero."""
    spans = []
    end = draw(st.integers(0, 50))
    for gap, nbytes in draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=8)):
        spans.append((end + gap, end + gap + nbytes))
        end += gap + nbytes
    return spans


def make(package: Any, spans: list[tuple[int, int]], source: Source, gap: Any = 32 << 20) -> Any:
    ranges = [package.ItemRange(*span) for span in spans]
    return package.DCPOptimizedS3Reader("bucket", "key", ranges, source.info, source.open, gap)


def outcome(act: Any) -> Any:
    try:
        return act()
    except (ValueError, TypeError) as error:
        return type(error), str(error)


STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(-2, 70)),
    st.tuples(st.just("readinto"), st.integers(0, 70)),
    st.tuples(st.just("seek in it"), st.integers(-5, 70)),
    st.tuples(st.just("seek on"), st.integers(-5, 5)),
    st.tuples(st.just("take it"), st.integers(1, 30)),
)


def do(reader: Any, step: str, number: int, span: tuple[int, int]) -> Any:
    if step == "read":
        return reader.read(number)
    if step == "readinto":
        room = bytearray(number)
        return reader.readinto(room), bytes(room)
    if step == "take it":
        reader.seek(span[0])
        return [reader.read(min(number, span[1] - at)) for at in range(*span, number)]
    # A seek to before the beginning is an error that leaves upstream's reader there.
    if step == "seek in it":
        return reader.seek(max(0, span[0] + number))
    return reader.seek(number if reader.tell() + number >= 0 else 0, io.SEEK_CUR)


@given(
    layouts(),
    st.lists(STEPS, max_size=30),
    st.lists(st.booleans(), max_size=30),
    st.sampled_from([1, 16, 100, 5000]),
    st.booleans(),
    st.sampled_from([0, 10, 40, 32 << 20, float("inf")]),
    st.integers(0, 200),
)
def test_it_sees_what_upstreams_reader_sees(
    spans: list[tuple[int, int]],
    steps: list[tuple[str, int]],
    moves: list[bool],
    chunk_bytes: int,
    has_rest: bool,
    gap: float,
    rest_bytes: int,
) -> None:
    """Until the first error: after one, upstream's reader has passed over an item."""
    sources = Source(DATA, chunk_bytes, RestStream if has_rest else ChunkStream), Source(DATA, chunk_bytes)
    made = [
        outcome(partial(make, package, spans, source, gap))
        for package, source in zip((ours, theirs), sources, strict=True)
    ]
    if isinstance(made[0], tuple):
        assert made[0] == made[1]
        return
    items = [span for span in spans if span[0] < span[1]]
    at = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dcp_optimized, "_REST_BYTES", rest_bytes)
        for (step, number), is_next in itertools.zip_longest(steps, moves[: len(steps)], fillvalue=False):  # type: ignore[misc]
            at = min(at + is_next, len(items) - 1)
            found, expected = (outcome(partial(do, reader, step, number, items[at])) for reader in made)
            assert found == expected
            assert sources[0].asked == sources[1].asked
            if isinstance(expected, tuple) and isinstance(expected[0], type):
                return
            assert made[0].tell() == made[1].tell()
    assert sources[0].num_heads == 0


@every_stream
@pytest.mark.parametrize("gap", [0, 100, float("inf")])
@pytest.mark.parametrize("rest_bytes", [0, 300, 1 << 20])
def test_items_are_read_one_after_the_other_and_only_they(
    stream: Any, gap: float, rest_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dcp_optimized, "_REST_BYTES", rest_bytes)
    spans = [(5, 100), (100, 101), (150, 400), (1000, 1400)]
    source = Source(DATA, 64, stream)
    reader = make(ours, spans, source, gap)
    for start, end in spans:
        reader.seek(start)
        assert reader.read(4 if end - start > 4 else 1) == DATA[start : min(start + 4, end)]
        reader.seek(start)
        room = bytearray(end - start)
        assert reader.readinto(room) == len(room)
        assert room == DATA[start:end]
    groups = {0: [(5, 101), (150, 400), (1000, 1400)], 100: [(5, 400), (1000, 1400)], float("inf"): [(5, 1400)]}
    assert source.asked == groups[gap]


def test_no_more_is_held_than_the_item_and_what_came_with_it() -> None:
    """Of a long group, no item is held after the next one is read."""
    source = Source(bytes(1 << 16), 1 << 10)
    spans = [(start, start + (1 << 10)) for start in range(0, 1 << 16, 1 << 10)]
    reader = make(ours, spans, source)
    for start, _ in spans:
        reader.seek(start)
        reader.read(1 << 10)
        assert reader._item.nbytes == 1 << 10
        assert len(reader._stream._chunk) == 0


def test_the_last_item_of_a_group_comes_in_one_however_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcp_optimized, "_REST_BYTES", 0)
    source = Source(DATA, 64, RestStream)
    reader = make(ours, [(0, 10), (10, 2000)], source)
    assert reader.read(10) == DATA[:10]
    assert source.rests == 0
    assert reader.read(1990) == DATA[10:2000]
    assert source.rests == 1


@every_stream
def test_an_item_that_failed_is_asked_for_again_and_the_last_one_stays(stream: Any) -> None:
    """Upstream's reader gives the bytes of the item before, in the place of those that failed."""
    source = Source(DATA, 50, stream)
    reader = make(ours, [(0, 100), (100, 200), (200, 300)], source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dcp_optimized, "_REST_BYTES", 0)
        assert reader.read(100) == DATA[:100]

        def fail(position: int) -> None:
            raise S3Exception("no")

        source.fails = fail
        for _ in range(2):
            with pytest.raises(S3Exception, match=r"^no$"):
                reader.read(100)
            assert reader.tell() == 100
        reader.seek(50)
        assert reader.read(50) == DATA[50:100]
        source.fails = None
        assert reader.read(100) == DATA[100:200]
        assert reader.read(100) == DATA[200:300]
    assert source.asked[0] == (0, 300)
    assert set(source.asked[1:]) == {(100, 300)}


@every_stream
@pytest.mark.parametrize(("nbytes", "goal"), [(15, "before reaching"), (25, "while reading")])
def test_a_stream_that_ends_early_is_an_error(stream: Any, nbytes: int, goal: str) -> None:
    source = Source(DATA, 10, lambda source, data: stream(source, data[:nbytes]))
    reader = make(ours, [(0, 10), (20, 30)], source)
    assert reader.read(10) == DATA[:10]
    reader.seek(20)
    with pytest.raises(ValueError, match=rf"^S3 stream exhausted at position {nbytes} {goal} item 20-30$"):
        reader.read(10)


def test_i1_two_versions_in_one_file_are_an_error() -> None:
    source = Source(DATA, 100, RestStream)
    source.version = "one"
    reader = make(ours, [(0, 100), (1000, 1100)], source, 0)
    assert reader.read(100) == DATA[:100]
    source.version = "two"
    reader.seek(1000)
    with pytest.raises(S3Exception, match=r"^s3://bucket/key changed while it was read: from version one to two$"):
        reader.read(100)


def test_an_error_of_order_leaves_the_reader_where_it_was() -> None:
    reader = make(ours, [(0, 10), (20, 30), (40, 50)], Source(DATA))
    assert reader.read(10) == DATA[:10]
    for start in (40, 15, 60):
        reader.seek(start)
        with pytest.raises(ValueError, match="only supports sequentially accessing provided ranges"):
            reader.read(5)
    for start, end in ((20, 30), (40, 50)):
        reader.seek(start)
        assert reader.read(10) == DATA[start:end]
    with pytest.raises(ValueError, match="negative seek value -1"):
        reader.seek(-1)
    assert reader.tell() == 50


@every_stream
def test_a_closed_reader_has_let_its_bytes_go_and_reads_on_if_asked(stream: Any) -> None:
    source = Source(DATA, 10, stream)
    with make(ours, [(0, 50), (50, 90)], source) as reader:
        assert reader.read(50) == DATA[:50]
        assert reader.read(10) == DATA[50:60]
    assert reader.closed
    assert (reader._item, reader._stream) == (None, None)
    assert reader.read(20) == DATA[60:80]


@given(
    st.lists(st.binary(max_size=9), max_size=6), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=12)
)
def test_the_buffer_of_an_item_is_a_file(pieces: list[bytes], steps: list[tuple[int, int]]) -> None:
    model = io.BytesIO(b"".join(pieces))
    files = [_ItemViewBuffer(), TheirBuffer()]
    for piece, file in itertools.product(pieces, files):
        file.append_view(memoryview(piece))
    for kind, number in steps:
        for file in files:
            if kind < 3:
                offset = number if kind == io.SEEK_SET else number % 5
                assert file.seek(offset, kind) == offset + (0, model.tell(), len(model.getvalue()))[kind]
            else:
                room, expected = bytearray(number), bytearray(number)
                position = model.tell()
                assert (file.readinto(room), room) == (model.readinto(expected), expected)
                file.seek(position)
                assert file.read(number) == bytes(expected[: model.tell() - position])
                model.seek(position)
        model.seek(files[0].tell())
        assert files[0].tell() == files[1].tell()


def plan(*items: tuple[str, int, int]) -> tuple[list[Any], dict[Any, Any]]:
    """Items of a plan, and where they lie: `(file, offset, length)` each."""
    wanted = [SimpleNamespace(storage_index=number) for number in range(len(items))]
    stored = {
        number: SimpleNamespace(relative_path=name, offset=offset, length=nbytes)
        for number, (name, offset, nbytes) in enumerate(items)
    }
    return wanted, stored


@pytest.mark.parametrize("base", ["s3://bucket/run", "s3://bucket/run/"])
def test_the_constructor_knows_the_ranges_of_each_file(base: str | os.PathLike[str]) -> None:
    items = plan(("a.distcp", 0, 10), ("b.distcp", 5, 5), ("a.distcp", 20, 10))
    made, their = S3ReaderConstructor.dcp_optimized(), theirs.S3ReaderConstructor.dcp_optimized()
    for constructor in (made, their):
        constructor.set_item_ranges_by_file(*items, base)
    found = {uri: [(item.start, item.end) for item in ranges] for uri, ranges in made._item_ranges_by_file.items()}
    assert found == {
        uri: [(item.start, item.end) for item in ranges] for uri, ranges in their._item_ranges_by_file.items()
    }
    reader = made("bucket", "run/a.distcp", Source(DATA).info, Source(DATA).open)
    assert type(reader) is DCPOptimizedS3Reader
    assert reader._item_ranges == [ItemRange(0, 10), ItemRange(20, 30)]
    texts = []
    for constructor in (made, their):
        with pytest.raises(ValueError, match=r"^No ranges found for s3://bucket/run/c\.distcp") as caught:
            constructor("bucket", "run/c.distcp", Source(DATA).info, Source(DATA).open)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert type(made("bucket", "run/.metadata", Source(DATA).info, Source(DATA).open)).__name__ == "SequentialS3Reader"


def test_the_constructor_forgets_an_earlier_plan() -> None:
    made = S3ReaderConstructor.dcp_optimized()
    made.set_item_ranges_by_file(*plan(("a", 0, 10)), "s3://b")
    with pytest.raises(
        ValueError, match=r"^storage_data must not be empty; required to map ReadItems to file ranges\.$"
    ):
        made.set_item_ranges_by_file(plan(("a", 0, 10))[0], {}, "s3://b")
    made.set_item_ranges_by_file([], {}, "s3://b")
    assert made._item_ranges_by_file == {}


def test_an_item_that_two_shards_are_cut_from_is_one_range() -> None:
    """Upstream refuses it as overlapping."""
    made = S3ReaderConstructor.dcp_optimized()
    made.set_item_ranges_by_file(*plan(("a", 0, 10), ("a", 0, 10), ("a", 10, 5)), "s3://b")
    source = Source(DATA)
    reader = made("b", "a", source.info, source.open)
    for start, end in ((0, 10), (0, 10), (10, 15)):
        reader.seek(start)
        assert reader.read(end - start) == DATA[start:end]


@pytest.mark.parametrize(
    ("bucket", "key", "base"),
    [
        ("gs://b", "run/a", "gs://b/run"),
        ("az://a/c", "run/a", "az://a/c/run"),
        ("file://", "/tmp/run/a", "file:///tmp/run"),
    ],
)
def test_files_of_other_stores_are_found_too(bucket: str, key: str, base: str) -> None:
    made = S3ReaderConstructor.dcp_optimized()
    made.set_item_ranges_by_file(*plan(("a", 0, 10)), base)
    assert made(bucket, key, Source(DATA).info, Source(DATA).open).read(10) == DATA[:10]
