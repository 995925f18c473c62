"""The oracle is the kernel: blocks of the file, entries of /proc, other processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from s3dlio.engine.errors import InsufficientMemoryError, InternalError, PoolClosedError, UnsupportedError
from s3dlio.engine.memory.limits import PAGE_BYTES, machine_memory
from s3dlio.engine.memory.segment import HEADER_BYTES, Segment
from s3dlio.engine.memory.slots import Slots

MIB = 1 << 20
GIB = 1 << 30

LIST_DESCRIPTORS = """
import os
for fd in os.listdir('/proc/self/fd'):
    try: print(os.readlink(f'/proc/self/fd/{fd}'))
    except FileNotFoundError: pass
"""

WORKER = """
import subprocess, sys
from s3dlio.engine.memory.segment import Segment, HEADER_BYTES
segment = Segment.attach(int(sys.argv[1]))
assert segment.size == {size}
segment.counters[3] = 2**63 + 1
segment.buffer[HEADER_BYTES:HEADER_BYTES + 5] = b'hello'
assert 'numpy' not in sys.modules and 'ctypes' not in sys.modules
subprocess.run([sys.executable, '-c', {list_descriptors!r}], close_fds=False, check=True)
"""


def committed(segment: Segment) -> int:
    return os.fstat(segment.fd).st_blocks * 512


def own_descriptors() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if "s3dlio" in os.readlink(f"/proc/self/fd/{name}"):
                found.append(int(name))
        except FileNotFoundError:
            continue  # The descriptor of the listing itself.
    return found


def test_a_new_segment_has_more_address_space_than_the_machine_has_memory_and_commits_only_its_header() -> None:
    segment = Segment.create()
    assert segment.size >= machine_memory() + HEADER_BYTES
    assert len(segment.buffer) == segment.size
    assert committed(segment) == HEADER_BYTES
    segment.close()


def test_m2_every_granted_byte_is_committed_before_it_is_granted() -> None:
    with closing(Segment.create(GIB)) as segment:
        slots = Slots(segment, first=HEADER_BYTES, size=segment.size - HEADER_BYTES, cap_bytes=64 * MIB)
        for nbytes in (1, 4096, 4097, 100_000, 3 * MIB, 20 * MIB):
            before = committed(segment)
            slot = slots.allocate(nbytes)
            assert slot is not None
            assert slot.nbytes >= nbytes
            assert committed(segment) - before == -(-nbytes // PAGE_BYTES) * PAGE_BYTES
            assert committed(segment) == HEADER_BYTES + slots.reserved_bytes


def test_m2_writing_to_all_that_is_granted_commits_nothing_more() -> None:
    with closing(Segment.create(GIB)) as segment:
        slots = Slots(segment, first=HEADER_BYTES, size=segment.size - HEADER_BYTES, cap_bytes=64 * MIB)
        slot = slots.allocate(5 * MIB + 1)
        assert slot is not None
        before = committed(segment)
        segment.buffer[slot.start : slot.start + slot.nbytes] = b"x" * slot.nbytes
        assert committed(segment) == before


def test_m2_nobody_can_change_the_size_of_the_file_under_the_mappings() -> None:
    with closing(Segment.create(GIB)) as segment:
        for size in (HEADER_BYTES, segment.size + PAGE_BYTES):
            with pytest.raises(PermissionError):
                os.ftruncate(segment.fd, size)


def test_released_pages_go_back_to_the_kernel_and_read_as_zeros_when_reserved_again() -> None:
    with closing(Segment.create(GIB)) as segment:
        start, end = HEADER_BYTES, HEADER_BYTES + MIB
        segment.reserve(start, end)
        segment.buffer[start:end] = b"x" * MIB
        segment.release(start + PAGE_BYTES, end)
        assert committed(segment) == HEADER_BYTES + PAGE_BYTES
        segment.reserve(start, end)
        assert segment.buffer[start:end] == b"x" * PAGE_BYTES + bytes(MIB - PAGE_BYTES)


def test_m1_asking_for_more_than_the_machine_has_names_need_rest_and_knob_and_takes_nothing() -> None:
    segment = Segment.create()
    needed = 2 * machine_memory()
    with pytest.raises(InsufficientMemoryError) as caught:
        segment.reserve(HEADER_BYTES, HEADER_BYTES + needed)
    assert f"needs {needed} more bytes" in str(caught.value)
    assert "available" in str(caught.value)
    assert "memory_bytes" in str(caught.value)
    assert committed(segment) == HEADER_BYTES
    segment.close()


def test_m1_a_full_file_system_is_the_same_error_and_gives_back_what_it_got(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Segment.create(GIB)) as segment:
        real, calls = os.posix_fallocate, []

        def full_at_the_third_step(fd: int, start: int, nbytes: int) -> None:
            calls.append(start)
            if len(calls) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(fd, start, nbytes)

        monkeypatch.setattr(os, "posix_fallocate", full_at_the_third_step)
        with pytest.raises(InsufficientMemoryError, match="memory_bytes"):
            segment.reserve(HEADER_BYTES, HEADER_BYTES + 32 * MIB)
        assert committed(segment) == HEADER_BYTES


def test_reserving_much_ends_under_a_timer_that_interrupts_every_system_call() -> None:
    with closing(Segment.create(GIB)) as segment:
        ticks: list[int] = []
        before = signal.signal(signal.SIGALRM, lambda number, frame: ticks.append(number))
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        try:
            segment.reserve(HEADER_BYTES, HEADER_BYTES + 160 * MIB)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert committed(segment) == HEADER_BYTES + 160 * MIB


def test_m4_views_outlive_close_because_the_mapping_goes_with_the_last_reference() -> None:
    segment = Segment.create(MIB)
    segment.reserve(HEADER_BYTES, MIB)
    segment.buffer[HEADER_BYTES : HEADER_BYTES + 3] = b"abc"
    kept = segment.buffer[HEADER_BYTES:]
    segment.close()
    segment.close()
    del segment
    assert kept[:3] == b"abc"


def test_reserving_in_a_closed_segment_is_refused() -> None:
    segment = Segment.create(MIB)
    segment.close()
    with pytest.raises(PoolClosedError):
        segment.reserve(HEADER_BYTES, MIB)


def test_m4_a_poisoned_range_holds_0xdb_and_its_neighbours_hold_what_they_held() -> None:
    with closing(Segment.create(GIB)) as segment:
        start, end = HEADER_BYTES, HEADER_BYTES + 4 * PAGE_BYTES + 200_000
        segment.reserve(start, end)
        segment.buffer[start:end] = b"x" * (end - start)
        segment.poison(start + 5, end - 7)
        assert segment.buffer[start:end] == b"x" * 5 + b"\xdb" * (end - start - 12) + b"x" * 7


def test_m6_no_name_appears_in_dev_shm() -> None:
    before = set(os.listdir("/dev/shm"))
    segment = Segment.create(MIB)
    assert set(os.listdir("/dev/shm")) == before
    assert "(deleted)" in os.readlink(f"/proc/self/fd/{segment.fd}")
    segment.close()


def test_m6_every_descriptor_is_close_on_exec_and_closing_leaves_none() -> None:
    segment = Segment.create(MIB)
    opened = own_descriptors()
    assert segment.fd in opened
    assert not any(os.get_inheritable(fd) for fd in opened)
    segment.close()
    del segment
    assert own_descriptors() == []


def test_m6_where_memfd_is_forbidden_an_unnamed_file_in_dev_shm_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(name: str, flags: int) -> int:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    before = set(os.listdir("/dev/shm"))
    segment = Segment.create(MIB)
    assert os.readlink(f"/proc/self/fd/{segment.fd}").startswith("/dev/shm/")
    assert set(os.listdir("/dev/shm")) == before
    assert not os.get_inheritable(segment.fd)
    segment.reserve(HEADER_BYTES, MIB)
    segment.release(HEADER_BYTES, MIB)
    assert committed(segment) == HEADER_BYTES
    segment.close()


def test_where_both_are_forbidden_the_error_says_what_to_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> int:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(UnsupportedError, match="allow one of them"):
        Segment.create(MIB)


def test_elsewhere_than_on_linux_the_first_use_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnsupportedError, match="need Linux"):
        Segment.create(MIB)


def test_m7_a_program_that_the_user_starts_inherits_nothing() -> None:
    with closing(Segment.create(GIB)) as segment:
        found = subprocess.run(
            [sys.executable, "-c", LIST_DESCRIPTORS], close_fds=False, capture_output=True, text=True, check=True
        ).stdout
        assert "s3dlio" in os.readlink(f"/proc/self/fd/{segment.fd}")
        assert "s3dlio" not in found


def test_m7_a_worker_maps_the_same_memory_and_hands_its_descriptor_to_nobody() -> None:
    with closing(Segment.create(GIB)) as segment:
        script = WORKER.format(size=segment.size, list_descriptors=LIST_DESCRIPTORS)
        segment.reserve(HEADER_BYTES, HEADER_BYTES + PAGE_BYTES)
        found = subprocess.run(
            [sys.executable, "-c", script, str(segment.fd)], pass_fds=[segment.fd], capture_output=True, text=True, check=True
        ).stdout
        assert "s3dlio" not in found
        assert segment.counters[3] == 2**63 + 1
        assert segment.buffer[HEADER_BYTES : HEADER_BYTES + 5] == b"hello"


def test_attaching_what_is_no_segment_is_refused_and_closes_it() -> None:
    fd = os.memfd_create("other")
    with pytest.raises(InternalError, match="no segment"):
        Segment.attach(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_limit_of_address_space_makes_the_segment_smaller() -> None:
    script = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from s3dlio.engine.memory.segment import Segment
print(Segment.create().size)
"""
    size = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert size <= (1 << 30) + HEADER_BYTES


def test_a_mapping_that_does_not_fit_says_what_limits_it() -> None:
    with pytest.raises(InsufficientMemoryError, match="ulimit -v"):
        Segment.create(1 << 50)
