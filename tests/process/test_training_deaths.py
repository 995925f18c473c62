"""Workers of a data set that die or hang: the epoch is complete, each sample once, in the same order (P1, P2, P3, C10)."""

from __future__ import annotations

import json
import signal
import threading

import pytest

import s3dlio
from tests.process.kit import Bucket, wait_until, worker_processes
from tests.process.test_poison import Killer
from tests.process.training_kit import BATCH, Signaller, Training, honest_answer
from tests.support.answers import stall_after
from tests.support.processes import wait_gone
from tests.support.scripted_server import Connection, Request


@pytest.fixture(params=["samples", "rows"])
def training(bucket: Bucket, request: pytest.FixtureRequest) -> Training:
    return Training(bucket, request.param)


def honest(request: Request, connection: Connection) -> None:
    """Answers as if there were no fault."""
    honest_answer(request, connection)(request, connection)


@pytest.fixture
def many_restarts(bucket: Bucket) -> None:
    """Lets as many workers die as the test kills."""
    s3dlio.configure(worker_restarts_per_minute=100)


# P1: killed.


def test_p1_c10_workers_killed_while_idle_are_replaced_and_no_sample_is_lost(training: Training) -> None:
    dataset = training.dataset()
    order = training.units(training.order())
    assert training.read(dataset) == order
    [victim, _] = worker_processes()
    victim.kill()
    assert wait_gone([victim], 5) == []
    # Between two epochs, and then in the middle of one, while the loop has something else to do.
    iterator = iter(dataset)
    found = [training.unit(next(iterator)) for _ in range(3)]
    wait_until(lambda: dataset.stats()["in_flight"] == 0, "the workers have nothing to do")
    victim = worker_processes()[0]
    victim.kill()
    assert wait_gone([victim], 5) == []
    assert found + training.read(iterator) == order
    wait_until(lambda: dataset.stats()["worker_restarts"] == 2, "both are replaced")


def test_p1_c10_worker_killed_in_the_middle_of_its_bodies_loses_and_repeats_nothing(training: Training) -> None:
    order = training.order()
    # Several bodies stand half written in slots, of one batch or of several, when one of the workers is killed.
    never = threading.Event()
    for number in order[5:11]:
        training.fault(number, stall_after(7000, never))
    num_before = len(training.bucket.server.requests)
    dataset = training.dataset(prefetch=16)
    iterator = iter(dataset)
    found = [training.unit(next(iterator))]
    training.bucket.server.wait_for_requests(num_before + 11)
    victim = worker_processes()[0]
    victim.kill()
    threading.Timer(0.5, never.set).start()
    found += training.read(iterator)
    assert found == training.units(order)
    assert dataset.stats()["worker_restarts"] == 1
    assert victim not in worker_processes()


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_p1_c10_worker_killed_by_the_sample_that_it_fetches_fetches_it_once_more(
    training: Training, place: str
) -> None:
    order = training.order()
    # In batches: the first member of the first, one within, and the last member of the last.
    number = order[{"first": 0, "middle": 2 * BATCH + 1, "last": -1}[place]]
    signaller = Signaller()
    training.fault(number, signaller)
    dataset = training.dataset(jobs=4)
    assert training.read(dataset) == training.units(order)
    assert len(signaller.hit) == 1
    assert dataset.stats()["worker_restarts"] == 1
    assert len(training.bucket.server.requests_of(training.path(number))) >= 2


@pytest.mark.usefixtures("many_restarts")
def test_p1_c10_kills_all_through_two_epochs_change_nothing_of_what_comes(training: Training) -> None:
    orders = [training.order(epoch) for epoch in (0, 1)]
    signaller = Signaller()
    for number in orders[0][::9]:
        training.fault(number, signaller, honest, signaller)
    # Few ahead, so that no sample is in company of two kills: three of those would be taken for its doing.
    dataset = training.dataset(jobs=3, prefetch=2)
    for epoch, order in enumerate(orders):
        dataset.set_epoch(epoch)
        assert training.read(dataset) == training.units(order)
    assert len(signaller.hit) >= 5


@pytest.mark.usefixtures("many_restarts")
def test_p1_c9_a_state_taken_between_two_kills_goes_on_at_the_very_sample(training: Training) -> None:
    units = training.units(training.order())
    signaller = Signaller()
    for unit in units[1::3]:
        training.fault(unit[0], signaller)
    dataset = training.dataset(jobs=2, prefetch=2)
    iterator = iter(dataset)
    found = [training.unit(next(iterator)) for _ in range(6)]
    state = json.loads(json.dumps(dataset.state_dict()))
    assert signaller.hit
    again = training.dataset(jobs=2, prefetch=2)
    again.load_state_dict(state)
    assert found + training.read(again) == units
    assert found + training.read(iterator) == units


# P2: dead of a sample, or of everything.


def test_p2_poison_sample_is_raised_at_its_place_with_its_uri_and_a_repaired_one_is_next(training: Training) -> None:
    units = training.units(training.order())
    poison = units[4][-1]
    uri = training.uris[poison]
    killer = Killer(training.bucket, uri.rpartition("/")[2])
    dataset = training.dataset(jobs=4)
    found: list[list[int]] = []
    with pytest.raises(s3dlio.WorkerLostError, match="SIGKILL") as caught:
        found.extend(map(training.unit, dataset))
    assert caught.value.uri == uri
    assert found == units[:4]
    assert len(killer.killed) == 3
    state = dataset.state_dict()
    training.bucket.server.faults.clear()
    dataset.load_state_dict(state)
    assert training.read(dataset) == units[4:]


def test_p2_poison_sample_is_skipped_alone_and_recorded_with_what_it_did(training: Training) -> None:
    units = training.units(training.order())
    poison = units[4][-1]
    killer = Killer(training.bucket, training.uris[poison].rpartition("/")[2])
    dataset = training.dataset(jobs=4, on_error="skip")
    kept = [[number for number in unit if number != poison] for unit in units]
    assert training.read(dataset) == [unit for unit in kept if unit]
    [record] = dataset.skipped
    assert record["uri"] == training.uris[poison]
    assert "WorkerLostError" in record["error"]
    assert "SIGKILL" in record["error"]
    assert len(killer.killed) == 3
    assert dataset.stats()["skipped"] == 1


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_p2_workers_that_die_of_everything_are_an_error_and_no_empty_epoch(training: Training, on_error: str) -> None:
    Killer(training.bucket, *(uri.rpartition("/")[2] for uri in training.uris))
    dataset = training.dataset(jobs=4, on_error=on_error)
    with pytest.raises(s3dlio.WorkerLostError):
        list(dataset)
    # A few may have been found to kill, each by itself, before the budget was spent; the others are not given up for that.
    assert all("3 workers died with it" in record["error"] for record in dataset.skipped)
    assert len(dataset.skipped) <= (12 if on_error == "skip" else 0)


# P3: hung.


def test_p3_c10_stopped_worker_is_killed_and_its_samples_are_fetched_by_another(training: Training) -> None:
    s3dlio.configure(worker_silence_s=0.6)
    order = training.order()
    signaller = Signaller(signal.SIGSTOP)
    training.fault(order[2 * BATCH + 1], signaller)
    dataset = training.dataset(jobs=4)
    assert training.read(dataset) == training.units(order)
    assert len(signaller.hit) == 1
    assert wait_gone(signaller.hit, 0) == []
    assert dataset.stats()["worker_restarts"] == 1


def test_p3_both_workers_stopped_while_idle_are_replaced(bucket: Bucket) -> None:
    s3dlio.configure(worker_silence_s=0.6)
    training = Training(bucket, "rows")
    order = training.units(training.order())
    dataset = training.dataset()
    assert training.read(dataset) == order
    # One that is still starting would be given nothing to do, and so be left alone.
    while not all(worker.net_connections("tcp") for worker in worker_processes()):
        assert training.read(dataset) == order
    stopped = worker_processes()
    for worker in stopped:
        worker.suspend()
    assert training.read(dataset) == order
    assert wait_gone(stopped, 0) == []
    assert dataset.stats()["worker_restarts"] == 2
