"""The row of local files: what is lost of a bare loop of `preadv` over the same files, from page cache, into as much memory.

Owns its contenders, its floors and aims.
"""

from __future__ import annotations

from dataclasses import dataclass

from .drive import Contender
from .outcome import Check, Outcome, best, fetch_metrics, ratio, summarize
from .rows import GET_MANY, MP_GET, POOL, POOL2, Bench, run_turns

BARE = Contender("bare preadv loop", "bare_preadv")
PEER = Contender("PyPI s3dlio", "peer_s3dlio")


@dataclass(frozen=True)
class FileRow:
    """Whole files of 1 MiB, in all ways of reading many."""

    name: str = "file-1m"
    title: str = "file://, 1 MiB x 1000, page cache, 16 in flight"

    def run(self, bench: Bench) -> Outcome:
        """Measures the row; the endpoint is the folder in which the static server's buckets lie."""
        ours = [GET_MANY, POOL, POOL2, MP_GET]
        endpoint = f"file://{bench.manifest.parent / 'data'}"
        arguments = ["m1m", str(bench.manifest), "--in-flight", "16", "--passes", "3"]
        turns = run_turns(bench, self.title, [*ours, BARE, PEER], endpoint, arguments)
        medians = summarize(turns, fetch_metrics)
        bare, peer = (best(medians, [one.name], "objects_s") for one in (BARE, PEER))
        checks = []
        for way in ours:
            found = best(medians, [way.name], "objects_s")
            checks.append(Check(f"{way.name.removeprefix('ours, ')}: objects/s, of the bare loop's", ratio(found, bare), "x", 0.8, 0.9))
            checks.append(Check("... and of PyPI s3dlio's", ratio(found, peer), "x", 2, None))
        return Outcome(self.name, self.title, medians, checks, turns.failures, turns.records)


FILES = (FileRow(),)
