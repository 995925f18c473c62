"""Beginning and end: logging, and closing what the process keeps warm."""

from __future__ import annotations

import logging
import sys

from ..errors import ConfigurationError
from ..pool.inline import close_inline
from ..pool.rooms import close_rooms
from ..pool.sizes import forget_sizes
from ..pool.warm import close_warm_pools
from ..stores.registry import forget_stores
from .left_uploads import abort_dropped

_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def init_logging(level: str = "info") -> None:
    """Sends the log of s3dlio at `level` (trace, debug, info, warn, error) to standard error. May be called again.

    Raises:
        ConfigurationError: An unknown level.
    """
    if level.lower() not in _LEVELS:
        raise ConfigurationError(f"unknown log level {level!r}; known are {', '.join(_LEVELS)}")
    logger = logging.getLogger("s3dlio")
    logger.setLevel(_LEVELS[level.lower()])
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)


def shutdown() -> None:
    """Ends warm workers, closes connections and forgets open stores. Views that exist stay readable; the next call begins anew.

    What is under way in other threads and tasks goes on, or ends with `PoolClosedError` where it needs memory yet; their connections are
    closed when it has ended.
    """
    abort_dropped()
    close_warm_pools()
    close_rooms()
    close_inline()
    # Only if somebody awaited: asyncio takes 40 ms to import.
    awaited = sys.modules.get("s3dlio.engine.pool.awaited")
    if awaited is not None:
        awaited.close_awaited()
    forget_stores()
    forget_sizes()
