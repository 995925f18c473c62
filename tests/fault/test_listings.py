"""Listings as servers should not make them, by both lanes: empty pages, tokens again, entries twice, another order (I11, I12, N12)."""

from __future__ import annotations

import random
from collections.abc import Callable
from urllib.parse import parse_qs

import pytest

import s3dlio
from s3dlio.datasets.listing import Listing, list_prefix
from tests.support.answers import Respond, cut_after, s3_error
from tests.support.scripted_server import Request, ScriptedServer

ROOT = "s3://bucket/"
Page = tuple[list[str], str | None]
"""Keys (those that end in `/` are child prefixes), and the token of the next page."""


@pytest.fixture(params=["fast", "sdk"])
def said(request: pytest.FixtureRequest, scripted: ScriptedServer) -> ScriptedServer:
    """A server for `s3://bucket/` that says only what the test scripts, asked by one of the lanes."""
    s3dlio.configure(fast_lane=request.param == "fast")
    return scripted


def page(keys: list[str], token: str | None = None) -> Respond:
    contents = "".join(
        f"<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"
        if key.endswith("/")
        else f'<Contents><Key>{key}</Key><Size>{len(key)}</Size><ETag>"{key}"</ETag></Contents>'
        for key in keys
    )
    more = "" if token is None else f"<NextContinuationToken>{token}</NextContinuationToken>"
    is_truncated = f"<IsTruncated>{str(token is not None).lower()}</IsTruncated>"
    text = f"<ListBucketResult>{contents}{is_truncated}{more}</ListBucketResult>"
    return Respond(200, {"Content-Type": "application/xml"}, text.encode())


def in_pages(pages: dict[str | None, Page]) -> Callable[[Request], Respond]:
    """A bucket whose pages are asked for by token."""
    return lambda request: page(*pages[parse_qs(request.query).get("continuation-token", [None])[0]])


def uris(keys: list[str]) -> list[str]:
    return [ROOT + key for key in keys]


def test_i11_pages_without_entries_are_not_the_end(said: ScriptedServer) -> None:
    said.script = in_pages({None: ([], "1"), "1": (["a"], "2"), "2": ([], "3"), "3": ([], "4"), "4": (["b"], "5"), "5": ([], None)})
    assert s3dlio.list(ROOT, recursive=True) == uris(["a", "b"])
    assert len(said.requests) == 6


def test_i11_more_than_a_thousand_keys_come_whole(said: ScriptedServer) -> None:
    keys = [f"k{number:05d}" for number in range(3456)]
    parts = [keys[start : start + 1000] for start in range(0, len(keys), 1000)]
    tokens: list[str | None] = [None, "1/+=", "2 é".encode().hex(), "3"]
    said.script = in_pages({token: (part, after) for token, part, after in zip(tokens, parts, [*tokens[1:], None], strict=True)})
    assert s3dlio.list(ROOT, recursive=True) == uris(keys)


@pytest.mark.parametrize("tokens", [["same", "same"], ["a", "b", "a"], ["a", "b", "c", "b"]], ids=["same", "circle", "tail and circle"])
def test_i11_a_token_that_comes_again_is_an_error_and_no_endless_loop(said: ScriptedServer, tokens: list[str]) -> None:
    said.then(*[page([f"k{number}"], token) for number, token in enumerate(tokens)])
    with pytest.raises(s3dlio.ProtocolError, match="repeats") as raised:
        s3dlio.list(ROOT + "p", recursive=True)
    assert raised.value.uri == ROOT + "p"
    assert len(said.requests) == len(tokens)


def test_i11_what_a_page_repeats_of_the_one_before_is_listed_once(said: ScriptedServer) -> None:
    said.then(page(["a", "d/", "b"], "1"), page(["b", "d/", "c", "c"], "2"), page(["c"]))
    assert s3dlio.list(ROOT) == uris(["a", "b", "c", "d/"])


def test_i11_a_key_that_is_added_meanwhile_stops_nothing(said: ScriptedServer) -> None:
    said.then(page(["a", "c"], "1"), page(["b", "d"]))
    assert s3dlio.list(ROOT, recursive=True) == uris(["a", "b", "c", "d"])


@pytest.mark.parametrize(
    "broken",
    [
        cut_after(40, page(["a"], "1")),
        Respond(200, {}, page(["a"], "1").body[:-9]),
        Respond(200, {}, s3_error(500, "SlowDown").body),
        s3_error(500, "InternalError"),
    ],
    ids=["a body that ends early", "half a document", "an error under 200", "a 500"],
)
def test_n12_i11_a_page_that_came_broken_is_asked_for_again(said: ScriptedServer, broken: Respond) -> None:
    said.then(page(["a"], "1"), broken, page(["b"]))
    assert s3dlio.list(ROOT, recursive=True) == uris(["a", "b"])
    assert "continuation-token=1" in said.requests[2].query


def test_n12_i11_a_page_that_stays_an_error_is_never_a_shorter_listing(said: ScriptedServer) -> None:
    said.then(page(["a"], "1"), *[Respond(200, {}, s3_error(500, "InternalError").body)] * 3)
    with pytest.raises(s3dlio.ServerError) as raised:
        s3dlio.list(ROOT, recursive=True)
    assert raised.value.attempts == 3


def test_i12_a_listing_in_any_order_makes_the_same_data_set(said: ScriptedServer) -> None:
    keys = [f"{name}{number}" for name in ("a", "B", "é", "z/") for number in range(30)]

    def listed(order: list[str]) -> tuple[list[str], Listing]:
        parts = [order[start : start + 25] for start in range(0, len(order), 25)]
        tokens = [None, *map(str, range(1, len(parts))), None]
        said.script = in_pages({tokens[n]: (part, tokens[n + 1]) for n, part in enumerate(parts)})
        return s3dlio.list(ROOT, recursive=True), list_prefix(ROOT)

    shuffled = random.Random(5).sample(keys, len(keys))
    texts, listing = listed(sorted(keys, key=str.encode))
    others, other = listed(shuffled)
    assert texts == others == sorted(uris(keys))
    assert listing.digest == other.digest
    assert len(other) == len(keys)
