"""Short-lived credentials of one open bucket, kept fresh: asked for ahead of their end, and once for all who are refused.

Rule: ahead of the end others are asked for in a thread of their own, and everybody goes on with what there is; behind it in the caller's,
and others wait for it. When is decided in `renewal.py`.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from ..errors import AuthenticationError, S3dlioError
from .renewal import Renewal

_log = logging.getLogger("s3dlio")


class RenewableSpec(Protocol):
    """What a worker opens a bucket by: a msgspec structure that besides these fields has a writable copy by `msgspec.structs.replace`."""

    @property
    def root(self) -> str: ...
    @property
    def identity(self) -> object | None:
        """What differs where other credentials have come; None for no credentials. It is compared and never shown."""
        ...

    @property
    def expires_at_s(self) -> float | None: ...
    @property
    def is_stale(self) -> bool: ...


Spec = TypeVar("Spec", bound=RenewableSpec)
_here: weakref.WeakSet[Renewer[Any]] = weakref.WeakSet()


class Renewer(Generic[Spec]):
    """The credentials of one store."""

    def __init__(self, spec: Spec, resolve: Callable[[bool], Spec], use: Callable[[Spec], None]) -> None:
        """Begins with the credentials of `spec`.

        Args:
            spec: What was resolved first.
            resolve: Returns what is in force now, as slowly as the network makes it; True says that what should still last is refused.
            use: Has the wire ask by another spec.
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
        """As `Store.expire`: the requests that were refused are tried again meanwhile."""
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
            spec = self._resolve(is_refused)
            if spec.identity is None:
                raise AuthenticationError("there are no credentials any more", uri=spec.root)
            if is_refused and spec.identity == self.spec.identity:
                _log.warning("the credentials for %s have expired, and no others are to be had; log in again", spec.root)
                spec = msgspec.structs.replace(spec, is_stale=True)  # type: ignore[type-var]
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
    for renewer in list(_here):
        renewer._renewing = threading.Lock()


os.register_at_fork(after_in_child=_renew_locks)


def _now_s() -> float:
    return datetime.now(UTC).timestamp()
