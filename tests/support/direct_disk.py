"""A folder on a disk that can be read and written past the page cache, and one in memory that cannot. It never asks s3dlio."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import REPOSITORY


@contextlib.contextmanager
def direct_folder() -> Iterator[Path]:
    """Gives a new folder where `O_DIRECT` is what it says: in the temporary directory, or beside the tests, which is on a disk more often.

    Raises:
        AssertionError: Neither is on a file system with direct access.
    """
    for above in (None, REPOSITORY):
        folder = Path(tempfile.mkdtemp(prefix=".direct-", dir=above))
        try:
            if _is_direct(folder):
                yield folder
                return
        finally:
            shutil.rmtree(folder)
    raise AssertionError(f"neither {tempfile.gettempdir()} nor {REPOSITORY} has direct access; set TMPDIR to a folder on a disk")


@contextlib.contextmanager
def memory_folder() -> Iterator[Path]:
    """Gives a new folder on a tmpfs, which takes O_DIRECT and ignores it, or refuses it, by the age of the kernel."""
    with tempfile.TemporaryDirectory(prefix="s3dlio-test-", dir="/dev/shm") as folder:
        assert not _is_direct(Path(folder))
        yield Path(folder)


def _is_direct(folder: Path) -> bool:
    """Whether whole blocks are read, and half a byte's misalignment is refused: the page cache would not mind."""
    probe = folder / "probe"
    probe.write_bytes(bytes(8192))
    fd = -1
    try:
        fd = os.open(probe, os.O_RDONLY | os.O_DIRECT)
        os.preadv(fd, [bytearray(8192)], 1)
    except OSError as error:
        return fd >= 0 and error.errno == errno.EINVAL
    finally:
        probe.unlink()
        if fd >= 0:
            os.close(fd)
    return False
