"""Nasty keys: percent-encoded byte by byte on the wire, never normalised, and the same on every way round (K1, K2, N19)."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import s3dlio
from tests.support.answers import Respond, s3_error
from tests.support.moto_server import MotoServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import ScriptedServer

PointAt = Callable[[S3Endpoint | str], None]

LITERAL = {
    "a b": "a%20b",
    "a+b": "a%2Bb",
    "a%2Fb": "a%252Fb",
    "a#b?c&d;e=f": "a%23b%3Fc%26d%3Be%3Df",
    "~user/'quoted'": "~user/%27quoted%27",
    "../other-bucket/x": "../other-bucket/x",
    "a/./b/../c": "a/./b/../c",
    "a//b///c": "a//b///c",
    "/leading": "/leading",
    "trailing/": "trailing/",
    "ü": "%C3%BC",
    "\U0001f600": "%F0%9F%98%80",
    "a:b@c!$*(),[]|\\^`{}\"<>": "a%3Ab%40c%21%24%2A%28%29%2C%5B%5D%7C%5C%5E%60%7B%7D%22%3C%3E",
    "line\r\nX-Injected: 1\r\n\r\n": "line%0D%0AX-Injected%3A%201%0D%0A%0D%0A",
    "tab\there": "tab%09here",
}
"""Keys, and what stands in the request line. Source: "Signature Calculations for the Authorization Header", UriEncode."""
SERVABLE_EXCEPTIONS = ["line\r\nX-Injected: 1\r\n\r\n"]
"""What moto cannot store: its routes end at a line end."""
TWINS = [unicodedata.normalize(form, "caf\u00e9/\u1e9b\u0323") for form in ("NFC", "NFD")]
LONG = ["k" * 1024, "\u00fc" * 512, "d/" * 511 + "xy"]
NASTY = [*LITERAL, *TWINS, *LONG, " ", "+", "%", "%00", "a\u00a0b", "=", "a/b/", "..", "./a"]

SERVABLE = [key for key in NASTY if key not in SERVABLE_EXCEPTIONS]
keys = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=250
).filter(lambda key: len(key.encode()) <= 1024)
servable_keys = keys.filter(lambda key: not any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in key))


def target_of(key: str) -> str:
    # The standard library's own encoder is the oracle; "/" stays, "~" is never encoded.
    return "/bucket/" + quote(key, safe="/")


@pytest.mark.parametrize(("key", "encoded"), LITERAL.items())
def test_k1_the_request_line_holds_the_encoded_key(scripted: ScriptedServer, key: str, encoded: str) -> None:
    scripted.then(Respond(200, {}, b"data"))
    s3dlio.get("s3://bucket/" + key)
    assert scripted.requests[0].line == f"GET /bucket/{encoded} HTTP/1.1".encode()
    assert "x-injected" not in scripted.requests[0].headers


@pytest.mark.parametrize("key", NASTY, ids=ascii)
@pytest.mark.parametrize("verb", ["get", "get_range", "stat", "delete"])
def test_k1_every_verb_sends_the_key_unnormalised(scripted: ScriptedServer, key: str, verb: str) -> None:
    uri = "s3://bucket/" + key
    if verb == "get_range":
        scripted.then(Respond(206, {"Content-Range": "bytes 1-2/4"}, b"at"))
        assert bytes(s3dlio.get_range(uri, 1, 2)) == b"at"
    elif verb == "get":
        scripted.then(Respond(200, {}, b"data"))
        assert bytes(s3dlio.get(uri)) == b"data"
    elif verb == "stat":
        scripted.then(Respond(200, {}, b"data"))
        assert s3dlio.stat(uri)["size"] == 4
    else:
        # A name that looks like a prefix or a glob is looked at before it is deleted.
        if key.endswith("/"):
            scripted.then(Respond(200, {}, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"))
        elif "*" in key:
            scripted.then(Respond(200, {}, b"data"))
        scripted.then(Respond(204))
        s3dlio.delete(uri)
        assert scripted.requests[-1].method == "DELETE"
    assert {request.target for request in scripted.requests if b"list-type" not in request.line} == {target_of(key)}


@pytest.mark.parametrize(
    "uri",
    ["s3://bucket/" + key for key in ("nul\0key", "k" * 1025, "\u00fc" * 513, "\ud800", "x\udcff")],
    ids=ascii,
)
@pytest.mark.parametrize("verb", [s3dlio.get, s3dlio.stat, s3dlio.delete], ids=["get", "stat", "delete"])
def test_k1_what_can_be_no_key_is_refused_before_anything_is_sent(
    scripted: ScriptedServer, uri: str, verb: Callable[[str], object]
) -> None:
    with pytest.raises(s3dlio.InvalidUriError):
        verb(uri)
    assert scripted.requests == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(key=keys)
def test_k1_any_text_is_sent_byte_exactly(scripted: ScriptedServer, key: str) -> None:
    scripted.then(Respond(200, {}, b"data"))
    assert bytes(s3dlio.get("s3://bucket/" + key)) == b"data"
    assert scripted.requests[-1].target == target_of(key)


@pytest.fixture
def moto(moto_s3: MotoServer, s3_env: PointAt) -> Iterator[S3Endpoint]:
    s3_env(moto_s3.endpoint)
    yield moto_s3.endpoint
    s3dlio.shutdown()


def test_k1_what_boto3_writes_is_read_listed_and_deleted(moto: S3Endpoint) -> None:
    bucket, client = moto.new_bucket(), moto.client()
    for n, key in enumerate(SERVABLE):
        client.put_object(Bucket=bucket, Key=key, Body=f"body {n}".encode())
    uris = [f"s3://{bucket}/{key}" for key in SERVABLE]
    assert [bytes(view) for view in s3dlio.get_many(uris)] == [f"body {n}".encode() for n in range(len(SERVABLE))]
    assert s3dlio.list(f"s3://{bucket}/", recursive=True) == sorted(uris)
    for n, uri in enumerate(uris):
        assert s3dlio.exists(uri)
        assert s3dlio.stat(uri)["size"] == len(f"body {n}")
        s3dlio.delete(uri)
        assert not s3dlio.exists(uri)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)


def test_k1_what_we_write_is_read_by_boto3(moto: S3Endpoint) -> None:
    bucket, client = moto.new_bucket(), moto.client()
    for n, key in enumerate(SERVABLE):
        s3dlio.put_bytes(f"s3://{bucket}/{key}", f"body {n}".encode())
    listed = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert sorted(listed) == sorted(SERVABLE)
    for n, key in enumerate(SERVABLE):
        assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == f"body {n}".encode()


def test_k1_composed_and_decomposed_twins_are_two_objects(moto: S3Endpoint) -> None:
    bucket = moto.new_bucket()
    assert TWINS[0] != TWINS[1]
    for n, key in enumerate(TWINS):
        s3dlio.put_bytes(f"s3://{bucket}/{key}", bytes([n]))
    assert [bytes(s3dlio.get(f"s3://{bucket}/{key}")) for key in TWINS] == [b"\x00", b"\x01"]


def test_k1_a_nasty_prefix_lists_exactly_what_begins_with_it(moto: S3Endpoint) -> None:
    bucket, client = moto.new_bucket(), moto.client()
    prefixes = ["a b/", "a+b/", "a%2Fb/", "a&b=c/", "a//", "../", "#?/", "\u00fc/"]
    for prefix in prefixes:
        for name in ("1", "2", "deep/3"):
            client.put_object(Bucket=bucket, Key=prefix + name, Body=b"x")
    for prefix in prefixes:
        base = f"s3://{bucket}/{prefix}"
        assert s3dlio.list(base, recursive=True) == [base + "1", base + "2", base + "deep/3"]
        assert s3dlio.list(base) == [base + "1", base + "2", base + "deep/"]
        assert s3dlio.list(base, recursive=True, pattern="deep/*") == [base + "deep/3"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(key=servable_keys, data=st.binary(max_size=200))
def test_k1_any_key_goes_round(moto: S3Endpoint, key: str, data: bytes) -> None:
    bucket, client = moto.new_bucket(), moto.client()
    client.put_object(Bucket=bucket, Key=key, Body=data)
    uri = f"s3://{bucket}/{key}"
    assert bytes(s3dlio.get(uri)) == data
    s3dlio.delete(uri)
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    s3dlio.put_bytes(uri, data)
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == data


@pytest.mark.parametrize("key", ["line\r\nend", "\x1b[31mred", "bell\x07", "\u202egnp.exe"], ids=ascii)
def test_k4_control_characters_of_a_key_are_escaped_in_the_text_of_an_error(scripted: ScriptedServer, key: str) -> None:
    scripted.then(s3_error(404, "NoSuchKey"))
    with pytest.raises(s3dlio.NotFoundError) as raised:
        s3dlio.get("s3://bucket/" + key)
    assert str(raised.value).isprintable()
    # The attribute is for programs, and names the object as it was asked for.
    assert raised.value.uri == "s3://bucket/" + key


def test_k2_a_key_that_climbs_stays_in_its_bucket(moto: S3Endpoint) -> None:
    mine, other = moto.new_bucket(), moto.new_bucket()
    moto.client().put_object(Bucket=other, Key="x", Body=b"other")
    uri = f"s3://{mine}/../{other}/x"
    assert not s3dlio.exists(uri)
    s3dlio.put_bytes(uri, b"mine")
    assert moto.client().get_object(Bucket=other, Key="x")["Body"].read() == b"other"
    assert bytes(s3dlio.get(uri)) == b"mine"


@pytest.mark.parametrize("key", ["../other-bucket/x", "a/../../other-bucket/x", "..", "./x", "/../x", "%2e%2e/x"])
@pytest.mark.parametrize("lane", ["fast", "sdk"])
def test_k2_no_request_leaves_the_bucket(scripted: ScriptedServer, lane: str, key: str) -> None:
    s3dlio.configure(fast_lane=lane == "fast")
    scripted.script = lambda request: Respond(200, {"ETag": '"1"'}, b"" if request.method in ("PUT", "DELETE") else b"data")
    uri = "s3://bucket/" + key
    assert bytes(s3dlio.get(uri)) == b"data"
    s3dlio.stat(uri)
    s3dlio.put_bytes(uri, b"data")
    s3dlio.delete(uri)
    assert [request.method for request in scripted.requests] == ["GET", "HEAD", "PUT", "DELETE"]
    assert {request.target for request in scripted.requests} == {target_of(key)}


@pytest.mark.parametrize("uri", ["s3://../other/x", "s3://./x", "gs://../x", "memory://../x", "az://account/../x"])
def test_k2_no_bucket_is_a_step_in_a_path(scripted: ScriptedServer, uri: str) -> None:
    for verb in (s3dlio.get, s3dlio.delete, s3dlio.list):
        with pytest.raises(s3dlio.InvalidUriError):
            verb(uri)  # type: ignore[operator]
    assert scripted.requests == []
