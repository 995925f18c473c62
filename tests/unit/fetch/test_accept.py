"""Every kind of answer to a read, as a table: what is stored, what is skipped, what is refused."""

from __future__ import annotations

import pytest

from s3dlio.engine.errors import ObjectChangedError, ProtocolError
from s3dlio.engine.fetch.accept import BodyPlan, accept
from s3dlio.engine.fetch.http1 import ResponseHead, parse_head
from s3dlio.engine.fetch.request import Fetch


def answer(status: int, length: int | None = None, content_range: str | None = None, etag: str | None = None, **extra: str) -> ResponseHead:
    lines = [f"HTTP/1.1 {status} X"]
    lines += [f"Content-Length: {length}"] if length is not None else []
    lines += [f"Content-Range: bytes {content_range}"] if content_range is not None else []
    lines += [f"ETag: {etag}"] if etag is not None else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in extra.items()]
    return parse_head("\r\n".join([*lines, "", ""]).encode())


def asked(start: int = 0, end: int | None = None, *, received: int = 0, size: int | None = None, version: str | None = None) -> Fetch:
    fetch = Fetch(0, "s3://bucket/key", None, "key", start=start, end=end, size=size, version=version)
    fetch.received = received
    return fetch


@pytest.mark.parametrize(
    ("fetch", "head", "plan"),
    [
        (asked(), answer(200, 100), BodyPlan(0, 100, 0)),
        (asked(), answer(200, 0), BodyPlan(0, 0, 0)),
        (asked(10, 20), answer(206, 10, "10-19/100"), BodyPlan(0, 10, 0)),
        (asked(10, 20), answer(200, 10, "10-19/100"), BodyPlan(0, 10, 0)),
        (asked(10, 20), answer(200, 100), BodyPlan(10, 10, 80)),
        (asked(10, None), answer(200, 100), BodyPlan(10, 90, 0)),
        (asked(90, 120), answer(206, 10, "90-99/100"), BodyPlan(0, 10, 0)),
        (asked(90, 120), answer(200, 100), BodyPlan(90, 10, 0)),
        (asked(100, 120), answer(200, 100), BodyPlan(100, 0, 0)),
        (asked(10, 20, received=4), answer(206, 6, "14-19/100"), BodyPlan(0, 6, 0)),
        (asked(10, 20, received=4), answer(200, 100), BodyPlan(14, 6, 80)),
        (asked(10, 20), answer(206, 4, "10-13/100"), BodyPlan(0, 4, 0)),
        (asked(10, 20), answer(206, 10, "10-19/*"), BodyPlan(0, 10, 0)),
        (asked(0, 100, size=100), answer(200, 100, "0-99/100"), BodyPlan(0, 100, 0)),
    ],
)
def test_an_acceptable_answer_gives_the_plan_of_its_body(fetch: Fetch, head: ResponseHead, plan: BodyPlan) -> None:
    assert accept(fetch, head) == plan


@pytest.mark.parametrize(
    ("fetch", "head"),
    [
        (asked(10, 20), answer(206, 10)),
        (asked(10, 20), answer(206, 10, "11-20/100")),
        (asked(10, 20), answer(206, 10, "9-18/100")),
        (asked(10, 20), answer(206, 10, "0-9/100")),
        (asked(10, 20), answer(206, 11, "10-20/100")),
        (asked(10, 20), answer(206, 9, "10-19/100")),
        (asked(10, 20), answer(206, 11, "10-19/100")),
        (asked(10, 20, received=4), answer(206, 10, "10-19/100")),
        (asked(10, 20), answer(206, 10, "*/100")),
        (asked(), answer(200)),
        (asked(), answer(200, 100, "bytes 0-99/100")),
    ],
)
def test_n6_another_range_and_a_contradicting_head_are_refused(fetch: Fetch, head: ResponseHead) -> None:
    with pytest.raises(ProtocolError):
        accept(fetch, head)


def test_n6_a_range_to_the_end_of_an_unknown_size_is_refused() -> None:
    # "bytes 10-19/*" leaves open whether byte 19 is the last one, and a short success is none.
    with pytest.raises(ProtocolError):
        accept(asked(10, None), answer(206, 10, "10-19/*"))


@pytest.mark.parametrize(
    ("fetch", "head"),
    [
        (asked(version="a"), answer(200, 100, etag='"b"')),
        (asked(10, 20, version="a"), answer(206, 10, "10-19/100", etag="b")),
        (asked(size=100), answer(200, 99)),
        (asked(10, 20, size=100), answer(206, 10, "10-19/101")),
        (asked(10, 20, size=100), answer(200, 15)),
    ],
)
def test_i3_another_version_or_size_is_a_changed_object(fetch: Fetch, head: ResponseHead) -> None:
    with pytest.raises(ObjectChangedError):
        accept(fetch, head)


@pytest.mark.parametrize(("pin", "etag"), [("a", '"a"'), ("a", "a"), ("W/a", 'W/"a"'), ("a", 'W/"a"'), ("W/a", '"a"')])
def test_i3_quotes_and_weakness_make_no_other_version(pin: str, etag: str) -> None:
    assert accept(asked(version=pin), answer(200, 5, etag=etag)) == BodyPlan(0, 5, 0)


def test_the_first_head_pins_version_size_and_end() -> None:
    fetch = asked(10, None)
    accept(fetch, answer(206, 90, "10-99/100", etag='"v1"'))
    assert (fetch.version, fetch.size, fetch.end) == ("v1", 100, 100)
    with pytest.raises(ObjectChangedError):
        accept(fetch, answer(206, 90, "10-99/100", etag='"v2"'))


def test_n7_chunks_without_a_range_have_no_plan_before_their_end() -> None:
    assert accept(asked(), answer(200, transfer_encoding="chunked")) is None


def test_n7_a_range_in_chunks_is_never_planned_as_plain_bytes() -> None:
    # With a plan, the framing of the chunks would be stored as if it were the object.
    try:
        plan = accept(asked(10, 20), answer(206, None, "10-19/100", transfer_encoding="chunked"))
    except ProtocolError:
        return
    assert plan is None
