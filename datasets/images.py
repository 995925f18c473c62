"""Images as arrays of pixels, by Pillow, which is imported at the first image.

Only PNG, JPEG, WebP and BMP: of the other formats that Pillow knows, some start programs, and some have been read by nobody for years.
How many pixels an image claims is held against a limit before one of them is decoded.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from s3dlio.engine.errors import DecodeError, MissingExtraError, describe

from .npy import Bytes, memory_of

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP")
_CHANNELS: Final = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_IN_PLACE_OF: Final = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
"""Modes of Pillow, and what their pixels become. Others become RGB; those of a palette RGBA, if it has transparent colours."""


def check_pillow() -> None:
    """Returns if Pillow is installed.

    Raises:
        MissingExtraError: It is not.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            'decoding images needs Pillow: pip install "s3dlio-shm[images]"', cause=describe(error)
        ) from None


def read_image(view: Bytes, uri: str | None = None, *, max_bytes: int) -> NDArray[np.uint8]:
    """Returns the pixels of an image: uint8, shape (height, width, channels), contiguous, writable, in memory of its own.

    Channels are those of the file: 1 of a grey image, 2 with transparency, 3 of RGB, 4 with transparency. Palettes and other colour
    spaces become RGB, and 16 bits of grey their upper 8. An orientation in EXIF is not applied.

    Args:
        view: The whole file: PNG, JPEG, WebP or BMP.
        uri: Where it came from, for errors.
        max_bytes: The most that the pixels may take.

    Raises:
        DecodeError: It is no such image, was cut, or would become more than `max_bytes`, or more pixels than Pillow's own limit
            (`PIL.Image.MAX_IMAGE_PIXELS`).
        MissingExtraError: Pillow is not installed.
    """
    check_pillow()
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(memory_of(view)), formats=_FORMATS) as image:
            mode = _mode_of(image)
            _check_size(image, mode, max_bytes)
            return _pixels(image, mode)
    except DecodeError as error:
        error.uri = uri
        raise
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 (what Pillow's readers raise of broken files is named nowhere)
        raise DecodeError("it is no image that Pillow can read", uri=uri, cause=describe(error)) from None


def _check_size(image: Image, mode: str, max_bytes: int) -> None:
    width, height = image.size
    num_bytes = width * height * _CHANNELS[mode]
    if num_bytes > max_bytes:
        raise DecodeError(
            f"{width} x {height} pixels would become {num_bytes} bytes, more than max_decoded_bytes={max_bytes}"
        )


def _mode_of(image: Image) -> str:
    """Returns the mode that the pixels of an image are to have."""
    if image.mode in _CHANNELS:
        return image.mode
    if image.mode.startswith("I"):
        return "L"
    if image.mode == "P":
        return "RGBA" if "transparency" in image.info else "RGB"
    return _IN_PLACE_OF.get(image.mode, "RGB")


def _pixels(image: Image, mode: str) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        # Of the four formats only PNG has 16 bits. Pillow's own conversion clips them (10 to 13).
        array: NDArray[Any] = (np.asarray(image) >> 8).astype(np.uint8)
    else:
        array = np.array(image if image.mode == mode else image.convert(mode))
    return array.reshape(image.height, image.width, _CHANNELS[mode])
