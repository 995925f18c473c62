"""Contender processes and their turns.

Owns starting them, asking for rounds and the time limits; never interprets what they measured.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import servers

HERE = Path(__file__).parent
PEERS_PYTHON = HERE.parent / ".venv-peers" / "bin" / "python"
_ANSWER_TIMEOUT_S = 300.0

Record = dict[str, Any]


class ContenderFailedError(RuntimeError):
    """A contender ended, hung or answered with something else than a record."""


@dataclass(frozen=True)
class Contender:
    """One line of a table: a script of `contenders/` and the way it works."""

    name: str
    script: str
    variant: str = ""
    max_rounds: int = 1000
    """Fewer for one so slow that its rounds would be most of the run."""

    @property
    def is_ours(self) -> bool:
        """Whether this package is measured, and not a peer."""
        return self.script in ("ours", "loader_ours", "ours_tree", "connector_ours")

    def command(self, *arguments: str) -> list[str]:
        """Returns the argv; peers run in an environment of their own, since one of them has this package's import name."""
        python = sys.executable if self.is_ours else str(PEERS_PYTHON)
        return [python, str(HERE / "contenders" / f"{self.script}.py"), *arguments, "--variant", self.variant]


@dataclass
class Turns:
    """What the rounds brought."""

    records: dict[str, list[Record]] = field(default_factory=dict)
    """By contender, one record a round."""
    failures: dict[str, str] = field(default_factory=dict)
    """By contender, why it gave up."""


class Running:
    """A started contender."""

    def __init__(self, contender: Contender, process: subprocess.Popen[str], log: Path) -> None:
        self.contender = contender
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def answer(self) -> Record:
        """Waits for its next line.

        Raises:
            ContenderFailedError: It ended, or said nothing for five minutes.
        """
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _ANSWER_TIMEOUT_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise ContenderFailedError(
                f"{'ended' if ready else 'hangs'}: {self._log.read_text(errors='replace')[-1500:]}"
            )
        return dict(json.loads(line))

    def round(self, way: str = "") -> Record:
        """Asks for one round, of one way if the contender has several, and waits for its record."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"round {way}\n")
        self._process.stdin.flush()
        return self.answer()


@contextmanager
def running(contender: Contender, arguments: list[str], endpoint: str, work: Path) -> Iterator[Running]:
    """Starts a contender against `endpoint`; its process ends with the `with` block."""
    log = work / f"{contender.script}-{contender.variant or 'only'}.log"
    pipe = subprocess.PIPE
    environment = servers.environment(endpoint, work)
    with (
        log.open("w") as errors,
        subprocess.Popen(
            contender.command(*arguments), stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment
        ) as process,
    ):
        try:
            yield Running(contender, process, log)
        except BaseException:
            process.kill()
            raise
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.close()
        process.wait(timeout=10)
    except (BrokenPipeError, subprocess.TimeoutExpired):
        process.kill()


def take_turns(
    turns: Turns,
    contenders: list[Contender],
    arguments: list[str],
    endpoint: str,
    work: Path,
    rounds: int,
    tools: dict[str, Callable[[], Record]],
) -> Iterator[str]:
    """Warms all contenders up, then lets them and the `tools` (which need no process of their own) run in turn, round after round.

    Fills `turns` and yields the name of each that had its turn. One that fails is left out of the next rounds, and the reason is kept.
    """
    with ExitStack() as stack:
        asked: dict[str, Callable[[], Record]] = {}
        for contender in contenders:
            started = stack.enter_context(running(contender, arguments, endpoint, work))
            if keep(turns, contender.name, started.answer) is not None:
                asked[contender.name] = started.round
            yield contender.name
        limits = {contender.name: contender.max_rounds for contender in contenders}
        for number in range(rounds):
            for name, ask in [one for one in (asked | tools).items() if number < limits.get(one[0], rounds)]:
                record = keep(turns, name, ask)
                if record is None:
                    asked.pop(name, None)
                else:
                    turns.records.setdefault(name, []).append(record)
                yield name


def keep(turns: Turns, name: str, ask: Callable[[], Record]) -> Record | None:
    """Asks a contender and returns its record; if it fails, None, and the reason is kept."""
    try:
        return ask()
    except (ContenderFailedError, BrokenPipeError, json.JSONDecodeError) as error:
        turns.failures[name] = str(error)
        return None
