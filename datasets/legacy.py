"""The arguments of the original s3dlio's data sets: what each of them is here. Pure.

Those that mean something keep their meaning. Those whose work nobody has to ask for here raise `ConfigurationError`, and say by what
they are replaced: no argument is passed over in silence.

Source: python/s3dlio/torch.py, jax_tf.py and the options of `create_async_loader`, s3dlio 0.9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from s3dlio.engine.errors import ConfigurationError

_SAME: Final = ("batch_size", "drop_last", "shuffle", "seed")
_REPLACED: Final = {
    "num_workers": "procs=, the worker processes of the data set (a DataLoader's own num_workers are shared out by themselves)",
    "auto_tune": "nothing: as many requests as the memory allows are in flight; jobs= limits them",
    "reader_mode": "nothing: large objects are read in ranges by themselves (s3dlio.configure(split_above_bytes=...))",
    "part_size": "s3dlio.configure(part_bytes=...)",
    "max_inflight_parts": "jobs=",
    "max_threads": "procs= and jobs=",
    "worker_id": "nothing: the workers of a DataLoader share the samples by themselves",
    "num_workers_pytorch": "nothing: the workers of a DataLoader share the samples by themselves",
    "spec": "pattern=",
    "format": "decode=",
    "columns": "decode=, with a function of yours",
    "footer_cap": "decode=, with a function of yours",
    "skip_head": "nothing: no HEAD is sent",
}
_QUIET: Final = ("writable", "suppress_nonwritable_warning")
"""Views are writable, and so nothing warns that they are not: either value gets what it asks for."""


def translate(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of today that the original's stand for.

    Args:
        given: Keywords of the original library, or its `loader_opts`.

    Raises:
        ConfigurationError: One is replaced by something else, or unknown; or they are no mapping.
    """
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"loader_opts is a dict, not {type(given).__name__}")
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in _QUIET:
            if not isinstance(value, bool):
                raise ConfigurationError(f"{name} is True or False, not {value!r}")
        elif name in _RENAMED:
            found |= _RENAMED[name](value)
        elif name in _SAME:
            found[name] = value
        elif name in _REPLACED:
            raise ConfigurationError(f"{name} is not an argument of this data set; instead: {_REPLACED[name]}")
        else:
            raise ConfigurationError(f"{name!r} is not an argument of this data set")
    return found


def _prefetch(value: Any) -> dict[str, Any]:
    # The original's 0 stands for one request in flight.
    return {"prefetch": max(value, 1) if isinstance(value, int) else value}


def _decode(value: Any) -> dict[str, Any]:
    return {} if value in ("raw", "none") else {"decode": value}


def _enable_sharding(value: Any) -> dict[str, Any]:
    # Not sharded means that each rank reads all. Its workers never read the same twice: that was an error, not a choice.
    return {} if value else {"rank": 0, "world_size": 1}


_RENAMED: Final[Mapping[str, Callable[[Any], dict[str, Any]]]] = {
    "prefetch": _prefetch,
    "decode": _decode,
    "enable_sharding": _enable_sharding,
    "shard_rank": lambda value: {"rank": value},
    "shard_world_size": lambda value: {"world_size": value},
}


def merge(given: Mapping[str, Any], older: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Returns both together.

    Raises:
        ConfigurationError: One argument is given twice, with different values.
    """
    for name in given.keys() & older.keys():
        if given[name] != older[name]:
            raise ConfigurationError(f"{name} is {given[name]!r}, and {older[name]!r} in {what}; give it once")
    return {**older, **given}
