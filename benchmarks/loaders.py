"""The rows of data sets in a training loop: epochs through `torch.utils.data`, in turns, and the first batch of an epoch.

Owns which data sets run, in which ways, and each row's floors and aims. A kind of data set is one process, and a way a number of workers
in it (`contenders/_loading.py`). Each way has a first turn; only those that come near the best of their side have all of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from .drive import Contender, Record, Turns, keep, running
from .outcome import Check, Medians, Outcome, best, ratio, summarize
from .rows import Bench
from .single import fresh

# A way that is slower than this in its first turn, of the best way of its side, is never the best of several.
_NEAR = 0.7
_STARTS = 5


@dataclass(frozen=True)
class Loader(Contender):
    """A kind of data set, in several ways."""

    ways: tuple[str, ...] = ("1", "2", "0")
    """Those with workers of a DataLoader first: they fork the process before it has a client of its own."""

    def command(self, *arguments: str) -> list[str]:
        """Returns the argv."""
        return super().command(*arguments, "--ways", ",".join(self.ways))

    def title(self, way: str) -> str:
        """Names a way in the table."""
        return f"{self.name}, {_WAYS[way]}"

    def titles(self, *kinds: str) -> list[str]:
        """Names all ways, or those of some kinds."""
        return [self.title(way) for way in self.ways if not kinds or way[:-1] in kinds]


_WAYS = {
    "0": "no worker",
    "1": "1 worker",
    "2": "2 workers",
    "4": "4 workers",
    "workers1": "1 worker",
    "workers2": "2 workers",
    "procs1": "procs=1",
    "procs2": "procs=2",
    "stacked1": "stacked, procs=1",
    "stacked2": "stacked, procs=2",
}
_OWN_WAYS = ("workers1", "workers2", "procs1", "procs2")

ITERABLE = Loader("ours, iterable", "loader_ours", "iterable", ways=_OWN_WAYS)
LISTED = Loader("ours, list", "loader_ours", "list", ways=(*_OWN_WAYS, "stacked1", "stacked2"))
MAP = Loader("ours, map", "loader_ours", "map", ways=("2",))

_CONNECTOR = "connector_s3torchconnector"
PEERS = (
    Loader("s3torchconnector iterable", _CONNECTOR, "iterable"),
    Loader("s3torchconnector map", _CONNECTOR, "map"),
    Loader("PyPI s3dlio iterable", "loader_s3dlio", "iterable", ways=("1", "0")),
    Loader("PyPI s3dlio map", "loader_s3dlio", "map"),
    Loader("obstore map", "loader_obstore", "each"),
)
LISTED_PEERS = (
    Loader("s3torchconnector iterable", _CONNECTOR, "iterable_list"),
    Loader("s3torchconnector map", _CONNECTOR, "map_list"),
)
MAP_PEERS = (Loader("s3torchconnector map", _CONNECTOR, "map", ways=("2",)),)
# No data set that anybody ships, but what its user may come to: 32 threads fetch a batch.
BATCHING = Loader("obstore map, batches by threads", "loader_obstore", "batch")


@dataclass(frozen=True)
class LoaderRow:
    """Epochs over one set, in batches of 32."""

    name: str
    title: str
    ours: tuple[Loader, ...]
    peers: tuple[Loader, ...]
    rate: tuple[float, float]
    """Floor and aim of samples/s over the best peer's, each at its best way."""
    set_name: str = "s64k"
    server: str = "rclone"
    """Which endpoint of the `Bench`."""
    is_cpu_checked: bool = False
    """Whether the CPU of the training process is held against its floor."""
    extra: Loader | None = None
    """One more peer, for the table: what ours is over it is no floor."""

    def run(self, bench: Bench) -> Outcome:
        """Measures the row."""
        turns = Turns()
        for name in self._take_turns(turns, bench):
            bench.progress(f"{self.title}: {name}")
        medians = summarize(turns, _metrics)
        return Outcome(self.name, self.title, medians, list(self._checks(medians)), turns.failures, turns.records)

    def _checks(self, medians: Medians) -> Iterator[Check]:
        ours, peers = ([title for loader in side for title in loader.titles()] for side in (self.ours, self.peers))
        fastest = best(medians, ours, "samples_s")
        yield Check("samples/s, of the best peer's", ratio(fastest, best(medians, peers, "samples_s")), "x", *self.rate)
        if self.is_cpu_checked:
            # Of the fastest way that has worker processes, whether or not it is the thriftiest.
            titles = [title for loader in self.ours for title in loader.titles("procs")]
            found = [medians[title] for title in titles if title in medians]
            value = max(found, key=lambda one: one["samples_s"])["training_cpu_us"] if found else None
            yield Check("CPU of the training process a sample", value, "us", 15, 8, higher=False)
        if self.extra is not None:
            of_extra = ratio(fastest, best(medians, self.extra.titles(), "samples_s"))
            yield Check(f"samples/s, of {self.extra.name}", of_extra, "x", None, 1)

    def _take_turns(self, turns: Turns, bench: Bench) -> Iterator[str]:
        endpoint: str = getattr(bench, self.server)
        arguments = [endpoint, self.set_name, str(bench.manifest)]
        sides = [self.ours, self.peers, () if self.extra is None else (self.extra,)]
        with ExitStack() as stack:
            # All start and warm up at once: importing torch takes each of them seconds on one core.
            started = {
                loader: stack.enter_context(running(loader, arguments, endpoint, bench.work))
                for side in sides
                for loader in side
            }
            asked = {}
            for loader, process in started.items():
                if keep(turns, loader.name, process.answer) is not None:
                    asked |= {loader.title(way): (loader, partial(process.round, way)) for way in loader.ways}
                yield loader.name
            for number in range(bench.rounds):
                for name, (loader, ask) in [*asked.items()]:
                    if loader.name in turns.failures:
                        continue
                    record = keep(turns, loader.name, ask)
                    if record is not None:
                        turns.records.setdefault(name, []).append(record)
                    yield name
                if number == 0:
                    near = _near_the_best(turns, sides)
                    asked = {name: one for name, one in asked.items() if name in near}


def _near_the_best(turns: Turns, sides: list[tuple[Loader, ...]]) -> set[str]:
    near: set[str] = set()
    for side in sides:
        names = [title for loader in side for title in loader.titles() if title in turns.records]
        wall_s = {name: turns.records[name][0]["wall_s"] for name in names}
        near |= {name for name in names if wall_s[name] * _NEAR <= min(wall_s.values())}
    return near


def _metrics(record: Record) -> dict[str, float]:
    samples = record["objects"]
    return {
        "samples_s": samples / record["wall_s"],
        "sample_mib_s": record["bytes"] / 2**20 / record["wall_s"],
        "sample_cpu_us": record["cpu_s"] / samples * 1e6,
        "training_cpu_us": record["own_cpu_s"] / samples * 1e6,
    }


@dataclass(frozen=True)
class FirstBatchRow:
    """From `iter()` to the first batch: in a new process, and in its second epoch."""

    name: str = "loader-first"
    title: str = "iter() to the first batch of 32 x 64 KiB, two workers, rclone"

    def run(self, bench: Bench) -> Outcome:
        """Measures the row; importing torch and listing the objects are over before the clock starts, starting the workers is not."""
        bench.progress(self.title)
        records = [fresh(["ours_first_batch.py", "s64k"], bench.rclone, bench.work) for _ in range(_STARTS)]
        names = {"made_ms": "made_s", "first_ms": "first_s", "second_ms": "second_s"}
        found = {metric: statistics.median(one[name] for one in records) * 1e3 for metric, name in names.items()}
        checks = [
            Check("cold: the first epoch of a process", found["first_ms"] / 1e3, "s", 1, 0.5, higher=False),
            Check("warm: the second epoch", found["second_ms"], "ms", 50, 20, higher=False),
        ]
        ours = "ours, iterable, procs=2"
        return Outcome(self.name, self.title, {ours: found}, checks, {}, {ours: records})


LOADERS = (
    LoaderRow(
        "loader-s3",
        "torch data sets, 64 KiB x 4000 in batches of 32, rclone's signed S3",
        (ITERABLE,),
        PEERS,
        rate=(1.8, 2.5),
        is_cpu_checked=True,
        extra=BATCHING,
    ),
    LoaderRow(
        "loader-static",
        "torch data sets of a list of URIs, 64 KiB x 4000 in batches of 32, static server",
        (LISTED,),
        LISTED_PEERS,
        rate=(5, 10),
        server="nginx",
        is_cpu_checked=True,
    ),
    LoaderRow(
        "loader-map",
        "torch map data sets, DataLoader(num_workers=2, batch_size=32), 64 KiB x 4000, rclone's signed S3",
        (MAP,),
        MAP_PEERS,
        rate=(2, 3),
    ),
    LoaderRow(
        "loader-1m",
        "torch data sets, 1 MiB x 1000 in batches of 32, rclone's signed S3",
        (ITERABLE,),
        PEERS,
        rate=(1.3, 1.8),
        set_name="m1m",
    ),
    FirstBatchRow(),
)
