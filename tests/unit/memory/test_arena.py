"""The books of an arena at a fork: what is leased is retired, and nobody is met in the middle of a change."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from s3dlio.engine.memory import arena as arena_module
from s3dlio.engine.memory.arena import Arena
from s3dlio.engine.memory.blocks import GRANTED, RETIRED
from s3dlio.engine.memory.view import BytesView

MIB = 1 << 20


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena(MIB, False, threading.Lock())
    yield made
    made.close()
    del made.segment, made.buffer, made.slots, made.free  # the mapping goes with the last reference to it


def lease(arena: Arena) -> BytesView:
    slot = arena.slots.allocate(100)
    assert slot is not None
    return arena.lease(slot, 100)


def test_p10_a_fork_waits_for_whoever_changes_the_books_and_keeps_others_out(arena: Arena) -> None:
    forks = threading.Thread(target=arena_module._before_fork)
    with arena.lock:
        forks.start()
        slot = arena.slots.allocate(100)
        assert slot is not None
        assert slot.state == GRANTED
        view = arena.lease(slot, 100)
    forks.join(10)
    assert slot.state == RETIRED
    assert arena.lock.locked()
    arena_module._after_fork()
    assert not arena.lock.locked()
    del view
    assert arena.collect() == 1
    assert arena.slots.used_bytes == 0


def test_p10_a_thread_that_forks_while_it_holds_the_lock_is_not_stuck(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena_module, "_LOCK_PATIENCE_S", 0.05)
    with arena.lock:
        view = lease(arena)
        arena_module._before_fork()
        arena_module._after_fork()
        assert arena.lock.locked()
    assert arena.slots.retired_bytes == 4096
    assert bytes(view) == bytes(100)


def test_m4_a_slot_comes_back_once_however_often_its_end_is_announced(arena: Arena) -> None:
    view = lease(arena)
    (slot,) = arena._leased
    kept = arena._leased[slot]
    del view
    arena.released.append(kept)
    assert arena.collect() == 1
    assert (arena.slots.used_bytes, arena.num_leased) == (0, 0)
