"""What readers are given in tests: the bytes of one object, and streams of them that note how they were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from s3dlio.engine.memory.view import BytesView, owned_view


class ChunkStream:
    """An iterator of `bytes`, as users' own tests give readers."""

    def __init__(self, source: Source, data: bytes) -> None:
        self.source = source
        self.data = data
        self.position = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self.position >= len(self.data):
            raise StopIteration
        return self.take(self.source.chunk_bytes)

    def take(self, nbytes: int) -> bytes:
        if self.source.fails is not None:
            self.source.fails(self.position)
        piece = self.data[self.position : self.position + nbytes]
        self.position += len(piece)
        return piece


class RestStream(ChunkStream):
    """One of the client's: it gives all that is left at once, too, and knows its version."""

    @property
    def version(self) -> str | None:
        return self.source.version

    def read_rest(self) -> BytesView:
        self.source.rests += 1
        return owned_view(self.take(len(self.data)))


class Source:
    """An object: its bytes, and what was asked of it."""

    def __init__(
        self, data: bytes, chunk_bytes: int = 7, stream: Callable[[Source, bytes], ChunkStream] = ChunkStream
    ) -> None:
        self.data = data
        self.chunk_bytes = chunk_bytes
        self.stream = stream
        self.version: str | None = None
        self.asked: list[tuple[int | None, int | None]] = []
        """Every range of which a stream was opened."""
        self.num_heads = 0
        self.rests = 0
        """How often all that was left was asked for."""
        self.fails: Callable[[int], None] | None = None
        """Called before each piece, with its offset in the stream; what it raises, the stream raises."""

    def info(self) -> SimpleNamespace:
        self.num_heads += 1
        return SimpleNamespace(size=len(self.data))

    def open(self, start: int | None = None, end: int | None = None) -> Any:
        self.asked.append((start, end))
        return self.stream(self, self.data[start:end])
