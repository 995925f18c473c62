"""Head and body by one call into the kernel: whatever the next head looks like, the bytes are those of the object.

Every answer here is sent in one piece, so that it arrives as one. The first answers of a test teach the client a length of head and a
size of object; the ones after them are what it does not expect.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

import s3dlio
from s3dlio.engine.config import settings
from s3dlio.engine.fetch.loop import FetchLoop
from s3dlio.engine.fetch.request import Fetch, State
from s3dlio.engine.stores.registry import locate
from tests.support.answers import Respond, s3_error
from tests.support.scripted_server import Connection, Handler, Request, ScriptedServer

SIZE = 5000
RNG = random.Random(11)
BODIES = [RNG.randbytes(SIZE) for _ in range(8)]


def in_one_piece(*answers: Respond | bytes) -> Handler:
    """Sends all of `answers` at once."""
    data = b"".join(one if isinstance(one, bytes) else one.head() + bytes(one.body) for one in answers)
    return lambda _request, connection: connection.send(data)


def say(server: ScriptedServer, handlers: list[Handler]) -> None:
    """Has each of the next requests answered by the next handler."""
    queue = iter(handlers)
    server.script = lambda _request: next(queue)


def honest(body: bytes, **headers: str) -> Respond:
    return Respond(200, {"ETag": f'"{len(body):08x}"', **headers}, body)


@pytest.fixture
def loop(scripted: ScriptedServer) -> Iterator[FetchLoop]:
    """A loop with one connection that has seen three heads of one length."""
    made = FetchLoop(settings(max_attempts=1), 1)
    say(scripted, [in_one_piece(honest(body)) for body in BODIES[:3]])
    for body in BODIES[:3]:
        fetch, out = drive(made, SIZE)
        assert (fetch.error, bytes(out)) == (None, body)
    yield made
    made.close()


def drive(loop: FetchLoop, num_room: int) -> tuple[Fetch, memoryview]:
    """Reads an object whole into `num_room` bytes; canaries behind them must live."""
    memory = bytearray(b"\xcc" * (num_room + 64))
    out = memoryview(memory)[:num_room]
    store, key = locate("s3://bucket/key")
    fetch = Fetch(0, "s3://bucket/key", store.wire, key, out=out)
    loop.submit(fetch)
    while fetch.state < State.WANTS_SPACE or fetch.state is State.QUEUED:
        loop.poll(1.0)
    if fetch.state is State.WANTS_SPACE:
        out = memoryview(bytearray(fetch.missing_space))
        loop.supply(fetch, out)
        while fetch.state < State.DONE:
            loop.poll(1.0)
    assert memory[num_room:] == b"\xcc" * 64
    return fetch, out[: fetch.received]


def expect(loop: FetchLoop, scripted: ScriptedServer, body: bytes, *answers: Respond | bytes, room: int = SIZE) -> None:
    say(scripted, [in_one_piece(*answers), in_one_piece(honest(BODIES[7]))])
    fetch, out = drive(loop, room)
    assert (fetch.error, fetch.size) == (None, len(body))
    assert bytes(out) == body
    # And the next one, over whatever was learnt of this.
    fetch, out = drive(loop, SIZE)
    assert (fetch.error, bytes(out)) == (None, BODIES[7])


@pytest.mark.parametrize("num", range(-12, 13))
def test_a_head_that_is_longer_or_shorter_than_the_last(loop: FetchLoop, scripted: ScriptedServer, num: int) -> None:
    etag = f'"{"e" * (8 + num)}"' if num > -8 else '"e"'
    expect(loop, scripted, BODIES[3], honest(BODIES[3], ETag=etag))


def test_a_head_that_is_longer_than_the_whole_of_the_last_answer(loop: FetchLoop, scripted: ScriptedServer) -> None:
    expect(loop, scripted, b"abc", honest(b"abc", **{"x-amz-meta-a": "v" * 2 * SIZE}))


@pytest.mark.parametrize("num", [0, 1, 2, 999, SIZE - 1, SIZE + 1, SIZE + 2, 9999, 10_000, 200_000])
def test_an_object_that_is_larger_or_smaller_than_the_room(loop: FetchLoop, scripted: ScriptedServer, num: int) -> None:
    body = RNG.randbytes(num)
    expect(loop, scripted, body, honest(body))


@pytest.mark.parametrize("room", [SIZE, SIZE + 1, 2 * SIZE, 100_000])
def test_there_may_be_more_room_than_object(loop: FetchLoop, scripted: ScriptedServer, room: int) -> None:
    expect(loop, scripted, BODIES[4], honest(BODIES[4]), room=room)


def test_an_interim_answer_as_long_as_the_last_head(loop: FetchLoop, scripted: ScriptedServer) -> None:
    head = honest(BODIES[3]).head()
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: "
    interim += b"l" * (len(head) - len(interim) - 4) + b"\r\n\r\n"
    assert len(interim) == len(head)
    expect(loop, scripted, BODIES[3], interim, honest(BODIES[3]))


def test_a_body_in_chunks(loop: FetchLoop, scripted: ScriptedServer) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODIES[3][:2000], BODIES[3][2000:], b""))
    expect(loop, scripted, BODIES[3], Respond(200, {"ETag": '"c"', "Transfer-Encoding": "chunked"}).head() + chunks)


@pytest.mark.parametrize("pad", [0, 1])
def test_an_error_in_place_of_the_object_is_that_error(loop: FetchLoop, scripted: ScriptedServer, pad: int) -> None:
    answer = s3_error(404, "NoSuchKey")
    # With the padding its head is exactly as long as the heads before.
    answer = answer.with_headers(content_type=None, x_amz_request_id=None)
    missing = len(honest(BODIES[0]).head()) - len(answer.with_headers(x_pad="").head())
    say(scripted, [in_one_piece(answer.with_headers(x_pad="p" * missing) if pad else answer), in_one_piece(honest(BODIES[7]))])
    fetch, _ = drive(loop, SIZE)
    assert isinstance(fetch.error, s3dlio.NotFoundError)
    assert fetch.received == 0
    fetch, out = drive(loop, SIZE)
    assert (fetch.error, bytes(out)) == (None, BODIES[7])


@pytest.mark.parametrize("num", [1, 2, 7, 64, 4000])
@pytest.mark.parametrize("room", [SIZE, SIZE + 10, 3 * SIZE])
def test_n5_more_than_the_announced_body_is_an_error_and_is_never_delivered(
    loop: FetchLoop, scripted: ScriptedServer, num: int, room: int
) -> None:
    say(scripted, [in_one_piece(honest(BODIES[3]), b"\xee" * num), in_one_piece(honest(BODIES[7]))])
    fetch, _ = drive(loop, room)
    assert isinstance(fetch.error, s3dlio.ProtocolError)
    fetch, out = drive(loop, SIZE)
    assert (fetch.error, bytes(out)) == (None, BODIES[7])
    assert scripted.num_connections == 2


@pytest.mark.parametrize("room", [SIZE, 3 * SIZE])
def test_an_answer_that_nobody_asked_for_spoils_neither_the_object_nor_the_next(
    loop: FetchLoop, scripted: ScriptedServer, room: int
) -> None:
    late = Respond(408, {"Connection": "close"}, b"too slow")
    say(scripted, [in_one_piece(honest(BODIES[3]), late), in_one_piece(honest(BODIES[7]))])
    fetch, out = drive(loop, room)
    assert (fetch.error, bytes(out)) == (None, BODIES[3])
    fetch, out = drive(loop, SIZE)
    assert (fetch.error, bytes(out)) == (None, BODIES[7])
    assert scripted.num_connections == 2


def test_a_server_that_announces_the_end_of_the_connection_is_believed(loop: FetchLoop, scripted: ScriptedServer) -> None:
    expect(loop, scripted, BODIES[3], honest(BODIES[3], Connection="close"))
    say(scripted, [in_one_piece(honest(body, Connection="close")) for body in BODIES[:4]])
    for body in BODIES[:4]:
        fetch, out = drive(loop, SIZE)
        assert (fetch.error, bytes(out)) == (None, body)


@pytest.mark.parametrize("step", [1, 7, 100, 1000])
def test_an_answer_in_pieces_of_any_size(loop: FetchLoop, scripted: ScriptedServer, step: int) -> None:
    data = honest(BODIES[3]).head() + BODIES[3]
    data, rest = data[: 300 * step], data[300 * step :]

    def handle(request: Request, connection: Connection) -> None:
        for at in range(0, len(data), step):
            connection.send(data[at : at + step])
        connection.send(rest)

    say(scripted, [handle])
    fetch, out = drive(loop, SIZE)
    assert (fetch.error, bytes(out)) == (None, BODIES[3])


def test_any_mixture_of_heads_and_sizes_comes_exactly(scripted: ScriptedServer) -> None:
    rng = random.Random(12)
    objects = [rng.randbytes(rng.choice([0, 1, 700, 700, 700, 700, 701, 40_000, 300_000])) for _ in range(600)]

    def step(request: Request) -> Handler:
        body = objects[int(request.path.rpartition("/")[2])]
        etag = f'"{"e" * rng.choice([32, 32, 32, 32, 33, 35])}"'
        extra = {"x-amz-meta-a": "1"} if rng.random() < 0.05 else {}
        answer = honest(body, ETag=etag, **extra)
        return in_one_piece(answer) if rng.random() < 0.8 else answer

    scripted.script = step
    uris = [f"s3://bucket/{number}" for number in range(len(objects))]
    for workers in (1, 3, 16):
        assert [bytes(view) for view in s3dlio.get_many(uris, workers=workers)] == objects
    with s3dlio.Pool(procs=0, jobs=4) as pool:
        assert [bytes(view) for _, view in pool.fetch(uris)] == objects


def test_what_is_smaller_than_expected_gets_memory_of_its_own_size(scripted: ScriptedServer) -> None:
    sizes = [200_000] * 8 + [10_000] * 4
    scripted.script = lambda request: in_one_piece(honest(bytes(sizes[int(request.path.rpartition("/")[2])])))
    views = s3dlio.get_many([f"s3://bucket/{number}" for number in range(len(sizes))], workers=1)
    assert [len(view) for view in views] == sizes
    from s3dlio.engine.pool.rooms import process_rooms

    arena = process_rooms().arena
    arena.collect()
    # Whole pages, and of small objects at most the power of two around them.
    assert arena.slots.beyond_bytes <= 8 * 49 * 4096 + 4 * 4 * 4096


def test_ranges_and_mixed_lengths_are_not_gathered(scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3dlio.engine.fetch.answer import AnswerReceiver

    gathered: list[int] = []
    real = AnswerReceiver._gather
    monkeypatch.setattr(AnswerReceiver, "_gather", lambda self, out, num: (gathered.append(num), real(self, out, num))[1])
    body = BODIES[0]

    def answer(request: Request) -> Handler:
        span = request.headers.get("range")
        if span is None:
            return in_one_piece(honest(body[: 900 + 200 * (len(scripted.requests) % 2)]))
        start, last = map(int, span.removeprefix("bytes=").split("-"))
        return in_one_piece(Respond(206, {"ETag": '"1"', "Content-Range": f"bytes {start}-{last}/{SIZE}"}, body[start : last + 1]))

    scripted.script = answer
    for start in range(0, SIZE, 500):
        assert bytes(s3dlio.get_range("s3://bucket/key", start, 500)) == body[start : start + 500]
    # A Content-Length of three digits, then one of four, and so on.
    with s3dlio.Pool(procs=0, jobs=1) as pool:
        for _, view in pool.fetch(["s3://bucket/key"] * 20):
            assert bytes(view) == body[: len(view)]
    assert gathered == []


def test_a_guess_that_memory_does_not_allow_is_no_error(scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3dlio.engine.pool.rooms import process_rooms

    scripted.script = lambda request: s3_error(404, "NoSuchKey") if request.path.endswith("no") else in_one_piece(honest(BODIES[0]))
    uris = ["s3://bucket/key", "s3://bucket/no"]
    s3dlio.get_many([uris[0]] * 3)
    slots = process_rooms().arena.slots

    def refuse(*_: object, **__: object) -> None:
        raise s3dlio.InsufficientMemoryError("none left")

    with monkeypatch.context() as patch:
        patch.setattr(slots, "allocate", refuse)
        found = s3dlio.get_many(uris, errors="return")
        assert [type(one) for one in found] == [s3dlio.InsufficientMemoryError, s3dlio.NotFoundError]
        with pytest.raises(s3dlio.NotFoundError):
            s3dlio.get(uris[1])
    assert bytes(s3dlio.get(uris[0])) == BODIES[0]


def test_p7_an_interrupt_in_the_books_of_the_memory_is_not_gone_on_with(scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3dlio.engine.pool.rooms import process_rooms

    scripted.script = lambda _request: in_one_piece(honest(BODIES[0]))
    kept = s3dlio.get("s3://bucket/key")
    arena = process_rooms().arena

    def strike(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("allocate", "free"):
        dropped = s3dlio.get("s3://bucket/key")
        target = process_rooms().arena
        with monkeypatch.context() as patch:
            patch.setattr(target.slots, name, strike)
            patch.setattr(target, "free", strike)
            del dropped
            with pytest.raises(KeyboardInterrupt):
                s3dlio.get("s3://bucket/key")
        assert process_rooms().arena is not target
    assert bytes(kept) == BODIES[0]
    assert arena is not process_rooms().arena
    assert [bytes(view) for view in s3dlio.get_many(["s3://bucket/key"] * 20)] == [BODIES[0]] * 20
