"""Views as pools make them, over memory of the test's own; and what is pickled by an attacker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from s3dlio.engine.memory.view import BytesView


def view_of(content: bytes | bytearray) -> BytesView:
    """Returns a view of a copy; like a leased one it is an array over a memoryview."""
    return BytesView((len(content),), np.dtype(np.uint8), memoryview(bytearray(content)))


class Payload:
    """Pickled, it makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)
