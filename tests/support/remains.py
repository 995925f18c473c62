"""What a dead process could leave behind, read from the kernel: socket directories, /dev/shm entries, memfds.

Owns: looking, by /proc and directory listings. It changes nothing, and believes nothing that the code under test says.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

SHM = Path("/dev/shm")
SOCKET_DIRECTORY_GLOB = "s3dlio-*"
_MEMFD = re.compile(r"/memfd:(.*) \(deleted\)")


def socket_directories(folder: str | None = None) -> set[str]:
    """Returns the private directories of s3dlio in the temporary folder: `<tempfile.gettempdir()>/s3dlio-*`."""
    return {str(path) for path in Path(folder or tempfile.gettempdir()).glob(SOCKET_DIRECTORY_GLOB)}


def shm_entries() -> set[str]:
    """Returns the paths in /dev/shm."""
    return {str(path) for path in SHM.iterdir()} if SHM.is_dir() else set()


def memfds(pid: int) -> dict[int, str]:
    """Returns the memfds that a process holds open or mapped: inode to name, without the `/memfd:`."""
    return {inode: match[1] for inode, target in _inodes(pid) if (match := _MEMFD.fullmatch(target))}


def holders(inodes: Iterable[int]) -> set[int]:
    """Returns the pids of all processes that hold one of these inodes open or mapped; ask before they all are gone.

    Meant for memfds: their inodes are unique within the kernel's own tmpfs, so the device number is not compared.
    """
    wanted = set(inodes)
    return {pid for pid in _pids() if wanted & memfds(pid).keys()}


def path_holders(path: str) -> set[int]:
    """Returns the pids of all processes that hold a file open or mapped, also those that know it by another path in the same folder.

    Whoever makes a POSIX semaphore maps it under a temporary name, and then gives it its own. Source: sem_open of glibc.
    """
    inode, folder = None, os.path.join(os.path.dirname(path), "")
    with contextlib.suppress(FileNotFoundError):
        inode = os.stat(path).st_ino
    return {
        pid
        for pid in _pids()
        if any(target == path or (number == inode and target.startswith(folder)) for number, target in _inodes(pid))
    }


def open_fds(pid: int) -> dict[int, str]:
    """Returns the open descriptors of a process and what they link to: `/path`, `socket:[1]`, `anon_inode:[eventpoll]`."""
    folder = f"/proc/{pid}/fd"
    found = {}
    for name in os.listdir(folder):
        # The descriptor of this very listing is gone by now; others may close while we look.
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"{folder}/{name}")
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _inodes(pid: int) -> Iterator[tuple[int, str]]:
    # A process that is gone, or is not ours to look at, holds nothing of ours.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for fd, target in open_fds(pid).items():
            yield os.stat(f"/proc/{pid}/fd/{fd}").st_ino, target
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
            # Source: proc_pid_maps(5): address, mode, offset, device, inode, path.
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[4] != "0":
                yield int(fields[4]), fields[5]
