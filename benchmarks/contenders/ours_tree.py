"""Uploads and downloads whole trees: for each line `round up SOURCE BUCKET` or `round down BUCKET TARGET`, prints what that took."""

from __future__ import annotations

import sys
import time

from _clock import cpu_ns
from _protocol import answer, claim_answers

from s3dlio import download, upload

answers = claim_answers()
answer(answers, {"ready": True})
for line in sys.stdin:
    _, verb, source, target = line.split()
    cpu, started = cpu_ns(), time.perf_counter()
    if verb == "up":
        upload(source, f"s3://{target}/")
    else:
        download(f"s3://{source}/", target)
    answer(answers, {"wall_s": time.perf_counter() - started, "cpu_s": (cpu_ns() - cpu) / 1e9})
