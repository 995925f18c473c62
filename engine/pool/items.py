"""What the scheduler keeps account of: runs, items, parts, workers. Plain records; only the scheduler's modules change them.

An *item* is one thing to deliver: an object in a slot of its own. A *part* is one request for it: usually the only one, for a large
object one of several ranges in the same slot. A *run* is one `fetch` with its items in sequence. An item is, at each moment:

    PENDING ──slot──► FETCHING ──all parts in──► READY ──take──► DELIVERED
       ▲                 │  └── more room wanted: no slot, one part that waits
       └────recalled─────┘  └── a part failed, the others are out ──► FAILED ──take──► DELIVERED
    and DROPPED from anywhere, when its run is closed.

A *group* is an item of several objects, its *members*, in one slot, each fetched by a part of its own (`groups.py`).

An object that workers died with is a *suspect* before long: it may be what they died of, and is tried alone (`grants.py`).
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from ..errors import S3dlioError
    from ..memory.slots import Slot
    from ..memory.view import BytesView
    from .groups import Member
    from .messages import Command
    from .whole_sum import WholeSum


SUSPECT_DEATHS: Final = 2
"""An object is a suspect after so many deaths. One is nobody's fault yet: workers are killed by operators and by the OOM killer, and all
that one of them had comes again, at full speed. That the same one was with a second one is either its doing or bad company."""


class ItemState(IntEnum):
    """Where an item stands."""

    PENDING = 0
    FETCHING = 1
    READY = 2
    FAILED = 3
    DELIVERED = 4
    DROPPED = 5


class Run:
    """One `fetch`: its items, in the order in which they were offered."""

    __slots__ = (
        "done",
        "group_size",
        "is_exhausted",
        "is_ordered",
        "is_starved",
        "next_seq",
        "num_granted",
        "num_offered",
        "pending",
        "prefetch",
        "takes_groups",
        "wanting",
    )

    def __init__(self, is_ordered: bool, prefetch: int | None = None, takes_groups: bool = False) -> None:
        self.is_ordered = is_ordered
        self.prefetch = prefetch
        """The most items that may be in flight or ready together; None leaves that to the depth alone."""
        self.takes_groups = takes_groups
        """Whether its consumer looks at members."""
        self.group_size = 1
        """Members of its largest group so far."""
        self.num_offered = 0
        """Items so far; the next one gets this number."""
        self.next_seq = 0
        """The number of the next item to deliver, where the run is ordered; else how many were delivered."""
        self.pending: deque[Item] = deque()
        """Items without a slot, by number."""
        self.wanting: list[Part] = []
        """Parts that wait for more room, in the order of their items."""
        self.done: dict[int, Item] = {}
        """READY and FAILED items by number, in the order in which they came about."""
        self.num_granted = 0
        """Items that are FETCHING, READY or FAILED."""
        self.is_exhausted = False
        """Whether no more items will be offered."""
        self.is_starved = False
        """Whether its next item found no room."""

    @property
    def is_beginning(self) -> bool:
        """Whether a data set waits for its very first item."""
        return self.takes_groups and self.next_seq == 0

    @property
    def is_next_done(self) -> bool:
        """Whether there is something to take."""
        return self.next_seq in self.done if self.is_ordered else bool(self.done)


class Item(msgspec.Struct, eq=False):
    """One object to deliver. A struct only because one is made per object: it costs a fifth of a class with slots."""

    run: Run
    seq: int
    uri: str
    store: int
    key: str
    size: int | None
    """Bytes, where the caller knows it; then an object of another size is an error."""
    version: str | None
    """The version where the caller knows it; then another version is an error."""
    room: int | None
    """Bytes the slot must have, once that is known; None for a guess. A hint where `size` is None."""
    hint: int | None = None
    """Bytes that it had when somebody looked at it last: a better guess than that of the run."""
    slot: Slot | None = None
    state: ItemState = ItemState.PENDING
    num_parts: int = 0
    num_unfinished: int = 0
    """Parts that a worker, or nobody yet, has; the slot is not free before it is 0."""
    nbytes: int = 0
    """Bytes received, by the parts that are in."""
    seen_version: str | None = None
    """The version of the parts that are in, where there are several."""
    error: S3dlioError | None = None
    is_recalled: bool = False
    """Whether the slot is being taken back, for an item in front."""
    num_deaths: int = 0
    """Workers that died while they had parts of it, begun or not."""
    was_restarted: bool = False
    """Whether it began again because the object changed between two parts."""
    has_no_version: bool = False
    """Whether a part of it came without a version: then it is read whole or not at all."""
    whole_sum: WholeSum | None = None
    """The checksum of an object in parts, where the store has one."""
    num_mismatches: int = 0
    """How often its parts, put together, had another one."""
    elapsed_s: float = 0.0
    """How long its slowest part took."""
    first_byte_s: float = 0.0
    """How long its slowest part waited for the first byte."""
    worker: int = -1
    """Who fetched its last part."""
    is_verified: bool = False
    """Whether the bytes have the store's own checksum of the object."""
    sums: list[tuple[int, int, int, Member | None]] | None = None
    """Where slots are checked: of each part that is in, its place in the slot, its bytes, their CRC-32, and whose they are."""
    view: BytesView | None = None
    """The view of a DELIVERED item, until it is handed out."""

    def pop_view(self) -> BytesView:
        """Hands the view out, and holds it no longer."""
        view, self.view = self.view, None
        assert view is not None
        return view

    @property
    def is_suspect(self) -> bool:
        """Whether so many workers died with it that it is tried alone."""
        return self.num_deaths >= SUSPECT_DEATHS

    @property
    def is_withdrawn(self) -> bool:
        """Whether its parts are only waited for: it was dropped, has failed, or comes again."""
        return self.is_recalled or self.error is not None or self.state is ItemState.DROPPED

    # What an item has as one of many: groups have more than one object.

    @property
    def uris(self) -> list[str]:
        """The URI of each object."""
        return [self.uri]

    @property
    def sizes(self) -> list[int]:
        """The bytes of each object; 0 where it failed."""
        return [self.nbytes if self.error is None else 0]

    @property
    def member_errors(self) -> dict[int, S3dlioError]:
        """The errors of the objects that failed, by position."""
        return {} if self.error is None else {0: self.error}


class Part(msgspec.Struct, eq=False):
    """One request for [start, end) of an item; for a member of a group, whose place that is, the whole object.

    Or the question for the checksum of an item that has no other part yet.
    """

    item: Item
    start: int
    end: int | None
    """None where the size is not known yet."""
    version: str | None
    """The version of the other parts, where there are others."""
    member: Member | None = None
    id: int = 0
    """Unique in the pool; a new one each time the part is sent."""
    worker: int = -1
    is_wanting: bool = False
    """Whether the worker holds it back until it gets more room."""

    @property
    def is_question(self) -> bool:
        """Whether it brings no bytes."""
        return self.member is None and not self.item.num_parts

    @property
    def target(self) -> Item | Member:
        """The object that it is of: what errors name, and what is blamed for deaths."""
        return self.item if self.member is None else self.member

    @property
    def is_withdrawn(self) -> bool:
        """Whether it is only waited for."""
        return self.item.is_withdrawn or self.target.error is not None


class Worker:
    """One worker process, as the scheduler sees it."""

    __slots__ = ("commands", "index", "num_parts")

    def __init__(self, index: int) -> None:
        self.index = index
        self.num_parts = 0
        """Parts sent and not yet answered."""
        self.commands: list[Command] = []
        """What it has not been sent yet; a dead worker takes this along."""


def is_strong(version: str | None) -> bool:
    """Whether equal versions mean equal bytes: not without one, nor for a weak ETag. Source: RFC 9110 §8.8.3."""
    return version is not None and not version.startswith("W/")
