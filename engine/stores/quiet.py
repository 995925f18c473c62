"""What SDKs and urllib3 log at DEBUG, as requests with their tokens and answers with fresh keys, is dropped where we call them (A5).

Other users of an SDK in this process go on logging as they like: only calls within `quiet` are dropped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_here = threading.local()
_done: set[str] = set()


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, in this thread, SDKs and urllib3 log nothing below INFO."""
    _install()
    depth = getattr(_here, "depth", 0)
    _here.depth = depth + 1
    try:
        yield
    finally:
        _here.depth = depth


def _is_fit(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG or not getattr(_here, "depth", 0)


_NAMES = (
    "auth", "awsrequest", "args", "client", "configloader", "configprovider", "credentials", "crt.auth", "discovery", "endpoint",
    "endpoint_provider", "handlers", "hooks", "httpchecksum", "httpsession", "loaders", "parsers", "regions", "response",
    "retries.adaptive", "retries.special", "retries.standard", "retryhandler", "session", "signers", "tokens", "utils", "waiter",
)  # fmt: skip
"""Of the modules of botocore that log; some of them are imported only when something is asked for."""


_GOOGLE = (
    "auth._default", "auth.compute_engine._metadata", "auth.external_account", "auth.impersonated_credentials",
    "auth.transport._http_client", "auth.transport.requests", "cloud.storage._helpers", "cloud.storage.blob", "oauth2._client",
    "oauth2.credentials", "oauth2.service_account",
)  # fmt: skip
"""As `_NAMES`, of Google's packages."""


_PACKAGES = ("azure.", "botocore.", "google.", "msal.", "urllib3.")
"""What has logged before is quiet too."""


def _install() -> None:
    """Gives each logger the filter, once: a filter of a parent is not asked about the records of its children."""
    names = {f"botocore.{name}" for name in _NAMES} | {f"google.{name}" for name in _GOOGLE}
    names |= {name for name in [*logging.root.manager.loggerDict] if name.startswith(_PACKAGES)}
    for name in names | {"urllib3.connectionpool", "urllib3.util.retry"}:
        if name not in _done:
            _done.add(name)
            logging.getLogger(name).addFilter(_is_fit)
