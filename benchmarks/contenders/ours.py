"""This package, in its ways: `get_many`, `get_threads`, `pool` (inline), `pool2` and `capped` (two workers), `mp_get` and `mp_get_sink`.

`mp_get_256` asks for 256 requests a worker. What ends with `_bare` runs without checksums and without retries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from _protocol import BUCKET, PUT_BUCKET, Check, Client, Task, chunks, in_threads, main

import s3dlio

_CALL_OBJECTS = 500
_CALL_BYTES = 256 << 20
_JOBS = 64
# What the memory row allows the pool.
_CAP = "256MiB"
_BARE = "_bare"


class Verbs(Client):
    """`get_many(uris, workers=...)` in calls whose results are dropped before the next; `get`; `list_iter`."""

    def fetch(self, numbers: Sequence[int], check: Check) -> None:
        for call in chunks(numbers, min(_CALL_OBJECTS, _CALL_BYTES // self.task.size)):
            views = s3dlio.get_many([self.task.uri(number) for number in call], workers=self.task.in_flight)
            for number, view in zip(call, views, strict=True):
                check(number, view)
            del view, views

    def get(self, number: int) -> Any:
        return s3dlio.get(self.task.uri(number))

    def list_keys(self) -> int:
        return sum(1 for _ in s3dlio.list_iter(f"s3://{BUCKET}/{self.task.set_name}/", recursive=True))

    def put(self, items: Sequence[tuple[str, bytes]]) -> None:
        s3dlio.put_many([(f"s3://{PUT_BUCKET}/{key}", body) for key, body in items], max_in_flight=self.task.in_flight)


class Threaded(Verbs):
    """`get`, called in as many threads as may be in flight."""

    def fetch(self, numbers: Sequence[int], check: Check) -> None:
        in_threads(numbers, self.task.in_flight, lambda number: check(number, self.get(number)))


class Pooled(Verbs):
    """`Pool.fetch`, in input order, on one pool that is kept as the others keep their client."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        settings: dict[str, dict[str, Any]] = {
            "pool": {"procs": 0, "jobs": task.in_flight},
            "pool2": {"procs": 2, "jobs": _JOBS},
            "capped": {"procs": 2, "jobs": _JOBS, "memory_bytes": _CAP},
        }
        self._pool = s3dlio.Pool(**settings[task.variant.removesuffix(_BARE)])

    def fetch(self, numbers: Sequence[int], check: Check) -> None:
        uris = [self.task.uri(number) for number in numbers]
        for number, (_, view) in zip(numbers, self._pool.fetch(uris), strict=True):
            check(number, view)

    def num_verified(self) -> int | None:
        return int(self._pool.stats()["verified"])


class MpGet(Verbs):
    """`mp_get(procs=2, jobs=...)`; the warm-up checks bytes in a sink, the timed rounds only with `mp_get_sink`."""

    def __init__(self, task: Task, jobs: int = _JOBS) -> None:
        super().__init__(task)
        self._jobs = jobs

    def fetch(self, numbers: Sequence[int], check: Check) -> None:
        uris = [self.task.uri(number) for number in numbers]
        if self.task.variant == "mp_get_sink":
            self._run(uris, sink=lambda uri, view: check(_number_in(uri), view))
        else:
            report = self._run(uris, sink=None)
            check.vouch(report["succeeded"], report["total_bytes"])

    def verify(self, check: Check) -> None:
        uris = [self.task.uri(number) for number in range(self.task.count)]
        self._run(uris, sink=lambda uri, view: check(_number_in(uri), view))

    def _run(self, uris: list[str], sink: Any) -> dict[str, Any]:
        report = s3dlio.mp_get(self.task.uri(0), procs=2, jobs=self._jobs, uris=uris, sink=sink)
        if report["failed"]:
            raise AssertionError(report["errors"])
        return report


def _number_in(uri: str) -> int:
    return int(uri[-9:-4])


_WAYS: dict[str, Callable[[Task], Client]] = {
    "get_many": Verbs,
    "get_threads": Threaded,
    "pool": Pooled,
    "pool2": Pooled,
    "capped": Pooled,
    "mp_get": MpGet,
    "mp_get_sink": MpGet,
    "mp_get_256": partial(MpGet, jobs=256),
}


def make(task: Task) -> Client:
    """Makes the client of the variant that was asked for."""
    if task.variant.endswith(_BARE):
        s3dlio.configure(verify_checksums=False, max_attempts=1)
    return _WAYS[task.variant.removesuffix(_BARE)](task)


main(make)
