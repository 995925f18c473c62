"""Writes a number of small objects below a prefix and lists them, round after round: `ours_list.py uri count rounds`.

The stores are those of the environment: any scheme. Prints wall and CPU time of each listing.
"""

from __future__ import annotations

import json
import sys
import time

from _clock import cpu_ns

import s3dlio

uri, count, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
names = [f"{uri}data_{number:05d}.bin" for number in range(count)]
s3dlio.put_many([(name, name.encode()) for name in names], max_in_flight=16)
records = []
for _ in range(rounds + 1):
    before, started = cpu_ns(), time.perf_counter()
    found = [(entry.uri, entry.size) for entry in s3dlio.list_iter(uri, recursive=True)]
    record = {"wall_s": time.perf_counter() - started, "cpu_s": (cpu_ns() - before) / 1e9, "objects": count, "verified": True}
    if sorted(found) != [(name, len(name)) for name in names]:
        raise AssertionError(f"{len(found)} keys were listed, or others than were written")
    records.append(record)
print(json.dumps({"rounds": records[1:]}))
