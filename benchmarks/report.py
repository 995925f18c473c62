"""Tables and files of a run: the table on the terminal, `table.md` and `latest.json`. Owns wording and layout; measures nothing."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .outcome import Check, Outcome

_HEADS = {
    "objects_s": "objects/s",
    "mib_s": "MiB/s",
    "cpu_us": "CPU us/object",
    "caller_cpu_us": "of it, the caller's",
    "cpu_s_gib": "CPU s/GiB",
    "samples_s": "samples/s",
    "sample_mib_s": "MiB/s",
    "sample_cpu_us": "CPU us/sample",
    "training_cpu_us": "of it, the training process's",
    "verified_percent": "% verified",
    "median_us": "median us",
    "p99_us": "p99 us",
    "wall_us": "wall us/key",
    "pss_mib": "peak PSS MiB",
    "segment_mib": "peak segment MiB",
    "held_mib": "peak memory MiB",
    "processes": "processes",
    "import_ms": "import ms",
    "process_ms": "whole process ms",
    "seen_ms": "seen after ms",
    "reported_ms": "reported ms",
    "startup_ms": "startup ms",
    "made_ms": "data set made ms",
    "first_ms": "first batch ms",
    "second_ms": "first of the 2nd epoch ms",
}
_COLOURS = {
    "aim": "bold green",
    "floor": "green",
    "below aim": "yellow",
    "MISSED": "bold red",
    "not measured": "bold red",
}


def show(console: Console, outcome: Outcome) -> None:
    """Prints one row: the contenders' medians, then the verdicts."""
    table = Table("", title=outcome.title, title_justify="left", title_style="bold", expand=False)
    for metric in _metrics(outcome):
        table.add_column(_HEADS[metric], justify="right")
    for name, cells in _lines(outcome):
        table.add_row(name, *cells, style="bold cyan" if name.startswith("ours") else "")
    if outcome.medians:
        console.print(table)
    for check in outcome.checks:
        console.print(f"  [{_COLOURS[check.verdict]}]{check.verdict:>12}[/]  {_sentence(check)}", highlight=False)
    for name, reason in outcome.failures.items():
        # Its last line is the error; latest.json has the traceback.
        console.print(f"  [bold red]{'failed':>12}[/]  {name}: ", end="")
        console.print(reason.strip().splitlines()[-1], markup=False, highlight=False)
    console.print()


def write_json(path: Path, outcomes: list[Outcome], rounds: int) -> None:
    """Writes medians, verdicts and every round's record."""
    rows = [
        asdict(outcome) | {"checks": [asdict(check) | {"verdict": check.verdict} for check in outcome.checks]}
        for outcome in outcomes
    ]
    path.write_text(json.dumps({"where": _where(), "rounds": rounds, "rows": rows}, indent=1) + "\n")


def write_markdown(path: Path, outcomes: list[Outcome], rounds: int) -> None:
    """Writes the verdicts as one table, then each row's medians."""
    where = ", ".join(f"{name} {value}" for name, value in _where().items())
    how = (
        f"Medians of {rounds} interleaved, warmed rounds on loopback; {where}. How to read it: `benchmarks/README.md`."
    )
    text = ["# Benchmark results", "", how, ""]
    text += ["| work | figure | measured | floor | aim | |", "|---|---|---|---|---|---|"]
    text += [_verdict_line(outcome, check) for outcome in outcomes for check in outcome.checks]
    for outcome in outcomes:
        text += ["", *_section(outcome)]
    path.write_text("\n".join(text) + "\n")


def _section(outcome: Outcome) -> Iterator[str]:
    metrics = _metrics(outcome)
    yield f"## {outcome.title}"
    yield ""
    if metrics:
        yield "| | " + " | ".join(_HEADS[metric] for metric in metrics) + " |"
        yield "|---|" + "---:|" * len(metrics)
    for name, cells in _lines(outcome):
        yield f"| {f'**{name}**' if name.startswith('ours') else name} | " + " | ".join(cells) + " |"
    for name in outcome.failures:
        yield f"\n{name} failed."


def _verdict_line(outcome: Outcome, check: Check) -> str:
    figures = [_with_unit(value, check.unit) for value in (check.value, check.floor, check.aim)]
    return "| " + " | ".join([outcome.title, check.what, *figures, check.verdict]) + " |"


def _sentence(check: Check) -> str:
    marks = {"floor": check.floor, "aim": check.aim}
    wanted = ", ".join(f"{name} {_with_unit(mark, check.unit)}" for name, mark in marks.items() if mark is not None)
    return f"{check.what}: [bold]{_with_unit(check.value, check.unit)}[/]" + (f" ({wanted})" if wanted else "")


def _metrics(outcome: Outcome) -> list[str]:
    return [metric for metric in _HEADS if any(metric in found for found in outcome.medians.values())]


def _lines(outcome: Outcome) -> Iterator[tuple[str, list[str]]]:
    for name, found in outcome.medians.items():
        yield name, [_figure(found.get(metric)) for metric in _metrics(outcome)]


def _with_unit(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{_figure(value)} {unit}".strip()


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _where() -> dict[str, str]:
    return {
        "on": datetime.now(UTC).date().isoformat(),
        "CPUs": str(len(os.sched_getaffinity(0))),
        "Linux": platform.release().partition("-")[0],
        "Python": platform.python_version(),
    }
