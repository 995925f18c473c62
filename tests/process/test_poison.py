"""P2: an object that workers die of fails by its URI, after three deaths; everything else is delivered, and the pool goes on."""

from __future__ import annotations

import contextlib
from collections import Counter

import psutil
import pytest

import s3dlio
from tests.process.kit import Bucket, wait_until, worker_processes
from tests.support.scripted_server import Connection, Request

KIB = 1 << 10
POISON = "poison"


class Killer:
    """Kills the worker process at the other end of the connection through which an object is asked for, every time."""

    def __init__(self, bucket: Bucket, *keys: str) -> None:
        self.killed: list[int] = []
        for key in keys:
            bucket.server.faults[bucket.path(key)] = [self.kill] * 30

    def kill(self, request: Request, connection: Connection) -> None:
        port = connection._sock.getpeername()[1]
        for worker in worker_processes():
            # Another object may be its end between the look and the kill.
            with contextlib.suppress(psutil.NoSuchProcess):
                if port in {own.laddr.port for own in worker.net_connections("tcp")}:
                    # Noted first: the pool may be told of the death, and have ended, before this thread runs again.
                    self.killed.append(worker.pid)
                    worker.kill()
        connection.reset()


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
@pytest.mark.parametrize("position", [0, 30, 60])
def test_p2_poison_object_fails_alone_and_all_others_are_delivered_once(bucket: Bucket, ordered: bool, position: int) -> None:
    uris = bucket.fill(60, 20 * KIB)
    poison = bucket.add(POISON, 20 * KIB)
    killer = Killer(bucket, POISON)
    wanted = [*uris[:position], poison, *uris[position:]]
    with s3dlio.Pool(procs=2, jobs=16, memory_bytes="32MiB") as pool:
        found = list(pool.fetch(wanted, ordered=ordered, errors="return"))
        if ordered:
            assert [uri for uri, _ in found] == wanted
        [error] = [result for uri, result in found if uri == poison]
        assert isinstance(error, s3dlio.WorkerLostError)
        assert error.uri == poison
        assert error.attempts == len(killer.killed) == len(set(killer.killed)) == 3
        assert "SIGKILL" in str(error)
        found = [(uri, result) for uri, result in found if uri != poison]
        assert Counter(bucket.check(found)) == Counter(uris)
        del found
        # The pool is whole again, and none of these deaths counts against its budget of three a minute.
        wait_until(lambda: bool(bucket.check(pool.fetch(uris[:4]))) and pool.stats()["workers"] == 2, "the last one was replaced")
        assert bucket.check(pool.fetch(uris)) == uris
        assert pool.stats()["failed"] == 1


def test_p2_poison_object_is_raised_in_its_turn_and_the_pool_stays_usable(bucket: Bucket) -> None:
    uris = bucket.fill(60, 5 * KIB)
    poison = bucket.add(POISON, 5 * KIB)
    Killer(bucket, POISON)
    seen = []
    with s3dlio.Pool(procs=2, jobs=8, memory_bytes="32MiB") as pool:
        with pytest.raises(s3dlio.WorkerLostError) as caught:
            seen.extend(bucket.check(pool.fetch([*uris[:20], poison, *uris[20:]])))
        assert caught.value.uri == poison
        assert bucket.check(pool.fetch(uris)) == uris


def test_p2_one_worker_is_enough_to_find_the_object_that_kills_it(bucket: Bucket) -> None:
    uris = bucket.fill(12, 5 * KIB)
    poison = bucket.add(POISON, 5 * KIB)
    killer = Killer(bucket, POISON)
    with s3dlio.Pool(procs=1, jobs=4, memory_bytes="32MiB") as pool:
        found = dict(pool.fetch([*uris[:6], poison, *uris[6:]], errors="return"))
        assert isinstance(found.pop(poison), s3dlio.WorkerLostError)
        assert sorted(bucket.check(found.items())) == uris
        assert len(killer.killed) == 3


def test_p2_two_objects_that_kill_at_once_are_each_found(bucket: Bucket) -> None:
    uris = bucket.fill(40, 5 * KIB)
    poisons = [bucket.add(f"{POISON}{number}", 5 * KIB) for number in range(2)]
    Killer(bucket, *(f"{POISON}{number}" for number in range(2)))
    with s3dlio.Pool(procs=2, jobs=8, memory_bytes="32MiB") as pool:
        found = dict(pool.fetch([poisons[0], *uris, poisons[1]], errors="return"))
        for poison in poisons:
            error = found.pop(poison)
            assert isinstance(error, s3dlio.WorkerLostError)
            assert error.uri == poison
        assert sorted(bucket.check(found.items())) == uris


def test_p2_workers_that_die_of_everything_end_by_the_budget(bucket: Bucket) -> None:
    uris = bucket.fill(30, KIB)
    killer = Killer(bucket, *(f"o{number:04d}" for number in range(30)))
    with s3dlio.Pool(procs=2, jobs=4, memory_bytes="32MiB") as pool:
        with pytest.raises(s3dlio.WorkerLostError, match="all workers have died"):
            list(pool.fetch(uris, errors="return"))
        assert len(set(killer.killed)) <= 2 + 3 + 4, "the two of the beginning, the budget, and one object that was found"
        assert pool.stats()["workers"] == 0
