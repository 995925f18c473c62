"""The README's code, cut out of it and run in all five schemes, and what its table says is there."""

from __future__ import annotations

import inspect
import random
import re
import shlex
import subprocess
import sys

import pytest

import s3dlio
from tests.spec.ground import Ground
from tests.support.processes import REPOSITORY

README = (REPOSITORY / "README.md").read_text("utf-8")
TRAIN = {f"train/{number:04}.bin": random.Random(number).randbytes(1000) for number in range(70)}


def _block(language: str, beginning: str) -> str:
    """Returns the one block of code that begins so."""
    (found,) = (block for block in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if block.startswith(beginning))
    return str(found)


def test_the_training_loop(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    ground.fill(TRAIN)
    seen: list[bytes] = []
    ground.run(
        _block("python", "from s3dlio import ObjectStoreIterableDataset"),
        epochs=2,
        train=lambda batch: seen.extend(row.numpy().tobytes() for row in batch),
    )
    assert [sorted(seen[:70]), sorted(seen[70:])] == [sorted(TRAIN.values())] * 2
    assert seen[:70] != seen[70:]
    assert "first_byte" in capsys.readouterr().out


def test_the_taste(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    ground.fill(TRAIN)
    seen: list[bytes] = []
    found = ground.run(_block("python", "import numpy as np"), consume=lambda view: seen.append(bytes(view)))
    # The loop has used the name again.
    assert bytes(found["view"]) == TRAIN["train/0069.bin"]
    assert found["labels"].tobytes() == TRAIN["train/0000.bin"][:128]
    assert [bytes(view) for view in found["views"]] == seen == [*TRAIN.values()]
    assert capsys.readouterr().out.endswith(" MB/s, 0 of 70 failed\n")


def test_the_command_line(ground: Ground) -> None:
    ground.fill(TRAIN)
    source = ground.folder / "data" / "train"
    source.mkdir(parents=True)
    (source / "new.bin").write_bytes(b"new")
    printed = []
    for line in _block("console", "$ s3dlio mp-get").splitlines():
        command = shlex.split(ground.map(line.removeprefix("$ s3dlio")), comments=True)
        done = subprocess.run([sys.executable, "-m", "s3dlio", *command], capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert "70" in printed[0]
    assert all(key in printed[1] for key in TRAIN)
    assert (ground.folder / "0000.bin").read_bytes() == TRAIN["train/0000.bin"]
    assert ground.objects() == TRAIN | {"train/new.bin": b"new"}


def test_the_verbs_of_the_table_are_there_called_and_awaited() -> None:
    rows = dict(re.findall(r"^\| (\w[\w ]*) \| (.*) \|$", README, re.MULTILINE))
    named = {name for name in re.findall(r"`(\w+)`", rows["verbs"]) if inspect.isfunction(getattr(s3dlio, name))}
    assert named >= {"get", "put_many", "copy", "list_containers"}
    others = {"configure", "init_logging", "shutdown", "mp_get", "list_iter"}
    assert all(inspect.iscoroutinefunction(getattr(s3dlio, f"{name}_async")) for name in named - others)
    # And the other way round: what can be awaited stands in the table.
    awaited = {name.removesuffix("_async") for name in s3dlio.__all__ if name.endswith("_async")}
    aliases = {"get_object", "stat_object", "list_keys", "list_full_uris", "stat_many"}
    assert awaited - named - aliases == set()
