"""The shared memory that bytes are fetched into: one segment per pool, mapped by the coordinator and by each worker.

Owns every use of memfd and mmap. It knows byte ranges; it does not know who uses them (`slots.py`) nor how they are read (`view.py`),
and it does not import numpy, since workers import this module.

Rules, each with its reason:

* The file is created once at a sparse size above the machine's memory, mapped once, and **never resized**: a mapping beyond the end
  of its file is a SIGBUS. Sealing (`F_SEAL_SHRINK`, `F_SEAL_GROW`) makes the kernel enforce it. Address space costs nothing.
* A page is **reserved before it is granted** (`posix_fallocate`). Writing to a hole of a full memory is a SIGBUS, or the OOM killer;
  reserving it is an error that can be explained. A memfd has no ENOSPC of its own, so the machine and the cgroups are asked first.
* The file has **no name**: nothing to guess, nothing left after SIGKILL, and no 64 MB limit of Docker's /dev/shm.
* `close()` closes the descriptor only. The **mapping goes with the last reference** to the segment, which every lease holds: a view
  under a closed mapping would be a SIGSEGV. (Before Python 3.13, mmap keeps a duplicate descriptor, close-on-exec too, as long.)
* Every descriptor is close-on-exec. A worker gets the one it needs through `pass_fds`, and closes the door behind itself in `attach`.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from contextlib import suppress

from ..errors import InsufficientMemoryError, InternalError, PoolClosedError, UnsupportedError
from .limits import PAGE_BYTES, available_memory, default_memory_bytes, machine_memory

__all__ = ["HEADER_BYTES", "MAX_WORKERS", "Segment", "available_memory", "default_memory_bytes"]

MAX_WORKERS = 512
"""Workers that have a progress counter in the header."""

HEADER_BYTES = max(PAGE_BYTES, MAX_WORKERS * 8)
"""The beginning of the segment, never granted: one u64 progress counter for each worker."""

_VET_BYTES = 64 << 20
"""Reading meminfo and cgroups takes 0.3 ms; reserving 64 MiB takes 18 ms. So the look is taken once in so many bytes."""

_HEADROOM_BYTES = 32 << 20
"""Left to the processes themselves: taking the last page is what wakes the OOM killer."""

_STEP_BYTES = 4 << 20
"""A signal makes the kernel undo a whole fallocate, and Python begins it again: one large call under a profiler's timer would never
end. Steps of 4 MiB take about 1 ms each."""

_POISON = b"\xdb" * 65536


class Preflight:
    """Asks the machine and the cgroups before memory is taken, and not every time."""

    def __init__(self) -> None:
        self._vetted_bytes = 0

    def take(self, nbytes: int) -> None:
        """Says that `nbytes` more are about to be taken.

        Raises:
            InsufficientMemoryError: The machine or a cgroup has not that much left.
        """
        if nbytes > self._vetted_bytes:
            available = max(0, available_memory() - _HEADROOM_BYTES)
            if nbytes > available:
                raise insufficient(nbytes, available, None)
            self._vetted_bytes = min(max(nbytes, _VET_BYTES), available)
        self._vetted_bytes -= nbytes


class Segment:
    """One mapped, unnamed, sparse file of shared memory. Made by `create` or `attach`.

    Attributes:
        fd: Descriptor to hand to workers, close-on-exec; -1 after `close`.
        size: Bytes of the sparse file and of the mapping; not a measure of memory in use.
        buffer: The whole mapping; writable, uint8, contiguous, shape (size,).
        counters: The header as unsigned 64-bit numbers, shape (MAX_WORKERS,): how far worker i has come. Written by worker i only.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._mapping = map_shared(fd, size)
        self.fd = fd
        self.size = size
        self.buffer = memoryview(self._mapping)
        self.counters = self.buffer[: MAX_WORKERS * 8].cast("Q")
        self._preflight = Preflight()

    @classmethod
    def create(cls, size: int | None = None) -> Segment:
        """Returns a new segment, with its header reserved and nothing else.

        Args:
            size: Sparse size in bytes, rounded up to pages. Without it, four times the machine's memory: the powers of two of
                `slots.py` and their fragmentation then never meet the end.

        Raises:
            UnsupportedError: Not Linux, or neither memfd nor /dev/shm may be used.
            InsufficientMemoryError: No memory for the header, or no address space for the mapping.
        """
        fd = open_unnamed()
        try:
            size = _sparse_size() if size is None else max(_whole_pages(size), HEADER_BYTES + PAGE_BYTES)
            fix_size(fd, size)
            segment = cls(fd, size)
            segment.reserve(0, HEADER_BYTES)
        except BaseException:
            os.close(fd)
            raise
        return segment

    @classmethod
    def attach(cls, fd: int) -> Segment:
        """Returns the segment behind a descriptor that was inherited; takes ownership of `fd`.

        Raises:
            UnsupportedError: Not Linux.
            InternalError: `fd` is no segment.
        """
        _require_linux()
        # pass_fds made it inheritable on the way here; what this process starts must not get it (fault M7).
        os.set_inheritable(fd, False)
        try:
            return cls(fd, _size_of(fd))
        except BaseException:
            os.close(fd)
            raise

    def reserve(self, start: int, end: int) -> None:
        """Makes the kernel commit the pages of `[start, end)`; those that are committed already cost little and keep their bytes.

        Raises:
            InsufficientMemoryError: The machine or a cgroup has not that much left. Nothing of the range stays reserved.
            PoolClosedError: The segment was closed.
        """
        if self.fd < 0:
            raise PoolClosedError("the segment is closed; its pool was shut down")
        self._preflight.take(end - start)
        reached = start
        try:
            while reached < end:
                nbytes = min(_STEP_BYTES, end - reached)
                os.posix_fallocate(self.fd, reached, nbytes)
                reached += nbytes
        except BaseException as error:
            if reached > start:
                self.release(start, reached)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise insufficient(end - start, available_memory(), str(error)) from error
            raise

    def release(self, start: int, end: int) -> None:
        """Gives the pages of `[start, end)` back to the kernel, for all processes. Both ends are multiples of the page size."""
        self._mapping.madvise(mmap.MADV_REMOVE, start, end - start)

    def poison(self, start: int, end: int) -> None:
        """Fills `[start, end)` with 0xDB, so that whoever reads it after its release sees nonsense and not the next object."""
        for at in range(start, end, len(_POISON)):
            upto = min(at + len(_POISON), end)
            self.buffer[at:upto] = _POISON[: upto - at]

    def close(self) -> None:
        """Closes the descriptor; may be called again. Views stay readable until the last of them is gone."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __repr__(self) -> str:
        return f"Segment(fd={self.fd}, size={self.size})"


def insufficient(needed: int, available: int, cause: str | None) -> InsufficientMemoryError:
    """Returns the error that says how much was asked for, and how much there is."""
    return InsufficientMemoryError(
        f"this needs {needed} more bytes of memory, and the machine or its cgroup has {available} available; "
        "lower memory_bytes, or give the process more memory",
        cause=cause,
    )


def private_pages(nbytes: int) -> memoryview:
    """Returns memory of this process alone that begins with a page; a forked child gets a copy."""
    return memoryview(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def huge_pages(nbytes: int) -> memoryview:
    """As `private_pages`, of huge pages where the kernel has them; it is looked first whether there is so much.

    Raises:
        InsufficientMemoryError: The machine or a cgroup has not that much left.
    """
    Preflight().take(nbytes)
    try:
        mapping = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise insufficient(nbytes, available_memory(), str(error)) from error
    # A kernel without them refuses.
    with suppress(OSError):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapping)


def _require_linux() -> None:
    if sys.platform != "linux":
        raise UnsupportedError(f"s3dlio's pools need Linux (memfd, epoll, pidfd); this is {sys.platform}")


def map_shared(fd: int, size: int) -> mmap.mmap:
    """Returns the mapping of a whole file, writable and shared; below Python 3.13 it has a duplicate of the descriptor.

    Raises:
        InsufficientMemoryError: No address space.
    """
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_NORESERVE", 0)
    try:
        if sys.version_info >= (3, 13):
            return mmap.mmap(fd, size, flags=flags, trackfd=False)
        return mmap.mmap(fd, size, flags=flags)
    except OSError as error:
        raise InsufficientMemoryError(
            f"mapping {size} bytes of address space failed; is it limited (ulimit -v)?", cause=str(error)
        ) from error


def _size_of(fd: int) -> int:
    size = os.fstat(fd).st_size
    if size <= HEADER_BYTES:
        raise InternalError(f"descriptor {fd} holds {size} bytes and is no segment")
    return size


def _sparse_size() -> int:
    import resource

    wanted = 4 * machine_memory()
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        wanted = min(wanted, limit // 2)
    return HEADER_BYTES + _whole_pages(wanted)


def _whole_pages(nbytes: int) -> int:
    return (nbytes + PAGE_BYTES - 1) & -PAGE_BYTES


def open_unnamed() -> int:
    """Returns the descriptor of a new file of shared memory without a name and without a byte, close-on-exec.

    Raises:
        UnsupportedError: Not Linux, or neither memfd nor /dev/shm may be used.
    """
    _require_linux()
    try:
        return os.memfd_create("s3dlio", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        return _open_tmpfile(str(error))


def fix_size(fd: int, size: int) -> None:
    """Gives a file of `open_unnamed` its size, for good: nobody can change it after this, where the file takes seals.

    Raises:
        UnsupportedError: This process may have no files of that size (`ulimit -f`), and shared memory is such a file.
    """
    import fcntl

    try:
        os.ftruncate(fd, size)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise UnsupportedError(f"shared memory of {size} bytes needs files of that size to be allowed; see ulimit -f") from error
    # A file in /dev/shm takes none; nobody else has its descriptor.
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def _open_tmpfile(refusal: str) -> int:
    # O_EXCL here means that the file can never be given a name (open(2), O_TMPFILE).
    try:
        return os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o600)  # noqa: S108 - it gets no name
    except OSError as error:
        raise UnsupportedError(
            "this system refuses shared memory: memfd_create is forbidden (seccomp?) and /dev/shm cannot be written; "
            "allow one of them, or use the container's default seccomp profile",
            cause=f"{refusal}; {error}",
        ) from error
