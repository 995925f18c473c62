"""Fixtures of the fault tests: a server of broken answers behind `s3://bucket/`, and settings under which faults are over quickly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import s3dlio
from tests.support.leaks import standing
from tests.support.object_server import ObjectServer
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import ScriptedServer

PointAt = Callable[[S3Endpoint | str], None]
NewLoop = Callable[[], asyncio.AbstractEventLoop]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def quick_settings(clean_aws_env: None) -> None:
    """Three attempts, and waits of at most half a second each; conftest takes them back."""
    s3dlio.configure(
        max_attempts=3,
        backoff_initial_s=0.01,
        silence_timeout_s=0.5,
        first_byte_timeout_s=0.5,
        connect_timeout_s=0.5,
        deadline_s=5,
    )


@pytest.fixture
def served(object_server: ObjectServer, s3_env: PointAt, quick_settings: None) -> Iterator[ObjectServer]:
    """An honest server for `s3://bucket/`, whose answers are broken by `served.faults["/bucket/key"]`."""
    s3_env(object_server.url)
    yield object_server
    s3dlio.shutdown()


@pytest.fixture
def scripted(scripted_server: ScriptedServer, s3_env: PointAt, quick_settings: None) -> Iterator[ScriptedServer]:
    """A server for `s3://bucket/` that says only what the test scripts."""
    s3_env(scripted_server.url)
    yield scripted_server
    s3dlio.shutdown()


@pytest.fixture(params=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> NewLoop:
    """Makes event loops, of both kinds."""
    if request.param == "uvloop":
        import uvloop

        with standing():
            # libuv opens a pipe for signals, for the life of the process.
            uvloop.new_event_loop().close()
        return uvloop.new_event_loop
    return asyncio.new_event_loop


@pytest.fixture
def run(new_loop: NewLoop) -> Run:
    """Runs a coroutine in an event loop of its own, as `asyncio.run`, and fails where the loop had to complain about something."""

    def run_one(main: Coroutine[Any, Any, Any]) -> Any:
        complaints: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
            result = runner.run(main)
        assert complaints == []
        return result

    return run_one
