"""What a transfer came to."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..errors import S3dlioError
from ..text import clean

_SHOWN: Final = 10


class TransferSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What `upload` and `download` return; `print` shows it in words."""

    files: int
    """Objects that were transferred."""
    bytes: int
    """Their bytes."""
    skipped: int
    """Objects that were there already, of those that `skip_existing` looked at."""
    failed: tuple[tuple[str, S3dlioError], ...]
    """The URI and the error of each source that did not come, in the order of the listing."""
    seconds: float
    """How long it took."""

    def __str__(self) -> str:
        lines = [f"  {clean(line)}" for line in self.failures()[:_SHOWN]]
        if len(self.failed) > _SHOWN:
            lines.append(f"  ... and {len(self.failed) - _SHOWN:,} more")
        return "\n".join([self.in_one_line(), *lines])

    def in_one_line(self) -> str:
        """Returns the counts in words."""
        rate = self.bytes / max(self.seconds, 1e-9) / 1e6
        text = f"{self.files:,} files, {self.bytes:,} bytes in {self.seconds:.1f} s ({rate:,.0f} MB/s)"
        if self.skipped:
            text += f", {self.skipped:,} skipped"
        if self.failed:
            text += f", {len(self.failed):,} failed"
        return text

    def failures(self) -> list[str]:
        """Returns a line for each that failed."""
        said = [(uri, str(error)) for uri, error in self.failed]
        return [text if uri in text or clean(uri) in text else f"{uri}: {text}" for uri, text in said]

    def as_dict(self) -> dict[str, Any]:
        """Returns it in plain values, as for JSON."""
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return found | {"failed": [{"uri": uri, "error": f"{type(error).__name__}: {error}"} for uri, error in self.failed]}
