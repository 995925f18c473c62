"""Response heads, byte ranges and chunked bodies, as bytes in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.engine.errors import ProtocolError
from s3dlio.engine.fetch.http1 import ChunkedBody, ResponseHead, format_range, has_body, parse_head, unquote_etag

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
sizes = st.integers(min_value=0, max_value=10**17)


def head_of(*lines: str) -> ResponseHead:
    return parse_head("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode("latin-1"))


def dechunk(*pieces: bytes, max_bytes: int = 1 << 20) -> ChunkedBody:
    body = ChunkedBody(CHUNKED_HEAD, max_bytes)
    for piece in pieces:
        body.feed(piece)
    return body


def test_names_are_lower_case_and_repeated_headers_are_joined() -> None:
    head = head_of("X-Amz-Meta-A: 1", "x-amz-meta-a: 2", "Content-Length: 7")
    assert head.headers[b"x-amz-meta-a"] == b"1,2"
    assert (head.status, head.length) == (200, 7)
    assert head.get(b"x-absent") is None


def test_a_header_outside_ascii_is_read_as_latin_1() -> None:
    assert head_of("X-Name: caf\xe9").get(b"x-name") == "caf\xe9"


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 5"],
        ["Content-Length: -1"],
        ["Content-Length: 0x10"],
        ["Content-Length: 99999999999999999999999"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Broken header"],
        ["X-A: 1", " folded"],
    ],
    ids="|".join,
)
def test_a_head_that_could_be_read_in_two_ways_is_an_error(lines: list[str]) -> None:
    with pytest.raises(ProtocolError):
        head_of(*lines)


@pytest.mark.parametrize("text", [b"HTTP/2 200 OK\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x50\r\n\r\n"])
def test_what_is_not_http_1_is_an_error(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_head(text)


def test_a_switch_of_protocols_that_nobody_asked_for_is_an_error() -> None:
    with pytest.raises(ProtocolError):
        parse_head(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked, gzip", "xchunked", "gzip"])
def test_only_the_plain_chunked_coding_is_taken_for_chunks(coding: str) -> None:
    # Any other coding changes the bytes, so de-chunking alone would deliver something else than the object.
    try:
        head = head_of(f"Transfer-Encoding: {coding}")
    except ProtocolError:
        return
    assert not head.is_chunked


@pytest.mark.parametrize(
    ("version", "connection", "expected"),
    [
        ("1.1", None, True),
        ("1.1", "close", False),
        ("1.1", "Close", False),
        ("1.1", "keep-alive, close", False),
        ("1.1", "keep-alive", True),
        ("1.0", None, False),
        ("1.0", "Keep-Alive", True),
        ("1.0", "close", False),
    ],
)
def test_persistence_follows_rfc_9112(version: str, connection: str | None, expected: bool) -> None:
    line = f"Connection: {connection}\r\n" if connection else ""
    head = parse_head(f"HTTP/{version} 200 OK\r\n{line}Content-Length: 0\r\n\r\n".encode())
    assert head.is_persistent is expected


@given(start=sizes, length=st.integers(1, 10**15), rest=st.integers(0, 10**15))
def test_a_content_range_comes_back_half_open(start: int, length: int, rest: int) -> None:
    total = start + length + rest
    assert head_of(f"Content-Range: bytes {start}-{start + length - 1}/{total}").content_range() == (start, start + length, total)
    assert head_of(f"Content-Range: bytes {start}-{start + length - 1}/*").content_range() == (start, start + length, None)


@given(total=sizes)
def test_an_unsatisfied_content_range_gives_only_the_size(total: int) -> None:
    assert head_of(f"Content-Range: bytes */{total}").content_range() == (0, 0, total)


@pytest.mark.parametrize(
    "value",
    ["bytes 5-4/10", "bytes 0-10/10", "bytes 0-/10", "bytes -5/10", "bytes 0-9", "lines 0-9/10", "bytes 0-9/x", "bytes 0-9/-1",
     "bytes 0-9/10, bytes 0-9/10", "bytes 0-9/10 ", "bytes 0-9/1e3", "bytes 99999999999999999999-99999999999999999999/*"],
)  # fmt: skip
def test_a_content_range_without_sense_is_an_error(value: str) -> None:
    if value.endswith(" "):
        assert head_of(f"Content-Range: {value}").content_range() == (0, 10, 10)
        return
    with pytest.raises(ProtocolError):
        head_of(f"Content-Range: {value}").content_range()


@given(value=st.text(alphabet="bytes 0123456789-/*,;", max_size=40))
def test_any_content_range_is_understood_or_refused(value: str) -> None:
    try:
        found = head_of(f"Content-Range: {value}").content_range()
    except ProtocolError:
        return
    assert found is not None
    start, end, total = found
    assert 0 <= start <= end
    assert total is None or end <= total


@given(start=sizes, length=st.integers(1, 10**15))
def test_a_range_header_names_its_last_byte(start: int, length: int) -> None:
    first, last = format_range(start, start + length).removeprefix("bytes=").split("-")
    assert int(last) - int(first) + 1 == length
    assert format_range(start, None) == f"bytes={start}-"


@pytest.mark.parametrize(
    ("raw", "version"), [('"abc"', "abc"), ("abc", "abc"), (' "abc" ', "abc"), ('W/"abc"', "W/abc"), ('"a-2"', "a-2"), ('""', "")]
)
def test_an_etag_loses_its_quotes_and_keeps_its_weakness(raw: str, version: str) -> None:
    assert unquote_etag(raw) == version


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [("GET", 200, True), ("GET", 206, True), ("GET", 404, True), ("HEAD", 200, False), ("GET", 204, False), ("GET", 304, False)],
)
def test_some_answers_have_no_body_whatever_their_head_says(method: str, status: int, expected: bool) -> None:
    assert has_body(method, status) is expected


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(1, 50), min_size=1, max_size=5), step=st.integers(1, 20))
def test_n7_chunks_of_any_size_arriving_in_any_pieces_give_the_body(data: bytes, cuts: list[int], step: int) -> None:
    wire, at, turn = b"", 0, 0
    while at < len(data):
        size = cuts[turn % len(cuts)]
        wire += b"%x;ext=1\r\n%b\r\n" % (len(data[at : at + size]), data[at : at + size])
        at, turn = at + size, turn + 1
    wire += b"0\r\nX-Trailer: 1\r\n\r\n"
    body = dechunk(*(wire[n : n + step] for n in range(0, len(wire), step)))
    assert (bytes(body.data), body.is_complete) == (data, True)


def test_n7_a_body_without_its_last_chunk_is_not_complete() -> None:
    assert not dechunk(b"5\r\nhello\r\n").is_complete
    assert not dechunk(b"5\r\nhello\r\n0\r\n").is_complete


@pytest.mark.parametrize(
    "wire",
    [b"5\r\nhelloXX", b"zz\r\nhello", b"-5\r\nhello", b"FFFFFFFFFFFFFFFFFFFF\r\n", b"5\r\nhello\r\n0\r\n\r\nzzz"],
)
def test_n7_bad_chunk_framing_is_an_error(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        dechunk(wire)


def test_n7_a_body_longer_than_its_bound_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="longer than 100"):
        dechunk(b"FF\r\n" + b"x" * 255, max_bytes=100)


def test_n5_a_second_answer_behind_the_last_chunk_is_no_part_of_the_body() -> None:
    second = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
    try:
        body = dechunk(b"5\r\nhello\r\n0\r\n\r\n" + second)
    except ProtocolError:
        return
    assert bytes(body.data) == b"hello"
