"""What the environment says of the way to a store whose SDK goes by requests: proxies and certificates. s3:// has botocore's own rules."""

from __future__ import annotations

import os

from ..config import environment
from ..errors import ConfigurationError

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def find_proxy(scheme: str, host: str) -> str | None:
    """Returns the URL of the proxy that leads to `scheme://host`; it may hold a password. None where there is none, or by `NO_PROXY`."""
    if not environment(*_PROXIES):
        return None
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    url = proxies.get(scheme) or proxies.get("all")
    return None if not url or proxy_bypass(host) else url


def find_certificates() -> str | None:
    """Returns what `REQUESTS_CA_BUNDLE` names, None for the system's certificates, or certifi's where it has none.

    Raises:
        ConfigurationError: It names nothing; requests would say so with an error that is none of its own.
    """
    import ssl

    given = environment("REQUESTS_CA_BUNDLE")
    if given:
        path = given["REQUESTS_CA_BUNDLE"]
        if not os.path.exists(path):
            raise ConfigurationError(f"REQUESTS_CA_BUNDLE names {path!r}, and there is no such file")
        return path
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and os.listdir(paths.capath)):
        return None
    try:
        import certifi
    except ImportError:
        return None
    return certifi.where()
