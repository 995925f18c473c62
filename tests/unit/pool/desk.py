"""A scheduler on a desk: no processes, no memory, and every command on the table. Sizes are counted in pages."""

from __future__ import annotations

from s3dlio.engine.errors import S3dlioError
from s3dlio.engine.memory.slots import Slots
from s3dlio.engine.pool.groups import GroupItem, Member
from s3dlio.engine.pool.items import Item, Run
from s3dlio.engine.pool.messages import Command, FetchPart, PartCancelled, PartFailed, PartFetched, SpaceWanted
from s3dlio.engine.pool.scheduler import Scheduler

PAGE = 4096


class NoMemory:
    """A backing that has everything and holds nothing."""

    def reserve(self, start: int, end: int) -> None:
        assert start < end

    def release(self, start: int, end: int) -> None:
        assert start < end


class Desk:
    """Two workers with two connections each, parts of 4 pages, objects split above 8, unless told otherwise.

    Slots begin at 0, and a buddy allocator that was never used grants them one after the other, each aligned to its own size.
    """

    def __init__(
        self,
        cap_pages: int = 1000,
        *,
        num_workers: int = 2,
        jobs: int = 2,
        depth: int = 4,
        part_pages: int = 4,
        split_above_pages: int = 8,
    ) -> None:
        self.slots = Slots(NoMemory(), first=0, size=1 << 30, cap_bytes=cap_pages * PAGE)
        self.scheduler = Scheduler(
            self.slots,
            jobs=jobs,
            depth=depth,
            part_bytes=part_pages * PAGE,
            split_above_bytes=split_above_pages * PAGE,
        )
        for index in range(num_workers):
            self.scheduler.worker_started(index)

    def run(self, *keys: str, pages: int | None = None, version: str | None = None, is_ordered: bool = True) -> Run:
        """Opens a run and offers it objects, all of one size."""
        run = self.scheduler.open_run(is_ordered)
        self.offer(run, *keys, pages=pages, version=version)
        return run

    def offer(self, run: Run, *keys: str, pages: int | None = None, version: str | None = None) -> None:
        size = None if pages is None else pages * PAGE
        for key in keys:
            self.scheduler.offer(run, f"s3://b/{key}", 0, key, size, version)

    def groups(self, *groups: str, stride: int = PAGE, size: int | None = None, is_ordered: bool = True) -> Run:
        """Opens a run and offers it groups, each of which has a member for each letter; `size` in bytes is that of all of them."""
        run = self.scheduler.open_run(is_ordered, takes_groups=True)
        self.offer_groups(run, *groups, stride=stride, size=size)
        return run

    def offer_groups(self, run: Run, *groups: str, stride: int = PAGE, size: int | None = None) -> None:
        for keys in groups:
            self.scheduler.offer_group(run, [Member(f"s3://b/{key}", 0, key, size, None) for key in keys], stride)

    def drain(self) -> dict[int, list[Command]]:
        commands = self.scheduler.drain()
        self.validate()
        return commands

    def fetches(self) -> list[FetchPart]:
        """Returns what is sent now, to whomever, by number; nothing else may be sent."""
        commands = [command for batch in self.drain().values() for command in batch]
        found = [command for command in commands if isinstance(command, FetchPart)]
        assert found == commands
        return sorted(found, key=lambda command: command.part)

    def fetched(self, worker: int, part: int, pages: int, *, of: int | None = None, version: str = "v1") -> None:
        """A part of `pages` pages is in, of an object of `of` pages (or the same)."""
        size = pages if of is None else of
        self.scheduler.handle(worker, [PartFetched(part, pages * PAGE, size * PAGE, version, 0.25)])
        self.validate()

    def fetched_member(self, key: str, nbytes: int, *, is_verified: bool = False) -> None:
        """An object of `nbytes` bytes is in, whoever has it."""
        worker, part = self.place_of(key)
        self.scheduler.handle(worker, [PartFetched(part, nbytes, nbytes, "v1", 0.25, is_verified)])
        self.validate()

    def place_of(self, key: str) -> tuple[int, int]:
        """Returns who has the first part of an object, and under which number."""
        return next((part.worker, part.id) for part in self.scheduler._parts.values() if part.target.key == key)

    def failed(self, worker: int, part: int, error: S3dlioError) -> None:
        self.scheduler.handle(worker, [PartFailed(part, error.to_info())])
        self.validate()

    def cancelled(self, worker: int, part: int) -> None:
        self.scheduler.handle(worker, [PartCancelled(part)])
        self.validate()

    def wants(self, worker: int, part: int, pages: int, version: str = "v1") -> None:
        self.scheduler.handle(worker, [SpaceWanted(part, pages * PAGE, pages * PAGE, version)])
        self.validate()

    def take(self, run: Run) -> Item:
        item = self.scheduler.take(run)
        assert item is not None, "nothing is there"
        return item

    def take_group(self, run: Run) -> GroupItem:
        item = self.take(run)
        assert isinstance(item, GroupItem)
        return item

    def release(self, item: Item) -> None:
        """The consumer lets go of a view."""
        assert item.slot is not None
        self.slots.free(item.slot)

    def take_keys(self, run: Run) -> list[str]:
        """Takes and releases all that is there."""
        keys = []
        while (item := self.scheduler.take(run)) is not None:
            keys.append(item.key)
            if item.slot is not None:
                self.release(item)
        return keys

    @property
    def used_pages(self) -> int:
        return self.slots.used_bytes // PAGE

    def validate(self) -> None:
        self.scheduler.validate()
        self.slots.validate()
