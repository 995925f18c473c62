"""Names that writers of local files have left which were killed: for a moment each file has one beside its own (`file_write.py`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ..types import PendingUpload
from .file_wire import iso_of
from .file_write import is_temporary


def find_names(root: str, folder: str) -> Iterator[PendingUpload]:
    """Yields those below a directory, from which no symbolic link is followed; a missing directory has none.

    Raises:
        OSError: A directory cannot be read.
    """
    for path, _, names in os.walk(folder, onerror=_raise_unless_gone):
        for name in filter(is_temporary, names):
            own = os.path.join(path, name)
            # Its writer may have ended just now.
            with contextlib.suppress(FileNotFoundError):
                yield PendingUpload(root + own, own, "", iso_of(os.stat(own, follow_symlinks=False)))


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
