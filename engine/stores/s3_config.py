"""Where a bucket is and who asks: botocore's own chain of configuration, resolved once per bucket into an `S3Spec`.

Rules:

* Nothing is decided here that botocore decides: credentials, region and endpoint come from its session (environment, profiles, roles,
  SSO, `AWS_ENDPOINT_URL_S3` > `AWS_ENDPOINT_URL` > the profile). For AWS itself, and wherever the `s3` section of the profile or an ARN
  makes it interesting, host and path are read off a request that a botocore client prepares and that is never sent.
* An `S3Access` stands above that, for one store. What sessions find is kept by what they were given, so nobody gets what another found.
* No credentials at all means anonymous access (as `--no-sign-request`), with one warning. Broken ones are an error.
* botocore and boto3 are imported inside functions: 0.2 s that nobody pays who does not use S3. With a custom endpoint no client is
  made either (another 0.15 to 0.3 s, measured); path style then leaves nothing to ask.
* No secret leaves but inside an `S3Spec`, which shows none and cannot be pickled.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ..config import settings, sse_customer_key
from ..errors import ConfigurationError, UnsupportedError
from .s3_endpoint import Place, needs_botocore, parse_endpoint, place_by_path, place_of_request
from .s3_errors import translated_errors
from .s3_spec import S3Spec, SdkOptions

if TYPE_CHECKING:
    from botocore.session import Session
    from mypy_boto3_s3.client import S3Client

_log = logging.getLogger("s3dlio")


class S3Access(msgspec.Struct, frozen=True, kw_only=True):
    """How a bucket is asked where that is not as the chain says. Holds no secret."""

    endpoint: str | None = None
    """A URL, `http[s]://host[:port][/path]`; None and empty leave it to the chain."""
    region: str | None = None
    """None and empty leave it to the chain."""
    profile: str | None = None
    """Whose credentials, region and endpoint are taken; None and empty leave it to the chain. Keys in the environment do not count then."""
    unsigned: bool = False
    """Whether requests go unsigned, whoever could sign them; then no credentials are looked for."""
    path_style: bool = False
    """Whether the bucket stands in the path and never in the host; False leaves it to the chain."""
    requester_pays: bool | None = None
    """Whether whoever asks pays; None leaves it to the settings."""
    user_agent: str | None = None
    """The value of `User-Agent`, printable ASCII; None and empty leave it to the lane."""
    signs_payloads: bool = True
    """Whether signatures cover what is written also where there is no TLS, on the fast lane."""


AS_CONFIGURED = S3Access()


class _Keys(msgspec.Struct, frozen=True):
    """Credentials on their way from botocore into an `S3Spec`."""

    access_key: str | None = None
    secret_key: str | None = None
    token: str | None = None
    expires_at_s: float | None = None
    source: str | None = None

    def __repr__(self) -> str:
        return "_Keys(...)"


class _Chain:
    """botocore's chain as this process knows it; every access is under `lock`.

    One thread at a time: a second one that opens a bucket meanwhile waits and is spared the same lookups (instance metadata, SSO, STS).
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sessions: dict[tuple[str | None, str | None], Session] = {}
        """By profile and region, where these are given. One is kept only while its credentials refresh themselves; otherwise the
        environment and the files are read anew (10 ms)."""
        self.has_instance_role = True
        """False once the instance metadata service gave nothing: asking costs up to 1 s, and it will not appear later."""
        self.identified: set[str | None] = set()
        """Profiles that had credentials once: then a service that gives none now is only out for a moment."""
        self.has_warned = False
        self.has_warned_of: set[str] = set()
        """Files that everybody may read."""


_chain = _Chain()


def reset() -> None:
    """Forgets what was found; the next resolve begins from nothing. Harmless at any time, needed in no normal one."""
    global _chain
    _chain = _Chain()


# Another thread may hold the lock at the moment of a fork; the child would wait for ever.
os.register_at_fork(after_in_child=reset)


def resolve_bucket(bucket: str, anew: bool = False, access: S3Access = AS_CONFIGURED) -> S3Spec:
    """Returns where `bucket` is and the credentials in force now; call it again for fresh ones.

    May ask the network for credentials (roles, SSO), within botocore's own timeouts.

    Args:
        bucket: Its name, or an ARN; empty for the account, which has a list of its buckets.
        anew: Whether credentials that should still last are asked for again: the store says that they do not.
        access: What is other than the chain says.

    Raises:
        AuthenticationError: Credentials are configured, but incomplete or not to be had.
        ConfigurationError: A profile, a region, an endpoint or a user agent makes no sense, or no bucket can have this name.
    """
    root = f"s3://{bucket}/" if bucket else "s3://"
    agent = access.user_agent or None
    if agent is not None and not (agent.isascii() and agent.isprintable()):
        raise ConfigurationError("a user agent must be printable ASCII", uri=root)
    chain = _chain
    with chain.lock, translated_errors(root):
        name = (access.profile or None, access.region or None)
        session = (None if anew else chain.sessions.get(name)) or _new_session(chain, access)
        place, sdk, slow_because = _find_place(session, bucket, access)
        keys = _Keys() if access.unsigned else _load_keys(session)
        ca_bundle = _find_certificates(session) if place.scheme == "https" else None
        if not access.unsigned:
            _note_keys(chain, name, session, keys, anew)
    who = (keys.access_key, keys.secret_key, keys.token, keys.expires_at_s)
    return S3Spec(
        root, *place, *who, ca_bundle, keys.source, sdk=sdk, slow_because=slow_because, user_agent=agent,
        signs_payloads=access.signs_payloads,
    )  # fmt: skip


def _new_session(chain: _Chain, access: S3Access) -> Session:
    import botocore.session

    session = botocore.session.Session(profile=access.profile or None)
    if access.region and session.get_config_variable("region") is None:
        # For whoever gives the credentials of a role: that is asked for in a region too.
        session.set_config_variable("region", access.region)
    if not access.unsigned and not chain.has_instance_role:
        session.get_component("credential_provider").remove("iam-role")
    return session


def _note_keys(chain: _Chain, name: tuple[str | None, str | None], session: Session, keys: _Keys, anew: bool) -> None:
    if keys.expires_at_s is None:
        chain.sessions.pop(name, None)
    else:
        chain.sessions[name] = session
    if keys.access_key is not None:
        chain.identified.add(name[0])
    elif not anew and name[0] not in chain.identified:
        _note_anonymous(chain)


def _load_keys(session: Session) -> _Keys:
    from botocore.credentials import RefreshableCredentials

    found = session.get_credentials()
    if found is None:
        return _Keys()
    frozen = found.get_frozen_credentials()
    expires_at_s = None
    if isinstance(found, RefreshableCredentials):
        # botocore has no public name for it, and it is known only after the first refresh.
        expires_at_s = found._expiry_time.timestamp()  # type: ignore[attr-defined]
    source = _describe_source(session, found.method)
    _warn_if_readable_by_others(session, found.method)
    return _Keys(frozen.access_key, frozen.secret_key, frozen.token, expires_at_s, source)


_SOURCES = {
    "env": "the environment (AWS_ACCESS_KEY_ID)",
    "shared-credentials-file": "~/.aws/credentials",
    "config-file": "~/.aws/config",
    "custom-process": "a credential_process",
    "iam-role": "the instance's role",
    "container-role": "the container's role",
    "assume-role": "an assumed role",
    "assume-role-with-web-identity": "a web identity's role",
    "sso": "AWS SSO",
}
"""botocore's names of providers, in words."""


def _describe_source(session: Session, method: str | None) -> str:
    source = _SOURCES.get(method or "", method or "botocore's chain")
    return source if method == "env" or session.profile is None else f"{source}, profile {session.profile}"


def _warn_if_readable_by_others(session: Session, method: str | None) -> None:
    """Warns where anybody on this machine may read the keys (case A6)."""
    variable = {"shared-credentials-file": "credentials_file", "config-file": "config_file"}.get(method or "")
    if variable is None:
        return
    path = os.path.expanduser(session.get_config_variable(variable))
    with contextlib.suppress(OSError):
        if os.stat(path).st_mode & stat.S_IROTH and path not in _chain.has_warned_of:
            _chain.has_warned_of.add(path)
            _log.warning("%s holds secret keys and may be read by everybody; run: chmod 600 %s", path, path)


def _find_certificates(session: Session) -> str | None:
    """Returns what `AWS_CA_BUNDLE` or the profile names, None for the system's certificates, or botocore's own where it has none."""
    import ssl

    given: str | None = session.get_config_variable("ca_bundle")
    if given:
        return given
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and os.listdir(paths.capath)):
        return None
    from botocore.httpsession import get_cert_path

    return str(get_cert_path(True))


def _configured_endpoint(session: Session) -> str | None:
    """Returns the endpoint that a client of this session would take, or None for AWS; needs no client."""
    from botocore.configprovider import ConfiguredEndpointProvider

    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    provider = ConfiguredEndpointProvider(
        full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="s3"
    )
    return provider.provide() or None


def _region_of(session: Session, endpoint: str | None, access: S3Access) -> str | None:
    """Returns the configured region; without one, a custom endpoint gets `us-east-1`, and botocore decides for AWS."""
    from botocore.utils import validate_region_name

    region: str | None = access.region or session.get_config_variable("region")
    if region is not None:
        validate_region_name(region)
    return region or ("us-east-1" if endpoint is not None else None)


def _find_place(session: Session, bucket: str, access: S3Access) -> tuple[Place, SdkOptions, str | None]:
    """Returns where the bucket is for the fast lane, what the SDK lane needs, and why it must be that one, if it must."""
    from botocore.utils import get_environ_proxies

    url = access.endpoint or _configured_endpoint(session)
    region = _region_of(session, url, access)
    section = dict(session.get_config_variable("s3") or {})
    if access.path_style:
        section["addressing_style"] = "path"
    pays = settings().s3_requester_pays if access.requester_pays is None else access.requester_pays
    endpoint = None if url is None else parse_endpoint(url)
    limits = settings()
    customer_key = sse_customer_key()

    def options(proxies: dict[str, str]) -> SdkOptions:
        read_s = max(limits.first_byte_timeout_s, limits.silence_timeout_s)
        waits = (limits.connect_timeout_s, read_s)
        return SdkOptions(bucket, region, url, section, proxies, pays, customer_key, *waits)

    if bucket.endswith("--x-s3"):
        # botocore asks for a session here, over the network, and at a custom endpoint too.
        where = url or f"https://s3express.{region}.amazonaws.com"
        return _nowhere(where), options(dict(get_environ_proxies(where))), "a directory bucket (S3 Express) needs session signatures"
    try:
        if endpoint is None or region is None or needs_botocore(bucket, section):
            place = place_of_request(*_prepare_request(session, bucket, region, url, section))
        else:
            place = place_by_path(endpoint, bucket, region)
    except UnsupportedError as error:
        where = url or "https://s3.amazonaws.com"
        return _nowhere(where), options(dict(get_environ_proxies(where))), error.message
    proxies = dict(get_environ_proxies(f"{place.scheme}://{place.host_header}/"))
    slow_because = None
    if not limits.fast_lane:
        slow_because = "fast_lane is switched off"
    elif place.scheme in proxies:
        slow_because = f"a proxy is configured for {place.scheme}"
    elif pays:
        slow_because = "requests are to be paid by the requester"
    elif customer_key is not None:
        slow_because = "objects are encrypted by a key of yours (SSE-C)"
    return place, options(proxies), slow_because


def _nowhere(url: str) -> Place:
    """The place of a bucket that only botocore finds: nothing but the scheme is used of it."""
    return Place(url.partition(":")[0], "", 0, "", "", "")


class _NoBody(io.BytesIO):
    """A body as botocore reads it, streaming or not."""

    def stream(self) -> Iterator[bytes]:
        """Yields nothing."""
        return iter(())


def _prepare_request(
    session: Session, bucket: str, region: str | None, endpoint_url: str | None, section: Any
) -> tuple[str, str]:
    """Returns URL and Authorization header of a GET of the key `k`, or of the list of buckets, as botocore would send it.

    A presigned URL would be simpler and is wrong: botocore presigns for the global endpoint whatever the region is.
    """
    from botocore.awsrequest import AWSResponse
    from botocore.compat import HTTPHeaders
    from botocore.config import Config

    prepared: list[tuple[str, str]] = []

    def answer(request: Any, **_: object) -> Any:
        authorization = request.headers.get("Authorization", "")
        text = authorization.decode("ascii") if isinstance(authorization, bytes) else authorization
        prepared.append((request.url, text))
        return AWSResponse(request.url, 200, HTTPHeaders(), _NoBody())

    # Keys that are no secret: what is signed here is looked at and thrown away.
    placeholder = "none"
    made = session.create_client(
        "s3",
        region_name=region,
        endpoint_url=endpoint_url,
        aws_access_key_id=placeholder,
        aws_secret_access_key=placeholder,
        config=Config(s3=section or None),
    )
    client = cast("S3Client", made)
    client.meta.events.register("before-send.s3", answer)
    if bucket:
        client.get_object(Bucket=bucket, Key="k")
    else:
        client.list_buckets()
    return prepared[0]


def _note_anonymous(chain: _Chain) -> None:
    chain.has_instance_role = False
    if not chain.has_warned:
        chain.has_warned = True
        _log.warning("no AWS credentials were found; S3 is asked without a signature, which only public buckets allow")
