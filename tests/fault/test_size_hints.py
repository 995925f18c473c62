"""`get_many_stats`: the count and the bytes; and what it remembers, which is a hint and never changes what is read."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.pool import sizes
from tests.support.answers import s3_error
from tests.support.object_server import ObjectServer

DATA = random.Random(47).randbytes(3 << 20)
URI, PATH = "s3://bucket/key", "/bucket/key"


@pytest.fixture(params=["called", "awaited"])
def get_many_stats(request: pytest.FixtureRequest) -> Any:
    """The verb, called or awaited."""
    if request.param == "called":
        return s3dlio.get_many_stats
    return lambda *args, **kwargs: asyncio.run(s3dlio.get_many_stats_async(*args, **kwargs))


@pytest.fixture(autouse=True)
def forgotten() -> None:
    sizes.forget_sizes()


def fill(served: ObjectServer, num: int) -> list[str]:
    for n in range(num):
        served.objects[f"/bucket/{n}"] = DATA[n : n + 100 * n]
    return [f"s3://bucket/{n}" for n in range(num)]


def test_objects_are_counted_by_one_head_each_and_markers_passed_over(served: ObjectServer, get_many_stats: Any) -> None:
    uris = fill(served, 30)
    s3dlio.put_bytes("memory://hints/key", b"12345")
    assert get_many_stats([*uris, "s3://bucket/marker/", "memory://hints/key", "file:///tmp/"], 7) == (31, 100 * sum(range(30)) + 5)
    assert [request.method for request in served.requests] == ["HEAD"] * 30
    assert get_many_stats(iter(()), max_in_flight=3) == (0, 0)


def test_a_missing_object_is_an_error_after_all_were_tried(served: ObjectServer, get_many_stats: Any) -> None:
    uris = fill(served, 5)
    with pytest.raises(s3dlio.NotFoundError, match="2 of 7 objects failed") as raised:
        get_many_stats([*uris[:2], "s3://bucket/gone", *uris[2:], "s3://bucket/lost"])
    assert raised.value.uri == "s3://bucket/gone"
    assert len(served.requests) == 7
    assert sizes.hint_of(uris[4]) == 400


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"max_in_flight": 0}, {"concurrency": 2, "max_in_flight": 3}, {"concurrency": "5"}])
def test_arguments_without_sense_are_refused(wrong: dict[str, Any], get_many_stats: Any) -> None:
    with pytest.raises(s3dlio.ConfigurationError):
        get_many_stats(["memory://hints/key"], **wrong)
    with pytest.raises(s3dlio.ConfigurationError):
        get_many_stats("memory://hints/key")


@pytest.mark.parametrize("now", [0, 1, 50_000, 200_000, 300_000, 2 << 20])
def test_an_object_that_changed_since_is_read_as_it_is_now(served: ObjectServer, now: int) -> None:
    served.objects[PATH] = DATA[:200_000]
    assert s3dlio.get_many_stats([URI]) == (1, 200_000)
    assert sizes.hint_of(URI) == 200_000
    served.objects[PATH] = DATA[1 : 1 + now]
    for _ in range(2):
        assert s3dlio.get(URI) == DATA[1 : 1 + now]
    assert s3dlio.get_many([URI, URI]) == [DATA[1 : 1 + now]] * 2
    assert s3dlio.get_range(URI, 0) == DATA[1 : 1 + now]
    assert asyncio.run(s3dlio.get_async(URI)) == DATA[1 : 1 + now]
    served.faults[PATH] = [s3_error(500, "Scripted")]
    with s3dlio.Pool(procs=0, memory_bytes="8MiB") as pool:
        assert [bytes(view) for _, view in pool.fetch([URI, URI])] == [DATA[1 : 1 + now]] * 2


@pytest.mark.parametrize("procs", [0, 1])
def test_a_pool_has_the_right_room_and_gives_up_nothing_for_a_wrong_hint(served: ObjectServer, procs: int) -> None:
    served.objects[PATH] = DATA[:1000]
    # Larger than the whole memory: whoever believed it would refuse the object.
    sizes.note_size(URI, 1 << 40)
    uris = fill(served, 20)
    s3dlio.get_many_stats(uris)
    with s3dlio.Pool(procs=procs, memory_bytes="1MiB") as pool:
        found = {uri: bytes(view) for uri, view in pool.fetch([URI, *uris])}
    assert found == {URI: DATA[:1000], **{uri: served.objects[f"/bucket/{n}"] for n, uri in enumerate(uris)}}


def test_a_view_that_is_held_does_not_make_a_wrong_hint_an_error(served: ObjectServer) -> None:
    served.objects["/bucket/held"] = DATA[: 500 << 10]
    served.objects[PATH] = DATA[:1000]
    sizes.note_size(URI, 900 << 10)
    with s3dlio.Pool(procs=0, memory_bytes="1MiB") as pool:
        fetched = iter(pool.fetch(["s3://bucket/held", URI]))
        _, held = next(fetched)
        _, view = next(fetched)
        assert view == DATA[:1000]
        assert held == DATA[: 500 << 10]


def test_sizes_are_forgotten_in_time_and_by_shutdown_and_not_kept_where_that_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    s3dlio.configure(size_cache_s=50.0)
    sizes.note_size(URI, 7)
    assert sizes.hint_of(URI) == 7
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 100)
    assert sizes.hint_of(URI) is None
    monkeypatch.undo()
    s3dlio.shutdown()
    assert sizes.hint_of(URI) is None
    s3dlio.configure(size_cache_s=0)
    sizes.note_size(URI, 7)
    assert sizes.hint_of(URI) is None


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "_MAX_ENTRIES", 10)
    for n in range(1000):
        sizes.note_size(str(n), n)
    assert sizes.hint_of("999") == 999
    assert sum(sizes.hint_of(str(n)) is not None for n in range(1000)) <= 20
    assert len(sizes._young) + len(sizes._old) <= 20
