"""Bodies that end early, or go on for too long: resumed or refused, never short, never written past their slot (N2 to N5)."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import s3dlio
from s3dlio.engine.config import settings
from s3dlio.engine.fetch.loop import FetchLoop
from s3dlio.engine.fetch.request import Fetch, State
from s3dlio.engine.stores.registry import locate
from tests.support.answers import (
    Respond,
    cut_after,
    extra_bytes,
    longer_than_range,
    raw,
    reset_after,
    reset_before_headers,
)
from tests.support.fault_proxy import FaultProxy, Plan
from tests.support.object_server import ObjectServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Connection, Request, ScriptedServer
from tests.support.tcp_server import wait_until_delivered

URI, PATH = "s3://bucket/key", "/bucket/key"
SIZE = 300_000
DATA = random.Random(2).randbytes(SIZE)
CUTS = [0, 1, SIZE // 2, SIZE - 1]


def drive(fetch: Fetch) -> Fetch:
    """Runs one fetch on a loop of its own to its end, whatever that is."""
    loop = FetchLoop(settings(), 1)
    try:
        loop.submit(fetch)
        while fetch.state < State.DONE:
            loop.poll(1.0)
    finally:
        loop.close()
    return fetch


def fetch_into(out: memoryview, **known: object) -> Fetch:
    store, key = locate(URI)
    return drive(Fetch(0, URI, store.wire, key, out=out, **known))  # type: ignore[arg-type]


@contextmanager
def canaries(num_bytes: int) -> Iterator[memoryview]:
    """Gives `num_bytes` of memory with 64 KiB of canaries on both sides, and checks afterwards that they live."""
    side = b"\xcc" * (64 << 10)
    memory = bytearray(side + bytes(num_bytes) + side)
    yield memoryview(memory)[len(side) : len(side) + num_bytes]
    assert bytes(memory[: len(side)]) == side
    assert bytes(memory[-len(side) :]) == side


@pytest.mark.parametrize("num_resets", [1, 2])
def test_n2_reset_before_headers_is_retried(served: ObjectServer, num_resets: int) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [reset_before_headers()] * num_resets
    assert bytes(s3dlio.get(URI)) == DATA
    assert len(served.requests) == num_resets + 1


def test_n2_reset_of_a_connection_that_was_just_made_is_retried(
    served: ObjectServer, fault_proxy: Callable[..., FaultProxy], s3_env: Callable[[S3Endpoint | str], None]
) -> None:
    served.objects[PATH] = DATA
    proxy = fault_proxy(served.address, [Plan(reset_on_connect=True), Plan(reset_at=0)])
    s3_env(proxy.url)
    assert bytes(s3dlio.get(URI)) == DATA
    assert len(proxy.connections) == 3


def test_n2_resets_without_end_are_an_error_with_uri_and_attempts(served: ObjectServer) -> None:
    served.faults[PATH] = [reset_before_headers()] * 3
    with pytest.raises(s3dlio.ConnectFailedError) as raised:
        s3dlio.get(URI)
    assert (raised.value.uri, raised.value.attempts) == (URI, 3)
    assert isinstance(raised.value, ConnectionError)


def assert_resumed(requests: list[Request], etag: str, position: int, end: int) -> None:
    first, second = requests
    assert "if-match" not in first.headers
    assert second.headers["if-match"] == etag
    assert second.headers["range"] in (f"bytes={position}-{end - 1}", f"bytes={position}-")


@pytest.mark.parametrize("position", CUTS)
def test_n3_reset_mid_body_resumes_from_the_last_byte_of_the_same_version(served: ObjectServer, position: int) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [reset_after(position)]
    assert bytes(s3dlio.get(URI)) == DATA
    assert_resumed(served.requests_of(PATH), served.etag(PATH), position, SIZE)


@pytest.mark.parametrize("position", [0, 1, 5000, 9999])
def test_n3_a_range_resumes_within_itself(served: ObjectServer, position: int) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [reset_after(position)]
    assert bytes(s3dlio.get_range(URI, 20_000, 10_000)) == DATA[20_000:30_000]
    assert_resumed(served.requests_of(PATH), served.etag(PATH), 20_000 + position, 30_000)


def test_n3_each_of_many_objects_resumes_for_itself(served: ObjectServer) -> None:
    rng = random.Random(3)
    objects = {f"k{n}": rng.randbytes(rng.randrange(1, 60_000)) for n in range(40)}
    for key, data in objects.items():
        served.objects[f"/bucket/{key}"] = data
        broken = rng.choice([reset_after, cut_after])
        served.faults[f"/bucket/{key}"] = [broken(rng.randrange(len(data)))] * rng.randrange(3)
    found = s3dlio.get_many([f"s3://bucket/{key}" for key in objects], workers=8)
    assert [bytes(view) for view in found] == list(objects.values())


def test_n3_progress_gives_new_attempts(served: ObjectServer) -> None:
    # Ten failures with three attempts: each of them brought new bytes, so none of them counts against the next.
    served.objects[PATH] = DATA
    served.faults[PATH] = [reset_after(1000)] * 10
    assert bytes(s3dlio.get(URI)) == DATA
    assert [r.headers["range"].split("-")[0] for r in served.requests[1:]] == [f"bytes={n * 1000}" for n in range(1, 11)]


@pytest.mark.parametrize("position", CUTS)
def test_n4_a_clean_end_before_the_last_byte_is_resumed(served: ObjectServer, position: int) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [cut_after(position)]
    assert bytes(s3dlio.get(URI)) == DATA
    assert_resumed(served.requests_of(PATH), served.etag(PATH), position, SIZE)


def test_n4_a_body_that_never_advances_is_an_error_and_never_a_short_success(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [cut_after(5000), *[cut_after(0)] * 3]
    with pytest.raises(s3dlio.TruncatedBodyError) as raised:
        s3dlio.get(URI)
    assert raised.value.uri == URI
    # The first failure brought bytes and starts the count; two more without any make three.
    assert (raised.value.attempts, len(served.requests)) == (3, 3)
    assert isinstance(raised.value, EOFError)


def test_n4_without_a_version_bytes_that_are_thrown_away_are_no_progress(scripted: ScriptedServer) -> None:
    # No ETag, so each attempt begins again: a server that always breaks off at the same byte must not be asked until the deadline.
    scripted.script = lambda _request: cut_after(500, Respond(200, {}, DATA[:1000]))
    with pytest.raises(s3dlio.TruncatedBodyError) as raised:
        s3dlio.get(URI)
    assert (raised.value.attempts, len(scripted.requests)) == (3, 3)


def test_n4_one_truncated_object_of_many_is_the_only_error(served: ObjectServer) -> None:
    for n in range(8):
        served.objects[f"/bucket/{n}"] = DATA[: 1000 * n + 1]
    served.faults["/bucket/5"] = [cut_after(0)] * 3
    found = s3dlio.get_many([f"s3://bucket/{n}" for n in range(8)], errors="return")
    assert isinstance(found[5], s3dlio.TruncatedBodyError)
    assert all(bytes(found[n]) == DATA[: 1000 * n + 1] for n in range(8) if n != 5)


def test_n4_a_206_that_holds_less_than_was_asked_for_is_completed(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    etag = served.etag(PATH)
    short = Respond(206, {"ETag": etag, "Content-Range": f"bytes 100-149/{SIZE}"}, DATA[100:150])
    served.faults[PATH] = [short]
    assert bytes(s3dlio.get_range(URI, 100, 100)) == DATA[100:200]
    assert served.requests[1].headers["range"] == "bytes=150-199"


def test_n5_bytes_behind_the_announced_body_stay_out_of_memory_and_are_retried(served: ObjectServer) -> None:
    served.objects[PATH] = DATA[:100]
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + DATA[:100] + b"\xee" * 500
    served.faults[PATH] = [raw(wire, finish=False)]
    with canaries(100) as out:
        fetch = fetch_into(out)
        assert (fetch.state, bytes(out)) == (State.DONE, DATA[:100])
    assert len(served.requests) == 2


def test_n5_bytes_behind_every_body_are_an_error(scripted: ScriptedServer) -> None:
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + DATA[:100] + b"\xee" * 500
    scripted.then(*[raw(wire, finish=False)] * 3)
    with canaries(100) as out:
        fetch = fetch_into(out, size=100)
    assert isinstance(fetch.error, s3dlio.ProtocolError)
    assert (fetch.attempts, fetch.error.uri) == (3, URI)


@pytest.mark.parametrize("num_extra", [1, 100_000])
def test_n5_a_body_longer_than_the_range_is_refused_before_a_byte_is_stored(served: ObjectServer, num_extra: int) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [longer_than_range(num_extra)] * 3
    with canaries(1000) as out:
        fetch = fetch_into(out, start=500, end=1500)
        assert bytes(out) == bytes(1000)
    assert isinstance(fetch.error, s3dlio.ProtocolError)


def test_n5_a_slot_larger_than_the_object_stays_untouched_behind_it(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [extra_bytes(5000)]
    with canaries(SIZE + 10_000) as out:
        out[SIZE:] = b"\xcc" * 10_000
        fetch = fetch_into(out)
        assert (fetch.state, fetch.received) == (State.DONE, SIZE)
        assert bytes(out[:SIZE]) == DATA
        assert bytes(out[SIZE:]) == b"\xcc" * 10_000


def test_n5_a_longer_object_than_was_listed_is_not_cut_to_fit(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    with canaries(1000) as out:
        fetch = fetch_into(out, size=1000)
        assert bytes(out) == bytes(1000)
    assert isinstance(fetch.error, s3dlio.ObjectChangedError)


def test_n5_a_second_answer_behind_the_first_body_never_becomes_the_next_object(served: ObjectServer) -> None:
    served.objects[PATH] = DATA
    served.objects["/bucket/next"] = b"GOOD"
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
    is_there = threading.Event()

    def answer_twice(_request: Request, connection: Connection) -> None:
        connection.send(Respond(200, {}, DATA).head() + DATA + smuggled)
        wait_until_delivered(connection._sock)
        is_there.set()

    served.faults[PATH] = [answer_twice]
    assert bytes(s3dlio.get(URI)) == DATA
    assert is_there.wait(10)
    assert bytes(s3dlio.get("s3://bucket/next")) == b"GOOD"
