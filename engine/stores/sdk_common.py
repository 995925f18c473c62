"""What the SDK lanes of all clouds share: a client for each identity, heads as the fast lane reads them, errors by their names."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from ..errors import CertificateError, ProtocolError, S3dlioError
from ..fetch.http1 import ResponseHead, parse_head

C = TypeVar("C")

Meanings = Mapping[str, tuple[type[S3dlioError], str]]
"""By the name of an SDK's exception, or of a class that it derives from: what it is here, and its text. The first that fits counts."""


class KeptClient(Generic[C]):
    """The client of one wire: made at its first use (0.3 s), and anew where what it is made of has changed. Thread-safe."""

    def __init__(self, make: Callable[..., C]) -> None:
        """Makes nothing yet.

        Args:
            make: Given what `get` is given.
        """
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[tuple[Any, ...], C] | None = None
        _kept.add(self)

    def get(self, *made_of: Any) -> C:
        """Returns the client that is made of these.

        Raises:
            S3dlioError: As `make`.
        """
        with self._lock:
            if self._made is None or self._made[0] != made_of:
                self._made = made_of, self._make(*made_of)
            return self._made[1]

    def abandon(self) -> None:
        """In a forked child: the client's connections are the parent's, and are neither used nor closed."""
        self._lock = threading.Lock()
        if self._made is not None:
            _inherited.append(self._made[1])
            self._made = None


_kept: weakref.WeakSet[KeptClient[Any]] = weakref.WeakSet()
_inherited: list[Any] = []


def _abandon_all() -> None:
    for client in list(_kept):
        client.abandon()


os.register_at_fork(after_in_child=_abandon_all)


def head_of(status: int, headers: Iterable[tuple[str, str]], num_bytes: int | None = None) -> ResponseHead:
    """Returns the head that an SDK has taken apart.

    Args:
        status: Of the answer.
        headers: As the SDK gives them.
        num_bytes: The length of the body where that was read, whatever a header says: it may have come in chunks.
    """
    left_out = {"transfer-encoding"} if num_bytes is None else {"transfer-encoding", "content-length"}
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers if name.lower() not in left_out])
    if num_bytes is not None:
        lines += f"content-length: {num_bytes}\r\n"
    return parse_head(f"HTTP/1.1 {status} OK\r\n{lines}\r\n".encode("latin-1", "replace"))


def read_bounded(read: Callable[[int], Any], max_bytes: int) -> bytes:
    """Returns all that `read(num)` gives.

    Raises:
        ProtocolError: It is more than `max_bytes`.
    """
    data = bytes(read(max_bytes + 1))
    if len(data) > max_bytes:
        raise ProtocolError(f"the body is longer than {max_bytes} bytes")
    return data


def meaning_of(error: Exception, uri: str, meanings: Meanings, otherwise: tuple[type[S3dlioError], str], bundle: str) -> S3dlioError:
    """Returns what an SDK's exception means. Its own text may hold a URL with a secret, or what was sent, and is not passed on.

    Args:
        error: What the SDK raised.
        uri: What it was about.
        meanings: Those that are known.
        otherwise: What all others mean.
        bundle: The variable that names certificates to trust.
    """
    names = [cls.__name__ for cls in type(error).__mro__]
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        text = f"the server's certificate is refused; if it is your own, name its issuer in {bundle}"
        return CertificateError(text, uri=uri, cause=names[0])
    kind, text = next((meaning for name, meaning in meanings.items() if name in names), otherwise)
    return kind(text, uri=uri, cause=names[0])
