"""The command mp-get: live progress, then a summary. Measures nothing itself: every figure is `mp_get`'s."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..config import parse_size
from ..ops.lifecycle import shutdown
from ..ops.mp_get import mp_get
from ..text import clean
from .console import LiveProgress, print_error, print_note


def run_mp_get(
    uri: str, procs: int, jobs: int, num: int | None, template: str | None, memory: str | None, is_json: bool
) -> bool:
    """Fetches, shows, and returns whether every object came.

    Raises:
        ConfigurationError: `memory` is no size, or an argument makes no sense.
        S3dlioError: The run as a whole failed: the listing, or the workers.
    """
    memory_bytes = None if memory is None else parse_size(memory)
    try:
        with LiveProgress() as live, live.phase("mp-get") as report:
            result = mp_get(uri, procs, jobs, num, template, progress=report, memory_bytes=memory_bytes)
    finally:
        shutdown()
    if is_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        Console().print(summary(uri, result))
    sys.stdout.flush()
    _print_failures(uri, result)
    return not result["failed"]


def summary(uri: str, result: dict[str, Any]) -> Group:
    """Returns two tables: the run, and its workers."""
    return Group(
        Text(f"mp-get {clean(uri)}", style="bold"), _run_table(result), Text(), _worker_table(result["workers"])
    )


def _run_table(result: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    latency, first_s = result["latency_ms"], result["time_to_first_object_seconds"]
    rows = {
        "objects": f"{result['succeeded']:,} of {result['attempted']:,}, {result['failed']:,} failed",
        "bytes": f"{result['total_bytes']:,} ({result['bytes_source'].lower()})",
        "throughput": f"{result['throughput_mb_s']:,.1f} MB/s = {result['throughput_mib_s']:,.1f} MiB/s",
        "objects/s": f"{result['ops_per_sec']:,.0f}",
        "duration": f"{result['duration_seconds']:.3f} s, after {result['startup_seconds']:.3f} s for the workers to start",
        "first object": "-" if first_s is None else f"after {first_s:.3f} s",
    }
    if result["succeeded"]:
        rows["latency"] = ", ".join(f"{name} {latency[name]:,.1f} ms" for name in ("p50", "p95", "p99", "max"))
    for name, text in rows.items():
        table.add_row(name, Text(text))
    return table


def _worker_table(workers: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="cyan")
    for name in ("worker", "objects", "failed", "MB", "MB/s"):
        table.add_column(name, justify="right")
    for worker in workers:
        table.add_row(
            str(worker["worker_id"]),
            f"{worker['objects']:,}",
            f"{worker['failed']:,}",
            f"{worker['bytes'] / 1e6:,.1f}",
            f"{worker['throughput_mb_s']:,.1f}",
        )
    return table


def _print_failures(uri: str, result: dict[str, Any]) -> None:
    if not result["attempted"]:
        print_note(f"no object at {uri}")
    if not result["failed"]:
        return
    print_error(f"{result['failed']:,} of {result['attempted']:,} objects failed; the first:")
    for failure in result["errors"]:
        print_note(f"  {failure_line(failure)}")


def failure_line(failure: dict[str, Any]) -> str:
    """Returns an entry of `errors` as one line that names the URI once."""
    uri, text = failure["uri"], failure["error"]
    return text if uri in text else f"{uri}: {text}"
