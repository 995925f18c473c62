"""Our Shared Key against the one of azure-storage-blob, on requests that hypothesis makes up."""

from __future__ import annotations

import base64
import time
from typing import Any
from urllib.parse import quote, unquote

import pytest
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.transport import HttpRequest
from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy, _storage_header_sort
from hypothesis import given, settings
from hypothesis import strategies as st

from s3dlio.engine.errors import AuthenticationError, ConfigurationError
from s3dlio.engine.fetch.shared_key import SharedKeySigner, _rank, http_date
from s3dlio.engine.fetch.sigv4 import encode_key, encode_query

ACCOUNT = "account1"
VERSION = "2021-12-02"
KEYS = st.binary(min_size=1, max_size=80).map(lambda data: base64.b64encode(data).decode())
TEXT = st.text(st.sampled_from("aZ09 /%+~._-'#?&;=é日🦀") | st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=12).filter(lambda text: text == text.strip())
PARAMS = st.dictionaries(
    st.sampled_from(["restype", "comp", "prefix", "delimiter", "marker", "blockid", "maxresults"]), TEXT.filter(bool), max_size=4
)
STANDARD = ["content-type", "content-md5", "content-encoding", "content-language", "if-match", "if-none-match", "if-modified-since"]
OWN = st.text("abz09_-", min_size=1, max_size=8).map(lambda text: f"x-ms-{text}")
NAMES = st.sampled_from([*STANDARD, "x-ms-range", "x-ms-blob-type", "x-ms-blob-content-type", "x-ms-content-crc64"]) | OWN
HEADERS = st.dictionaries(NAMES, VALUES, max_size=6)
SECONDS = st.integers(0, 4_000_000_000)


def sdk_authorization(key: str, request: HttpRequest) -> str:
    """Returns what the SDK's own policy adds to `request`."""
    context: Any = PipelineContext(None)
    SharedKeyCredentialPolicy(ACCOUNT, key).on_request(PipelineRequest(request, context))
    return request.headers["Authorization"]


def as_dict(lines: str) -> dict[str, str]:
    *fields, end = lines.split("\r\n")
    assert end == ""
    split = [field.split(": ", 1) for field in fields]
    assert len({name.lower() for name, _ in split}) == len(split)
    return {name.lower(): value for name, value in split}


@settings(max_examples=150, deadline=None)
@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "POST"]),
    key=KEYS,
    name=TEXT,
    params=PARAMS,
    headers=HEADERS,
    num_bytes=st.integers(0, 10**9),
    now_s=SECONDS,
)
def test_authorization_is_what_the_sdk_sends(
    method: str, key: str, name: str, params: dict[str, str], headers: dict[str, str], num_bytes: int, now_s: int
) -> None:
    path = "/container/" + encode_key(name)
    lines = SharedKeySigner(ACCOUNT, key, version=VERSION).sign(method, path, [*params.items()], [*headers.items()], num_bytes, now_s)
    sent = as_dict(lines)
    query = encode_query(params.items())
    request = HttpRequest(method, f"http://127.0.0.1:10000{path}" + (f"?{query}" if query else ""))
    request.headers.update({name: value for name, value in sent.items() if name != "authorization"})
    request.headers["content-length"] = str(num_bytes)
    assert sent["authorization"] == sdk_authorization(key, request)
    assert {name: sent[name] for name in headers} == headers


@given(key=KEYS, name=TEXT, range_value=st.none() | VALUES, if_match=st.none() | VALUES, now_s=SECONDS)
def test_the_short_way_of_reads_gives_the_same_lines(
    key: str, name: str, range_value: str | None, if_match: str | None, now_s: int
) -> None:
    signer = SharedKeySigner(ACCOUNT, key, version=VERSION, clock=lambda: now_s)
    path = "/container/" + encode_key(name)
    headers = [(name, value) for name, value in (("x-ms-range", range_value), ("if-match", if_match)) if value is not None]
    assert signer.sign_read(path, range_value, if_match) == signer.sign("GET", path, (), headers)


@given(name=TEXT)
def test_a_key_is_encoded_as_the_sdk_does(name: str) -> None:
    assert encode_key(name) == quote(name.encode(), safe="~/")
    assert unquote(encode_key(name)) == name


@given(names=st.lists(OWN, unique=True, max_size=8))
def test_headers_are_sorted_as_the_sdk_does(names: list[str]) -> None:
    pairs = [(name, "") for name in names]
    assert sorted(pairs, key=_rank) == _storage_header_sort(pairs)


@given(second=SECONDS)
def test_dates_are_those_of_http(second: int) -> None:
    # The tests run in the C locale.
    assert http_date(second) == time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second))


@given(requests=st.lists(st.tuples(TEXT, HEADERS, SECONDS), min_size=2, max_size=6))
def test_one_signer_gives_what_a_new_one_gives(requests: list[tuple[str, dict[str, str], int]]) -> None:
    key = base64.b64encode(b"secret").decode()
    shared = SharedKeySigner(ACCOUNT, key, version=VERSION)
    for name, headers, now_s in requests:
        arguments: Any = ("GET", "/" + encode_key(name), (), [*headers.items()], 0, now_s)
        assert shared.sign(*arguments) == SharedKeySigner(ACCOUNT, key, version=VERSION).sign(*arguments)


@pytest.mark.parametrize("key", ["", "c2Vj*cmV0", "c2VjcmV0\n", " c2VjcmV0", "c2VjcmV", "é"])
def test_a5_a_key_that_is_no_base64_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(AuthenticationError) as raised:
        SharedKeySigner(ACCOUNT, key, version=VERSION)
    assert not key or key not in str(raised.value)
    assert raised.value.__context__ is None


@pytest.mark.parametrize(
    "headers",
    [
        [("x-ms-meta-a", "a\r\nb")],
        [("x-ms-meta-a", "")],
        [("x-ms-meta-a", " a")],
        [("x-ms-meta-a", "é")],
        [("x-ms-Meta", "a")],
        [("x-ms meta", "a")],
        [("x-ms-date", "a")],
        [("range", "bytes=0-1")],
        [("x-ms-meta-a", "a"), ("x-ms-meta-a", "b")],
    ],
)
def test_n19_headers_that_cannot_be_sent_as_they_are_signed_are_refused(headers: list[tuple[str, str]]) -> None:
    signer = SharedKeySigner(ACCOUNT, base64.b64encode(b"secret").decode(), version=VERSION)
    with pytest.raises(ConfigurationError):
        signer.sign("GET", "/container/key", (), headers)
