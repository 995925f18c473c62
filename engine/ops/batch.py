"""The verbs on many objects: get_many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from ..errors import ConfigurationError, S3dlioError
from ..pool.inline import inline_fetcher


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


def check_batch(
    uris: Iterable[str], workers: int | None, max_in_flight: int | None, errors: str
) -> tuple[list[str], int]:
    """Checks the arguments of a verb on many objects; returns the URIs as a list, and how many requests may be in flight.

    Raises:
        ConfigurationError: As `get_many`.
    """
    if workers is not None and max_in_flight is not None and workers != max_in_flight:
        raise ConfigurationError("workers and max_in_flight are two names of one thing; give one")
    in_flight = next((given for given in (workers, max_in_flight) if given is not None), 64)
    if in_flight < 1 or errors not in ("raise", "return"):
        raise ConfigurationError(f"workers must be at least 1 and errors 'raise' or 'return': {in_flight}, {errors!r}")
    if isinstance(uris, str):
        raise ConfigurationError("uris is a list of URIs, not one text; write [uri]", uri=uris)
    return [*uris], in_flight


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
