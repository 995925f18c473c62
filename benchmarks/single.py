"""The rows of the Speed table without a peer: memory under a cap, import, the first object of a cold start.

Owns their fresh processes, their floors and aims.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import servers
from .drive import HERE, Contender, ContenderFailedError, Record, running
from .footprint import sampled
from .outcome import Check, Medians, Outcome
from .rows import Bench

_MIB = 1 << 20
_CAP_MIB = 256
_IMPORTS = 11
_COLD_STARTS = 7
_TIMEOUT_S = 300


@dataclass(frozen=True)
class MemoryRow:
    """2 GiB, twice, through a pool that may hold 256 MiB."""

    name: str = "memory"
    title: str = 'Pool.fetch of 64 x 32 MiB, procs=2, memory_bytes="256MiB": peak memory'

    def run(self, bench: Bench) -> Outcome:
        """Measures the row; the first fetch compares checksums, so it also reads every byte."""
        bench.progress(self.title)
        capped = Contender("ours, Pool.fetch capped", "ours", "capped")
        arguments = [bench.nginx, "l32m", str(bench.manifest), "--in-flight", "8"]
        with running(capped, arguments, bench.nginx, bench.work) as started, sampled(started.pid) as peak:
            try:
                record = started.answer() | started.round()
            except ContenderFailedError as error:
                return Outcome(self.name, self.title, {}, [_peak_check(None, 3)], {capped.name: str(error)})
        found = {
            "pss_mib": peak.pss_bytes / _MIB,
            "segment_mib": peak.segment_bytes / _MIB,
            "processes": float(peak.num_processes),
            "mib_s": record["bytes"] / record["wall_s"] / _MIB,
        }
        check = _peak_check(found["pss_mib"], peak.num_processes)
        return Outcome(self.name, self.title, {capped.name: found}, [check], {}, {capped.name: [record | found]})


def _peak_check(value: float | None, num_processes: int) -> Check:
    floor, aim = _CAP_MIB + 60 * num_processes, _CAP_MIB + 40 * num_processes
    return Check(f"peak PSS of {num_processes} processes", value, "MiB", floor, aim, higher=False)


@dataclass(frozen=True)
class ImportRow:
    """`import s3dlio` in fresh interpreters."""

    name: str = "import"
    title: str = "import s3dlio"

    def run(self, bench: Bench) -> Outcome:
        """Measures the row: `face` is the bare import, `verbs` has used get, get_many, Pool and mp_get, `bare` is Python alone."""
        bench.progress(self.title)
        records: dict[str, list[Record]] = {what: [] for what in ("bare", "face", "verbs")}
        for _ in range(_IMPORTS):
            for what, found in records.items():
                found.append(fresh(["ours_import.py", what], bench.nginx, bench.work))
        medians = {what: _import_medians(found) for what, found in records.items()}
        checks = [Check("import s3dlio", medians["face"]["import_ms"], "ms", 250, 150, higher=False)]
        # The table sets no floor for it, but a face that is quick only because it is empty would be no feat.
        checks.append(
            Check("... and the first use of its verbs", medians["verbs"]["import_ms"], "ms", None, 250, higher=False)
        )
        came_along = {name for found in records.values() for one in found for name in one["unwanted"]}
        checks.append(
            Check(f"frameworks and SDKs in sys.modules ({_named(came_along)})", len(came_along), "", 0, 0, higher=False)
        )
        return Outcome(self.name, self.title, medians, checks, {}, records)


def _import_medians(records: list[Record]) -> dict[str, float]:
    return {
        "import_ms": statistics.median(one["import_s"] for one in records) * 1e3,
        "process_ms": statistics.median(one["process_s"] for one in records) * 1e3,
    }


def _named(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


@dataclass(frozen=True)
class ColdRow:
    """From the call of `mp_get` to its first object, workers not yet started."""

    name: str = "cold"
    title: str = "first object of a cold mp_get(procs=2)"

    def run(self, bench: Bench) -> Outcome:
        """Measures the row; what counts is when the caller saw the object, not what `mp_get` reports."""
        bench.progress(self.title)
        records = [fresh(["ours_cold.py", "s64k", "500"], bench.nginx, bench.work) for _ in range(_COLD_STARTS)]
        names = {"seen_ms": "seen_s", "reported_ms": "time_to_first_object_seconds", "startup_ms": "startup_seconds"}
        found = {metric: statistics.median(one[name] for one in records) * 1e3 for metric, name in names.items()}
        medians: Medians = {"ours, mp_get procs=2": found}
        check = Check("first object after the call", found["seen_ms"] / 1e3, "s", 0.7, 0.4, higher=False)
        return Outcome(self.name, self.title, medians, [check], {}, {"ours, mp_get procs=2": records})


def fresh(arguments: list[str], endpoint: str, work: Path, variables: dict[str, str] | None = None) -> Record:
    """Runs a script of `contenders/` in a new interpreter and returns its record, with the life of its process as `process_s`.

    `variables` come on top of those of `endpoint`.

    Raises:
        ContenderFailedError: It failed.
    """
    command = [sys.executable, str(HERE / "contenders" / arguments[0]), *arguments[1:]]
    started = time.perf_counter()
    environment = servers.environment(endpoint, work) | (variables or {})
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_TIMEOUT_S, check=False)
    process_s = time.perf_counter() - started
    if ended.returncode:
        raise ContenderFailedError(f"{' '.join(arguments)}: {ended.stderr[-1500:]}")
    return dict(json.loads(ended.stdout)) | {"process_s": process_s}


SINGLE = (MemoryRow(), ImportRow(), ColdRow())
