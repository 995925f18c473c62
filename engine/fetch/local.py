"""Reads that need no network: piece by piece, so that nobody takes the reader for one that hangs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ObjectChangedError, S3dlioError
from .delayed import finish_error, wait_before_retry
from .request import Fetch, State

if TYPE_CHECKING:
    from ..config import Settings


def read_piece(fetch: Fetch, grant: Callable[[Fetch], memoryview | None], limits: Settings) -> None:
    """Reads the next piece; the state is ACTIVE then if there is more, else DONE, FAILED or WANTS_SPACE."""
    if not fetch.begun_s:
        fetch.begun_s = time.monotonic()
    fetch.attempts = 1
    fetch.state = State.ACTIVE
    try:
        fetch.wire.read(fetch, grant)
    except S3dlioError as error:
        # Once, where the caller had asked for no version in particular.
        if isinstance(error, ObjectChangedError) and wait_before_retry(fetch, error, limits) is not None:
            return
        fetch.error = finish_error(fetch, error)
        fetch.state = State.FAILED
    else:
        # `read` says so where it wants space.
        if fetch.state is State.ACTIVE and fetch.received == fetch.missing_space:
            fetch.state = State.DONE
    fetch.finished_s = time.monotonic()
