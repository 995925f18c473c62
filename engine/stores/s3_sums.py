"""Checksums that go with what is written to S3: the store refuses bytes that were changed on their way, and keeps the sum for readers.

CRC64NVME, since that of a whole object follows from those of its parts; a server that knows no such header is sent CRC32C, and one that
refuses that too, none. Which one it takes is found out by its refusal, once for all requests of a lane.

Source: "Checking object integrity in Amazon S3", Amazon S3 User Guide.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Final

from ..errors import RequestRejectedError, S3dlioError, UnsupportedError
from ..fetch.checksums import sum_function
from ..fetch.request import Fetch
from ..fetch.sigv4 import Headers
from .base import Operation

_ALGORITHMS: Final = ("crc64nvme", "crc32c", None)
_NUM_BYTES: Final = {"crc64nvme": 8, "crc32c": 4}


class Sums:
    """Which checksum a server takes. Threads may share it."""

    def __init__(self) -> None:
        self.algorithm: str | None = _ALGORITHMS[0]

    def of(self, data: memoryview) -> Headers:
        """Returns the header that says the checksum of `data`."""
        algorithm = self.algorithm
        if algorithm is None:
            return ()
        return ((f"x-amz-checksum-{algorithm}", encode_sum(algorithm, sum_function(algorithm)(data, 0))),)

    def send(self, data: memoryview, make: Callable[[Headers], Fetch], first: Fetch | None = None) -> Operation[Fetch]:
        """Sends what `make` makes of the checksum of `data`; once more with another one where the server does not know it.

        Args:
            data: What is sent.
            make: Is given the header of its checksum.
            first: What it made of the checksum that is tried first, where that is known already.
        """
        while True:
            algorithm = self.algorithm
            try:
                return (yield first or make(self.of(data)))
            except S3dlioError as error:
                first = None
                if not self.give_way(algorithm, error):
                    raise

    def give_way(self, algorithm: str | None, error: S3dlioError) -> bool:
        """Whether a request was refused for its checksum, and another one is to be tried."""
        if algorithm is None or not is_refusal_of_sum(error):
            return False
        if self.algorithm == algorithm:
            self.algorithm = _ALGORITHMS[_ALGORITHMS.index(algorithm) + 1]
        return True


def is_refusal_of_sum(error: S3dlioError) -> bool:
    """Whether a server says that it knows no such checksum: not that the bytes have another one."""
    text = error.message.lower()
    return isinstance(error, RequestRejectedError | UnsupportedError) and ("checksum" in text or "crc64" in text or "crc32c" in text)


def encode_sum(algorithm: str, value: int) -> str:
    """Returns a checksum as headers and documents have it: big-endian, in base64."""
    return binascii.b2a_base64(value.to_bytes(_NUM_BYTES[algorithm], "big"), newline=False).decode()
