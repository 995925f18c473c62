"""Says by name what cannot go to another process, when it has to: a DataLoader's worker that is spawned gets the data set by pickle."""

from __future__ import annotations

import io
import pickle
from multiprocessing import context
from typing import Any

from s3dlio.engine.errors import ConfigurationError, describe


class _Nowhere(io.RawIOBase):
    """Takes what is pickled and keeps nothing of it."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def check_when_spawning(**values: object) -> None:
    """Checks what a process that is being started gets by pickle; other pickles, and copies, speak for themselves.

    A deep copy takes any function, and so does cloudpickle (Ray).

    Args:
        values: By the name of the argument.

    Raises:
        ConfigurationError: As `check_picklable`.
    """
    if context.get_spawning_popen() is not None:
        for name, value in values.items():
            check_picklable(name, value)


def check_picklable(name: str, value: object) -> None:
    """Returns if `value` can be pickled. Functions and classes are pickled by their name, so only those of a module can.

    To be called where the data set is pickled, and not before: most are never.

    Args:
        name: Of the argument, for the text.
        value: What was given for it.

    Raises:
        ConfigurationError: It cannot; the text names the argument, the value, and what to do.
    """
    try:
        pickle.Pickler(_Nowhere(), pickle.HIGHEST_PROTOCOL).dump(value)
    except Exception as error:  # noqa: BLE001 (objects raise what they like when they are pickled)
        shown = getattr(value, "__qualname__", type(value).__qualname__)
        raise ConfigurationError(
            f"{name}={shown} cannot be pickled for another process; make it a function or class of a module, or let workers fork",
            cause=describe(error),
        ) from None
