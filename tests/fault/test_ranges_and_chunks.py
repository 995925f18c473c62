"""Answers whose range or framing is not the one that was asked for: the right bytes or an error, never misplaced ones (N6, N7)."""

from __future__ import annotations

import random

import pytest

import s3dlio
from s3dlio.engine.types import ObjectRef
from tests.support.answers import Respond, chunked, cut_after, ignore_range, raw, without_header, wrong_range
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import ScriptedServer

URI, PATH = "s3://bucket/key", "/bucket/key"
SIZE = 100_000
DATA = random.Random(6).randbytes(SIZE)
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("content_range", ["bytes 5-9/100000", "bytes 11-20/100000", "bytes 10-19/9", "bytes 10-19", "nonsense"])
def test_n6_another_range_than_the_one_asked_for_is_retried(served: ObjectServer, content_range: str) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [wrong_range(content_range)]
    assert bytes(s3dlio.get_range(URI, 10, 10)) == DATA[10:20]
    assert len(served.requests) == 2


@pytest.mark.parametrize("fault", [wrong_range("bytes 11-20/100000"), without_header("Content-Range")], ids=["moved", "unnamed"])
def test_n6_a_206_that_is_never_the_right_one_is_an_error(served: ObjectServer, fault: object) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [fault] * 3  # type: ignore[list-item]
    with pytest.raises(s3dlio.ProtocolError) as raised:
        s3dlio.get_range(URI, 10, 10)
    assert (raised.value.uri, raised.value.attempts) == (URI, 3)


@pytest.mark.parametrize("size", [SIZE, 700], ids=["long", "within the first segment"])
@pytest.mark.parametrize("offset", [0, 1, 300, 699])
@pytest.mark.parametrize("length", [1, 250, None])
def test_n6_a_200_for_a_range_is_skipped_to_the_right_bytes(served: ObjectServer, size: int, offset: int, length: int | None) -> None:
    data = DATA[:size]
    served.objects[PATH] = data
    served.faults[PATH] = [ignore_range(Respond(200, {"ETag": served.etag(PATH)}, data))]
    end = None if length is None else offset + length
    assert bytes(s3dlio.get_range(URI, offset, length)) == data[offset:end]
    # What lay behind the range is not read as the head of the next answer.
    assert bytes(s3dlio.get(URI)) == data


def test_n6_a_resumed_read_that_gets_the_whole_object_skips_what_it_has(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    whole = Respond(200, {"ETag": served.etag(PATH)}, DATA)
    served.faults[PATH] = [cut_after(70_000), whole]
    assert bytes(s3dlio.get(URI)) == DATA
    assert len(served.requests) == 2


def test_n6_a_200_with_an_exact_content_range_is_taken_as_a_206(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [Respond(200, {"Content-Range": f"bytes 10-19/{SIZE}"}, DATA[10:20])]
    assert bytes(s3dlio.get_range(URI, 10, 10)) == DATA[10:20]
    assert len(served.requests) == 1


def test_n6_a_range_of_unknown_size_is_the_right_bytes_or_an_error_of_the_tree(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    of_unknown_size = Respond(206, {"Content-Range": "bytes 10-19/*"}, DATA[10:20])
    served.faults[PATH] = [of_unknown_size]
    assert bytes(s3dlio.get_range(URI, 10, 10)) == DATA[10:20]
    served.faults[PATH] = [of_unknown_size] * 3
    with pytest.raises(s3dlio.ProtocolError):
        s3dlio.get_range(URI, 10)


def test_n6_a_range_beyond_the_end_of_a_server_without_ranges_is_an_invalid_range(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [ignore_range(Respond(200, {}, DATA))] * 3
    with pytest.raises(s3dlio.InvalidRangeError):
        s3dlio.get_range(URI, SIZE + 1, 10)


@pytest.mark.parametrize("chunk_bytes", [1, 7, 4096, SIZE * 2])
def test_n7_a_whole_object_in_chunks_is_read(served: ObjectServer, chunk_bytes: int) -> None:
    data = DATA[:5000]
    served.objects[PATH] = data
    served.faults[PATH] = [chunked(chunk_bytes)] * 2
    assert bytes(s3dlio.get(URI)) == data
    assert [bytes(v) for v in s3dlio.get_many([ObjectRef(URI, len(data), served.etag(PATH).strip('"'))])] == [data]


def test_n7_an_empty_object_in_chunks_is_read(served: ObjectServer) -> None:
    served.objects[PATH] = b""
    served.faults[PATH] = [chunked(10)]
    assert bytes(s3dlio.get(URI)) == b""


@pytest.mark.parametrize(("offset", "length"), [(0, 10), (10, 10), (4990, 100), (100, None)])
def test_n7_a_range_in_chunks_is_exactly_the_range(served: ObjectServer, offset: int, length: int | None) -> None:
    data = DATA[:5000]
    served.objects[PATH] = data
    served.faults[PATH] = [chunked(7)]
    end = None if length is None else offset + length
    assert bytes(s3dlio.get_range(URI, offset, length)) == data[offset:end]
    # No byte of the framing is taken for the head of the next answer either.
    assert bytes(s3dlio.get(URI)) == data


def test_n7_a_range_in_chunks_that_holds_less_than_was_asked_for_is_completed(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    headers = {"ETag": served.etag(PATH), "Content-Range": f"bytes 100-149/{SIZE}"}
    served.faults[PATH] = [chunked(7, Respond(206, headers, DATA[100:150]))]
    assert bytes(s3dlio.get_range(URI, 100, 100)) == DATA[100:200]


@pytest.mark.parametrize("num_bytes", [49, 51])
def test_n7_chunks_that_do_not_sum_up_to_their_range_are_retried(served: ObjectServer, num_bytes: int) -> None:
    served.objects[PATH] = DATA
    headers = {"ETag": served.etag(PATH), "Content-Range": f"bytes 100-149/{SIZE}"}
    served.faults[PATH] = [chunked(7, Respond(206, headers, DATA[100 : 100 + num_bytes]))]
    assert bytes(s3dlio.get_range(URI, 100, 50)) == DATA[100:150]


@pytest.mark.parametrize("position", [0, 1, 50_000])
def test_n7_a_read_that_was_cut_goes_on_in_chunks(served: ObjectServer, position: int) -> None:
    served.objects[PATH] = DATA
    whole = chunked(4096, Respond(200, {"ETag": served.etag(PATH)}, DATA))
    served.faults[PATH] = [cut_after(position), chunked(4096)]
    assert bytes(s3dlio.get(URI)) == DATA
    served.faults[PATH] = [cut_after(position), whole]
    assert bytes(s3dlio.get(URI)) == DATA


def test_n7_a_whole_object_in_chunks_for_a_range_beyond_its_end_is_an_invalid_range(served: ObjectServer) -> None:
    served.objects[PATH] = DATA[:50]
    served.faults[PATH] = [ignore_range(Respond(200, {"Transfer-Encoding": "chunked"}, b"32\r\n" + DATA[:50] + b"\r\n0\r\n\r\n"))] * 3
    with pytest.raises(s3dlio.InvalidRangeError):
        s3dlio.get_range(URI, 51, 10)


@pytest.mark.parametrize("num_bytes", [4999, 5001, 0])
def test_n7_chunks_that_do_not_sum_up_to_the_listed_size_are_an_error(served: ObjectServer, num_bytes: int) -> None:
    served.faults[PATH] = [chunked(100, Respond(200, {}, DATA[:num_bytes]))] * 3
    (found,) = s3dlio.get_many([ObjectRef(URI, 5000)], errors="return")
    assert isinstance(found, (s3dlio.TruncatedBodyError, s3dlio.ObjectChangedError, s3dlio.ProtocolError))
    assert found.uri == URI


@pytest.mark.parametrize(
    "body",
    [b"5\r\nhelloXX", b"zz\r\nhello\r\n", b"5\r\nhello\r\n", b"5\r\nhel", b"", b"5\r\nhello\r\n0\r\n"],
    ids=["no line end", "no length", "no last chunk", "cut in a chunk", "nothing", "cut in the trailer"],
)
def test_n7_misframed_chunks_are_retried_and_then_an_error(served: ObjectServer, body: bytes) -> None:
    served.objects[PATH] = b"hello"
    served.faults[PATH] = [raw(CHUNKED_HEAD + body)]
    assert bytes(s3dlio.get(URI)) == b"hello"
    served.faults[PATH] = [raw(CHUNKED_HEAD + body)] * 3
    with pytest.raises((s3dlio.ProtocolError, s3dlio.TruncatedBodyError)) as raised:
        s3dlio.get(URI)
    assert raised.value.attempts == 3


def test_n7_a_second_answer_in_the_segment_of_the_last_chunk_is_no_part_of_the_object(scripted: ScriptedServer) -> None:
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
    good = Respond(200, {}, b"hello")
    scripted.then(raw(CHUNKED_HEAD + b"5\r\nhello\r\n0\r\n\r\n" + smuggled), good, good)
    assert bytes(s3dlio.get(URI)) == b"hello"


def test_an_answer_without_length_and_chunks_is_refused_since_its_end_cannot_be_known(scripted: ScriptedServer) -> None:
    scripted.then(*[raw(b"HTTP/1.0 200 OK\r\n\r\nhel")] * 3)
    with pytest.raises(s3dlio.ProtocolError):
        s3dlio.get(URI)
