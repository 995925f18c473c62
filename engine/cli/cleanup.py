"""The command cleanup: what writers that were killed have left is listed, and aborted if that is wanted (case U2)."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from typing import Final

from ..errors import ConfigurationError
from ..ops.cleanup import abort_left, begun_s, find_left
from ..text import clean
from ..types import PendingUpload
from .console import print_error, print_note

_SECONDS_OF: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def run_cleanup(uri: str, older_than: str, is_wanted: bool, is_json: bool) -> bool:
    """Lists what was left below `uri`, aborts it if that is wanted, and returns whether nothing failed.

    Raises:
        ConfigurationError: `older_than` is no span of time.
        S3dlioError: The list cannot be had.
    """
    found = find_left(uri, parse_span(older_than))
    failed = 0
    if is_wanted:
        for upload, error in abort_left(uri, found):
            _show(upload, "failed" if error else "aborted", is_json)
            if error:
                failed += 1
                print_error(str(error))
    else:
        for upload in found:
            _show(upload, "left", is_json)
    print_note(_summary(len(found), failed, older_than, is_wanted))
    return not failed


def parse_span(text: str) -> float:
    """Returns the seconds of `90s`, `30m`, `12h`, `1d`, `2w`, `1.5d`, or of a number alone.

    Raises:
        ConfigurationError: Anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip().lower())
    if found is None:
        raise ConfigurationError(f"{text!r} is no span of time; write 90s, 30m, 12h, 1d or 2w")
    return float(found[1]) * _SECONDS_OF[found[2] or "s"]


def _show(upload: PendingUpload, outcome: str, is_json: bool) -> None:
    if is_json:
        facts = {"uri": upload.uri, "upload_id": upload.upload_id, "begun": upload.begun, "outcome": outcome}
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    age = _age(datetime.now(UTC).timestamp() - begun_s(upload))
    line = f"{outcome:<8} {age:>6}  {clean(upload.begun)}  {clean(upload.uri)}  {clean(upload.upload_id)}"
    sys.stdout.write(line.rstrip() + "\n")


def _age(seconds: float) -> str:
    for letter in "wdhm":
        if seconds >= 2 * _SECONDS_OF[letter]:
            return f"{seconds / _SECONDS_OF[letter]:.0f}{letter}"
    return f"{max(0.0, seconds):.0f}s"


def _summary(num: int, failed: int, older_than: str, is_wanted: bool) -> str:
    what = f"{num:,} unfinished upload{'' if num == 1 else 's'} older than {older_than}"
    if not is_wanted:
        return f"{what}; --yes aborts {'it' if num == 1 else 'them'}" if num else what
    return f"{what}: {num - failed:,} aborted, {failed:,} failed"
