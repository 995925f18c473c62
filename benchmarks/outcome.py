"""What a row of the Speed table brought: medians, ratios and verdicts. Pure: no process, no file, no clock."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .drive import Record, Turns

Medians = dict[str, dict[str, float]]
"""By contender, then by metric."""


@dataclass(frozen=True)
class Check:
    """One figure of the Speed table against its floor and its aim."""

    what: str
    value: float | None
    """None where something that it needs could not be measured."""
    unit: str
    floor: float | None
    """None where the table sets only an aim."""
    aim: float | None
    higher: bool = True
    """Whether more is better."""

    @property
    def verdict(self) -> str:
        """`aim` (reached), `floor` (held), `below aim` (there is no floor), `MISSED`, or `not measured`."""
        if self.value is None:
            return "not measured"
        if self._reaches(self.aim):
            return "aim"
        if self.floor is None:
            return "below aim"
        return "floor" if self._reaches(self.floor) else "MISSED"

    @property
    def is_failed(self) -> bool:
        """Whether the run must say no."""
        return self.verdict in ("MISSED", "not measured")

    def _reaches(self, mark: float | None) -> bool:
        if mark is None or self.value is None:
            return False
        return self.value >= mark if self.higher else self.value <= mark


@dataclass
class Outcome:
    """One row, measured."""

    name: str
    title: str
    medians: Medians
    checks: list[Check] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """By contender, why it brought nothing."""
    records: dict[str, list[Record]] = field(default_factory=dict)
    """By contender, every round."""

    @property
    def is_failed(self) -> bool:
        """Whether a floor was missed or a contender gave up."""
        return bool(self.failures) or any(check.is_failed for check in self.checks)


def summarize(turns: Turns, measure: Callable[[Record], dict[str, float]]) -> Medians:
    """Takes each metric's median over the rounds."""
    found: Medians = {}
    for name, records in turns.records.items():
        rounds = [measure(record) for record in records]
        found[name] = {metric: statistics.median(one[metric] for one in rounds) for metric in rounds[0]}
    return found


def best(medians: Medians, names: Iterable[str], metric: str, *, higher: bool = True) -> float | None:
    """Returns the best median of a metric among the named contenders, or None if none of them has it."""
    values = [medians[name][metric] for name in names if name in medians and metric in medians[name]]
    if not values:
        return None
    return max(values) if higher else min(values)


def ratio(over: float | None, under: float | None) -> float | None:
    """Divides, where both were measured."""
    return None if over is None or under is None else over / under


def fetch_metrics(record: Record) -> dict[str, float]:
    """Reads a fetch round: objects/s, MiB/s, CPU µs an object of all the contender's processes, CPU s a GiB."""
    objects, wall_s, gib = record["objects"], record["wall_s"], record["bytes"] / 2**30
    return {
        "objects_s": objects / wall_s,
        "mib_s": gib * 1024 / wall_s,
        "cpu_us": record["cpu_s"] / objects * 1e6,
        "cpu_s_gib": record["cpu_s"] / gib,
    }


def caller_metrics(record: Record) -> dict[str, float]:
    """Reads a fetch round, with the CPU µs an object of the calling process alone (wrk has no other)."""
    own_cpu_s = record.get("own_cpu_s", record["cpu_s"])
    return fetch_metrics(record) | {"caller_cpu_us": own_cpu_s / record["objects"] * 1e6}
