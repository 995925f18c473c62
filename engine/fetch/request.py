"""What the fetch loop is asked to do: one `Fetch` per request, and the `Wire` that a store gives for it.

A `Fetch` is made by the driver (a worker, or the inline pool), handed to `FetchLoop.submit`, and comes back from `FetchLoop.poll`
finished, or wanting space. The loop is the only one that changes it in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..errors import S3dlioError
    from .checksums import RunningSum
    from .http1 import ResponseHead
    from .origin import Origin


class State(IntEnum):
    """Where a `Fetch` stands. Transitions: QUEUED → ACTIVE → (WANTS_SPACE → ACTIVE)* → DONE | FAILED | CANCELLED."""

    QUEUED = 0
    ACTIVE = 1
    WANTS_SPACE = 2
    DONE = 3
    FAILED = 4
    CANCELLED = 5


_ACTIVE = State.ACTIVE


class Wire(Protocol):
    """The half of a store that the loop needs: bytes of requests, meaning of answers. No I/O."""

    origin: Origin
    is_local: bool
    """False here; True says that this is a `LocalWire`."""
    expires_at_s: float | None
    """When its credentials expire, since 1970: from then on `get` may wait for others. None where they do not."""

    def get(self, key: str, start: int, end: int | None, version: str | None, with_checksum: bool) -> bytes:
        """Returns the request for bytes [start, end) of the object (all of it for 0, None), pinned to `version` where given.

        `with_checksum` asks for the checksum of the object too.
        """
        ...

    def error(self, head: ResponseHead, body: bytes, uri: str, attempts: int) -> S3dlioError:
        """Returns the error that an answer with status 300 or above stands for."""
        ...


    def successor(self) -> Any:
        """Returns the wire that takes over after a `BucketElsewhereError`, or None."""
        ...


class LocalWire(Protocol):
    """The half of a store whose reads need no network: executed by the loop, one after the other."""

    is_local: bool

    def read(self, fetch: Fetch, grant: Callable[[Fetch], memoryview | None]) -> None:
        """Fills the next piece of `fetch.out` and sets `received`, `size`, `end` and `version`; where `grant` has no room, the state.

        It is called until all is received: a piece takes so long at most that nobody takes the reader for one that hangs.

        Raises:
            S3dlioError: As the file system says.
        """
        ...


class Fetch:
    """One request with its retries. `token` is the driver's own and means nothing here."""

    __slots__ = (
        "attempts",
        "begun_s",
        "body",
        "checksum",
        "deadline_s",
        "end",
        "error",
        "failures",
        "finished_s",
        "first_byte_s",
        "is_pinned",
        "is_verified",
        "key",
        "mismatches",
        "out",
        "received",
        "reply",
        "size",
        "start",
        "state",
        "token",
        "uri",
        "version",
        "wants_checksum",
        "was_restarted",
        "wire",
        "_asked",
    )

    method = "GET"
    is_exchange = False
    """Whether the whole body goes to private memory."""
    payload: memoryview | None = None
    """What is sent behind the head; only an `Exchange` has any."""
    check: Callable[[Any], None] | None = None
    """Of a request whose answer is private: called with it when an answer below 300 is here. What it raises makes a failure of the
    answer, which is tried again like any other (case N12)."""

    def __init__(
        self,
        token: Any,
        uri: str,
        wire: Any,
        key: str,
        *,
        start: int = 0,
        end: int | None = None,
        size: int | None = None,
        version: str | None = None,
        out: memoryview | None = None,
    ) -> None:
        self.token = token
        self.uri = uri
        self.wire = wire
        self.key = key
        self.start = start
        """First byte of the object that is asked for."""
        self.end = end
        """One past the last byte; None for the end of the object, known once the head is here."""
        self.size = size
        """Bytes of the whole object, where a listing or a head said so."""
        self.version = version
        """The version that every answer must have; set from the first head where nobody pinned one."""
        self.is_pinned = version is not None or size is not None
        """Whether a caller chose the version (a listing, a stat), and not the first head."""
        self.out = out
        """Writable memory for the bytes [start, end); may be longer, and is asked for when it is None or too short."""
        self._asked = (end, size, version)
        self.wants_checksum = False
        """Whether the bytes are held against the object's checksum, if there is one."""
        self.checksum: RunningSum | None = None
        """The sum of what was received, where the object does not come at once."""
        self.mismatches = 0
        """How often the bytes had another checksum than the object."""
        self.is_verified = False
        """Whether the bytes have the object's checksum."""
        self.was_restarted = False
        self.received = 0
        """Good bytes in `out` so far."""
        self.body: bytes | bytearray = b""
        """The body of an `Exchange`, or a chunked body that waits for space."""
        self.reply: ResponseHead | None = None
        """The head of the last answer below 300."""
        self.state = State.QUEUED
        self.error: S3dlioError | None = None
        self.attempts = 0
        self.failures = 0
        """Consecutive failures without a new byte."""
        self.begun_s = 0.0
        self.finished_s = 0.0
        self.first_byte_s = 0.0
        """When the body began to come, if it did not come at once; else 0."""
        self.deadline_s = 0.0

    def begin(self, deadline_s: float, with_checksum: bool) -> None:
        """Counts an attempt; the first one starts the clock. `with_checksum` has a whole object checked."""
        if not self.begun_s:
            # Of a range there is none.
            self.wants_checksum = with_checksum and not self.start and self.end is None
            self.begun_s = time.monotonic()
            self.deadline_s = deadline_s
        self.attempts += 1
        self.state = _ACTIVE

    def build(self) -> bytes:
        """Returns the bytes of the next request: what is still missing, pinned to the version once that is known."""
        # What is received of an object already came with its checksum.
        with_checksum = self.wants_checksum and not self.received
        request: bytes = self.wire.get(self.key, self.start + self.received, self.end, self.version, with_checksum)
        return request

    @property
    def is_resumable(self) -> bool:
        """Whether the rest of a broken body could be told to be of the same version: not without an ETag, nor with a weak one."""
        return self.version is not None and not self.version.startswith("W/")

    def hand_over(self) -> bool:
        """Has the wire say by which other one the object is reached; returns whether there is any."""
        other = self.wire.successor()
        if other is None:
            return False
        self.wire = other
        return True

    def restart(self) -> None:
        """Forgets what was received and learnt."""
        self.received = 0
        self.checksum = None
        self.end, self.size, self.version = self._asked

    def let_go(self) -> None:
        """Called when it is given up: keeps nothing of its caller's memory."""

    @property
    def missing_space(self) -> int:
        """Bytes that `out` must hold, while the state is WANTS_SPACE."""
        assert self.end is not None
        return self.end - self.start


class Exchange(Fetch):
    """A request whose whole answer comes to private memory: HEAD, LIST, DELETE; and PUT and POST, with their payload.

    Args:
        make: Returns the request's bytes, signed anew at each attempt; where there is a payload, its head alone.
        max_body_bytes: A longer body is a `ProtocolError`.
        payload: Contiguous bytes that are sent behind the head, from where they are, at each attempt. Whoever gives them does not change
            them before the request ends; the head says their length.

    Attributes:
        check: Called with an answer below 300; what it raises makes a failure of it, which is tried again like any other (case N12).
    """

    __slots__ = ("check", "make", "max_body_bytes", "method", "payload")

    is_exchange = True

    def __init__(
        self,
        token: Any,
        uri: str,
        wire: Any,
        method: str,
        make: Callable[[], bytes],
        max_body_bytes: int = 64 << 20,
        payload: memoryview | None = None,
    ) -> None:
        super().__init__(token, uri, wire, "")
        self.method = method
        self.check = None
        self.make = make
        self.max_body_bytes = max_body_bytes
        self.payload = payload

    def build(self) -> bytes:
        return self.make()

    def hand_over(self) -> bool:
        """Whoever made the request must make another one."""
        return False

    def let_go(self) -> None:
        self.payload = None
