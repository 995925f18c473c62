"""`S3Exception`, and which errors of the engine become it, with which text.

Programs compare these texts, so they are upstream's wherever upstream has one for the case; others keep the engine's, which names the
object and the attempts. The engine's error is the `__cause__` of each.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any, Final

from s3dlio.engine.errors import NotFoundError, PermissionDeniedError, S3dlioError

KEY_MISSING: Final = "Service error: The key does not exist"
"""What a GET says of an object that is not there."""
OBJECT_MISSING: Final = "Service error: The object was not found"
"""What a HEAD and a copy say of it; and a HEAD of a bucket, since its answer has no body that could tell them apart."""
BUCKET_MISSING: Final = "Service error: The bucket does not exist"
_CODE: Final = re.compile(r"[A-Z][A-Za-z0-9]+(?=$|[:;])")


class S3Exception(Exception):  # noqa: N818 (upstream's name)
    """An operation on S3 failed. The text is upstream's where it has one for the case.

    Attributes:
        code: The store's own name of the error (`NoSuchKey`), or None.
        status: The HTTP status of the last answer, or None.
        request_id: The store's id of the last request, or None.
    """

    code: str | None = None
    status: int | None = None
    request_id: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, self.__dict__


def translated(missing: str) -> Translation:
    """Returns a context that raises an `S3Exception` for whatever the engine raises inside.

    Args:
        missing: What is said of an object that is not there.
    """
    return Translation(missing)


class Translation:
    """A context; a class, since one that a generator makes takes more than twice as long, and every read has one."""

    __slots__ = ("_missing",)

    def __init__(self, missing: str) -> None:
        self._missing = missing

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, S3dlioError):
            raise translate(error, self._missing) from error


def translate(error: S3dlioError, missing: str) -> S3Exception:
    """Returns the `S3Exception` that `error` stands for; whoever raises it chains `error` to it."""
    found = _CODE.match(error.message)
    code = found[0] if found is not None and error.status is not None else None
    made = S3Exception(_text(error, code, missing))
    made.code, made.status, made.request_id = code, error.status, error.request_id
    return made


def _text(error: S3dlioError, code: str | None, missing: str) -> str:
    if isinstance(error, NotFoundError):
        return BUCKET_MISSING if code == "NoSuchBucket" and missing != OBJECT_MISSING else missing
    if isinstance(error, PermissionDeniedError) and error.status == 403:
        said = error.message.partition(": ")[2] if code else ""
        return f"Client error: Forbidden: {said or '<no message>'}"
    return f"Client error: {error}"
