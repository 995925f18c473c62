"""Workers and strangers that say what they must not (S1, S3, S4): the coordinator lives, and every object is exact or a typed error.

One of two real worker processes is replaced by a program that works as a worker does, but for one lie.
"""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

import s3dlio
from s3dlio.engine.errors import ErrorInfo, rebuild_error
from s3dlio.engine.pool import crew
from s3dlio.engine.pool.channel import Hub
from s3dlio.engine.pool.messages import (
    MAX_MESSAGE_BYTES,
    PartCancelled,
    PartFailed,
    WorkerStarted,
    encode,
)
from tests.process.kit import Bucket, wait_quiet, wait_until, worker_processes
from tests.support.processes import ScriptProcess
from tests.support.remains import socket_directories

KIB, MIB = 1 << 10, 1 << 20

PRELUDE = """
import msgspec, os, sys
from s3dlio.engine.pool import messages
from s3dlio.engine.pool.messages import *
from s3dlio.engine.pool.worker import WorkerLoop
welcome = decode_welcome(sys.stdin.buffer.read())

class Liar(WorkerLoop):
    has_lied = False
    def _flush(self):
        self._events = [lie for event in self._events for lie in self.twist(event)]
        super()._flush()
    def twist(self, event):
        return [event]
    def say(self, batch):
        self._line.send(batch)
"""
EPILOGUE = "\n(Liar if welcome.index == 0 else WorkerLoop)(welcome).run()\n"


@pytest.fixture
def lie(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the first worker of every pool run other code: the body of a class `Liar(WorkerLoop)`."""

    def use(body: str) -> None:
        real = subprocess.Popen
        source = PRELUDE + "".join(f"    {line}\n" for line in body.strip("\n").splitlines()) + EPILOGUE

        def start(command: list[str], **rest: Any) -> subprocess.Popen[bytes]:
            assert command[1:] == ["-P", "-m", "s3dlio.engine.pool.worker"]
            return real([command[0], "-P", "-c", source], **rest)

        monkeypatch.setattr(crew.subprocess, "Popen", start)

    return use


def lies_once(batch: str) -> str:
    return f"""
def twist(self, event):
    if type(event) is not WorkerStarted and not self.has_lied:
        self.has_lied = True
        self.say({batch})
    return [event]
"""


NO_MESSAGES = {
    "garbage": r"b'\xc1\xff\x00 no message'",
    "truncated": "encode([PartCancelled(7)])[:-1]",
    "unknown-type": "msgspec.msgpack.encode([[99, 1]])",
    "another-version": "msgspec.msgpack.encode([[2, 1]])",
    "not-a-list": "msgspec.msgpack.encode({'part': 1})",
    "wrong-types": "msgspec.msgpack.encode([[4, 'seven']])",
    "beyond-64-bits": r"b'\x91\x92\x04\xc7\x09\x00' + b'\xff' * 9",
    "nothing": "b''",
}


@pytest.mark.parametrize("name", NO_MESSAGES)
def test_s1_worker_that_sends_what_is_no_message_is_killed_and_its_work_is_done_by_others(
    bucket: Bucket, lie: Callable[[str], None], name: str
) -> None:
    lie(lies_once(NO_MESSAGES[name]))
    uris = bucket.fill(60, 10 * KIB)
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB") as pool:
        wait_until(
            lambda: bucket.check(pool.fetch(uris)) == uris and pool.stats()["worker_restarts"] == 1, "the liar is found and replaced"
        )
        core = pool._core
        assert core is not None
        assert core._last_death is not None
        assert core._last_death.worker == 0
        assert "no message" in core._last_death.reason
        assert wait_quiet(pool)["memory_used_bytes"] == 0


HARMLESS = {
    "empty-batch": "encode([])",
    "unknown-parts": "encode([PartCancelled(10**9), PartCancelled(-1), PartFetched(-5, 3, 3, None, 0.0)])",
    "started-again": "encode([WorkerStarted(1)])",
    "started-again-among-others": "encode([PartCancelled(10**9), WorkerStarted(1), WorkerStarted(2)])",
    "of-other-workers": "encode([PartCancelled(number) for number in range(200) if number not in self._executor._fetches])",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_s1_what_does_not_fit_is_ignored(bucket: Bucket, lie: Callable[[str], None], name: str) -> None:
    lie(lies_once(HARMLESS[name]))
    uris = bucket.fill(60, 10 * KIB)
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB") as pool:
        for _ in range(3):
            found = list(pool.fetch(uris, errors="return"))
            assert [uri for uri, _ in found] == uris
            assert [bytes(result) == bucket.data(uri) for uri, result in found] == [True] * len(uris)
            del found
        assert wait_quiet(pool)["memory_used_bytes"] == 0
        # Among the parts that it does not have may be one that is on its way to it. Who gives that up is killed.
        assert pool.stats()["worker_restarts"] <= (name == "of-other-workers")


def test_s1_worker_that_gives_up_what_it_is_about_to_fetch_is_killed_before_its_place_is_anothers(
    bucket: Bucket, lie: Callable[[str], None]
) -> None:
    lie("""
def twist(self, event):
    if type(event) is PartFetched and not self.has_lied:
        self.has_lied = True
        return [PartCancelled(event.part)]
    return [event]
""")
    uris = bucket.fill(60, 10 * KIB)
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB") as pool:
        wait_until(
            lambda: bucket.check(pool.fetch(uris)) == uris and pool.stats()["worker_restarts"] == 1, "the liar is found and replaced"
        )
        core = pool._core
        assert core is not None
        assert core._last_death is not None
        assert "nobody had cancelled" in core._last_death.reason


CLAIMS = {
    "more-than-its-room": "msgspec.structs.replace(event, received=1 << 40, size=1 << 40)",
    "negative": "msgspec.structs.replace(event, received=-5, size=-5)",
    "less-than-all": "msgspec.structs.replace(event, received=event.received - 1)",
    "wants-less-than-nothing": "SpaceWanted(event.part, -1, 0, None)",
    "wants-all": "SpaceWanted(event.part, (1 << 62), 0, None)",
    "unknown-error": "PartFailed(event.part, messages.ErrorInfo('NoSuchClass', 'text'))",
    "no-class-of-ours": "PartFailed(event.part, messages.ErrorInfo('SystemExit', 'text', 's3://x/y', -3, 999))",
}


@pytest.mark.parametrize("name", CLAIMS)
def test_s1_claims_beyond_its_place_are_never_delivered(bucket: Bucket, lie: Callable[[str], None], name: str) -> None:
    lie(f"""
def twist(self, event):
    return [{CLAIMS[name]}] if type(event) is PartFetched else [event]
""")
    uris = bucket.fill(40, 10 * KIB)
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB") as pool:
        seen = 0
        num_failed = 0
        while not (seen and num_failed):
            for uri, result in pool.fetch(uris, errors="return"):
                if isinstance(result, s3dlio.S3dlioError):
                    num_failed += 1
                else:
                    assert bytes(result) == bucket.data(uri)
                    seen += 1
            del result
        assert wait_quiet(pool)["memory_used_bytes"] == 0


def test_s1_message_larger_than_any_of_ours_ends_the_connection_and_not_the_coordinator(
    bucket: Bucket, lie: Callable[[str], None]
) -> None:
    lie(lies_once(f"bytes({MAX_MESSAGE_BYTES + 1})"))
    uris = bucket.fill(60, 10 * KIB)
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB") as pool:
        assert bucket.check(pool.fetch(uris)) == uris
        assert wait_quiet(pool)["memory_used_bytes"] == 0


@pytest.mark.parametrize("identity", [None, b"W\0\0\0\0", b"W\0\0\0\7", b"X\0\0\0\0", b"W", b"W" * 200], ids=repr)
def test_s1_stranger_at_the_door_changes_nothing(bucket: Bucket, identity: bytes | None) -> None:
    uris = bucket.fill(30, KIB)
    s3dlio.configure(worker_start_s=3)
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    try:
        stranger.setsockopt(zmq.LINGER, 0)
        if identity is not None:
            stranger.setsockopt(zmq.IDENTITY, identity)
        with s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB") as pool:
            [folder] = socket_directories()
            stranger.connect(f"ipc://{folder}/s")
            for frames in ([b"", b""], [b"x" * MIB], [encode([PartCancelled(1)])], [b"a", b"b", b"c"], [encode([WorkerStarted(1)])]):
                stranger.send_multipart(frames)
            for _ in range(3):
                assert bucket.check(pool.fetch(uris)) == uris
    finally:
        stranger.close(0)
        context.term()


def test_s3_door_is_for_this_user_alone_and_shuts_behind_the_workers() -> None:
    old = os.umask(0)
    try:
        hub = Hub()
        address, fds = hub.open_door()
    finally:
        os.umask(old)
    try:
        folder = Path(address.removeprefix("ipc://")).parent
        assert fds == ()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == os.getuid()
        if os.geteuid() == 0:
            # Another user cannot even see it.
            source = f"import os, socket; os.setuid(65534); socket.socket(socket.AF_UNIX).connect({str(folder / 's')!r})"
            stranger = subprocess.run([sys.executable, "-I", "-c", source], capture_output=True, check=False)
            assert b"PermissionError" in stranger.stderr
        assert hub.open_door() == (address, ())
        hub.close_door()
        assert not folder.exists()
    finally:
        hub.close()


def test_s3_later_workers_come_through_an_inherited_door_without_a_name(bucket: Bucket) -> None:
    uris = bucket.fill(20, KIB)
    s3dlio.configure(worker_restarts_per_minute=100)
    with s3dlio.Pool(procs=1, jobs=4, memory_bytes="16MiB") as pool:
        assert bucket.check(pool.fetch(uris)) == uris
        before = _sockets()
        for number in range(1, 9):
            for worker in worker_processes():
                worker.kill()
            wait_until(lambda number=number: pool.stats()["worker_restarts"] == number, "the death is noticed")  # type: ignore[misc]
            assert socket_directories() == set()
            assert bucket.check(pool.fetch(uris)) == uris
        # However many restarts, the pool listens on one socket.
        wait_until(lambda: _sockets() <= before, "the connections of dead workers are closed")


def _sockets() -> int:
    return len(psutil.Process().net_connections("unix"))


FLOODER = """
import os, sys, zmq
context = zmq.Context()
peer = context.socket(zmq.DEALER)
peer.setsockopt(zmq.IDENTITY, b"W" + bytes([0, 0, 0, 3]))
peer.setsockopt(zmq.SNDHWM, 100)
peer.setsockopt(zmq.LINGER, 0)
peer.setsockopt(zmq.SNDTIMEO, 500)
peer.connect(sys.argv[1])
num = 0
try:
    while num < 100_000:
        peer.send(bytes(10_000))
        num += 1
except zmq.Again:
    pass
print("SENT", num, flush=True)
sys.stdin.readline()
"""


def test_s4_flood_is_held_back_and_a_hub_closes_at_once() -> None:
    hub = Hub()
    try:
        address, _ = hub.open_door()
        with ScriptProcess(FLOODER, [address]) as flooder:
            # A gigabyte is meant; what the coordinator does not read stays with the sender.
            assert 1000 <= int(flooder.expect("SENT", 60)[0]) < 10_000
            begun_s = time.monotonic()
            hub.close()
            assert time.monotonic() - begun_s < 1
    finally:
        hub.close_door()


def test_s4_flood_from_a_worker_is_lived_through_in_bounded_memory(bucket: Bucket, lie: Callable[[str], None]) -> None:
    lie("""
def twist(self, event):
    if type(event) is not WorkerStarted and not self.has_lied:
        self.has_lied = True
        for _ in range(10_000):
            self.say(encode([PartCancelled(10**9)] * 1000))
    return [event]
""")
    uris = bucket.fill(60, 10 * KIB)
    s3dlio.get(uris[0])
    pool = s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB")
    try:
        rss = psutil.Process().memory_info().rss
        for _ in range(2):
            assert bucket.check(pool.fetch(uris)) == uris
        # It said 70 MB in 10 000 batches, of which 1000 are taken in at a time.
        assert psutil.Process().memory_info().rss - rss < 48 * MIB
    finally:
        begun_s = time.monotonic()
        pool.close()
    # A second for its farewell, and the end of it.
    assert time.monotonic() - begun_s < 3


@pytest.fixture
def stopped(bucket: Bucket) -> Iterator[s3dlio.Pool]:
    pool = s3dlio.Pool(procs=2, jobs=4, memory_bytes="16MiB")
    bucket.check(pool.fetch(bucket.fill(8, KIB)))
    yield pool
    pool.close()


def test_s4_closing_a_pool_whose_workers_do_not_listen_takes_a_second(stopped: s3dlio.Pool) -> None:
    workers = worker_processes()
    for worker in workers:
        worker.suspend()
    begun_s = time.monotonic()
    stopped.close()
    assert time.monotonic() - begun_s < 2.5
    assert not any(worker.is_running() for worker in workers)


def test_p12_error_of_a_worker_travels_as_texts_of_bounded_length(bucket: Bucket, lie: Callable[[str], None]) -> None:
    lie("""
def twist(self, event):
    if type(event) is PartFetched:
        huge = 'x' * 200_000
        return [PartFailed(event.part, messages.ErrorInfo('ServerError', huge, None, 3, 500, None, huge))]
    return [event]
""")
    uris = bucket.fill(20, KIB)
    with s3dlio.Pool(procs=1, jobs=4, memory_bytes="16MiB") as pool:
        for uri, error in pool.fetch(uris, errors="return"):
            assert isinstance(error, s3dlio.ServerError)
            assert (error.status, error.attempts) == (500, 3)
            assert len(str(error)) < 16 * KIB
            assert len(encode([PartFailed(1, error.to_info())])) < 64 * KIB
            assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: TID251 (an error is to pickle)
            assert uri in uris


def test_p12_exception_in_a_worker_arrives_as_its_exit_code_and_last_line(bucket: Bucket, lie: Callable[[str], None]) -> None:
    lie("""
class Unpicklable(Exception):
    def __reduce__(self):
        raise TypeError('not this one')
def twist(self, event):
    if type(event) is not WorkerStarted:
        raise self.Unpicklable('a long story ' * 100_000 + 'ends here')
    return [event]
""")
    s3dlio.configure(worker_restarts_per_minute=0)
    uri = bucket.add("key", KIB)
    with s3dlio.Pool(procs=1, jobs=4, memory_bytes="16MiB") as pool:
        with pytest.raises(s3dlio.WorkerLostError) as caught:
            list(pool.fetch([uri]))
        text = str(caught.value)
        assert "exited with code 1" in text
        assert text.rstrip().endswith("ends here")
        assert len(text) < 8 * KIB
        assert caught.value.uri == uri


def test_p12_error_with_an_unknown_class_is_an_error_of_ours() -> None:
    for name in ("SystemExit", "Exception", "__import__", ""):
        error = rebuild_error(ErrorInfo(name, "text\n" * 10_000))
        assert type(error) is s3dlio.InternalError
        assert len(error.message) < 5 * KIB
