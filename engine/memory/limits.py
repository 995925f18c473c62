"""How much memory this process may still take, and the size of a page.

Owns the reading of `/proc/meminfo` and of the cgroups. Never reserves, maps or frees anything.

Why it is needed: a memfd has no ENOSPC of its own. Where the cgroup is full, the kernel kills the process instead of failing the
call, so whoever reserves must look first. What is free is the smallest of `MemAvailable` and, for the own cgroup and each of its
parents, `limit - usage + inactive page cache` (the cache of files counts as usage, but the kernel drops it on demand).
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator

PAGE_BYTES: int = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
"""The unit in which the kernel grants and takes back memory."""

MAX_DEFAULT_BYTES = 1 << 30
"""The most that `memory_bytes = "auto"` ever stands for."""

_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def default_memory_bytes() -> int:
    """Returns what `memory_bytes = "auto"` means now: a quarter of the available memory, at most 1 GiB."""
    return min(MAX_DEFAULT_BYTES, available_memory() // 4)


def machine_memory() -> int:
    """Returns the bytes of physical memory of the machine, whatever the cgroup allows."""
    return os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES


def available_memory(proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> int:
    """Returns the bytes that can be taken before the machine or a cgroup runs out; 0 if it has.

    Args:
        proc: Where procfs is mounted.
        cgroups: Where the cgroup hierarchies are mounted.

    Source: kernel `admin-guide/cgroup-v2.rst` ("memory.max"), `cgroup-v1/memory.rst`, `filesystems/proc.rst` ("MemAvailable").
    """
    free = _field(os.path.join(proc, "meminfo"), "MemAvailable:") * 1024 or machine_memory()
    return max(0, min([free, *_rooms(os.path.join(proc, "self", "cgroup"), cgroups)]))


def _rooms(membership: str, cgroups: str) -> Iterator[int]:
    """Yields what each limited group above this process has left, in bytes."""
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, names = cgroups, _VERSION_2
        elif "memory" in controllers.split(","):
            top, names = os.path.join(cgroups, "memory"), _VERSION_1
        else:
            continue
        for directory in _upwards(top, path):
            limit = _read(os.path.join(directory, names[0])).strip()
            # More than the machine has is how version 1 writes "no limit"; the other files of such a group need no reading.
            if limit.isdigit() and int(limit) < machine_memory():
                usage = _read(os.path.join(directory, names[1])).strip()
                yield int(limit) - int(usage) + _field(os.path.join(directory, "memory.stat"), names[2])


def _upwards(top: str, path: str) -> Iterator[str]:
    # In a container the path may be that of the host, and lead nowhere below the container's own mount; the walk up to the mount's
    # root finds the limit that holds there.
    path = posixpath.normpath("/" + path.lstrip("/"))
    while path != "/":
        yield top + path
        path = posixpath.dirname(path)
    yield top


def _read(path: str) -> str:
    """Returns the text of a small file of the kernel; empty where the kernel does not offer it, which means no limit."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _field(path: str, name: str) -> int:
    """Returns the number behind `name` at the beginning of a line; 0 where there is none."""
    for line in _read(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    return 0
