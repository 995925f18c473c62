"""A model of the worker processes, for tests of the scheduler: they answer commands as real ones do, but only when they are told to.

Owns: objects that change, memory that remembers who wrote what, and workers whose orders and reports lie in the post until a test
moves them. A worker has `jobs` connections; requests that wait for space stand aside.
Never: looks into the scheduler.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from zlib import crc32

from s3dlio.engine.errors import NotFoundError, ObjectChangedError, S3dlioError
from s3dlio.engine.pool.messages import (
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

PAGE = 4096


class ModelMemory:
    """Commits pages, and remembers for each page what was written there last."""

    def __init__(self) -> None:
        self.pages: set[int] = set()
        self.written: dict[int, tuple[str, str, int]] = {}

    def reserve(self, start: int, end: int) -> None:
        pages = set(range(start // PAGE, end // PAGE))
        assert not pages & self.pages
        self.pages |= pages

    def release(self, start: int, end: int) -> None:
        pages = set(range(start // PAGE, end // PAGE))
        assert pages <= self.pages
        self.pages -= pages

    def write(self, offset: int, key: str, version: str, start: int, end: int) -> None:
        """Puts bytes [start, end) of an object to `offset`."""
        for page in range(-(-(end - start) // PAGE)):
            assert (offset + page * PAGE) // PAGE in self.pages, "written where no memory is"
            self.written[offset // PAGE + page] = (key, version, start // PAGE + page)

    def read(self, offset: int, nbytes: int) -> list[tuple[str, str, int] | None]:
        """Returns who wrote what into [offset, offset + nbytes)."""
        return [self.written.get(offset // PAGE + page) for page in range(-(-nbytes // PAGE))]


@dataclass
class ModelObject:
    size: int
    names_version: bool = True
    """Whether its store tells versions at all."""
    num_changes: int = 0
    largest: int = 0
    """The largest size that it ever had."""

    @property
    def told_version(self) -> str | None:
        return self.version if self.names_version else None

    def __post_init__(self) -> None:
        self.largest = self.size

    def change(self, size: int | None) -> None:
        """Makes a new version, of the same size where `size` is None."""
        self.size = self.size if size is None else size
        self.largest = max(self.largest, self.size)
        self.num_changes += 1

    @property
    def version(self) -> str:
        return f"v{self.num_changes}"

    def sum(self, length: int) -> int:
        """Returns the CRC-32 of so many bytes, which are all the same."""
        return crc32(bytes([self.num_changes % 256]) * length)


@dataclass(eq=False)
class Request:
    """A part in a worker."""

    command: FetchPart | FindSum
    end: int | None
    version: str | None
    offset: int
    nbytes: int
    is_wanting: bool = False
    was_restarted: bool = False

    @property
    def is_pinned(self) -> bool:
        return isinstance(self.command, FetchPart) and (self.command.version is not None or self.command.size is not None)


@dataclass(eq=False)
class ModelWorker:
    index: int
    jobs: int
    memory: ModelMemory
    objects: dict[str, ModelObject]
    inbox: deque[Command] = field(default_factory=deque)
    outbox: deque[Event] = field(default_factory=deque)
    requests: dict[int, Request] = field(default_factory=dict)
    """By part, in order of arrival."""
    knows_sums: bool = True
    """Whether its stores tell checksums."""
    num_spoilt: int = 0
    """So many parts will have other bytes than they should."""

    def active(self) -> list[Request]:
        """Requests that have a connection and do not wait for space."""
        return [request for request in self.requests.values() if not request.is_wanting][: self.jobs]

    def regions(self) -> list[tuple[int, int, int]]:
        """Returns (start, end, part) of all memory that this worker may write now or after hearing its orders."""
        found = [(r.offset, r.nbytes, part) for part, r in self.requests.items() if not r.is_wanting]
        found += [(c.offset, c.nbytes, c.part) for c in self.inbox if isinstance(c, FetchPart)]
        found += [(c.offset, c.nbytes, c.part) for c in self.inbox if isinstance(c, SupplySpace) and c.part in self.requests]
        return [(offset, offset + nbytes, part) for offset, nbytes, part in found]

    def hear(self) -> None:
        """Takes the next order. One about a part that is over is late; only a CancelPart is answered even then."""
        command = self.inbox.popleft()
        if isinstance(command, FetchPart):
            assert command.part not in self.requests, "the number of a part was used twice"
            self.requests[command.part] = Request(
                command, command.end, command.version, command.offset, command.nbytes
            )
        elif isinstance(command, FindSum):
            assert command.part not in self.requests, "the number of a part was used twice"
            self.requests[command.part] = Request(command, None, None, 0, 0)
        elif isinstance(command, SupplySpace):
            request = self.requests.get(command.part)
            if request is not None:
                assert request.is_wanting
                request.offset, request.nbytes, request.end = command.offset, command.nbytes, command.end
                request.is_wanting = False
        elif isinstance(command, CancelPart):
            self.requests.pop(command.part, None)
            self.outbox.append(PartCancelled(command.part))

    def finish(self, request: Request) -> None:
        """Goes on with a request as far as it goes: fetched, failed, or wanting space."""
        command = request.command
        found = self.objects.get(command.key)
        if found is None:
            self.fail(request, NotFoundError("no such object"))
            return
        if isinstance(command, FindSum):
            del self.requests[command.part]
            self.outbox.append(self.tell_sum(command.part, found))
            return
        if command.size not in (None, found.size) or request.version not in (None, found.version):
            if request.is_pinned or request.was_restarted:
                self.fail(request, ObjectChangedError("changed"))
                return
            request.was_restarted = True
            request.end, request.version = command.end, command.version
        end = found.size if request.end is None else min(request.end, found.size)
        request.version = found.version
        if end - command.start > request.nbytes:
            request.end = end
            request.is_wanting = True
            known = ("crc32", found.sum(found.size)) if self.knows_sums else (None, 0)
            self.outbox.append(SpaceWanted(command.part, end, found.size, found.told_version, *known))
            return
        self.memory.write(request.offset, command.key, found.version, command.start, end)
        del self.requests[command.part]
        length = end - command.start
        is_summed = command.algorithm is not None or (command.size is None and length < found.size)
        self.outbox.append(
            PartFetched(
                command.part,
                length,
                found.size,
                found.told_version,
                0.01,
                length == found.size,
                sum=found.sum(length) ^ self.spoils() if is_summed else None,
            )
        )

    def tell_sum(self, part: int, found: ModelObject) -> SumFound:
        """Returns what the store says to a question."""
        return SumFound(part, found.told_version, "crc32", found.sum(found.size)) if self.knows_sums else SumFound(part)

    def spoils(self) -> int:
        """Returns 1 where the bytes of a part came to be others on their way."""
        self.num_spoilt, is_spoilt = max(0, self.num_spoilt - 1), self.num_spoilt > 0
        return int(is_spoilt)

    def scribble(self, request: Request) -> None:
        """Writes half of what may be written: the part is not over yet."""
        if isinstance(request.command, FindSum):
            return
        end = request.command.start + request.nbytes // 2
        self.memory.write(request.offset, request.command.key, "half", request.command.start, end)

    def fail(self, request: Request, error: S3dlioError) -> None:
        del self.requests[request.command.part]
        self.outbox.append(PartFailed(request.command.part, error.to_info()))

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do and nothing to say."""
        return not (self.inbox or self.outbox or self.active())
