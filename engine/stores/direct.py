"""`direct://`: local files past the page cache. As `file://` in all but how bytes are read and written (`direct_io.py`).

For data that is read once and is larger than memory: it does not push out what others keep in the page cache, and costs no copy. A file
that has been read lately is faster by `file://`. Where the file system has no direct access, reads and writes are
`DirectIOUnsupportedError`.
"""

from __future__ import annotations

import os
from typing import Final

from ..errors import ObjectChangedError
from ..fetch.request import Fetch
from .base import Store, at_once
from .direct_io import Alignment, Buffers, alignment_of, open_direct, read_some, write_all
from .file import FileStore
from .file_wire import DirectSpec, FileWire, check_regular, ended_early, errors_named, version_of
from .file_write import NewFile

_buffers: Final = Buffers()


class DirectWire(FileWire):
    """Reads files into slots, past the page cache."""

    def open(self, fetch: Fetch) -> int:
        """As `FileWire.open`.

        Raises:
            DirectIOUnsupportedError: The file system refuses.
        """
        return open_direct(fetch.key, self.flags)

    def check_empty(self, fd: int, found: os.stat_result, uri: str) -> None:
        """Files that do not tell their size have no direct access."""

    def fill(self, fd: int, fetch: Fetch, begin: int, stop: int) -> None:
        """As `FileWire.fill`.

        Raises:
            DirectIOUnsupportedError: The file system would read by the page cache.
        """
        assert fetch.out is not None
        with _buffers.lend() as buffer:
            _read_exactly(fd, fetch.out[begin:stop], fetch.start + begin, alignment_of(fd), buffer)


def _read_exactly(fd: int, out: memoryview, offset: int, alignment: Alignment, buffer: memoryview) -> None:
    done = 0
    while done < len(out):
        num = read_some(fd, out[done:], offset + done, alignment, buffer)
        if not num:
            raise ended_early(offset + done)
        done += num


class NewDirectFile(NewFile):
    """A `NewFile` that is written past the page cache."""

    def _open_at(self, path: str, flags: int) -> int:
        return open_direct(path, flags)

    def _open(self) -> None:
        super()._open()
        self._alignment = alignment_of(self.fd)
        self.block_bytes = self._alignment.block

    def _write(self, data: memoryview, offset: int) -> None:
        with _buffers.lend() as buffer:
            write_all(self.fd, data, offset, self._alignment, buffer)


class DirectStore(FileStore):
    """The local file system as a store that leaves the page cache alone."""

    root = "direct://"

    def __init__(self) -> None:
        self.wire = DirectWire()
        self.spec = DirectSpec()

    def new_file(self, key: str, create_only: bool) -> NewFile:
        """As `FileStore.new_file`.

        Raises:
            DirectIOUnsupportedError: The file system refuses.
        """
        return NewDirectFile(key, create_only)

    @at_once
    def copy(self, key: str, source: Store, source_key: str) -> bool:
        """As `Store.copy`, from another file that is read directly; block by block, since the kernel's own copies use the page cache."""
        if type(source) is not DirectStore:
            return False
        uri = self.root + source_key
        with errors_named(uri):
            fd = open_direct(source_key, FileWire.flags)
        try:
            found = os.fstat(fd)
            check_regular(found, uri)
            with errors_named(self.root + key), self.new_file(key, create_only=False) as new:
                self._copy_blocks(fd, found, uri, new)
        finally:
            os.close(fd)
        return True

    def _copy_blocks(self, fd: int, found: os.stat_result, uri: str, new: NewFile) -> None:
        alignment = alignment_of(fd)
        with _buffers.lend() as edges, _buffers.lend() as block:
            for at in range(0, found.st_size, len(block)):
                piece = block[: min(len(block), found.st_size - at)]
                with errors_named(uri):
                    _read_exactly(fd, piece, at, alignment, edges)
                new.write_at(piece, at)
        if version_of(os.fstat(fd)) != version_of(found):
            raise ObjectChangedError("the file changed while it was copied", uri=uri)
        new.commit(found.st_size)
