"""Readers of a real store: one version, whatever is written meanwhile; and the requests that they send."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from s3dlio.compat.s3torchconnector import S3Client, S3ClientConfig, S3Exception, S3ReaderConstructor
from s3dlio.compat.s3torchconnector.s3reader import ItemRange
from s3dlio.engine.memory.view import BytesView
from tests.support.moto_server import MotoServer
from tests.support.s3_endpoint import S3Endpoint

PART_BYTES = 5 << 20
DATA = bytes(range(256)) * (12 << 12)
"""12 MiB: more than two parts."""


class Shelf(NamedTuple):
    client: S3Client
    bucket: str

    def write(self, data: bytes) -> None:
        with self.client.put_object(self.bucket, "key") as writer:
            writer.write(data)

    def read(self, constructor: Any, **given: Any) -> Any:
        return self.client.get_object(self.bucket, "key", reader_constructor=constructor, **given)


@pytest.fixture
def shelf(moto_s3: MotoServer, s3_env: Callable[[S3Endpoint], None]) -> Shelf:
    s3_env(moto_s3.endpoint)
    shelf = Shelf(
        S3Client("us-east-1", s3client_config=S3ClientConfig(part_size=PART_BYTES)), moto_s3.endpoint.new_bucket()
    )
    shelf.write(DATA)
    return shelf


def dcp(*spans: tuple[int, int]) -> Any:
    made = S3ReaderConstructor.dcp_optimized(0)

    def construct(bucket: str, key: str, **given: Any) -> Any:
        made._item_ranges_by_file = {f"s3://{bucket}/{key}": [ItemRange(*span) for span in spans]}
        return made(bucket, key, **given)

    return construct


@pytest.mark.parametrize("constructor", [S3ReaderConstructor.sequential(), S3ReaderConstructor.range_based()])
def test_a_whole_object_of_several_parts_is_one_view(shelf: Shelf, constructor: Any) -> None:
    view = shelf.read(constructor).read()
    assert type(view) is BytesView
    assert view == DATA


def test_pieces_of_an_object_are_what_is_there(shelf: Shelf) -> None:
    reader = shelf.read(S3ReaderConstructor.sequential())
    assert reader.read(7) == DATA[:7]
    assert reader.seek(PART_BYTES + 1) == PART_BYTES + 1
    assert reader.read() == DATA[PART_BYTES + 1 :]
    reader = shelf.read(S3ReaderConstructor.range_based(1000))
    room = bytearray(PART_BYTES)
    assert (reader.seek(-len(room), 2), reader.readinto(room)) == (len(DATA) - len(room), len(room))
    assert room == DATA[-len(room) :]
    reader = shelf.read(dcp((5, 100), (1000, PART_BYTES * 2)))
    reader.seek(5)
    assert reader.read(95) == DATA[5:100]
    reader.seek(1000)
    assert reader.read(PART_BYTES * 2 - 1000) == DATA[1000 : PART_BYTES * 2]


def test_i1_a_sequential_reader_never_mixes_two_versions(shelf: Shelf) -> None:
    reader = shelf.read(S3ReaderConstructor.sequential())
    assert reader.read(10) == DATA[:10]
    shelf.write(DATA[::-1])
    with pytest.raises(S3Exception, match="s3://"):
        reader.read()
    reader.seek(0)
    assert reader.read(10) == DATA[:10]
    assert shelf.read(S3ReaderConstructor.sequential()).read() == DATA[::-1]


@pytest.mark.parametrize("buffer_size", [0, 1000])
def test_i1_a_ranged_reader_never_mixes_two_versions(shelf: Shelf, buffer_size: int) -> None:
    reader = shelf.read(S3ReaderConstructor.range_based(buffer_size))
    assert reader.read(2000) == DATA[:2000]
    shelf.write(DATA[::-1])
    for _ in range(2):
        with pytest.raises(S3Exception, match=r"changed while it was read: from version .+ to "):
            reader.read(2000)
    assert reader.tell() == 2000


def test_i1_a_checkpoint_is_never_mixed_of_two_versions(shelf: Shelf) -> None:
    reader = shelf.read(dcp((0, 100), (1000, 1100)))
    assert reader.read(100) == DATA[:100]
    shelf.write(DATA[::-1])
    reader.seek(1000)
    with pytest.raises(S3Exception, match=r"changed while it was read: from version .+ to "):
        reader.read(100)


@pytest.mark.parametrize("constructor", [S3ReaderConstructor.sequential(), S3ReaderConstructor.range_based()])
def test_a_range_of_an_object_is_read_as_if_it_were_one(shelf: Shelf, constructor: Any) -> None:
    reader = shelf.read(constructor, start=10, end=1009)
    view = reader.read()
    assert type(view) is BytesView
    assert view == DATA[10:1010]
    assert (reader.seek(-5, 2), reader.read()) == (995, DATA[1005:1010])
