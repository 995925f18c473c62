"""Names to addresses, without ever stalling a fetch loop: each lookup runs in a thread of its own, and all loops share what it finds.

Rules:

* A name is looked up once for all loops of the process, and again when what was found is a minute old; until the new answer is here the
  old one is used. A failure is kept for a second, so that many requests share it.
* An address in numbers is never looked up.
* A loop is told through its `Mailbox`.

`getaddrinfo` cannot be interrupted, so a thread may outlast whoever asked; it ends by itself, and holds nothing but its mailboxes.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Final, NamedTuple

from .mailbox import Mailbox
from .origin import Address, Origin

_TTL_S: Final = 60.0
_FAILURE_TTL_S: Final = 1.0

Name = tuple[str, int]
"""Host and port."""


class Found(NamedTuple):
    """What a lookup gave."""

    addresses: tuple[Address, ...]
    """In the order of RFC 6724, each once; empty after a failure."""
    problem: str | None
    """Why there are none."""
    until_s: float
    """How long it holds, by the monotonic clock."""


class _Names:
    """What this process knows of names."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.found: dict[Name, Found] = {}
        self.asking: dict[Name, list[Mailbox[Name]]] = {}
        """Lookups under way, and who is to be told."""


_names = _Names()


def known(origin: Origin) -> Found | None:
    """Returns what is known of a name now, possibly too old; None where nobody has asked yet. Numbers are always known."""
    found = _names.found.get((origin.host, origin.port))
    if found is None and _is_numeric(origin.host):
        found = _resolve(origin.host, origin.port, socket.AI_NUMERICHOST)
        _names.found[origin.host, origin.port] = found = found._replace(until_s=float("inf"))
    return found


def ask(origin: Origin, mailbox: Mailbox[Name]) -> None:
    """Has a name looked up, unless that is under way; `mailbox` hears when it is over."""
    key = (origin.host, origin.port)
    names = _names
    with names.lock:
        found = names.found.get(key)
        if found is not None and found.until_s > time.monotonic():
            mailbox.post(key)  # somebody else's lookup has just ended
            return
        waiting = names.asking.get(key)
        if waiting is None:
            names.asking[key] = [mailbox]
        elif mailbox not in waiting:
            waiting.append(mailbox)
    if waiting is None:
        try:
            threading.Thread(target=_look_up, args=(names, key), name="s3dlio-names", daemon=True).start()
        except RuntimeError as error:
            _end(names, key, Found((), str(error), time.monotonic() + _FAILURE_TTL_S))


def forget() -> None:
    """Forgets all names; the next use looks them up anew. Lookups under way find nothing that lasts."""
    global _names
    _names = _Names()


# Threads of the parent do not exist in a forked child, and one of them may have held the lock.
os.register_at_fork(after_in_child=forget)


def _look_up(names: _Names, key: Name) -> None:
    _end(names, key, _resolve(*key, 0))


def _end(names: _Names, key: Name, found: Found) -> None:
    with names.lock:
        old = names.found.get(key)
        if found.problem is not None and old is not None and old.problem is None:
            # What was found before is better than nothing.
            found = old._replace(until_s=found.until_s)
        names.found[key] = found
        waiting = names.asking.pop(key)
    for mailbox in waiting:
        mailbox.post(key)


def _resolve(host: str, port: int, flags: int) -> Found:
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError) as error:
        return Found((), str(error), time.monotonic() + _FAILURE_TTL_S)
    addresses = dict.fromkeys((int(family), address) for family, _, _, _, address in infos)
    return Found(tuple(addresses), None, time.monotonic() + _TTL_S)


def _is_numeric(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except (OSError, UnicodeError):
        return False
    return True
