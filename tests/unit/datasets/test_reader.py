import io
import zipfile

import pytest

from s3dlio.datasets.reader import ViewReader
from s3dlio.engine.memory.view import owned_view

DATA = bytes(range(200))


@pytest.fixture
def reader():
    with ViewReader(owned_view(DATA)) as opened:
        yield opened


def test_it_reads_as_a_file_of_the_same_bytes(reader):
    oracle = io.BytesIO(DATA)
    for size in (3, 0, 100, 150, 1):
        assert reader.read(size) == oracle.read(size)
        assert reader.tell() == oracle.tell()
    for offset, whence in ((5, 0), (-3, 1), (-10, 2), (300, 0)):
        assert reader.seek(offset, whence) == oracle.seek(offset, whence)
        assert reader.read() == oracle.read()
    assert len(reader) == len(DATA)
    assert reader.readable()
    assert reader.seekable()
    assert not reader.writable()


def test_it_fills_buffers(reader):
    room = bytearray(150)
    assert reader.readinto(room) == 150
    assert reader.readinto(room) == 50
    assert bytes(room) == DATA[150:] + DATA[50:150]
    assert reader.readinto(room) == 0


def test_all_that_is_left_has_the_names_of_both_libraries(reader):
    reader.seek(190)
    assert reader.read_all() == DATA[190:]
    reader.seek(190)
    assert reader.readall() == DATA[190:]


def test_wrong_moves_are_refused(reader):
    with pytest.raises(ValueError, match="before the beginning"):
        reader.seek(-1)
    with pytest.raises(ValueError, match="whence is 0, 1 or 2"):
        reader.seek(0, 7)


def test_libraries_that_want_a_file_take_it():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", "hello")
    with ViewReader(owned_view(packed.getvalue())) as opened, zipfile.ZipFile(opened) as archive:
        assert archive.read("a.txt") == b"hello"


def test_closed_it_holds_nothing():
    opened = ViewReader(owned_view(DATA))
    opened.close()
    with pytest.raises(ValueError, match="closed"):
        opened.read()
    with pytest.raises(ValueError, match="closed"):
        len(opened)
    opened.close()
