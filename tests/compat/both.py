"""The same script run with s3torchconnector and with ours, in two processes, against one server; what it returns must be the same.

Owns: the two processes, how a script gets there by its name, how what it returns, raises and warns becomes text that can be compared,
and what the script can ask: the modules of its side, and the requests that its side has sent.

    @same({"train/a": b"one", "train/b": b"two"})
    def test_a_prefix_is_listed_again_at_each_iteration(side):
        dataset = side.top.S3IterableDataset.from_prefix(side.uri("train/"), region=side.region)
        return [[item.key for item in dataset], side.sent(), [item.key for item in dataset], side.sent()]

A script runs only in the two processes, each with a bucket of its own that holds the same objects; what is left in the buckets is
compared too. It does not assert: it returns what it saw, step by step, and the comparison names the first difference.

Both processes live as long as the run, since loading torch takes seconds.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import importlib
import inspect
import json
import logging
import multiprocessing
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.leaks import standing
from tests.support.processes import ScriptProcess
from tests.support.recorder import Recorder, take_sent
from tests.support.s3_endpoint import S3Endpoint, endpoint_env

THEIRS, OURS = "theirs", "ours"
PACKAGES = {THEIRS: "", OURS: "s3dlio.compat."}
_PROGRAM = "import sys; from tests.compat.both import serve; serve(sys.argv[1])"
_START_TIMEOUT_S = 90.0
_LONGEST_BYTES = 60


class Pair:
    """The two processes, and the recording proxy between them and the server."""

    def __init__(self, endpoint: S3Endpoint) -> None:
        self._endpoint = endpoint
        self._recorder = Recorder(endpoint.url, len(PACKAGES))
        self._urls = dict(zip(PACKAGES, self._recorder.urls, strict=True))
        self._processes: dict[str, ScriptProcess] = {}
        self._start()

    def run(self, module: str, name: str, objects: Mapping[str, bytes], given: Mapping[str, Any]) -> dict[str, Any]:
        """Runs a script on both sides at once, and returns what each saw: `{"theirs": ..., "ours": ...}`.

        Args:
            module: Name of the script's module.
            name: The script's name in it.
            objects: What each side's bucket holds before.
            given: What the script gets as keywords; what JSON can say.
        """
        buckets = {side: self._filled_bucket(objects) for side in PACKAGES}
        try:
            self._start_again()
            for side, process in self._processes.items():
                process.send_line(json.dumps([module, name, buckets[side], given]))
            seen = {side: _answer(process) for side, process in self._processes.items()}
        except BaseException:
            self._stop()
            raise
        return {side: {**seen[side], "left in the bucket": self._left_in(buckets[side])} for side in PACKAGES}

    def run_in_turn(self, module: str, steps: Sequence[tuple[str, str]]) -> list[Any]:
        """Runs scripts one after the other on one bucket, each on the side named, and returns what each returned.

        Args:
            module: Name of the scripts' module.
            steps: Side and name of each.
        """
        self._start_again()
        bucket = self._filled_bucket({})
        found = []
        for side, name in steps:
            self._processes[side].send_line(json.dumps([module, name, bucket, {}]))
            seen = _answer(self._processes[side])
            assert "broke" not in seen, seen["broke"]
            found.append(seen["result"])
        return found

    def close(self) -> None:
        self._stop()
        self._recorder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        for side, url in self._urls.items():
            env = dict(os.environ)
            endpoint_env(env, dataclasses.replace(self._endpoint, url=url))
            self._processes[side] = ScriptProcess(_PROGRAM, [side], env)
        for process in self._processes.values():
            process.expect("READY", _START_TIMEOUT_S)

    def _start_again(self) -> None:
        """Starts the two anew, where a script has broken them."""
        if not self._processes:
            with standing():
                self._start()

    def _stop(self) -> None:
        processes, self._processes = self._processes, {}
        for process in processes.values():
            process.close()

    def _filled_bucket(self, objects: Mapping[str, bytes]) -> str:
        bucket = self._endpoint.new_bucket()
        for key, data in objects.items():
            self._endpoint.client().put_object(Bucket=bucket, Key=key, Body=data)
        return bucket

    def _left_in(self, bucket: str) -> Any:
        client = self._endpoint.client()
        try:
            listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
            uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        except client.exceptions.NoSuchBucket:
            return "no bucket"
        return {
            "objects": {
                one["Key"]: (
                    describe(client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()),
                    one["StorageClass"],
                )
                for one in listed
            },
            "uploads": [one["Key"] for one in uploads],
        }


class Side:
    """What a script gets: its package and its bucket.

    Attributes:
        name: "theirs" or "ours".
        top: The package that is `s3torchconnector` to the script.
        client: That which is `s3torchconnectorclient`.
        bucket: The script's own.
        url: The endpoint, which the environment names as well.
    """

    region = "us-east-1"

    def __init__(self, name: str, bucket: str) -> None:
        self.name = name
        self.top = self.module("s3torchconnector")
        self.client = self.module("s3torchconnectorclient")
        self.bucket = bucket
        self.url = os.environ["AWS_ENDPOINT_URL"]

    def module(self, name: str) -> ModuleType:
        """Returns a module by upstream's name."""
        return importlib.import_module(PACKAGES[self.name] + name)

    def environment(self) -> dict[str, str]:
        """Returns this process's variables."""
        return dict(os.environ)

    def uri(self, key: str = "") -> str:
        return f"s3://{self.bucket}/{key}"

    def new_client(self, **given: Any) -> Any:
        """Returns an `S3Client`."""
        return self.module("s3torchconnector._s3client").S3Client(self.region, **given)

    def raw(self) -> list[str]:
        """Returns every request on the bucket since this or `sent` was asked last, such as `GET a [0-9]`, in order."""
        return [text for one in take_sent(self.url) if (text := _request(one, self.bucket))]

    def sent(self) -> list[str]:
        """Returns what was asked for, each once, in order, whatever requests that took: `READ a`, `WRITE b`, `LIST p/`."""
        return list(dict.fromkeys(_gist(one) for one in self.raw() if not one.startswith(("CREATE ", "PART "))))

    def headers(self, name: str) -> list[str | None]:
        """Returns one header of every request since the last question, each value once."""
        return list(dict.fromkeys(one["headers"].get(name) for one in take_sent(self.url)))

    def tried(self, function: Callable[..., Any], *args: Any, **given: Any) -> Any:
        """Returns what a call returns, or raises, both described."""
        try:
            return function(*args, **given)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 (it is what is compared)
            return error

    def in_processes(self, work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Runs `work(side, *one)` for each of the arguments at once, each in a process of its own, and returns what each returned.

        None is a fork of this one, whose threads (torch's, or those that an earlier script left) no fork survives.
        """
        context = multiprocessing.get_context("forkserver")
        results = context.SimpleQueue()
        processes = [
            context.Process(target=_work, args=(self, work, number, one, results))
            for number, one in enumerate(arguments)
        ]
        for process in processes:
            process.start()
        found = dict(results.get() for _ in processes)
        for process in processes:
            process.join()
        results.close()
        return [found[number] for number in range(len(processes))]

    def __reduce__(self) -> tuple[Any, ...]:
        return Side, (self.name, self.bucket)

    @contextmanager
    def logged(self, level: int = logging.DEBUG) -> Iterator[list[str]]:
        """Collects what the package's own loggers say within."""
        lines: list[str] = []
        top = logging.getLogger(self.top.__name__)
        keeper = logging.Handler()
        keeper.emit = lambda record: lines.append(f"{record.levelname} {record.name} {record.getMessage()}")  # type: ignore[method-assign]
        before = top.level
        top.addHandler(keeper)
        top.setLevel(level)
        try:
            yield lines
        finally:
            top.setLevel(before)
            top.removeHandler(keeper)


def _answer(process: ScriptProcess) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(" ".join(process.expect("SEEN", 100.0)))
    return seen


def same(objects: Mapping[str, bytes] | None = None) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Makes a script a test: it must see the same with both packages.

    Args:
        objects: What the bucket holds, by key.
    """

    def decorate(script: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(script)
        def test(pair: Pair, **given: Any) -> None:
            arguments = {name: str(one) if isinstance(one, Path) else one for name, one in given.items()}
            seen = pair.run(script.__module__, script.__name__, objects or {}, arguments)
            assert "broke" not in seen[THEIRS], seen[THEIRS]["broke"]
            assert "broke" not in seen[OURS], seen[OURS]["broke"]
            assert seen[OURS] == seen[THEIRS]

        wanted = list(inspect.signature(script).parameters.values())[1:]
        pair = inspect.Parameter("pair", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        test.__signature__ = inspect.Signature([pair, *wanted])  # type: ignore[attr-defined]
        return test

    return decorate


def describe(value: Any) -> Any:
    """Returns what JSON can say of a value, such that equal descriptions mean that a program would see the same.

    A view counts as the bytes in it; what a type is called is compared where a script asks for it.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, BaseException):
        return ["raised", type(value).__name__, _plain(str(value))]
    if isinstance(value, Mapping):
        return {_plain(str(key)): describe(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(one) for one in value]
    try:
        data = bytes(memoryview(value))
    except TypeError:
        return f"<{type(value).__name__}>"
    short = len(data) <= _LONGEST_BYTES
    return repr(data) if short else f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()[:16]}"


def serve(name: str) -> None:
    """Runs scripts in this process with the package of one side, as its standard input asks for them, until that ends."""
    talk = os.fdopen(os.dup(1), "w")
    # What a package prints must not look like an answer.
    os.dup2(2, 1)
    unraisable: list[str] = []
    sys.unraisablehook = lambda found: unraisable.append(f"{found.err_msg}: {found.exc_value!r} in {found.object!r}")
    threading.excepthook = lambda found: unraisable.append(f"{found.exc_value!r} in {found.thread!r}")
    importlib.import_module(PACKAGES[name] + "s3torchconnector")
    # They live as long as this process, from the first use on; started now they are no test's leak.
    resource_tracker.ensure_running()
    forkserver.set_forkserver_preload([PACKAGES[name] + "s3torchconnector", "torch.distributed.checkpoint"])
    forkserver.ensure_running()
    # Torch alone is half a second of collecting.
    gc.freeze()
    print("READY", file=talk, flush=True)
    for line in sys.stdin:
        module, script, bucket, given = json.loads(line)
        function = inspect.unwrap(getattr(importlib.import_module(module), script))
        unraisable.clear()
        seen = _run(function, Side(name, bucket), given)
        gc.collect()
        seen["unraisable"] = [_plain(one) for one in unraisable]
        print("SEEN", json.dumps(seen), file=talk, flush=True)


def _work(side: Side, work: Callable[..., Any], number: int, arguments: tuple[Any, ...], results: Any) -> None:
    try:
        results.put((number, describe(work(side, *arguments))))
    except BaseException:  # noqa: BLE001 (it is what the comparison sees)
        results.put((number, traceback.format_exc()))


def _run(function: Callable[..., Any], side: Side, given: Mapping[str, Any]) -> dict[str, Any]:
    take_sent(side.url)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = {"result": describe(function(side, **given))}
        except BaseException:  # noqa: BLE001 (the other process shows it)
            return {"broke": f"{side.name}:\n{traceback.format_exc()}"}
        gc.collect()
    found["warned"] = sorted({f"{one.category.__name__}: {_plain(str(one.message))}" for one in warned})
    # In the texts of both sides the bucket has one name.
    return json.loads(json.dumps(found).replace(side.bucket, "BUCKET"))  # type: ignore[no-any-return]


def _plain(text: str) -> str:
    """Returns a text without what must differ: package, ports, addresses, process ids."""
    text = text.replace(PACKAGES[OURS], "")
    text = re.sub(r"127\.0\.0\.1:\d+", "SERVER", text)
    return re.sub(r"0x[0-9a-f]{6,}", "0x...", text)


def _request(sent: Mapping[str, Any], bucket: str) -> str:
    """Returns one request in S3's words; "" if it is about another bucket."""
    target = urlsplit(sent["target"])
    name, _, key = unquote(target.path).removeprefix("/").partition("/")
    if name != bucket:
        return ""
    query = parse_qs(target.query, keep_blank_values=True)
    method: str = sent["method"]
    if not key:
        return f"LIST {query.get('prefix', [''])[0]}" if "list-type" in query else f"{method} {bucket}"
    words = {
        ("POST", "uploads"): "CREATE",
        ("PUT", "partNumber"): "PART",
        ("POST", "uploadId"): "COMPLETE",
        ("DELETE", "uploadId"): "ABORT",
    }
    word = next((word for (verb, mark), word in words.items() if verb == method and mark in query), method)
    if word == "PUT" and "x-amz-copy-source" in sent["headers"]:
        word = "COPY"
    span = sent["headers"].get("range", "").removeprefix("bytes=")
    return f"{word} {key}" + (f" [{span}]" if span else "")


def _gist(request: str) -> str:
    """Returns what a request is for, without how: of a write only that it was committed or given up."""
    word, _, rest = request.partition(" ")
    key = re.sub(r" \[\d*-\d*\]$", "", rest)
    return {"GET": "READ", "PUT": "WRITE", "COMPLETE": "WRITE"}.get(word, word) + f" {key}"
