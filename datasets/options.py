"""What a data set is asked for, checked when it is made: a wrong argument fails where it was written, not in a worker an hour later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from s3dlio.engine.config import settings
from s3dlio.engine.errors import ConfigurationError
from s3dlio.engine.memory.limits import default_memory_bytes

from .order import TAILS, Tail

_ON_ERROR: Final = ("raise", "skip")
_DECODES: Final = ("npy", "npz", "tfrecord", "json", "image", "auto")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments that all data sets share. Meanings, units and defaults as in `ObjectStoreIterableDataset`."""

    shuffle: bool = False
    seed: int = 0
    batch_size: int | None = None
    drop_last: bool = False
    pad_to: int | None = None
    decode: str | Callable[..., Any] | None = None
    rank: int | None = None
    world_size: int | None = None
    tail: Tail = "uneven"
    on_error: str = "raise"
    shuffle_buffer: int = 1024
    procs: int | None = None
    jobs: int | None = None
    memory_bytes: int | str | None = None
    prefetch: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        """Checks every one of them.

        Raises:
            ConfigurationError: Which, and what it may be.
        """
        for name in ("shuffle", "drop_last", "progress"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name} is True or False, not {getattr(self, name)!r}")
        _check_int("seed", self.seed)
        for name in ("batch_size", "pad_to", "prefetch"):
            if getattr(self, name) is not None:
                _check_int(name, getattr(self, name), 1)
        _check_int("shuffle_buffer", self.shuffle_buffer, 1)
        _check_one("tail", self.tail, TAILS)
        _check_one("on_error", self.on_error, _ON_ERROR)
        if not (self.decode is None or callable(self.decode)):
            _check_one("decode", self.decode, (*_DECODES, "a function", None))
        self._check_together()
        settings(procs=self.procs, jobs=self.jobs, memory_bytes=self.memory_bytes)

    def _check_together(self) -> None:
        if (self.rank is None) != (self.world_size is None):
            raise ConfigurationError("rank and world_size are given together or not at all")
        if self.rank is not None:
            assert self.world_size is not None
            _check_int("world_size", self.world_size, 1)
            _check_int("rank", self.rank, 0)
            if self.rank >= self.world_size:
                raise ConfigurationError(f"rank {self.rank} is not below world_size {self.world_size}")
        if self.batch_size is None:
            for name in ("drop_last", "pad_to"):
                if getattr(self, name):
                    raise ConfigurationError(f"{name} speaks of batches that the data set makes; give it a batch_size")
        if self.pad_to is not None and self.decode is not None:
            raise ConfigurationError("pad_to pads the bytes of objects, which decode would read; give one of the two")

    @property
    def cap_bytes(self) -> int:
        """The memory that the data set may use in one process, in bytes."""
        return settings(memory_bytes=self.memory_bytes).memory_bytes or default_memory_bytes()


def _check_int(name: str, value: object, least: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        raise ConfigurationError(
            f"{name} is a whole number{'' if least is None else f' from {least} on'}, not {value!r}"
        )


def _check_one(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise ConfigurationError(f"{name} is one of {', '.join(map(str, known))}, not {value!r}")
