"""A head that is recognised by its shape is what the parser would have made of it; any other is left to the parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.engine.errors import ProtocolError
from s3dlio.engine.fetch.head_shape import HeadShape
from s3dlio.engine.fetch.http1 import parse_head

NGINX = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 24 Nov 2026 13:20:11 GMT\r\nContent-Type: binary/octet-stream\r\n"
    b"Content-Length: 65536\r\nLast-Modified: Tue, 24 Nov 2026 13:18:11 GMT\r\nConnection: keep-alive\r\n"
    b'ETag: "6743216a-10000"\r\nAccept-Ranges: bytes\r\n\r\n'
)
S3 = (
    b"HTTP/1.1 200 OK\r\nx-amz-id-2: eftixk72aD6Ap51TnqcoF8eFidJG9Z/2mkiDFu8yU9AS1ed4OpIszj7UDNEHGran\r\n"
    b"x-amz-request-id: 318BC8BC148832E5\r\nDate: Mon, 28 Oct 2026 22:32:00 GMT\r\nLast-Modified: Wed, 12 Oct 2009 17:50:00 GMT\r\n"
    b'ETag: "fba9dede5f27731c9771645a39863328"\r\nContent-Length: 434234\r\nServer: AmazonS3\r\n\r\n'
)


def changed(raw: bytes, *changes: tuple[bytes, bytes]) -> bytes:
    for old, new in changes:
        assert raw.count(old) == 1
        raw = raw.replace(old, new)
    return raw


@pytest.mark.parametrize("raw", [NGINX, S3], ids=["nginx", "s3"])
def test_a_head_with_other_values_of_the_same_lengths_is_recognised(raw: bytes) -> None:
    other = changed(raw, (b":11 GMT\r\nContent-Type", b":12 GMT\r\nContent-Type")) if raw is NGINX else changed(
        raw, (b"318BC8", b"418BC8"), (b"eftixk", b"gftixk"), (b":32:00", b":33:01")
    )
    other = changed(other, (b"65536", b"10007"), (b"6743216a", b"7743216b")) if raw is NGINX else changed(
        other, (b"434234", b"100001"), (b"fba9", b"0000")
    )
    found = HeadShape(parse_head(raw)).match(other)
    assert found == parse_head(other)
    assert found is not None
    assert found.length in (10007, 100001)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"200 OK", b"206 OK"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Connection: keep-alive", b"Connection: close     "),
        (b"Accept-Ranges: bytes", b"Content-Range: 1/234"),
        (b"Content-Length: 65536", b"Content-Length: -5536"),
        (b"Content-Length: 65536", b"Content-Length: 655 6"),
        (b"Content-Length: 65536", b"Content-Lengfh: 65536"),
        (b"Date: Tue, 24 Nov 2026 13:20:11 GMT", b"Date: Tue\r\nContent-Length: 4\r\nX: GM"),
        (b"Date: Tue, 24 Nov 2026 13:20:11 GMT", b"Date: Tue, 24 Nov\n2026 13:20:11 GMT"),
        (b"Date: Tue, 24 Nov 2026 13:20:11 GMT", b"Date: Tue, 24 Nov\x002026 13:20:11 GMT"),
        (b'ETag: "6743216a-10000"', b'ETag: "6743216a"10000"'),
        (b'ETag: "6743216a-10000"', b'ETag: W/43216a-10000" '),
        (b"bytes\r\n\r\n", b"byte\r\n\r\n\r"),
    ],
    ids=repr,
)
def test_whatever_else_is_different_goes_to_the_parser(old: bytes, new: bytes) -> None:
    other = changed(NGINX, (old, new))
    assert len(other) == len(NGINX)
    assert HeadShape(parse_head(NGINX)).match(other) is None


@pytest.mark.parametrize(
    "line",
    [b'ETag: W/"weak"', b"ETag: bare", b"ETag:none", b'ETag: "a"\r\nETag: "b"', b"Content-Length: 5 ", b"Date:  two spaces", b"Date:"],
    ids=repr,
)
def test_a_head_that_is_written_in_an_unusual_way_is_only_recognised_as_it_is(line: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\n%b\r\nX-A: 1\r\n\r\n" % line
    head = parse_head(raw)
    assert HeadShape(head).match(raw) in (head, None)


@given(st.integers(0, len(NGINX) - 1), st.integers(0, 255), st.integers(0, len(NGINX) - 1), st.integers(0, 255))
def test_whatever_two_bytes_are_overwritten_with_shape_and_parser_agree(first: int, one: int, second: int, two: int) -> None:
    spoilt = bytearray(NGINX)
    spoilt[first], spoilt[second] = one, two
    found = HeadShape(parse_head(NGINX)).match(bytes(spoilt))
    if found is None:
        return
    try:
        assert found == parse_head(bytes(spoilt))
    except ProtocolError as error:
        raise AssertionError(f"the parser refuses what the shape took: {bytes(spoilt)!r}") from error


@pytest.mark.parametrize("line", [b"Date:Mon, 01 Jan 2026 00:00:00 GMT", b"x-amz-request-id:ABC", b"ETag:none"], ids=repr)
def test_a_header_without_a_space_frees_nothing_of_another_line(line: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: 5\r\n\r\n" % line
    shape = HeadShape(parse_head(raw))
    for status in (b"206", b"404", b"503"):
        assert shape.match(raw.replace(b"200", status)) is None
    assert shape.match(changed(raw, (b"Content-Length: 5", b"Content-Range:  5"))) is None


GOOGLE = (
    b"HTTP/1.1 200 OK\r\nX-GUploader-UploadID: ABPtcPqkLq0\r\nX-Goog-Generation: 1796069152927964570\r\nX-Goog-Metageneration: 1\r\n"
    b"X-Goog-Hash: crc32c=mxVdmA==,md5=l6t9QUoN9ROK/Ih+50oK/w==\r\nX-Goog-Stored-Content-Length: 76800\r\nContent-Length: 76800\r\n"
    b"Date: Mon, 30 Nov 2026 20:05:52 GMT\r\nExpires: Mon, 30 Nov 2026 20:05:52 GMT\r\n"
    b'ETag: "CJqqo8vK8JgDEAE="\r\nServer: UploadServer\r\n\r\n'
)


def test_a_head_of_googles_is_recognised_with_another_generation_and_other_sums() -> None:
    other = changed(
        GOOGLE,
        (b"927964570", b"927964571"),
        (b"mxVdmA==,md5=l6t9", b"nxVdmA==,md5=m6t9"),
        (b"76800\r\nContent-Length: 76800", b"76801\r\nContent-Length: 76801"),
        (b"CJqq", b"DJqq"),
        (b"Lq0", b"Mq0"),
        (b"Expires: Mon", b"Expires: Tue"),
    )
    found = HeadShape(parse_head(GOOGLE)).match(other)
    assert found == parse_head(other)
    assert found is not None
    assert (found.version, found.length) == ("1796069152927964571", 76801)
    assert found.checksum is not None
    assert found.checksum != parse_head(GOOGLE).checksum


@pytest.mark.parametrize(
    "lines",
    [
        b"X-Goog-Hash: crc32c=mxVdmA==,md5=l6t9QUoN9ROK/Ih+50oK/w==", b"x-goog-hash: md5=l6t9QUoN9ROK/Ih+50oK/w==, crc32c=mxVdmA==",
        b"x-goog-hash: crc32c=mxVdmA==\r\nx-goog-hash: md5=l6t9QUoN9ROK/Ih+50oK/w==", b"x-goog-hash:crc32c=mxVdmA==",
    ],
)  # fmt: skip
def test_googles_crc32c_is_found_however_its_hashes_are_listed(lines: bytes) -> None:
    assert parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n%b\r\n\r\n" % lines).checksum == ("crc32c", 0x9B155D98)


@pytest.mark.parametrize(
    "lines",
    [
        b"x-goog-hash: md5=l6t9QUoN9ROK/Ih+50oK/w==", b"x-goog-hash: crc32c=mxVd", b"x-goog-hash: xcrc32c=mxVdmA==",
        b"x-goog-hash: crc32c=mxVdmA==\r\nx-goog-hash: crc32c=nxVdmA==", b"x-other: crc32c=mxVdmA==",
    ],
)  # fmt: skip
def test_a_sum_that_is_missing_senseless_or_given_twice_is_none(lines: bytes) -> None:
    assert parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n%b\r\n\r\n" % lines).checksum is None
