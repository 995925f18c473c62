"""The verbs with `_async`: the same results and errors as those without, bounded, fair, and patient with the caller's own work."""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio.engine.types import ObjectRef
from tests.fault.conftest import PointAt, Run
from tests.support.answers import Respond, cut_after, reset_after, stall_after, stall_before_headers
from tests.support.moto_server import MotoServer
from tests.support.object_server import ObjectServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Connection, Request, ScriptedServer

URI, PATH = "s3://bucket/key", "/bucket/key"
DATA = random.Random(3).randbytes(100_000)
NEVER = threading.Event()
SECRET, TOKEN = "CanarySecretKeyThatMustNeverAppear", "CanarySessionTokenThatMustNeverAppear"


def fill(served: ObjectServer, count: int, nbytes: int = 2000) -> list[str]:
    """Makes objects that differ from each other and in length; returns their URIs."""
    for n in range(count):
        served.objects[f"/bucket/{n}"] = random.Random(n).randbytes(nbytes + n)
    return [f"s3://bucket/{n}" for n in range(count)]


def expected(served: ObjectServer, uris: list[str]) -> list[bytes]:
    return [served.objects[uri.removeprefix("s3:/")] for uri in uris]


@pytest.fixture(params=["s3", "file", "memory"])
def place(request: pytest.FixtureRequest, s3_env: PointAt, quick_settings: None, tmp_path: Path) -> str:
    """A prefix that can be written to."""
    if request.param == "s3":
        moto: MotoServer = request.getfixturevalue("moto_s3")
        s3_env(moto.endpoint)
        return f"s3://{moto.endpoint.new_bucket()}/"
    return f"file://{tmp_path}/" if request.param == "file" else "memory://awaited/"


def test_each_verb_does_what_its_sync_form_does(run: Run, place: str) -> None:
    keys = ["a/b.bin", "a/c.bin", "a/d/e.bin", "f.txt"]

    async def main() -> None:
        for number, key in enumerate(keys):
            await s3dlio.put_bytes_async(place + key, DATA[: number * 20_000])
        for uri in [place + key for key in keys]:
            view = await s3dlio.get_async(uri)
            assert type(view) is s3dlio.BytesView
            assert bytes(view) == bytes(s3dlio.get(uri))
            assert await s3dlio.stat_async(uri) == s3dlio.stat(uri)
            assert await s3dlio.exists_async(uri)
        assert not await s3dlio.exists_async(place + "nothing")
        last = place + keys[-1]
        for offset, length in [(0, None), (5, 10), (59_990, 100), (60_000, None), (60_000, 5), (7, 0), (59_999, 1)]:
            found = await s3dlio.get_range_async(last, offset, length)
            assert bytes(found) == DATA[:60_000][offset:][:length] == bytes(s3dlio.get_range(last, offset, length))
        for arguments in [("",), ("", True), ("a/", True, "*.bin"), ("", True, re.compile("[ef]"))]:
            uri, *more = arguments
            assert await s3dlio.list_async(place + uri, *more) == s3dlio.list(place + uri, *more)
        uris = [place + key for key in keys]
        assert await s3dlio.stat_many_async(uris) == [s3dlio.stat(uri) for uri in uris]
        assert [bytes(view) for view in await s3dlio.get_many_async(uris * 3)] == [DATA[: n * 20_000] for n in range(4)] * 3

    run(main())


BAD_CALLS: dict[str, Callable[[Any, str, str], Any]] = {
    "missing": lambda api, place, suffix: getattr(api, "get" + suffix)(place + "nothing"),
    "stat": lambda api, place, suffix: getattr(api, "stat" + suffix)(place + "nothing"),
    "beyond": lambda api, place, suffix: getattr(api, "get_range" + suffix)(place + "key", 11),
    "beyond, empty": lambda api, place, suffix: getattr(api, "get_range" + suffix)(place + "key", 11, 0),
    "negative": lambda api, place, suffix: getattr(api, "get_range" + suffix)(place + "key", -1),
    "missing range": lambda api, place, suffix: getattr(api, "get_range" + suffix)(place + "nothing", 0, 0),
    "no scheme": lambda api, place, suffix: getattr(api, "get" + suffix)("key"),
    "unknown scheme": lambda api, place, suffix: getattr(api, "list" + suffix)("ftp://host/key"),
    "no text": lambda api, place, suffix: getattr(api, "exists" + suffix)(7),
    "no buffer": lambda api, place, suffix: getattr(api, "put_bytes" + suffix)(place + "key", 7),
    "no workers": lambda api, place, suffix: getattr(api, "get_many" + suffix)([place + "key"], 0),
    "two workers": lambda api, place, suffix: getattr(api, "get_many" + suffix)([place + "key"], 1, max_in_flight=2),
    "one text": lambda api, place, suffix: getattr(api, "get_many" + suffix)(place + "key"),
    "first of many": lambda api, place, suffix: getattr(api, "get_many" + suffix)([place + "key", place + "no", "x"]),
}


@pytest.mark.parametrize("call", BAD_CALLS)
def test_each_verb_fails_as_its_sync_form_does(run: Run, place: str, call: str) -> None:
    s3dlio.put_bytes(place + "key", b"0123456789")
    with pytest.raises(Exception) as sync:  # noqa: PT011 (whatever it is)
        BAD_CALLS[call](s3dlio, place, "")

    async def main() -> None:
        with pytest.raises(type(sync.value)) as raised:
            await BAD_CALLS[call](s3dlio, place, "_async")
        assert getattr(raised.value, "uri", None) == getattr(sync.value, "uri", None)

    run(main())


GUIDE = {
    "put": 'await s3dlio.put_bytes_async("s3://bucket/key", b"data")',
    "stat": 'meta = await s3dlio.stat_async("s3://bucket/key")',
    "stat_many": 'metas = await s3dlio.stat_many_async(["s3://bucket/a", "s3://bucket/b"])',
    "exists": 'found = await s3dlio.exists_async("s3://bucket/key")',
    "get_many": "results = await s3dlio.get_many_async(uris)",
}


def test_the_snippets_of_the_guide_run_as_printed(run: Run, s3_env: PointAt, moto_s3: MotoServer) -> None:
    s3_env(moto_s3.endpoint)
    client = moto_s3.endpoint.client()
    client.create_bucket(Bucket="bucket")
    for key in ("a", "b"):
        client.put_object(Bucket="bucket", Key=key, Body=key.encode() * 3)
    names: dict[str, Any] = {"s3dlio": s3dlio, "uris": ["s3://bucket/b", "s3://bucket/key", "s3://bucket/a"]}
    body = "\n    ".join(GUIDE.values())
    exec(f"async def main():\n    {body}\n    globals().update(locals())", names)
    run(names["main"]())
    assert names["meta"]["size"] == 4
    assert [meta["size"] for meta in names["metas"]] == [3, 3]
    assert names["found"] is True
    assert [bytes(view) for view in names["results"]] == [b"bbb", b"data", b"aaa"]


def test_a_large_object_is_written_by_one_put_and_read_back(run: Run, s3_env: PointAt, moto_s3: MotoServer) -> None:
    s3_env(moto_s3.endpoint)
    uri = f"s3://{moto_s3.endpoint.new_bucket()}/large"
    data = bytearray(DATA * 60)

    async def main() -> None:
        await s3dlio.put_bytes_async(uri, data)
        assert await s3dlio.get_async(uri) == data
        with pytest.raises(s3dlio.NotFoundError):
            await s3dlio.put_bytes_async("s3://no-such-bucket-anywhere/key", data)

    run(main())


def test_without_a_running_loop_the_error_is_that_of_asyncio() -> None:
    coroutine = s3dlio.get_async(URI)
    with pytest.raises(RuntimeError, match="no running event loop"):
        coroutine.send(None)


# Many at once.


def test_get_many_keeps_order_duplicates_and_errors_in_their_places(run: Run, served: ObjectServer, tmp_path: Path) -> None:
    uris = fill(served, 50)
    (tmp_path / "local").write_bytes(b"local")
    mixed = [uris[7], f"file://{tmp_path}/local", "s3://bucket/no", uris[7], "nonsense", *uris, f"file://{tmp_path}/no"]

    async def main() -> None:
        assert await s3dlio.get_many_async([]) == []
        pairs = await s3dlio.get_many_async(mixed, 5, with_uris=True, errors="return")
        assert [uri for uri, _ in pairs] == mixed
        found = [view for _, view in pairs]
        assert [type(found[n]) for n in (2, 4, -1)] == [s3dlio.NotFoundError, s3dlio.InvalidUriError, s3dlio.NotFoundError]
        assert bytes(found[1]) == b"local"
        assert [bytes(view) for view in [found[0], found[3], *found[5:-1]]] == expected(served, [uris[7], uris[7], *uris])
        stats = await s3dlio.stat_many_async(mixed[:5], errors="return")
        assert [type(one) for one in stats] == [dict, dict, s3dlio.NotFoundError, dict, s3dlio.InvalidUriError]
        with pytest.raises(s3dlio.NotFoundError) as raised:
            await s3dlio.stat_many_async(mixed)
        assert raised.value.uri == mixed[2]
        refs: Any = [ObjectRef(uris[3], len(served.objects["/bucket/3"]), "another version"), uris[4]]
        found = await s3dlio.get_many_async(refs, errors="return")
        assert isinstance(found[0], s3dlio.ObjectChangedError)
        assert bytes(found[1]) == served.objects["/bucket/4"]

    run(main())


def test_a_thousand_gets_at_once_share_the_connections_of_jobs(run: Run, served: ObjectServer) -> None:
    s3dlio.configure(jobs=8)
    uris = fill(served, 100) * 10

    async def main() -> None:
        views = await asyncio.gather(*(s3dlio.get_async(uri) for uri in uris))
        assert [bytes(view) for view in views] == expected(served, uris)

    run(main())
    assert served.num_connections <= 8


@pytest.mark.parametrize("verb", ["get_many_async", "stat_many_async"])
def test_a_call_on_many_has_as_many_in_flight_as_it_was_asked_for(run: Run, served: ObjectServer, verb: str) -> None:
    s3dlio.configure(jobs=2)
    uris = fill(served, 40)
    together = threading.Barrier(7)
    for n in range(7):
        served.faults[f"/bucket/{n}"] = [meet(served, together)]

    async def main() -> None:
        await getattr(s3dlio, verb)(uris, max_in_flight=7)

    run(main())
    assert served.num_connections == 7


def meet(served: ObjectServer, barrier: threading.Barrier) -> Any:
    """Answers honestly when all have come that the barrier waits for."""

    def handle(request: Request, connection: Connection) -> None:
        barrier.wait(10)
        served.honest(request)(request, connection)

    return handle


def test_gets_are_answered_in_the_order_of_the_calls(run: Run, served: ObjectServer) -> None:
    s3dlio.configure(jobs=1)
    uris = fill(served, 30)
    order: list[str] = []

    async def get(uri: str) -> None:
        await s3dlio.get_async(uri)
        order.append(uri)

    async def main() -> None:
        await asyncio.gather(*(get(uri) for uri in uris))

    run(main())
    assert order == uris


def test_a_call_on_many_does_not_wait_behind_single_gets(run: Run, served: ObjectServer) -> None:
    s3dlio.configure(jobs=1)
    uris = fill(served, 30)
    go_on = threading.Event()
    served.objects[PATH] = DATA
    served.faults[PATH] = [stall_after(10, go_on)]

    async def main() -> None:
        singles = [asyncio.create_task(s3dlio.get_async(uri)) for uri in [URI, *uris]]
        await asyncio.to_thread(served.wait_for_requests, 1)
        views = await s3dlio.get_many_async(uris, 2)
        assert [bytes(view) for view in views] == expected(served, uris)
        assert not any(task.done() for task in singles)
        go_on.set()
        assert bytes((await asyncio.gather(*singles))[0]) == DATA

    run(main())


# Faults.


@pytest.mark.parametrize("fault", [reset_after, cut_after])
def test_n3_n4_a_broken_body_is_resumed_from_the_last_byte(run: Run, served: ObjectServer, fault: Callable[[int], Any]) -> None:
    served.objects[PATH] = DATA
    served.faults[PATH] = [fault(40_000)]

    async def main() -> None:
        assert await s3dlio.get_async(URI) == DATA

    run(main())
    assert served.requests[1].headers["range"] == "bytes=40000-99999"


@pytest.mark.parametrize("answer", [stall_before_headers(NEVER), stall_after(0, NEVER)])
def test_n13_a_silent_server_is_a_timeout_though_nothing_arrives(run: Run, served: ObjectServer, answer: Any) -> None:
    s3dlio.configure(max_attempts=2, first_byte_timeout_s=0.3, silence_timeout_s=0.3)
    served.objects[PATH] = DATA
    served.faults[PATH] = [answer] * 2

    async def main() -> None:
        begun = time.monotonic()
        with pytest.raises(s3dlio.StoreTimeoutError) as raised:
            await s3dlio.get_async(URI)
        assert 0.6 <= time.monotonic() - begun < 4
        assert raised.value.attempts == 2

    run(main())


def test_n13_a_body_that_drips_ends_at_the_deadline(run: Run, scripted: ScriptedServer) -> None:
    s3dlio.configure(deadline_s=0.7)

    def drip(_request: Request, connection: Connection) -> None:
        connection.send(Respond(200, {"ETag": '"v1"'}, b"x" * 60).head())
        while not connection.server.closing.wait(0.1):
            connection.send(b"x")

    scripted.then(drip)

    async def main() -> None:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            await s3dlio.get_async(URI)
        assert time.monotonic() - begun < 4

    run(main())


def test_n13_a_callback_that_takes_long_is_no_fault_of_the_server(run: Run, served: ObjectServer) -> None:
    # Timeouts and deadline alike: the body is far larger than what the sockets hold, so it cannot end while the callback runs.
    s3dlio.configure(deadline_s=1.0, silence_timeout_s=0.4, first_byte_timeout_s=0.4, max_attempts=1)
    served.objects[PATH] = DATA * 300
    served.objects["/bucket/small"] = DATA

    async def main() -> None:
        getting = [asyncio.create_task(s3dlio.get_async(uri)) for uri in (URI, "s3://bucket/small", URI)]
        await asyncio.to_thread(served.wait_for_requests, 3)
        threading.Event().wait(1.5)  # the caller computes
        views = await asyncio.gather(*getting)
        assert [len(view) for view in views] == [len(DATA) * 300, len(DATA), len(DATA) * 300]
        assert views[0] == served.objects[PATH] == views[2]

    run(main())


def test_n1_a_port_where_nobody_listens_and_a_name_that_does_not_exist(run: Run, quick_settings: None, s3_env: PointAt) -> None:
    async def main() -> None:
        s3_env("http://127.0.0.1:1")
        with pytest.raises(s3dlio.ConnectFailedError) as raised:
            await s3dlio.get_async("s3://closed/key")
        assert (raised.value.uri, raised.value.attempts) == ("s3://closed/key", 3)
        s3_env("http://no-such-host.invalid:9000")
        with pytest.raises(s3dlio.ConnectFailedError):
            await s3dlio.get_async("s3://unknown/key")

    run(main())


def test_retries_after_a_pause_need_no_other_traffic(run: Run, served: ObjectServer) -> None:
    s3dlio.configure(backoff_initial_s=0.3)
    served.objects[PATH] = DATA
    served.faults[PATH] = [Respond(503), Respond(500)]

    async def main() -> None:
        assert await s3dlio.get_async(URI) == DATA

    run(main())
    assert len(served.requests) == 3


# What would stop the event loop happens elsewhere.


def test_a_bucket_is_opened_once_and_in_a_thread(run: Run, served: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3dlio.engine.stores import s3

    opened_in: list[threading.Thread] = []
    real = s3.resolve_bucket

    def resolve(*args: Any, **kwargs: Any) -> Any:
        opened_in.append(threading.current_thread())
        return real(*args, **kwargs)

    monkeypatch.setattr(s3, "resolve_bucket", resolve)
    uris = fill(served, 20)

    async def main() -> None:
        one, *others = [asyncio.create_task(s3dlio.get_async(uri)) for uri in uris]
        await asyncio.sleep(0)
        # Whoever asked first does not take it from the others.
        one.cancel()
        views = await asyncio.gather(*others)
        assert [bytes(view) for view in views] == expected(served, uris[1:])
        await s3dlio.get_many_async(uris)

    run(main())
    assert len(opened_in) == 1
    assert opened_in[0] is not threading.main_thread()


def test_local_files_are_read_and_written_in_threads(run: Run, quick_settings: None, tmp_path: Path) -> None:
    from s3dlio.engine.stores.file import FileWire

    seen: set[bool] = set()
    real = FileWire.read
    uris = [f"file://{tmp_path}/{n}" for n in range(20)]

    async def main() -> None:
        await asyncio.gather(*(s3dlio.put_bytes_async(uri, DATA[:n]) for n, uri in enumerate(uris)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FileWire, "read", lambda *args: (seen.add(threading.current_thread() is threading.main_thread()), real(*args))[1])
            views = [*await s3dlio.get_many_async(uris), *await asyncio.gather(*(s3dlio.get_async(uri) for uri in uris))]
        assert [bytes(view) for view in views] == [DATA[:n] for n in range(20)] * 2

    run(main())
    assert seen == {False}


def test_a_read_of_files_ends_between_two_pieces_when_nobody_wants_it(
    run: Run, quick_settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3dlio.engine.pool import in_threads
    from s3dlio.engine.stores import file_wire

    monkeypatch.setattr(file_wire, "_PIECE_BYTES", 1000)
    (tmp_path / "key").write_bytes(DATA)
    reached, go_on = threading.Event(), threading.Event()
    pieces: list[int] = []
    real = in_threads.read_piece

    def read_piece(*args: Any) -> None:
        pieces.append(1)
        reached.set()
        assert go_on.wait(10)
        real(*args)

    monkeypatch.setattr(in_threads, "read_piece", read_piece)

    async def main() -> None:
        getting = asyncio.create_task(s3dlio.get_async(f"file://{tmp_path}/key"))
        await asyncio.to_thread(reached.wait, 10)
        getting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getting
        go_on.set()

    run(main())  # its end waits for the threads
    assert len(pieces) == 1


def test_a5_an_error_shows_no_secret_in_its_traceback(
    run: Run, scripted: ScriptedServer, s3_env: PointAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    import traceback

    s3_env(S3Endpoint(scripted.url, "AKIACANARY", SECRET))
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    scripted.script = lambda request: Respond(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: s3dlio.get_async(URI),
        lambda: s3dlio.get_range_async(URI, 3),
        lambda: s3dlio.get_many_async([URI]),
        lambda: s3dlio.put_bytes_async(URI, b"data"),
        lambda: s3dlio.stat_many_async([URI]),
        lambda: s3dlio.list_async("s3://bucket/"),
    ]

    async def main() -> None:
        for call in calls:
            with pytest.raises(s3dlio.PermissionDeniedError) as raised:
                await call()
            text = "".join(traceback.TracebackException.from_exception(raised.value, capture_locals=True).format())
            assert "awaited.py" in text
            assert SECRET not in text
            assert TOKEN not in text

    run(main())
