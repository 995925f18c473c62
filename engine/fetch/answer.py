"""Receives the answer to one request at a time, straight into the memory it is for.

Owns the state of an answer: its head, where its body goes, how much is missing. It never writes outside `fetch.out`: the plan of
`accept.py` says how many bytes belong there, and `recv_into` is given no more room. It sends nothing, and decides nothing about
retries, timeouts or queues.

How head and body may come by one call into the kernel is told in `head_buffer.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from ..errors import (
    ChecksumMismatchError,
    ConnectFailedError,
    InvalidRangeError,
    ObjectChangedError,
    ProtocolError,
    S3dlioError,
    TruncatedBodyError,
)
from .accept import accept, accept_whole, begin_sum, check_sum
from .checksums import raise_mismatch, sum_function
from .head_buffer import HeadBuffer
from .http1 import ChunkedBody, ResponseHead, has_body
from .origin import Site
from .request import Fetch, State

MAX_ERROR_BODY_BYTES: Final = 64 << 10
"""An error body is read up to here; what is longer is cut, and the connection closed (case N18)."""
MAX_CHUNKED_BYTES: Final = 1 << 30
"""A chunked object goes through private memory, so it has a bound. No S3 server sends objects chunked."""
_EMPTY: Final = memoryview(bytearray())
_ANSWER: Final = b"HTTP/1."


class Phase(IntEnum):
    """CONNECTING → (HANDSHAKE →) SENDING → HEAD → BODY | PARKED → IDLE, and CLOSED from anywhere."""

    IDLE = 0
    CONNECTING = 1
    HANDSHAKE = 2
    SENDING = 3
    HEAD = 4
    PARKED = 5
    BODY = 6
    CLOSED = 7


# Before Python 3.12 an attribute of an enum costs as much as a call, and these are read several times per object.
_IDLE: Final = Phase.IDLE
_PARKED: Final = Phase.PARKED
_BODY: Final = Phase.BODY


class AnswerReceiver(HeadBuffer):
    """The receiving half of a `Connection`, which is the only one to derive from it."""

    __slots__ = (
        "_chunks",
        "_ends_here",
        "_extra",
        "_filled",
        "_grant",
        "_is_error",
        "_left",
        "_reply",
        "_sink",
        "_skip",
        "fetch",
        "num_uses",
        "phase",
        "sock",
    )

    sock: socket.socket
    phase: Phase
    would_block: tuple[type[OSError], ...] = (BlockingIOError,)
    """What says that there is nothing to receive now, or no room to send."""

    def __init__(self, site: Site, grant: Callable[[Fetch], memoryview | None]) -> None:
        super().__init__(site)
        self.fetch: Fetch | None = None
        """The request under way."""
        self.num_uses = 0
        """Answers that were received to their end."""
        self._grant = grant
        self._reply: ResponseHead | None = None
        self._chunks: ChunkedBody | None = None
        self._sink: memoryview | None = None
        """Where the body goes: what is still missing of the object, or private memory."""
        self._filled = 0
        """Bytes in the sink."""
        self._left = 0
        """Bytes that are still to come into it."""
        self._skip = 0
        """Bytes to pass over before them."""
        self._extra = 0
        """Bytes behind them that nobody wants."""
        self._is_error = False
        self._ends_here = False
        """Whether the connection can serve no further request."""

    def close(self) -> None:
        """Closes the socket; what it had received of an object stays counted."""
        self._count()
        self.phase = Phase.CLOSED
        self._sink = None
        self.sock.close()

    def receive(self) -> bool:
        """Takes what has arrived; returns whether the answer is complete (the phase is IDLE or CLOSED then).

        Where the object does not fit into `fetch.out`, the phase becomes PARKED and the fetch's state WANTS_SPACE.

        Raises:
            S3dlioError: The answer is an error, is not acceptable, or the connection broke. The connection is then closed, unless its
                phase is IDLE (an error status, completely read).
        """
        try:
            return self._receive_body() if self.phase is _BODY else self._receive_head()
        except OSError as error:
            return self._on_socket_error(error)

    def resume(self) -> bool:
        """Goes on with a body whose space has come; returns whether the answer is complete.

        Raises:
            S3dlioError: As `receive`.
        """
        fetch = self.fetch
        assert fetch is not None
        assert fetch.out is not None
        assert fetch.end is not None
        # Whoever gave the space may have cut the part shorter: then the rest is left unread, and others fetch it.
        beyond = fetch.start + fetch.received + self._left - fetch.end
        if beyond > 0:
            self._left -= beyond
            self._extra += beyond
        try:
            return self._take_body(fetch, fetch.out)
        except OSError as error:
            return self._on_socket_error(error)

    def _on_socket_error(self, error: OSError) -> bool:
        if isinstance(error, self.would_block):
            return False
        # Some errors of our own tree are OSErrors too; they pass as they are.
        if isinstance(error, S3dlioError):
            raise error
        raise ConnectFailedError(f"the connection to {self.site} broke", cause=str(error)) from None

    def _receive_head(self) -> bool:
        fetch = self.fetch
        assert fetch is not None
        used, out, expected = self._head_used, fetch.out, self._expected
        # A range is never taken in place: the beginning of the object is what a whole answer begins with.
        if expected is None or out is None or used or fetch.received or fetch.start or fetch.end is not None:
            num = self.sock.recv_into(self._head_view[used:] if used else self._head)
        else:
            num = self.sock.recvmsg_into((expected, out, self._spare))[0]
            num_body = num - len(expected)
            if num_body > 0:
                head = self._head_in_place(expected, out, num_body)
                if head is not None:
                    return self._take_in_place(fetch, head, out, num_body)
                self._gather(out, num_body)
        if not num:
            raise ConnectFailedError(f"{self.site} closed the connection before it answered")
        self._head_used = used + num
        return self._read_head(max(0, used - 3))

    def _head_in_place(self, expected: memoryview, out: memoryview, num_body: int) -> ResponseHead | None:
        """Returns the head, if it is as long as expected, and all that is behind it stands in its place: the object from its beginning."""
        head = self._whole_head(bytes(expected))
        if head is None or head.status != 200 or head.has_range or head.length is None:
            return None
        return head if num_body <= head.length <= len(out) else None

    def _take_in_place(self, fetch: Fetch, head: ResponseHead, out: memoryview, num: int) -> bool:
        if not accept_whole(fetch, head):
            self.phase = _BODY
            accept(fetch, head)
        length = head.length
        assert length is not None
        if num == length:
            # Nearly every small object ends here. Nothing but this is to be left behind; `_complete` would look for more.
            checksum = head.checksum
            if checksum is not None and fetch.wants_checksum:
                value = sum_function(checksum.algorithm)(out[:num], 0)
                if value != checksum.value:
                    raise_mismatch(checksum, value)
                fetch.is_verified = True
            fetch.received = num
            fetch.failures = 0
            self.num_uses += 1
            self.phase = _IDLE
            if self._ends_here or not head.is_persistent:
                self.close()
            return True
        begin_sum(fetch, head)
        self._reply = head
        self._filled = num
        self._left = length - num
        self._sink = out[:length]
        self.phase = _BODY
        return False

    def _read_head(self, begin: int) -> bool:
        """Goes on with the answer if the head is complete; its end is looked for from `begin` on."""
        while (end := self._head.find(b"\r\n\r\n", begin, self._head_used)) >= 0:
            head = self._whole_head(bytes(self._head_view[: end + 4]))
            assert head is not None
            if head.status >= 200:
                self._head_end = end + 4
                self._reply = head
                # Whatever is amiss from here on is this answer's own fault.
                self.phase = _BODY
                return self._begin_body(head)
            self._drop_interim(end + 4)
            begin = 0
        self._make_room_for_head()
        return False

    def _begin_body(self, head: ResponseHead) -> bool:
        fetch = self.fetch
        assert fetch is not None
        if head.status >= 300 or fetch.is_exchange:
            return self._begin_private_body(fetch, head)
        plan = accept(fetch, head)
        begin_sum(fetch, head)
        if plan is None:
            return self._begin_chunks(head, MAX_CHUNKED_BYTES)
        self._skip, self._left, self._extra = plan
        return self._place(fetch)

    def _place(self, fetch: Fetch) -> bool:
        """Goes on if there is room for the body, asks for it if not, and parks if it cannot be had at once."""
        assert fetch.end is not None
        out = fetch.out
        if out is None or len(out) < fetch.end - fetch.start:
            out = fetch.out = self._grant(fetch) if fetch.end > fetch.start else _EMPTY
            if out is None:
                self.phase = _PARKED
                fetch.state = State.WANTS_SPACE
                return False
        return self._take_body(fetch, out)

    def _take_body(self, fetch: Fetch, out: memoryview) -> bool:
        """Receives a body for which there is room."""
        received = fetch.received
        if self._chunks is not None:
            num = min(len(fetch.body), fetch.missing_space - received)
            out[received : received + num] = fetch.body[:num]
            fetch.received += num
            fetch.body = b""
            return self._complete()
        self._sink = out[received : received + self._left]
        return self._take_first()

    def _begin_private_body(self, fetch: Fetch, head: ResponseHead) -> bool:
        self._is_error = head.status >= 300
        if self._ends_here and fetch.payload is not None and not self._is_error:
            raise ProtocolError("the server answered before it had the whole body, as if it had", status=head.status)
        if not has_body(fetch.method, head.status):
            self._ends_here |= self._head_used > self._head_end
            return self._complete()
        bound = MAX_ERROR_BODY_BYTES if self._is_error else getattr(fetch, "max_body_bytes", MAX_ERROR_BODY_BYTES)
        # The parser refuses a head that gives both.
        if head.length is None and head.is_chunked:
            return self._begin_chunks(head, 2 * bound if self._is_error else bound)
        if head.length is None and not self._is_error:
            raise ProtocolError("the answer has neither a length nor chunks", status=head.status)
        # An error without a length lasts until the connection ends; it is worth reading for what it says.
        length = bound + 1 if head.length is None else head.length
        if length > bound and not self._is_error:
            raise ProtocolError(f"the body of {length} bytes is longer than {bound}")
        if length == 0 and self._head_used == self._head_end:
            # What most writes are answered by.
            return self._complete()
        self._left = min(length, bound)
        self._extra = length - self._left
        self._sink = memoryview(bytearray(self._left))
        return self._take_first()

    def _begin_chunks(self, head: ResponseHead, bound: int) -> bool:
        # The head's framing again, and nothing else of it: the parser must not stumble over the rest twice.
        self._chunks = ChunkedBody(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", bound)
        if self._head_used == self._head_end:
            return False
        return self._feed_chunks(bytes(self._head_view[self._head_end : self._head_used])) and self._end_chunks()

    def _take_first(self) -> bool:
        """Copies the bytes of the body that came with the head, and then receives what is already there."""
        self.phase = _BODY
        begin, stop = self._head_end, self._head_used
        skipped = min(self._skip, stop - begin)
        self._skip -= skipped
        begin += skipped
        num = min(self._left, stop - begin)
        behind = stop - begin - num
        if behind > self._extra and _ANSWER.startswith(self._head[begin + num : min(stop, begin + num + len(_ANSWER))]):
            # An answer that nobody asked for, as the 408 of a server that tires of waiting: the body in front of it is whole.
            self._ends_here = True
        elif behind > self._extra:
            raise ProtocolError(f"the body is longer than its Content-Length, by {behind - self._extra} bytes or more")
        if num:
            assert self._sink is not None
            self._sink[:num] = self._head_view[begin : begin + num]
            self._filled = num
            self._left -= num
        return self._receive_body() if self._left else self._complete()

    def _receive_body(self) -> bool:
        if self._chunks is not None:
            return self._feed_chunks(self.sock.recv(64 << 10)) and self._end_chunks()
        if self._skip:
            num = len(self.sock.recv(min(self._skip, 1 << 20)))
            self._skip -= num
        else:
            assert self._sink is not None
            num = self.sock.recv_into(self._sink[self._filled :])
            self._filled += num
            self._left -= num
            self._add_to_sum()
            if not self._left:
                return self._complete()
        if not num and self._is_error:
            return self._complete()
        if not num:
            raise TruncatedBodyError(f"{self.site} closed the connection {self._left + self._skip} bytes before the end of the body")
        return False

    def _feed_chunks(self, data: bytes) -> bool:
        """Takes the next bytes of a chunked body; returns whether it is complete.

        It ends nothing itself: `data` may be an error that echoes the request, and must not stand in a traceback's locals (A5).
        """
        assert self._chunks is not None
        if not data:
            raise TruncatedBodyError(f"{self.site} closed the connection before the last chunk")
        self._chunks.feed(data)
        if self._is_error and len(self._chunks.data) >= MAX_ERROR_BODY_BYTES:
            self._extra = 1
            return True
        return self._chunks.is_complete

    def _end_chunks(self) -> bool:
        fetch = self.fetch
        assert fetch is not None
        assert self._chunks is not None
        if self._is_error or fetch.is_exchange:
            return self._complete()
        return self._place_chunked_object(fetch, self._chunks.data)

    def _place_chunked_object(self, fetch: Fetch, data: bytearray) -> bool:
        """Takes what was asked for from an object, or a range of one, that came in chunks, if the count is right (case N7)."""
        assert self._reply is not None
        spread = self._reply.content_range()
        first, last, _ = spread or (0, len(data) if fetch.size is None else fetch.size, None)
        if last - first != len(data):
            raise TruncatedBodyError(f"{len(data)} bytes came in chunks, {last - first} were expected")
        if fetch.start > last:
            raise InvalidRangeError(f"the range begins at {fetch.start}, the object has {last} bytes")
        if spread is None:
            fetch.size = last
            fetch.end = last if fetch.end is None else min(fetch.end, last)
        if fetch.end is None:
            raise ProtocolError("the answer does not say where the object ends")
        # A range begins where the last attempt had come to; what that attempt had received is in its place already.
        fetch.body = data[fetch.start + fetch.received - first : fetch.end - first]
        return self._place(fetch)

    def _add_to_sum(self) -> None:
        fetch = self.fetch
        assert fetch is not None
        running = fetch.checksum
        if running is not None and not self._is_error:
            assert fetch.out is not None
            running.add(fetch.out, fetch.received + self._filled)

    def _count(self) -> None:
        """Adds what has been received to the fetch's own count, once. Progress, if it can be built upon: a version is known."""
        fetch = self.fetch
        if self._filled and fetch is not None and not self._is_error and not fetch.is_exchange:
            fetch.received += self._filled
            if fetch.is_resumable:
                fetch.failures = 0
        self._filled = 0

    def _complete(self) -> bool:
        """Ends the answer: keeps or closes the connection, and raises what an error status stands for."""
        fetch, head = self.fetch, self._reply
        assert fetch is not None
        assert head is not None
        is_private = self._is_error or fetch.is_exchange
        if not is_private:
            self._count()
        sink, chunks = self._sink, self._chunks
        self._sink = self._chunks = None
        if self._expected is None or len(self._expected) != self._head_end:
            self._expect(self._head_end)
        self._head_used = self._filled = 0
        self.num_uses += 1
        self.phase = _IDLE
        if self._skip or self._extra or self._ends_here or not head.is_persistent:
            self.close()
            self._skip = 0
        if is_private:
            self._deliver(fetch, head, sink if chunks is None else chunks.data)
        elif fetch.end is not None and fetch.start + fetch.received < fetch.end:
            raise TruncatedBodyError(f"the server sent {fetch.received} bytes of {fetch.end - fetch.start}")
        elif fetch.checksum is not None:
            try:
                check_sum(fetch)
            except ChecksumMismatchError:
                # The connection may be what changed them.
                self.close()
                raise
        return True

    def _deliver(self, fetch: Fetch, head: ResponseHead, body: memoryview | bytearray | None) -> None:
        """Hands over a private body, or raises what it means."""
        data = b"" if body is None else bytes(body)
        is_error, self._is_error = self._is_error, False
        if not is_error:
            fetch.reply = head
            fetch.body = data
            if fetch.check is not None:
                fetch.check(fetch)
            return
        if head.length is None and has_body(fetch.method, head.status) and not head.is_chunked:
            self.close()
        error = _meaning(fetch, head, data)
        del body, data  # a server may echo the request, signature and all, and a traceback may show locals
        raise error


def _meaning(fetch: Fetch, head: ResponseHead, body: bytes) -> S3dlioError:
    """Returns what an error status stands for."""
    error: S3dlioError = fetch.wire.error(head, body, fetch.uri, fetch.attempts)
    if isinstance(error, InvalidRangeError) and (fetch.received or fetch.size is not None):
        # The range was within the object when it was listed or begun (case I9).
        return ObjectChangedError("the object is shorter than it was", uri=fetch.uri, status=head.status)
    return error
