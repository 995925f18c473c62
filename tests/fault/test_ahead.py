"""Objects fetched ahead of whoever takes them: exact, bounded, and calm when they are passed over, dropped, interrupted or forked."""

from __future__ import annotations

import gc
import os
import pickle
import random
import signal
import threading
import weakref
import zlib
from base64 import b64encode
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import s3dlio
from s3dlio.engine.config import settings
from s3dlio.engine.pool.ahead import Ahead
from s3dlio.engine.pool.parted import Wanted
from s3dlio.engine.pool.rooms import process_rooms
from s3dlio.engine.stores.registry import locate
from tests.support.answers import cut_after, flipped, reset_before_headers, s3_error, stall_before_headers
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import Connection, Request

KIB = 1 << 10
PART = 64 * KIB


def content(number: int, num_bytes: int) -> bytes:
    return random.Random(f"{number} {num_bytes}").randbytes(num_bytes)


class Objects:
    """Numbered objects on a server, and how they are asked for."""

    def __init__(self, server: ObjectServer, sizes: list[int]) -> None:
        self.server = server
        self.data = [content(number, num_bytes) for number, num_bytes in enumerate(sizes)]
        for number, data in enumerate(self.data):
            server.objects[self.path(number)] = data
        self.num_asked = 0

    @staticmethod
    def path(number: int) -> str:
        return f"/bucket/{number}"

    def requests(self, knows: bool = False) -> Iterator[Wanted]:
        store = locate("s3://bucket/")[0]
        for number, data in enumerate(self.data):
            self.num_asked = number + 1
            facts: dict[str, Any] = {"size": len(data), "version": self.server.etag(self.path(number)).strip('"')} if knows else {}
            yield Wanted(store, f"s3://bucket/{number}", f"{number}", **facts)

    def ahead(self, max_in_flight: int = 4, max_bytes: int = 1 << 20, knows: bool = False, **limits: Any) -> Ahead:
        return Ahead(
            self.requests(knows),
            max_in_flight=max_in_flight,
            max_bytes=max_bytes,
            limits=settings(part_bytes=PART, split_above_bytes=PART, **limits),
        )

    def num_got(self) -> int:
        return len({request.path for request in list(self.server.requests)})


@pytest.fixture
def many(served: ObjectServer) -> Objects:
    """Fifty objects of ten KiB."""
    return Objects(served, [10 * KIB] * 50)


def test_objects_come_in_order_and_nothing_is_asked_before_the_first(many: Objects) -> None:
    ahead = many.ahead()
    assert many.num_asked == 0
    assert not many.server.requests
    for number, data in enumerate(many.data):
        assert bytes(ahead.take(number)) == data
    assert len(many.server.requests) == 50
    for number in (0, 49, 50):
        with pytest.raises(LookupError):
            ahead.take(number)
    assert len(many.server.requests) == 50


@pytest.mark.parametrize("knows", [False, True])
def test_what_is_ahead_is_bounded_by_number(many: Objects, knows: bool) -> None:
    ahead = many.ahead(max_in_flight=3, knows=knows)
    ahead.take(0)
    assert many.num_asked <= 1 + 2 * 3 + 1
    many.server.wait_for_requests(4)
    ahead.close()
    assert many.num_got() <= 1 + 2 * 3


def test_small_ones_are_begun_together_and_long_ones_as_soon_as_there_is_room(many: Objects) -> None:
    for max_bytes, together in ((1 << 20, {0, 4}), (60 * KIB, {1})):
        ahead = many.ahead(max_in_flight=16, max_bytes=max_bytes, knows=True)
        asked = []
        for number in range(16):
            ahead.take(number)
            asked.append(many.num_asked)
        assert {after - before for before, after in pairwise(asked)} == together
        ahead.close()


@pytest.mark.parametrize("knows", [False, True])
@pytest.mark.parametrize("max_bytes", [1, 25 * KIB, 100 * KIB])
def test_what_is_ahead_is_bounded_by_bytes(served: ObjectServer, knows: bool, max_bytes: int) -> None:
    # The first ones are small: those behind them are longer than was thought, and wait in their sockets.
    many = Objects(served, [10] * 5 + [10 * KIB] * 20 + [200 * KIB] * 4 + [0] * 5)
    ahead = many.ahead(max_in_flight=8, max_bytes=max_bytes, knows=knows)
    arena = process_rooms().arena
    for number, data in enumerate(many.data):
        view = ahead.take(number)
        assert bytes(view) == data
        arena.collect()
        # Slots are pages.
        assert arena.leased_bytes <= max(max_bytes, 0) + len(data) + 17 * 4 * KIB, number
        del view
    assert arena.collect() is not None
    assert arena.num_leased == 0


def test_one_that_is_longer_than_all_that_may_be_held_comes_all_the_same(served: ObjectServer) -> None:
    many = Objects(served, [10, 900 * KIB, 10, 900 * KIB, 900 * KIB])
    for knows in (False, True):
        ahead = many.ahead(max_bytes=1000, knows=knows)
        assert [bytes(ahead.take(number)) for number in range(5)] == many.data


def test_what_is_passed_over_is_given_up(many: Objects) -> None:
    ahead = many.ahead(max_in_flight=4)
    assert bytes(ahead.take(0)) == many.data[0]
    assert bytes(ahead.take(30)) == many.data[30]
    assert many.num_got() <= 1 + 8 + 1 + 8
    for number in (0, 1, 29, 30):
        with pytest.raises(LookupError, match=f"object {number} is not"):
            ahead.take(number)
    assert bytes(ahead.take(31)) == many.data[31]
    assert bytes(ahead.take(49)) == many.data[49]
    with pytest.raises(LookupError):
        ahead.take(48)
    gc.collect()
    arena = process_rooms().arena
    arena.collect()
    assert arena.num_leased == 0


def test_an_object_has_its_own_error_and_the_others_come(many: Objects) -> None:
    del many.server.objects[many.path(3)]
    many.server.faults[many.path(5)] = [cut_after(0)] * 3
    many.server.faults[many.path(6)] = [reset_before_headers(), cut_after(0)]
    many.server.faults[many.path(7)] = [s3_error(403, "AccessDenied")]
    ahead = many.ahead()
    errors = {3: s3dlio.NotFoundError, 5: s3dlio.TruncatedBodyError, 7: s3dlio.PermissionDeniedError}
    for number, data in enumerate(many.data):
        if number in errors:
            with pytest.raises(errors[number]) as caught:
                ahead.take(number)
            assert caught.value.uri == f"s3://bucket/{number}"
        else:
            assert bytes(ahead.take(number)) == data


def test_i4_wrong_bytes_are_never_handed_out(served: ObjectServer) -> None:
    many = Objects(served, [10 * KIB, 10 * KIB, 300 * KIB, 300 * KIB, 5])
    for number, data in enumerate(many.data):
        served.headers[many.path(number)] = {"x-amz-checksum-crc32": b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()}
        served.faults[many.path(number)] = [flipped(3)]
    ahead = many.ahead()
    assert [bytes(ahead.take(number)) for number in range(5)] == many.data


def test_the_error_of_the_iterator_is_for_who_wants_what_would_have_come(many: Objects) -> None:
    def failing() -> Iterator[Wanted]:
        for number, request in enumerate(many.requests()):
            if number == 3:
                raise s3dlio.NotFoundError("no such bucket")
            yield request

    ahead = Ahead(failing(), max_in_flight=4, max_bytes=1 << 20)
    assert [bytes(ahead.take(number)) for number in range(3)] == many.data[:3]
    for number in (3, 4, 3):
        with pytest.raises(s3dlio.NotFoundError, match="no such bucket"):
            ahead.take(number)
    with pytest.raises(LookupError):
        ahead.take(2)


def test_limits_make_sense_or_are_refused() -> None:
    for limits in ({"max_in_flight": 0, "max_bytes": 1}, {"max_in_flight": 1, "max_bytes": 0}, {"max_in_flight": 1, "max_bytes": 1.5}):
        with pytest.raises(s3dlio.ConfigurationError):
            Ahead(iter(()), **limits)  # type: ignore[arg-type]


def test_closing_ends_what_is_under_way_and_gives_the_loop_back(many: Objects) -> None:
    go_on = threading.Event()
    for number in range(2, 50):
        many.server.faults[many.path(number)] = [stall_before_headers(go_on)]
    for _ in range(3):
        ahead = many.ahead(first_byte_timeout_s=30)
        ahead.take(0)
        ahead.close()
        ahead.close()
        with pytest.raises(LookupError):
            ahead.take(1)
    go_on.set()
    arena = process_rooms().arena
    arena.collect()
    assert arena.num_leased == 0
    assert bytes(s3dlio.get("s3://bucket/1")) == many.data[1]


def test_one_that_is_dropped_takes_everything_with_it_and_needs_no_collector(many: Objects) -> None:
    go_on = threading.Event()
    for number in range(2, 50):
        many.server.faults[many.path(number)] = [stall_before_headers(go_on)]
    gc.disable()
    try:
        ahead = many.ahead(first_byte_timeout_s=30)
        view = ahead.take(0)
        found = weakref.ref(ahead)
        del ahead
        assert found() is None
        arena = process_rooms().arena
        arena.collect()
        assert arena.num_leased == 1
        assert bytes(view) == many.data[0]
    finally:
        gc.enable()
        go_on.set()


def test_the_collector_may_find_one_in_the_middle_of_the_books(many: Objects) -> None:
    """Under the lock of the memory, of the fetcher's loops, or of another one: nobody waits, and nothing is written late."""
    rooms = process_rooms()

    def leave_one() -> None:
        ahead = many.ahead()
        assert bytes(ahead.take(0)) == many.data[0]
        circle: list[Any] = [ahead]
        circle.append(circle)

    leave_one()
    with rooms._lock:
        gc.collect()
    other = many.ahead()
    leave_one()
    with other._lock:
        gc.collect()
    assert [bytes(other.take(number)) for number in range(50)] == many.data
    gc.collect()
    rooms.arena.collect()
    assert rooms.arena.num_leased == 0


def test_who_closes_it_from_within_a_take_of_the_same_thread_waits_for_nobody(many: Objects) -> None:
    ahead: Ahead

    def closing() -> Iterator[Wanted]:
        for number, request in enumerate(many.requests()):
            if number == 2:
                ahead.close()
            yield request

    ahead = Ahead(closing(), max_in_flight=4, max_bytes=1 << 20)
    assert bytes(ahead.take(0)) == many.data[0]
    with pytest.raises(LookupError):
        ahead.take(1)
    assert ahead._loop is None


def test_p7_ctrl_c_loses_nothing(many: Objects) -> None:
    main, go_on = threading.main_thread().ident, threading.Event()
    assert main is not None

    def interrupt(request: Request, connection: Connection) -> None:
        signal.pthread_kill(main, signal.SIGINT)
        stall_before_headers(go_on)(request, connection)

    many.server.faults[many.path(9)] = [interrupt]
    ahead = many.ahead(first_byte_timeout_s=30)
    taken: list[bytes] = []

    def take_the_rest() -> None:
        while (number := len(taken)) < 50:
            try:
                taken.append(bytes(ahead.take(number)))
            except LookupError:
                # It came just before it was handed out: whoever wants it fetches it by itself.
                taken.append(bytes(s3dlio.get(f"s3://bucket/{number}")))

    with pytest.raises(KeyboardInterrupt):
        take_the_rest()
    go_on.set()
    take_the_rest()
    assert taken == many.data


def test_p10_a_forked_child_fetches_for_itself(many: Objects) -> None:
    ahead = many.ahead(max_in_flight=8)
    for number in range(5):
        ahead.take(number)
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        is_right = False
        try:
            is_right = [bytes(ahead.take(number)) for number in range(5, 50)] == many.data[5:]
            os.read(read, 1)
        finally:
            os._exit(7 if is_right else 1)
    try:
        assert [bytes(ahead.take(number)) for number in range(5, 40)] == many.data[5:40]
    finally:
        os.write(write, b"x")
        _, status = os.waitpid(pid, 0)
        os.close(read)
        os.close(write)
    assert os.waitstatus_to_exitcode(status) == 7
    assert [bytes(ahead.take(number)) for number in range(40, 50)] == many.data[40:]


def test_p10_a_forked_child_that_drops_or_closes_its_copy_does_nothing_to_the_parent(many: Objects) -> None:
    ahead = many.ahead(max_in_flight=8)
    ahead.take(0)
    for how in ("drop", "close"):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                if how == "close":
                    ahead.close()
                del ahead
                gc.collect()
                code = 7 if bytes(s3dlio.get("s3://bucket/3")) == many.data[3] else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert [bytes(ahead.take(number)) for number in range(1, 50)] == many.data[1:]


def test_a_pickle_holds_nothing(many: Objects) -> None:
    ahead = many.ahead()
    ahead.take(0)
    other = pickle.loads(pickle.dumps(ahead))  # noqa: TID251 (its own)
    with pytest.raises(LookupError):
        other.take(1)
    assert bytes(ahead.take(1)) == many.data[1]


def test_threads_share_it(served: ObjectServer) -> None:
    many = Objects(served, [KIB] * 200)
    ahead = many.ahead(max_in_flight=8)
    found: dict[int, bytes] = {}
    numbers = iter(range(200))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
                if number is None:
                    return
                try:
                    view = ahead.take(number)
                except LookupError:
                    continue
            found[number] = bytes(view)

    def work_at_random() -> None:
        while (number := next(numbers, None)) is not None:
            try:
                found[number] = bytes(ahead.take(number))
            except LookupError:
                found[number] = bytes(s3dlio.get(f"s3://bucket/{number}"))

    for target in (work, work_at_random):
        threads = [threading.Thread(target=target) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found[number] for number in range(200)] == many.data
        found.clear()
        numbers = iter(range(200))
        ahead = many.ahead(max_in_flight=8)
    ahead.close()


def test_shutdown_in_between_changes_nothing(many: Objects) -> None:
    ahead = many.ahead()
    assert bytes(ahead.take(0)) == many.data[0]
    s3dlio.shutdown()
    assert [bytes(ahead.take(number)) for number in range(1, 50)] == many.data[1:]


def test_m1_where_memory_is_short_the_others_give_way(many: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    slots, num_left = process_rooms().arena.slots, 3
    allocate, arena = slots.allocate, process_rooms().arena

    def scarce(*given: Any, **others: Any) -> Any:
        arena.collect()
        if arena.num_leased >= num_left:
            raise s3dlio.InsufficientMemoryError("no memory")
        return allocate(*given, **others)

    monkeypatch.setattr(slots, "allocate", scarce)
    ahead = many.ahead(max_in_flight=8)
    for number, data in enumerate(many.data):
        view = ahead.take(number)
        assert bytes(view) == data
        del view
    num_left = 0
    with pytest.raises(s3dlio.InsufficientMemoryError):
        many.ahead().take(0)


def test_m1_one_that_was_put_off_is_begun_once_the_others_have_given_way(
    served: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects(served, [3 * PART] * 3)
    ahead = objects.ahead(max_in_flight=4, knows=True)
    rooms = process_rooms()
    new_view = rooms.new_view
    num_views = 0

    def scarce(num: int) -> Any:
        # There is none for number 1: at first, and as long as number 2 has its own.
        nonlocal num_views
        num_views += 1
        if num_views in (2, 4):
            raise s3dlio.InsufficientMemoryError("no memory")
        return new_view(num)

    def give_up(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(rooms, "new_view", scarce)
    assert bytes(ahead.take(0)) == objects.data[0]
    loop = ahead._loop
    assert loop is not None
    # Somebody's call of `take` would do this: nothing is under way any more.
    while loop.num_unfinished:
        for fetch in loop.poll(None):
            ahead._go_on(fetch, loop)
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(10)
    try:
        assert [bytes(ahead.take(number)) for number in (1, 2)] == objects.data[1:]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_ranges_are_fetched_ahead_too(many: Objects) -> None:
    store = locate("s3://bucket/")[0]
    spans = [(0, 5), (5, None), (1000, 2000), (10 * KIB - 1, 10 * KIB + 9), (3, 3)]
    pins: list[dict[str, Any]] = [{}, {"size": 10 * KIB, "version": many.server.etag(many.path(0)).strip('"')}]
    for pin in pins:
        requests = (Wanted(store, "s3://bucket/0", "0", start, end, **pin) for start, end in spans)
        ahead = Ahead(requests, max_in_flight=4, max_bytes=10_000)
        assert [bytes(ahead.take(number)) for number in range(len(spans))] == [many.data[0][start:end] for start, end in spans]


def test_local_stores_are_read_ahead_too() -> None:
    store = locate("memory://ahead/")[0]
    data = [content(number, 1000 * number) for number in range(20)]
    for number, one in enumerate(data):
        s3dlio.put_bytes(f"memory://ahead/{number}", one)
    requests = (Wanted(store, f"memory://ahead/{number}", f"{number}") for number in range(20))
    ahead = Ahead(requests, max_in_flight=4, max_bytes=10_000)
    assert [bytes(ahead.take(number)) for number in range(20)] == data


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.sampled_from([0, 1, 999, 4096, PART, PART + 1, 3 * PART + 7]), min_size=1, max_size=12),
    max_in_flight=st.integers(1, 5),
    max_bytes=st.sampled_from([1, 5000, PART, 1 << 20]),
    knows=st.booleans(),
    data=st.data(),
)
def test_whatever_is_taken_is_exact(
    served: ObjectServer, sizes: list[int], max_in_flight: int, max_bytes: int, knows: bool, data: st.DataObject
) -> None:
    many = Objects(served, sizes)
    with_faults = data.draw(st.sets(st.integers(0, len(sizes) - 1), max_size=3))
    for number in range(len(sizes)):
        served.faults[many.path(number)] = [cut_after(0)] if number in with_faults else []
    ahead = many.ahead(max_in_flight, max_bytes, knows, backoff_initial_s=0.001)
    position = 0
    while position < len(sizes):
        position += data.draw(st.integers(0, 2))
        if position >= len(sizes):
            break
        assert bytes(ahead.take(position)) == many.data[position]
        position += 1
    ahead.close()
    arena = process_rooms().arena
    arena.collect()
    assert arena.num_leased == 0


def test_n15_a_connection_that_was_reset_while_idle_keeps_no_memory_of_the_request_that_found_out(served: ObjectServer) -> None:
    many = Objects(served, [PART + 1])
    arena = process_rooms().arena
    gc.disable()
    try:
        for _ in range(100):
            served.faults[many.path(0)] = [cut_after(0)]
            ahead = many.ahead(1, PART, True, backoff_initial_s=0.001)
            assert bytes(ahead.take(0)) == many.data[0]
            ahead.close()
            arena.collect()
            assert arena.num_leased == 0
    finally:
        gc.enable()
