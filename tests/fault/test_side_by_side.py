"""Operations side by side: one result for each, at most so many requests at once, and an end whenever the caller wants one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.ops.objects import read_range
from s3dlio.engine.ops.perform import Place
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.stores.base import Operation
from s3dlio.engine.stores.registry import locate
from tests.fault.conftest import PointAt
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import Connection
from tests.support.write_server import WriteServer


def fill(served: ObjectServer, num: int) -> list[str]:
    served.objects.update({f"/bucket/k{n}": bytes([n]) * (n + 1) for n in range(num)})
    return [f"s3://bucket/k{n}" for n in range(num)]


def reads(uris: list[str], begun: list[str] | None = None) -> Iterator[tuple[str, Operation[Any]]]:
    for uri in uris:
        store, key = locate(uri)
        if begun is not None:
            begun.append(uri)
        yield uri, read_range(Place(uri, store, key), 1, None)


def test_each_operation_gives_its_result_or_its_error(served: ObjectServer) -> None:
    many = fill(served, 40)
    s3dlio.put_bytes("memory://run-many/local", b"local")
    uris = [*many, "s3://bucket/missing", "memory://run-many/local", "memory://run-many/gone"]
    found = dict(inline_fetcher().run_many(reads(uris), 7))
    assert [bytes(found[uri]) for uri in many] == [bytes([n]) * n for n in range(40)]
    assert bytes(found["memory://run-many/local"]) == b"ocal"
    assert isinstance(found["s3://bucket/missing"], s3dlio.NotFoundError)
    assert isinstance(found["memory://run-many/gone"], s3dlio.NotFoundError)
    assert len(found) == 43


def test_no_more_are_begun_than_may_be_in_flight(served: ObjectServer) -> None:
    begun: list[str] = []
    results = inline_fetcher().run_many(reads(fill(served, 30), begun), 4)
    for num, _ in enumerate(results, start=1):
        assert len(begun) <= num + 3
    assert len(begun) == 30


def test_who_stops_asking_ends_what_is_under_way(served: ObjectServer) -> None:
    begun: list[str] = []
    results = inline_fetcher().run_many(reads(fill(served, 30), begun), 4)
    next(results)
    results.close()  # type: ignore[attr-defined]
    num = len(begun)
    assert num < 10
    assert bytes(s3dlio.get("s3://bucket/k0")) == b"\0"
    assert len(begun) == num


def test_an_error_that_is_none_of_ours_goes_to_the_caller() -> None:
    def broken() -> Operation[None]:
        yield from ()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        [*inline_fetcher().run_many([("broken", broken())], 2)]
    assert [*inline_fetcher().run_many([], 2)] == []


def test_a_long_payload_is_on_its_way_before_the_next_is_made(
    quick_settings: None, s3_env: PointAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    read_body = Connection.read_body

    def note(connection: Connection, headers: Mapping[str, str]) -> bytes:
        begun.set()
        return read_body(connection, headers)

    with WriteServer() as server:
        s3_env(server.url)
        s3dlio.put_bytes("s3://bucket/warm", b"so that there is a connection")
        monkeypatch.setattr(Connection, "read_body", note)
        seen: list[bool] = []

        def items() -> Iterator[tuple[str, bytes]]:
            yield "s3://bucket/first", bytes(2 << 20)
            seen.append(begun.wait(5))
            yield "s3://bucket/second", b"2"

        s3dlio.put_many(items(), max_in_flight=2)
        s3dlio.shutdown()
        assert seen == [True]
        assert len(server.objects["/bucket/first"].data) == 2 << 20
