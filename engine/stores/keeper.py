"""Keeps the credentials of one open bucket fresh: asks for others ahead of their expiry, or when the store refuses them as expired.

Knows no store: it is given what asks (`resolve`) and what is told (`use`). Ahead of the expiry the asking happens in a thread of its
own, and everybody goes on with what there is; behind it, in the caller's, and others wait for it. What cannot be had is tried again.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ..errors import S3dlioError
from .renewal import Renewal

_log = logging.getLogger("s3dlio")
_here: weakref.WeakSet[Keeper] = weakref.WeakSet()


class Keeper:
    """The credentials of one bucket, as its store's `renew` and `expire` want them."""

    def __init__(self, spec: Any, resolve: Callable[[Any], Any], use: Callable[[Any], None]) -> None:
        """Begins with what was resolved.

        Args:
            spec: Has `root`, and `expires_at_s`: a Unix time, or None.
            resolve: Returns a spec with the credentials in force; given one, with others than those, which the store has refused. Where
                there are no others it returns one that is marked as stale.
            use: Told of each new spec.
        """
        self.spec = spec
        self._resolve = resolve
        self._use = use
        self._renewal = Renewal(spec.expires_at_s, _now_s())
        self._renewing = threading.Lock()
        _here.add(self)

    def renew(self) -> bool:
        """As `Store.renew`."""
        now_s = _now_s()
        expires_at_s = self.spec.expires_at_s
        if expires_at_s is None or now_s < expires_at_s:
            if now_s >= self._renewal.due_s:
                self._ask_in_thread(False)
            return self._renewing.locked()
        self._renewing.acquire()
        self._ask_and_release(False)
        return False

    def expire(self) -> None:
        """As `Store.expire`: in a thread of its own; the requests that were refused are tried again meanwhile."""
        if self._renewal.expire(_now_s()):
            self._ask_in_thread(True)

    def _ask_in_thread(self, is_refused: bool) -> None:
        if self._renewing.acquire(blocking=False):
            try:
                threading.Thread(target=self._ask_and_release, args=(is_refused,), name="s3dlio-credentials", daemon=True).start()
            except RuntimeError:  # no more threads: somebody tries again
                self._renewing.release()

    def _ask_and_release(self, is_refused: bool) -> None:
        try:
            if not is_refused and _now_s() < self._renewal.due_s:
                return  # somebody else has just done it
            self._renewal.note_failure(_now_s())  # whatever happens, it is not tried again at once
            spec = self._resolve(self.spec if is_refused else None)
            self._use(spec)
        except S3dlioError as error:
            # As text: a log may keep its records, and an error's traceback the memory of what is being fetched.
            _log.warning("the credentials for %s could not be renewed, and are tried again: %s", self.spec.root, str(error))
        else:
            self.spec = spec
            self._renewal.note(spec.expires_at_s, _now_s())
        finally:
            self._renewing.release()


def _renew_locks() -> None:
    # A thread of the parent may have held one at the moment of the fork; here it would never be released.
    for keeper in list(_here):
        keeper._renewing = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)


def _now_s() -> float:
    return datetime.now(UTC).timestamp()
