"""Operations side by side: one result for each, at most so many requests at once, and an end whenever the caller wants one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.ops.objects import read_range
from s3dlio.engine.ops.perform import Place
from s3dlio.engine.pool.inline import inline_fetcher
from s3dlio.engine.stores.base import Operation
from s3dlio.engine.stores.registry import locate
from tests.support.object_server import ObjectServer


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
