"""`.npz` over a view: numpy and `zipfile` are the oracles; bombs, duplicates and what was changed are refused (C6)."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from s3dlio.datasets.npz import read_npz
from s3dlio.engine.errors import DecodeError
from tests.support.bombs import zip_of
from tests.support.processes import ScriptProcess
from tests.unit.datasets.views import Payload, view_of

URI = "s3://bucket/a.npz"
MAX_BYTES = 1 << 30

ARRAYS = {
    "image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "label": np.array(7),
    "matrix": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 3), ">f4"),
    "pairs": np.array([(1, 2.5)], [("a", "<i4"), ("b", "<f8")]),
}


def npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def saved(save: Callable[..., None] = np.savez, **arrays: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    save(file, **(arrays or ARRAYS))
    return file.getvalue()


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED, file: io.BytesIO | None = None) -> bytes:
    file = file or io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        # Of two members of one name.
        warnings.simplefilter("ignore")
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def read(content: bytes, max_bytes: int = MAX_BYTES) -> dict[str, NDArray[Any]]:
    return read_npz(view_of(content), URI, max_bytes=max_bytes)


def assert_same(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
        assert found[name].flags.writeable
        assert found[name].flags.aligned


class Unseekable(io.BytesIO):
    """A pipe, for `zipfile`: it then writes sizes and checksums behind the members."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise OSError("no seek")

    def tell(self) -> int:
        raise OSError("no tell")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_saves_is_read(save: Callable[..., None]) -> None:
    content = saved(save)
    with np.load(io.BytesIO(content)) as oracle:
        assert_same(read(content), dict(oracle))
    assert list(read(content)) == list(ARRAYS)


def test_archives_written_to_pipes_with_comments_and_without_members_are_read() -> None:
    array = np.arange(5)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert_same(read(zipped(("a.npy", npy(array)), method=method, file=Unseekable())), {"a": array})
    file = io.BytesIO(saved(a=array))
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = b"PK\5\6" * 10
    assert_same(read(file.getvalue()), {"a": array})
    assert read(zipped()) == {}


def test_zip64_archives_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # zipfile then writes the wide records for archives of any size.
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    content = zipped(("a.npy", npy(np.arange(3))), ("b.npy", npy(np.arange(4))))
    assert b"PK\6\6" in content
    assert_same(read(content), {"a": np.arange(3), "b": np.arange(4)})
    for end in range(len(content)):
        with pytest.raises(DecodeError):
            read(content[:end])


def test_stored_members_lie_over_the_view_where_they_are_aligned() -> None:
    view = view_of(saved(image=ARRAYS["image"], matrix=ARRAYS["matrix"]))
    found = read_npz(view, URI, max_bytes=1)
    assert np.shares_memory(found["image"], np.asarray(view))
    assert found["matrix"].flags.f_contiguous


def test_members_that_are_no_npy_are_their_bytes() -> None:
    found = read(zipped(("note.txt", b"hello"), ("dir/", b"")))
    assert found["note.txt"].tobytes() == b"hello"
    assert found["dir/"].shape == (0,)


def test_c6_names_are_keys_and_name_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    names = ["../x", "../../etc/passwd", str(tmp_path / "absolute"), "C:\\x", "a/b", "", "nul\0l"]
    members = [(name + ".npy", npy(np.array(number))) for number, name in enumerate(names)]
    content = zip_of([(name, 0, data, len(data), zlib.crc32(data)) for name, data in members])
    assert {name: int(array) for name, array in read(content).items()} == {
        name: number for number, name in enumerate(names)
    }
    assert os.listdir(tmp_path) == ["inside"]
    assert os.listdir(inside) == []


@pytest.mark.parametrize("names", [("a.npy", "a.npy"), ("a", "a.npy"), ("a.npy", "a")])
def test_c6_two_members_of_one_name_are_refused(names: tuple[str, str]) -> None:
    content = zipped(*((name, npy(np.arange(number))) for number, name in enumerate(names)))
    with pytest.raises(DecodeError, match=r"s3://bucket/a\.npz: it has two members of the name 'a'"):
        read(content)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_c6_objects_are_refused_and_never_unpickled(tmp_path: Path, method: int) -> None:
    armed, sentinel = tmp_path / "armed", tmp_path / "sentinel"

    def content(folder: Path) -> bytes:
        return zipped(
            ("good.npy", npy(np.arange(3))), ("a.npy", npy(np.array([Payload(folder)], object))), method=method
        )

    with np.load(io.BytesIO(content(armed)), allow_pickle=True) as archive:
        assert archive["a"] is not None
    assert armed.exists()
    with pytest.raises(DecodeError, match=r"member 'a\.npy' at byte \d+: it holds Python objects"):
        read(content(sentinel))
    assert not sentinel.exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_that_was_cut_anywhere_is_refused(save: Callable[..., None]) -> None:
    content = saved(save, a=np.arange(9), b=np.arange(3.0))
    for end in range(len(content)):
        with pytest.raises(DecodeError):
            read(content[:end])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("bits", [0x01, 0x08, 0x80, 0xFF])
def test_c6_an_archive_with_any_byte_changed_is_refused_or_what_it_was(save: Callable[..., None], bits: int) -> None:
    content = saved(save, a=np.arange(9), b=np.arange(3.0))
    expected = read(content)
    refused = 0
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= bits
        try:
            assert_same(read(bytes(changed)), expected)
        except DecodeError:
            refused += 1
    # What is left are dates, versions and attributes.
    assert refused > len(content) * 0.7


@given(
    changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=6), is_packed=st.booleans()
)
def test_c6_an_archive_changed_in_many_places_is_refused_or_read_as_others_do(
    changes: list[tuple[int, int]], is_packed: bool
) -> None:
    content = bytearray(zipped(("a.npy", npy(np.arange(3))), ("b", b"xyz" * 9), method=8 if is_packed else 0))
    for at, byte in changes:
        content[at % len(content)] = byte
    try:
        found = read(bytes(content))
    except DecodeError:
        return
    # A version of the format that is still to come says nothing of members that are stored or deflated; zipfile refuses it.
    with contextlib.suppress(NotImplementedError), np.load(io.BytesIO(content)) as archive:
        for name, array in found.items():
            assert np.asarray(archive[name]).tobytes() == array.tobytes()


def packed(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


GOOD = npy(np.arange(300))


@pytest.mark.parametrize(
    ("member", "text"),
    [
        (("a.npy", 8, packed(GOOD), len(GOOD) - 1, 0), "becomes more than"),
        (("a.npy", 8, packed(GOOD), len(GOOD) + 1, 0), f"becomes {len(GOOD)} bytes"),
        (("a.npy", 8, packed(GOOD)[:-3], len(GOOD), zlib.crc32(GOOD)), "becomes"),
        (("a.npy", 8, b"\xff" * 10, 100, 0), "make no sense"),
        (("a.npy", 8, packed(GOOD), len(GOOD), 1), "CRC-32"),
        (("a.npy", 0, GOOD, len(GOOD), 1), "CRC-32"),
        (("a.npy", 0, GOOD, len(GOOD) + 1, zlib.crc32(GOOD)), "length"),
        (("a.npy", 0, b"no array", 8, zlib.crc32(b"no array")), "does not begin"),
        (("a.npy", 8, b"", 5, 0), "which 0 cannot"),
        (("a.npy", 14, GOOD, len(GOOD), 0), "not stored and not deflated"),
    ],
)
def test_c6_members_that_are_not_what_they_claim_are_refused_by_name(
    member: tuple[str, int, bytes, int, int], text: str
) -> None:
    with pytest.raises(DecodeError, match=text) as caught:
        read(zip_of([member]))
    assert caught.value.uri == URI


def test_encrypted_members_are_refused() -> None:
    content = bytearray(zip_of([("a.npy", 0, GOOD, len(GOOD), zlib.crc32(GOOD))]))
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    with pytest.raises(DecodeError, match="encrypted"):
        read(bytes(content))


def test_c6_members_that_overlap_are_refused() -> None:
    # As in small archives whose members share what they are packed of: the second lies within the first.
    inner = zip_of([("b.npy", 0, GOOD, len(GOOD), zlib.crc32(GOOD))])
    start = inner.index(b"PK\1\2")
    content = zip_of([("a", 0, inner[:start], start, zlib.crc32(inner[:start]))])
    end = content.rindex(b"PK\5\6")
    directory = content[content.rindex(b"PK\1\2") : end]
    entry = bytearray(inner[start : inner.rindex(b"PK\5\6")])
    entry[42:46] = struct.pack("<I", content.index(b"PK\3\4", 4))
    tail = struct.pack("<4H2IH", 0, 0, 2, 2, len(directory) + len(entry), content.rindex(b"PK\1\2"), 0)
    joined = content[:end] + bytes(entry) + b"PK\5\6" + tail
    with zipfile.ZipFile(io.BytesIO(joined)) as oracle:
        assert oracle.namelist() == ["a", "b.npy"]
    with pytest.raises(DecodeError, match="overlap"):
        read(joined)


def test_what_compressed_members_become_is_added_up() -> None:
    content = saved(np.savez_compressed, a=np.zeros(1000, np.uint8), b=np.zeros(1000, np.uint8))
    assert len(read(content, max_bytes=2256)) == 2
    with pytest.raises(DecodeError, match="become 2256 bytes, more than max_decoded_bytes=2255"):
        read(content, max_bytes=2255)


BOMB = """
import resource, sys, zlib
import numpy as np
import s3dlio
from s3dlio.datasets.decode import find_decoder
from tests.support.bombs import deflated_zeros, zip_of

KIND = sys.argv[1]
GIB = 1 << 30
packed = deflated_zeros(3 * GIB)
claim = {"honest": 3 * GIB, "understated": 1 << 20, "overstated": GIB}[KIND]
name = "a.npy" if KIND != "understated" else "a"
content = zip_of([(name, 8, packed if KIND != "overstated" else packed[:1000], claim, 0)])
decode = find_decoder("npz")
view = np.frombuffer(bytearray(content), np.uint8)
with open("/proc/self/statm") as file:
    mapped = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (512 << 20),) * 2)
try:
    zlib.decompress(packed, -15)
except MemoryError:
    print("REAL", flush=True)
try:
    decode(view, "s3://bucket/bomb.npz")
except s3dlio.DecodeError as error:
    print("REFUSED", error, flush=True)
"""


@pytest.mark.parametrize(
    ("kind", "text"),
    [("honest", "max_decoded_bytes"), ("understated", "more than the 1048576"), ("overstated", "which 1000 cannot")],
)
def test_c6_bombs_are_refused_within_little_memory(kind: str, text: str) -> None:
    with ScriptProcess(BOMB, [kind]) as child:
        child.expect("REAL", 60)
        assert text in " ".join(child.expect("REFUSED", 60))
        assert child.wait(20) == 0
