"""The signer against AWS's published vectors, in threads, and with hostile input. Its property tests stand in tests/property."""

from __future__ import annotations

import copy
import hashlib
import hmac
import io
import itertools
import pickle
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import msgspec
import pytest
from rich.console import Console
from rich.pretty import Pretty

from s3dlio.engine.errors import AuthenticationError, ConfigurationError, InvalidUriError
from s3dlio.engine.fetch.sigv4 import (
    EMPTY_SHA256,
    UNSIGNED_PAYLOAD,
    Credentials,
    Signer,
    encode_key,
    encode_query,
)

# "Authenticating Requests: Using the Authorization Header", Amazon S3 API Reference.
PUBLISHED = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
PUBLISHED_HOST = "examplebucket.s3.amazonaws.com"
PUBLISHED_S = datetime(2013, 5, 24, tzinfo=UTC).timestamp()
WELCOME_SHA256 = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"

HOST = "127.0.0.1:9000"
MIDNIGHT_S = int(datetime(2024, 2, 29, tzinfo=UTC).timestamp())
SECRET_CANARY = "SECRET-4b1d-CANARY"
TOKEN_CANARY = "TOKEN-93aa-CANARY"
CANARY = Credentials("AKIA4b1dCANARY", SECRET_CANARY, TOKEN_CANARY, 1.5)


def signature_of(lines: str) -> str:
    found = re.search(r"Signature=([0-9a-f]{64})\r\n\Z", lines)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("method", "key", "params", "headers", "payload_hash", "signature"),
    [
        pytest.param(
            "GET",
            "/test.txt",
            [],
            (("range", "bytes=0-9"),),
            EMPTY_SHA256,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            id="GET object",
        ),
        pytest.param(
            "PUT",
            "/test$file.text",
            [],
            (("x-amz-storage-class", "REDUCED_REDUNDANCY"), ("date", "Fri, 24 May 2013 00:00:00 GMT")),
            WELCOME_SHA256,
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            id="PUT object",
        ),
        pytest.param(
            "GET",
            "/",
            [("lifecycle", "")],
            (),
            EMPTY_SHA256,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            id="GET bucket lifecycle",
        ),
        pytest.param(
            "GET",
            "/",
            [("prefix", "J"), ("max-keys", "2")],
            (),
            EMPTY_SHA256,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            id="GET bucket",
        ),
    ],
)
def test_signatures_are_those_that_aws_published(
    method: str,
    key: str,
    params: list[tuple[str, str]],
    headers: tuple[tuple[str, str], ...],
    payload_hash: str,
    signature: str,
) -> None:
    signer = Signer(PUBLISHED, region="us-east-1")
    lines = signer.sign(
        method, PUBLISHED_HOST, encode_key(key), encode_query(params), headers, payload_hash, PUBLISHED_S
    )
    assert signature_of(lines) == signature


def test_the_canonical_request_is_the_one_that_aws_published() -> None:
    text = Signer(PUBLISHED, region="us-east-1").canonical_request(
        "GET", PUBLISHED_HOST, "/test.txt", "", (("range", "bytes=0-9"),), EMPTY_SHA256, PUBLISHED_S
    )
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert text.split("\n") == [
        "GET",
        "/test.txt",
        "",
        "host:examplebucket.s3.amazonaws.com",
        "range:bytes=0-9",
        f"x-amz-content-sha256:{empty}",
        "x-amz-date:20130524T000000Z",
        "",
        "host;range;x-amz-content-sha256;x-amz-date",
        empty,
    ]


def test_the_lines_are_complete_and_each_ends_in_crlf() -> None:
    lines = Signer(CANARY, region="eu-1").sign("GET", HOST, "/b/k", headers=(("range", "bytes=0-4"),), now_s=MIDNIGHT_S)
    *head, authorization, end = lines.split("\r\n")
    assert end == ""
    assert sorted(head) == [
        "range: bytes=0-4",
        f"x-amz-content-sha256: {UNSIGNED_PAYLOAD}",
        "x-amz-date: 20240229T000000Z",
        f"x-amz-security-token: {TOKEN_CANARY}",
    ]
    assert re.fullmatch(
        r"Authorization: AWS4-HMAC-SHA256 Credential=AKIA4b1dCANARY/20240229/eu-1/s3/aws4_request, "
        r"SignedHeaders=host;range;x-amz-content-sha256;x-amz-date;x-amz-security-token, Signature=[0-9a-f]{64}",
        authorization,
    )


def test_percent_signs_in_host_names_and_values_are_text() -> None:
    token = Credentials("AKIA", "secret", "to%ken%s")
    headers = (("x-amz-meta-a%sb", "100%d"),)
    lines = Signer(token, region="r").sign("GET", "[fe80::1%25eth0]:9000", "/%25s", headers=headers, now_s=MIDNIGHT_S)
    assert "x-amz-security-token: to%ken%s\r\n" in lines
    assert "x-amz-meta-a%sb: 100%d\r\n" in lines


def test_a_value_is_sent_as_given_and_signed_with_its_spaces_folded() -> None:
    signer = Signer(CANARY, region="r")
    given = (("x-amz-meta-a", " two  spaces\tand a tab "),)
    assert "x-amz-meta-a: two spaces and a tab\r\n" not in signer.sign("PUT", HOST, "/b/k", headers=given)
    assert "x-amz-meta-a:two spaces and a tab\n" in signer.canonical_request("PUT", HOST, "/b/k", headers=given)


def test_anonymous_requests_carry_the_given_headers_alone() -> None:
    signer = Signer(None, region="us-east-1")
    assert signer.sign("GET", HOST, "/b/k") == ""
    headers = (("range", "bytes=0-4"), ("if-match", '"abc"'))
    assert sorted(signer.sign("GET", HOST, "/b/k", headers=headers).splitlines()) == [
        'if-match: "abc"',
        "range: bytes=0-4",
    ]
    with pytest.raises(AuthenticationError):
        signer.canonical_request("GET", HOST, "/b/k")


def test_the_clock_is_asked_for_every_request() -> None:
    seconds = iter([MIDNIGHT_S - 0.01, MIDNIGHT_S + 0.99, MIDNIGHT_S + 1.0, MIDNIGHT_S - 86400.0])
    signer = Signer(CANARY, region="r", clock=lambda: next(seconds))
    dates = [re.findall(r"x-amz-date: (\w+)", signer.sign("GET", HOST, "/b/k"))[0] for _ in range(4)]
    assert dates == ["20240228T235959Z", "20240229T000000Z", "20240229T000001Z", "20240228T000000Z"]


def expected_signature(credentials: Credentials, date: str, path: str, payload_hash: str) -> str:
    """Returns the signature of a plain GET, straight from the specification."""
    names = "host;x-amz-content-sha256;x-amz-date"
    fields = f"host:{HOST}\nx-amz-content-sha256:{payload_hash}\nx-amz-date:{date}\n"
    request = f"GET\n{path}\n\n{fields}\n{names}\n{payload_hash}"
    scope = f"{date[:8]}/us-east-1/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    return hmac.new(key, text.encode(), "sha256").hexdigest()


@pytest.fixture
def eager_thread_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_thread_switches")
def test_sixteen_threads_sign_right_across_the_borders_of_seconds_and_days() -> None:
    num_threads, num_requests = 16, 300
    ticks = itertools.count()
    signer = Signer(PUBLISHED, region="us-east-1", clock=lambda: MIDNIGHT_S - 2 + next(ticks) // 5 % 4)
    together = threading.Barrier(num_threads)

    def sign_many(thread: int) -> list[tuple[str, str, str]]:
        together.wait()
        found = []
        for i in range(num_requests):
            path, payload_hash = f"/bucket/{thread}/{i}", (EMPTY_SHA256, UNSIGNED_PAYLOAD)[i % 2]
            found.append((path, payload_hash, signer.sign("GET", HOST, path, payload_hash=payload_hash)))
        return found

    with ThreadPoolExecutor(num_threads) as threads:
        signed = [each for many in threads.map(sign_many, range(num_threads)) for each in many]
    dates = set()
    for path, payload_hash, lines in signed:
        date = re.findall(r"x-amz-date: (\w+)", lines)[0]
        dates.add(date)
        assert f"/{date[:8]}/us-east-1" in lines
        assert signature_of(lines) == expected_signature(PUBLISHED, date, path, payload_hash)
    assert dates == {"20240228T235958Z", "20240228T235959Z", "20240229T000000Z", "20240229T000001Z"}


def test_more_payload_hashes_in_a_second_than_are_kept_are_signed_right() -> None:
    signer = Signer(PUBLISHED, region="us-east-1")
    hashes = [hashlib.sha256(bytes([i])).hexdigest() for i in range(200)]
    for payload_hash in [*hashes, *hashes]:
        lines = signer.sign("GET", HOST, "/b/k", payload_hash=payload_hash, now_s=MIDNIGHT_S)
        assert signature_of(lines) == expected_signature(PUBLISHED, "20240229T000000Z", "/b/k", payload_hash)


@pytest.mark.parametrize(
    ("key", "encoded"),
    [
        ("plain/key-1_2.3~4", "plain/key-1_2.3~4"),
        ("", ""),
        ("a b+c", "a%20b%2Bc"),
        ("already%2Fencoded", "already%252Fencoded"),
        ("#?&;=@:,$!'()*", "%23%3F%26%3B%3D%40%3A%2C%24%21%27%28%29%2A"),
        ("//a//.././/b/", "//a//.././/b/"),
        ("é", "%C3%A9"),
        ("e\u0301", "e%CC%81"),
        ("🦀", "%F0%9F%A6%80"),
        ("a\r\nb\0\x7f", "a%0D%0Ab%00%7F"),
    ],
)
def test_keys_are_encoded_and_never_normalised(key: str, encoded: str) -> None:
    assert encode_key(key) == encoded


def test_a_query_is_sorted_after_it_is_encoded_and_slashes_are_encoded() -> None:
    # Raw, "é" sorts behind "z"; encoded, "%C3%A9" sorts before it.
    params = [("z", "1"), ("é", "2"), ("prefix", "a/b c"), ("z", "0"), ("acl", "")]
    assert encode_query(params) == "%C3%A9=2&acl=&prefix=a%2Fb%20c&z=0&z=1"
    assert encode_query([]) == ""


def test_lone_surrogates_are_refused_in_keys_queries_and_headers() -> None:
    with pytest.raises(InvalidUriError, match="surrogate"):
        encode_key("a\ud800")
    with pytest.raises(InvalidUriError, match="surrogate"):
        encode_query([("prefix", "\udfff")])
    with pytest.raises(ConfigurationError, match="surrogate"):
        Signer(CANARY, region="r").sign("PUT", HOST, "/b/k", headers=(("x-amz-meta-a", "\ud800"),))


@pytest.mark.parametrize("credentials", [CANARY, None], ids=["signed", "anonymous"])
@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\rb", "a\nb", "\n", "a\0b", "a b\x7f"])
def test_n19_a_line_end_or_control_character_in_a_header_value_is_refused(
    credentials: Credentials | None, value: str
) -> None:
    headers = (("range", "bytes=0-1"), ("x-amz-meta-a", value))
    with pytest.raises(ConfigurationError, match="x-amz-meta-a") as caught:
        Signer(credentials, region="r").sign("PUT", HOST, "/b/k", headers=headers)
    assert value not in str(caught.value)


@pytest.mark.parametrize("credentials", [CANARY, None], ids=["signed", "anonymous"])
@pytest.mark.parametrize(
    "name", ["", "a b", "a:b", "a\r\nb", "Range", "é", "host", "authorization", "x-amz-date", "x-amz-security-token"]
)
def test_n19_names_that_are_no_lowercase_token_or_belong_to_the_signature_are_refused(
    credentials: Credentials | None, name: str
) -> None:
    signer = Signer(credentials, region="r")
    for _ in range(2):
        with pytest.raises(ConfigurationError):
            signer.sign("GET", HOST, "/b/k", headers=((name, "1"),))


def test_a_header_given_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        Signer(CANARY, region="r").sign("GET", HOST, "/b/k", headers=(("range", "bytes=0-1"), ("range", "bytes=2-3")))


def test_n19_host_payload_hash_and_region_cannot_break_a_line() -> None:
    signer = Signer(CANARY, region="r")
    with pytest.raises(ConfigurationError):
        signer.sign("GET", "host\r\nx: y", "/b/k")
    with pytest.raises(ConfigurationError):
        signer.sign("GET", HOST, "/b/k", payload_hash="abc\r\nx: y")
    for region in ("", "us east", "us-east-1\n", "a/b"):
        with pytest.raises(ConfigurationError):
            Signer(CANARY, region=region)


def everything_shown_of(error: Exception) -> str:
    """Returns an error's texts, its pickle, and its traceback with the local variables of every frame below the test's own."""
    assert error.__traceback__ is not None
    below = error.__traceback__.tb_next
    report = traceback.TracebackException(type(error), error, below, capture_locals=True)
    assert "sigv4.py" in "".join(report.format())
    return f"{error!r} {error} {pickle.dumps(error)!r} {' '.join(report.format())}"


@pytest.mark.parametrize(
    "broken",
    [
        Credentials("AKIA\n", SECRET_CANARY, TOKEN_CANARY),
        Credentials("", SECRET_CANARY, TOKEN_CANARY),
        Credentials("AKIA", SECRET_CANARY, f"{TOKEN_CANARY}\r\n"),
        Credentials("AKIA", SECRET_CANARY + "\n", TOKEN_CANARY),
        Credentials("AKIA", SECRET_CANARY + "\udc80", TOKEN_CANARY),
    ],
)
def test_a5_unusable_credentials_are_refused_without_being_quoted(broken: Credentials) -> None:
    with pytest.raises(AuthenticationError) as caught:
        Signer(broken, region="r")
    assert caught.value.__context__ is None
    assert "CANARY" not in everything_shown_of(caught.value)


@pytest.mark.parametrize("name", ["host", "Range", "x-amz-meta-a"])
def test_a5_errors_of_signing_show_no_secret(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Signer(CANARY, region="r").sign("GET", HOST, "/b/k", headers=((name, "\n" if name == "x-amz-meta-a" else "1"),))
    assert "CANARY" not in everything_shown_of(caught.value)


def test_a5_credentials_and_signer_show_no_secret() -> None:
    signer = Signer(CANARY, region="us-east-1")
    signer.sign("GET", HOST, "/b/k")
    screen = io.StringIO()
    Console(file=screen, width=200).print(Pretty(CANARY), Pretty([signer, CANARY]))
    shown = f"{CANARY!r} {CANARY!s} {[CANARY]!r} {signer!r} {signer!s} {screen.getvalue()}"
    assert "CANARY" not in shown
    assert "AKIA…" in repr(CANARY)


def test_a5_credentials_and_signer_do_not_pickle() -> None:
    signer = Signer(CANARY, region="us-east-1")
    for secret in (CANARY, [CANARY], signer):
        with pytest.raises(TypeError, match="do not pickle") as caught:
            pickle.dumps(secret)
        assert "CANARY" not in str(caught.value)
    with pytest.raises(TypeError, match="do not pickle"):
        copy.deepcopy(CANARY)


def test_credentials_travel_by_message() -> None:
    sent = msgspec.msgpack.encode(CANARY)
    assert msgspec.msgpack.decode(sent, type=Credentials) == CANARY
