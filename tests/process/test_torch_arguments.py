"""What the PyTorch data sets take: the keywords of today and of the original library, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio import ObjectStoreIterableDataset, ObjectStoreMapDataset
from tests.process.torch_kit import TEN_SHUFFLED, Corpus, cut, raw


@pytest.fixture
def ten(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path).fill(10)


# Where the objects come from.


def test_a_pattern_chooses_among_the_keys_below_the_prefix(ten: Corpus) -> None:
    ten.add("labels/0000.txt", b"cat")
    assert [raw(sample) for sample in ObjectStoreIterableDataset(ten.uri, "*.txt", procs=0)] == [b"cat"]
    assert len(ObjectStoreIterableDataset(uri=f"{ten.uri}/", pattern=re.compile(r"000[0-4]\.bin$"))) == 5
    assert len(ObjectStoreIterableDataset(ten.uri)) == 11


def test_a_prefix_is_a_folder_and_never_the_beginning_of_a_name(ten: Corpus) -> None:
    ten.add("train/a.bin", b"in")
    ten.add("train-old/b.bin", b"out")
    assert [raw(sample) for sample in ObjectStoreIterableDataset(f"{ten.uri}/train", procs=0)] == [b"in"]


def test_a_list_keeps_its_order_and_its_duplicates(ten: Corpus) -> None:
    wanted = [ten.uris[number] for number in (5, 1, 5, 9)]
    assert ten.positions(ObjectStoreIterableDataset(wanted, procs=0)) == [5, 1, 5, 9]
    assert ten.positions(ObjectStoreIterableDataset(iter(wanted), procs=0)) == [5, 1, 5, 9]
    found = [*s3dlio.list_iter(f"{ten.uri}/")]
    assert ten.positions(ObjectStoreIterableDataset(reversed(found), procs=0)) == list(range(9, -1, -1))
    assert (
        list(ObjectStoreIterableDataset([], procs=0))
        == list(ObjectStoreIterableDataset([], procs=0, batch_size=2))
        == []
    )


def test_a_manifest_names_objects_on_any_store(ten: Corpus, tmp_path_factory: pytest.TempPathFactory) -> None:
    manifest = tmp_path_factory.mktemp("manifest") / "shuffled"
    lines = [json.dumps({"uri": ten.uris[number], "size": 1000}) for number in (8, 0, 2)]
    manifest.write_text("\n".join(lines))
    dataset = ObjectStoreIterableDataset(manifest=f"file://{manifest}", procs=0, batch_size=3)
    assert [batch.shape for batch in dataset] == [(3, 1000)]
    assert ten.batches(dataset) == [[8, 0, 2]]
    manifest.write_text(f"{ten.uris[3]}\nno uri at all\n")
    with pytest.raises(s3dlio.ConfigurationError, match=r"shuffled.*line 2|line 2.*shuffled"):
        ObjectStoreIterableDataset(manifest=f"file://{manifest}")


def test_a_prefix_without_objects_is_named(ten: Corpus) -> None:
    for arguments in ({"uri": f"{ten.uri}/empty"}, {"uri": ten.uri, "pattern": "*.jpg"}):
        with pytest.raises(s3dlio.NotFoundError, match=re.escape(ten.uri)):
            ObjectStoreIterableDataset(**arguments)  # type: ignore[arg-type]


# The original's keywords.


def test_the_originals_loader_opts_mean_what_they_say(ten: Corpus) -> None:
    opts = {"batch_size": 4, "shuffle": True, "seed": 0, "drop_last": True, "prefetch": 8}
    for dataset in (
        ObjectStoreIterableDataset(uri=ten.uri, loader_opts=opts, procs=0),
        ObjectStoreIterableDataset.from_prefix(
            ten.uri, **opts, writable=False, suppress_nonwritable_warning=True, return_type="tensor", procs=0
        ),
    ):
        assert ten.batches(dataset) == cut(TEN_SHUFFLED[0, 0], 4, drop_last=True)
    assert ten.positions(ObjectStoreIterableDataset(ten.uri, loader_opts={}, procs=0)) == list(range(10))
    shard = ObjectStoreIterableDataset.from_prefix(
        ten.uri, loader_opts={"shard_rank": 1, "shard_world_size": 2}, procs=0
    )
    assert ten.positions(shard) == [1, 3, 5, 7, 9]
    map_style = ObjectStoreMapDataset.from_prefix(ten.uri, return_type="bytes", writable=True)
    assert ten.positions(map_style) == list(range(10))


def test_not_sharding_reads_all_on_every_rank(ten: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ten.positions(ObjectStoreIterableDataset.from_prefix(ten.uri, enable_sharding=True, procs=0)) == [
        1,
        3,
        5,
        7,
        9,
    ]
    assert ten.positions(ObjectStoreIterableDataset.from_prefix(ten.uri, enable_sharding=False, procs=0)) == list(
        range(10)
    )


@pytest.mark.parametrize("kind", [ObjectStoreIterableDataset, ObjectStoreMapDataset])
@pytest.mark.parametrize(
    ("name", "value", "replacement"),
    [
        ("num_workers", 4, "procs="),
        ("auto_tune", True, "jobs="),
        ("reader_mode", "range", "split_above_bytes"),
        ("part_size", 8 << 20, "part_bytes"),
        ("max_inflight_parts", 4, "jobs="),
    ],
)
def test_a_keyword_that_does_nothing_here_names_what_does(
    ten: Corpus, kind: Any, name: str, value: Any, replacement: str
) -> None:
    for arguments in ({name: value}, {"loader_opts": {name: value}}):
        with pytest.raises(s3dlio.ConfigurationError, match=rf"{name} .*{replacement}"):
            kind.from_prefix(ten.uri, **arguments)


def test_an_argument_that_is_given_in_two_ways_is_refused(ten: Corpus) -> None:
    with pytest.raises(s3dlio.ConfigurationError, match=r"batch_size is 2, and 3 in loader_opts"):
        ObjectStoreIterableDataset(ten.uri, batch_size=2, loader_opts={"batch_size": 3})
    assert len(ObjectStoreIterableDataset(ten.uri, batch_size=2, loader_opts={"batch_size": 2})) == 5


# Arguments that make no sense.


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"batch_size": -1},
        {"batch_size": 2.0},
        {"batch_size": True},
        {"drop_last": True},
        {"drop_last": "yes", "batch_size": 2},
        {"pad_to": 10},
        {"pad_to": 0, "batch_size": 2},
        {"pad_to": 10, "batch_size": 2, "decode": "npy"},
        {"shuffle": 1},
        {"seed": "a"},
        {"seed": None},
        {"tail": "ragged"},
        {"on_error": "ignore"},
        {"return_type": "numpy"},
        {"decode": "pickle"},
        {"decode": 3},
        {"transform": "crop"},
        {"rank": 0},
        {"world_size": 2},
        {"rank": 2, "world_size": 2},
        {"rank": -1, "world_size": 2},
        {"world_size": 0, "rank": 0},
        {"procs": -1},
        {"jobs": 0},
        {"memory_bytes": "much"},
        {"prefetch": 0},
        {"shuffle_buffer": 0},
        {"loader_opts": "batch_size=3"},
        {"loader_opts": {"bach_size": 3}},
        {"bach_size": 3},
        {"manifest": "file:///somewhere"},
    ],
    ids=str,
)
def test_an_argument_that_makes_no_sense_is_refused_where_it_is_given_and_named(
    ten: Corpus, arguments: dict[str, Any]
) -> None:
    given = next(iter(arguments))
    named = "bach_size" if "bach_size" in str(arguments) else given
    with pytest.raises(s3dlio.ConfigurationError, match=named):
        ObjectStoreIterableDataset(ten.uri, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 3},
        {"shuffle": True},
        {"return_type": "numpy"},
        {"decode": "pickle"},
        {"transform": 3},
        {"jobs": 0},
        {"manifest": "file:///somewhere"},
        {"loader_opts": {"seed": 3}},
        {"loader_opts": 7},
    ],
    ids=str,
)
def test_a_map_data_set_refuses_what_is_none_of_its_arguments(ten: Corpus, arguments: dict[str, Any]) -> None:
    named = "seed" if "seed" in str(arguments) else next(iter(arguments))
    with pytest.raises(s3dlio.ConfigurationError, match=named):
        ObjectStoreMapDataset(ten.uri, **arguments)


@pytest.mark.parametrize(
    "uri", [None, 7, "no-scheme/train/", b"s3://bucket/", ["s3://bucket/a", 3], ["not a uri"]], ids=str
)
def test_what_is_no_uri_is_refused(uri: Any) -> None:
    for kind in (ObjectStoreIterableDataset, ObjectStoreMapDataset):
        with pytest.raises(s3dlio.ConfigurationError):
            kind(uri)


def test_an_epoch_is_a_whole_number(ten: Corpus) -> None:
    dataset = ObjectStoreIterableDataset(ten.uri, procs=0)
    for epoch in (-1, 1.5, "1", None, True, 1 << 64):
        with pytest.raises(s3dlio.ConfigurationError, match="epoch"):
            dataset.set_epoch(epoch)  # type: ignore[arg-type]
    assert dataset.epoch == 0


def test_a_repr_says_what_is_read_and_never_what_is_in_it(ten: Corpus) -> None:
    for kind in (ObjectStoreIterableDataset, ObjectStoreMapDataset):
        text = repr(kind(ten.uri))
        assert kind.__name__ in text
        assert ten.uri in text
        assert "10 objects" in text
