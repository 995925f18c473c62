"""The rows of writes: objects put from memory, concurrently, to a real S3 server that keeps them as files.

Owns which contenders run, and each row's floors. What the server has is compared with what was put, byte by byte, after every round.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import servers
from .drive import Contender
from .outcome import Check, Medians, Outcome, best, fetch_metrics, ratio, summarize
from .rows import Bench, run_turns

# Not s3torchconnector, whose client breaks off puts to rclone ("Request has already completed"): `keeper.py` says why.
OURS = Contender("ours, put_many", "ours", "get_many")
PEERS = (
    Contender("obstore, threads", "peer_obstore", "threads"),
    Contender("obstore, async", "peer_obstore", "async"),
    Contender("PyPI s3dlio, put_many", "peer_s3dlio"),
    Contender("PyPI s3dlio, put_bytes", "peer_s3dlio", "threads"),
    Contender("boto3, threads", "peer_boto3", max_rounds=2),
)


_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 1 << 30
"""More than is ever kept at once: 48 objects of 8 MiB."""


def _roomy(work: Path) -> Path:
    """Returns where the server keeps its files: in memory where there is room: on a disk all clients were half as fast."""
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES else work


@dataclass(frozen=True)
class PutRow:
    """Objects of one size, each by one request."""

    name: str
    title: str
    set_name: str
    """Whose bytes are put."""
    size: int
    count: int
    in_flight: int
    rate: float
    """Floor of objects/s over the best peer's."""
    cpu: float
    """Floor of the best peer's CPU an object over ours."""

    def run(self, bench: Bench) -> Outcome:
        """Measures the row."""
        arguments = [self.set_name, str(bench.manifest), "--mode", "put", "--in-flight", str(self.in_flight)]
        arguments += ["--put-bytes", str(self.size), "--put-count", str(self.count)]
        with tempfile.TemporaryDirectory(prefix="written-", dir=_roomy(bench.work)) as name:
            root = Path(name)
            bucket = root / "put"
            bucket.mkdir()
            with servers.rclone(bench.work, root, is_writable=True) as endpoint:
                turns = run_turns(bench, self.title, [OURS, *PEERS], endpoint, [*arguments, "--written", str(bucket)])
        medians = summarize(turns, fetch_metrics)
        return Outcome(self.name, self.title, medians, list(self._checks(medians)), turns.failures, turns.records)

    def _checks(self, medians: Medians) -> Iterator[Check]:
        names = [peer.name for peer in PEERS]
        faster = ratio(best(medians, [OURS.name], "objects_s"), best(medians, names, "objects_s"))
        yield Check("objects/s, of the best peer's", faster, "x", self.rate, None)
        cpu, peer_cpu = (best(medians, which, "cpu_us", higher=False) for which in ([OURS.name], names))
        yield Check("less client CPU than the best peer", ratio(peer_cpu, cpu), "x", self.cpu, None)


WRITES = (
    PutRow("put-64k", "PUT of 64 KiB x 1000, 32 in flight, rclone", "s64k", 64 << 10, 1000, 32, 1.2, 2.5),
    PutRow("put-8m", "PUT of 8 MiB x 40, 8 in flight, rclone", "l32m", 8 << 20, 40, 8, 1, 1),
)
