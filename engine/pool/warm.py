"""Pools that stay warm between calls: workers once started serve every later `mp_get` of the same shape, until `shutdown`.

At most two shapes are kept: whoever tries many would otherwise collect their workers and their memory.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ..config import Settings, settings
from .pool import Pool

_MAX_KEPT = 2

_lock = threading.Lock()
_pools: dict[Settings, Pool] = {}
"""By shape; the one that was used last on the right."""
_num_users: Counter[Pool] = Counter()


@contextmanager
def warm_pool(procs: int, jobs: int, memory_bytes: int | str | None) -> Iterator[Pool]:
    """Lends the pool of this shape, started if there is none; others may use it meanwhile."""
    shape = settings(procs=procs, jobs=jobs, memory_bytes=memory_bytes)
    _close_surplus(shape)
    with _lock:
        pool = _pools.pop(shape, None) or Pool(procs, jobs, memory_bytes)
        _pools[shape] = pool
        _num_users[pool] += 1
    try:
        yield pool
    finally:
        with _lock:
            _num_users[pool] -= 1
            if _num_users[pool] <= 0:
                del _num_users[pool]


def _close_surplus(shape: Settings) -> None:
    """Makes room for `shape`. None is closed while somebody uses it, so there may be more for a while."""
    with _lock:
        idle = [kept for kept, pool in _pools.items() if pool not in _num_users and kept != shape]
        num = len(_pools) - (shape in _pools) - _MAX_KEPT + 1
        surplus = [_pools.pop(kept) for kept in idle[: max(0, num)]]
    for pool in surplus:
        pool.close()


def close_warm_pools() -> None:
    """Ends the workers of all of them."""
    with _lock:
        pools = [*_pools.values()]
        _pools.clear()
        _num_users.clear()
    for pool in pools:
        pool.close()


def _forget() -> None:
    global _lock
    _lock = threading.Lock()
    _pools.clear()
    _num_users.clear()


os.register_at_fork(after_in_child=_forget)
