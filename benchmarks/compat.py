"""The rows of s3torchconnector's interface: the same programs with another import, this package's and upstream's.

Owns which programs run, in which ways, and each row's floors and aims. Data sets run as in `loaders.py`. Checkpoints go through a server
that keeps them in memory (`keeper.py`); sharded ones, which are only loaded, lie on the static server.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import servers
from .dataset import BUCKET
from .drive import Contender, Record, Running, Turns, keep, running
from .footprint import sampled
from .loaders import Loader, LoaderRow
from .outcome import Check, Medians, Outcome, best, fetch_metrics, ratio, summarize
from .rows import Bench, run_turns
from .single import fresh

_OURS, _THEIRS = "connector_ours", "connector_s3torchconnector"
_MODEL_MIB = 1024
_MIB = 1 << 20


def _data_sets(script: str, side: str, source: str = "") -> tuple[Loader, ...]:
    ways = ("1", "2", "4", "0")
    return tuple(Loader(f"{side} {kind}", script, f"{kind}{source}", ways=ways) for kind in ("iterable", "map"))


@dataclass(frozen=True)
class CheckpointRow:
    """`S3Checkpoint` saves and loads a model, and once more with its memory sampled, which is not timed."""

    name: str = "compat-checkpoint"
    title: str = "S3Checkpoint: torch.save and torch.load of 1 GiB, a server that keeps it in memory"
    mib: int = _MODEL_MIB

    def run(self, bench: Bench) -> Outcome:
        """Measures the row."""
        turns, peaks_mib = Turns(), dict[str, float]()
        with servers.keeper(bench.work) as endpoint, ExitStack() as stack:
            savers: dict[str, Running] = {}
            for contender in _SAVERS:
                bench.progress(f"{self.title}: {contender.name}")
                arguments = [endpoint, str(self.mib), "--ways", ",".join(_VERBS)]
                started = stack.enter_context(running(contender, arguments, endpoint, bench.work))
                if keep(turns, contender.name, started.answer) is not None:
                    savers[contender.name] = started
            for number in range(bench.rounds + 1):
                for name, saver in savers.items():
                    bench.progress(f"{self.title}: {name}")
                    if name not in turns.failures:
                        _take_turn(turns, peaks_mib, saver, is_timed=number < bench.rounds)
        medians = summarize(turns, _byte_metrics)
        for name, peak_mib in peaks_mib.items():
            medians[name]["held_mib"] = peak_mib
        return Outcome(self.name, self.title, medians, list(_checkpoint_checks(medians)), turns.failures, turns.records)


_VERBS = ("save", "load")
_SAVERS = (
    Contender("ours", _OURS, "checkpoint"),
    Contender("ours, 100 Gbit/s", _OURS, "checkpoint_wide"),
    Contender("s3torchconnector", _THEIRS, "checkpoint"),
    Contender("s3torchconnector, 100 Gbit/s", _THEIRS, "checkpoint_wide"),
)


def _take_turn(turns: Turns, peaks_mib: dict[str, float], saver: Running, *, is_timed: bool) -> None:
    name = saver.contender.name
    for verb in _VERBS:
        with ExitStack() as stack:
            peak = None if is_timed else stack.enter_context(sampled(saver.pid))
            record = keep(turns, name, partial(saver.round, verb))
        if record is None:
            return
        if peak is None:
            turns.records.setdefault(f"{name}, {verb}", []).append(record)
        else:
            peaks_mib[f"{name}, {verb}"] = peak.held_bytes / _MIB


def _checkpoint_checks(medians: Medians) -> Iterator[Check]:
    for verb in _VERBS:
        ours, theirs = (
            [f"{saver.name}, {verb}" for saver in _SAVERS if saver.script == script] for script in (_OURS, _THEIRS)
        )
        faster = ratio(best(medians, ours, "mib_s"), best(medians, theirs, "mib_s"))
        yield Check(f"{verb}: bytes/s, of s3torchconnector's", faster, "x", 1.3, None)
        fastest = max((name for name in ours if name in medians), key=lambda name: medians[name]["mib_s"], default="")
        less = ratio(best(medians, [fastest], "held_mib"), best(medians, theirs, "held_mib", higher=False))
        yield Check("... at a peak of memory, of the thriftiest's", less, "x", 1, None, higher=False)


@dataclass(frozen=True)
class ShardedRow:
    """Two ranks load a sharded model through `S3StorageReader`."""

    name: str = "compat-dcp"
    title: str = "dcp.load of 1 GiB by two ranks, static server"
    mib: int = _MODEL_MIB

    def run(self, bench: Bench) -> Outcome:
        """Measures the row; the model is saved once, by torch's own writer of files."""
        bench.progress(self.title)
        _ensure_saved(bench, bench.manifest.parent / "data" / BUCKET / f"dcp-{self.mib}", self.mib)
        contenders = [Contender("ours", _OURS, "dcp"), Contender("s3torchconnector", _THEIRS, "dcp")]
        turns = run_turns(bench, self.title, contenders, bench.nginx, [str(self.mib)])
        medians = summarize(turns, _byte_metrics)
        ours, theirs = (best(medians, [contender.name], "mib_s") for contender in contenders)
        check = Check("bytes/s, of s3torchconnector's", ratio(ours, theirs), "x", 1, None)
        return Outcome(self.name, self.title, medians, [check], turns.failures, turns.records)


def _byte_metrics(record: Record) -> dict[str, float]:
    found = fetch_metrics(record)
    return {metric: found[metric] for metric in ("mib_s", "cpu_s_gib")}


def _ensure_saved(bench: Bench, folder: Path, mib: int) -> None:
    """Saves the model, unless it is there; its `.metadata` comes last."""
    if not (folder / ".metadata").exists():
        shutil.rmtree(folder, ignore_errors=True)
        fresh(["dcp_make.py", str(folder), str(mib)], bench.nginx, bench.work)


COMPAT = (
    LoaderRow(
        "compat-64k",
        "S3IterableDataset and S3MapDataset, 64 KiB x 4000 in batches of 32, rclone's signed S3",
        _data_sets(_OURS, "ours"),
        _data_sets(_THEIRS, "s3torchconnector"),
        rate=(2, 3),
    ),
    LoaderRow(
        "compat-1m",
        "S3IterableDataset and S3MapDataset, 1 MiB x 1000 in batches of 32, rclone's signed S3",
        _data_sets(_OURS, "ours"),
        _data_sets(_THEIRS, "s3torchconnector"),
        rate=(1.3, 1.8),
        set_name="m1m",
    ),
    LoaderRow(
        "compat-static",
        "S3IterableDataset and S3MapDataset of a list of URIs, 64 KiB x 4000 in batches of 32, static server",
        _data_sets(_OURS, "ours", "_list"),
        _data_sets(_THEIRS, "s3torchconnector", "_list"),
        rate=(2, 3),
        server="nginx",
    ),
    CheckpointRow(),
    ShardedRow(),
)
