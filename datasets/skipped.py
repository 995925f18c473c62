"""What was left out, written down where all processes of a data set see it.

A record is one line of JSON, appended by one `write`, so that the workers of a DataLoader need no lock. The file has no name, and is
gone with the last process that has it.
"""

from __future__ import annotations

import fcntl
import os
from multiprocessing import context, reduction
from typing import Any, Final

import msgspec

from s3dlio.engine.memory.segment import open_unnamed
from s3dlio.engine.text import clean

_MAX_TEXT: Final = 2000
_PIECE_BYTES: Final = 1 << 20


class SkipLog:
    """Records of skipped samples. A child that is being started shares it; any other pickle carries a copy."""

    def __init__(self) -> None:
        self._adopt(open_unnamed())
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) | os.O_APPEND)

    def _adopt(self, fd: int) -> None:
        self._fd = fd

    def add(self, uri: str, error: str) -> None:
        """Appends a record."""
        os.write(self._fd, msgspec.json.encode({"uri": clean(uri), "error": clean(error[:_MAX_TEXT])}) + b"\n")

    def records(self) -> list[dict[str, str]]:
        """Returns all records, of all processes, in the order in which they came."""
        data = b""
        while piece := os.pread(self._fd, _PIECE_BYTES, len(data)):
            data += piece
        return [msgspec.json.decode(line, type=dict[str, str]) for line in data.splitlines()]

    def __del__(self) -> None:
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            os.close(fd)

    def __reduce__(self) -> tuple[Any, ...]:
        if context.get_spawning_popen() is not None:
            return _attach, (reduction.DupFd(self._fd),)
        return _copy, (self.records(),)


def _attach(descriptor: Any) -> SkipLog:
    log = SkipLog.__new__(SkipLog)
    fd: int = descriptor.detach()
    os.set_inheritable(fd, False)
    log._adopt(fd)
    return log


def _copy(records: list[dict[str, str]]) -> SkipLog:
    log = SkipLog()
    for record in records:
        log.add(record["uri"], record["error"])
    return log
