"""The fetch loop: one epoll set, the connections in it, and the requests that wait for one.

Rules:

* The loop never blocks but in `epoll`, has no thread, and is driven by one caller at a time through `poll`. Others may `wake` it.
* Requests start in the order of `submit`, as many at once as `max_connections`; connections are opened as needed, kept, and used
  again last-in first-out.
* A failure is answered here and nowhere else: by another attempt after a wait (`retry.py` says when), or by a finished `Fetch`
  with its error. What was received stays received: the next attempt asks for the rest of the same version.
* The loop's clock stands still outside `poll`, and timeouts are judged in a sweep after the sockets were read: a caller who was away
  for a minute finds data, not a timeout.

Level-triggered epoll: a socket with unread data reports again, so a body may be read in pieces and nothing needs draining.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from ..errors import BucketElsewhereError, ConnectFailedError, S3dlioError, StoreTimeoutError, ThrottledError
from .answer import Phase
from .backlog import Backlog
from .connection import READS, Connection
from .connections import Connections
from .delayed import backoff_s, finish_error, wait_before_retry
from .local import read_piece
from .mailbox import Mailbox
from .request import Fetch, State

if TYPE_CHECKING:
    from ..config import Settings
    from .names import Name
    from .origin import Origin
    from .sdk_lane import SdkLane

_SWEEP_S: Final = 0.25
"""How often timeouts are judged; their error is at most this."""
_LOCAL_TURN_S: Final = 0.001
"""How long local objects are read before sockets are looked at again: a look costs as much as a small file."""
_READ: Final = select.EPOLLIN
_WRITE: Final = select.EPOLLIN | select.EPOLLOUT
# As in answer.py: an attribute of an enum costs as much as a call.
_IDLE: Final = Phase.IDLE
_SENDING: Final = Phase.SENDING
_HEAD: Final = Phase.HEAD
_PARKED: Final = Phase.PARKED
_BODY: Final = Phase.BODY
_ACTIVE: Final = State.ACTIVE
_DONE: Final = State.DONE


class FetchLoop:
    """Drives requests over keep-alive connections. Not thread-safe: one caller at a time."""

    def __init__(self, limits: Settings, max_connections: int) -> None:
        self.max_connections = max_connections
        self.grant: Callable[[Fetch], memoryview | None] = no_space
        """Called when a body turns out to need more space than its fetch has: returns memory, or None to be told by `poll`."""
        self.limits = limits
        """Timeouts and the retry policy; may be exchanged between two polls."""
        self._epoll = select.epoll()
        self._active: dict[int, Connection] = {}
        """By descriptor: connections with a request."""
        self._idle = Connections(self._epoll, self._grant, self._watch_names)
        self._watched: dict[int, Callable[[], None]] = {}
        self._backlog = Backlog()
        self._queue = self._backlog.queue
        self._throttles = self._backlog.throttles
        self._local: deque[Fetch] = deque()
        self._sdk: SdkLane | None = None
        """Requests that an SDK makes, once there was one."""
        self._parked: dict[int, Connection] = {}
        """By descriptor: connections whose fetch wants space, muted. They do not count against the limit: what they wait for may be
        held by requests in the queue, which would otherwise wait for them."""
        self._parking: list[Connection] = []
        """Connections that came to want space since the last poll, still in the epoll set."""
        self._finished: list[Fetch] = []
        self._bell: Mailbox[None] | None = None
        """Rung by other threads, once one may `wake` the loop."""
        self._now = time.monotonic()
        """The loop's clock."""
        self._next_sweep = self._now + _SWEEP_S

    # What a driver calls.

    @property
    def num_unfinished(self) -> int:
        """Requests that `poll` still owes."""
        waiting = len(self._backlog) + len(self._local) + (0 if self._sdk is None else len(self._sdk))
        return len(self._active) + len(self._parked) + waiting + len(self._finished)

    @property
    def num_connections(self) -> int:
        """Sockets that are open, with a request or without."""
        return len(self._active) + len(self._parked) + len(self._idle)

    def fileno(self) -> int:
        """The epoll descriptor: readable when `poll` has something to do (timeouts apart)."""
        return self._epoll.fileno()

    def submit(self, fetch: Fetch) -> None:
        """Takes a request; it comes back from `poll`."""
        (self._local if fetch.wire.is_local else self._queue).append(fetch)

    def start(self) -> None:
        """Sends what was submitted, as far as there may be connections, on those that hold nothing which nobody asked for.

        `poll` does so too; a driver calls this that does not poll soon.
        """
        most = self.max_connections if self._sdk is None else self.max_connections - self._sdk.num_busy
        if not self._queue or len(self._active) >= most:
            return
        self._idle.oldest_s = time.monotonic() - self.limits.idle_connection_s
        # Without this look, what a broken server sends behind a body would pass for the next object.
        for fd, _ in self._epoll.poll(0):
            self._idle.on_event(fd)
        while self._queue and len(self._active) < most:
            fetch = self._queue.popleft()
            if fetch.wire.origin is None:
                most -= 1
            if not self._throttles or not self._hold_back(fetch):
                self._begin(fetch)

    def supply(self, fetch: Fetch, out: memoryview) -> None:
        """Gives space to a fetch that wants it; its body goes there from the first missing byte."""
        fetch.out = out
        fetch.state = _ACTIVE
        # Waiting for room was the consumer's time, not the store's.
        fetch.deadline_s = self._now + self.limits.deadline_s
        if fetch.wire.is_local:
            self._local.appendleft(fetch)
            return
        if self._sdk is not None and self._sdk.supply(fetch):
            return
        connection = self._connection_of(fetch)
        if connection is None:
            # It broke while it waited, and that was not noticed: ask again.
            self._queue.appendleft(fetch)
            self.start()
            return
        self._unmute(connection)
        connection.stamp_s = self._now
        connection.forgive()
        self._advance(connection, connection.resume)

    def cancel(self, fetch: Fetch) -> None:
        """Ends a request; it comes back from `poll` as CANCELLED, unless it had finished."""
        if fetch.state >= _DONE:
            return
        connection = self._connection_of(fetch)
        if connection is not None:
            self._drop(connection)
        self._forget(fetch)
        fetch.let_go()
        self._finish(fetch, State.CANCELLED)
        self.start()

    def note_wait(self, seconds: float) -> None:
        """Lets the loop's clock go on by what a driver has waited for it elsewhere."""
        self._now += seconds

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Calls `callback` from `poll` whenever `fd` is readable."""
        self._watched[fd] = callback
        self._epoll.register(fd, _READ)

    def listen(self) -> None:
        """Lets other threads `wake` the loop from now on."""
        if self._bell is None:
            self._bell = Mailbox()
            self.watch(self._bell.fd, self._hush)

    def wake(self) -> None:
        """Has `poll` return soon; any thread may call this, and of this loop nothing else."""
        if self._bell is not None:
            self._bell.post(None)

    def poll(self, timeout_s: float | None) -> list[Fetch]:
        """Moves everything that can move, waiting at most `timeout_s` for something to happen (None: until something does).

        Returns:
            Requests that finished (DONE, FAILED, CANCELLED) or want space, in the order in which that came about.
        """
        if self._parking:
            self._mute_parked()
        if self._queue:
            self.start()
        away_s = time.monotonic() - self._now
        events = self._epoll.poll(self.wait_s(timeout_s))
        self._now = time.monotonic() - away_s
        active = self._active
        for fd, mask in events:
            connection = active.get(fd)
            if connection is None:
                self._on_other_event(fd)
            elif connection.phase is _HEAD or connection.phase is _BODY:
                try:
                    is_complete = connection.receive()
                except S3dlioError as error:
                    self._on_failure(connection, error)
                else:
                    self._follow_up(connection, is_complete)
            else:
                self._on_writable(connection, mask)
        if self._local:
            self._read_local()
        self._backlog.release(self._now, self._num_active)
        if self._now >= self._next_sweep:
            self._sweep()
        if self._queue:
            self.start()
        finished, self._finished = self._finished, []
        return finished

    def _hush(self) -> None:
        if self._bell is not None:
            self._bell.take()

    def _on_other_event(self, fd: int) -> None:
        if fd in self._watched:
            self._watched[fd]()
        elif fd in self._parked:
            # Muted, so this is an error or a hang-up. `supply` will find no connection and ask again.
            self._drop(self._parked[fd])
        else:
            self._idle.on_event(fd)

    def _on_writable(self, connection: Connection, mask: int) -> None:
        if connection.phase is _SENDING and mask & _READ:
            self._advance(connection, partial(self._receive_early, connection))
        else:
            self._advance(connection, partial(self._send, connection))

    def close(self) -> None:
        """Closes every connection; requests under way are forgotten, not finished."""
        self.hang_up()
        self._idle.close()
        if self._sdk is not None:
            self._sdk.close()
        if self._bell is not None:
            self._bell.close()
        self._epoll.close()

    def hang_up(self) -> None:
        """Does the part of `close` that waits for nobody and takes no lock; `close` is all that may be called then.

        What an SDK does goes on until then.
        """
        for connection in [*self._active.values(), *self._parked.values()]:
            connection.close()
        self._active.clear()
        self._parked.clear()
        self._parking.clear()
        self._backlog.clear()
        self._local.clear()
        self._finished.clear()

    # Starting.

    def _begin(self, fetch: Fetch) -> None:
        fetch.begin(self._now + self.limits.deadline_s, self.limits.verify_checksums)
        if fetch.wire.origin is None:
            self._begin_by_sdk(fetch)
            return
        try:
            # Before there is a connection: what cannot even be asked for costs none.
            request = fetch.build()
            connection = self._idle.take(fetch.wire.origin, self.max_connections - len(self._active))
        except S3dlioError as error:
            self._retry(fetch, error)
            return
        if connection is None:
            fetch.attempts -= 1
            fetch.state = State.QUEUED
            self._backlog.nameless.append((self._now, fetch))
            return
        self._active[connection.fd] = connection
        connection.stamp_s = connection.sent_s = self._now
        try:
            connection.start(fetch, request)
        except S3dlioError as error:
            self._on_failure(connection, error)
            return
        if connection.phase is not _HEAD:
            self._epoll.modify(connection.fd, _WRITE)

    def _begin_by_sdk(self, fetch: Fetch) -> None:
        if self._sdk is None:
            # Here, since hardly any process needs it.
            from .sdk_lane import SdkLane

            self._sdk = SdkLane(self.watch, self._grant, self._on_sdk_change, self._retry)
        try:
            self._sdk.begin(fetch)
        except S3dlioError as error:
            self._sdk.forget(fetch)
            self._retry(fetch, error)

    def _on_sdk_change(self, fetch: Fetch) -> None:
        if fetch.state is _DONE:
            self._finish(fetch, _DONE)
        else:
            self._finished.append(fetch)

    def _hold_back(self, fetch: Fetch) -> bool:
        if not fetch.deadline_s:
            fetch.deadline_s = self._now + self.limits.deadline_s
        return self._throttles.hold_back(fetch, self._num_active(fetch.wire.origin), time.monotonic())

    def _num_active(self, origin: Origin) -> int:
        return sum(connection.site.origin == origin for connection in self._active.values())

    def _watch_names(self, mailbox: Mailbox[Name]) -> None:
        self.watch(mailbox.fd, lambda: self._backlog.release_named({*mailbox.take()}))

    def _send(self, connection: Connection) -> bool:
        is_sent = connection.send()
        self._epoll.modify(connection.fd, _READ if is_sent or connection.wants_read else _WRITE)
        return False

    def _receive_early(self, connection: Connection) -> bool:
        is_complete = connection.receive_early()
        if not is_complete and connection.phase is not _SENDING:
            self._epoll.modify(connection.fd, _READ)
        return is_complete

    def _read_local(self) -> None:
        """Reads local objects for a moment, or one piece of one: then sockets and messages get their turn."""
        local, finished, until_s = self._local, self._finished, time.monotonic() + _LOCAL_TURN_S
        while local:
            fetch = local.popleft()
            read_piece(fetch, self.grant, self.limits)
            if fetch.state is _ACTIVE:
                local.appendleft(fetch)
            else:
                finished.append(fetch)
            if time.monotonic() >= until_s:
                break

    def _grant(self, fetch: Fetch) -> memoryview | None:
        return self.grant(fetch)

    # Moving, and what comes of it.

    def _advance(self, connection: Connection, step: Callable[[], bool]) -> None:
        """Runs one step of a connection and follows it up."""
        try:
            is_complete = step()
        except S3dlioError as error:
            self._on_failure(connection, error)
        else:
            self._follow_up(connection, is_complete)

    def _follow_up(self, connection: Connection, is_complete: bool) -> None:
        """An answer is complete, wants space, or is still to come."""
        if is_complete:
            fetch = connection.fetch
            assert fetch is not None
            fetch.state = _DONE
            fetch.finished_s = self._free(connection)
            self._finished.append(fetch)
            if self._throttles:
                self._throttles.ease(connection.site.origin, self.max_connections)
        elif connection.phase is _PARKED:
            self._parking.append(connection)
            assert connection.fetch is not None
            self._finished.append(connection.fetch)
        else:
            connection.stamp_s = self._now
            if connection.phase is _BODY:
                fetch = connection.fetch
                assert fetch is not None
                # By the real clock, as the request's beginning and end: the loop's own stands still outside `poll`.
                fetch.first_byte_s = fetch.first_byte_s or time.monotonic()

    def _finish(self, fetch: Fetch, state: State) -> None:
        fetch.state = state
        fetch.finished_s = time.monotonic()
        self._finished.append(fetch)

    def _on_failure(self, connection: Connection, error: S3dlioError) -> None:
        fetch = connection.fetch
        assert fetch is not None
        _let_go(error)
        is_of_the_past = connection.failed_for_its_past(error)
        is_elsewhere = connection.phase in (Phase.CONNECTING, Phase.HANDSHAKE) and connection.avoid_address()
        if isinstance(error, ThrottledError):
            self._throttle(connection, error)
        elif self._throttles and error.status is not None:
            self._throttles.ease(connection.site.origin, self.max_connections)
        if connection.phase is _IDLE:
            self._free(connection)
        else:
            self._drop(connection)
        if is_of_the_past or (is_elsewhere and error.retryable):
            if is_elsewhere or fetch.method in READS:
                # Of all else the answer may have been lost: whoever asks again may meet its own doing.
                fetch.attempts -= 1
            self._queue.appendleft(fetch)
        else:
            self._retry(fetch, error)

    def _throttle(self, connection: Connection, error: ThrottledError) -> None:
        origin, limits = connection.site.origin, self.limits
        num_active = self._num_active(origin)
        pause_s = partial(backoff_s, error, limits=limits)
        self._throttles.refuse(origin, num_active, connection.sent_s, self._now, time.monotonic(), pause_s)

    def _retry(self, fetch: Fetch, error: S3dlioError) -> None:
        """Puts the fetch off until its next attempt, or finishes it with `error`."""
        _let_go(error)
        if isinstance(error, BucketElsewhereError) and fetch.hand_over():
            self._queue.appendleft(fetch)
            return
        if not fetch.is_resumable:
            fetch.restart()
        fetch.failures += 1
        now = self._now
        wait_s = wait_before_retry(fetch, error, self.limits)
        if wait_s is None or fetch.failures >= self.limits.max_attempts or now + wait_s > fetch.deadline_s:
            fetch.error = finish_error(fetch, error)
            fetch.let_go()
            self._finish(fetch, State.FAILED)
            return
        fetch.state = State.QUEUED
        self._backlog.delayed.put(now + wait_s, fetch)

    # Connections in and out of the sets.

    def _connection_of(self, fetch: Fetch) -> Connection | None:
        return next((c for c in [*self._parked.values(), *self._active.values()] if c.fetch is fetch), None)

    def _free(self, connection: Connection) -> float:
        """Takes the request off a connection; returns the time, by the monotonic clock."""
        del self._active[connection.fd]
        connection.fetch = None
        now_s = time.monotonic()
        if connection.phase is _IDLE:
            self._idle.keep(connection, now_s)
        return now_s

    def _drop(self, connection: Connection) -> None:
        self._active.pop(connection.fd, None)
        self._parked.pop(connection.fd, None)
        connection.close()
        connection.fetch = None
        if connection in self._parking:
            self._parking.remove(connection)

    def _mute_parked(self) -> None:
        """Takes connections whose fetch still waits for space out of the set, or epoll would report them for ever."""
        for connection in self._parking:
            if connection.phase is _PARKED:
                self._epoll.modify(connection.fd, 0)
                self._parked[connection.fd] = self._active.pop(connection.fd)
        self._parking.clear()
        self.start()

    def _unmute(self, connection: Connection) -> None:
        if self._parked.pop(connection.fd, None) is not None:
            self._epoll.modify(connection.fd, _READ)
            self._active[connection.fd] = connection

    def _forget(self, fetch: Fetch) -> None:
        self._backlog.forget(fetch)
        if self._sdk is not None:
            self._sdk.forget(fetch)
        if fetch in self._local:
            self._local.remove(fetch)
        if fetch in self._finished:
            self._finished.remove(fetch)

    # Time.

    @property
    def has_work(self) -> bool:
        """Whether `poll` has something to do or to return, whatever the sockets say."""
        return bool(self._finished or self._local)

    def wait_s(self, timeout_s: float | None) -> float:
        """Returns how long `poll(timeout_s)` would wait at most."""
        if self._finished or self._local:
            return 0.0
        wait_s = 3600.0 if timeout_s is None else timeout_s
        if wait_s > _SWEEP_S and (self._active or self._sdk or self._backlog.is_to_be_swept):
            wait_s = _SWEEP_S
        return min(wait_s, self._backlog.due_in_s(self._now))

    def _sweep(self) -> None:
        self._next_sweep = self._now + _SWEEP_S
        limits = self.limits
        for fetch in self._throttles.pop_overdue(self._now):
            self._retry(fetch, StoreTimeoutError(f"{fetch.wire.origin.host} asked for fewer requests until the deadline"))
        for fetch in self._backlog.pop_nameless(self._now - limits.connect_timeout_s):
            fetch.attempts += 1
            self._retry(fetch, ConnectFailedError(f"{fetch.wire.origin.host} was not resolved within {limits.connect_timeout_s:g} s"))
        for connection in list(self._active.values()):
            waits_s = self._now - connection.stamp_s
            if connection.phase is _PARKED or waits_s < 0:
                continue
            what, limit_s = connection.patience(limits)
            if connection.is_too_slow(self._now, limits):
                what = "took" if connection.phase is _SENDING else "sent"
                slow = f"{connection.site} {what} fewer than {limits.min_throughput_bytes_s} bytes/s for {limits.min_throughput_s:g} s"
                self._on_failure(connection, StoreTimeoutError(slow))
                continue
            fetch_deadline_s = connection.fetch.deadline_s if connection.fetch is not None else self._now
            if self._now > fetch_deadline_s:
                self._on_failure(connection, StoreTimeoutError("the request did not end before its deadline"))
            elif waits_s > limit_s:
                self._on_failure(connection, StoreTimeoutError(f"{what} within {limit_s:g} s"))
        if self._sdk is not None:
            self._sdk.sweep(self._now)
        self._idle.oldest_s = time.monotonic() - limits.idle_connection_s
        self._idle.drop_old()


def _let_go(error: S3dlioError) -> None:
    # The frames that it came through hold it in turn, and whoever drives the loop: all that these hold would wait to be collected.
    error.__traceback__ = error.__context__ = None


def no_space(fetch: Fetch) -> None:
    """The default of `FetchLoop.grant`: every request for space goes through `poll`."""
