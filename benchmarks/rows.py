"""The rows of the Speed table that compare contenders in turns: fetches, single gets, listing.

Owns which contenders run, and each row's floors and aims; `startup.py` and the memory row in `single.py` hold those without a peer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from . import limit
from .dataset import SETS
from .drive import Contender, Record, Turns, take_turns
from .outcome import Check, Medians, Outcome, best, caller_metrics, fetch_metrics, ratio, summarize

PEERS = [
    Contender("obstore, threads", "peer_obstore", "threads"),
    Contender("obstore, async", "peer_obstore", "async"),
    Contender("obstore, executor.map", "peer_obstore", "map"),
    Contender("s3torchconnector", "peer_s3torchconnector"),
    Contender("PyPI s3dlio", "peer_s3dlio"),
    Contender("boto3, threads", "peer_boto3", max_rounds=2),
]
GET_MANY = Contender("ours, get_many", "ours", "get_many")
POOL = Contender("ours, Pool.fetch inline", "ours", "pool")
POOL2 = Contender("ours, Pool.fetch procs=2", "ours", "pool2")
MP_GET = Contender("ours, mp_get procs=2", "ours", "mp_get")
MP_GET_SINK = Contender("ours, mp_get procs=2, sink", "ours", "mp_get_sink")
WRK = "wrk -t1"
_PEER_NAMES = [peer.name for peer in PEERS]


@dataclass(frozen=True)
class Bench:
    """What a row needs to run."""

    work: Path
    manifest: Path
    nginx: str
    """Endpoint of the static server."""
    rclone: str
    """Endpoint of the S3 server."""
    rounds: int
    progress: Callable[[str], None]
    """Told what happens now."""


@dataclass(frozen=True)
class FetchRow:
    """Whole objects of one set, concurrently."""

    name: str
    title: str
    set_name: str
    in_flight: int
    headline: Contender
    """The one of ours that the checks speak of."""
    others: tuple[Contender, ...] = ()
    """More of ours, for the table."""
    passes: int = 1
    with_peers: bool = True
    is_signed: bool = False
    """Whether rclone serves it; then there are no floors, and no wrk, which cannot sign."""
    rate: tuple[float, float | None] = (0, None)
    """Floor and aim of objects/s over the best peer's."""
    cpu: tuple[float, float | None] = (0, None)
    """Floor and aim of the best peer's CPU an object over ours."""

    def run(self, bench: Bench) -> Outcome:
        """Measures the row."""
        contenders = [self.headline, *self.others, *(PEERS if self.with_peers else [])]
        arguments = [
            self.set_name,
            str(bench.manifest),
            "--in-flight",
            str(self.in_flight),
            "--passes",
            str(self.passes),
        ]
        endpoint = bench.rclone if self.is_signed else bench.nginx
        turns = _run(bench, self.title, contenders, endpoint, arguments, self._tools(bench))
        medians = summarize(turns, self.metrics)
        return Outcome(self.name, self.title, medians, list(self.checks(medians)), turns.failures, turns.records)

    def metrics(self, record: Record) -> dict[str, float]:
        """Reads one round."""
        return fetch_metrics(record)

    def checks(self, medians: Medians) -> Iterator[Check]:
        """Compares with the best peer, which may be one for speed and another for CPU."""
        if self.is_signed:
            return
        ours = [self.headline.name]
        faster = ratio(best(medians, ours, "objects_s"), best(medians, _PEER_NAMES, "objects_s"))
        yield Check("objects/s, of the best peer's", faster, "x", *self.rate)
        cpu, peer_cpu = (best(medians, names, "cpu_us", higher=False) for names in (ours, _PEER_NAMES))
        yield Check("less client CPU than the best peer", ratio(peer_cpu, cpu), "x", *self.cpu)

    def _tools(self, bench: Bench) -> dict[str, Callable[[], Record]]:
        if self.is_signed:
            return {}
        return {WRK: lambda: limit.run_wrk(bench.work, bench.nginx, SETS[self.set_name], self.in_flight)}


class MegabyteRow(FetchRow):
    """The 1 MiB row, whose aim is the server's limit."""

    def checks(self, medians: Medians) -> Iterator[Check]:
        yield from super().checks(medians)
        of_limit = ratio(best(medians, [self.headline.name], "objects_s"), best(medians, [WRK], "objects_s"))
        yield Check("objects/s, of wrk -t1's", of_limit, "x", None, 1.0)


class MpGetRow(FetchRow):
    """Two worker processes against wrk, and what the calling process pays."""

    def metrics(self, record: Record) -> dict[str, float]:
        return caller_metrics(record)

    def checks(self, medians: Medians) -> Iterator[Check]:
        of_limit = ratio(best(medians, [MP_GET.name], "objects_s"), best(medians, [WRK], "objects_s"))
        yield Check("mp_get's objects/s, of wrk -t1 -c32's", of_limit, "x", 0.45, 0.75)
        value = best(medians, [MP_GET.name], "caller_cpu_us", higher=False)
        yield Check("CPU of coordinator and consumer an object", value, "us", 12, 6, higher=False)


@dataclass(frozen=True)
class LatencyRow:
    """One get after another, from one thread."""

    name: str = "latency"
    title: str = "get of 64 KiB, one after another: median latency"

    def run(self, bench: Bench) -> Outcome:
        """Measures the row."""
        peers = [replace(peer, name=peer.name.partition(",")[0]) for peer in PEERS if peer.variant not in ("async", "map")]
        ours = replace(GET_MANY, name="ours, get")
        turns = _run(bench, self.title, [ours, *peers], bench.nginx, ["s64k", str(bench.manifest), "--mode", "latency"])
        medians = summarize(turns, _latency_metrics)
        fastest = best(medians, [peer.name for peer in peers], "median_us", higher=False)
        of_best = ratio(best(medians, [ours.name], "median_us"), fastest)
        check = Check("median latency, of the best peer's", of_best, "x", 0.8, 0.6, higher=False)
        return Outcome(self.name, self.title, medians, [check], turns.failures, turns.records)


@dataclass(frozen=True)
class ListRow:
    """A listing of 4000 keys from a real S3 server."""

    name: str = "list"
    title: str = "LIST of 4000 keys, rclone"

    def run(self, bench: Bench) -> Outcome:
        """Measures the row."""
        peers = [replace(peer, name=peer.name.partition(",")[0]) for peer in PEERS if peer.variant not in ("async", "map")]
        ours = replace(GET_MANY, name="ours, list_iter")
        turns = _run(bench, self.title, [ours, *peers], bench.rclone, ["s64k", str(bench.manifest), "--mode", "list"])
        medians = summarize(turns, _list_metrics)
        check = Check("CPU a key", best(medians, [ours.name], "cpu_us", higher=False), "us", 15, 9, higher=False)
        return Outcome(self.name, self.title, medians, [check], turns.failures, turns.records)


def _latency_metrics(record: Record) -> dict[str, float]:
    return {"median_us": record["median_s"] * 1e6, "p99_us": record["p99_s"] * 1e6}


def _list_metrics(record: Record) -> dict[str, float]:
    return {"cpu_us": record["cpu_s"] / record["objects"] * 1e6, "wall_us": record["wall_s"] / record["objects"] * 1e6}


def _run(
    bench: Bench,
    title: str,
    contenders: list[Contender],
    endpoint: str,
    arguments: list[str],
    tools: dict[str, Callable[[], Record]] | None = None,
) -> Turns:
    """Lets contenders, and the tools among them, take turns."""
    turns = Turns()
    for name in take_turns(turns, contenders, [endpoint, *arguments], endpoint, bench.work, bench.rounds, tools or {}):
        bench.progress(f"{title}: {name}")
    return turns


COMPARED = (
    FetchRow("64k", "64 KiB x 4000, 32 in flight", "s64k", 32, GET_MANY, (POOL,), rate=(2, 3), cpu=(2.5, 4)),
    MegabyteRow("1m", "1 MiB x 1000, 16 in flight", "m1m", 16, GET_MANY, (POOL,), rate=(1.1, None), cpu=(2, 3)),
    FetchRow("32m", "32 MiB x 64, 8 in flight", "l32m", 8, POOL, (GET_MANY,), rate=(1.8, 2.3), cpu=(3, 4)),
    LatencyRow(),
    MpGetRow(
        "mp_get",
        "mp_get, 64 KiB x 16000, two workers",
        "s64k",
        32,
        MP_GET,
        (MP_GET_SINK, POOL2),
        passes=4,
        with_peers=False,
    ),
    ListRow(),
    FetchRow(
        "64k-s3", "64 KiB x 4000, 32 in flight, rclone's signed S3", "s64k", 32, GET_MANY, (POOL,), is_signed=True
    ),
)
