"""How the files of a distributed checkpoint are named, so that many ranks that write at once do not meet in one partition of a bucket.

A strategy makes of a rank what its files begin with, below the checkpoint's own path: `<prefix>/[epoch_<n>/]__<rank>_`. S3 splits a
bucket's load by the first characters of the keys, so prefixes that differ early spread it.

Source: docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.distributed as dist


class S3PrefixStrategyBase(ABC):
    """What a strategy is: called with a rank, it returns a prefix. Subclasses say which."""

    def __call__(self, rank: int) -> str:
        """Returns the prefix of the files that `rank` writes."""
        return self.generate_prefix(rank)

    @abstractmethod
    def generate_prefix(self, rank: int) -> str:
        """Returns the prefix of the files that `rank` writes; no two ranks may get the same one."""


class DefaultPrefixStrategy(S3PrefixStrategyBase):
    """Names as torch's own writer gives them: `__<rank>_`."""

    def generate_prefix(self, rank: int) -> str:
        return f"__{rank}_"


class NumericPrefixStrategy(S3PrefixStrategyBase):
    """Counts in some base, with the digit that changes most often first; subclasses write a number's digits.

    Args:
        base: Of the digits.
        epoch_num: Names the checkpoint's epoch below the prefix; None names none.
        min_prefix_length: Digits that a prefix has at least.
        prefix_count: How many prefixes there are; ranks beyond share them. None takes the world size, or 1 outside of a process group.

    Raises:
        ValueError: `min_prefix_length` or `prefix_count` is less than 1, or one of the numbers is none.
    """

    def __init__(
        self, base: int, epoch_num: int | None = None, min_prefix_length: int = 10, prefix_count: int | None = None
    ) -> None:
        if min_prefix_length < 1:
            raise ValueError(f"Minimum prefix length must be positive, got {min_prefix_length}")
        if not _is_int_or_none(epoch_num):
            raise ValueError(f"Epoch number must be None or an integer, got {epoch_num}")
        if not _is_int_or_none(prefix_count) or (prefix_count is not None and prefix_count < 1):
            raise ValueError(f"Prefix count must be a positive integer, got {prefix_count}")
        super().__init__()
        self.base = base
        self.epoch_num = epoch_num
        self.min_prefix_len = min_prefix_length
        self.prefix_count = _world_size() if prefix_count is None else prefix_count
        self.prefix_map = self._generate_prefix_map()

    def generate_prefix(self, rank: int) -> str:
        return _named(self.prefix_map[rank % len(self.prefix_map)], self.epoch_num, rank)

    def _generate_prefix_map(self) -> list[str]:
        length = max(self._calculate_prefix_length(), self.min_prefix_len)
        return [self._format_number(number, length)[::-1] for number in range(self.prefix_count)]

    def _calculate_prefix_length(self) -> int:
        """Returns how many digits tell `prefix_count` numbers apart."""
        length = 1
        while self.base**length < self.prefix_count:
            length += 1
        return length

    @abstractmethod
    def _format_number(self, number: int, length: int) -> str:
        """Returns the digits of `number`, with zeros in front up to `length`."""


class BinaryPrefixStrategy(NumericPrefixStrategy):
    """Prefixes of zeros and ones; the arguments are those of `NumericPrefixStrategy`."""

    def __init__(
        self, epoch_num: int | None = None, min_prefix_length: int = 10, prefix_count: int | None = None
    ) -> None:
        super().__init__(2, epoch_num, min_prefix_length, prefix_count)

    def _format_number(self, number: int, length: int) -> str:
        return f"{number:0{length}b}"


class HexPrefixStrategy(NumericPrefixStrategy):
    """Prefixes of hexadecimal digits, small letters; the arguments are those of `NumericPrefixStrategy`."""

    def __init__(
        self, epoch_num: int | None = None, min_prefix_length: int = 10, prefix_count: int | None = None
    ) -> None:
        super().__init__(16, epoch_num, min_prefix_length, prefix_count)

    def _format_number(self, number: int, length: int) -> str:
        return f"{number:0{length}x}"


class RoundRobinPrefixStrategy(S3PrefixStrategyBase):
    """Prefixes of the user's own, dealt to the ranks in turn.

    Args:
        user_prefixes: At least one.
        epoch_num: Names the checkpoint's epoch below the prefix; None names none.

    Raises:
        ValueError: There is no prefix.
    """

    def __init__(self, user_prefixes: list[str], epoch_num: int | None = None) -> None:
        super().__init__()
        if not user_prefixes:
            raise ValueError("user_prefixes must not be empty")
        self.user_prefixes = user_prefixes
        self.epoch_num = epoch_num

    def generate_prefix(self, rank: int) -> str:
        return _named(self.user_prefixes[rank % len(self.user_prefixes)], self.epoch_num, rank)


def _named(prefix: str, epoch_num: int | None, rank: int) -> str:
    epoch = "" if epoch_num is None else f"epoch_{epoch_num}/"
    return f"{prefix}/{epoch}__{rank}_"


def _is_int_or_none(value: object) -> bool:
    return value is None or isinstance(value, int)


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
