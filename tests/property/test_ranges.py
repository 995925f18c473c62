"""Ranges against a model: whatever a server answers, and wherever it breaks off, the bytes are right or there is an error."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio.engine.errors import ObjectChangedError, ProtocolError
from s3dlio.engine.fetch.accept import accept
from s3dlio.engine.fetch.http1 import parse_head
from s3dlio.engine.fetch.request import Fetch
from s3dlio.engine.types import ObjectRef
from tests.support.answers import Respond, chunked, cut_after, ignore_range, reset_after
from tests.support.object_server import ObjectServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Connection, Request

PATH, URI = "/bucket/key", "s3://bucket/key"
small = st.integers(0, 120)


@given(size=small, start=small, length=st.none() | st.integers(1, 120), received=small, first=small, last=small,
       total=st.none() | small, announced=st.none() | small, status=st.sampled_from([200, 206]), is_ranged=st.booleans())  # fmt: skip
def test_n6_an_accepted_answer_stores_exactly_the_bytes_that_were_missing(
    size: int, start: int, length: int | None, received: int, first: int, last: int,
    total: int | None, announced: int | None, status: int, is_ranged: bool,
) -> None:  # fmt: skip
    # The server's object is 0, 1, 2, ...; its answer may claim anything, but it sends what it claims.
    lines = [f"HTTP/1.1 {status} X"]
    if announced is not None:
        lines.append(f"Content-Length: {announced}")
    if is_ranged:
        lines.append(f"Content-Range: bytes {first}-{last}/{'*' if total is None else total}")
    end = None if length is None else start + length
    fetch = Fetch(0, URI, None, "key", start=start, end=end)
    fetch.received = received if end is None else min(received, end - start - 1)
    position = start + fetch.received
    try:
        plan = accept(fetch, parse_head("\r\n".join([*lines, "", ""]).encode()))
    except (ProtocolError, ObjectChangedError, s3dlio.InvalidRangeError):
        return
    assert plan is not None
    sent = range(first, last + 1) if is_ranged else range(announced or 0)
    stored = sent[plan.skip : plan.skip + plan.take]
    assert list(stored) == list(range(position, position + plan.take))
    assert plan.skip + plan.take + plan.extra == len(sent)
    if end is not None:
        assert position + plan.take <= end
    assert fetch.end is not None
    assert position + plan.take <= fetch.end


@pytest.fixture
def served(object_server: ObjectServer, s3_env: Callable[[S3Endpoint | str], None]) -> Iterator[ObjectServer]:
    s3_env(object_server.url)
    s3dlio.configure(max_attempts=4, backoff_initial_s=0.001, first_byte_timeout_s=5, silence_timeout_s=5)
    yield object_server
    s3dlio.shutdown()


def break_off(kind: str, position: int) -> Callable[[Request, Connection], None]:
    if kind == "chunks":
        return chunked(max(1, position))
    return (reset_after if kind == "reset" else cut_after)(position)


faults = st.lists(st.tuples(st.sampled_from(["reset", "cut", "chunks", "whole"]), st.integers(0, 3000)), max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(size=st.integers(0, 3000), offset=st.integers(0, 3000), length=st.none() | st.integers(0, 3000), broken=faults,
       seed=st.integers(0, 9))  # fmt: skip
def test_n3_n4_any_sequence_of_broken_answers_ends_in_the_exact_bytes_or_an_error(
    served: ObjectServer, size: int, offset: int, length: int | None, broken: list[tuple[str, int]], seed: int
) -> None:
    data = random.Random(seed).randbytes(size)
    served.objects[PATH] = data
    whole = ignore_range(Respond(200, {"ETag": served.etag(PATH)}, data))
    served.faults[PATH] = [whole if kind == "whole" else _reads_only(break_off(kind, position)) for kind, position in broken]
    end = None if length is None else offset + length
    try:
        found = bytes(s3dlio.get_range(URI, offset, length))
    except s3dlio.InvalidRangeError:
        assert offset > size
        return
    except (s3dlio.TruncatedBodyError, s3dlio.ConnectFailedError):
        assert len(broken) == 4
        return
    assert offset <= size
    assert found == data[offset:end]


def _reads_only(fault: Callable[[Request, Connection], None]) -> Callable[[Request, Connection], None]:
    """Breaks the answer to a GET; a HEAD has no body that could break, and is answered as it should be."""

    def handle(request: Request, connection: Connection) -> None:
        if request.method == "HEAD":
            served = connection.server
            assert isinstance(served, ObjectServer)
            served.honest(request)(request, connection)
        else:
            fault(request, connection)

    return handle


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(sizes=st.lists(st.integers(0, 5000), max_size=12), broken=st.lists(st.integers(0, 5000), max_size=12), workers=st.integers(1, 8),
       is_pinned=st.booleans())  # fmt: skip
def test_n3_many_broken_objects_come_whole_and_in_order(
    served: ObjectServer, sizes: list[int], broken: list[int], workers: int, is_pinned: bool
) -> None:
    refs: list[ObjectRef | str] = []
    wanted = []
    for n, size in enumerate(sizes):
        path = f"/bucket/{n}"
        wanted.append(random.Random(n).randbytes(size))
        served.objects[path] = wanted[-1]
        served.faults[path] = [reset_after(broken[n])] if n < len(broken) else []
        uri = f"s3://bucket/{n}"
        refs.append(ObjectRef(uri, size, served.etag(path).strip('"')) if is_pinned else uri)
    found = s3dlio.get_many(refs, workers)  # type: ignore[arg-type]
    assert [bytes(view) for view in found] == wanted
