"""The rows of the other two clouds: listings from the emulators that the tests use.

Owns their floors. An emulator says nothing of a cloud's speed, but what a client does with a page costs the same: only its CPU counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tests.support.azurite import AzuriteServer
from tests.support.gcs_server import GcsServer

from .drive import Turns
from .outcome import Check, Outcome, best, summarize
from .rows import Bench, list_metrics
from .single import fresh

_KEYS = 4000
_OURS = "ours, list_iter"


@contextmanager
def _google() -> Iterator[tuple[str, dict[str, str]]]:
    with GcsServer() as server:
        yield f"gs://{server.endpoint.new_bucket()}/listed/", server.endpoint.environment()


@contextmanager
def _azure() -> Iterator[tuple[str, dict[str, str]]]:
    with AzuriteServer() as server:
        endpoint = server.endpoint
        yield f"az://{endpoint.account}/{endpoint.new_container()}/listed/", endpoint.environment()


@dataclass(frozen=True)
class CloudListRow:
    """A listing of 4000 keys from an emulator."""

    name: str
    title: str
    serve: Callable[[], AbstractContextManager[tuple[str, dict[str, str]]]]

    def run(self, bench: Bench) -> Outcome:
        """Measures the row."""
        bench.progress(self.title)
        turns = Turns()
        with self.serve() as (uri, environment):
            record = fresh(["ours_list.py", uri, str(_KEYS), str(bench.rounds)], bench.rclone, bench.work, environment)
        turns.records[_OURS] = record["rounds"]
        medians = summarize(turns, list_metrics)
        check = Check("CPU a key", best(medians, [_OURS], "cpu_us", higher=False), "us", 15, 9, higher=False)
        return Outcome(self.name, self.title, medians, [check], {}, turns.records)


CLOUDS = (
    CloudListRow("list-gs", "LIST of 4000 keys, Google's emulator", _google),
    CloudListRow("list-az", "LIST of 4000 keys, Azurite", _azure),
)
