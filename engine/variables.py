"""The environment variables of the other library of this name (PyPI's s3dlio, in Rust): which are honoured here, and why others are not.

Pure: two tables. `config.py` reads the environment, `docs/configuration.md` is written from both.

Source: what s3dlio 0.9.106 reads, and its guide, which names S3DLIO_WORKER_THREADS.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, NamedTuple

_NEVER_BYTES: Final = 1 << 62
_LEAST_PART_BYTES: Final = 1 << 16


class Alias(NamedTuple):
    """A variable that stands for a setting of ours."""

    setting: str
    convert: Callable[[str], Any]
    """Makes a value of the setting of the variable's text, or None where it says nothing.

    Raises:
        ValueError: The text makes no sense.
    """
    meaning: str
    """What becomes of the text, for the page of settings."""


def _text(text: str) -> str:
    return text


def _processes(text: str) -> int:
    # One of our processes does the work of many of their threads; more of them than cores would only take turns.
    num = int(text)
    return max(1, min(num, os.cpu_count() or 1)) if num > 0 else num


def _mebibytes(text: str) -> int:
    return max(_LEAST_PART_BYTES, int(text) << 20) if int(text) >= 0 else int(text)


def _ranges(text: str) -> int | None:
    return _NEVER_BYTES if text.strip().lower() in ("0", "false", "no", "off") else None


def _checked(text: str) -> str | None:
    return "true" if text.strip().lower() in ("1", "true", "yes", "on") else None


ALIASES: Final[dict[str, Alias]] = {
    "S3DLIO_RT_THREADS": Alias("procs", _processes, "worker processes, at most as many as there are cores"),
    "S3DLIO_WORKER_THREADS": Alias("procs", _processes, "the same"),
    "S3DLIO_CONNECT_TIMEOUT_SECS": Alias("connect_timeout_s", _text, "the same"),
    "S3DLIO_OPERATION_TIMEOUT_SECS": Alias("deadline_s", _text, "the same: one request with all its attempts"),
    "S3DLIO_MAX_RETRY_ATTEMPTS": Alias("max_attempts", _text, "the same; here a new byte begins the count anew"),
    "S3DLIO_POOL_IDLE_TIMEOUT_SECS": Alias("idle_connection_s", _text, "the same"),
    "S3DLIO_CHUNK_SIZE": Alias("part_bytes", _text, "the same, in bytes"),
    "S3DLIO_RANGE_THRESHOLD_MB": Alias("split_above_bytes", _mebibytes, "the same, in MiB; 0 is 64 KiB here"),
    "S3DLIO_ENABLE_RANGE_OPTIMIZATION": Alias("split_above_bytes", _ranges, "0 has no object read in ranges; 1 is how it is anyway"),
    "S3DLIO_SIZE_CACHE_TTL_SECS": Alias("size_cache_s", _text, "the same"),
    "S3DLIO_PUT_VERIFY": Alias("verify_writes", _checked, "1 has the size looked at after each write; checksums are sent in any case"),
    "S3DLIO_MPU_PUT_VERIFY": Alias("verify_writes", _checked, "the same; what is written in parts is looked at in any case"),
}
"""By variable; of two for one setting the later one wins, and the setting's own variable above both."""

_NO_HTTP2: Final = "requests go by HTTP/1.1, over as many connections as there are jobs"
_NO_OP_LOG: Final = "this version writes no op log"
_ATTEMPTS: Final = "writes are tried again like reads: see max_attempts, backoff_initial_s and backoff_max_s"
_REDIRECTS: Final = "buckets in other regions are found, and nothing signed is ever sent to a host that an answer names"

WITHOUT_MEANING: Final[dict[str, str]] = {
    "S3DLIO_POOL_MAX_IDLE_PER_HOST": "no more connections are opened than jobs allows, and those are kept",
    "S3DLIO_RANGE_CONCURRENCY": "the parts of an object share the requests that jobs allows",
    "S3DLIO_CONCURRENT_THRESHOLD": "whether an object is read in parts is decided by split_above_bytes alone",
    "S3DLIO_SKIP_HEAD": "there is no HEAD before a GET",
    "S3DLIO_H2C": _NO_HTTP2,
    "S3DLIO_H2_ADAPTIVE_WINDOW": _NO_HTTP2,
    "S3DLIO_H2_STREAM_WINDOW_MB": _NO_HTTP2,
    "S3DLIO_H2_CONN_WINDOW_MB": _NO_HTTP2,
    "S3DLIO_FOLLOW_REDIRECTS": _REDIRECTS,
    "S3DLIO_REDIRECT_MAX": _REDIRECTS,
    "S3DLIO_UNSIGNED_PAYLOAD": "payloads are signed over http, and go unsigned over https, which protects them",
    "S3DLIO_PUT_MAX_RETRIES": _ATTEMPTS,
    "S3DLIO_PUT_RETRY_DELAY_MS": _ATTEMPTS,
    "S3DLIO_OPLOG_LOSSLESS": _NO_OP_LOG,
    "S3DLIO_OPLOG_BUF": _NO_OP_LOG,
    "S3DLIO_OPLOG_WBUFCAP": _NO_OP_LOG,
    "S3DLIO_OPLOG_LEVEL": _NO_OP_LOG,
    "S3DLIO_OPLOG_READ_BUF": _NO_OP_LOG,
    "S3DLIO_OPLOG_CHUNK_SIZE": _NO_OP_LOG,
    "S3DLIO_OPLOG_SORT": _NO_OP_LOG,
    "S3DLIO_GCS_*": "gs:// is asked by the JSON API over HTTP/1.1, which has no such channels and windows",
}
"""By variable: why it changes nothing here. A name that ends in `*` stands for all that begin so."""


def why_without_meaning(variable: str) -> str | None:
    """Returns why a variable of the other library changes nothing here; None for one that it does not know."""
    found = WITHOUT_MEANING.get(variable)
    if found is not None:
        return found
    families = (name for name in WITHOUT_MEANING if name.endswith("*"))
    return next((WITHOUT_MEANING[name] for name in families if variable.startswith(name[:-1])), None)
