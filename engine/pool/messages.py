"""What coordinator and workers say to each other: commands one way, events the other, always in batches.

Typed by msgspec and never pickled: decoding cannot run code, and what does not fit the types is an error of the sender, not a crash of
the receiver. Arrays instead of objects, integers instead of names as tags: 0.3 µs per item, encoded and decoded.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from ..config import Settings
from ..errors import ErrorInfo
from ..fetch.checksums import Algorithm
from ..stores.registry import Spec

_T = TypeVar("_T")

Place = Annotated[int, msgspec.Meta(ge=0)]
"""A position or a length in the segment; a negative one would be read from the segment's end."""

# Commands: imperative, coordinator to worker.


class OpenStore(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Makes the wire of a store known under a number; sent before the first part that uses it. Carries credentials."""

    store: int
    spec: Spec


class FetchPart(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """Fetches bytes [start, end) of an object into the segment, at `offset`."""

    part: int
    """Unique for the life of the pool; what comes late about another number is ignored."""
    store: int
    key: str
    start: int
    end: int | None
    size: int | None
    version: str | None
    offset: Place
    """Where in the segment, in bytes."""
    nbytes: Place
    """How much room there is; if the object needs more, the worker says `SpaceWanted`."""
    group: int = -1
    """The batch that it is a member of, by the place of its slot; nobody can use that before all of them are there. -1 for none."""
    algorithm: Algorithm | None = None
    """By which its bytes are summed, as a part of an object that has such a sum."""


class SupplySpace(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """Answers `SpaceWanted`: the part goes there now, and ends at `end`."""

    part: int
    offset: Place
    nbytes: Place
    end: int


class CancelPart(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """Ends a part, begun or not; answered by whatever event comes first."""

    part: int


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """Ends the worker."""


class FindSum(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Asks the store for the checksum of an object as a whole, before it is fetched in parts; answered by `SumFound`."""

    part: int
    store: int
    key: str


Command = OpenStore | FetchPart | SupplySpace | CancelPart | Stop | FindSum

# Events: in the past tense, worker to coordinator.


class WorkerStarted(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The first thing a worker says."""

    pid: int


class PartFetched(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """The part is complete: `received` bytes stand in its place."""

    part: int
    received: int
    size: int
    """Of the whole object."""
    version: str | None
    elapsed_s: float
    """From the first attempt to the last byte."""
    is_verified: bool = False
    """Whether the bytes have the checksum that the store gave for the whole object."""
    first_byte_s: float = 0.0
    """From the first attempt to the first byte of the body; 0 of a local read."""
    crc: int | None = None
    """The CRC-32 of its bytes, where slots are checked (`check_slots`)."""
    sum: int | None = None
    """Of its bytes, where it is a part of an object that has a checksum, by that one's algorithm."""


class PartFailed(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """The part is given up; its place will not be written any more."""

    part: int
    error: ErrorInfo


class PartCancelled(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """The part was cancelled; its place will not be written any more."""

    part: int


class SpaceWanted(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """The object is larger than the place of its part; nothing is written until `SupplySpace` comes."""

    part: int
    end: int
    """One past the last byte of the part, now that the head is known."""
    size: int | None
    version: str | None
    algorithm: Algorithm | None = None
    value: int = 0
    """The checksum of the whole object, where the head gives one."""


class SumFound(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """What the store says of the whole object; without an algorithm there is nothing to compare."""

    part: int
    version: str | None = None
    """Of which version it is the checksum."""
    algorithm: Algorithm | None = None
    value: int = 0


class CredentialsExpired(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """A store refuses its credentials as expired; what it was asked for is tried again, and `OpenStore` may bring others."""

    store: int
    part: int = -1
    """None: it is about no part, so the scheduler has nothing to do with it."""


Event = WorkerStarted | PartFetched | PartFailed | PartCancelled | SpaceWanted | CredentialsExpired | SumFound


class Welcome(msgspec.Struct, frozen=True, array_like=True):
    """What a worker is started with, on its standard input."""

    index: int
    """Its number, and the place of its progress counter in the segment's header."""
    address: str
    segment_fd: int
    life_fd: int
    """Read end of a pipe whose only writer is the coordinator: end of file means that it is gone."""
    parent_pid: int
    settings: Settings
    jobs: int


MAX_MESSAGE_BYTES = 16 << 20
"""A batch is far smaller; more is not a message of ours (case S4)."""

_encoder = msgspec.msgpack.Encoder()
_command_decoder = msgspec.msgpack.Decoder(list[Command])
_event_decoder = msgspec.msgpack.Decoder(list[Event])
_welcome_decoder = msgspec.msgpack.Decoder(Welcome)

encode = _encoder.encode
"""Returns the bytes of a batch, or of a `Welcome`."""


def decode_commands(batch: bytes) -> list[Command]:
    """Returns a batch of commands.

    Raises:
        msgspec.DecodeError: It is none.
    """
    return _decode(_command_decoder, batch)


def decode_events(batch: bytes) -> list[Event]:
    """Returns a batch of events.

    Raises:
        msgspec.DecodeError: It is none.
    """
    return _decode(_event_decoder, batch)


def decode_welcome(message: bytes) -> Welcome:
    """Returns a welcome.

    Raises:
        msgspec.DecodeError: It is none.
    """
    return _decode(_welcome_decoder, message)


def _decode(decoder: msgspec.msgpack.Decoder[_T], message: bytes) -> _T:
    try:
        return decoder.decode(message)
    except UnicodeDecodeError as error:  # text that is no UTF-8 is the one thing that msgspec reports in another way
        raise msgspec.DecodeError(str(error)) from None
