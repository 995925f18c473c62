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
        rate = self.bytes / max(self.seconds, 1e-9) / 1e6
        text = f"{self.files:,} files, {self.bytes:,} bytes in {self.seconds:.1f} s ({rate:,.0f} MB/s)"
        if self.skipped:
            text += f", {self.skipped:,} skipped"
        if self.failed:
            text += f", {len(self.failed):,} failed:"
            lines = [f"  {clean(self._line(uri, error))}" for uri, error in self.failed[:_SHOWN]]
            if len(self.failed) > _SHOWN:
                lines.append(f"  ... and {len(self.failed) - _SHOWN:,} more")
            text = "\n".join([text, *lines])
        return text

    @staticmethod
    def _line(uri: str, error: S3dlioError) -> str:
        said = str(error)
        return said if uri in said else f"{uri}: {said}"

    def as_dict(self) -> dict[str, Any]:
        """Returns it in plain values, as for JSON."""
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return found | {"failed": [{"uri": uri, "error": f"{type(error).__name__}: {error}"} for uri, error in self.failed]}
