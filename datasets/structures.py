"""Samples as dictionaries and tuples of arrays, and what the first of them promises of all. Knows no framework.

tf.data wants to know beforehand what it gets. What a decoder makes of objects is known only when it has made it: so the first object says
it for all, and each later one is held against it, where its URI is still known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from s3dlio.engine.errors import ConfigurationError, S3dlioError
from s3dlio.engine.memory.view import BytesView
from s3dlio.engine.pool.inline import inline_fetcher

from .decode import find_decoder
from .dense import native

if TYPE_CHECKING:
    from .listing import Listing
    from .options import Options


class Form(msgspec.Struct, frozen=True):
    """What an array of a sample is."""

    dtype: np.dtype[Any]
    """In the byte order of the machine; object for texts."""
    shape: tuple[int | None, ...]
    """None where any length will do."""

    def check(self, dtype: np.dtype[Any], shape: tuple[int, ...], uri: str) -> None:
        """Returns if an array is of this form.

        Raises:
            ConfigurationError: It is not.
        """
        is_like = len(shape) == len(self.shape) and all(
            mine in (None, theirs) for mine, theirs in zip(self.shape, shape, strict=True)
        )
        if dtype != self.dtype or not is_like:
            raise ConfigurationError(
                f"it becomes {dtype} of shape {shape}, and the first object {self.dtype} of shape {self.shape}; give decode= a function "
                "that returns arrays of one shape of all objects",
                uri=uri,
            )


def first_sample(listing: Listing, options: Options) -> tuple[Any, str]:
    """Returns what `decode` makes of the first object that can be read, and its URI.

    Raises:
        ConfigurationError: There is no object.
        S3dlioError: It cannot be read; with `on_error="skip"`, none can.
    """
    decode = find_decoder(options.decode)
    assert decode is not None
    failure: S3dlioError = ConfigurationError("there is no object that could say what decode makes of it")
    for number in range(len(listing)):
        [one] = listing.refs(np.array([number], np.int64))
        try:
            [found] = inline_fetcher().fetch_many([one], 1)
            if isinstance(found, S3dlioError):
                raise found
            return decode(found, one.uri), one.uri
        except S3dlioError as error:
            failure = error
            if options.on_error == "raise":
                break
    raise failure


def forms_of(sample: Any, uri: str) -> Any:
    """Returns a sample with a form in place of each number, text or array.

    Raises:
        ConfigurationError: There is something else in it.
    """

    def form_of(leaf: Any) -> Form:
        array = as_array(leaf, uri)
        return Form(array.dtype, array.shape)

    return map_leaves(form_of, sample)


def conform(sample: Any, forms: Any, uri: str) -> Any:
    """Returns a sample with an array in place of each number, text or array.

    Raises:
        ConfigurationError: It is not of these forms.
    """

    def convert(form: Form, leaf: Any) -> NDArray[Any]:
        array = as_array(leaf, uri)
        form.check(array.dtype, array.shape, uri)
        return array

    try:
        return map_leaves(convert, forms, sample)
    except ConfigurationError:
        raise
    except ValueError as error:
        raise ConfigurationError(
            "it becomes something else than the first object; give decode= a function that returns the same of all",
            uri=uri,
            cause=str(error),
        ) from error


def map_leaves(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Returns dictionaries and tuples as they are, with what `function` gives of the leaves at each place.

    Raises:
        ValueError: The others are not made as the first.
    """
    if isinstance(first, dict):
        if any(not isinstance(other, dict) or other.keys() != first.keys() for other in others):
            raise ValueError(f"it has not the names {', '.join(map(str, first))}")
        return {name: map_leaves(function, first[name], *(other[name] for other in others)) for name in first}
    if isinstance(first, tuple):
        if any(not isinstance(other, tuple) or len(other) != len(first) for other in others):
            raise ValueError(f"it is no tuple of {len(first)}")
        return tuple(map_leaves(function, *members) for members in zip(first, *others, strict=True))
    return function(first, *others)


def as_array(leaf: Any, uri: str) -> NDArray[Any]:
    """Returns a number, a text, a list of them, or an array as an array of numbers, or of texts as bytes, of any length.

    Raises:
        ConfigurationError: It is something else.
    """
    if isinstance(leaf, (bytes, str)):
        return texts([leaf]).reshape(())
    try:
        array = np.asarray(np.ndarray.view(leaf, np.ndarray) if isinstance(leaf, BytesView) else leaf)
    except ValueError as error:
        raise ConfigurationError(
            "a list in what is made of it has parts of different shapes, and is no array", uri=uri, cause=str(error)
        ) from error
    if array.dtype.hasobject:
        raise ConfigurationError(
            f"what is made of it has a {type(leaf).__name__} in it, and no numbers or texts", uri=uri
        )
    return texts(array.ravel().tolist()).reshape(array.shape) if array.dtype.kind in "US" else native(array)


def texts(found: list[Any]) -> NDArray[Any]:
    """Returns texts as an array (num,) of bytes objects, which keep zeros at their end, as numpy's own texts do not."""
    array = np.empty(len(found), object)
    array[:] = [text.encode() if isinstance(text, str) else text for text in found]
    return array
