"""Measures the Speed table: `python -m benchmarks.run [--quick] [--rounds N] [--only ROW ...]`.

Owns the order of a run and its exit status: 0 if every floor is held, 1 if one is missed or a contender failed, 2 if it cannot start.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Protocol

from rich.console import Console

from . import dataset, nginx, plot, report, servers
from .clouds import CLOUDS
from .compat import COMPAT
from .drive import PEERS_PYTHON, ContenderFailedError
from .files import FILES
from .loaders import LOADERS
from .outcome import Check, Outcome
from .own import OWN
from .rows import COMPARED, Bench
from .single import SINGLE
from .trees import TREES
from .writes import WRITES

_HERE = Path(__file__).parent
_ROUNDS = 5
_QUICK_ROUNDS = 2


class Row(Protocol):
    """One row of the table."""

    @property
    def name(self) -> str:
        """What `--only` calls it."""

    @property
    def title(self) -> str:
        """What the table calls it."""

    def run(self, bench: Bench) -> Outcome:
        """Measures it."""


_ALL: list[Row] = [*COMPARED, *OWN, *SINGLE, *WRITES, *FILES, *TREES, *CLOUDS, *LOADERS, *COMPAT]
ROWS = {row.name: row for row in _ALL}


def main() -> int:
    """Runs the chosen rows, prints each as it ends, and writes the results."""
    given = _parse()
    console = Console(width=None if sys.stdout.isatty() else 120)
    # Ended politely, the servers and contenders go too.
    signal.signal(signal.SIGTERM, _leave)
    try:
        servers.require_tools()
        _require_peers()
    except servers.MissingToolError as error:
        console.print(f"[bold red]{error}[/]")
        return 2
    rounds = given.rounds or (_QUICK_ROUNDS if given.quick else _ROUNDS)
    with console.status("writing the data set") as status, _bench(rounds, status.update) as bench:
        outcomes = []
        for name in given.only or ROWS:
            outcomes.append(_measure(ROWS[name], bench))
            report.show(console, outcomes[-1])
    _write(given.results, outcomes, rounds, console)
    return int(any(outcome.is_failed for outcome in outcomes))


@contextmanager
def _bench(rounds: int, progress: Callable[[str], None]) -> Iterator[Bench]:
    work = _HERE / ".work"
    work.mkdir(exist_ok=True)
    root = work / "data"
    manifest = dataset.ensure(root)
    with nginx.running(work, root, manifest) as static, servers.rclone(work, root) as signed:
        yield Bench(work, manifest, static.plain, static.tls, static.checked, static.late, signed, rounds, progress)


def _measure(row: Row, bench: Bench) -> Outcome:
    try:
        return row.run(bench)
    except ContenderFailedError as error:
        return Outcome(row.name, row.title, {}, [Check("every figure", None, "", None, None)], {row.title: str(error)})


def _write(results: Path, outcomes: list[Outcome], rounds: int, console: Console) -> None:
    results.mkdir(parents=True, exist_ok=True)
    report.write_json(results / "latest.json", outcomes, rounds)
    report.write_markdown(results / "table.md", outcomes, rounds)
    if plot.draw(results / "plot.png", outcomes):
        console.print(f"plot: {results / 'plot.png'}", highlight=False)
    console.print(f"table: {results / 'table.md'}\nevery round: {results / 'latest.json'}", highlight=False)


def _require_peers() -> None:
    if not PEERS_PYTHON.exists():
        venv = PEERS_PYTHON.parent.parent.name
        how = f"python -m venv {venv} && {venv}/bin/pip install -r benchmarks/peers.txt"
        raise servers.MissingToolError(
            f"missing: the peers' environment {venv}. `make bench` builds it; by hand: {how}"
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description="Measures the Speed table against peers.")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_ROUNDS} rounds instead of {_ROUNDS}")
    parser.add_argument("--rounds", type=int, help="how many turns each contender has")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--results", type=Path, default=_HERE / "results", help="where the results are written")
    return parser.parse_args()


def _leave(signum: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
