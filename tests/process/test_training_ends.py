"""Trainings that are killed, interrupted, slow, forked, or that end in an epoch: nothing hangs or stays behind (P4-P7, P9-P11)."""

from __future__ import annotations

import copy
import hashlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch.utils.data import DataLoader

from s3dlio import ObjectStoreIterableDataset, ObjectStoreMapDataset
from tests.process.kit import Bucket, alternate, wait_until, worker_processes
from tests.process.torch_kit import raw
from tests.process.training_kit import Nursery, Training
from tests.support.answers import stall_after
from tests.support.leaks import standing
from tests.support.processes import wait_gone
from tests.support.remains import holders, memfds, shm_entries, socket_directories

KIB = 1 << 10
WATCHDOG_S = 7.0
"""Workers of a DataLoader look every 5 s whether their parent lives, by torch's own watchdog (`MP_STATUS_CHECK_INTERVAL`)."""


@pytest.fixture(scope="module")
def nursery(private_temporary_folder: None) -> Iterator[Nursery]:
    with standing():
        nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the programs under test, and of nobody else."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def left_in(folder: Path) -> list[str]:
    """Returns what programs left in their temporary folder, but for what any DataLoader leaves: the sockets of multiprocessing."""
    return [path.name for path in folder.iterdir() if not path.name.startswith("pymp-")]


def digest(samples: list[bytes]) -> str:
    return hashlib.sha256(b"".join(samples)).hexdigest()


PRELUDE = """
import hashlib, itertools, threading
mode, *uris = sys.argv[1:]
dataset = ObjectStoreIterableDataset(uris, shuffle=True, procs=0 if mode == "inline" else 2, jobs=4, memory_bytes="16MiB")
def digest(samples):
    found = hashlib.sha256()
    for sample in samples:
        found.update(sample.numpy())
    return found.hexdigest()
def say(*words):
    print(*words, flush=True)
def say_and_wait():
    say("READY")
    sys.stdin.readline()
def join(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def expected_digest(bucket: Bucket, uris: list[str]) -> str:
    """Returns the digest of an epoch that nothing happened to."""
    return digest([raw(sample) for sample in ObjectStoreIterableDataset(uris, shuffle=True, procs=0)])


# P4: the training process is killed.

KILLED = (
    PRELUDE
    + """
own = iter(dataset)
kept = [next(own) for _ in range(3)]
loader = iter(DataLoader(ObjectStoreIterableDataset(uris, shuffle=True, batch_size=4), batch_size=None, num_workers=2))
kept.append(next(loader))
say_and_wait()
"""
)


def test_p4_p5_killed_training_leaves_no_process_and_no_memory(bucket: Bucket, nursery: Nursery, folder: Path) -> None:
    uris = bucket.fill(40, 100 * KIB)
    shm = shm_entries()
    with nursery.start(KILLED, ["workers", *uris]) as program:
        program.expect("READY", 60)
        below = program.descendants()
        workers = worker_processes(program.pid)
        theirs = [process for process in below if process not in workers]
        assert len(workers) == 2
        assert len(theirs) >= 2
        inodes = set(memfds(program.pid)).union(*(memfds(process.pid) for process in below))
        assert inodes
        program.send_signal(signal.SIGKILL)
        program.wait()
        assert wait_gone(workers, 2.0) == []
        assert wait_gone(theirs, WATCHDOG_S) == []
        assert holders(inodes) == set()
        assert left_in(folder) == []
        assert shm_entries() <= shm


LOSING = (
    PRELUDE
    + """
dataset = ObjectStoreIterableDataset(uris, shuffle=True, batch_size=4, procs=0)
loader = DataLoader(dataset, batch_size=None, num_workers=2)
found = []
def train():
    iterator = iter(loader)
    for batch in iterator:
        found.append(digest(batch))
        if len(found) == 2:
            say("WORKERS", *(worker.pid for worker in iterator._workers))
            if mode == "idle":
                sys.stdin.readline()
try:
    # Its handler of SIGCHLD raises wherever this process is.
    train()
except RuntimeError as error:
    say("ERROR", error)
say("FOUND", *found)
sys.stdin.readline()
say("AGAIN", *map(digest, loader))
say("ITSELF", *map(digest, dataset))
"""
)


@pytest.mark.parametrize("is_fetching", [False, True], ids=["idle", "fetching"])
def test_p5_killed_data_loader_worker_is_torchs_error_and_leaves_nothing(
    bucket: Bucket, nursery: Nursery, folder: Path, is_fetching: bool
) -> None:
    uris = bucket.fill(40, 10 * KIB)
    samples = [raw(sample) for sample in ObjectStoreIterableDataset(uris, shuffle=True, procs=0)]
    digests = [digest(samples[begin : begin + 4]) for begin in range(0, 40, 4)]
    never = threading.Event()
    # Worker 1 has the odd batches; its second one never comes.
    stalled = next(uri for uri in uris if bucket.data(uri) == samples[3 * 4]).rpartition("/")[2]
    num_before = len(bucket.server.requests_of(bucket.path(stalled)))
    if is_fetching:
        bucket.server.faults[bucket.path(stalled)] = [stall_after(KIB, never)] * 2
    with nursery.start(LOSING, ["fetching" if is_fetching else "idle", *uris]) as program:
        workers = [psutil.Process(int(pid)) for pid in program.expect("WORKERS", 60)]
        wait_until(lambda: len(bucket.server.requests_of(bucket.path(stalled))) > num_before, "it is asked for")
        inodes = set().union(*(memfds(worker.pid) for worker in workers))
        assert inodes
        workers[1].kill()
        assert program.expect("ERROR")[:2] == ["DataLoader", "worker"]
        found = program.expect("FOUND")
        assert found == digests[: len(found)]
        assert 2 <= len(found) < 10
        assert wait_gone(workers, 5.0) == []
        # What the program itself holds is for the data set, which goes on.
        assert holders(inodes) <= {program.pid}
        bucket.server.faults.clear()
        never.set()
        program.send_line()
        assert program.expect("AGAIN") == digests
        assert program.expect("ITSELF") == digests
        assert program.wait(20) == 0
        assert program.stderr_text() == ""
        # A DataLoader that looks for descriptors to spare may leave an empty file when its own error strikes.
        assert socket_directories(str(folder)) == set()


# P6: a slow loop.


@pytest.mark.parametrize("kind", ["samples", "rows"])
def test_p6_no_more_than_prefetch_is_asked_for_ahead_of_a_slow_loop(bucket: Bucket, kind: str) -> None:
    training = Training(bucket, kind, num=60)
    units = training.units(training.order())
    num_before = len(bucket.server.requests)
    dataset = training.dataset(prefetch=3)
    found, pause = [], threading.Event()
    for given in dataset:
        found.append(training.unit(given))
        if len(found) in (1, 6):
            # The one in hand may count as one of the three: it does until the next is asked for.
            least, most = (sum(map(len, units[: len(found) + num])) for num in (2, 3))
            wait_until(lambda least=least: len(bucket.server.requests) - num_before >= least, "some are fetched ahead")  # type: ignore[misc]
            pause.wait(0.2)  # nothing can be waited for where nothing is to happen
            assert least <= len(bucket.server.requests) - num_before <= most
    assert found == units


@pytest.mark.parametrize("kind", ["samples", "rows"])
def test_p6_memory_stays_below_its_cap_while_the_loop_sleeps_and_fetching_goes_on_with_it(
    bucket: Bucket, kind: str
) -> None:
    training = Training(bucket, kind, num=80, nbytes=100 * KIB, memory_bytes="2MiB")
    units = training.units(training.order())
    num_before = len(bucket.server.requests)
    dataset = training.dataset()
    found, pause = [], threading.Event()
    for given in dataset:
        found.append(training.unit(given))
        if len(found) in (1, 4, 9):
            wait_until(lambda: dataset.stats()["in_flight"] == 0, "the workers have stopped")
            num = len(bucket.server.requests)
            pause.wait(0.2)  # as above
            assert len(bucket.server.requests) == num < num_before + 80
            pool: Any = dataset._stream.source._pool
            stats = pool.stats()
            assert stats["memory_reserved_bytes"] <= stats["memory_cap_bytes"] == 2 << 20
    assert found == units


# P7: Ctrl-C.

INTERRUPTED = (
    PRELUDE
    + """
expected = digest(dataset)
number = 0
try:
    for number, sample in enumerate(dataset):
        if number == 5:
            say("TRAINING")
        if number >= 5:
            threading.Event().wait(0.02)
except KeyboardInterrupt:
    say("INTERRUPTED", 5 <= number < 199)
# Whoever goes on afterwards, to save what there is, finds the data set as it was.
say("AGAIN", digest(dataset) == expected)
say("TRAINING")
for sample in itertools.chain.from_iterable(itertools.repeat(dataset)):
    pass
"""
)


def test_p7_first_ctrl_c_is_one_clean_interrupt_and_the_second_ends_the_training(
    bucket: Bucket, nursery: Nursery, folder: Path
) -> None:
    with nursery.start(INTERRUPTED, ["workers", *bucket.fill(200, KIB)]) as program:
        program.expect("TRAINING", 60)
        workers = worker_processes(program.pid)
        assert len(workers) == 2
        program.send_signal_to_group(signal.SIGINT)
        assert program.expect("INTERRUPTED") == ["True"]
        assert program.expect("AGAIN") == ["True"]
        program.expect("TRAINING")
        assert program.stderr_text() == ""
        workers += worker_processes(program.pid)
        program.send_signal_to_group(signal.SIGINT)
        assert program.wait(10) == -signal.SIGINT
        assert wait_gone(workers, 2.0) == []
        assert program.stderr_text().count("Traceback") == 1
        assert program.stderr_text().rstrip().endswith("KeyboardInterrupt")
        assert left_in(folder) == []


@pytest.mark.parametrize("stalled", [False, True], ids=["reading", "waiting"])
def test_p7_two_ctrl_c_at_once_end_the_training(bucket: Bucket, nursery: Nursery, folder: Path, stalled: bool) -> None:
    uris = bucket.fill(20, KIB)
    never = threading.Event()
    if stalled:
        for uri in uris:
            bucket.server.faults[bucket.path(uri.rpartition("/")[2])] = [stall_after(100, never)] * 9
    source = (
        PRELUDE + "say('TRAINING')\nfor sample in itertools.chain.from_iterable(itertools.repeat(dataset)):\n    pass\n"
    )
    num_before = len(bucket.server.requests)
    with nursery.start(source, ["workers", *uris]) as program:
        program.expect("TRAINING", 60)
        bucket.server.wait_for_requests(num_before + 4, 30)
        workers = worker_processes(program.pid)
        assert len(workers) == 2
        for _ in range(2):
            program.send_signal_to_group(signal.SIGINT)
            threading.Event().wait(0.003)  # two keys are not pressed in one microsecond
        assert program.wait(10) in (-signal.SIGINT, 1)
        assert wait_gone(workers, 2.0) == []
        assert "KeyboardInterrupt" in program.stderr_text()
        assert left_in(folder) == []


LOADER_INTERRUPTED = (
    PRELUDE
    + """
loader = DataLoader(dataset, batch_size=2, num_workers=2)
try:
    for number, batch in enumerate(loader):
        if number == 2:
            say("TRAINING")
        if number >= 2:
            threading.Event().wait(0.05)
except KeyboardInterrupt:
    say("INTERRUPTED", 2 <= number < 99)
    sys.exit(130)
"""
)


def test_p7_ctrl_c_reaches_workers_of_a_data_loader_too_and_ends_in_one_interrupt(
    bucket: Bucket, nursery: Nursery, folder: Path
) -> None:
    with nursery.start(LOADER_INTERRUPTED, ["inline", *bucket.fill(200, KIB)]) as program:
        program.expect("TRAINING", 60)
        below = program.descendants()
        assert len(below) >= 2
        program.send_signal_to_group(signal.SIGINT)
        assert program.expect("INTERRUPTED") == ["True"]
        assert program.wait(WATCHDOG_S + 5) == 130
        assert wait_gone(below, 2.0) == []
        assert "s3dlio" not in program.stderr_text()
        assert left_in(folder) == []


# P9: the interpreter ends.

WAYS = {
    "end-of-main": ("iterator = iter(dataset)\nkept = next(iterator)\nsay_and_wait()", 0, ""),
    "sys-exit-in-the-loop": ("for sample in dataset:\n    say_and_wait()\n    sys.exit(3)", 3, ""),
    "os-exit-in-the-loop": ("for sample in dataset:\n    say_and_wait()\n    os._exit(4)", 4, ""),
    "exception-in-the-loop": (
        "for sample in dataset:\n    say_and_wait()\n    raise LookupError(5)",
        1,
        "LookupError: 5",
    ),
    "iterator-in-a-traceback": (
        """
def train():
    for sample in dataset:
        raise LookupError
try:
    train()
except LookupError as error:
    kept = error
say_and_wait()
""",
        0,
        "",
    ),
    "iterator-in-a-cycle": (
        "cycle = [iter(dataset)]\ncycle.append(cycle)\nnext(cycle[0])\ndel dataset\nsay_and_wait()",
        0,
        "",
    ),
    "closed-in-the-loop": ("for sample in dataset:\n    dataset.close()\n    break\nsay_and_wait()", 0, ""),
    "thread-that-iterates": (
        """
started = threading.Event()
def train():
    for _ in range(1000):
        for sample in dataset:
            started.set()
threading.Thread(target=train, daemon=True).start()
started.wait()
say_and_wait()
""",
        0,
        "",
    ),
    "data-loader-under-way": (
        "loader = iter(DataLoader(dataset, batch_size=2, num_workers=2))\nkept = next(loader)\nsay_and_wait()",
        0,
        "",
    ),
    "persistent-workers": (
        """
loader = DataLoader(dataset, batch_size=2, num_workers=2, persistent_workers=True)
kept = list(loader)
say_and_wait()
sys.exit(3)
""",
        3,
        "",
    ),
    "map-data-set-in-hand": (
        "dataset = ObjectStoreMapDataset(uris)\nkept = dataset.__getitems__([*range(20)])\nsay_and_wait()",
        0,
        "",
    ),
}
INLINE = ("end-of-main", "sys-exit-in-the-loop", "thread-that-iterates")
"""The ways in which a data set without processes is another matter."""


@pytest.mark.parametrize(("mode", "way"), [*(("workers", way) for way in WAYS), *(("inline", way) for way in INLINE)])
def test_p9_an_interpreter_that_ends_in_the_middle_of_an_epoch_leaves_nothing(
    bucket: Bucket, nursery: Nursery, folder: Path, mode: str, way: str
) -> None:
    source, code, last_words = WAYS[way]
    with nursery.start(PRELUDE + source, [mode, *bucket.fill(40, 10 * KIB)]) as program:
        program.expect("READY", 60)
        below = program.descendants()
        inodes = set(memfds(program.pid))
        program.send_line()
        assert program.wait(20) == code
        text = program.stderr_text()
        assert text.rstrip().endswith(last_words) if last_words else text == ""
        assert text.count("Traceback") == bool(last_words)
        assert wait_gone(below, 2.0) == []
        assert holders(inodes) == set()
        assert left_in(folder) == []


# P10: forks.

FORKED = (
    PRELUDE
    + """
expected = digest(dataset)
iterator = iter(dataset)
kept = [next(iterator) for _ in range(4)]
begin = [bytes(sample.numpy()) for sample in kept]
state = dataset.state_dict()
pid = os.fork()
if pid == 0:
    try:
        next(iterator)
    except s3dlio.PoolClosedError as error:
        refused = "fork" in str(error)
    whole = digest(dataset) == expected
    dataset.load_state_dict(state)
    rest = len(list(dataset)) == len(uris) - 4
    same = [bytes(sample.numpy()) for sample in kept] == begin
    say("CHILD", refused, whole, rest, same)
    sys.exit(5)
rest = [bytes(sample.numpy()) for sample in iterator]
say("PARENT", hashlib.sha256(b"".join(begin + rest)).hexdigest() == expected)
del kept
say("AGAIN", digest(dataset) == expected, join(pid), dataset.epoch, dataset.stats()["worker_restarts"])
"""
)


@pytest.mark.parametrize("mode", ["workers", "inline"])
def test_p10_a_fork_in_the_middle_of_an_epoch_iterates_by_itself_and_its_parent_goes_on(
    bucket: Bucket, nursery: Nursery, mode: str
) -> None:
    with nursery.start(FORKED, [mode, *bucket.fill(40, 10 * KIB)]) as program:
        lines = dict(program.read_line(60).split(" ", 1) for _ in range(3))
        assert lines == {"CHILD": "True True True True", "PARENT": "True", "AGAIN": "True 5 0 0"}
        left = program.descendants()
        assert program.wait(20) == 0
        assert program.stderr_text() == ""
        assert wait_gone([*left, *program.descendants()], 10.0) == []


def test_p10_a_data_set_that_was_used_in_the_training_process_is_read_in_forked_workers_too(bucket: Bucket) -> None:
    training = Training(bucket, "rows")
    units = training.units(training.order())
    dataset, numbered = training.dataset(), ObjectStoreMapDataset(training.uris)
    under_way = iter(dataset)
    begun = [training.unit(next(under_way)) for _ in range(2)]
    first = training.numbers(numbered.__getitems__([0, 1, 2]))
    for _ in range(2):
        assert training.read(DataLoader(dataset, batch_size=None, num_workers=2)) == units
        loader = DataLoader(numbered, batch_size=8, num_workers=1)
        assert [number for batch in loader for number in training.numbers(batch)] == list(range(40))
    # The parent is where it was, and its workers are the same.
    assert begun + training.read(under_way) == units
    assert training.numbers(numbered.__getitems__([0, 1, 2])) == first == [0, 1, 2]
    assert dataset.stats()["worker_restarts"] == 0


def test_p10_training_and_validation_take_turns(bucket: Bucket) -> None:
    train, val = Training(bucket, "rows", num=30), Training(bucket, "samples", num=30, seed=1)
    datasets = train.dataset(procs=1), val.dataset(procs=1)
    for epoch in (0, 1):
        for dataset in datasets:
            dataset.set_epoch(epoch)
        assert train.read(datasets[0]) == train.units(train.order(epoch))
        assert val.read(datasets[1]) == val.units(val.order(epoch))
    # And one in the middle of the other.
    found = list(alternate(_named("train", train, datasets[0]), _named("val", val, datasets[1])))
    for name, training in (("train", train), ("val", val)):
        assert [unit for whose, unit in found if whose == name] == training.units(training.order(1))
    assert len(worker_processes()) == 2


def _named(name: str, training: Training, dataset: Any) -> Iterator[tuple[str, list[int]]]:
    return ((name, training.unit(given)) for given in dataset)


def test_p10_eight_threads_with_a_data_set_each(bucket: Bucket, procs: int) -> None:
    training = Training(bucket, "samples", procs=min(procs, 1), memory_bytes="4MiB", jobs=4)
    orders = [training.units(training.order(epoch)) for epoch in range(2)]
    wrong: list[BaseException] = []

    def train() -> None:
        try:
            dataset = training.dataset()
            for epoch in range(2):
                dataset.set_epoch(epoch)
                assert training.read(dataset) == orders[epoch]
            dataset.close()
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            wrong.append(error)

    threads = [threading.Thread(target=train) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


# P11: pickles.


def test_p11_a_copy_of_a_data_set_that_is_under_way_begins_anew_and_disturbs_nobody(bucket: Bucket, procs: int) -> None:
    training = Training(bucket, "rows", procs=procs)
    units = training.units(training.order())
    dataset = training.dataset()
    iterator = iter(dataset)
    found = [training.unit(next(iterator)) for _ in range(3)]
    # By pickling, as multiprocessing sends it. A copy is a data set of its own from then on.
    other = copy.deepcopy(dataset)
    dataset.set_epoch(0)
    assert found + training.read(iterator) == units
    other.set_epoch(1)
    assert training.read(other) == training.units(training.order(1))
    assert (dataset.epoch, other.epoch) == (0, 1)
    assert training.read(dataset) == units
