"""Requests that an SDK makes, in threads, for one fetch loop: the slow lane, for what the loop's own connections cannot do.

Rules:

* A thread never touches the memory of an object: it hands over pieces, and the loop copies them to their place. So a request may be
  given up at any moment, and nothing is written late.
* Nor does it hold what is to be sent: it reads pieces of it from a `Loan` (`loan.py`), which ends with the attempt.
* What is exact about a read is decided where it always is (`accept.py`): version, range, size, checksum. The SDK only carries bytes.
* Failures, waits and deadlines are the loop's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..errors import InternalError, S3dlioError, StoreTimeoutError, TruncatedBodyError, describe
from .accept import accept, begin_sum, check_sum
from .loan import Loan
from .mailbox import Mailbox
from .request import Fetch, State
from .threads import run_in_thread

if TYPE_CHECKING:
    from .http1 import ResponseHead

_PIECE_BYTES: Final = 1 << 20
_EMPTY: Final = memoryview(bytearray())


class Stream(Protocol):
    """A body that is being received."""

    def read(self, num: int) -> bytes:
        """Returns up to `num` bytes, none at the end; blocks.

        Raises:
            S3dlioError: As the network says.
        """
        ...

    def close(self) -> None:
        """Lets go of the connection. Never called while a `read` is under way: it would wait for that."""
        ...


class SdkWire(Protocol):
    """The half of a store that the lane needs."""

    is_local: bool
    """False."""
    origin: None
    """The loop connects nowhere itself."""

    def open(self, key: str, start: int, end: int | None, version: str | None, with_checksum: bool) -> tuple[ResponseHead, Stream]:
        """Sends the request that `Wire.get` would, and returns its answer below 300; blocks.

        Raises:
            S3dlioError: The answer is an error, or there is none.
        """
        ...


class Call(Fetch):
    """Something else that an SDK does, as a listing or a deletion: `call` runs in a thread, and its result is `result`.

    Args:
        call: Is given a `Loan` of the payload, where there is one; nothing else.
        payload: What is to be sent. Whoever gives it does not change it before the request ends.
    """

    __slots__ = ("call", "check", "payload", "result")

    is_exchange = True

    def __init__(self, uri: str, wire: Any, call: Callable[..., Any], payload: memoryview | None = None) -> None:
        super().__init__(None, uri, wire, "")
        self.check = None
        self.call = call
        self.payload = payload
        self.result: Any = None

    def let_go(self) -> None:
        self.payload = None


class _Job:
    """A request in the lane."""

    __slots__ = ("fetch", "is_busy", "is_over", "left", "loan", "skip", "stream")

    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch
        self.stream: Stream | None = None
        self.loan: Loan | None = None
        """What the thread may read of the caller's memory."""
        self.skip = 0
        """Bytes to pass over before those that are wanted."""
        self.left = 0
        """Bytes that are still to come."""
        self.is_busy = False
        """Whether a thread has it, or will."""
        self.is_over = False

    def end(self) -> None:
        """Nobody wants more of it. What a thread has, it lets go of itself; what it was lent is taken back at once."""
        self.is_over = True
        if self.loan is not None:
            self.loan.end()
        if not self.is_busy:
            self.let_go()

    def let_go(self, result: Any = None) -> None:
        """Closes what is open, and what came too late."""
        if isinstance(result, tuple):
            result[1].close()
        if self.stream is not None:
            self.stream.close()
            self.stream = None


_Opened = tuple["ResponseHead", Stream]


class SdkLane:
    """The requests of one loop that an SDK makes."""

    def __init__(
        self,
        watch: Callable[[int, Callable[[], None]], None],
        grant: Callable[[Fetch], memoryview | None],
        on_change: Callable[[Fetch], None],
        on_failure: Callable[[Fetch, S3dlioError], None],
    ) -> None:
        """Begins without any.

        Args:
            watch: As `FetchLoop.watch`.
            grant: As `FetchLoop.grant`.
            on_change: Called with a request that is DONE or WANTS_SPACE.
            on_failure: Called with a request whose attempt has failed.
        """
        self._mailbox: Mailbox[tuple[_Job, Any]] = Mailbox()
        self._jobs: dict[Fetch, _Job] = {}
        self._grant = grant
        self._on_change = on_change
        self._on_failure = on_failure
        watch(self._mailbox.fd, self._on_mail)

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def num_busy(self) -> int:
        """Requests under way; those that wait for space do not count, as in `FetchLoop`."""
        return sum(job.is_busy for job in self._jobs.values())

    def begin(self, fetch: Fetch) -> None:
        """Makes an attempt."""
        job = self._jobs[fetch] = _Job(fetch)
        work: Callable[[], Any]
        if isinstance(fetch, Call) and fetch.payload is not None:
            job.loan = Loan(fetch.payload)
            work = partial(fetch.call, job.loan)
        elif isinstance(fetch, Call):
            work = fetch.call
        else:
            with_checksum = fetch.wants_checksum and not fetch.received
            start = fetch.start + fetch.received
            work = partial(fetch.wire.open, fetch.key, start, fetch.end, fetch.version, with_checksum)
        self._run(job, work)

    def supply(self, fetch: Fetch) -> bool:
        """Goes on with a body whose space has come; False if it is not here."""
        job = self._jobs.get(fetch)
        if job is None:
            return False
        assert fetch.end is not None
        # Whoever gave the space may have cut the part shorter.
        job.left = min(job.left, fetch.end - fetch.start - fetch.received)
        self._go_on(job)
        return True

    def forget(self, fetch: Fetch) -> bool:
        """Gives a request up; returns whether it was here."""
        job = self._jobs.pop(fetch, None)
        if job is None:
            return False
        job.end()
        return True

    def sweep(self, now_s: float) -> None:
        """Fails what is past its deadline, whatever the SDK still waits for."""
        for fetch in [fetch for fetch in self._jobs if now_s > fetch.deadline_s and fetch.state is not State.WANTS_SPACE]:
            self.forget(fetch)
            self._on_failure(fetch, StoreTimeoutError("the request did not end before its deadline"))

    def close(self) -> None:
        """Gives everything up."""
        for job in self._jobs.values():
            job.end()
        self._jobs.clear()
        for job, result in self._mailbox.close():
            job.let_go(result)

    def _run(self, job: _Job, work: Callable[[], Any]) -> None:
        job.is_busy = True
        run_in_thread(partial(_deliver, self._mailbox, job, work))

    def _on_mail(self) -> None:
        for job, result in self._mailbox.take():
            job.is_busy = False
            if job.is_over:
                job.let_go(result)
                continue
            try:
                self._on_result(job, result)
            except S3dlioError as error:
                self.forget(job.fetch)
                self._on_failure(job.fetch, error)

    def _on_result(self, job: _Job, result: Any) -> None:
        fetch = job.fetch
        if isinstance(result, S3dlioError):
            raise result
        if isinstance(fetch, Call):
            fetch.result = result
            if fetch.check is not None:
                fetch.check(fetch)
            self._finish(fetch)
        elif isinstance(result, bytes):
            self._take(job, result)
        else:
            self._on_opened(job, result)

    def _on_opened(self, job: _Job, opened: _Opened) -> None:
        head, job.stream = opened
        fetch = job.fetch
        plan = accept(fetch, head)
        if plan is None:
            raise InternalError("an SDK gave a chunked body without its length")
        begin_sum(fetch, head)
        job.skip, job.left, _ = plan
        assert fetch.end is not None
        room = fetch.end - fetch.start
        if fetch.out is None or len(fetch.out) < room:
            fetch.out = self._grant(fetch) if room else _EMPTY
            if fetch.out is None:
                fetch.state = State.WANTS_SPACE
                self._on_change(fetch)
                return
        self._go_on(job)

    def _take(self, job: _Job, data: bytes) -> None:
        fetch = job.fetch
        if not data:
            raise TruncatedBodyError(f"the body ended {job.left + job.skip} bytes too early")
        passed = min(job.skip, len(data))
        job.skip -= passed
        num = min(job.left, len(data) - passed)
        assert fetch.out is not None
        fetch.out[fetch.received : fetch.received + num] = data[passed : passed + num]
        job.left -= num
        fetch.received += num
        if num and fetch.is_resumable:
            fetch.failures = 0
        if fetch.checksum is not None:
            fetch.checksum.add(fetch.out, fetch.received)
        self._go_on(job)

    def _go_on(self, job: _Job) -> None:
        fetch, stream = job.fetch, job.stream
        assert stream is not None
        if job.left:
            self._run(job, partial(stream.read, min(job.skip + job.left, _PIECE_BYTES)))
            return
        check_sum(fetch)
        self._finish(fetch)

    def _finish(self, fetch: Fetch) -> None:
        self.forget(fetch)
        fetch.state = State.DONE
        self._on_change(fetch)


def _deliver(mailbox: Mailbox[tuple[_Job, Any]], job: _Job, work: Callable[[], Any]) -> None:
    """What a thread does: one call, and a letter about it."""
    # Nobody may want it any more, if all threads were busy for long.
    result: Any = None
    if not job.is_over:
        try:
            result = work()
        except S3dlioError as error:
            result = error
        except BaseException as error:  # noqa: BLE001 (a thread has nobody else to tell)
            result = InternalError("an SDK raised what it should not", cause=describe(error))
    if isinstance(result, S3dlioError):
        # Their tracebacks' frames hold the request.
        result.__traceback__ = result.__context__ = result.__cause__ = None
    if not mailbox.post((job, result)):
        job.let_go(result)
