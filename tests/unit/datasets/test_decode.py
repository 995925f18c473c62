"""`decode=`: what each of its values makes of an object, and what is said of objects that are something else."""

from __future__ import annotations

import io
import pickle
import traceback
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio.datasets.decode import find_decoder
from tests.unit.datasets.views import view_of


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(4))
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=np.arange(4))
    return file.getvalue()


def png() -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (3, 2)).save(file, "PNG")
    return file.getvalue()


def decoded(decode: Any, content: bytes, uri: str = "s3://bucket/key") -> Any:
    decoder = find_decoder(decode)
    assert decoder is not None
    return decoder(view_of(content), uri)


def test_none_decodes_nothing() -> None:
    assert find_decoder(None) is None


@pytest.mark.parametrize("decode", ["tfrecord", "NPY", "", "pickle", 3, b"npy", ["npy"]])
def test_what_is_no_decoder_is_refused_with_those_that_are(decode: Any) -> None:
    with pytest.raises(s3dlio.ConfigurationError, match="auto, image, json, npy, npz"):
        find_decoder(decode)


def test_each_name_gives_what_it_says() -> None:
    assert decoded("npy", npy()).tolist() == [0, 1, 2, 3]
    assert decoded("npz", npz())["a"].tolist() == [0, 1, 2, 3]
    assert decoded("json", b'{"label": [1, 2.5, null, "\\u00e9"]}') == {"label": [1, 2.5, None, "é"]}
    assert decoded("image", png()).shape == (2, 3, 3)


@pytest.mark.parametrize("decode", ["npy", "npz", "json", "image"])
def test_what_is_something_else_is_an_error_with_the_uri(decode: str) -> None:
    with pytest.raises(s3dlio.DecodeError, match=r"^s3://bucket/key: ") as caught:
        decoded(decode, b"something else")
    assert isinstance(caught.value, ValueError)
    assert not caught.value.retryable
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: TID251 (our own)
    assert (type(copy), copy.uri, str(copy)) == (s3dlio.DecodeError, "s3://bucket/key", str(caught.value))


ENDS = {"a.npy": npy(), "a.NPZ": npz(), "x.y/a.Json": b"[]"} | dict.fromkeys(
    ["a.PNG", "a.b.jpeg", "a.jpg", "a.bmp", "a.webp"], png()
)


@pytest.mark.parametrize(("name", "content"), ENDS.items())
def test_auto_goes_by_the_end_of_the_key(name: str, content: bytes) -> None:
    assert not isinstance(decoded("auto", content, f"s3://bucket/{name}"), s3dlio.BytesView)


@pytest.mark.parametrize("name", ["a", "a.npy/b", "a.npy.gz", "npy", "a.txt", "a.", "", "a.tfrecord", "a.pkl"])
def test_auto_leaves_other_objects_as_they_are(name: str) -> None:
    decode = find_decoder("auto")
    view = view_of(npy())
    assert decode is not None
    assert decode(view, f"s3://bucket/{name}") is view


def test_a_function_gets_the_view_and_what_it_raises_names_the_object() -> None:
    view = view_of(b"abc")
    decode = find_decoder(lambda given: given is view)
    assert decode is not None
    assert decode(view, "s3://bucket/key") is True
    with pytest.raises(KeyError) as caught:
        decoded(lambda view: {}[bytes(view)], b"abc", "s3://bucket/k\ney")
    assert traceback.format_exception_only(caught.value) == [
        "KeyError: b'abc'\n",
        "while decoding s3://bucket/k\\ney\n",
    ]


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[1] 2", b"nan", b'"\xff"', b"[" * 100_000, b"1" * 10_000, b'{"a": 1', b"\xef\xbb\xbf[]", b"'a'"],
)
def test_c6_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(s3dlio.DecodeError, match=r"^s3://bucket/key: it is no JSON"):
        decoded("json", text)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(value=json_values, at=st.integers(0), byte=st.integers(0, 255))
def test_c6_json_gives_its_value_and_changed_json_a_value_or_an_error(value: Any, at: int, byte: int) -> None:
    import json

    text = bytearray(json.dumps(value).encode())
    assert decoded("json", text) == value
    text[at % len(text)] = byte
    try:
        found = decoded("json", text)
    except s3dlio.DecodeError:
        return
    assert found == json.loads(text)


@pytest.mark.parametrize(("decode", "content"), [("npz", npz()), ("json", b"[1, 2]"), ("image", png())])
def test_c6_the_limit_is_the_setting_of_when_the_decoder_was_made(decode: str, content: bytes) -> None:
    before = find_decoder(decode)
    s3dlio.configure(max_decoded_bytes=5)
    with pytest.raises(s3dlio.DecodeError, match="more than max_decoded_bytes=5"):
        decoded(decode, content)
    assert before is not None
    assert before(view_of(content), "s3://bucket/key") is not None


def test_the_limit_is_a_size_above_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(s3dlio.ConfigurationError, match="max_decoded_bytes"):
        s3dlio.configure(max_decoded_bytes=0)
    monkeypatch.setenv("S3DLIO_MAX_DECODED_BYTES", "3MiB")
    s3dlio.configure()
    from s3dlio.engine.config import settings

    assert settings().max_decoded_bytes == 3 << 20


def test_decoders_can_be_pickled() -> None:
    for decode in ("npy", "npz", "json", "image", "auto", len):
        copy = pickle.loads(pickle.dumps(find_decoder(decode)))  # noqa: TID251 (our own)
        assert copy is not None
    assert copy(view_of(b"abc"), "s3://bucket/key") == 3
