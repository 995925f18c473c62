"""From an endpoint URL, or a request that botocore prepared, to the place of a bucket: scheme, host, port, path, region.

Pure: no session, no environment, no SDK. An endpoint is split by `urlsplit`; keys never pass through here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from ..errors import ConfigurationError, UnsupportedError

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_PLAIN_BUCKET: Final = re.compile(r"[A-Za-z0-9.\-_]{1,255}")
"""What botocore takes for a name and not for an ARN. Source: botocore.handlers.VALID_BUCKET."""
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
_BASE_PATH: Final = re.compile(r"[A-Za-z0-9._~%!$&'()*+,;=:@/-]*")
_SCOPE: Final = re.compile(r"Credential=[^/]+/\d{8}/([^/]+)/s3/aws4_request\b")


class Place(NamedTuple):
    """Where a bucket is; the fields are those of `S3Spec`."""

    scheme: str
    host: str
    port: int
    host_header: str
    path_prefix: str
    region: str


class Endpoint(NamedTuple):
    """An endpoint URL in parts; the path has no slash at its end."""

    scheme: str
    host: str
    port: int
    path: str


def needs_botocore(bucket: str, s3_section: Mapping[str, Any] | None) -> bool:
    """Whether only botocore knows the place: an ARN, an odd name, or a profile whose `s3` section changes more than timeouts."""
    section = s3_section or {}
    return (
        _PLAIN_BUCKET.fullmatch(bucket) is None
        or section.get("addressing_style") not in (None, "auto", "path")
        or bool(section.get("use_accelerate_endpoint"))
        or bool(section.get("use_dualstack_endpoint"))
    )


def parse_endpoint(url: str) -> Endpoint:
    """Splits `http[s]://host[:port][/path]`.

    Raises:
        ConfigurationError: Anything else. The text does not show a URL that may hold a password.
    """
    if not url.isprintable() or " " in url:
        raise ConfigurationError("the endpoint URL holds spaces or control characters")
    if any(sign in url for sign in "@?#"):
        del url  # a traceback may show locals
        raise ConfigurationError(
            "the endpoint URL must not hold a user, a query or a fragment; credentials go elsewhere"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"{url!r} is no endpoint URL: its port or its IPv6 address is malformed") from None
    if (
        parts.scheme not in _DEFAULT_PORTS
        or not _is_host(parts)
        or _BASE_PATH.fullmatch(parts.path) is None
        or port == 0
    ):
        raise ConfigurationError(f"{url!r} is no endpoint URL; write http://host:port or https://host")
    return Endpoint(parts.scheme, parts.hostname or "", port or _DEFAULT_PORTS[parts.scheme], parts.path.rstrip("/"))


def place_by_path(endpoint: Endpoint, bucket: str, region: str) -> Place:
    """Returns the place of a plainly named bucket in path style, which is botocore's rule for every custom endpoint."""
    return _make_place(endpoint, f"{endpoint.path}/{bucket}", region)


def place_of_request(url: str, authorization: str) -> Place:
    """Returns the place that a prepared, signed GET of the key `k` goes to.

    Raises:
        UnsupportedError: It is not signed by SigV4 for the service `s3` in one region.
    """
    scope = _SCOPE.search(authorization)
    if scope is None or not authorization.startswith("AWS4-HMAC-SHA256 "):
        raise UnsupportedError("this bucket needs another signature than SigV4 for s3, and s3dlio makes no other")
    endpoint = parse_endpoint(url)
    return _make_place(endpoint, endpoint.path.removesuffix("/k"), scope[1])


def _make_place(endpoint: Endpoint, path_prefix: str, region: str) -> Place:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    is_default = endpoint.port == _DEFAULT_PORTS[endpoint.scheme]
    header = host if is_default else f"{host}:{endpoint.port}"
    return Place(endpoint.scheme, endpoint.host, endpoint.port, header, path_prefix, region)


def _is_host(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    if not parts.netloc.startswith("["):
        return _HOST_NAME.fullmatch(host) is not None
    try:
        return ipaddress.ip_address(host).version == 6 and "%" not in host
    except ValueError:
        return False
