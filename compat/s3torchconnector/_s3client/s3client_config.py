"""How a client asks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class S3ClientConfig:
    """What a client may be told. Values are looked at when it asks for the first time.

    Args:
        throughput_target_gbps: Gigabits per second that are wanted: how many requests are in flight for one object.
        part_size: Bytes of the parts in which long objects are read and written, 5 MiB to 5 GiB; of very long objects they are larger.
        unsigned: Whether requests carry no signature.
        force_path_style: Whether the bucket stands in the path, and not in the host's name.
        max_attempts: For each request; `AWS_MAX_ATTEMPTS` stands above it.
        profile: Of `~/.aws`.
        requester_pays: Whether who asks pays.

    Raises:
        ValueError: Nobody could be made to pay for unsigned requests.
    """

    throughput_target_gbps: float = 10.0
    part_size: int = 8 * 1024 * 1024
    unsigned: bool = False
    force_path_style: bool = False
    max_attempts: int = 10
    profile: str | None = None
    requester_pays: bool = False

    def __post_init__(self) -> None:
        if self.requester_pays and self.unsigned:
            raise ValueError("requester_pays needs signed requests: it cannot go with unsigned")
