"""A disk that is nearly full: a script runs where a tmpfs of a few kilobytes is mounted, which nobody else sees and which ends with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.processes import REPOSITORY

_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$0" "$@"'


def run_on_small_disk(source: str, folder: Path, size_bytes: int, *args: str) -> str:
    """Runs a Python program whose `sys.argv[1]` is `folder`, on a file system of `size_bytes`; returns what it printed.

    Raises:
        AssertionError: It failed, or this machine allows no mounts of one's own; the text says which.
    """
    namespaces = ["-m"] if os.geteuid() == 0 else ["-Urm"]
    # sh's $0 is the interpreter; behind size and folder come its own arguments.
    command = [sys.executable, str(size_bytes), str(folder), "-c", source, str(folder), *args]
    ended = subprocess.run(
        ["unshare", *namespaces, "sh", "-c", _MOUNT, *command],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
        check=False,
    )
    assert ended.returncode == 0, f"the program on a small disk failed:\n{ended.stderr}"
    return ended.stdout
