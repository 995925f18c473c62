"""Whatever a program does with a reader, it sees what `io.BytesIO` over the object's bytes would show it, and so does upstream's."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import s3torchconnector.s3reader as theirs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import s3dlio.compat.s3torchconnector.s3reader as ours
from s3dlio.engine.memory.view import BytesView

from .reader_kit import ChunkStream, RestStream, Source

BYTES = st.lists(st.sampled_from([b"a", b"b", b"\n", b"\x00\xff", b"a line\n"]), max_size=40).map(b"".join)
SIZES = st.integers(0, 60) | st.sampled_from([1 << 40])
NUMBERS = st.integers(-60, 60) | st.sampled_from([1 << 40])


class ReaderMachine(RuleBasedStateMachine):
    """Does the same with our reader, with upstream's and with the model, and compares after each step."""

    @initialize(
        data=BYTES,
        chunk_bytes=st.sampled_from([1, 7, 64]),
        has_rest=st.booleans(),
        buffer_size=st.sampled_from([-1, 0, 1, 5, 30, 1000, None]),
    )
    def make(self, data: bytes, chunk_bytes: int, has_rest: bool, buffer_size: int | None) -> None:
        self.model = io.BytesIO(data)
        self.size = len(data)
        self.ours = Source(data, chunk_bytes, RestStream if has_rest else ChunkStream)
        self.theirs = Source(data, chunk_bytes)
        self.reader = self.new(ours, self.ours, buffer_size)
        self.their_reader = self.new(theirs, self.theirs, buffer_size)
        self.compares_requests = True

    def new(self, package: Any, source: Source, buffer_size: int | None) -> Any:
        raise NotImplementedError

    def both(self, act: Callable[[Any], Any], expected: Any) -> None:
        for reader in (self.reader, self.their_reader):
            found = act(reader)
            assert found == expected, (reader, found, expected)

    @rule(size=SIZES)
    def read(self, size: int) -> None:
        expected = self.model.read(size)
        self.both(lambda reader: reader.read(size), expected)

    @rule(size=st.sampled_from([None, -1, -7]))
    def read_all(self, size: int | None) -> None:
        is_whole = self.model.tell() == 0
        expected = self.model.read(size)
        found = self.reader.read(size)
        assert type(found) is bytes or (is_whole and type(found) is BytesView)
        assert found == expected
        assert self.their_reader.read(size) == expected

    @rule(nbytes=st.integers(0, 60))
    def read_into(self, nbytes: int) -> None:
        expected, found, their = bytearray(nbytes), bytearray(nbytes), bytearray(nbytes)
        count = self.model.readinto(expected)
        assert (self.reader.readinto(found), found) == (count, expected)
        assert (self.their_reader.readinto(their), their) == (count, expected)

    @rule(offset=NUMBERS, whence=st.sampled_from([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END]))
    def seek(self, offset: int, whence: int) -> None:
        wanted = offset + (0, self.model.tell(), self.size)[whence]
        if wanted < 0:
            for reader in (self.reader, self.their_reader):
                with pytest.raises(ValueError, match=f"^negative seek value {wanted}$"):
                    reader.seek(offset, whence)
        else:
            expected = self.model.seek(min(wanted, self.size))
            self.both(lambda reader: reader.seek(offset, whence), expected)

    @rule(size=st.integers(-1, 20) | st.none())
    def read_line(self, size: int | None) -> None:
        expected = self.model.readline(size)
        self.both(lambda reader: reader.readline(size), expected)
        # Upstream reads lines byte by byte: a request for each where there is no buffer.
        self.compares_requests = False

    @rule()
    def iterate(self) -> None:
        expected = list(self.model)
        self.both(list, expected)
        self.compares_requests = False

    @rule()
    def prefetch(self) -> None:
        for reader in (self.reader, self.their_reader):
            getattr(reader, "prefetch", lambda: None)()

    @invariant()
    def they_are_at_the_same_place(self) -> None:
        self.both(lambda reader: reader.tell(), self.model.tell())

    @invariant()
    def they_asked_for_the_same(self) -> None:
        if self.compares_requests:
            assert self.ours.asked == self.theirs.asked
            assert self.ours.num_heads == self.theirs.num_heads


class SequentialMachine(ReaderMachine):
    def new(self, package: Any, source: Source, buffer_size: int | None) -> Any:
        return package.SequentialS3Reader("bucket", "key", source.info, source.open)

    @invariant()
    def one_stream_is_enough(self) -> None:
        assert len(self.ours.asked) <= 1


class RangedMachine(ReaderMachine):
    def new(self, package: Any, source: Source, buffer_size: int | None) -> Any:
        return package.RangedS3Reader("bucket", "key", source.info, source.open, buffer_size)


TestSequential = SequentialMachine.TestCase
TestRanged = RangedMachine.TestCase
TestSequential.settings = TestRanged.settings = settings(max_examples=60, stateful_step_count=20)
