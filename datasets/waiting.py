"""What a training loop waits for: a stopwatch around each sample or batch, and its split by cause.

The time that the loop waits for an object ends when the object is there, and an object's own history ends then too. So a wait is read
backwards along that history: the last of it was the transfer, before that the store's first byte was awaited, and what was before that
the object waited for its turn: for room in memory, for a free request, for a worker to start.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s3dlio.engine.pool.items import Item


class Waiting:
    """Counts of one iteration. All times in seconds."""

    def __init__(self, listing_s: float = 0.0) -> None:
        """Begins the iteration's clock.

        Args:
            listing_s: How long the listing took, before.
        """
        self.listing_s = listing_s
        self.num_samples = 0
        self.num_bytes = 0
        self.first_byte_s = 0.0
        self.transfer_s = 0.0
        self.slot_wait_s = 0.0
        self.consumer_s = 0.0
        self.begun_s = self._since_s = time.perf_counter()
        self.ended_s: float | None = None

    def asks(self) -> None:
        """The loop asks for more: what passed since it got the last was its own time."""
        now_s = time.perf_counter()
        self.consumer_s += now_s - self._since_s
        self._since_s = now_s

    def gets(self, item: Item) -> None:
        """What the loop had asked for is there; `item` is what came."""
        now_s = time.perf_counter()
        waited_s = now_s - self._since_s
        self._since_s = now_s
        self.num_bytes += sum(item.sizes)
        first_byte_s = min(max(item.first_byte_s, 0.0), item.elapsed_s)
        transfer_s = min(waited_s, item.elapsed_s - first_byte_s)
        first_byte_s = min(waited_s - transfer_s, first_byte_s)
        self.transfer_s += transfer_s
        self.first_byte_s += first_byte_s
        self.slot_wait_s += waited_s - transfer_s - first_byte_s

    def end(self) -> None:
        """The iteration is over."""
        self.ended_s = time.perf_counter()

    def summary(self) -> dict[str, Any]:
        """Returns counts, rates and the split; rates are those of the whole iteration so far."""
        span_s = max((self.ended_s or time.perf_counter()) - self.begun_s, 1e-9)
        waited_s = self.first_byte_s + self.transfer_s + self.slot_wait_s
        return {
            "samples": self.num_samples,
            "bytes": self.num_bytes,
            "seconds": span_s,
            "samples_per_s": self.num_samples / span_s,
            "bytes_per_s": self.num_bytes / span_s,
            "waited_s": waited_s,
            "waited_share": waited_s / span_s,
            "split_s": {
                "listing": self.listing_s,
                "first_byte": self.first_byte_s,
                "transfer": self.transfer_s,
                "slot_wait": self.slot_wait_s,
                "consumer": self.consumer_s,
            },
        }
