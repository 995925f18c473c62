"""The rows of this package against itself with its care turned off, and against what a late server allows.

Owns their contenders, their floors and aims.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import limit
from .dataset import SETS
from .drive import Contender, Record
from .nginx import LATENESS_S
from .outcome import Check, Outcome, best, fetch_metrics, ratio, summarize
from .rows import MP_GET, POOL, Bench, run_turns

# A difference of a few per cent needs more rounds than a ratio of two; these are short.
_COST_TURNS = 5
_PROCS = 2
_WRK_S = 2


@dataclass(frozen=True)
class CostRow:
    """What checksums, pins and retries cost: the same build, as it is and with them off, in turn.

    Without them there is one attempt and no checksum is asked for, and so (`Static.checked`) no ETag comes that could be compared.
    """

    name: str
    title: str
    set_name: str
    in_flight: int
    passes: int
    most: float
    """Floor of what they may cost of an object's CPU, in `unit`."""
    unit: str
    """`us`, or `%` of what an object costs without."""

    def run(self, bench: Bench) -> Outcome:
        """Measures the row, by way of the pool, since it counts what it has verified."""
        bare = Contender(f"{POOL.name}, bare", POOL.script, f"{POOL.variant}_bare")
        arguments = [self.set_name, str(bench.manifest), "--in-flight", str(self.in_flight), "--passes", str(self.passes)]
        rounds = bench.rounds * _COST_TURNS
        turns = run_turns(bench, self.title, [POOL, bare], bench.checked, arguments, rounds=rounds)
        medians = summarize(turns, _cost_metrics)
        cost = self._cost(*(best(medians, [name], "cpu_us") for name in (POOL.name, bare.name)))
        checks = [
            Check("more CPU an object than without", cost, self.unit, self.most, None, higher=False),
            Check("objects whose checksum was compared", best(medians, [POOL.name], "verified_percent"), "%", 100, None),
            Check("... and without", best(medians, [bare.name], "verified_percent"), "%", 0, None, higher=False),
        ]
        return Outcome(self.name, self.title, medians, checks, turns.failures, turns.records)

    def _cost(self, careful_us: float | None, bare_us: float | None) -> float | None:
        if careful_us is None or bare_us is None:
            return None
        return careful_us - bare_us if self.unit == "us" else (careful_us / bare_us - 1) * 100


def _cost_metrics(record: Record) -> dict[str, float]:
    return fetch_metrics(record) | {"verified_percent": record["num_verified"] / record["objects"] * 100}


@dataclass(frozen=True)
class LateRow:
    """`mp_get` from a server that answers late: does it keep as many requests in flight as it was asked to?"""

    name: str = "late"
    title: str = f"mp_get, 64 KiB x 32000, two workers, each answer {LATENESS_S * 1e3:.0f} ms late"

    def run(self, bench: Bench) -> Outcome:
        """Measures the row: with 256 requests a worker, and with the 64 that are the default."""
        ways = {
            256: Contender("ours, mp_get jobs=256", "ours", "mp_get_256"),
            64: Contender("ours, mp_get jobs=64", "ours", MP_GET.variant),
        }
        tools = {_wrk(jobs): lambda connections=jobs * _PROCS: _run_wrk(bench, connections) for jobs in ways}
        arguments = ["s64k", str(bench.manifest), "--passes", "8"]
        turns = run_turns(bench, self.title, [*ways.values()], bench.late, arguments, tools)
        medians = summarize(turns, fetch_metrics)
        checks = []
        for jobs, way in ways.items():
            ideal, allowed = jobs * _PROCS / LATENESS_S, best(medians, [_wrk(jobs)], "objects_s")
            reachable = None if allowed is None else min(ideal, allowed)
            kept = ratio(best(medians, [way.name], "objects_s"), reachable)
            # The table speaks of 256; at 64 the ideal lies below what the server can do, and so does not hide behind it.
            floor, aim = (0.8, None) if jobs == 256 else (None, 0.8)
            what = f"jobs={jobs}: objects/s, of {ideal:,.0f} or wrk's, whichever is less"
            checks.append(Check(what, kept, "x", floor, aim))
        return Outcome(self.name, self.title, medians, checks, turns.failures, turns.records)


def _wrk(jobs: int) -> str:
    return f"wrk -t1 -c{jobs * _PROCS}"


def _run_wrk(bench: Bench, connections: int) -> Record:
    return limit.run_wrk(bench.work, bench.late, SETS["s64k"], connections, _WRK_S)


OWN = (
    LateRow(),
    CostRow("64k-cost", "checksums, pins and retries, 64 KiB x 8000", "s64k", 32, 2, 5, "us"),
    CostRow("32m-cost", "checksums, pins and retries, 32 MiB x 64", "l32m", 8, 1, 8, "%"),
)
