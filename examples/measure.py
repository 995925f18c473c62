"""Measures what a storage system gives, by processes: the same prefix with 1, 2, ... workers.

python examples/measure.py s3://bucket/prefix/ [most processes]
"""

from __future__ import annotations

import sys

import s3dlio


def main() -> None:
    prefix = sys.argv[1]
    most = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    print("procs   objects/s      MB/s    p99 ms   failed")
    for procs in range(1, most + 1):
        report = s3dlio.mp_get(prefix, procs=procs, jobs=64)
        print(
            f"{procs:5}  {report['ops_per_sec']:10.0f}  {report['throughput_mb_s']:8.0f}"
            f"  {report['latency_ms']['p99']:8.1f}  {report['failed']:7}"
        )


if __name__ == "__main__":
    main()
