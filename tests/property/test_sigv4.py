"""The signer and the encoders against botocore, over keys, queries and headers that break others.

The oracle is botocore's `S3SigV4Auth` with its clock held, and a whole boto client whose request is caught before it leaves.
"""

from __future__ import annotations

import calendar
import hashlib
import io
import time
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from unittest import mock
from urllib.parse import unquote_to_bytes, urlsplit

import botocore.auth
import botocore.session
import botocore.utils
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSRequest, AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from s3dlio.engine.fetch.sigv4 import (
    EMPTY_SHA256,
    UNSIGNED_PAYLOAD,
    Credentials,
    Signer,
    encode_key,
    encode_query,
)

NASTY = [
    *" +%#?&;~'\"()*!$,:=@[]\\^`{|}<>-._/",
    *(
        "%2F",
        "%252f",
        "%",
        "//",
        "/",
        "/../",
        "..",
        ".",
        "/./",
        "\r\n",
        "\0",
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeff",
        "\U0010ffff",
    ),
    *("🦀", "👩\u200d👩", unicodedata.normalize("NFC", "e\u0301"), "e\u0301", "ı", "ß", "א", "日本"),
]
TEXT = st.lists(st.sampled_from(NASTY) | st.characters(exclude_categories=["Cs"]), max_size=12).map("".join)
HOSTS = st.sampled_from(["127.0.0.1:9000", "localhost:9000", "examplebucket.s3.eu-central-1.amazonaws.com"])
TOKENS = st.none() | st.text("ABCxyz019+/=%", min_size=1, max_size=40)
NAMES = st.sampled_from(
    [
        "range",
        "if-match",
        "if-none-match",
        "x-amz-checksum-mode",
        "x-amz-meta-a",
        "x-amz-meta-a%b",
        "x-amz-z",
        "content-type",
        "a",
    ]
)
# botocore splits values at every Unicode space; the specification folds spaces only, so others are not compared.
VALUES = st.text("azAZ09 \t\"'=-/%:;,{}é🦀", max_size=20) | st.sampled_from(['"d41d8"', "bytes=0-4", "ENABLED", "a  b"])
HEADERS = st.dictionaries(NAMES, VALUES, max_size=5).map(lambda found: tuple(found.items()))
QUERIES = st.lists(st.tuples(TEXT.filter(bool), TEXT), max_size=5)
SECONDS = st.integers(0, 4_000_000_000)
# None stands for a body that is not signed.
BODIES = st.none() | st.binary(max_size=8)


def botocore_headers(
    credentials: Credentials, request: AWSRequest, region: str, now_s: int, *, is_body_signed: bool
) -> dict[str, str]:
    """Returns the headers of `request`, lowercase names, once botocore has signed it at `now_s`."""
    request.context["client_config"] = Config(s3={"payload_signing_enabled": is_body_signed})
    identity = BotoCredentials(credentials.access_key, credentials.secret_key, credentials.token)
    moment = datetime.fromtimestamp(now_s, UTC)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=moment):
        botocore.auth.S3SigV4Auth(identity, "s3", region).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


def as_dict(lines: str) -> dict[str, str]:
    """Returns header lines as a dict with lowercase names."""
    *fields, end = lines.split("\r\n")
    assert end == ""
    split = [field.split(": ", 1) for field in fields]
    assert len({name for name, _ in split}) == len(split)
    return {name.lower(): value for name, value in split}


@settings(max_examples=150, deadline=None)
@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    host=HOSTS,
    key=TEXT,
    params=QUERIES,
    headers=HEADERS,
    body=BODIES,
    token=TOKENS,
    secret=st.text(min_size=1, max_size=20, alphabet="AZaz09/+é"),
    region=st.sampled_from(["us-east-1", "eu-central-1", "auto"]),
    now_s=SECONDS,
)
def test_headers_are_those_that_botocore_sends(
    method: str,
    host: str,
    key: str,
    params: list[tuple[str, str]],
    headers: tuple[tuple[str, str], ...],
    body: bytes | None,
    token: str | None,
    secret: str,
    region: str,
    now_s: int,
) -> None:
    credentials = Credentials("AKIDEXAMPLE", secret, token)
    path = "/" + botocore.utils.percent_encode(key, safe="/~")
    query = botocore.utils.percent_encode_sequence(params)
    request = AWSRequest(method, f"http://{host}{path}?{query}", dict(headers), body or b"")
    expected = botocore_headers(credentials, request, region, now_s, is_body_signed=body is not None)
    lines = Signer(credentials, region=region).sign(
        method,
        host,
        encode_key("/" + key),
        encode_query(params),
        headers,
        UNSIGNED_PAYLOAD if body is None else hashlib.sha256(body).hexdigest(),
        now_s,
    )
    assert as_dict(lines) == expected


@settings(max_examples=50, deadline=None)
@given(requests=st.lists(st.tuples(TEXT, HEADERS, SECONDS | st.integers(86_398, 86_402)), min_size=2, max_size=8))
def test_one_signer_gives_what_a_new_one_gives(
    requests: list[tuple[str, tuple[tuple[str, str], ...], int]],
) -> None:
    credentials = Credentials("AKIDEXAMPLE", "secret")
    shared = Signer(credentials, region="us-east-1")
    for key, headers, now_s in requests:
        arguments = ("GET", "127.0.0.1:9000", encode_key("/" + key), "", headers, EMPTY_SHA256, now_s)
        assert shared.sign(*arguments) == Signer(credentials, region="us-east-1").sign(*arguments)


@given(key=TEXT)
def test_an_encoded_key_is_safe_ascii_and_decodes_to_the_same_bytes(key: str) -> None:
    encoded = encode_key(key)
    assert unquote_to_bytes(encoded) == key.encode()
    assert set(encoded) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/%")
    assert encoded.count("/") == key.count("/")


@given(params=QUERIES)
def test_an_encoded_query_is_the_sorted_list_of_its_pairs(params: list[tuple[str, str]]) -> None:
    encoded = encode_query(params)
    pairs = [pair.split("=") for pair in encoded.split("&")] if encoded else []
    assert pairs == sorted(pairs)
    decoded = sorted((unquote_to_bytes(name), unquote_to_bytes(value)) for name, value in pairs)
    assert decoded == sorted((name.encode(), value.encode()) for name, value in params)
    assert "/" not in encoded


class RawBody(io.BytesIO):
    """A response body in the form that botocore reads."""

    def stream(self) -> Iterator[bytes]:
        yield self.read()


class CatchingClient:
    """A boto client for S3 whose requests are answered here and kept."""

    def __init__(self) -> None:
        session = botocore.session.Session()
        config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
        self.client = session.create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url="http://127.0.0.1:9000",
            aws_access_key_id="AKIDEXAMPLE",
            aws_secret_access_key="secret",
            aws_session_token="token/+=",
            config=config,
        )
        self.client.meta.events.register("before-send.s3", self._answer)
        self.caught: AWSPreparedRequest | None = None

    def _answer(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        self.caught = request
        return AWSResponse(request.url, 200, {}, RawBody(b"<ListBucketResult/>"))

    def request_of(self, operation: str, **arguments: Any) -> tuple[str, str, dict[str, str]]:
        """Returns path, query and headers (lowercase names) of what boto sends for `operation`."""
        getattr(self.client, operation)(**arguments)
        assert self.caught is not None
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else value
            for name, value in self.caught.headers.items()
        }
        url = urlsplit(self.caught.url)
        return url.path, url.query, headers


@pytest.fixture(scope="module")
def boto() -> Iterator[CatchingClient]:
    found = CatchingClient()
    yield found
    found.client.close()


def authorization_of(path: str, query: str, sent: dict[str, str]) -> str:
    """Returns our Authorization for the request whose headers boto `sent`, at the same second."""
    names = sent["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    added = {"host", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"}
    extra = tuple((name, sent[name]) for name in names if name not in added)
    now_s = calendar.timegm(time.strptime(sent["x-amz-date"], "%Y%m%dT%H%M%SZ"))
    signer = Signer(Credentials("AKIDEXAMPLE", "secret", "token/+="), region="us-east-1")
    lines = signer.sign("GET", "127.0.0.1:9000", path, query, extra, sent["x-amz-content-sha256"], now_s)
    return as_dict(lines)["authorization"]


@settings(max_examples=80, deadline=None)
@given(key=TEXT.filter(bool))
def test_get_object_has_the_path_and_authorization_of_a_real_client(boto: CatchingClient, key: str) -> None:
    path, query, sent = boto.request_of(
        "get_object", Bucket="bucket", Key=key, Range="bytes=0-4", IfMatch='"abc"', ChecksumMode="ENABLED"
    )
    assert (encode_key(f"/bucket/{key}"), "") == (path, query)
    assert sent["x-amz-content-sha256"] == EMPTY_SHA256
    assert authorization_of(path, "", sent) == sent["authorization"]


@settings(max_examples=80, deadline=None)
@given(prefix=TEXT, token=TEXT.filter(bool))
def test_list_objects_has_the_authorization_of_a_real_client(boto: CatchingClient, prefix: str, token: str) -> None:
    path, _, sent = boto.request_of("list_objects_v2", Bucket="bucket", Prefix=prefix, ContinuationToken=token)
    query = encode_query(
        [("list-type", "2"), ("prefix", prefix), ("continuation-token", token), ("encoding-type", "url")]
    )
    assert authorization_of(path, query, sent) == sent["authorization"]
