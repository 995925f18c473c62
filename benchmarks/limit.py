"""`wrk`, the limit of HTTP here: one C thread that throws the bytes away.

Owns its Lua script and the reading of its report. The requests walk the whole list of keys as the contenders do; they are formatted
once, so that Lua costs a table look-up per request.
"""

from __future__ import annotations

import re
import resource
import subprocess
import time
from pathlib import Path

from .dataset import BUCKET, ObjectSet
from .drive import ContenderFailedError

_SCRIPT = """\
local requests, at = {}, 0
function init(args)
  for i = 0, COUNT - 1 do requests[i] = wrk.format("GET", string.format("/BUCKET/SET/data_%05d.bin", i)) end
end
function request()
  at = (at + 1) % COUNT
  return requests[at]
end
"""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def run_wrk(work: Path, endpoint: str, objects: ObjectSet, connections: int, duration_s: int = 2) -> dict[str, float]:
    """Runs `wrk -t1` over one set and returns a record as the contenders print it: wall_s, cpu_s, objects, bytes.

    Raises:
        ContenderFailedError: wrk saw an answer that is no success, or an error of a socket.
    """
    script = work / f"wrk_{objects.name}.lua"
    text = _SCRIPT.replace("COUNT", str(objects.count)).replace("BUCKET", BUCKET).replace("SET", objects.name)
    script.write_text(text)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration_s}s", "--timeout", "30s", "-s", str(script), endpoint]
    cpu_before, started = _children_cpu_s(), time.perf_counter()
    report = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60 + duration_s).stdout
    wall_s = time.perf_counter() - started
    return _read(report, _children_cpu_s() - cpu_before, wall_s)


def _read(report: str, cpu_s: float, wall_s: float) -> dict[str, float]:
    if "Non-2xx" in report or "Socket errors" in report:
        raise ContenderFailedError(f"wrk failed:\n{report}")
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m), ([\d.]+)([KMG]?)B read", report)
    if found is None:
        raise ContenderFailedError(f"wrk's report is not understood:\n{report}")
    # The bytes hold the heads too (0.4 % at 64 KiB), and what was read of requests in flight when the clock stopped.
    num_bytes = float(found[4]) * _UNITS[found[5]]
    spent_s = min(float(found[2]) * {"ms": 1e-3, "s": 1.0, "m": 60.0}[found[3]], wall_s)
    return {"wall_s": spent_s, "cpu_s": cpu_s, "objects": int(found[1]), "bytes": num_bytes}


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
