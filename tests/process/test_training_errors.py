"""Objects and stores that fail under a training: an error at its place, or a sample recorded as skipped; never a short epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import s3dlio
from tests.process.kit import Bucket, content, wait_quiet
from tests.process.training_kit import BATCH, KINDS, Training
from tests.support.answers import cut_after, flipped, reset_after, reset_before_headers, s3_error
from tests.support.object_server import ObjectServer
from tests.support.scripted_server import Handler

SIZE = 20_000
FOR_EVER = 500
"""Requests; an idle connection that breaks costs no attempt, and there are many."""


def gone(training: Training, number: int) -> None:
    del training.bucket.server.objects[training.path(number)]


def overwritten(training: Training, number: int) -> None:
    training.bucket.server.objects[training.path(number)] = content("another", SIZE)


def shortened(training: Training, number: int) -> None:
    path = training.path(number)
    training.bucket.server.objects[path] = training.bucket.server.objects[path][:-1]


def lengthened(training: Training, number: int) -> None:
    training.bucket.server.objects[training.path(number)] += b"x"


def answered_by(*handlers: Handler) -> Callable[[Training, int], None]:
    return lambda training, number: training.fault(number, *(handlers * FOR_EVER))


FAULTS: dict[str, tuple[Callable[[Training, int], None], type[s3dlio.S3dlioError]]] = {
    "404": (gone, s3dlio.NotFoundError),
    "403": (answered_by(s3_error(403, "AccessDenied")), s3dlio.PermissionDeniedError),
    "503-for-ever": (answered_by(s3_error(503, "SlowDown")), s3dlio.ThrottledError),
    "500-for-ever": (answered_by(s3_error(500, "InternalError")), s3dlio.ServerError),
    "reset-for-ever": (answered_by(reset_before_headers()), s3dlio.ConnectFailedError),
    "cut-for-ever": (answered_by(cut_after(0)), s3dlio.TruncatedBodyError),
}
"""What happens to an object, and the error that is to come of it."""
PINNED_FAULTS: dict[str, tuple[Callable[[Training, int], None], type[s3dlio.S3dlioError]]] = {
    "overwritten": (overwritten, s3dlio.ObjectChangedError),
    "shortened": (shortened, s3dlio.ObjectChangedError),
    "lengthened": (lengthened, s3dlio.ObjectChangedError),
}
"""As above, where the listing knows size and version."""
CASES = [
    *((kind, 2, name) for kind in ("samples", "rows") for name in FAULTS),
    *(("lists", 2, name) for name in ("404", "cut-for-ever")),
    *((kind, 2, name) for kind in ("samples", "rows") for name in PINNED_FAULTS),
    *((kind, 0, name) for kind in ("samples", "rows") for name in ("404", "reset-for-ever", "overwritten")),
]


@pytest.mark.parametrize(("kind", "procs", "name"), CASES)
def test_c10_an_error_is_raised_at_its_place_with_its_uri_and_the_state_stands_before_it(
    bucket: Bucket, kind: str, procs: int, name: str
) -> None:
    training = Training(bucket, kind, num=24, nbytes=SIZE, procs=procs)
    units = training.units(training.order())
    failing = units[3][-1]
    break_it, error = (FAULTS | PINNED_FAULTS)[name]
    whole = dict(bucket.server.objects)
    break_it(training, failing)
    dataset = training.dataset()
    for _ in range(2):
        found: list[list[int]] = []
        with pytest.raises(error) as caught:
            found.extend(map(training.unit, dataset))
        assert found == units[:3]
        assert caught.value.uri == training.uris[failing]
        assert training.uris[failing] in str(caught.value)
        state = json.loads(json.dumps(dataset.state_dict()))
    pool: Any = dataset._stream.source._pool
    assert wait_quiet(pool)["memory_used_bytes"] == 0
    # Mended, and gone on with: here, and in a process that starts anew.
    bucket.server.objects.update(whole)
    bucket.server.faults.clear()
    other = training.dataset(procs=0)
    for again in (dataset, other):
        again.load_state_dict(state)
        assert training.read(again) == units[3:]
    assert dataset.skipped == other.skipped == []


@pytest.mark.parametrize(("kind", "procs", "name"), [case for case in CASES if case[2] != "reset-for-ever"])
def test_skipped_samples_are_recorded_with_their_causes_and_the_counts_add_up(
    bucket: Bucket, kind: str, procs: int, name: str
) -> None:
    training = Training(bucket, kind, num=26, nbytes=SIZE, procs=procs)
    units = training.units(training.order())
    # One alone in its batch, two together, and one in the last batch, which is short.
    failing = [units[1][0], units[3][0], units[3][-1], units[-1][0]]
    break_it, error = (FAULTS | PINNED_FAULTS)[name]
    for number in set(failing):
        break_it(training, number)
    dataset = training.dataset(on_error="skip")
    kept = [[number for number in unit if number not in failing] for unit in units]
    found = training.read(dataset)
    assert found == [unit for unit in kept if unit]
    assert sorted(record["uri"] for record in dataset.skipped) == sorted(
        training.uris[number] for number in set(failing)
    )
    assert all(record["error"].startswith(error.__name__) for record in dataset.skipped)
    assert sum(map(len, found)) + len(dataset.skipped) == 26
    # The epoch is over, and a state says so: what was skipped is not left to be delivered.
    state = dataset.state_dict()
    dataset.load_state_dict(state)
    assert training.read(dataset) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_which_nothing_is_left_is_no_batch(bucket: Bucket, kind: str) -> None:
    training = Training(bucket, kind, num=12, nbytes=SIZE, on_error="skip")
    order = training.order()
    for number in order[BATCH : 2 * BATCH]:
        gone(training, number)
    dataset = training.dataset()
    units = training.units(order[:BATCH]) + training.units(order[2 * BATCH :])
    assert training.read(dataset) == units
    assert len(dataset.skipped) == BATCH
    # An epoch of which nothing is left is an error: that is no epoch.
    for number in order:
        training.bucket.server.objects.pop(training.path(number), None)
    with pytest.raises(s3dlio.NotFoundError):
        list(dataset)
    assert len(dataset.skipped) == BATCH + 12


@pytest.mark.parametrize("kind", KINDS)
def test_c10_storms_that_pass_are_not_seen_by_the_loop(bucket: Bucket, kind: str, procs: int) -> None:
    s3dlio.configure(max_attempts=8)
    training = Training(bucket, kind, nbytes=SIZE, procs=procs)
    order = training.order()
    storms: list[Handler] = [
        s3_error(503, "SlowDown"),
        s3_error(500, "InternalError"),
        reset_after(SIZE // 3),
        reset_before_headers(),
        cut_after(SIZE - 1),
    ]
    for place, number in enumerate(order):
        training.fault(number, *(storms[place % 5 :] + storms[: place % 3]))
    dataset = training.dataset(jobs=8)
    assert training.read(dataset) == training.units(order)
    assert dataset.skipped == []
    assert dataset.stats()["worker_restarts"] == 0


@pytest.mark.parametrize("kind", ["samples", "rows"])
def test_bytes_that_were_damaged_on_the_way_are_fetched_again(bucket: Bucket, kind: str) -> None:
    training = Training(bucket, kind, num=12, nbytes=SIZE)
    order = training.order()
    for number in order:
        training.bucket.server.headers[training.path(number)] = {
            "x-amz-checksum-crc32c": _crc32c(bucket, training, number)
        }
    for number in order[::3]:
        training.fault(number, flipped(SIZE // 2))
    assert training.read(training.dataset()) == training.units(order)


def _crc32c(bucket: Bucket, training: Training, number: int) -> str:
    import base64

    from awscrt.checksums import crc32c

    return base64.b64encode(crc32c(bucket.data(training.uris[number])).to_bytes(4, "big")).decode()


@pytest.mark.parametrize("kind", ["samples", "rows"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_store_that_is_gone_in_the_middle_is_an_error_and_no_short_epoch(
    bucket: Bucket, kind: str, on_error: Any
) -> None:
    training = Training(bucket, kind, num=24, nbytes=SIZE, prefetch=2, on_error=on_error)
    units = training.units(training.order())
    dataset = training.dataset()
    iterator = iter(dataset)
    found = [training.unit(next(iterator)) for _ in range(2)]
    objects, address = dict(bucket.server.objects), bucket.server.address
    bucket.server.close()
    with pytest.raises(s3dlio.ConnectFailedError) as caught:
        found.extend(map(training.unit, iterator))
    assert found == units[: len(found)]
    assert len(found) < len(units)
    assert caught.value.uri in {training.uris[number] for number in units[len(found)]}
    assert dataset.skipped == []
    state = dataset.state_dict()
    with ObjectServer(address) as server:
        server.objects.update(objects)
        dataset.load_state_dict(state)
        assert found + training.read(dataset) == units


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_with_all_objects_is_never_skipped(
    bucket: Bucket, kind: str, procs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(bucket, kind, num=12, nbytes=SIZE, procs=procs, on_error="skip")
    s3dlio.shutdown()  # the store is opened anew, and asks for credentials then
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    dataset = training.dataset()
    with pytest.raises(s3dlio.AuthenticationError):
        list(dataset)
    assert dataset.skipped == []
