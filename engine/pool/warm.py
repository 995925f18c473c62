"""Pools that stay warm between calls: workers once started serve every later `mp_get` of the same shape, until `shutdown`."""

from __future__ import annotations

import os
import threading

from ..config import Settings, settings
from .pool import Pool

_lock = threading.Lock()
_pools: dict[Settings, Pool] = {}


def warm_pool(procs: int, jobs: int, memory_bytes: int | str | None) -> Pool:
    """Returns the pool of this shape, started if there is none."""
    shape = settings(procs=procs, jobs=jobs, memory_bytes=memory_bytes)
    with _lock:
        pool = _pools.get(shape)
        if pool is None:
            pool = _pools[shape] = Pool(procs, jobs, memory_bytes)
        return pool


def close_warm_pools() -> None:
    """Ends the workers of all of them."""
    with _lock:
        pools = [*_pools.values()]
        _pools.clear()
    for pool in pools:
        pool.close()


def _forget() -> None:
    global _lock
    _lock = threading.Lock()
    _pools.clear()


os.register_at_fork(after_in_child=_forget)
