"""The row of whole trees: `upload` and `download` of 1000 files against `rclone copy`, through rclone's own S3 server.

The call of a process that lives through all rounds is compared with the life of one of rclone's, less what `rclone version` takes in the
same turn. Each upload goes to a bucket that is empty, each download to a directory that is not there. What is there afterwards is compared
with the source, byte by byte. Ours makes every file durable (fsync) before it returns; rclone leaves that to the kernel.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import servers
from .dataset import BUCKET, SETS
from .drive import Contender, ContenderFailedError, Record, Turns, keep, running
from .outcome import Check, Medians, Outcome, best, fetch_metrics, ratio, summarize
from .rows import Bench

_FILES = 1000
_FOLDERS = 10
_TIMEOUT_S = 120
OURS_UP, OURS_DOWN = "ours, upload", "ours, download"
RCLONE_UP, RCLONE_DOWN = "rclone copy, up", "rclone copy, down"
_NAMES = (OURS_UP, RCLONE_UP, OURS_DOWN, RCLONE_DOWN)
_OURS = Contender("ours", "ours_tree")


@dataclass(frozen=True)
class TreeRow:
    """A tree of small files, up and down."""

    name: str = "transfer-tree"
    title: str = f"trees of {_FILES} files of 64 KiB, up and down, rclone's signed S3"

    def run(self, bench: Bench) -> Outcome:
        """Measures the row; a first turn of each is not counted."""
        place = bench.work / "tree"
        shutil.rmtree(place, ignore_errors=True)
        source = _make_tree(bench.work / "data" / BUCKET / "s64k", place / "in")
        # All before the server starts, since it would not notice them later.
        plan = [(name, f"tree{number}-{at}") for number in range(bench.rounds + 1) for at, name in enumerate(_NAMES)]
        for name, bucket in plan:
            _make_bucket(place / "buckets" / bucket, source if name in (OURS_DOWN, RCLONE_DOWN) else None)
        turns = Turns()
        with (
            servers.rclone(bench.work, place / "buckets", is_writable=True) as endpoint,
            running(_OURS, [], endpoint, bench.work) as ours,
        ):
            ours.answer()
            rclone = partial(_run_rclone, endpoint, bench.work)
            for at, (name, bucket) in enumerate(plan):
                bench.progress(f"{self.title}: {name}")
                ask = rclone if name in (RCLONE_UP, RCLONE_DOWN) else ours.round
                turn = _down if name in (OURS_DOWN, RCLONE_DOWN) else _up
                found = keep(turns, name, partial(turn, ask, source, place, bucket))
                if found is not None and at >= len(_NAMES):
                    turns.records.setdefault(name, []).append(found)
        shutil.rmtree(place)
        medians = summarize(turns, fetch_metrics)
        return Outcome(self.name, self.title, medians, list(_checks(medians)), turns.failures, turns.records)


def _checks(medians: Medians) -> Iterator[Check]:
    for what, ours, theirs in (("up", OURS_UP, RCLONE_UP), ("down", OURS_DOWN, RCLONE_DOWN)):
        of_rclone = ratio(*(best(medians, [name], "objects_s") for name in (ours, theirs)))
        yield Check(f"files/s {what}, of rclone copy's", of_rclone, "x", 0.9, 1.0)


def _make_bucket(bucket: Path, content: Path | None) -> None:
    if content is None:
        bucket.mkdir(parents=True)
    else:
        shutil.copytree(content, bucket, copy_function=os.link)


def _up(ask: Callable[[str], Record], source: Path, place: Path, bucket: str) -> Record:
    record = ask(f"up {source} {bucket}")
    return _compared(record, source, place / "buckets" / bucket)


def _down(ask: Callable[[str], Record], source: Path, place: Path, bucket: str) -> Record:
    target = place / "out"
    record = _compared(ask(f"down {bucket} {target}"), source, target)
    shutil.rmtree(target)
    return record


def _run_rclone(endpoint: str, work: Path, what: str) -> Record:
    options = {"PROVIDER": "Rclone", "TYPE": "s3", "ENDPOINT": endpoint, "ENV_AUTH": "true"}
    remote = {f"RCLONE_CONFIG_S3_{name}": value for name, value in options.items()} | {"RCLONE_CONFIG": os.devnull}
    environment = servers.environment(endpoint, work) | remote
    verb, source, target = what.split()
    ends = [source, f"s3:{target}"] if verb == "up" else [f"s3:{source}", target]
    spent = [_spent([servers.find("rclone") or "rclone", *words], environment) for words in (["copy", *ends], ["version"])]
    return {what: copying - starting for what, copying, starting in zip(("wall_s", "cpu_s"), *spent, strict=True)}


def _spent(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Returns the seconds that a program took, and those of CPU."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_TIMEOUT_S, check=False)
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode:
        raise ContenderFailedError(f"{command}: {ended.stderr[-1500:]}")
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _make_tree(objects: Path, root: Path) -> Path:
    for number, path in enumerate(sorted(objects.iterdir())[:_FILES]):
        folder = root / f"folder{number % _FOLDERS}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(path, folder / path.name)
    return root


def _compared(record: Record, wanted: Path, found: Path) -> Record:
    files = {path.relative_to(wanted) for path in wanted.rglob("*") if path.is_file()}
    there = {path.relative_to(found) for path in found.rglob("*") if path.is_file()}
    if files != there or any((wanted / path).read_bytes() != (found / path).read_bytes() for path in files):
        raise ContenderFailedError(f"{found} is not what {wanted} is: {len(there)} files of {len(files)}")
    return record | {"objects": _FILES, "bytes": _FILES * SETS["s64k"].size}


TREES = (TreeRow(),)
