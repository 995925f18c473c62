"""One read of one version of an object into one view: by one request, or in parts side by side where it is long.

A state machine without a loop of its own. Who has a fetch loop calls `begin`, and `go_on` with every request of it that comes back.

Rules:

* The first answer tells size and version, where they are not known; then the rest is asked for, of that version. Size and version of
  every part are compared again at the end, whatever the server made of the condition.
* What has no version that a part could be held to (no ETag, a weak one) is read by one request.
* The view belongs to the read until it is over. It is dropped only when no request writes to it any more.
* The checksum of a whole object that came in parts is put together from theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ..errors import ChecksumMismatchError, InvalidRangeError, ObjectChangedError, ProtocolError, S3dlioError
from ..fetch.checksums import Checksum, sum_function
from ..fetch.delayed import MAX_MISMATCHES
from ..fetch.request import Fetch, State
from ..stores.base import Ended, Operation, Store, advance
from .rooms import ViewFetch, process_rooms
from .whole_sum import WholeSum

if TYPE_CHECKING:
    from ..config import Settings
    from ..fetch.loop import FetchLoop
    from ..memory.view import BytesView

# Before Python 3.12 an attribute of an enum costs as much as a call.
_WANTS_SPACE: Final = State.WANTS_SPACE
_DONE: Final = State.DONE


class Wanted(msgspec.Struct, frozen=True, eq=False):
    """What is to be read: bytes [start, end) of an object, up to its end where `end` is None or beyond it."""

    store: Store
    uri: str
    """As errors are to say it."""
    key: str
    start: int = 0
    end: int | None = None
    size: int | None = None
    """Of the whole object; where given, another size is an error."""
    version: str | None = None
    """Where given, another version is an error."""

    @property
    def num_bytes(self) -> int | None:
        """What will come; None where that is not known."""
        size, end = self.size, self.end
        if end is None or (size is not None and size < end):
            end = size
        return end if end is None or not self.start else max(0, end - self.start)


class _Part(NamedTuple):
    offset: int
    """From the beginning of the view."""
    length: int
    sum: int | None
    """Its checksum; None where it is not taken yet."""


class PartedRead:
    """A read under way. Each of its requests has it as `token`, until the request has ended."""

    # Most reads are of one request that brings everything: what only others need is theirs when they need it.
    is_over = False
    view: BytesView | None = None
    """The bytes, once it is over."""
    error: S3dlioError | None = None
    """Why there are none."""
    is_verified = False
    """Whether the bytes have the checksum that the store gives of the whole object."""
    _expected: Checksum | None = None
    """Of the whole object, once somebody has said it."""
    _asking: Operation[tuple[str | None, Checksum] | None] | None = None
    """Asks for it."""
    _asked: Fetch | None = None
    """Its request."""
    _is_whole = False
    """Whether all of the object is asked for."""
    _may_split = True
    _is_cut = False
    """Whether the first request asks for the first part alone."""
    _was_restarted = False
    _mismatches = 0

    def __init__(self, wanted: Wanted, limits: Settings, number: int = 0) -> None:
        self.wanted = wanted
        self.number = number
        """The driver's own."""
        self._limits = limits
        self._under_way: set[Fetch] = set()
        self._size = wanted.size
        self._version = wanted.version
        self._parts: list[_Part] = []
        if wanted.store.wire.is_local:
            self._may_split = False

    @property
    def found(self) -> tuple[int | None, str | None]:
        """Size and version of the object that was read, once it is over."""
        return self._size, self._version

    def begin(self, loop: FetchLoop) -> None:
        """Hands the first requests to a loop; whatever fails ends the read."""
        first = self.begin_apart(loop)
        if first is not None:
            process_rooms().guess((first,))
            loop.submit(first)

    def begin_apart(self, loop: FetchLoop) -> ViewFetch | None:
        """As `begin`, but returns the request which is the only one for now: who begins many has room made for all at once."""
        wanted = self.wanted
        start, end, size = wanted.start, wanted.end, wanted.size
        if start or end is not None:
            if size is not None and start > size:
                self._end(InvalidRangeError(f"the range begins at {start}, the object has {size} bytes", uri=wanted.uri))
                return None
            if (size is not None and start == size and start) or (end is not None and end <= start):
                # Of which no range could be asked for.
                self.view = process_rooms().empty_view()
                self._end(None)
                return None
            if size is not None and (end is None or end >= size):
                end = size if start else None
        stop = end if end is not None else size
        if stop is None or not self._is_long(stop - start):
            return self._make_alone(end)
        if size is not None and is_strong(self._version):
            self._spread(loop, stop)
            return None
        # Its answer says of which version the others are to be.
        self._is_cut = True
        return self._make_alone(start + self._limits.part_bytes)

    def grant(self, fetch: Fetch) -> memoryview | None:
        """Gives its first request room, if that one is to bring everything; None where the loop is to ask for it by `poll`.

        Raises:
            S3dlioError: There is no memory.
        """
        return process_rooms().grant(fetch) if self._brings_all(fetch) else None

    def needed(self, fetch: Fetch) -> int:
        """Returns the bytes of the view, as the head of its first request has it, which misses room."""
        return self._end_of(fetch) - self.wanted.start

    def _brings_all(self, fetch: Fetch) -> bool:
        """Whether the first request is to be the only one."""
        if self._is_cut:
            return fetch.size is not None and fetch.end == self._end_of(fetch)
        return not (self._is_long(fetch.missing_space) and fetch.size is not None and is_strong(fetch.version))

    def go_on(self, loop: FetchLoop, fetch: Fetch) -> None:
        """Takes a request back that has ended; or gives room to one that wants it, and begins what is to come beside it."""
        if fetch.state is _WANTS_SPACE:
            self._supply(loop, fetch)
            return
        self._under_way.discard(fetch)
        fetch.token = None
        if fetch is self._asked:
            self._take_answer(loop, fetch)
        elif fetch.state is _DONE:
            self._take(fetch)
        else:
            error, fetch.error = fetch.error, None
            _let_go(fetch)
            self._fail(loop, error or ProtocolError("the request was given up", uri=fetch.uri))
        if not self._under_way and not self.is_over:
            self._finish(loop)

    def drive(self, loop: FetchLoop) -> BytesView:
        """Does all of it on a loop that has nothing else to do. After any other error than its own the loop is to be closed.

        Raises:
            S3dlioError: Why there are no bytes.
        """
        loop.grant = self.grant
        self.begin(loop)
        while not self.is_over or loop.num_unfinished:
            for fetch in loop.poll(None):
                if fetch.token is self:
                    self.go_on(loop, fetch)
        return self.outcome()

    def outcome(self) -> BytesView:
        """Hands out what has come of it, once.

        Raises:
            S3dlioError: Why there are no bytes.
        """
        view, self.view = self.view, None
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                # Or the traceback, which keeps this frame, and the frame would keep each other.
                del error
        assert view is not None
        return view

    def cancel(self, loop: FetchLoop) -> None:
        """Gives it up, and its memory back."""
        under_way, self._under_way = self._under_way, set()
        for fetch in under_way:
            fetch.token = None
            loop.cancel(fetch)
        self._forget(under_way)

    def abandon(self) -> None:
        """As `cancel`, where the loop is gone: nobody writes to the view any more."""
        under_way, self._under_way = self._under_way, set()
        self._forget(under_way)

    def _forget(self, under_way: set[Fetch]) -> None:
        for fetch in under_way:
            fetch.token = None
            _let_go(fetch)
        if self._asking is not None:
            self._asking.close()
        self._asking = self._asked = self.view = None
        self._parts.clear()

    # Beginning.

    def _make_alone(self, end: int | None) -> ViewFetch:
        wanted = self.wanted
        fetch = ViewFetch(
            self,
            wanted.uri,
            wanted.store.wire,
            wanted.key,
            start=wanted.start,
            end=end,
            size=wanted.size,
            version=wanted.version,
        )
        fetch.view = None
        self._under_way.add(fetch)
        return fetch

    def _submit(self, loop: FetchLoop, fetch: Fetch) -> None:
        self._under_way.add(fetch)
        loop.submit(fetch)

    def _supply(self, loop: FetchLoop, fetch: Fetch) -> None:
        """The first answer is here: makes room for all, and asks for the rest."""
        self._size, self._version = fetch.size, fetch.version
        if self._brings_all(fetch):
            assert isinstance(fetch, ViewFetch)
            try:
                loop.supply(fetch, process_rooms().grant(fetch))
            except S3dlioError as error:
                self._fail(loop, error)
        elif fetch.size is None or not is_strong(fetch.version):
            # Its parts could be of two versions, so there is to be one.
            self._may_split = self._is_cut = False
            self.cancel(loop)
            self.begin(loop)
        else:
            if fetch.checksum is not None:
                self._expected, fetch.checksum = fetch.checksum.expected, None
            # From here on another version is an error: others are being asked for this one.
            fetch.is_pinned = True
            self._spread(loop, self._end_of(fetch), fetch)

    def _spread(self, loop: FetchLoop, end: int, first: Fetch | None = None) -> None:
        """Asks for [start, end) in parts; the first of them is `first`, where that is under way already."""
        wanted, step = self.wanted, self._limits.part_bytes
        start, uri, wire = wanted.start, wanted.uri, wanted.store.wire
        try:
            self.view = process_rooms().new_view(end - start)
        except S3dlioError as error:
            self._fail(loop, error)
            return
        memory = self.view.data
        self._is_whole = not start and end == self._size
        # The answer to a request for all of it has said already what there is to say.
        if self._is_whole and self._limits.verify_checksums and (first is None or self._is_cut):
            self._ask_for_sum(loop)
        if first is not None:
            first.end = min(end, start + step)
            loop.supply(first, memory[: first.end - start])
        for begin in range(start if first is None else start + step, end, step):
            stop = min(end, begin + step)
            out = memory[begin - start : stop - start]
            part = Fetch(self, uri, wire, wanted.key, start=begin, end=stop, size=self._size, version=self._version, out=out)
            self._submit(loop, part)

    def _ask_for_sum(self, loop: FetchLoop) -> None:
        self._asking = self.wanted.store.find_sum(self.wanted.key)
        self._go_on_asking(loop, None)

    # Ending.

    def _take_answer(self, loop: FetchLoop, fetch: Fetch) -> None:
        error, fetch.error = fetch.error, None
        self._go_on_asking(loop, error or fetch)

    def _go_on_asking(self, loop: FetchLoop, done: Fetch | S3dlioError | None) -> None:
        assert self._asking is not None
        step = advance(self._asking, done)
        if isinstance(step, Ended):
            # Who may not ask, or whom nobody answers, has bytes that are not verified.
            self._asking = self._asked = None
            if not isinstance(step.result, S3dlioError) and step.result is not None and step.result[0] == self._version:
                self._expected = step.result[1]
            return
        step.token = self
        self._asked = step
        self._submit(loop, step)

    def _take(self, fetch: Fetch) -> None:
        if self.view is None:
            found = process_rooms().outcome(fetch)  # type: ignore[arg-type]
            if isinstance(found, S3dlioError):
                self.error = found
                return
            self.view = found
            self.is_verified = fetch.is_verified
            self._size, self._version = fetch.size, fetch.version
            return
        assert fetch.out is not None
        assert fetch.end is not None
        length = fetch.end - fetch.start
        if fetch.version != self._version or fetch.size != self._size or fetch.received != length:
            self.error = self.error or ObjectChangedError("a part of the object is of another version", uri=fetch.uri)
        value = None if self._expected is None else sum_function(self._expected.algorithm)(fetch.out[:length], 0)
        self._parts.append(_Part(fetch.start - self.wanted.start, length, value))
        fetch.out = None

    def _finish(self, loop: FetchLoop) -> None:
        if self.error is None and self._parts:
            assert self.view is not None
            if sum(part.length for part in self._parts) != len(self.view):
                self.error = ProtocolError("parts of the object are missing", uri=self.wanted.uri)
            elif self._expected is not None and self._is_whole:
                self.error = self._verify(self._expected, self.view.data)
        if self.error is not None:
            self._fail(loop, self.error)
            return
        if self._parts:
            # Of what came at once it is noted already, and twice would pass for two objects.
            process_rooms().note_size(len(self.view or b""))
        self._end(None)

    def _verify(self, expected: Checksum, memory: memoryview) -> ChecksumMismatchError | None:
        whole = WholeSum(expected)
        for offset, length, value in self._parts:
            here = sum_function(expected.algorithm)(memory[offset : offset + length], 0) if value is None else value
            whole.add(offset, length, here)
        error = whole.check(self.wanted.uri)
        self.is_verified = error is None
        return error

    def _fail(self, loop: FetchLoop, error: S3dlioError) -> None:
        """Ends all requests; begins once more where that may help."""
        is_in_parts = self.view is not None
        self.error = None
        self.cancel(loop)
        if isinstance(error, ChecksumMismatchError) and is_in_parts:
            self._mismatches += 1
            is_again = self._mismatches < MAX_MISMATCHES
        else:
            is_pinned = self.wanted.version is not None or self.wanted.size is not None
            is_again = isinstance(error, ObjectChangedError) and is_in_parts and not is_pinned and not self._was_restarted
            self._was_restarted |= is_again
        if not is_again:
            self._end(error)
            return
        self._size, self._version, self._expected = self.wanted.size, self.wanted.version, None
        self.begin(loop)

    def _end(self, error: S3dlioError | None) -> None:
        self.is_over = True
        self._parts.clear()
        if error is not None:
            # The frames that it came through would keep what they hold.
            error.__traceback__ = error.__context__ = None
            error.uri = error.uri or self.wanted.uri
            self.error = error

    def _end_of(self, fetch: Fetch) -> int:
        """Returns where the read ends, as the head of `fetch` has it."""
        end = self.wanted.end
        if fetch.size is None:
            assert fetch.end is not None
            return fetch.end
        return fetch.size if end is None else min(end, fetch.size)

    def _is_long(self, num_bytes: int) -> bool:
        return self._may_split and is_long(num_bytes, self._limits)


def _let_go(fetch: Fetch) -> None:
    """Takes the memory from a request that has ended: whoever has its error, with the frames that it came through, has the request too."""
    fetch.out = None
    if isinstance(fetch, ViewFetch):
        fetch.view = None


def is_strong(version: str | None) -> bool:
    """Whether a part can be held to a version: there is one, and it is no weak ETag."""
    return version is not None and not version.startswith("W/")


def is_long(num_bytes: int, limits: Settings) -> bool:
    """Whether so many bytes are read in parts, where that can be."""
    return num_bytes > max(limits.split_above_bytes, limits.part_bytes)
