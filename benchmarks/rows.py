"""The rows of the Speed table that compare contenders in turns: fetches, single gets, listing.

Owns which contenders run, and each row's floors and aims; `single.py` holds the rows without a peer, `own.py` those of this package
against itself or against what a server allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from . import limit
from .dataset import SETS
from .drive import Contender, Record, Turns, take_turns
from .outcome import Check, Medians, Outcome, best, caller_metrics, fetch_metrics, ratio, summarize

PEERS = (
    Contender("obstore, threads", "peer_obstore", "threads"),
    Contender("obstore, async", "peer_obstore", "async"),
    Contender("obstore, executor.map", "peer_obstore", "map"),
    Contender("s3torchconnector", "peer_s3torchconnector"),
    Contender("PyPI s3dlio", "peer_s3dlio"),
    Contender("boto3, threads", "peer_boto3", max_rounds=2),
)
PEER_THREADS = (
    *(peer for peer in PEERS if peer.script != "peer_s3dlio" and peer.variant != "async"),
    Contender("PyPI s3dlio, get", "peer_s3dlio", "threads"),
)
# A round of theirs at 32 MiB over TLS is five seconds and more.
PEERS_BRIEFLY = tuple(replace(peer, max_rounds=min(peer.max_rounds, 3)) for peer in PEERS)
GET_MANY = Contender("ours, get_many", "ours", "get_many")
GET = Contender("ours, get", "ours", "get_threads")
POOL = Contender("ours, Pool.fetch inline", "ours", "pool")
POOL2 = Contender("ours, Pool.fetch procs=2", "ours", "pool2")
MP_GET = Contender("ours, mp_get procs=2", "ours", "mp_get")
MP_GET_SINK = Contender("ours, mp_get procs=2, sink", "ours", "mp_get_sink")
WRK = "wrk -t1"


@dataclass(frozen=True)
class Bench:
    """What a row needs to run."""

    work: Path
    manifest: Path
    nginx: str
    """Endpoint of the static server."""
    tls: str
    """The same under TLS."""
    checked: str
    """The same, with checksums and ETags for whoever asks for checksums, without either for whoever does not."""
    late: str
    """The same, answering 10 ms late."""
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
    peers: tuple[Contender, ...] = PEERS
    server: str = "nginx"
    """Which endpoint of the `Bench`. With rclone there are no floors, and no wrk, which cannot sign."""
    rate: tuple[float, float | None] = (0, None)
    """Floor and aim of objects/s over the best peer's."""
    cpu: tuple[float, float | None] | None = None
    """Floor and aim of the best peer's CPU an object over ours; None where the table sets neither."""

    def run(self, bench: Bench) -> Outcome:
        """Measures the row."""
        contenders = [self.headline, *self.others, *self.peers]
        arguments = [
            self.set_name,
            str(bench.manifest),
            "--in-flight",
            str(self.in_flight),
            "--passes",
            str(self.passes),
        ]
        endpoint: str = getattr(bench, self.server)
        turns = run_turns(bench, self.title, contenders, endpoint, arguments, self._tools(bench.work, endpoint))
        medians = summarize(turns, self.metrics)
        return Outcome(self.name, self.title, medians, list(self.checks(medians)), turns.failures, turns.records)

    def metrics(self, record: Record) -> dict[str, float]:
        """Reads one round."""
        return fetch_metrics(record)

    def checks(self, medians: Medians) -> Iterator[Check]:
        """Compares with the best peer, which may be one for speed and another for CPU."""
        if self.server == "rclone":
            return
        ours, peers = [self.headline.name], [peer.name for peer in self.peers]
        faster = ratio(best(medians, ours, "objects_s"), best(medians, peers, "objects_s"))
        yield Check("objects/s, of the best peer's", faster, "x", *self.rate)
        if self.cpu is not None:
            cpu, peer_cpu = (best(medians, names, "cpu_us", higher=False) for names in (ours, peers))
            yield Check("less client CPU than the best peer", ratio(peer_cpu, cpu), "x", *self.cpu)

    def _tools(self, work: Path, endpoint: str) -> dict[str, Callable[[], Record]]:
        if self.server == "rclone":
            return {}
        return {WRK: lambda: limit.run_wrk(work, endpoint, SETS[self.set_name], self.in_flight)}


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
        turns = run_turns(bench, self.title, [ours, *peers], bench.nginx, ["s64k", str(bench.manifest), "--mode", "latency"])
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
        turns = run_turns(bench, self.title, [ours, *peers], bench.rclone, ["s64k", str(bench.manifest), "--mode", "list"])
        medians = summarize(turns, list_metrics)
        check = Check("CPU a key", best(medians, [ours.name], "cpu_us", higher=False), "us", 15, 9, higher=False)
        return Outcome(self.name, self.title, medians, [check], turns.failures, turns.records)


def _latency_metrics(record: Record) -> dict[str, float]:
    return {"median_us": record["median_s"] * 1e6, "p99_us": record["p99_s"] * 1e6}


def list_metrics(record: Record) -> dict[str, float]:
    """Reads a listing: microseconds a key."""
    return {"cpu_us": record["cpu_s"] / record["objects"] * 1e6, "wall_us": record["wall_s"] / record["objects"] * 1e6}


def run_turns(
    bench: Bench,
    title: str,
    contenders: list[Contender],
    endpoint: str,
    arguments: list[str],
    tools: dict[str, Callable[[], Record]] | None = None,
    rounds: int | None = None,
) -> Turns:
    """Lets contenders, and the tools among them, take turns: as many as the run has, or `rounds`."""
    turns, rounds = Turns(), rounds or bench.rounds
    for name in take_turns(turns, contenders, [endpoint, *arguments], endpoint, bench.work, rounds, tools or {}):
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
        peers=(),
    ),
    ListRow(),
    FetchRow(
        "64k-tls",
        "64 KiB x 4000 over TLS, 32 in flight",
        "s64k",
        32,
        GET_MANY,
        (POOL,),
        server="tls",
        rate=(2, 3),
        cpu=(2.5, 4),
    ),
    FetchRow(
        "32m-tls",
        "32 MiB x 64 over TLS, 8 in flight",
        "l32m",
        8,
        POOL,
        (GET_MANY,),
        peers=PEERS_BRIEFLY,
        server="tls",
        rate=(1.4, None),
    ),
    FetchRow(
        "threads",
        "64 KiB x 4000, 128 threads that call get",
        "s64k",
        128,
        GET,
        peers=PEER_THREADS,
        rate=(1, None),
    ),
    FetchRow(
        "64k-s3", "64 KiB x 4000, 32 in flight, rclone's signed S3", "s64k", 32, GET_MANY, (POOL,), server="rclone"
    ),
)
