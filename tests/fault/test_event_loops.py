"""Event loops begin, end, fork and are many; calls are cancelled at any moment. Nothing stays behind, no byte lands in a wrong place."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

import s3dlio
from s3dlio.engine.pool.rooms import process_rooms
from tests.fault.conftest import NewLoop, Run
from tests.fault.test_awaited import expected, fill
from tests.process.kit import wait_until
from tests.support.answers import stall_after, stall_before_headers
from tests.support.object_server import ObjectServer
from tests.support.processes import ScriptProcess
from tests.support.scripted_server import Connection, Request

URI, PATH = "s3://bucket/key", "/bucket/key"
DATA = random.Random(4).randbytes(100_000)
NEVER = threading.Event()


def used_bytes() -> int:
    """What results and requests hold of the process's memory."""
    gc.collect()
    arena = process_rooms().arena
    with arena.lock:
        arena.collect()
    return arena.slots.beyond_bytes


def connections_to(server: ObjectServer) -> int:
    """Our sockets that are connected to the server. (It does not itself notice who hangs up while it stalls.)"""
    return sum(bool(one.raddr) and one.raddr.port == server.port for one in psutil.Process().net_connections("tcp"))


@pytest.fixture
def stalled(served: ObjectServer) -> ObjectServer:
    """`s3://bucket/key` sends half of its body, and then no more."""
    served.objects[PATH] = DATA
    served.faults[PATH] = [stall_after(50_000, NEVER)] * 500
    return served


async def half_received(served: ObjectServer) -> None:
    """Waits until memory has been granted for the stalled object."""
    await asyncio.to_thread(served.wait_for_requests, 1)
    await asyncio.to_thread(wait_until, lambda: used_bytes() > 0, "the head is here")


# Beginning and end.


def test_nothing_is_left_of_a_loop_that_has_ended_and_the_next_begins_anew(run: Run, served: ObjectServer) -> None:
    uris = fill(served, 10)

    async def main() -> None:
        assert [bytes(view) for view in await s3dlio.get_many_async(uris)] == expected(served, uris)
        await asyncio.gather(*(s3dlio.get_async(uri) for uri in uris))

    for _ in range(3):
        run(main())
        # Not when the engine is shut down, nor when garbage is collected: now.
        served.wait_for_silence()


@pytest.mark.parametrize("is_shut_down", [True, False])
def test_a_loop_that_is_closed_with_requests_in_flight_leaves_no_connection(
    new_loop: NewLoop, stalled: ObjectServer, is_shut_down: bool
) -> None:
    complaints: list[str] = []
    loop = new_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
    task = loop.create_task(s3dlio.get_async(URI))
    many = loop.create_task(s3dlio.get_many_async([URI] * 100, 40))
    loop.run_until_complete(half_received(stalled))
    if is_shut_down:
        loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    assert connections_to(stalled) == 41
    loop.close()
    assert connections_to(stalled) == 0
    # asyncio says so of any task; the coroutines hear of it only now, and have no loop to turn to.
    del task, many
    gc.collect()
    assert set(complaints) <= {"Task was destroyed but it is pending!"}
    assert used_bytes() == 0


def test_a_loop_that_is_dropped_leaves_no_connection(served: ObjectServer) -> None:
    # One of asyncio's: uvloop keeps a loop that was not closed for ever, so only `shutdown` ends its connections.
    uris = fill(served, 3)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(s3dlio.get_many_async(uris))
    loop.run_until_complete(loop.shutdown_default_executor())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # asyncio's own, about the loop
        del loop
        gc.collect()
    served.wait_for_silence()


def test_generators_may_use_the_store_when_the_loop_ends(run: Run, served: ObjectServer) -> None:
    uris = fill(served, 3)
    found: list[bytes] = []
    generators = []

    async def generate() -> Any:
        try:
            yield
        finally:
            found.extend(bytes(view) for view in await s3dlio.get_many_async(uris))

    async def main() -> None:
        await s3dlio.get_async(uris[0])
        generators.append(generate())
        await anext(generators[0])

    run(main())
    assert found == expected(served, uris)
    served.wait_for_silence()


def test_several_loops_in_several_threads(new_loop: NewLoop, served: ObjectServer) -> None:
    uris = fill(served, 40)

    async def main() -> list[bytes]:
        many, singles = await asyncio.gather(
            s3dlio.get_many_async(uris, 8), asyncio.gather(*(s3dlio.get_async(uri) for uri in uris))
        )
        return [bytes(view) for view in [*many, *singles]]

    def run_one(_: int) -> list[bytes]:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(main())

    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(run_one, range(8)):
            assert found == expected(served, uris) * 2
    served.wait_for_silence()


def test_shutdown_reaches_loops_that_stand_still_run_elsewhere_or_run_here(new_loop: NewLoop, served: ObjectServer) -> None:
    uris = fill(served, 3)
    standing = new_loop()
    standing.run_until_complete(s3dlio.get_many_async(uris))
    s3dlio.shutdown()
    served.wait_for_silence()

    running = threading.Thread(target=standing.run_forever)
    running.start()
    asyncio.run_coroutine_threadsafe(s3dlio.get_many_async(uris), standing).result(10)
    s3dlio.shutdown()
    served.wait_for_silence()

    async def shut_down_here() -> None:
        s3dlio.shutdown()

    for work in (s3dlio.get_many_async(uris), shut_down_here()):
        asyncio.run_coroutine_threadsafe(work, standing).result(10)
    served.wait_for_silence()
    views = asyncio.run_coroutine_threadsafe(s3dlio.get_many_async(uris), standing).result(10)
    assert [bytes(view) for view in views] == expected(served, uris)
    standing.call_soon_threadsafe(standing.stop)
    running.join(10)
    standing.run_until_complete(standing.shutdown_default_executor())
    standing.close()


def test_shutdown_lets_requests_end_that_are_under_way(run: Run, served: ObjectServer) -> None:
    go_on = threading.Event()
    uris = fill(served, 3)
    served.objects[PATH] = DATA
    served.faults[PATH] = [stall_after(50_000, go_on)]

    async def main() -> None:
        s3dlio.configure(silence_timeout_s=10)
        getting = asyncio.create_task(s3dlio.get_async(URI))
        await half_received(served)
        s3dlio.shutdown()
        view = await s3dlio.get_async(uris[0])
        assert bytes(view) == served.objects["/bucket/0"]
        go_on.set()
        assert await getting == DATA
        # Several requests, one after the other, over a shutdown.
        ranging = asyncio.create_task(s3dlio.get_range_async(URI, len(DATA)))
        await asyncio.sleep(0)
        s3dlio.shutdown()
        assert len(await ranging) == 0

    run(main())


FORK = """
import asyncio, os, sys, s3dlio
uris = sys.argv[1:]
async def get():
    views = await asyncio.gather(*(s3dlio.get_async(uri) for uri in uris))
    return [bytes(view) for view in views] == [bytes(view) for view in await s3dlio.get_many_async(uris)]
async def main():
    kept = await s3dlio.get_many_async(uris)
    copies = [bytes(view) for view in kept]
    under_way = asyncio.create_task(get())
    await asyncio.sleep(0)
    pid = os.fork()
    if pid == 0:
        try:
            asyncio._set_running_loop(None)
            fine = asyncio.run(get()) and copies == [bytes(view) for view in kept]
            s3dlio.shutdown()
        finally:
            os._exit(7 if fine else 1)
    assert await under_way
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert await get()
    print("CHILD", os.waitstatus_to_exitcode(status), copies == [bytes(view) for view in kept], flush=True)
asyncio.run(main())
"""


def test_p10_a_child_that_was_forked_in_a_coroutine_has_connections_of_its_own(served: ObjectServer) -> None:
    with ScriptProcess(FORK, fill(served, 20)) as program:
        assert program.expect("CHILD", 30) == ["7", "True"]
        assert program.wait() == 0
        assert program.stderr_text() == ""


def test_a_fault_of_our_own_ends_what_is_under_way_and_the_next_call_works(
    new_loop: NewLoop, stalled: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3dlio.engine.fetch.loop import FetchLoop

    uris = fill(stalled, 3)
    stalled.faults["/bucket/silent"] = [stall_before_headers(NEVER)] * 80
    stalled.objects["/bucket/silent"] = b""
    complaints: list[Any] = []

    def fail(*_: Any) -> None:
        monkeypatch.undo()
        raise AssertionError("broken books")

    async def main() -> None:
        calls = (s3dlio.get_async(URI), s3dlio.get_many_async([URI] * 80), s3dlio.stat_many_async(["s3://bucket/silent"] * 80))
        tasks = [asyncio.create_task(call) for call in calls]
        await half_received(stalled)
        monkeypatch.setattr(FetchLoop, "poll", fail)
        for found in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(found, s3dlio.InternalError)
            assert "broken books" in str(found)
        views = await s3dlio.get_many_async(uris)
        assert [bytes(view) for view in views] == expected(stalled, uris)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context["exception"]))
        runner.run(main())
    assert [str(error) for error in complaints] == ["broken books"]
    assert used_bytes() == 0


# Cancelled calls.


CALLS: dict[str, Callable[[], Any]] = {
    "get": lambda: s3dlio.get_async(URI),
    "get_range": lambda: s3dlio.get_range_async(URI, 1),
    "get_many": lambda: s3dlio.get_many_async([URI] * 100),
    "mixed": lambda: s3dlio.get_many_async([URI, "memory://awaited/nothing"]),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_cancelled_call_frees_its_memory_and_its_connection_at_once(run: Run, stalled: ObjectServer, call: str) -> None:
    async def main() -> None:
        task = asyncio.create_task(CALLS[call]())
        await half_received(stalled)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        assert used_bytes() == 0
        assert connections_to(stalled) == 0
        stalled.faults.clear()
        assert await s3dlio.get_async(URI) == DATA

    run(main())


def test_a_timeout_of_the_callers_is_asyncios_own(run: Run, stalled: ObjectServer) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError) as raised:
            async with asyncio.timeout(0.05):
                await s3dlio.get_async(URI)
        assert not isinstance(raised.value, s3dlio.S3dlioError)
        assert connections_to(stalled) == 0

    run(main())


def test_the_others_of_a_group_are_cancelled_when_one_fails(run: Run, stalled: ObjectServer) -> None:
    async def get_two() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(s3dlio.get_async(URI))
            await half_received(stalled)
            group.create_task(s3dlio.get_async("s3://bucket/no"))

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as raised:
            await get_two()
        assert [type(error) for error in raised.value.exceptions] == [s3dlio.NotFoundError]
        assert used_bytes() == 0
        assert connections_to(stalled) == 1  # of the one that failed, kept for the next

    run(main())


@pytest.mark.parametrize("verb", ["put_bytes_async", "stat_many_async", "list_async", "exists_async"])
def test_small_requests_can_be_cancelled_too(run: Run, served: ObjectServer, verb: str) -> None:
    served.script = lambda _request: stall_before_headers(NEVER)
    arguments: dict[str, tuple[Any, ...]] = {"put_bytes_async": (URI, b"x" * 3_000_000), "stat_many_async": ([URI] * 200,)}

    async def main() -> None:
        task = asyncio.create_task(getattr(s3dlio, verb)(*arguments.get(verb, (URI,))))
        await asyncio.to_thread(served.wait_for_requests, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert connections_to(served) == 0

    run(main())


def test_m5_no_late_write_lands_in_memory_that_was_given_to_others(run: Run, served: ObjectServer) -> None:
    # Bodies come in many small pieces, calls are cancelled at any moment, and freed memory is overwritten and granted again at once.
    s3dlio.shutdown()
    s3dlio.configure(poison_freed=True, jobs=16, silence_timeout_s=10)
    rng = random.Random(17)
    uris = fill(served, 60, 30_000)

    def in_pieces(request: Request, connection: Connection) -> None:
        answer = served.honest(request)
        connection.send(answer.head())
        for start in range(0, len(answer.body), 5000):
            connection.send(memoryview(answer.body)[start : start + 5000])
            connection.server.closing.wait(0.0005)

    served.script = lambda request: in_pieces if "range" not in request.headers else served.honest(request)
    kept: list[tuple[bytes, Any]] = []

    async def get(number: int) -> None:
        if number % 10:
            uri = rng.choice(uris)
            kept.append((expected(served, [uri])[0], await s3dlio.get_async(uri)))
        else:
            some = rng.sample(uris, 8)
            kept.extend(zip(expected(served, some), await s3dlio.get_many_async(some, 4), strict=True))

    async def main() -> None:
        for _ in range(4):
            tasks = [asyncio.create_task(get(number)) for number in range(100)]
            while running := [task for task in tasks if not task.done()]:
                for task in rng.sample(running, len(running) // 12):
                    task.cancel()
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            assert {task.exception() for task in tasks if not task.cancelled()} == {None}
            assert any(task.cancelled() for task in tasks)
            # Half of what came is let go, and its memory is used for the next round.
            assert all(view == data for data, view in kept)
            del kept[::2]

    run(main())
    assert len(kept) > 30
    assert all(view == data for data, view in kept)
    kept.clear()
    assert used_bytes() == 0
