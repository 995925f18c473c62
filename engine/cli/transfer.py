"""The commands upload and download: live progress, what failed on standard error, and a summary on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from ..ops.transfer import download, upload
from ..ops.transfer_summary import TransferSummary
from .console import print_error


def run_upload(
    sources: Sequence[str],
    uri: str,
    jobs: int,
    pattern: str | None,
    is_json: bool,
    *,
    recursive: bool,
    skip_existing: bool,
    follow_symlinks: bool,
    create_bucket: bool,
) -> bool:
    """Uploads, shows, and returns whether every file went.

    Raises:
        S3dlioError: The transfer as a whole failed.
    """
    return _show(
        upload(
            sources[0] if len(sources) == 1 else sources,
            uri,
            jobs,
            create_bucket,
            recursive=recursive,
            pattern=pattern,
            skip_existing=skip_existing,
            progress=True,
            follow_symlinks=follow_symlinks,
            errors="return",
        ),
        is_json,
    )


def run_download(
    uri: str, folder: str, jobs: int, pattern: str | None, is_json: bool, *, recursive: bool, skip_existing: bool
) -> bool:
    """Downloads, shows, and returns whether every object came.

    Raises:
        S3dlioError: The transfer as a whole failed.
    """
    return _show(
        download(
            uri, folder, jobs, recursive, pattern=pattern, skip_existing=skip_existing, progress=True, errors="return"
        ),
        is_json,
    )


def _show(summary: TransferSummary, is_json: bool) -> bool:
    if is_json:
        sys.stdout.write(json.dumps(summary.as_dict(), indent=2) + "\n")
    else:
        for line in summary.failures():
            print_error(line)
        sys.stdout.write(summary.in_one_line() + "\n")
    return not summary.failed
