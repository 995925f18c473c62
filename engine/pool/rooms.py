"""Memory for what belongs to the caller: results of `get`, `get_range`, `get_many`, and of their awaited forms.

Owns one arena of the process. Slots are granted beyond the cap, as large as the object. It drives nothing: who has a fetch loop calls
`grant` from it, `guess` before a request is sent, and `result` when one is done.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from ..config import settings
from ..errors import InsufficientMemoryError, S3dlioError
from ..fetch.request import Fetch
from ..memory.arena import Arena
from ..memory.view import private_view
from .into import IntoFetch
from .sizes import hint_of

if TYPE_CHECKING:
    from ..memory.view import BytesView

_MAX_GUESS_BYTES: Final = 256 << 10
"""A larger object gains nothing from room that it has before its head is here."""
_MAX_SLOT_BYTES: Final = 64 << 20
"""A slot that is free keeps its pages for the next object. Of larger ones there may be no next for long, as of a checkpoint that was
loaded; and huge pages, which a shared mapping seldom gets, are made in less time."""


class ViewFetch(Fetch):
    """A request for an object, or for a range of one, whose bytes come in a view of their own."""

    __slots__ = ("view",)

    view: BytesView | None
    """Where `out` lies; whoever drops it gives the memory back. None is set by whoever makes the request (see `new_view_fetch`)."""

    def anew(self) -> ViewFetch:
        """Returns the same request, of which nothing has been done yet."""
        end, size, version = self._asked
        fetch = ViewFetch(None, self.uri, self.wire, self.key, start=self.start, end=end, size=size, version=version)
        fetch.view = None
        return fetch

    def forget(self) -> None:
        """Gives the memory back. Nothing may write to it any more: the request has ended, or its connection is closed."""
        self.view = self.out = None


def new_view_fetch(uri: str, wire: Any, key: str, *, start: int = 0, end: int | None = None) -> ViewFetch:
    """Returns a request that has no memory yet."""
    fetch = ViewFetch(None, uri, wire, key, start=start, end=end)
    fetch.view = None
    return fetch


class Rooms:
    """An arena, and what is known of the sizes to come. Thread-safe."""

    def __init__(self) -> None:
        limits = settings()
        self._lock = threading.Lock()
        """Guards the arena's books; held for a microsecond, or while the kernel reserves new pages (290 ms/GiB)."""
        self.arena = Arena(limits.memory_bytes, limits.poison_freed, self._lock)
        self._last_bytes = -1
        self._guess_bytes = 0
        """The size of the last object if the one before had the same, else 0: the next one is given that much room beforehand. A hint
        only, so threads that overwrite it for each other do no harm."""

    @property
    def is_small(self) -> bool:
        """Whether the last object or range was a small one, and the next may be one too. A hint only."""
        return 0 <= self._last_bytes <= _MAX_GUESS_BYTES

    def grant(self, fetch: Fetch) -> memoryview:
        """Gives a `ViewFetch` the memory that it misses; what a fetch loop calls.

        Raises:
            ConfigurationError: It has memory of the caller's, and that is not enough.
            InsufficientMemoryError: The machine has not that much.
            PoolClosedError: `close` came.
        """
        if isinstance(fetch, IntoFetch):
            fetch.refuse()
        assert isinstance(fetch, ViewFetch)
        with self._lock:
            return self._room(fetch, fetch.missing_space)

    def guess(self, fetches: Iterable[ViewFetch]) -> None:
        """Gives room beforehand to whole objects, so that head and body come by one call into the kernel."""
        guess = self._guess_bytes
        with self._lock:
            for fetch in fetches:
                num = fetch.size
                if num is None:
                    num = hint_of(fetch.uri)
                    if num is None:
                        num = guess
                if 0 < num <= _MAX_GUESS_BYTES and fetch.end is None and not fetch.start:
                    try:
                        fetch.out = self._room(fetch, num)
                    except S3dlioError:
                        # Memory is short: the request itself finds out how much it needs, and fails by itself if it must.
                        continue

    def result(self, fetch: ViewFetch) -> BytesView:
        """Returns the view of a request that is done.

        Raises:
            InsufficientMemoryError: There is no memory even for an object without bytes.
        """
        view = fetch.view
        num = fetch.received
        self.note_size(num)
        if view is not None and len(view) == num:
            return view
        try:
            # An empty object never asked for room, and one that is smaller than its guess moves to memory of its own size.
            exact = self.new_view(num)
        except InsufficientMemoryError:
            if view is None:
                raise
            part: BytesView = view[:num]
            return part
        if view is not None:
            exact.data[:] = view[:num].data
        return exact

    def note_size(self, num: int) -> None:
        """Notes how long an object was: the next one may be as long."""
        self._guess_bytes = num if num == self._last_bytes else 0
        self._last_bytes = num

    def outcome(self, fetch: ViewFetch) -> BytesView | S3dlioError:
        """Returns the view of a request that has ended, or its error."""
        error, fetch.error = fetch.error, None
        if error is None:
            try:
                view = self.result(fetch)
            except S3dlioError as none_left:
                error = none_left
            else:
                # Another request's error may hold this one, by a frame of its traceback.
                fetch.view = None
                return view
        fetch.forget()
        return error

    def empty_view(self) -> BytesView:
        """Returns a view of no bytes."""
        return self.new_view(0)

    def new_view(self, num: int) -> BytesView:
        """Returns a view of `num` bytes, to be filled. A large one has memory of its own, which the system has again when it is gone.

        Raises:
            InsufficientMemoryError: The machine has not that much.
            PoolClosedError: `close` came.
        """
        if num > _MAX_SLOT_BYTES:
            return private_view(num)
        taken = new_view_fetch("", None, "")
        with self._lock:
            self._room(taken, num)
        assert taken.view is not None
        return taken.view

    def close(self) -> None:
        """Closes the segment's descriptor; views that exist stay readable."""
        with self._lock:
            self.arena.close()

    def _room(self, fetch: ViewFetch, num: int) -> memoryview:
        """Makes the view before its bytes are there: whatever becomes of the request, dropping it gives the memory back."""
        arena = self.arena
        try:
            if arena.released:
                arena.collect()
            slot = arena.slots.allocate(num, beyond_cap=True)
            assert slot is not None
            fetch.view = arena.lease(slot, num)
        except S3dlioError:
            raise
        except BaseException:
            self._begin_anew(arena)
            raise
        return arena.buffer[slot.start : slot.start + num]

    def _begin_anew(self, arena: Arena) -> None:
        """Ctrl-C came in the middle of the books: nobody may go on with them. What was read from them stays readable."""
        self.arena = Arena(settings().memory_bytes, settings().poison_freed, self._lock)
        arena.close()


_rooms: Rooms | None = None
_making = threading.Lock()
_inherited: list[Rooms] = []
"""After a fork: the parent's, kept and never touched, since the parent goes on granting from it."""


def process_rooms() -> Rooms:
    """Returns the process's own, made at the first call."""
    global _rooms
    found = _rooms
    if found is None:
        with _making:
            found = _rooms = _rooms or Rooms()
    return found


def close_rooms() -> None:
    """Closes the process's own; the next call makes another. Those who keep them (fetchers) are to be closed after this.

    In the other order, somebody might make a fetcher in between that keeps the rooms which are closed next.
    """
    global _rooms
    with _making:
        found, _rooms = _rooms, None
    if found is not None:
        found.close()


def _abandon() -> None:
    global _rooms, _making
    if _rooms is not None:
        _inherited.append(_rooms)
    _rooms = None
    _making = threading.Lock()


os.register_at_fork(after_in_child=_abandon)
