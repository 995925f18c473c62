"""What a process needs to ask a bucket, as `s3_config.py` found it out; it travels to workers. Imports nothing that finds it out."""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec


class SdkOptions(msgspec.Struct, frozen=True, array_like=True):
    """What botocore must be told to make the same requests in any process."""

    bucket: str
    region: str | None
    """None leaves it to botocore."""
    endpoint_url: str | None
    """None is AWS."""
    section: dict[str, Any]
    """The `s3` section of the profile."""
    proxies: dict[str, str]
    """By scheme; a proxy's URL may hold a password."""
    requester_pays: bool
    sse_customer_key: str | None
    """In base64."""
    connect_timeout_s: float
    read_timeout_s: float

    def __repr__(self) -> str:
        return f"SdkOptions({self.bucket!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("bucket", self.bucket)]


class S3Spec(msgspec.Struct, frozen=True, array_like=True, tag="s3"):
    """What a worker needs to open a bucket. It holds secrets: it travels by private message only."""

    root: str
    """What every URI of the bucket begins with: `s3://bucket/`."""
    scheme: str
    """`http` or `https`."""
    host: str
    """Name or address to connect to; no port, IPv6 without brackets."""
    port: int
    host_header: str
    """The value of `Host:`; with the port only where it is not the scheme's default."""
    path_prefix: str
    """What stands in front of `/key`, percent-encoded: base path of the endpoint, then `/bucket` in path style."""
    region: str
    """Of the signature."""
    access_key: str | None
    """None is anonymous: requests go unsigned."""
    secret_key: str | None
    token: str | None
    expires_at_s: float | None = None
    """Unix time after which the credentials are refused; None if they last."""
    ca_bundle: str | None = None
    """Certificates that vouch for an https endpoint; None for the system's."""
    source: str | None = None
    """Where the credentials came from, in words for an error; None for none."""
    is_stale: bool = False
    """Whether the store has refused them as expired, and no others were to be had."""
    sdk: SdkOptions | None = None
    """For the SDK lane; always there but in tests."""
    slow_because: str | None = None
    """Why requests go by the SDK lane, in words; None for the fast lane."""
    user_agent: str | None = None
    """As in `S3Access`."""
    signs_payloads: bool = True
    """As in `S3Access`."""

    @property
    def identity(self) -> tuple[str, str | None] | None:
        """What differs where other credentials have come; None for none."""
        return None if self.access_key is None else (self.access_key, self.token)

    def __repr__(self) -> str:
        identity = "anonymous" if self.access_key is None else "signed"
        return (
            f"S3Spec({self.root!r} at {self.scheme}://{self.host_header}{self.path_prefix}, {self.region}, {identity})"
        )

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own gives every field, and rich prefers it to __repr__.
        return [("root", self.root)]

    def __reduce__(self) -> NoReturn:
        raise TypeError("an S3Spec holds secrets and is never pickled")
