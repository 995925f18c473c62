"""Objects that come to `gs://` in pieces: Google's resumable uploads.

Rules, by "Resumable uploads" of Google Cloud Storage:

* Pieces come one after the other, and all but the last are multiples of 256 KiB. The answer to one that is not the last is a 308, whose
  `Range` says how far the store has come; without one it has nothing.
* A piece is sent once. When its answer is lost, or a failure, the next attempt asks how far the store has come, and what is missing
  follows from there: so a piece whose answer was lost is neither sent again nor taken for lost.
* The piece that completes an object makes it visible. So that nothing is before `complete`, the last bytes (less than 256 KiB) wait for
  it; they carry the CRC32C of the whole object, which the store holds against what it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..errors import (
    InternalError,
    NotFoundError,
    ProtocolError,
    RequestRejectedError,
    S3dlioError,
    ServerError,
)
from ..fetch.checksums import sum_function
from ..fetch.http1 import ResponseHead
from .base import Operation
from .gcs_errors import ResumeIncompleteError
from .gcs_json import Resource, check_written, encode_crc32c, resource_of

if TYPE_CHECKING:
    from .gcs_ops import GcsOperations

T = TypeVar("T")
PIECE_BYTES: Final = 256 << 10
MAX_STALLS: Final = 10
"""Requests in a row, each with all its attempts, by which the store comes no further."""


class Session:
    """One resumable upload, as the requests of one operation after the other see it."""

    def __init__(self, operations: GcsOperations, key: str, target: str) -> None:
        self._operations = operations
        self._uri = operations.root + key
        self._target = target

    def send(self, start: int, data: memoryview) -> Operation[None]:
        """Sends what is not the end of the object: a multiple of `PIECE_BYTES`, beginning at byte `start`."""
        if not data:
            return
        if (yield from self._send(start, data, None, "")) is not None:
            raise ProtocolError("the store has completed an object of which more was to come", uri=self._uri)

    def finish(self, start: int, data: memoryview, sum_: int) -> Operation[Resource]:
        """Sends the end of the object, whose CRC32C is `sum_`, and returns what the store has then.

        Raises:
            ObjectChangedError: Its condition does not hold.
        """
        found = yield from self._send(start, data, start + len(data), f"X-Goog-Hash: crc32c={encode_crc32c(sum_)}\r\n")
        assert found is not None
        return found

    def _send(self, start: int, data: memoryview, total: int | None, lines: str) -> Operation[Resource | None]:
        end, position, num_stalls = start + len(data), start, 0
        size = "*" if total is None else total
        while total is not None or position < end:
            span = f"{position}-{end - 1}" if position < end else "*"
            try:
                return (
                    yield from self._ask(
                        "PUT",
                        resource_of,
                        f"Content-Range: bytes {span}/{size}\r\n{lines}",
                        payload=data[position - start :],
                        then=("PUT", f"Content-Range: bytes */{size}\r\n"),
                    )
                )
            except ResumeIncompleteError as error:
                num = error.num_persisted
            except NotFoundError:
                raise RequestRejectedError("the store knows nothing of this upload any more", uri=self._uri) from None
            if not start <= num <= end:
                raise ProtocolError(f"the store has {num} bytes of an upload that stands at {position}", uri=self._uri)
            num_stalls = 0 if num > position else num_stalls + 1
            if num_stalls == MAX_STALLS:
                raise ServerError(f"the store takes nothing of the upload behind byte {num}", uri=self._uri)
            position = num
        return None

    def cancel(self) -> Operation[None]:
        """Has the store forget what it was sent; what it knows nothing of is no error, nor that it cannot forget.

        Source: "Cancel an upload": it is answered by status 499.
        """
        try:
            yield from self._ask("DELETE", lambda *_: None)
        except (RequestRejectedError, NotFoundError):
            return

    def _ask(self, method: str, read: Callable[[ResponseHead, bytes | bytearray], T], lines: str = "", **more: Any) -> Operation[T]:
        """Makes a request of the session. Its answers' id is that of the session, by which anybody may write: no error shows it."""
        try:
            return (yield from self._operations.ask(self._uri, method, self._target, read, lines, **more))
        except S3dlioError as error:
            if error.request_id is not None:
                error.request_id = error.cause = None
            raise


class GcsUpload:
    """As `Upload`. A session that nobody ends ends by itself, after a week."""

    min_part_bytes = PIECE_BYTES
    max_parts = 1 << 30
    """There is no limit of their number, but 5 TiB of the object's size."""
    is_sequential = True

    def __init__(self, operations: GcsOperations, key: str, target: str, mark: str | None) -> None:
        """Begins with nothing.

        Args:
            operations: Of the bucket.
            key: Of the object.
            target: Of the session.
            mark: By which a create-only object is known again.
        """
        self._operations = operations
        self._key = key
        self._mark = mark
        self._session = Session(operations, key, target)
        self._parts: list[tuple[int, int]] = []
        """Where each part begins, and the CRC32C of what is before it."""
        self._end = 0
        """Bytes of all parts."""
        self._sum = 0
        """Their CRC32C."""
        self._tail = b""
        """What `complete` will send."""
        self._is_over = False

    def put_part(self, number: int, data: memoryview, is_last: bool) -> Operation[None]:
        """As `Upload.put_part`; the last one may be sent again."""
        if number > len(self._parts) or (len(data) % PIECE_BYTES and not is_last):
            raise InternalError("a part came out of order, or has not a multiple of 256 KiB", uri=self._operations.root + self._key)
        if number == len(self._parts):
            self._parts.append((self._end, self._sum))
        del self._parts[number + 1 :]
        start, before = self._parts[number]
        kept = len(data) % PIECE_BYTES if is_last else 0
        self._sum = sum_function("crc32c")(data, before)
        self._end = start + len(data)
        self._tail = bytes(data[len(data) - kept :])
        yield from self._session.send(start, data[: len(data) - kept])

    def complete(self) -> Operation[None]:
        """As `Upload.complete`."""
        tail = memoryview(self._tail)
        try:
            found = yield from self._session.finish(self._end - len(tail), tail, self._sum)
        except S3dlioError as error:
            found = yield from self._operations.find_own(self._key, self._mark, error)
        self._is_over = True
        check_written(found, self._operations.root + self._key, self._end, self._sum)

    def abort(self) -> Operation[None]:
        """As `Upload.abort`."""
        if not self._is_over:
            self._is_over = True
            yield from self._session.cancel()
