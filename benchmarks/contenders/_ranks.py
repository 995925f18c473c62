"""Two ranks of torch.distributed (gloo): rank 0 is the process that was started, and starts the other one.

Rank 0 tells rank 1 by a line on its standard input what to do, as it is told itself; end of input ends it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import torch.distributed as dist

_RANK = "BENCH_RANK"
_STORE = "BENCH_STORE"
WORLD_SIZE = 2


@contextmanager
def ranks() -> Iterator[tuple[int, IO[str] | None]]:
    """Yields this process's rank and, to rank 0, where it tells rank 1 what to do; the group is there as long as the `with` block lasts."""
    if _RANK in os.environ:
        _join(int(os.environ[_RANK]), os.environ[_STORE])
        yield 1, None
        dist.destroy_process_group()
        return
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = os.environ | {_RANK: "1", _STORE: str(store.port)}
    with subprocess.Popen([sys.executable, *sys.argv], stdin=subprocess.PIPE, text=True, env=environment) as other:
        try:
            dist.init_process_group("gloo", store=store, rank=0, world_size=WORLD_SIZE)
            yield 0, other.stdin
        except BaseException:
            other.kill()
            raise
        assert other.stdin is not None
        other.stdin.close()
        dist.destroy_process_group()


def _join(rank: int, port: str) -> None:
    store = dist.TCPStore("127.0.0.1", int(port), is_master=False, wait_for_workers=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD_SIZE)
