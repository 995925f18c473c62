"""Calls `mp_get(procs=2)` once in a fresh process and prints when its first object came: `ours_cold.py set count`."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from s3dlio import mp_get

arrived: list[float] = []


def note(_uri: str, _view: Any) -> None:
    """Takes the time of the first object, as the caller sees it."""
    if not arrived:
        arrived.append(time.perf_counter())


# Under the guard, because a program that starts processes is expected to have one; this package does not need it.
if __name__ == "__main__":
    uris = [f"s3://bench/{sys.argv[1]}/data_{number:05d}.bin" for number in range(int(sys.argv[2]))]
    started = time.perf_counter()
    report = mp_get("s3://bench/", procs=2, jobs=64, uris=uris, sink=note)
    if report["succeeded"] != len(uris):
        raise AssertionError(report["errors"])
    reported = {name: report[name] for name in ("time_to_first_object_seconds", "startup_seconds")}
    print(json.dumps({"seen_s": arrived[0] - started, **reported}))
