"""A model of the consumers of a pool, for tests of the scheduler: what they asked for, what came, and whether it is what they asked for.

Owns: the judgement. Every object once, in order, of one version, with its own bytes, which stay as they are while a view is held; every
error with a reason outside the scheduler.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from s3dlio.engine.errors import (
    ChecksumMismatchError,
    ObjectChangedError,
    ObjectTooLargeError,
    S3dlioError,
    WorkerLostError,
)
from s3dlio.engine.memory.slots import Slot
from s3dlio.engine.pool.groups import GroupItem, Member
from s3dlio.engine.pool.items import Item, ItemState, Run
from s3dlio.engine.pool.scheduler import Scheduler

from .worker_model import PAGE, ModelMemory, ModelObject


@dataclass
class Offer:
    """What a consumer asked for, and what had happened until then."""

    key: str
    size: int | None
    version: str | None
    num_changes_before: int
    num_faults_before: int
    num_deaths_before: int
    error: S3dlioError | None = None
    """Why it can never come."""


@dataclass
class GroupOffer:
    """A batch that a consumer asked for."""

    members: list[Offer]
    stride: int

    @property
    def nbytes(self) -> int:
        return len(self.members) * self.stride


@dataclass(eq=False)
class Held:
    """A view that somebody reads."""

    slot: Slot
    nbytes: int
    content: object


@dataclass
class World:
    """What consumers and workers share: objects, memory, views, and the faults that were injected into requests."""

    scheduler: Scheduler
    memory: ModelMemory
    objects: dict[str, ModelObject]
    cap_bytes: int
    held: list[Held] = field(default_factory=list)
    released: deque[Slot] = field(default_factory=deque)
    """Slots whose views are gone and which the coordinator has not collected yet."""
    num_faults: dict[str, int] = field(default_factory=dict)
    deaths: list[list[str]] = field(default_factory=list)
    """For each worker that died: the keys of the parts that it had not answered for."""
    num_spoilt: int = 0
    """Parts, at most, that came with other bytes than they should have."""
    num_delivered: int = 0
    num_failed: int = 0
    num_bytes: int = 0
    """Objects that came and failed, and what they had, whoever took them."""

    def release(self, position: int) -> None:
        """Lets go of a view."""
        self.released.append(self.held.pop(position).slot)

    def release_all(self) -> None:
        while self.held:
            self.release(0)

    def fitting(self, keys: list[str]) -> tuple[list[str], int]:
        """Returns those of some objects that fit into half of the memory together, the largest left out first; and their stride."""
        kept, order = keys, sorted(keys, key=lambda key: self.objects[key].size)
        while len(kept) > 1 and len(kept) * _in_pages(self.objects[order[-1]].size) > self.cap_bytes // 2:
            largest = order.pop()
            kept = [key for key in kept if key != largest] or [order[0]]
            order = [key for key in order if key != largest] or kept
        return kept, _in_pages(self.objects[order[-1]].size)

    def check_views(self) -> None:
        """What is held stays as it is."""
        for held in self.held:
            assert self.memory.read(held.slot.start, held.nbytes) == held.content


@dataclass(eq=False)
class ModelConsumer:
    """One run, and what came out of it."""

    world: World
    run: Run
    offers: list[Offer | GroupOffer] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)

    @property
    def has_work(self) -> bool:
        return len(self.taken) < len(self.offers)

    def offer(self, key: str, knows: str) -> None:
        """Asks for an object, with its size or version as they are now, or without."""
        offer = self._offer_of(key, knows)
        self.offers.append(offer)
        self.world.scheduler.offer(self.run, f"s3://b/{key}", 0, key, offer.size, offer.version)

    def offer_group(self, keys: list[str], stride: int, knows: str) -> None:
        """Asks for objects in one slot."""
        offers = [self._offer_of(key, knows) for key in keys]
        self.offers.append(GroupOffer(offers, stride))
        members = [Member(f"s3://b/{offer.key}", 0, offer.key, offer.size, offer.version) for offer in offers]
        self.world.scheduler.offer_group(self.run, members, stride)

    def _offer_of(self, key: str, knows: str) -> Offer:
        world = self.world
        found = world.objects[key]
        size = found.size if knows in ("size", "both") else None
        version = found.told_version if knows in ("version", "both") else None
        return Offer(key, size, version, found.num_changes, world.num_faults.get(key, 0), len(world.deaths))

    def offer_failed(self, error: S3dlioError) -> None:
        self.offers.append(Offer("", None, None, 0, 0, 0, error))
        self.world.scheduler.offer_failed(self.run, "nonsense", error)

    def take(self) -> bool:
        """Takes the next object, checks it and holds its view; returns whether there was one."""
        item = self.world.scheduler.take(self.run)
        if item is None:
            return False
        assert item.seq not in self.taken
        assert not self.run.is_ordered or item.seq == len(self.taken)
        self.taken.append(item.seq)
        offer = self.offers[item.seq]
        if item.error is None:
            assert item.slot is not None
            assert item.state is ItemState.DELIVERED
            assert item.nbytes <= item.slot.nbytes
        else:
            assert item.slot is None
        if isinstance(offer, GroupOffer):
            assert isinstance(item, GroupItem)
            self._check_group(offer, item)
        elif item.error is None:
            self._check_bytes(offer, item, 0, item.nbytes)
        else:
            self._check_error(offer, item.error, self.world.cap_bytes)
        if item.slot is not None:
            content = self.world.memory.read(item.slot.start, item.nbytes)
            self.world.held.append(Held(item.slot, item.nbytes, content))
        return True

    def is_stuck(self) -> bool:
        """Whether the scheduler says so; and whether that is the truth. Asked right after the coordinator has pumped."""
        world = self.world
        world.scheduler.deepen(self.run)
        if not world.scheduler.is_stuck(self.run):
            return False
        # Slots are granted in sequence order, so it is the first that must be the one with no room.
        first = next(offer for seq, offer in enumerate(self.offers) if seq not in self.taken)
        held_bytes = sum(held.slot.nbytes for held in world.held)
        needed = first.nbytes if isinstance(first, GroupOffer) else world.objects[first.key].largest
        assert held_bytes + _in_pages(needed) > world.cap_bytes, "the next object would fit"
        return True

    def _check_group(self, offer: GroupOffer, item: GroupItem) -> None:
        """Each member is in its place, or has failed for a reason of its own."""
        errors, is_too_large = item.member_errors, _in_pages(offer.nbytes) > self.world.cap_bytes
        assert (item.error is not None) == is_too_large
        assert is_too_large or item.nbytes == offer.nbytes
        for position, (member, nbytes) in enumerate(zip(offer.members, item.sizes, strict=True)):
            if position not in errors:
                assert nbytes <= offer.stride
                self._check_bytes(member, item, position * offer.stride, nbytes)
                continue
            assert nbytes == 0
            assert errors[position].uri == f"s3://b/{member.key}"
            self._check_error(member, errors[position], 0 if is_too_large else offer.stride)

    def _check_bytes(self, offer: Offer, item: Item, start: int, nbytes: int) -> None:
        assert item.slot is not None
        assert offer.size in (None, nbytes)
        content = self.world.memory.read(item.slot.start + start, nbytes)
        if content:
            assert content[0] is not None
            version = content[0][1]
            assert content == [(offer.key, version, page) for page in range(len(content))], "wrong bytes"
            assert offer.version in (None, version)
        self.world.num_delivered += 1
        self.world.num_bytes += nbytes

    def _check_error(self, offer: Offer, error: S3dlioError, room: int) -> None:
        """Checks that there is a reason for an error, where an object of `room` bytes could have come."""
        self.world.num_failed += 1
        if offer.error is not None:
            assert error is offer.error
            return
        found = self.world.objects[offer.key]
        if isinstance(error, ObjectTooLargeError):
            assert _in_pages(found.largest) > room
        elif isinstance(error, ObjectChangedError):
            # Who pinned nothing does not care for one change: the read begins again.
            enough = 1 if (offer.size, offer.version) != (None, None) else 2
            assert found.num_changes - offer.num_changes_before >= enough
        elif isinstance(error, ChecksumMismatchError):
            assert self.world.num_spoilt >= 3
            assert error.uri == f"s3://b/{offer.key}"
        elif isinstance(error, WorkerLostError):
            # Nobody is to blame for bad company: three died with it, and one of them had nothing else.
            deaths = [keys for keys in self.world.deaths[offer.num_deaths_before :] if offer.key in keys]
            assert len(deaths) >= 3
            assert [offer.key] in deaths[2:]
            assert (error.uri, error.attempts >= 3) == (f"s3://b/{offer.key}", True)
        else:
            assert error.message == "injected", repr(error)
            assert self.world.num_faults[offer.key] > offer.num_faults_before


def _in_pages(nbytes: int) -> int:
    return max(1, -(-nbytes // PAGE)) * PAGE
