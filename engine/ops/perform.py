"""How a verb becomes calls of stores: URIs are located, an operation is made of where they are, and somebody drives it.

A verb is a function that makes an operation of *places*. `perform` drives it in the calling thread, `perform_many` many of them side by
side; `perform_awaited.py` does the same for callers who await. So each verb, with its checks, is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

from ..errors import ConfigurationError, S3dlioError
from ..pool.inline import inline_fetcher
from ..stores.base import Operation, Store, run
from ..stores.registry import is_file_scheme, locate
from .beside import Beside

T = TypeVar("T")

OnEnd = Callable[[int, Any], None]
"""Told the number of an operation, and its result or error."""


class Place(NamedTuple):
    """Where a URI is."""

    uri: str
    """As the caller wrote it."""
    store: Store
    key: str


Make = Callable[[Place], Operation[T]]
"""Makes the operation of a verb on one object."""
Todo = tuple[str, Make[Any]]
"""A URI, and what is to be done there."""


def place_of(uri: str) -> Place:
    """Returns where a URI is.

    Raises:
        S3dlioError: As `registry.locate`.
    """
    return Place(uri, *locate(uri))


def perform(make: Callable[..., Operation[T]], *uris: str) -> T:
    """Does what `make` makes of the places of `uris`, and returns its result.

    Raises:
        S3dlioError: As the operation says.
    """
    return run(make(*map(place_of, uris)), inline_fetcher().run)


def perform_many(todos: Iterable[Todo], max_in_flight: int, on_end: OnEnd, *, are_writes: bool = False) -> None:
    """Does many things side by side, each begun when there is room for it; errors of each go to `on_end`.

    What is done to local files is done one after the other, but `are_writes`: these wait for disks, in threads.
    """

    def begun() -> Iterator[tuple[int, Operation[Any]]]:
        for number, (uri, make) in enumerate(todos):
            try:
                place = place_of(uri)
                operation = make(place)
            except ITEM_ERRORS as error:
                on_end(number, error)
                continue
            if are_writes and is_file_scheme(place.store.root):
                beside.begin(number, operation)
            else:
                yield number, operation

    with Beside(max_in_flight, on_end) as beside:
        for number, result in inline_fetcher().run_many(begun(), max_in_flight):
            on_end(number, result)
        beside.finish()


ITEM_ERRORS = (S3dlioError, TypeError)
"""What concerns one object of many: it fails by itself. TypeError: its data has no buffer."""


class Outcomes:
    """What became of the objects of one call: the first error in the order of the input, how many failed, and the results if asked for."""

    def __init__(self, *, keeps: bool) -> None:
        self.results: dict[int, Any] = {}
        """By number, where `keeps`."""
        self._keeps = keeps
        self.num = 0
        """Objects that were tried."""
        self._num_failed = 0
        self._first: tuple[int, Exception] | None = None

    def note(self, number: int, result: Any) -> None:
        """Takes one result or error; an `OnEnd`."""
        self.num += 1
        if isinstance(result, Exception):
            self._num_failed += 1
            if self._first is None or number < self._first[0]:
                self._first = number, result
        if self._keeps:
            self.results[number] = result

    def in_order(self) -> list[Any]:
        """Returns what was kept, in the order of the input."""
        return [self.results[number] for number in sorted(self.results)]

    def raise_first(self) -> None:
        """Raises the first error, if there was any, with how many failed.

        Raises:
            S3dlioError, TypeError: As the object's own error; its text ends in the count.
        """
        if self._first is None:
            return
        error = self._first[1]
        count = f"{self._num_failed} of {self.num} objects failed"
        if isinstance(error, S3dlioError):
            error.message = f"{error.message}; {count}"
        else:
            error.add_note(count)
        raise error


def check_in_flight(given: Any, name: str = "max_in_flight") -> int:
    """Returns how many requests may be in flight.

    Raises:
        ConfigurationError: It is no number of at least 1.
    """
    if type(given) is not int or given < 1:
        raise ConfigurationError(f"{name} must be an int of at least 1, not {given!r}")
    return given


def check_errors(errors: Literal["raise", "return"]) -> bool:
    """Returns whether errors are to be returned in the places of results.

    Raises:
        ConfigurationError: Neither "raise" nor "return".
    """
    if errors not in ("raise", "return"):
        raise ConfigurationError(f"errors must be 'raise' or 'return', not {errors!r}")
    return errors == "return"


def either(first: Any, second: Any, names: tuple[str, str], default: int) -> int:
    """Returns the one that was given of two names for requests in flight.

    Raises:
        ConfigurationError: They contradict each other, or it is no such number.
    """
    if first is not None and second is not None and first != second:
        raise ConfigurationError(f"{names[0]} and {names[1]} are two names of one thing; give one")
    given, name = (first, names[0]) if first is not None else (second, names[1])
    return default if given is None else check_in_flight(given, name)
