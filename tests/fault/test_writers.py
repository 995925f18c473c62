"""Writers: an object piece by piece, whole or not at all, whatever fails and whoever forgets them (U1, U4, U5)."""

from __future__ import annotations

import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import s3dlio
from s3dlio.engine.config import Settings, settings
from s3dlio.engine.ops import left_uploads, under_way
from s3dlio.engine.ops.writers import ObjectWriter
from s3dlio.engine.stores.memory import MemoryStore
from s3dlio.engine.stores.registry import locate
from s3dlio.engine.stores.s3_upload import S3Upload
from tests.fault.conftest import PointAt
from tests.support.answers import s3_error
from tests.support.s3_endpoint import S3Endpoint
from tests.support.scripted_server import Connection, Request
from tests.support.write_server import WriteServer, answered, lost

URI, PATH = "s3://bucket/key", "/bucket/key"
PART = 80 << 10
SMALL = PART // 5
"""As 5 MiB and 1 MiB: the store is told to take shorter parts than S3 does."""
DATA = random.Random(61).randbytes(4 * PART + 12_345)
REAL_PART = 5 << 20


@pytest.fixture
def store(quick_settings: None, s3_env: PointAt, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteServer]:
    """A strict server for `s3://bucket/`."""
    monkeypatch.setattr(S3Upload, "min_part_bytes", PART)
    s3dlio.configure(first_byte_timeout_s=20, silence_timeout_s=20, deadline_s=60)
    with WriteServer() as server:
        s3_env(server.url)
        yield server
        s3dlio.shutdown()


@pytest.fixture(params=["fast", "sdk"])
def lane(request: pytest.FixtureRequest, store: WriteServer) -> str:
    """Which of the two asks it."""
    name: str = request.param
    s3dlio.configure(fast_lane=name == "fast")
    return name


def in_parts(part_bytes: int = PART) -> Settings:
    return settings(put_part_bytes=part_bytes, multipart_above_bytes=part_bytes)


def writer(uri: str = URI, **given: Any) -> ObjectWriter:
    opened, key = locate(uri)
    return ObjectWriter(opened, key, limits=given.pop("limits", None) or in_parts(), **given)


def write(one: ObjectWriter, sizes: list[int]) -> bytes:
    """Writes so many bytes at a time, each from memory that is overwritten afterwards."""
    position = 0
    for size in sizes:
        piece = bytearray(DATA[position : position + size])
        one.write(piece)
        piece[:] = bytes(len(piece))
        position += size
    return DATA[:position]


def is_clean(server: WriteServer) -> bool:
    """Whether nothing is left of an upload that failed, and nothing is visible."""
    return not server.objects and not server.uploads


SHAPES: dict[str, tuple[list[int], int]] = {
    "nothing": ([], 0),
    "empty pieces": ([0, 0], 0),
    "short": ([5, 0, 7], 0),
    "as long as one request may be": ([PART], 0),
    "and that in pieces": ([PART - 1, 1], 0),
    "one byte more": ([PART + 1], 2),
    "one byte more, in pieces": ([PART, 1], 2),
    "whole parts": ([2 * PART], 2),
    "whole parts, in pieces": ([PART, PART, PART], 3),
    "small pieces": ([SMALL] * 13, 3),
    "at once": ([len(DATA)], 5),
    "across": ([1, 3 * PART, 1], 4),
    "and back": ([2 * PART, SMALL, 2 * PART - SMALL], 4),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_arrives_whole_by_as_few_requests_as_it_takes(store: WriteServer, lane: str, shape: str) -> None:
    sizes, num_parts = SHAPES[shape]
    one = writer()
    expected = write(one, sizes)
    assert not store.objects
    assert not one.is_closed
    one.close()
    assert one.is_closed
    assert one.num_bytes == len(expected)
    assert store.objects[PATH].data == expected
    assert not store.uploads
    parts = sorted(name for name in store.log if name.startswith("PUT part"))
    assert len(parts) == num_parts
    if not num_parts:
        assert store.log == ["PUT"]
    one.close()
    assert store.objects[PATH].data == expected


def test_any_buffer_is_written_and_nothing_else(store: WriteServer) -> None:
    one = writer()
    for data in (b"ab", bytearray(b"cd"), memoryview(b"ef"), np.frombuffer(b"ghij", np.uint16), np.zeros(0), b"kl"):
        one.write(data)
    for wrong in ("text", 5, None, [b"x"], memoryview(b"abcdef")[::2]):
        with pytest.raises(TypeError):
            one.write(wrong)
    one.close()
    assert store.objects[PATH].data == b"abcdefghijkl"


def test_a_part_is_sent_from_where_it_is_and_little_is_kept(store: WriteServer) -> None:
    one = writer()
    one.write(DATA)
    assert one._num_kept == len(DATA) - 4 * PART
    assert len(one._kept) <= PART
    assert len(store.uploads) == 1
    # The last one of a call is left under way, out of the writer's own memory.
    assert {"PUT part 1", "PUT part 2", "PUT part 3"} <= {*store.log}
    assert sum(map(len, one._left_blocks)) <= PART
    one.close()
    assert sorted(name for name in store.log if name.startswith("PUT part")) == [f"PUT part {n}" for n in range(1, 6)]
    assert one._num_kept == 0
    assert len(one._kept) == 0


def test_parts_grow_where_an_object_becomes_very_long(quick_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3dlio.engine.stores.memory import MemoryUpload

    seen: list[int] = []
    put_part = MemoryUpload.put_part

    def note(self: Any, number: int, data: memoryview, is_last: bool) -> Any:
        assert number == len(seen)
        seen.append(len(data))
        return put_part(self, number, data, is_last)

    monkeypatch.setattr(MemoryUpload, "max_parts", 40)
    monkeypatch.setattr(MemoryUpload, "put_part", note)
    limits = settings(multipart_above_bytes=5000)
    for sizes in ([len(DATA)], [7000] * 45 + [7]):
        seen.clear()
        one = writer("memory://writers/long", part_bytes=5000, limits=limits)
        expected = write(one, sizes)
        one.close()
        assert s3dlio.get("memory://writers/long").tobytes() == expected
        assert seen[:9] == [5000] * 4 + [10_000] * 4 + [20_000]
        assert len(seen) <= 40


def test_what_makes_no_sense_is_refused_at_once(store: WriteServer) -> None:
    opened = locate(URI)[0]
    for given_ in ({"part_bytes": 0}, {"part_bytes": 1.5}, {"max_in_flight": 0}):
        with pytest.raises(s3dlio.ConfigurationError):
            ObjectWriter(opened, "key", **given_)  # type: ignore[arg-type]
    with pytest.raises(s3dlio.ConfigurationError):
        ObjectWriter(opened, "")
    assert not store.log


def test_it_cannot_be_pickled(store: WriteServer) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(writer())


# The end that is none.


@pytest.mark.parametrize("sizes", [[], [100], [len(DATA)], [PART, PART, PART]])
def test_u1_abort_leaves_nothing(store: WriteServer, sizes: list[int]) -> None:
    one = writer()
    write(one, sizes)
    one.abort()
    one.abort()
    one.close()
    assert is_clean(store)
    with pytest.raises(ValueError, match="closed"):
        one.write(b"x")
    assert is_clean(store)


@pytest.mark.parametrize("which", ["POST begin", "PUT part 2", "PUT part 5", "POST end"])
def test_u1_a_failure_anywhere_throws_everything_away(store: WriteServer, lane: str, which: str) -> None:
    store.faults.append(answered(which, s3_error(403, "AccessDenied"), 99))
    one = writer()
    with pytest.raises(s3dlio.PermissionDeniedError):
        (one.write(DATA), one.close())
    assert is_clean(store)
    assert one.is_closed
    with pytest.raises(ValueError, match="closed"):
        one.write(b"x")
    if which in ("POST begin", "PUT part 2"):
        # Whoever passed over the error of the write must not take the object for written.
        with pytest.raises(s3dlio.PermissionDeniedError):
            one.close()
    one.close()
    assert is_clean(store)


def test_u1_an_object_of_one_request_that_fails(store: WriteServer) -> None:
    store.faults.append(answered("PUT", s3_error(403, "AccessDenied"), 99))
    one = writer()
    one.write(b"abc")
    with pytest.raises(s3dlio.PermissionDeniedError):
        one.close()
    assert one.is_closed
    one.close()
    assert is_clean(store)


@pytest.mark.parametrize("which", ["PUT", "POST begin", "PUT part 1", "PUT part 3", "POST end"])
def test_u4_answers_that_are_lost_change_nothing(store: WriteServer, lane: str, which: str) -> None:
    store.faults.append(lost(store, which))
    one = writer()
    expected = write(one, [100] if which == "PUT" else [len(DATA)])
    one.close()
    assert store.objects[PATH].data == expected


def test_u5_an_object_that_must_be_new(store: WriteServer, lane: str) -> None:
    for sizes in ([100], [len(DATA)]):
        store.objects.clear()
        one = writer(create_only=True)
        expected = write(one, sizes)
        one.close()
        with pytest.raises(s3dlio.AlreadyExistsError):
            (write(other := writer(create_only=True), sizes), other.close())
        assert store.objects[PATH].data == expected
        assert not store.uploads


@pytest.mark.parametrize("which", ["PUT part 3", "POST end"])
def test_p7_u1_ctrl_c_throws_everything_away(store: WriteServer, lane: str, which: str) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(_request: Request, connection: Connection) -> None:
        signal.pthread_kill(main, signal.SIGINT)
        connection.reset()

    store.faults.append(answered(which, interrupt))
    one = writer()
    with pytest.raises(KeyboardInterrupt):
        (one.write(DATA), one.close())
    assert is_clean(store)
    if which == "PUT part 3":
        with pytest.raises(ValueError, match="interrupted"):
            one.close()
    one.close()


# What is left under way.


class Gate:
    """Holds the next request of a kind until it is opened; then it is answered honestly, or by `answer`."""

    def __init__(self, server: WriteServer, which: str, answer: Any = None) -> None:
        self.came, self._open = threading.Event(), threading.Event()
        self._server, self._answer = server, answer
        server.faults.append(answered(which, self._hold))

    def _hold(self, request: Request, connection: Connection) -> None:
        self.came.set()
        assert self._open.wait(20)
        (self._answer or self._server.carry_out(request))(request, connection)

    def open(self) -> None:
        self._open.set()


def parts_of(one: ObjectWriter) -> threading.Thread | None:
    return one._under_way._thread


@pytest.mark.parametrize("sizes", [[3 * PART], [PART, PART], [SMALL] * 6], ids=["of one call", "filled up", "in small pieces"])
def test_a_write_does_not_wait_for_its_last_part(store: WriteServer, sizes: list[int]) -> None:
    last = {3: 2, 2: 1, 6: 1}[len(sizes) if len(sizes) > 1 else 3]
    gate = Gate(store, f"PUT part {last}")
    one = writer()
    expected = write(one, sizes)
    assert gate.came.wait(20)
    assert one.num_bytes == len(expected)
    gate.open()
    one.close()
    assert store.objects[PATH].data == expected
    assert parts_of(one) is None


@pytest.mark.parametrize("sizes", [[3 * PART] * 1, [PART + 1, PART, PART, PART], [SMALL] * 20, [3 * PART - 7, 7, PART, 1]])
def test_a_buffer_that_is_changed_after_a_write_changes_nothing_that_is_sent(store: WriteServer, lane: str, sizes: list[int]) -> None:
    # Every part has to be sent twice, the second time long after its bytes were overwritten.
    store.faults.extend(answered(f"PUT part {number}", s3_error(503, "SlowDown")) for number in range(1, 6))
    one = writer()
    expected = write(one, sizes)
    one.close()
    assert store.objects[PATH].data == expected


def test_a_buffer_may_be_changed_while_the_server_takes_its_time(store: WriteServer) -> None:
    gate = Gate(store, "PUT part 2", lambda _request, connection: connection.reset())
    one = writer()
    piece = bytearray(DATA[: 3 * PART])
    one.write(piece)
    assert gate.came.wait(20)
    piece[:] = bytes(len(piece))
    gate.open()
    one.close()
    assert store.objects[PATH].data == DATA[: 3 * PART]


def test_what_is_left_under_way_is_bounded(store: WriteServer) -> None:
    one = writer()
    for begin in range(0, 4 * PART, PART // 2):
        one.write(DATA[begin : begin + PART // 2])
        assert len(one._kept) + sum(map(len, one._left_blocks + one._free)) <= 3 * PART
        assert len(one._under_way._operations) + len(one._under_way._todo) <= 2
    one.write(DATA[4 * PART :])
    one.close()
    assert store.objects[PATH].data == DATA


@pytest.mark.parametrize("then", ["write", "close"])
def test_u1_a_failure_of_a_part_that_was_left_surfaces_at_the_next_call(store: WriteServer, lane: str, then: str) -> None:
    store.faults.append(answered("PUT part 1", s3_error(403, "AccessDenied"), 99))
    one = writer()
    one.write(DATA[: PART + 1])

    def go_on() -> None:
        while then == "write":
            one.write(b"x")
        one.close()

    with pytest.raises(s3dlio.PermissionDeniedError) as caught:
        go_on()
    assert caught.value.uri == URI
    assert is_clean(store)
    assert one.is_closed
    assert parts_of(one) is None


@pytest.mark.parametrize("how", ["abort", "drop", "collect"])
def test_u1_u3_who_throws_away_waits_for_parts_under_way(store: WriteServer, how: str) -> None:
    gate = Gate(store, "PUT part 2")
    one = writer()
    write(one, [3 * PART])
    assert gate.came.wait(20)
    timer = threading.Timer(0.2, gate.open)
    timer.start()
    if how == "abort":
        one.abort()
    elif how == "collect":
        one.circle = one  # type: ignore[attr-defined]
    del one
    gc.collect()
    left_uploads.abort_dropped()
    timer.join()
    assert is_clean(store)
    # The part arrived before the upload was thrown away, and not behind it.
    assert store.log[-2:] == ["DELETE upload", "GET parts"]
    assert store.log.count("DELETE upload") == 1


def test_u1_a_silent_server_is_not_waited_for_long(store: WriteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_way, "_SETTLING_S", 0.1)
    gate = Gate(store, "PUT part 2")
    one = writer()
    write(one, [3 * PART])
    assert gate.came.wait(20)
    one.abort()
    assert not store.uploads
    gate.open()


def test_p7_ctrl_c_while_a_write_waits_for_parts_that_were_left(store: WriteServer) -> None:
    main = threading.main_thread().ident
    assert main is not None
    gate = Gate(store, "PUT part 1", lambda _request, connection: connection.reset())
    one = writer()
    one.write(DATA[: PART + 1])
    assert gate.came.wait(20)
    timer = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        one.write(DATA[PART + 1 :])
    timer.join()
    gate.open()
    assert parts_of(one) is None
    assert is_clean(store)


def test_p10_a_child_forked_while_parts_are_under_way_touches_none(store: WriteServer) -> None:
    gate = Gate(store, "PUT part 2")
    one = writer()
    write(one, [3 * PART])
    assert gate.came.wait(20)
    pid = os.fork()
    if not pid:
        signal.alarm(10)
        code = 1
        try:
            one.abort()
            del one
            gc.collect()
            left_uploads._abort_all()
            code = 7
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    gate.open()
    one.close()
    assert store.objects[PATH].data == DATA[: 3 * PART]
    assert store.log.count("PUT part 2") == 1


# Writers that nobody closes.


@pytest.mark.parametrize("sizes", [[], [100], [len(DATA)]])
def test_u1_one_that_is_dropped_is_aborted_at_once(store: WriteServer, sizes: list[int]) -> None:
    one = writer()
    write(one, sizes)
    assert len(store.uploads) == bool(sizes and sizes[0] > PART)
    del one
    assert is_clean(store)


def test_u1_one_that_the_collector_finds_is_aborted_by_the_next_call(store: WriteServer) -> None:
    for call in (lambda: writer().close(), s3dlio.shutdown):
        one = writer()
        write(one, [len(DATA)])
        circle = [one]
        circle.append(circle)  # type: ignore[arg-type]
        del one, circle
        gc.collect()
        # It may run in the middle of anything: nothing is sent from within.
        assert "DELETE upload" not in store.log
        call()
        assert not store.uploads
        store.objects.clear()
        store.log.clear()
    assert not left_uploads._open


def test_an_exception_on_the_way_never_completes_what_was_written(store: WriteServer) -> None:
    def fails() -> None:
        one = writer()
        one.write(DATA)
        raise RuntimeError("the program")

    with pytest.raises(RuntimeError):
        fails()
    gc.collect()
    left_uploads.abort_dropped()
    assert is_clean(store)


def test_p10_a_forked_child_leaves_the_upload_of_its_parent_alone(store: WriteServer) -> None:
    one = writer()
    one.write(DATA)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            try:
                one.write(b"x")
            except ValueError:
                code = 7
            try:
                one.close()
            except ValueError:
                pass
            else:
                code = 2
            one.abort()
            del one
            gc.collect()
            left_uploads._abort_all()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert len(store.uploads) == 1
    one.close()
    assert store.objects[PATH].data == DATA


def test_p10_a_child_forked_in_the_middle_of_a_write_waits_for_nobody(store: WriteServer) -> None:
    one = writer()
    one.write(DATA)
    # Here in place of another thread, whose write would hold it.
    with one._lock:
        pid = os.fork()
        if not pid:
            signal.alarm(10)
            code = 1
            try:
                num_refused = 0
                for call in (partial(one.write, b"x"), one.close):
                    try:
                        call()
                    except ValueError:
                        num_refused += 1
                one.abort()
                code = num_refused if one.is_closed else 3
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
    one.close()
    assert store.objects[PATH].data == DATA


@pytest.mark.parametrize("how", ["pass", "raise RuntimeError", "import sys; sys.exit(3)"])
def test_u1_at_the_end_of_the_interpreter_what_is_open_is_aborted(store: WriteServer, how: str) -> None:
    program = f"""
import s3dlio
from s3dlio.engine.config import settings
from s3dlio.engine.ops.writers import ObjectWriter
from s3dlio.engine.stores.registry import locate
from s3dlio.engine.stores.s3_upload import S3Upload
S3Upload.min_part_bytes = {PART}
store, key = locate("{URI}")
writer = ObjectWriter(store, key, limits=settings(put_part_bytes={PART}, multipart_above_bytes={PART}))
writer.write(bytes({3 * PART}))
print("written", flush=True)
{how}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "written\n", done.stderr
    assert "PUT part 1" in store.log
    assert is_clean(store)


def test_threads_may_share_one(store: WriteServer) -> None:
    one = writer()
    threads = [threading.Thread(target=lambda: [one.write(b"0123456789" * 1000) for _ in range(100)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.close()
    assert store.objects[PATH].data == b"0123456789" * 800_000


# Other stores.


@pytest.mark.parametrize("server", ["moto_s3", "rclone_s3"])
def test_real_servers(server: str, request: pytest.FixtureRequest, s3_env: Callable[[S3Endpoint], None]) -> None:
    endpoint = request.getfixturevalue(server).endpoint
    s3_env(endpoint)
    uri = f"s3://{endpoint.new_bucket()}/a key"
    limits = in_parts(REAL_PART)
    for pieces in ([], [DATA], [DATA * 40], [DATA] * 40):
        one = writer(uri, limits=limits)
        for piece in pieces:
            one.write(piece)
        one.close()
        expected = b"".join(pieces)
        assert s3dlio.get(uri) == expected
    one = writer(uri, limits=limits)
    one.write(bytes(2 * REAL_PART))
    one.abort()
    assert s3dlio.get(uri) == expected


def test_gcs(gcs: Any, gcs_env: Any) -> None:
    gcs_env(gcs.endpoint)
    uri = f"gs://{gcs.endpoint.new_bucket()}/key"
    for sizes in ([], [100], [len(DATA)], [3 * SMALL] * 5, [256 << 10, 1], [256 << 10]):
        one = writer(uri, limits=in_parts(256 << 10))
        expected = write(one, sizes)
        one.close()
        assert s3dlio.get(uri) == expected
    one = writer(uri, limits=in_parts(256 << 10))
    one.write(bytes(1 << 20))
    one.abort()
    assert s3dlio.get(uri) == expected


def test_azure(azurite: Any, azure_env: Any) -> None:
    azure_env(azurite.endpoint)
    uri = f"az://{azurite.endpoint.account}/{azurite.endpoint.new_container()}/key"
    for sizes in ([], [100], [len(DATA)], [3 * SMALL] * 5):
        one = writer(uri)
        expected = write(one, sizes)
        one.close()
        assert s3dlio.get(uri) == expected
    one = writer(uri)
    one.write(bytes(3 * PART))
    one.abort()
    assert s3dlio.get(uri) == expected


@pytest.mark.parametrize("scheme", ["file", "direct"])
def test_local_files(scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "a" / "key"
    uri = f"{scheme}://{path}"
    for sizes in ([], [100], [len(DATA)], [3 * SMALL] * 5):
        one = writer(uri)
        expected = write(one, sizes)
        one.close()
        assert path.read_bytes() == expected
    for end in (ObjectWriter.abort, lambda _: None):
        one = writer(uri)
        one.write(bytes(3 * PART))
        end(one)
        del one
        assert path.read_bytes() == expected
        assert os.listdir(path.parent) == ["key"]


@hypothesis_settings(max_examples=100)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 40), st.integers(0, 2000)), max_size=30),
    part_bytes=st.integers(1, 300),
    whole_bytes=st.integers(0, 500),
    least=st.integers(1, 50),
    is_sequential=st.booleans(),
    max_parts=st.sampled_from([50, 10_000]),
)
def test_pieces_of_any_length_make_the_same_object(
    sizes: list[int], part_bytes: int, whole_bytes: int, least: int, is_sequential: bool, max_parts: int
) -> None:
    lengths: list[tuple[int, bool]] = []

    class Upload:
        def __init__(self, upload: Any) -> None:
            self._upload = upload
            self.min_part_bytes, self.is_sequential, self.max_parts = least, is_sequential, max_parts

        def put_part(self, number: int, data: memoryview, is_last: bool) -> Any:
            assert number == len(lengths)
            lengths.append((len(data), is_last))
            return self._upload.put_part(number, data, is_last)

        def complete(self) -> Any:
            return self._upload.complete()

        def abort(self) -> Any:
            return self._upload.abort()

    class Store(MemoryStore):
        def begin_upload(self, key: str, create_only: bool = False) -> Any:  # type: ignore[override]
            return Upload((yield from super().begin_upload(key, create_only)))

    limits = settings()
    one = ObjectWriter(Store("memory://property/"), "key", part_bytes=part_bytes, limits=limits)
    one._whole_bytes = whole_bytes
    expected = write(one, sizes)
    one.close()
    assert s3dlio.get("memory://property/key") == expected
    assert bool(lengths) == (len(expected) > whole_bytes)
    if lengths:
        *others, last = lengths
        assert last[1]
        assert last[0] >= 1
        assert all(not is_last and length >= least for length, is_last in others)
        assert not is_sequential or all(length % least == 0 for length, _ in others)
