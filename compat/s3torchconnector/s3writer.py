"""An object as a file to write. It becomes visible by `close`, and by nothing else."""

from __future__ import annotations

import io
import logging
import threading
from types import TracebackType
from typing import Any, Self

from ..s3torchconnectorclient._mountpoint_s3_client import PutObjectStream

logger = logging.getLogger(__name__)


class S3Writer(io.BufferedIOBase):
    """A write-only file over a stream of the client.

    One that is left by an exception, or forgotten, writes nothing: it throws away what it sent. `close` may be called from any thread, and
    more than once; `write` from one thread at a time.

    Args:
        stream: What takes the bytes.
    """

    def __init__(self, stream: PutObjectStream) -> None:
        self.stream = stream
        self._position = 0
        self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._position = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        self._abort()
        logger.info("Exception occurred before closing stream: %s: %s", kind.__name__, error)

    def __del__(self) -> None:
        # IOBase's own would close, and so write half an object. The stream knows by itself that it was dropped.
        self._closed = True

    def write(self, data: Any) -> int:
        """Takes bytes, or any other buffer; the caller may change it afterwards.

        Returns:
            How many bytes were taken: all.

        Raises:
            S3Exception: They could not be sent; there will be no object.
            ValueError: The writer is closed.
        """
        if self._closed:
            raise ValueError("I/O operation on closed file.")
        # A stream of somebody else's is promised bytes.
        is_ours = isinstance(self.stream, PutObjectStream)
        if isinstance(data, memoryview) and not (is_ours and data.c_contiguous):
            data = data.tobytes()
        self.stream.write(data)
        num = memoryview(data).nbytes if is_ours and not isinstance(data, bytes) else len(data)
        self._position += num
        return num

    def close(self) -> None:
        """Makes the object of what was written; the second time nothing.

        Raises:
            S3Exception: That failed; there will be no object.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                self.stream.close()

    def _abort(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        abort = getattr(self.stream, "abort", None)
        if abort is not None:
            abort()

    @property
    def closed(self) -> bool:
        return self._closed

    def flush(self) -> None:
        """Does nothing: what is written is seen when all is."""

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return not self._closed

    def tell(self) -> int:
        """Returns how many bytes were written, since `with` where it was used."""
        return self._position
