"""Groups: a batch in one slot. The records of its members, and the rules that only they have. Pure.

Rules:

* Member i has its place from `i * stride` on, and never more room than that: an object that is longer fails.
* Each member is an object of its own, fetched whole by one part. One that fails leaves a hole and holds nobody up; it is not asked for
  again, also where the group comes again. The group is READY when each member is in or has failed.
* A member is blamed for the deaths of workers that had it, whatever the others met: most of them are in other workers.
* As a whole a group fails only where there is no slot for it; then every member has that error, by its own name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from ..errors import InternalError, ObjectTooLargeError, TruncatedBodyError, rebuild_error
from .items import SUSPECT_DEATHS, Item, ItemState, Part

if TYPE_CHECKING:
    from ..errors import S3dlioError
    from .messages import PartFetched


class Member(msgspec.Struct, eq=False):
    """One object of a group."""

    uri: str
    store: int
    key: str
    size: int | None
    version: str | None
    """Size and version as of an `Item`."""
    error: S3dlioError | None = None
    """Why it leaves a hole, for good."""
    nbytes: int = 0
    """Bytes in its place; 0 until it is in."""
    is_verified: bool = False
    """Whether they have the store's own checksum."""
    num_deaths: int = 0
    """Workers that died while they had it, begun or not."""

    @property
    def is_suspect(self) -> bool:
        """As of an `Item`."""
        return self.num_deaths >= SUSPECT_DEATHS

    def fail(self, error: S3dlioError) -> None:
        """Has it leave a hole; the first error counts."""
        if self.error is None:
            error.uri = error.uri or self.uri
            self.error = error

    def settle(self, event: PartFetched, room: int) -> None:
        """Believes what a worker says of it, if the object is whole and within its place of `room` bytes."""
        size = event.size
        if event.received == size and 0 <= size <= room and self.error is None:
            self.nbytes = size
            self.is_verified = event.is_verified
        elif event.received != size:
            self.fail(TruncatedBodyError(f"{event.received} of {size} bytes came"))
        elif not 0 <= size <= room:
            self.fail(InternalError(f"a worker claims {size} bytes where there is no room for them"))

    def refuse_space(self, wanted: int, room: int) -> None:
        """Has it fail, since it is said to need `wanted` bytes, and its place has `room`."""
        if wanted > room:
            self.fail(ObjectTooLargeError(f"the object has {wanted} bytes, and its place in the batch has {room}"))
        else:
            self.fail(InternalError(f"a worker wants room for {wanted} bytes where it has {room}"))


class GroupItem(Item, kw_only=True, eq=False):
    """An item of several objects. Its parts are whole objects, and `num_parts` stays 0.

    `nbytes` counts the places, whatever is in them, since the view has them all. `uri` is that of the first member; key, store, size and
    version have no meaning.
    """

    members: list[Member]
    stride: int
    """Bytes of each place."""

    @property
    def uris(self) -> list[str]:
        """The URI of each member."""
        return [member.uri for member in self.members]

    @property
    def sizes(self) -> list[int]:
        """Bytes of each member, from the beginning of its place on; 0 where it failed."""
        return [member.nbytes for member in self.members]

    @property
    def member_errors(self) -> dict[int, S3dlioError]:
        """The errors of the members that failed, by position."""
        return {position: member.error for position, member in enumerate(self.members) if member.error is not None}

    @property
    def has_suspects(self) -> bool:
        """Whether one of its members is a suspect."""
        return any([member.num_deaths >= SUSPECT_DEATHS for member in self.members])  # noqa: C419 - a list takes half as long

    def begin(self) -> list[Part]:
        """Returns a part for each member that has not failed; what came of them before a recall is forgotten."""
        stride, start, parts = self.stride, 0, []
        for member in self.members:
            member.nbytes = 0
            member.is_verified = False
            if member.error is None:
                parts.append(Part(self, start, start + stride, member.version, member))
            start += stride
        self.nbytes = start
        return parts

    def fail(self, error: S3dlioError) -> None:
        """Has it fail as a whole."""
        self.error = error
        for member in self.members:
            member.nbytes = 0
            member.fail(rebuild_error(msgspec.structs.replace(error.to_info(), uri=member.uri)))


def validate_groups(items: Iterable[Item], parts: Iterable[Part]) -> None:
    """Checks what must always hold of the groups of a run; for tests.

    Raises:
        AssertionError: It does not.
    """
    seen = set()
    for part in parts:
        if isinstance(part.item, GroupItem):
            stride = part.item.stride
            assert part.member is not None
            assert id(part.member) not in seen, "a member has two parts"
            places = [position * stride for position, member in enumerate(part.item.members) if member is part.member]
            assert (places, part.end) == ([part.start], part.start + stride), "a member is not where it belongs"
            assert not part.is_wanting, "a member waits for room"
            assert not part.member.nbytes, "a member came twice"
            seen.add(id(part.member))
    for item in items:
        if isinstance(item, GroupItem):
            assert (item.num_parts, item.room) == (0, len(item.members) * item.stride)
            assert all(0 <= member.nbytes <= item.stride for member in item.members), (
                "a member is longer than its place"
            )
            assert not any(member.nbytes for member in item.members if member.error is not None), "a hole has bytes"
            assert item.state is not ItemState.READY or item.nbytes == item.room
