"""What the tests of trainings that fail share: data sets of each kind, their order without failures, and programs that have torch loaded.

The programs are forks of one process that has imported torch and s3dlio and used neither: importing takes seconds, a fork none.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

import psutil

import s3dlio
from s3dlio import ObjectRef, ObjectStoreIterableDataset
from tests.process.kit import Bucket, worker_processes
from tests.process.torch_kit import raw
from tests.support.answers import Respond
from tests.support.object_server import ObjectServer
from tests.support.processes import REPOSITORY, ScriptProcess
from tests.support.scripted_server import Connection, Handler, Request

BATCH = 4
KINDS = ("samples", "rows", "lists")
"""Samples one by one; batches in one slot each, since the listing knows the sizes; batches of single objects, since it does not."""


class Training:
    """Objects of one size in a bucket, and a data set of one kind over them.

    Attributes:
        uris: Of the objects, in the order of the listing.
        arguments: Of the data set.
    """

    def __init__(self, bucket: Bucket, kind: str, num: int = 40, nbytes: int = 20_000, **arguments: Any) -> None:
        self.bucket = bucket
        self.uris = bucket.fill(num, nbytes)
        self.kind = kind
        # What a listing would know: the size and the version of each. The server cannot list.
        self._wanted: list[Any] = (
            [*self.uris] if kind == "lists" else [ObjectRef(uri, nbytes, s3dlio.stat(uri)["etag"]) for uri in self.uris]
        )
        self.arguments = {"shuffle": True, "seed": 5, "procs": 2, "memory_bytes": "32MiB", **arguments}
        if kind != "samples":
            self.arguments["batch_size"] = BATCH
        self._numbers = {bucket.data(uri): number for number, uri in enumerate(self.uris)}

    def dataset(self, **arguments: Any) -> ObjectStoreIterableDataset:
        """Returns a data set over the objects; arguments here stand above the training's."""
        return ObjectStoreIterableDataset(self._wanted, **(self.arguments | arguments))

    def order(self, epoch: int = 0) -> list[int]:
        """Returns the order of an epoch as it is where nothing fails: of a data set without processes, that reads one by one."""
        quiet = ObjectStoreIterableDataset(
            self.uris, shuffle=self.arguments["shuffle"], seed=self.arguments["seed"], procs=0
        )
        quiet.set_epoch(epoch)
        order = self.numbers(quiet)
        assert sorted(order) == list(range(len(self.uris)))
        return order

    def units(self, order: Sequence[int]) -> list[list[int]]:
        """Returns an order as this kind of data set gives it: samples by themselves, or in batches."""
        size = 1 if self.kind == "samples" else BATCH
        return [list(order[begin : begin + size]) for begin in range(0, len(order), size)]

    def numbers(self, samples: Iterable[Any]) -> list[int]:
        """Returns which objects samples are, all bytes compared."""
        return [self._numbers[raw(sample)] for sample in samples]

    def unit(self, given: Any) -> list[int]:
        """Returns which objects the samples of what the loop was given are, all bytes compared."""
        return self.numbers([given] if self.kind == "samples" else given)

    def read(self, dataset: Iterable[Any]) -> list[list[int]]:
        """Reads to the end."""
        return [self.unit(given) for given in dataset]

    def path(self, number: int) -> str:
        return self.bucket.path(self.uris[number].rpartition("/")[2])

    def fault(self, number: int, *handlers: Handler) -> None:
        """Has the next requests for an object answered otherwise."""
        self.bucket.server.faults[self.path(number)] = list(handlers)


def honest_answer(request: Request, connection: Connection) -> Respond:
    """Returns what the server answers where there is no fault."""
    return cast("ObjectServer", connection.server).honest(request)


class Signaller:
    """Sends a signal to the worker process that asks for an object, in the middle of the answer.

    Attributes:
        hit: Those that were signalled.
    """

    def __init__(self, number: signal.Signals = signal.SIGKILL, num_bytes: int = 5000) -> None:
        self.number = number
        self.num_bytes = num_bytes
        self.hit: list[psutil.Process] = []

    def __call__(self, request: Request, connection: Connection) -> None:
        answer = honest_answer(request, connection)
        connection.send(answer.head())
        connection.send(memoryview(answer.body)[: self.num_bytes])
        port = connection._sock.getpeername()[1]
        for worker in worker_processes():
            if port in _ports(worker):
                # Another answer to the same worker may have killed it just now.
                with suppress(psutil.NoSuchProcess):
                    worker.send_signal(self.number)
                    self.hit.append(worker)
        try:
            connection.send(memoryview(answer.body)[self.num_bytes :])
        except OSError:
            connection.reset()


def _ports(process: psutil.Process) -> set[int]:
    try:
        return {own.laddr.port for own in process.net_connections("tcp")}
    except psutil.NoSuchProcess:
        return set()


# Programs.

_NURSERY = """
import json, os, signal, socket, sys, tempfile
import torch
from torch.utils.data import DataLoader
import s3dlio
from s3dlio import ObjectStoreIterableDataset, ObjectStoreMapDataset

def wait_for_program(channel):
    while True:
        message, fds, _, _ = socket.recv_fds(channel, 1 << 20, 3)
        if not message:
            return None
        pid = os.fork()
        if pid == 0:
            channel.close()
            program = json.loads(message)
            os.setsid()
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
                os.close(fd)
            os.environ.clear()
            os.environ.update(program["env"])
            tempfile.tempdir = None
            sys.argv[:] = ["-c", *program["args"]]
            return program["source"]
        for fd in fds:
            os.close(fd)
        channel.send(b"%d" % pid)
        channel.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

source = wait_for_program(socket.socket(fileno=int(sys.argv[1])))
if source is not None:
    exec(compile(source, "<program>", "exec"))
"""


class Nursery:
    """A process from which programs are forked, one at a time; they are its main module, with torch and the data sets in it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", _NURSERY, str(theirs.fileno())],
                cwd=REPOSITORY,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.channel = ours

    def start(self, source: str, args: Sequence[str] = ()) -> Program:
        """Forks a program that runs `source`, in a session of its own, with the environment of this process."""
        return Program(self.channel, source, args)

    def close(self) -> None:
        """Ends it."""
        # Workers of a test that has failed may live, and have a copy of the channel: closing it would say nothing.
        self.channel.shutdown(socket.SHUT_RDWR)
        self.channel.close()
        self._popen.wait()


class Program(ScriptProcess):
    """A program of the nursery."""

    def __init__(self, channel: socket.socket, source: str, args: Sequence[str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (as of ScriptProcess)
        self._unread = bytearray()
        self._seen = {}
        self.popen = cast(
            "Any",
            _Forked(channel, {"source": source, "args": list(args), "env": _environment()}, self._stderr.fileno()),
        )
        self.process = psutil.Process(self.popen.pid)


def _environment() -> dict[str, str]:
    """Returns the environment as the test has set it."""
    return dict(os.environ)  # noqa: TID251 (of programs under test; what is read there is theirs)


class _Forked:
    """As a `subprocess.Popen`, of a process that is the nursery's child."""

    def __init__(self, channel: socket.socket, program: dict[str, Any], stderr: int) -> None:
        self._channel = channel
        self._code: int | None = None
        stdin, to_stdin = os.pipe()
        from_stdout, stdout = os.pipe()
        self.stdin, self.stdout = os.fdopen(to_stdin, "wb", 0), os.fdopen(from_stdout, "rb", 0)
        channel.settimeout(60)
        socket.send_fds(channel, [json.dumps(program).encode()], [stdin, stdout, stderr])
        for fd in (stdin, stdout):
            os.close(fd)
        self.pid = int(channel.recv(100))

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 30.0) -> int:
        if self._code is None:
            self._channel.settimeout(timeout_s)
            self._code = int(self._channel.recv(100))
        return self._code
