"""What is made of the bytes of an object: `decode=` of the data sets. No byte of an object can execute code by it.

A decoder is called with a view and the URI. Arrays of `.npy` lie over the view; what becomes more than it was is held against the
setting `max_decoded_bytes`, as it was when the decoder was made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec

from s3dlio.engine.config import settings
from s3dlio.engine.errors import ConfigurationError, DecodeError, describe
from s3dlio.engine.text import clean

from .images import check_pillow, read_image
from .npy import Bytes, memory_of, read_npy
from .npz import read_npz

Decoder: TypeAlias = Callable[[Any, str], Any]
"""Called with a view of the object and its URI."""

_SUFFIXES: Final = {
    ".npy": "npy",
    ".npz": "npz",
    ".json": "json",
    ".png": "image",
    ".jpg": "image",
    ".jpeg": "image",
    ".webp": "image",
    ".bmp": "image",
}


def find_decoder(decode: str | Callable[[Any], Any] | None) -> Decoder | None:
    """Returns what decodes objects; None for None: they stay views.

    Args:
        decode: "npy", an array over the view; "npz", a dictionary of arrays; "json", what the text says; "image", pixels as uint8
            (height, width, channels); "auto", one of these by the end of the key, and of other keys the view itself; or a function of
            the view.

    Raises:
        ConfigurationError: Something else; "tfrecord" too, which gives many samples of one object, and so is no decoder.
        MissingExtraError: What "image" needs is not installed.
    """
    if decode is None:
        return None
    if callable(decode):
        return _Own(decode)
    decoders = _make_decoders(settings().max_decoded_bytes)
    # Whatever was given, also what no dictionary can look up.
    found = next((decoder for name, decoder in decoders.items() if name == decode), None)
    if found is None:
        raise ConfigurationError(f"decode is one of {', '.join(sorted(decoders))}, or a function, not {decode!r}")
    if decode == "image":
        check_pillow()
    return found


def _make_decoders(max_bytes: int) -> dict[str, Decoder]:
    decoders: dict[str, Decoder] = {
        "npy": read_npy,
        "npz": partial(read_npz, max_bytes=max_bytes),
        "json": partial(read_json, max_bytes=max_bytes),
        "image": partial(read_image, max_bytes=max_bytes),
    }
    return {**decoders, "auto": partial(_decode_by_suffix, decoders)}


def read_json(view: Bytes, uri: str | None = None, *, max_bytes: int) -> Any:
    """Returns what a JSON text says, as dictionaries, lists, text and numbers.

    Raises:
        DecodeError: It is no JSON, or longer than `max_bytes`.
    """
    if len(view) > max_bytes:
        raise DecodeError(f"its {len(view)} bytes are more than max_decoded_bytes={max_bytes}", uri=uri)
    try:
        return msgspec.json.decode(memory_of(view))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DecodeError("it is no JSON", uri=uri, cause=describe(error)) from None


def _decode_by_suffix(decoders: dict[str, Decoder], view: Bytes, uri: str) -> Any:
    name = uri[uri.rfind("/") + 1 :].lower()
    suffix = name[name.rfind(".") :] if "." in name else ""
    return decoders[_SUFFIXES[suffix]](view, uri) if suffix in _SUFFIXES else view


class _Own:
    """Calls the user's function; what it raises tells the object that it was called for."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(self, view: Any, uri: str) -> Any:
        try:
            return self._function(view)
        except Exception as error:
            error.add_note(f"while decoding {clean(uri)}")
            raise
