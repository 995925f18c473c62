"""The verbs on many objects: get_many, put_many, get_many_stats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Literal

from ..errors import ConfigurationError, S3dlioError
from ..pool.inline import inline_fetcher
from ..pool.sizes import note_size
from ..stores.base import Operation
from .objects import write
from .perform import Outcomes, Place, Todo, check_errors, check_in_flight, either, perform_many


def get_many(
    uris: Iterable[str],
    workers: int | None = None,
    *,
    max_in_flight: int | None = None,
    with_uris: bool = False,
    errors: Literal["raise", "return"] = "raise",
) -> list[Any]:
    """Returns whole objects in the order of `uris`, fetched in the calling process.

    Args:
        uris: Any URIs, also of several schemes; duplicates are fetched twice.
        workers: Requests in flight at once, 64 by default; `max_in_flight` is another name for it.
        max_in_flight: As `workers`.
        with_uris: Whether to return pairs (uri, view).
        errors: "raise" raises the first error in input order, after all were tried; "return" puts errors in their places.

    Returns:
        `BytesView`s whose memory belongs to the caller, beyond any `memory_bytes`.

    Raises:
        ConfigurationError: `workers` and `max_in_flight` disagree, or an argument makes no sense.
        S3dlioError: As `get`, unless `errors="return"`.
    """
    wanted, in_flight = check_batch(uris, workers, max_in_flight, errors)
    return hand_out(wanted, inline_fetcher().fetch_many(wanted, in_flight), with_uris, errors)


def put_many(
    items: Iterable[tuple[str, Any]], max_in_flight: int = 64, *, errors: Literal["raise", "return"] = "raise"
) -> list[Exception | None] | None:
    """Writes many objects, each visible whole or not at all, from the calling process.

    Args:
        items: Pairs (uri, data), of any schemes; an iterator is pulled as there is room. Data as for `put_bytes`. Of two items with the
            same URI either may come last.
        max_in_flight: Requests at once.
        errors: "raise" raises the first error in input order, after all were tried, and says how many failed; "return" returns them.

    Returns:
        None; with `errors="return"`, for each item in order, its error or None.

    Raises:
        ConfigurationError: An argument makes no sense, or an item is no pair.
        S3dlioError, TypeError: As `put_bytes`, unless `errors="return"`.
    """
    is_returned, outcomes = check_errors(errors), Outcomes(keeps=errors == "return")
    todos = ((uri, partial(write, data=data)) for uri, data in pairs_of(items))
    perform_many(todos, check_in_flight(max_in_flight), outcomes.note, are_writes=True)
    return end_puts(outcomes, is_returned)


def pairs_of(items: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yields the items of `put_many`, checked as they come.

    Raises:
        ConfigurationError: An item is no pair.
    """
    for number, item in enumerate(items):
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise ConfigurationError(f"an item of put_many is a pair (uri, data); item {number} is a {type(item).__name__}")
        yield item[0], item[1]


def end_puts(outcomes: Outcomes, is_returned: bool) -> list[Exception | None] | None:
    """Returns the errors of `put_many`, or raises the first.

    Raises:
        S3dlioError, TypeError: The first error, unless they are returned.
    """
    if is_returned:
        return outcomes.in_order()
    outcomes.raise_first()
    return None


def get_many_stats(
    uris: Iterable[str], concurrency: int | None = None, *, max_in_flight: int | None = None
) -> tuple[int, int]:
    """Asks for the sizes of many objects, by one HEAD each, and remembers them: later reads then have room made beforehand.

    What is remembered is a hint (`size_cache_s`): an object that changed since is read as it is then.

    Args:
        uris: Any URIs, also of several schemes; those that end in `/` are no objects, and are passed over.
        concurrency: Requests at once, 100 by default; `max_in_flight` is another name for it.
        max_in_flight: As `concurrency`.

    Returns:
        How many objects there are, and their bytes together.

    Raises:
        ConfigurationError: An argument makes no sense.
        S3dlioError: The first error in input order, after all were tried; a missing object is one.
    """
    in_flight, sizes = check_stats(uris, concurrency, max_in_flight), Sizes()
    perform_many(looks(uris), in_flight, sizes.note)
    return sizes.total()


def check_stats(uris: Iterable[str], concurrency: int | None, max_in_flight: int | None) -> int:
    """Returns how many requests of `get_many_stats` may be in flight.

    Raises:
        ConfigurationError: As `get_many_stats`.
    """
    _check_no_text(uris)
    return either(concurrency, max_in_flight, ("concurrency", "max_in_flight"), 100)


def looks(uris: Iterable[str]) -> Iterator[Todo]:
    """Yields what `get_many_stats` is to do."""
    return ((uri, measure) for uri in uris if not str(uri).endswith("/"))


def measure(place: Place) -> Operation[int]:
    """Returns the size of an object, and remembers it."""
    size = (yield from place.store.stat(place.key)).size
    note_size(place.uri, size)
    return size


class Sizes(Outcomes):
    """What `get_many_stats` counts."""

    def __init__(self) -> None:
        super().__init__(keeps=False)
        self._num_bytes = 0

    def note(self, number: int, result: Any) -> None:
        """Takes one size or error; an `OnEnd`."""
        super().note(number, result)
        if isinstance(result, int):
            self._num_bytes += result

    def total(self) -> tuple[int, int]:
        """Returns the number of objects and of their bytes.

        Raises:
            S3dlioError: The first error.
        """
        self.raise_first()
        return self.num, self._num_bytes


def check_batch(
    uris: Iterable[str], workers: int | None, max_in_flight: int | None, errors: Literal["raise", "return"]
) -> tuple[list[str], int]:
    """Checks the arguments of a verb on many objects; returns the URIs as a list, and how many requests may be in flight.

    Raises:
        ConfigurationError: As `get_many`.
    """
    check_errors(errors)
    _check_no_text(uris)
    return [*uris], either(workers, max_in_flight, ("workers", "max_in_flight"), 64)


def _check_no_text(uris: Iterable[str]) -> None:
    if isinstance(uris, str):
        raise ConfigurationError("uris is a list of URIs, not one text; write [uri]", uri=uris)


def hand_out(wanted: list[str], found: list[Any], with_uris: bool, errors: str) -> list[Any]:
    """Returns what a verb on many objects found, in the form that was asked for.

    Raises:
        S3dlioError: The first error, unless `errors="return"`.
    """
    if errors == "raise":
        error = next((result for result in found if isinstance(result, S3dlioError)), None)
        if error is not None:
            # The error's traceback keeps the list, and should not keep the memory.
            found.clear()
            raise error
    return [*zip(wanted, found, strict=True)] if with_uris else found
