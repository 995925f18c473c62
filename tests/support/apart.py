"""Tests that run in a process of their own, one for a file: a framework that they load would stay, with threads that no fork survives.

Owns: the child, how a test gets there by its name, and what the fixtures of `conftest.py` do for the others: a clean environment, a
served bucket, warnings that are errors, and the search for what is left behind.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import socket
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from .leaks import Snapshot, find_leaks, open_books, shut_down_engine, standing
from .object_server import ObjectServer
from .processes import ScriptProcess
from .s3_endpoint import endpoint_env

_GIVEN_THERE = "bucket"
_SOURCE = "import sys; from tests.support.apart import serve; serve(sys.argv[1])"


class Child:
    """The process in which the tests of a file run. It starts with the first one, and again after one that did not come back.

    Args:
        module: Name of the file as a module, such as `tests.process.test_jax`. What it has as `warm_up` is called before all tests.
        env: Added to the environment.
    """

    def __init__(self, module: str, env: Mapping[str, str] | None = None) -> None:
        self._module = module
        self._env = dict(env or {})
        self._process: ScriptProcess | None = None

    def run(self, name: str, arguments: Mapping[str, Any], timeout_s: float = 100.0) -> None:
        """Runs one test there.

        Raises:
            AssertionError: It failed, left something behind, or did not come back; the text says all.
        """
        if self._process is None:
            with standing():
                self._process = ScriptProcess(_SOURCE, [self._module], {**os.environ, **self._env})
                self._process.expect("READY", timeout_s)
        try:
            self._process.send_line(json.dumps([name, arguments]))
            problem = json.loads(" ".join(self._process.expect("RESULT", timeout_s)))
        except BaseException:
            self.close()
            raise
        assert problem is None, problem

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def apart(function: Callable[..., None]) -> Callable[..., None]:
    """Has a test run in the fixture `child`, a `Child`, of its file.

    There it gets a `bucket`, if it asks for one; whatever else it asks for it gets from here, as text and numbers.
    """

    @functools.wraps(function)
    def test(child: Child, **given: Any) -> None:
        arguments = {name: str(one) if isinstance(one, Path) else one for name, one in given.items()}
        child.run(function.__name__, arguments)

    wanted = [one for one in inspect.signature(function).parameters.values() if one.name != _GIVEN_THERE]
    child = inspect.Parameter("child", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    test.__signature__ = inspect.Signature([child, *wanted])  # type: ignore[attr-defined]
    return test


def serve(name: str) -> None:
    """Runs tests of a module in this process, as its standard input asks for them, until that ends."""
    warnings.simplefilter("error")
    unraisable: list[str] = []
    sys.unraisablehook = lambda found: unraisable.append(f"{found.err_msg}: {found.exc_value!r} in {found.object!r}")
    threading.excepthook = lambda found: unraisable.append(f"{found.exc_value!r} in {found.thread!r}")
    module = importlib.import_module(name)
    module.warm_up()
    print("READY", flush=True)  # noqa: T201 (that is how they talk)
    for line in sys.stdin:
        test, arguments = json.loads(line)
        problem = _run(getattr(module, test).__wrapped__, arguments, unraisable)
        print("RESULT", json.dumps(problem), flush=True)  # noqa: T201


def _run(function: Callable[..., None], arguments: dict[str, Any], unraisable: list[str]) -> str | None:
    """Returns what went wrong with a test; None if it passed."""
    from tests.process.kit import Bucket

    config = importlib.import_module("s3dlio.engine.config")
    before = open_books()
    unraisable.clear()
    try:
        with pytest.MonkeyPatch.context() as patch, ObjectServer() as server:
            endpoint_env(patch, server.url)
            config.configure(max_attempts=4, backoff_initial_s=0.01, backoff_max_s=0.1)
            if _GIVEN_THERE in inspect.signature(function).parameters:
                arguments[_GIVEN_THERE] = Bucket(server)
            function(**arguments)
    except BaseException:  # noqa: BLE001 (the other process raises it)
        return traceback.format_exc()
    finally:
        shut_down_engine()
        config.configure(**dict.fromkeys(config.Settings.__struct_fields__))
        arguments.clear()
    leaks = find_leaks(before)
    # Threads that Python did not start, in which it ran something once, are known to it for ever.
    threads = Counter({thread: num for thread, num in leaks.threads.items() if not thread.startswith("Dummy-")})
    leaks = Snapshot(leaks.fds, threads, leaks.children, leaks.files)
    if leaks:
        return f"the test left behind:\n{leaks}"
    return "\n".join(unraisable) or None


def start(source: str, args: Sequence[str], env: Mapping[str, str]) -> ScriptProcess:
    """Starts a program with some variables added to this environment."""
    return ScriptProcess(source, args, {**os.environ, **env})


def free_port() -> int:
    """Returns a TCP port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
