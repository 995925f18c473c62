"""`mp_get`: reads many objects through worker processes, as fast as the store and the machine allow, and says how fast that was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigurationError
from ..pool.warm import warm_pool
from ..stats import LatencyHistogram
from ..uri import as_directory
from .objects import list_iter
from .templates import count_fields

if TYPE_CHECKING:
    from ..memory.view import BytesView
    from ..pool.items import Item
    from ..pool.pool import Pool
    from ..pool.wanted import Wanted

_MAX_ERRORS = 20
_PROGRESS_S = 0.1


class Progress(NamedTuple):
    """How far an `mp_get` is."""

    attempted: int
    succeeded: int
    failed: int
    total_bytes: int
    total_objects: int | None
    """How many there will be; None while the listing goes on."""
    elapsed_s: float


def mp_get(
    uri: str | None = None,
    procs: int = 4,
    jobs: int = 64,
    num: int | None = None,
    template: str | None = None,
    *,
    uris: Iterable[Wanted] | None = None,
    sink: Callable[[str, BytesView], object] | None = None,
    progress: Callable[[Progress], object] | None = None,
    memory_bytes: int | str | None = None,
) -> dict[str, Any]:
    """Reads objects into shared memory through `procs` worker processes, in the order in which they complete.

    The workers stay warm for the next call of the same `procs`, `jobs` and `memory_bytes` (two such pools are kept); `s3dlio.shutdown()`
    ends them.

    Args:
        uri: A directory-like prefix; `/` is added where it is missing.
        procs: Worker processes, at least 1.
        jobs: Requests in flight per worker.
        num: Without `template`, the most objects to read; with it, how many names to make.
        template: A name below `uri` with `{}` or fields like `{:05d}`, filled with 0, 1, ... num - 1. Without it, `uri` is listed.
        uris: What to read instead; names without a scheme are relative to `uri`.
        sink: Called in this thread with each URI and view. Without it every slot is released as soon as it is full.
        progress: Called in this thread, ten times a second at most, with a `Progress`.
        memory_bytes: Cap of the shared memory.

    Returns:
        A dict: attempted, succeeded, failed, total_bytes, bytes_source ("Observed"), duration_seconds (from the moment the first
        worker was ready), throughput_mb_s (10^6 bytes), throughput_mib_s, ops_per_sec, total_objects, startup_seconds,
        time_to_first_object_seconds (from the call; None if there was none), latency_ms {p50, p95, p99, max}, errors (the first 20: uri
        and error), workers [{worker_id, attempted, succeeded, failed, bytes, objects, throughput_mb_s}]. An object that fails is
        counted, and the run goes on.

    Raises:
        ConfigurationError: The arguments do not say what to read.
        ViewsHeldError: `sink` keeps more views than `memory_bytes` holds.
        WorkerLostError: Workers die faster than they may be started again.
    """
    begun_s = time.monotonic()
    if procs < 1 or jobs < 1 or (num is not None and num < 0):
        raise ConfigurationError("procs and jobs must be at least 1, num at least 0")
    names = _names(uri, num, template, uris)
    # The workers start while this process imports what it needs to resolve credentials.
    with warm_pool(procs, jobs, memory_bytes) as pool:
        tally = _Tally(begun_s, progress)
        wanted = tally.counting(names)
        if sink is None:
            for items in pool.fetch_and_free(wanted):
                tally.add(items)
        else:
            for item in pool.fetch_items(wanted, ordered=False):
                if item.error is None:
                    sink(item.uri, item.pop_view())
                tally.add([item])
        return tally.result(pool)


def _names(
    uri: str | None, num: int | None, template: str | None, uris: Iterable[Wanted] | None
) -> Iterator[Wanted]:
    if uris is not None:
        if template is not None:
            raise ConfigurationError("give template or uris, not both")
        if isinstance(uris, str):
            raise ConfigurationError("uris is a list of URIs, not one text; write [uri]", uri=uris)
        base = None if uri is None else as_directory(uri)
        return islice((_absolute(base, name) for name in uris), num)
    if uri is None:
        raise ConfigurationError("mp_get needs a uri to list, or uris")
    base = as_directory(uri)
    if template is None:
        return islice(list_iter(base, recursive=True), num)
    if num is None:
        raise ConfigurationError("template needs num: how many names to make")
    num_fields = count_fields(template)
    return (base + template.format(*[index] * num_fields) for index in range(num))


def _absolute(base: str | None, name: Wanted) -> Wanted:
    if not isinstance(name, str) or "://" in name:
        return name
    if base is None:
        raise ConfigurationError(f"{name!r} has no scheme and there is no uri that it could be relative to", uri=name)
    return base + name


class _Tally:
    """Counts what comes."""

    def __init__(self, begun_s: float, progress: Callable[[Progress], object] | None) -> None:
        self._begun_s = begun_s
        self._progress = progress
        self._next_progress_s = 0.0
        self._num_offered = 0
        self._is_complete = False
        self._num_failed = 0
        self._num_bytes = 0
        self._num_succeeded = 0
        self._first_s: float | None = None
        self._latency = LatencyHistogram()
        self._errors: list[dict[str, str]] = []
        self._workers: dict[int, list[int]] = {}
        """By worker: succeeded, failed, bytes."""

    def counting(self, names: Iterator[Wanted]) -> Iterator[Wanted]:
        """Passes names on, and counts them."""
        for name in names:
            self._num_offered += 1
            yield name
        self._is_complete = True

    def add(self, items: list[Item]) -> None:
        """Counts objects that are here, or have failed."""
        now_s = time.monotonic()
        for item in items:
            worker = self._workers.get(item.worker)
            if worker is None:
                worker = self._workers[item.worker] = [0, 0, 0]
            if item.error is None:
                worker[0] += 1
                worker[2] += item.nbytes
                self._num_bytes += item.nbytes
                self._latency.add(item.elapsed_s)
            else:
                worker[1] += 1
                self._num_failed += 1
                if len(self._errors) < _MAX_ERRORS:
                    self._errors.append({"uri": item.uri, "error": f"{type(item.error).__name__}: {item.error}"})
        self._num_succeeded = sum(worker[0] for worker in self._workers.values())
        if self._first_s is None and self._num_succeeded:
            self._first_s = now_s - self._begun_s
        if self._progress is not None and now_s >= self._next_progress_s:
            self._next_progress_s = now_s + _PROGRESS_S
            self._tell(now_s)

    def _tell(self, now_s: float) -> None:
        assert self._progress is not None
        num = self._num_succeeded + self._num_failed
        total = self._num_offered if self._is_complete else None
        self._progress(
            Progress(num, self._num_succeeded, self._num_failed, self._num_bytes, total, now_s - self._begun_s)
        )

    def result(self, pool: Pool) -> dict[str, Any]:
        """Returns the dict that `mp_get` returns."""
        now_s = time.monotonic()
        if self._progress is not None:
            self._tell(now_s)
        startup_s = max(0.0, (pool.started_s or self._begun_s) - self._begun_s)
        duration_s = max(now_s - self._begun_s - startup_s, 1e-9)
        num = self._num_succeeded + self._num_failed
        return {
            "attempted": num,
            "succeeded": self._num_succeeded,
            "failed": self._num_failed,
            "total_bytes": self._num_bytes,
            "bytes_source": "Observed",
            "duration_seconds": duration_s,
            "throughput_mb_s": self._num_bytes / 1e6 / duration_s,
            "throughput_mib_s": self._num_bytes / (1 << 20) / duration_s,
            "ops_per_sec": num / duration_s,
            "total_objects": self._num_offered,
            "startup_seconds": startup_s,
            "time_to_first_object_seconds": self._first_s,
            "latency_ms": self._latency.summary_ms(),
            "errors": self._errors,
            # What failed before it could be given to a worker stands under -1.
            "workers": [self._row(worker, duration_s) for worker in sorted(self._workers) if worker >= 0],
        }

    def _row(self, worker: int, duration_s: float) -> dict[str, Any]:
        succeeded, failed, num_bytes = self._workers[worker]
        return {
            "worker_id": worker,
            "attempted": succeeded + failed,
            "succeeded": succeeded,
            "failed": failed,
            "bytes": num_bytes,
            "objects": succeeded,
            "throughput_mb_s": num_bytes / 1e6 / duration_s,
        }
