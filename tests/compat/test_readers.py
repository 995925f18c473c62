"""What readers do beyond upstream's: in place, never short, never mixed of two versions."""

from __future__ import annotations

import array
import io
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from s3dlio.compat.s3torchconnector import S3Exception, S3Item, S3Reader, S3ReaderConstructor
from s3dlio.compat.s3torchconnector.s3reader import RangedS3Reader, SequentialS3Reader
from s3dlio.engine.memory.view import BytesView

from .reader_kit import ChunkStream, RestStream, Source

DATA = bytes(range(256)) * 40
READERS: dict[str, Callable[..., Any]] = {
    "sequential": SequentialS3Reader,
    "ranged": RangedS3Reader,
    "ranged, small buffer": partial(RangedS3Reader, buffer_size=100),
    "ranged, no buffer": partial(RangedS3Reader, buffer_size=0),
}
every_reader = pytest.mark.parametrize("construct", READERS.values(), ids=READERS)
every_stream = pytest.mark.parametrize("stream", [ChunkStream, RestStream])


def make(construct: Callable[..., Any], source: Source) -> Any:
    return construct(bucket="bucket", key="key", get_object_info=source.info, get_stream=source.open)


def rests(data: bytes = DATA, chunk_bytes: int = 1000) -> Source:
    return Source(data, chunk_bytes, RestStream)


def test_an_item_is_a_reader() -> None:
    assert S3Item is S3Reader


@every_reader
@pytest.mark.parametrize("size", [None, -1])
def test_a_whole_object_is_a_view_and_all_else_bytes(construct: Callable[..., Any], size: int | None) -> None:
    reader = make(construct, rests())
    whole = reader.read(size)
    assert type(whole) is BytesView
    assert whole == DATA
    assert reader.tell() == len(DATA)
    assert reader.read() == b""
    reader.seek(1)
    assert type(rest := reader.read()) is bytes
    assert rest == DATA[1:]
    reader.seek(0)
    assert type(reader.read(len(DATA))) is bytes


def test_a_whole_object_is_the_readers_own_memory_and_is_not_copied() -> None:
    source = rests()
    reader = make(SequentialS3Reader, source)
    first = reader.read()
    reader.seek(0)
    again = reader.read()
    assert np.shares_memory(first, again)
    first[0] = 99
    reader.seek(0)
    assert reader.read(1) == b"c"
    assert source.asked == [(None, None)]


def test_an_empty_object_is_an_empty_view() -> None:
    view = make(SequentialS3Reader, rests(b"")).read()
    assert type(view) is BytesView
    assert (len(view), bool(view)) == (0, False)


@every_reader
@every_stream
def test_a_view_of_one_reader_stays_when_the_reader_is_gone(construct: Callable[..., Any], stream: Any) -> None:
    assert bytes(make(construct, Source(DATA, 1000, stream)).read()) == DATA


def test_what_is_left_comes_in_one_where_most_of_it_is_wanted() -> None:
    """As `torch.load` reads: it looks at the end first."""
    source = rests()
    reader = make(SequentialS3Reader, source)
    reader.seek(0, io.SEEK_END)
    assert (source.rests, source.asked) == (0, [])
    reader.seek(-100, io.SEEK_END)
    assert (source.rests, len(source.asked)) == (1, 1)
    assert reader.read() == DATA[-100:]
    source = rests()
    reader = make(SequentialS3Reader, source)
    assert reader.read(1500) == DATA[:1500]
    assert source.rests == 0
    assert reader.read() == DATA[1500:]
    assert (source.rests, source.num_heads) == (1, 0)


@every_reader
def test_memory_with_longer_items_is_filled_by_bytes(construct: Callable[..., Any]) -> None:
    """Upstream counts items, and fills a quarter."""
    for target in (array.array("i", [0] * 300), np.zeros((30, 5), np.float64), memoryview(bytearray(1200)).cast("H")):
        reader = make(construct, rests())
        nbytes = memoryview(target).nbytes
        assert reader.readinto(target) == nbytes
        assert bytes(target) == DATA[:nbytes]
        assert reader.tell() == nbytes


@every_reader
@pytest.mark.parametrize("target", [b"read only", None, 5, "text", memoryview(bytearray(10))[::2]])
def test_what_cannot_be_filled_is_refused_and_nothing_is_asked_for(construct: Callable[..., Any], target: Any) -> None:
    source = rests()
    reader = make(construct, source)
    with pytest.raises(TypeError, match="bytes-like object, not"):
        reader.readinto(target)
    assert (reader.tell(), source.asked, source.num_heads) == (0, [], 0)


@every_reader
@every_stream
def test_lines_cost_no_request_each(construct: Callable[..., Any], stream: Any) -> None:
    lines = [b"line %d\n" % number for number in range(1000)]
    source = Source(b"".join(lines), 100, stream)
    assert list(make(construct, source)) == lines
    assert len(source.asked) <= 1 + len(source.data) // 100
    source = Source(b"".join(lines), 100, stream)
    reader = make(construct, source)
    assert reader.readlines(20) == lines[:3]
    assert reader.tell() == len(b"".join(lines[:3]))


def refuse(_: int) -> None:
    raise S3Exception("no")


def after(nbytes: int, error: BaseException) -> Callable[[int], None]:
    def fail(position: int) -> None:
        if position >= nbytes:
            raise error

    return fail


@every_reader
@every_stream
def test_a_stream_that_fails_at_once_is_opened_again_by_the_next_read(
    construct: Callable[..., Any], stream: Any
) -> None:
    source = Source(DATA, 1000, stream)
    source.fails = refuse
    reader = make(construct, source)
    for _ in range(2):
        with pytest.raises(S3Exception, match=r"^no$"):
            reader.read()
        assert reader.tell() == 0
    source.fails = None
    assert reader.read() == DATA


@pytest.mark.parametrize("error", [S3Exception("gone"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_stream_that_breaks_off_is_never_taken_for_the_whole(error: BaseException) -> None:
    """A generator that has raised only ends when it is asked again; upstream takes that for the end of the object."""

    def broken(source: Source, data: bytes) -> Any:
        yield data[:1000]
        raise error

    source = Source(DATA, stream=broken)  # type: ignore[arg-type]
    reader = make(SequentialS3Reader, source)
    assert reader.read(500) == DATA[:500]
    with pytest.raises(type(error)):
        reader.read()
    for read in (reader.read, partial(reader.read, 501), partial(reader.seek, 2000), partial(list, reader)):
        with pytest.raises(S3Exception, match=f"^Reading s3://bucket/key broke off before: {type(error).__name__}"):
            read()
    assert reader.tell() == 1000
    reader.seek(0)
    assert reader.read(1000) == DATA[:1000]
    assert len(source.asked) == 1


@every_stream
@pytest.mark.parametrize("buffer_size", [0, 100, None])
def test_a_short_stream_is_an_error_and_never_zeros(stream: Any, buffer_size: int | None) -> None:
    source = Source(DATA, 1000, lambda source, data: stream(source, data[:-3]))
    reader = make(partial(RangedS3Reader, buffer_size=buffer_size), source)
    reader.seek(50)
    wanted = (lambda: reader.read(200)), (lambda: reader.readinto(bytearray(200))), reader.readline
    for act in wanted:
        with pytest.raises(S3Exception, match=r"^s3://bucket/key ended early: of bytes 50 to \d+, only \d+ came$"):
            act()
        assert reader.tell() == 50


@every_stream
def test_a_stream_that_is_too_long_is_cut(stream: Any) -> None:
    for buffer_size in (0, 100):
        source = Source(DATA, 1000, lambda source, data: stream(source, data + b"more"))
        reader = make(partial(RangedS3Reader, buffer_size=buffer_size), source)
        assert reader.read(200) == DATA[:200]
        assert reader.read(10) == DATA[200:210]
        assert reader.read() == DATA[210:]


def test_i1_ranges_of_two_versions_are_an_error() -> None:
    source = rests()
    source.version = "one"
    reader = make(partial(RangedS3Reader, buffer_size=100), source)
    assert reader.read(200) == DATA[:200]
    source.version = "two"
    with pytest.raises(S3Exception, match=r"^s3://bucket/key changed while it was read: from version one to two$"):
        reader.read(50)
    assert reader.tell() == 200
    source.version = "one"
    assert reader.read(50) == DATA[200:250]


@every_reader
def test_another_stream_may_be_put_in_the_place_of_the_readers(construct: Callable[..., Any]) -> None:
    """Programs' own tests do, by `reader._get_stream = …`."""
    reader = make(construct, rests())
    reader._get_stream = rests(DATA[::-1]).open
    assert reader.read() == DATA[::-1]


def test_the_buffer_of_a_ranged_reader_takes_no_memory_before_it_is_read() -> None:
    assert len(make(RangedS3Reader, rests())._buffer) == 0


@pytest.mark.parametrize("buffer_size", ["1", 1.5])
def test_a_buffer_size_is_a_whole_number(buffer_size: Any) -> None:
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        make(partial(RangedS3Reader, buffer_size=buffer_size), rests())


@every_reader
def test_a_reader_is_pickled_before_it_is_read(construct: Callable[..., Any]) -> None:
    reader = pickle.loads(pickle.dumps(make(construct, Source(DATA))))  # noqa: TID251 (its own)
    assert reader.read() == DATA


@every_stream
def test_a_sequential_reader_is_pickled_when_it_was_read(stream: Any) -> None:
    reader = make(SequentialS3Reader, Source(DATA, 1000, stream))
    reader.read()
    reader.seek(5)
    again = pickle.loads(pickle.dumps(reader))  # noqa: TID251 (its own)
    assert (again.tell(), again.read(10)) == (5, DATA[5:15])
    assert again.seek(0) == 0
    assert again.read() == DATA


@every_reader
def test_objects_of_other_schemes_are_named_by_their_uri(construct: Callable[..., Any]) -> None:
    for bucket, uri in {"gs://b": "gs://b/key", "file://": "file://key", "az://a/c": "az://a/c/key"}.items():

        def short(source: Source, data: bytes) -> Any:
            yield data[:10]
            raise S3Exception("no")

        reader = construct(
            bucket=bucket, key="key", get_object_info=rests().info, get_stream=Source(DATA, stream=short).open
        )  # type: ignore[arg-type]
        texts = []
        for _ in range(2):
            with pytest.raises(S3Exception) as caught:
                reader.read()
            texts.append(str(caught.value))
        assert texts[0] == "no"
        assert texts[1] == "no" or re.match(re.escape(f"Reading {uri} broke off before"), texts[1])


def programs() -> dict[str, tuple[bytes, Callable[[Any], Any], Any]]:
    """Formats as programs read them from a file: the bytes, how, and what there is to see."""
    tensors = {"weight": torch.arange(5000.0), "bias": torch.ones(3)}
    files = {name: io.BytesIO() for name in ("torch", "torch, legacy", "numpy", "zip", "tar", "pickle")}
    torch.save(tensors, files["torch"])
    torch.save(tensors, files["torch, legacy"], _use_new_zipfile_serialization=False)
    np.save(files["numpy"], np.arange(5000))
    with zipfile.ZipFile(files["zip"], "w") as archive:
        archive.writestr("a", DATA)
    with tarfile.open(fileobj=files["tar"], mode="w") as tar:
        member = tarfile.TarInfo("a")
        member.size = len(DATA)
        tar.addfile(member, io.BytesIO(DATA))
    pickle.dump([DATA, "text"], files["pickle"])

    def load(reader: Any) -> Any:
        return {name: tensor.tolist() for name, tensor in torch.load(reader, weights_only=True).items()}

    def unpack(reader: Any) -> Any:
        with tarfile.open(fileobj=reader) as archive:
            found = archive.extractfile("a")
            assert found is not None
            return found.read()

    shown = {name: tensor.tolist() for name, tensor in tensors.items()}
    acts: dict[str, tuple[Callable[[Any], Any], Any]] = {
        "torch": (load, shown),
        "torch, legacy": (load, shown),
        "numpy": (lambda reader: np.load(reader).tolist(), list(range(5000))),
        "zip": (lambda reader: zipfile.ZipFile(reader).read("a"), DATA),
        "tar": (unpack, DATA),
        "pickle": (pickle.load, [DATA, "text"]),  # noqa: TID251 (its own)
    }
    return {name: (file.getvalue(), *acts[name]) for name, file in files.items()}


@every_reader
@every_stream
def test_programs_read_their_formats_from_a_reader(construct: Callable[..., Any], stream: Any) -> None:
    for name, (data, act, expected) in programs().items():
        with make(construct, Source(data, 1000, stream)) as reader:
            assert act(reader) == expected, name


@every_reader
@every_stream
def test_text_and_other_buffers_may_be_put_over_a_reader(construct: Callable[..., Any], stream: Any) -> None:
    """Upstream's readers have no `read1`, so that lines of text cannot be read from them."""
    text = "".join(f"naïve {n}\r\n" for n in range(500))
    source = Source(text.encode(), 1000, stream)
    lines = text.replace("\r\n", "\n").splitlines(keepends=True)
    assert list(io.TextIOWrapper(make(construct, source), "utf-8")) == lines
    assert io.TextIOWrapper(make(construct, source), "utf-8").read() == "".join(lines)
    for nbytes in (-1, 3):
        with io.BufferedReader(make(construct, source)) as file:
            assert file.read(nbytes) == text.encode()[: nbytes if nbytes > 0 else None]


@every_reader
@every_stream
def test_one_fetch_gives_some_bytes_and_none_only_at_the_end(construct: Callable[..., Any], stream: Any) -> None:
    reader = make(construct, Source(DATA, 1000, stream))
    assert reader.read1(0) == b""
    assert reader.tell() == 0
    found = [reader.read1(7)]
    assert found == [DATA[:7]]
    assert reader.tell() == 7
    while found[-1]:
        found.append(reader.read1())
        assert type(found[-1]) is bytes
    assert b"".join(found) == DATA
    assert (reader.read1(None), reader.readall()) == (b"", b"")
    with pytest.raises(TypeError):
        reader.read1("1")


@every_stream
def test_a_batch_of_whole_objects_is_what_it_is_of_bytes(stream: Any) -> None:
    """Of numpy's arrays a batch would be stacked, or refused where one is longer than another."""
    for objects in ([b"ab", b"cd"], [b"ab", b"c", b""]):
        samples = [(make(SequentialS3Reader, Source(data, 9, stream)).read(), n) for n, data in enumerate(objects)]
        found, numbers = default_collate(samples)
        expected, _ = default_collate([(data, n) for n, data in enumerate(objects)])
        assert (type(found), [bytes(one) for one in found]) == (type(expected), list(expected))
        assert numbers.tolist() == list(range(len(objects)))
        assert default_collate([view for view, _ in samples]) == objects


def test_constructors_say_what_they_make() -> None:
    made = S3ReaderConstructor
    assert made.range_based(5).func is RangedS3Reader  # type: ignore[attr-defined]
    assert made.range_based(5).keywords == {"buffer_size": 5}  # type: ignore[attr-defined]
    assert made.sequential().func is made.default().func is SequentialS3Reader  # type: ignore[attr-defined]
    kinds = [made.sequential(), made.range_based(), made.dcp_optimized(), None, partial(int), SequentialS3Reader]
    names = ["sequential", "range_based", "dcp_optimized", "sequential", "unknown", "unknown"]
    assert [made.get_reader_type_string(kind) for kind in kinds] == names  # type: ignore[arg-type]
