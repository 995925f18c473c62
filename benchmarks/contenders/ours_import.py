"""Imports this package in a fresh interpreter and prints how long that took and what came along: `ours_import.py bare|face|verbs`."""

from __future__ import annotations

import json
import sys
import time

_UNWANTED = {"torch", "jax", "tensorflow", "boto3", "botocore", "google", "azure"}

what = sys.argv[1]
started = time.perf_counter()
if what != "bare":
    import s3dlio

    if what == "verbs":
        # The face loads names when they are first used; what a program pays in the end is this.
        found = (s3dlio.get, s3dlio.get_many, s3dlio.Pool, s3dlio.mp_get)
spent_s = time.perf_counter() - started
print(
    json.dumps({"import_s": spent_s, "unwanted": sorted(_UNWANTED & {name.partition(".")[0] for name in sys.modules})})
)
