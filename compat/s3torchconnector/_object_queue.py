"""The objects of a data set in their order, which readers take and those who fetch ahead look at before.

Owns the source that lists them, which is asked by one thread at a time, and what was looked at and not taken yet.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ._s3bucket_key_data import S3BucketKeyData

_NUM_KEPT: Final = 1024
"""Objects that are remembered after their readers were made: whoever collects readers and reads them later has them fetched ahead too."""


class ObjectQueue:
    """Objects in their order, numbered from 0: taken by those who make readers, and looked at before by those who fetch ahead."""

    def __init__(self, source: Iterator[S3BucketKeyData], first: int, step: int) -> None:
        self._source = source
        self._skip = first
        """How many to pass over before the next one."""
        self._step = step
        self._waiting: deque[S3BucketKeyData] = deque()
        """Looked at, and not taken yet."""
        self._kept: dict[int, S3BucketKeyData] = {}
        """Those waiting, and the last ones that were taken."""
        self._num_seen = 0
        self._num_taken = 0
        self._failure: Exception | None = None
        """What the source raised when somebody looked ahead; for who takes what came before it."""
        self._lock = threading.Lock()
        """Guards the source, which may be a generator; held while it lists."""
        self.taker: weakref.ref[Any] | None = None
        """Who takes; when it is gone, nobody looks any further."""

    def take(self) -> tuple[int, S3BucketKeyData]:
        """Returns the next one with its number.

        Raises:
            StopIteration: There is none.
            Exception: What the source raises.
        """
        with self._lock:
            if not self._waiting:
                failure, self._failure = self._failure, None
                if failure is not None:
                    raise failure
                self._see()
            number = self._num_taken
            self._num_taken += 1
            self._kept.pop(number - _NUM_KEPT, None)
            return number, self._waiting.popleft()

    def look(self, number: int) -> S3BucketKeyData | None:
        """Returns an object without taking it; None where it is forgotten, or there is none to be seen now."""
        with self._lock:
            if (
                number == self._num_seen
                and self._failure is None
                and self.taker is not None
                and self.taker() is not None
            ):
                try:
                    self._see()
                except StopIteration:
                    return None
                except Exception as error:  # noqa: BLE001 (it is raised at its place)
                    self._failure = error
                    return None
            return self._kept.get(number)

    def _see(self) -> None:
        while self._skip:
            next(self._source)
            self._skip -= 1
        one = next(self._source)
        self._skip = self._step - 1
        self._waiting.append(one)
        self._kept[self._num_seen] = one
        self._num_seen += 1

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            kept = dict(zip(range(self._num_taken, self._num_seen), self._waiting, strict=True))
            return self.__dict__ | {"_kept": kept, "_lock": None, "taker": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
