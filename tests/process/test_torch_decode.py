"""What `decode` and `transform` make of objects, sample by sample."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import s3dlio
from s3dlio import ObjectStoreMapDataset
from tests.process.torch_kit import Corpus, npy, raw


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path).fill(12, [1000, 1, 70_000])


def test_decode_comes_before_transform(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    for number in range(4):
        corpus.add(f"{number}.npy", npy(np.full((2, 3), number, np.float32)))
    dataset = ObjectStoreMapDataset(corpus.uri, decode="npy", transform=lambda array: (array + 1, os.getpid()))
    [(arrays, pids)] = DataLoader(dataset, batch_size=4)
    assert arrays.tolist() == [[[number + 1.0] * 3] * 2 for number in range(4)]
    assert pids.tolist() == [os.getpid()] * 4
    by_function = ObjectStoreMapDataset(corpus.uri, decode=len)
    assert [by_function[0], by_function[3]] == [len(corpus.data[0])] * 2


def test_each_form_of_decode_gives_what_its_name_says(tmp_path: Path) -> None:
    import io

    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    png, plain, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    arrays = {"x": np.arange(6.0).reshape(2, 3), "label": np.array(3)}
    np.savez(plain, **arrays)  # type: ignore[arg-type]
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
    corpus = Corpus(tmp_path)
    files = {"a.png": png, "b.npz": plain, "c.npz": packed}
    uris = [corpus.add(name, file.getvalue()) for name, file in files.items()]
    uris += [
        corpus.add("d.npy", npy(arrays["x"])),
        corpus.add("e.json", b'{"a": [1, null]}'),
        corpus.add("f.txt", b"text"),
    ]
    for samples in (
        list(ObjectStoreMapDataset(corpus.uri, decode="auto")),
        [
            ObjectStoreMapDataset([uri], decode=kind)[0]
            for uri, kind in zip(uris, ["image", "npz", "npz", "npy", "json", None], strict=True)
        ],
    ):
        image, *archives, array, text, other = samples
        assert np.array_equal(image.numpy(), picture)
        for archive in archives:
            assert {name: value.tolist() for name, value in archive.items()} == {"x": arrays["x"].tolist(), "label": 3}
            archive["x"] += 1
        assert array.tolist() == arrays["x"].tolist()
        assert text == {"a": [1, None]}
        assert raw(other) == b"text"
        image += 1


class Pair(NamedTuple):
    image: Any
    label: Any


def test_what_a_function_decodes_keeps_its_form_and_its_arrays_become_tensors(corpus: Corpus) -> None:
    plain = np.arange(6, dtype=np.int64)
    records = np.zeros(3, [("a", "i1"), ("b", "<i4")])
    records["b"] = [1, 2, 3]
    for value, expected in (
        ((plain, "cat"), tuple),
        ([plain, 1], list),
        (Pair(plain, 3), Pair),
        ({"x": plain}, dict),
    ):
        found = ObjectStoreMapDataset(corpus.uri, decode=lambda _, value=value: value)[0]
        assert type(found) is expected
        first = found["x"] if isinstance(found, dict) else found[0]
        assert isinstance(first, torch.Tensor)
        assert first.tolist() == plain.tolist()
    for array in (
        plain[::-1],
        np.frombuffer(b"abc", np.uint8),
        plain.astype(">i8"),
        records["b"],
        np.array(2.5),
        plain[:0],
    ):
        found = ObjectStoreMapDataset(corpus.uri, decode=lambda _, array=array: array)[0]
        assert isinstance(found, torch.Tensor)
        assert found.tolist() == array.tolist()
        found += 1
    for array in (records, np.array(["text"]), np.zeros(2, np.longdouble)):
        assert ObjectStoreMapDataset(corpus.uri, decode=lambda _, array=array: array)[0] is array


def test_bytes_that_cannot_be_decoded_are_an_error_with_the_uri(corpus: Corpus) -> None:
    for kind in ("npy", "npz", "json", "image"):
        with pytest.raises(s3dlio.DecodeError, match=r"0000\.bin"):
            ObjectStoreMapDataset(corpus.uri, decode=kind)[0]

    def refuse(_: Any) -> None:
        raise KeyError("my own")

    with pytest.raises(KeyError, match="my own") as caught:
        ObjectStoreMapDataset(corpus.uri, decode=refuse)[0]
    assert any("0000.bin" in note for note in caught.value.__notes__)
