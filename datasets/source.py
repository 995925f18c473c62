"""Where the objects of a data set come from: one pool per process, the kind of pool that this process may have.

In a training process that is worker processes; in a worker of a DataLoader, and in any other daemon, it is the same engine without
processes, since daemons cannot have children. A data set that was forked or pickled has no pool until it needs one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from s3dlio.engine.pool.pool import Pool

from .world import can_have_children

if TYPE_CHECKING:
    from s3dlio.engine.pool.items import Item
    from s3dlio.engine.pool.wanted import Group
    from s3dlio.engine.types import ObjectRef

    from .options import Options


class Source:
    """The pool of one data set in this process, kept from epoch to epoch."""

    def __init__(self, options: Options) -> None:
        """Starts nothing yet.

        Args:
            options: Of the data set.
        """
        self._options = options
        self._pool: Pool | None = None
        self._made_for: tuple[int, int] | None = None
        """The process and the share of the memory that the pool was made for."""

    def memory_bytes(self, num_sharers: int) -> int:
        """Returns the cap of one of `num_sharers` processes that share the data set's memory, in bytes."""
        return max(self._options.cap_bytes // num_sharers, 1 << 20)

    def fetch(self, wanted: Iterator[ObjectRef | Group], num_sharers: int) -> Iterator[Item]:
        """Yields what is wanted, in that order, fetched ahead; READY items with their views, or FAILED ones.

        Args:
            wanted: Objects, and batches of them.
            num_sharers: Processes that share the data set's memory.
        """
        return self._open(num_sharers).fetch_items(wanted, True, self._options.prefetch)

    def stats(self) -> dict[str, Any]:
        """Returns the counts of the pool, as `Pool.stats`; none where there is no pool."""
        if self._pool is None or self._made_for is None or self._made_for[0] != os.getpid():
            return {}
        return self._pool.stats()

    def close(self) -> None:
        """Ends the workers; the next iteration starts others."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _open(self, num_sharers: int) -> Pool:
        made_for = (os.getpid(), num_sharers)
        if self._pool is None or self._made_for != made_for:
            if self._pool is not None and self._made_for is not None and self._made_for[0] == made_for[0]:
                self._pool.close()
            # A pool from before a fork is its parent's: it forgot it already, and may have workers where this process may have none.
            procs = self._options.procs if can_have_children() else 0
            self._pool = Pool(procs, self._options.jobs, self.memory_bytes(num_sharers))
            self._made_for = made_for
        return self._pool

    def __getstate__(self) -> dict[str, Any]:
        return {"_options": self._options, "_pool": None, "_made_for": None}
