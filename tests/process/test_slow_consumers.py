"""P6: a consumer that is slow, or stops for a while: memory stays below its cap, fetching stops, and goes on with the consumer."""

from __future__ import annotations

import threading

import pytest

import s3dlio
from tests.process.kit import Bucket, wait_quiet, wait_until

KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize("cap", ["4MiB", "64MiB"], ids=["memory-is-the-limit", "depth-is-the-limit"])
def test_p6_fetching_stops_with_the_consumer_and_goes_on_with_it(bucket: Bucket, procs: int, cap: str) -> None:
    uris = bucket.fill(300, 100 * KIB)
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes=cap) as pool:
        core = pool._core
        assert core is not None
        pairs = pool.fetch(uris)
        seen = [next(pairs) for _ in range(3)]
        for pause in range(3):
            limit = core.scheduler._last_part
            if procs:
                # Workers go on without the consumer, up to what they were given.
                wait_until(lambda limit=limit: len(bucket.server.requests) == limit, "what was granted is asked for")  # type: ignore[misc]
            threading.Event().wait(0.2)  # nothing can be waited for where nothing is to happen
            assert len(bucket.server.requests) <= limit <= len(seen) + 2 * core.scheduler.depth * max(procs, 1)
            stats = pool.stats()
            assert stats["memory_reserved_bytes"] <= stats["memory_cap_bytes"]
            # Views are released, so there is room for the next.
            assert bucket.check(seen[-1:]) == uris[len(seen) - 1 : len(seen)]
            num = len(seen)
            seen = [(uri, None) for uri, _ in seen]
            seen += [next(pairs) for _ in range(5)]
            assert [uri for uri, _ in seen] == uris[: num + 5], f"after pause {pause}"
        num = len(seen)
        del seen
        assert bucket.check(pairs) == uris[num:]
        assert wait_quiet(pool)["memory_used_bytes"] == 0
        assert len(bucket.server.requests) == 300 or pool.stats()["objects"] == 300


def test_p6_a_consumer_that_never_comes_back_costs_others_nothing(bucket: Bucket, procs: int) -> None:
    uris = bucket.fill(60, 200 * KIB)
    with s3dlio.Pool(procs=procs, jobs=4, memory_bytes="4MiB") as pool:
        idle = pool.fetch(uris)
        first = next(idle)
        for _ in range(3):
            assert bucket.check(pool.fetch(uris)) == uris
        assert bucket.check([first]) == uris[:1]
        del first
        assert bucket.check(idle) == uris[1:]
