"""Carries out commands on a fetch loop, and says what became of them: the body of a worker, and of the inline pool."""

from __future__ import annotations

import zlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..errors import InternalError, NotFoundError, S3dlioError
from ..fetch.checksums import Checksum, RunningSum
from ..fetch.request import Fetch, State
from ..stores.base import Ended, Operation, advance
from .messages import (
    CancelPart,
    Command,
    Event,
    FetchPart,
    FindSum,
    PartCancelled,
    PartFailed,
    PartFetched,
    SpaceWanted,
    SumFound,
    SupplySpace,
)

if TYPE_CHECKING:
    from ..fetch.loop import FetchLoop
    from ..memory.segment import Segment


class Executor:
    """Fetches parts into a segment. What it was not told is not there: stores by `open`, places by each command."""

    # Every CancelPart is answered, also a late one; every other command is answered once, when its part is over.

    def __init__(self, segment: Segment, loop: FetchLoop) -> None:
        self._segment = segment
        self._loop = loop
        self._wires: dict[int, tuple[str, Any]] = {}
        self._fetches: dict[int, Fetch] = {}
        self._groups: dict[int, int] = {}
        """By batch: how many of its members are under way."""
        self._group_of: dict[int, int] = {}
        """By part: the batch that it is a member of."""
        self._questions: dict[int, Operation[tuple[str | None, Checksum] | None]] = {}
        """By part: what asks for the checksum of an object."""
        self._events: list[Event] = []
        """Answers that need no request."""
        self.is_urgent = False
        """Whether somebody can do something with what the last `poll` returned: not with one member of a batch while others of it are
        under way here, and no connection is idle."""

    @property
    def num_parts(self) -> int:
        """Parts under way."""
        return len(self._fetches)

    def open(self, store: int, root: str, wire: Any) -> None:
        """Makes a store known under its number."""
        self._wires[store] = (root, wire)

    def renew(self, store: int, spec: Any) -> bool:
        """Has a store use other credentials, for what is under way too; returns False if it is not known yet."""
        known = self._wires.get(store)
        if known is None:
            return False
        known[1].use(spec)
        return True

    def obey(self, command: Command) -> None:
        """Begins what a command says; a command about a part that is over already is late, and does nothing."""
        kind = type(command)
        if kind is FetchPart:
            self._fetch(command)  # type: ignore[arg-type]
        elif kind is SupplySpace:
            self._supply(command)  # type: ignore[arg-type]
        elif kind is FindSum:
            self._find_sum(command)  # type: ignore[arg-type]
        elif kind is CancelPart:
            fetch = self._fetches.get(command.part)  # type: ignore[union-attr]
            if fetch is not None:
                self._loop.cancel(fetch)
            else:
                # Over already, or never heard of: either way nobody writes for it, and whoever waits must hear so.
                self._events.append(PartCancelled(command.part))  # type: ignore[union-attr]
        else:
            raise InternalError(f"{kind.__name__} is not for an executor")

    def poll(self, timeout_s: float | None) -> list[Event]:
        """Moves the loop, waiting at most `timeout_s`; returns what has come about."""
        self.is_urgent = bool(self._events)
        finished = self._loop.poll(0 if self._events else timeout_s)
        if self._questions:
            finished = [fetch for fetch in finished if not self._answer(fetch)]
        events = [self._report(fetch) for fetch in finished]
        if self._events:
            events += self._events
            self._events = []
        # It may be given more as soon as it is known that these are over.
        self.is_urgent |= len(self._fetches) < self._loop.max_connections
        return events

    def _fetch(self, command: FetchPart) -> None:
        root, wire = self._wires[command.store]
        key = command.key
        offset = command.offset
        fetch = Fetch(
            command.part,
            root + key,
            wire,
            key,
            start=command.start,
            end=command.end,
            size=command.size,
            version=command.version,
            out=self._segment.buffer[offset : offset + command.nbytes],
        )
        self._fetches[command.part] = fetch
        if command.algorithm is not None:
            fetch.checksum = RunningSum(Checksum(command.algorithm, 0))
        if command.group >= 0:
            self._groups[command.group] = self._groups.get(command.group, 0) + 1
            self._group_of[command.part] = command.group
        self._loop.submit(fetch)

    def _supply(self, command: SupplySpace) -> None:
        fetch = self._fetches.get(command.part)
        if fetch is not None and fetch.state is State.WANTS_SPACE:
            fetch.end = command.end
            self._loop.supply(fetch, self._segment.buffer[command.offset : command.offset + command.nbytes])

    # Questions.

    def _find_sum(self, command: FindSum) -> None:
        wire = self._wires[command.store][1]
        self._questions[command.part] = wire.find_sum(command.key)
        self._go_on_asking(command.part, None)

    def _answer(self, fetch: Fetch) -> bool:
        """Takes a request back, if it belongs to a question; one that was cancelled is told of as any other."""
        part = fetch.token
        if part not in self._questions:
            return False
        if fetch.state is State.CANCELLED:
            self._questions.pop(part).close()
            return False
        error, fetch.error = fetch.error, None
        self._go_on_asking(part, error or fetch)
        return True

    def _go_on_asking(self, part: int, done: Fetch | S3dlioError | None) -> None:
        step = advance(self._questions[part], done)
        if isinstance(step, Ended):
            del self._questions[part]
            self._fetches.pop(part, None)
            self._events.append(_tell(part, step.result))
            self.is_urgent = True
            return
        step.token = part
        self._fetches[part] = step
        self._loop.submit(step)

    # Reports.

    def _report(self, fetch: Fetch) -> Event:
        part = fetch.token
        if fetch.state is State.WANTS_SPACE:
            self.is_urgent = True
            end, found = fetch.start + fetch.missing_space, fetch.checksum
            if found is None:
                return SpaceWanted(part, end, fetch.size, fetch.version)
            return SpaceWanted(part, end, fetch.size, fetch.version, *found.expected)
        del self._fetches[part]
        self.is_urgent |= self._leave_group(part) or fetch.state is not State.DONE
        if fetch.state is State.DONE:
            elapsed_s = fetch.finished_s - fetch.begun_s
            # A small body comes with its first byte.
            first_byte_s = fetch.first_byte_s - fetch.begun_s if fetch.first_byte_s else 0.0 if fetch.wire.is_local else elapsed_s
            crc = total = None
            if self._loop.limits.check_slots:
                crc = zlib.crc32(fetch.out[: fetch.received] if fetch.out is not None else b"")
            if fetch.checksum is not None and not fetch.is_verified and fetch.out is not None:
                total = fetch.checksum.finish(fetch.out, fetch.received)
            return PartFetched(
                part, fetch.received, fetch.size or 0, fetch.version, elapsed_s, fetch.is_verified, first_byte_s, crc, total
            )
        if fetch.error is not None:
            return PartFailed(part, fetch.error.to_info())
        return PartCancelled(part)

    def _leave_group(self, part: int) -> bool:
        """Notes that a part is over; returns whether it is the last of its batch here, or of none."""
        group = self._group_of.pop(part, None)
        if group is None:
            return True
        num = self._groups[group] - 1
        if num:
            self._groups[group] = num
        else:
            del self._groups[group]
        return not num


def _tell(part: int, found: tuple[str | None, Checksum] | S3dlioError | None) -> Event:
    """Returns what became of a question. Who may not ask it, or asks a server that does not know it, reads without a comparison."""
    if isinstance(found, S3dlioError):
        if isinstance(found, NotFoundError) or (found.retryable and found.status != HTTPStatus.NOT_IMPLEMENTED):
            # So the parts would fare, after as long a time again.
            return PartFailed(part, found.to_info())
        return SumFound(part)
    if found is None:
        return SumFound(part)
    version, checksum = found
    return SumFound(part, version, *checksum)
