"""A block of shared memory that its process hands on to the processes it starts: what all of them read is there once.

Rules:

* The file has no name and its size is fixed, as that of a segment.
* A child that is being started gets the **descriptor**: by spawn and forkserver with the pickle of what it is given, by fork as it is.
  Any other pickle (to a file, another machine, a queue) carries the **bytes**, and what is made of it shares nothing.
* `close()` closes the descriptor, and so does the end of the block. The mapping goes with the last reference to it, as of a segment.
"""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Iterable, Iterator
from typing import Any, Final, SupportsIndex

from .limits import available_memory
from .segment import Preflight, fix_size, insufficient, map_shared, open_unnamed

_PIECE_BYTES: Final = 1 << 20


class SharedBlock:
    """Bytes that several processes see. Made by `create` or `gather`.

    Attributes:
        fd: Descriptor of the file, close-on-exec; -1 after `close`.
        nbytes: Its size.
        buffer: The mapping; writable, uint8, contiguous, shape (nbytes,). What one process writes there, all others see.
    """

    fd: int = -1

    def __init__(self, fd: int, nbytes: int) -> None:
        mapping = map_shared(fd, max(nbytes, 1))
        self.nbytes = nbytes
        self.buffer = memoryview(mapping)[:nbytes]
        self.fd = fd

    @classmethod
    def create(cls, nbytes: int) -> SharedBlock:
        """Returns a new block of zeros.

        Raises:
            UnsupportedError: Not Linux, or neither memfd nor /dev/shm may be used.
            InsufficientMemoryError: The machine or a cgroup has not that much left.
        """
        return cls.gather(bytes(min(_PIECE_BYTES, nbytes - at)) for at in range(0, nbytes, _PIECE_BYTES))

    @classmethod
    def gather(cls, pieces: Iterable[bytes | memoryview]) -> SharedBlock:
        """Returns a new block that holds `pieces` one after another; each is asked for when the one before lies in the block.

        Raises:
            UnsupportedError, InsufficientMemoryError: As `create`.
        """
        fd = open_unnamed()
        try:
            nbytes = _append(fd, pieces)
            fix_size(fd, max(nbytes, 1))
            return cls(fd, nbytes)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Closes the descriptor; may be called again. The bytes stay readable, and can be handed on by value only."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        from multiprocessing import context, reduction

        if self.fd >= 0 and context.get_spawning_popen() is not None:
            return _attach, (reduction.DupFd(self.fd), self.nbytes)
        data = self.buffer.toreadonly()
        return _copy, (pickle.PickleBuffer(data) if int(protocol) >= 5 else bytes(data),)

    def __repr__(self) -> str:
        return f"SharedBlock(fd={self.fd}, nbytes={self.nbytes})"


def _append(fd: int, pieces: Iterable[bytes | memoryview]) -> int:
    """Writes all pieces to the file and returns how many bytes they are.

    By `write` and not through a mapping: what cannot be written is an error, where a mapping would give SIGBUS.
    """
    preflight = Preflight()
    nbytes = 0
    for piece in _cut(pieces):
        preflight.take(len(piece))
        try:
            done = 0
            while done < len(piece):
                done += os.write(fd, piece[done:])
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise insufficient(len(piece), available_memory(), str(error)) from error
            raise
        nbytes += done
    return nbytes


def _cut(pieces: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    for piece in pieces:
        view = memoryview(piece)
        if view.nbytes:
            view = view.cast("B")
            for at in range(0, len(view), _PIECE_BYTES):
                yield view[at : at + _PIECE_BYTES]


def _attach(descriptor: Any, nbytes: int) -> SharedBlock:
    """Returns the block behind a descriptor that this process was started with."""
    fd: int = descriptor.detach()
    # It was made inheritable on the way here; what this process starts must not get it (fault M7).
    os.set_inheritable(fd, False)
    return SharedBlock(fd, nbytes)


def _copy(data: bytes) -> SharedBlock:
    """Returns a block of its own, with the bytes that a pickle carried."""
    return SharedBlock.gather((data,))
