"""Reading one version of an object, or a range of it, into one view: in parts side by side where it is long. For readers of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..config import settings
from ..errors import InvalidRangeError
from ..pool.inline import inline_fetcher
from ..pool.parted import PartedRead, Wanted
from ..pool.rooms import process_rooms
from ..stores.base import Store, run
from .objects import check_range, is_at_end, look_at_nothing
from .perform import Place, check_in_flight

if TYPE_CHECKING:
    from ..config import Settings
    from ..memory.view import BytesView


class FoundRange(NamedTuple):
    """Bytes of an object, and what is known of it since."""

    view: BytesView
    size: int | None = None
    """Of the whole object; None where no answer said it."""
    version: str | None = None
    """Of the object; None where it has none, or no byte was asked for."""


def fetch_range_in_parts(
    store: Store,
    uri: str,
    key: str,
    *,
    start: int = 0,
    end: int | None = None,
    size: int | None = None,
    version: str | None = None,
    limits: Settings | None = None,
    max_in_flight: int = 16,
) -> BytesView:
    """Returns bytes [start, end) of exactly one version of an object, clipped at its end; without `end`, up to there.

    What is longer than `split_above_bytes` comes in parts of `part_bytes`, many at once, each placed where it belongs. A whole object is
    held against the checksum that the store gives of it, also in parts.

    Args:
        store: The object's.
        uri: For errors.
        key: Of the object.
        start: The first byte; the end of the object, at most.
        end: One past the last.
        size: Of the whole object; where given, another size is an error. With `version` it saves waiting for the first answer.
        version: Where given, another version is an error. Otherwise it is that of the first answer.
        limits: Parts, attempts and waits; None for the settings in force.
        max_in_flight: Requests at once.

    Raises:
        InvalidRangeError: `start` is negative or beyond the end.
        NotFoundError: No such object.
        ObjectChangedError: It is not the version that was given; or it changed on the way, and once more at the second try.
        ChecksumMismatchError: The bytes do not have the checksum of the object, three times.
        ConfigurationError: `max_in_flight` is no number of at least 1.
        S3dlioError: As the store says.
    """
    return find_range_in_parts(
        store, uri, key, start=start, end=end, size=size, version=version, limits=limits, max_in_flight=max_in_flight
    ).view


def find_range_in_parts(
    store: Store,
    uri: str,
    key: str,
    *,
    start: int = 0,
    end: int | None = None,
    size: int | None = None,
    version: str | None = None,
    limits: Settings | None = None,
    max_in_flight: int = 16,
) -> FoundRange:
    """As `fetch_range_in_parts`, for who goes on with the same version.

    Raises:
        S3dlioError: As `fetch_range_in_parts`.
    """
    check_in_flight(max_in_flight)
    check_range(uri, start, None if end is None else max(0, end - start))
    limits = limits or settings()
    place = Place(uri, store, key)
    fetcher = inline_fetcher()
    if (end is not None and end <= start) or (start and size == start):
        run(look_at_nothing(place, start, size, version), lambda fetch: fetcher.run(fetch, limits))
        return FoundRange(process_rooms().empty_view())
    read = PartedRead(Wanted(store, uri, key, start, end, size, version), limits)
    try:
        with fetcher.lend(max_in_flight, limits) as loop:
            view = read.drive(loop)
            return FoundRange(view, *read.found)
    except InvalidRangeError as error:
        if not run(is_at_end(place, start, error), lambda fetch: fetcher.run(fetch, limits)):
            raise
        return FoundRange(process_rooms().empty_view())
    except BaseException:
        # Now that the loop is closed, nobody writes to its memory any more.
        read.abandon()
        raise
