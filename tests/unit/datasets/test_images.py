"""Images as pixels: Pillow's own reading is the oracle, and bombs, cut files and other formats are refused (C6)."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import s3dlio
from s3dlio.datasets.decode import find_decoder
from s3dlio.datasets.images import read_image
from s3dlio.engine.errors import DecodeError
from tests.support.bombs import png_of_zeros
from tests.support.processes import ScriptProcess
from tests.unit.datasets.views import view_of

URI = "s3://bucket/a.png"
MAX_BYTES = 1 << 20

GREY = np.arange(35, dtype=np.uint8).reshape(5, 7)
RGB = np.arange(105, dtype=np.uint8).reshape(5, 7, 3)
RGBA = np.arange(140, dtype=np.uint8).reshape(5, 7, 4)


def encoded(image: PIL.Image.Image | NDArray[Any], format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)).save(file, format, **options)
    return file.getvalue()


def read(content: bytes, max_bytes: int = MAX_BYTES) -> NDArray[np.uint8]:
    found = read_image(view_of(content), URI, max_bytes=max_bytes)
    assert found.dtype == np.uint8
    assert found.ndim == 3
    assert found.flags.writeable
    assert found.flags.c_contiguous
    return found


@pytest.mark.parametrize(
    ("pixels", "format"),
    [
        (GREY, "PNG"),
        (RGBA[:, :, :2].copy(), "PNG"),
        (RGB, "PNG"),
        (RGBA, "PNG"),
        (RGB, "WEBP"),
        (RGBA, "WEBP"),
        (RGB, "BMP"),
    ],
)
def test_pixels_and_channels_are_those_of_the_file(pixels: NDArray[np.uint8], format: str) -> None:
    found = read(encoded(pixels, format, **({"lossless": True, "exact": True} if format == "WEBP" else {})))
    assert np.array_equal(found, pixels.reshape(5, 7, -1))


@pytest.mark.parametrize(("pixels", "channels"), [(GREY, 1), (RGB, 3)])
def test_jpeg_is_read_as_pillow_reads_it(pixels: NDArray[np.uint8], channels: int) -> None:
    content = encoded(pixels, "JPEG")
    found = read(content)
    assert found.shape == (5, 7, channels)
    assert np.array_equal(found, np.asarray(PIL.Image.open(io.BytesIO(content))).reshape(5, 7, channels))


def test_other_colour_spaces_become_rgb_and_palettes_too() -> None:
    cmyk = PIL.Image.fromarray(RGB).convert("CMYK")
    assert read(encoded(cmyk, "JPEG")).shape == (5, 7, 3)
    palette = PIL.Image.fromarray(RGB).quantize(200)
    assert np.array_equal(read(encoded(palette)), np.asarray(palette.convert("RGB")))
    found = read(encoded(palette, transparency=0))
    assert found.shape == (5, 7, 4)
    assert set(np.unique(found[..., 3])) <= {0, 255}
    bits = PIL.Image.fromarray(GREY > 17)
    assert np.array_equal(read(encoded(bits))[..., 0], np.where(GREY > 17, 255, 0))


def test_sixteen_bits_of_grey_give_their_upper_eight() -> None:
    deep = (np.arange(35, dtype=np.uint16) * 1800).reshape(5, 7)
    assert np.array_equal(read(encoded(deep))[..., 0], deep >> 8)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "WEBP"])
def test_a_file_that_was_cut_anywhere_is_refused_or_has_all_its_pixels(format: str) -> None:
    content = encoded(PIL.Image.fromarray(RGB), format)
    whole = read(content)
    refused = 0
    for end in range(len(content)):
        try:
            assert np.array_equal(read(content[:end]), whole)
        except DecodeError:
            refused += 1
    # PNG and JPEG end with bytes that are not pixels.
    assert refused > len(content) - 30


@given(
    format=st.sampled_from(["PNG", "JPEG", "BMP", "WEBP"]),
    at=st.integers(0, 2000),
    junk=st.binary(min_size=1, max_size=8),
)
def test_c6_changed_files_are_refused_or_read_and_raise_nothing_else(format: str, at: int, junk: bytes) -> None:
    content = bytearray(encoded(PIL.Image.fromarray(RGB), format))
    at %= len(content)
    content[at : at + len(junk)] = junk
    with contextlib.suppress(DecodeError):
        read(bytes(content))


OTHERS = [
    b"",
    b"no image",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
    encoded(GREY, "GIF"),
    encoded(RGB, "TIFF"),
]


@pytest.mark.parametrize("content", OTHERS)
def test_c6_other_formats_are_never_opened(content: bytes) -> None:
    with pytest.raises(DecodeError, match=r"s3://bucket/a\.png: it is no image that Pillow can read"):
        read(content)


def test_c6_the_limit_is_compared_before_a_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("a pixel was decoded"))
    with pytest.raises(DecodeError, match="7 x 5 pixels would become 105 bytes, more than max_decoded_bytes=104"):
        read(encoded(RGB), max_bytes=104)
    monkeypatch.undo()
    assert read(encoded(RGB), max_bytes=105).shape == (5, 7, 3)


def test_c6_pillows_own_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (34, 10):
        # Above the limit Pillow warns, which is an error here, and above twice the limit it refuses.
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DecodeError, match="decompression bomb"):
            read(encoded(RGB))


BOMB = """
import io, resource
import numpy as np
import PIL.Image, PIL.PngImagePlugin
import s3dlio
from s3dlio.datasets.decode import find_decoder
from tests.support.bombs import png_of_zeros

# 3 GiB of pixels in 3 MiB, and no limit of Pillow's own.
content = png_of_zeros(21845, 49152)
PIL.Image.MAX_IMAGE_PIXELS = None
decode = find_decoder("image")
view = np.frombuffer(bytearray(content), np.uint8)
with open("/proc/self/statm") as file:
    mapped = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (512 << 20),) * 2)
try:
    PIL.Image.open(io.BytesIO(content)).load()
except MemoryError:
    print("REAL", flush=True)
try:
    decode(view, "s3://bucket/bomb.png")
except s3dlio.DecodeError as error:
    print("REFUSED", error, flush=True)
"""


def test_c6_a_bomb_is_refused_within_little_memory() -> None:
    with ScriptProcess(BOMB) as child:
        child.expect("REAL", 60)
        assert "21845 x 49152 pixels would become 3221176320 bytes" in " ".join(child.expect("REFUSED", 60))
        assert child.wait(20) == 0


def test_bombs_of_the_tests_are_images() -> None:
    found = read(png_of_zeros(1365, 2048), 1 << 30)
    assert found.shape == (2048, 1365, 3)
    assert not found.any()


def test_without_pillow_the_text_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    for call in (lambda: find_decoder("image"), lambda: read(b"")):
        with pytest.raises(s3dlio.MissingExtraError, match=r'pip install "s3dlio-shm\[images\]"'):
            call()
    assert find_decoder("auto") is not None
