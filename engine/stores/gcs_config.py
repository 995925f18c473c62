"""Where Google Cloud Storage is and who asks: Google's own chain of credentials, resolved once per process into a `GcsSpec` per bucket.

Rules:

* Nothing is decided here that google-auth decides: it finds the credentials (`GOOGLE_APPLICATION_CREDENTIALS`, gcloud's own file, a
  workload identity, the metadata server) and has tokens made of them. It is imported inside functions, and only where somebody must be
  identified: an emulator needs neither it nor the extra `gcs`.
* The endpoint is `GCS_ENDPOINT_URL`, else `STORAGE_EMULATOR_HOST` (each with or without `http://`), else Google's for the universe of the
  credentials. An emulator, which is what `STORAGE_EMULATOR_HOST` names, or an endpoint without TLS, is shown no token that happens to be
  about: requests are anonymous there unless `GOOGLE_APPLICATION_CREDENTIALS` is set.
* No credentials at all means anonymous access, with one warning. Broken ones are an error.
* All buckets have one token. It leaves this module only inside a `GcsSpec`, which shows none and cannot be pickled.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import msgspec

from ..config import environment, settings
from ..errors import AuthenticationError, ConfigurationError, MissingExtraError
from .quiet import quiet
from .renewal import Renewal
from .s3_endpoint import Endpoint, parse_endpoint
from .surroundings import find_certificates, find_proxy

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_log = logging.getLogger("s3dlio")
_SCOPES: Final = ("https://www.googleapis.com/auth/devstorage.full_control",)
_KEY_FILE: Final = "GOOGLE_APPLICATION_CREDENTIALS"
_ENDPOINTS: Final = ("GCS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST")
_PROJECTS: Final = ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT")
_API: Final = "/storage/v1"
_SENT: Final = ("authorization", "x-goog-user-project", "x-allowed-locations")
"""What google-auth may have a request say of its sender."""


class GcsSpec(msgspec.Struct, frozen=True, array_like=True, tag="gs", kw_only=True):
    """What a worker needs to open a bucket. It holds a token: it travels by private message only."""

    root: str
    """What every URI of the bucket begins with: `gs://bucket/`."""
    scheme: str
    """`http` or `https`."""
    host: str
    """Name or address to connect to; no port, IPv6 without brackets."""
    port: int
    host_header: str
    """The value of `Host:`; with the port only where it is not the scheme's default."""
    path_prefix: str
    """What stands in front of `/storage/v1`: the base path of the endpoint."""
    headers: tuple[tuple[str, str], ...] = ()
    """What says who asks: the token, and the project that is billed. Empty is anonymous."""
    expires_at_s: float | None = None
    """Unix time after which the token is refused; None if there is none."""
    ca_bundle: str | None = None
    """Certificates that vouch for an https endpoint; None for the system's."""
    source: str | None = None
    """Where the credentials came from, in words for an error; None for none."""
    is_stale: bool = False
    """Whether the store has refused the token, and no other was to be had."""
    is_google: bool = True
    """Whether the server may be held to all that Google documents; an emulator may name no generations."""
    project: str | None = None
    """Whose buckets are listed and made."""
    universe: str = "googleapis.com"
    """The domain of the cloud."""
    proxy: str | None = None
    """Its URL, which may hold a password."""
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    """Of the SDK's waits."""
    slow_because: str | None = None
    """Why requests go by the SDK lane, in words; None for the fast lane."""

    @property
    def bucket(self) -> str:
        """Its name."""
        return self.root.removeprefix("gs://").rstrip("/")

    @property
    def identity(self) -> str | None:
        """What shows who asks; None for nobody."""
        return next((value for name, value in self.headers if name.lower() == "authorization"), None)

    @property
    def url(self) -> str:
        """Returns the endpoint, without a slash at its end."""
        return f"{self.scheme}://{self.host_header}{self.path_prefix}"

    def __repr__(self) -> str:
        return f"GcsSpec({self.root!r} at {self.url}, {'identified' if self.headers else 'anonymous'})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own gives every field, and rich prefers it to __repr__.
        return [("root", self.root)]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a GcsSpec holds a token and is never pickled")


class _Identity(NamedTuple):
    """Who asks."""

    headers: tuple[tuple[str, str], ...] = ()
    expires_at_s: float | None = None
    source: str | None = None
    project: str | None = None
    universe: str = "googleapis.com"

    def __repr__(self) -> str:
        return "_Identity(...)"


_ANONYMOUS: Final = _Identity()


_Found = tuple[str | None, "Credentials", str | None]
"""The key file that was named, the credentials, and the project that came with them."""


class _Chain:
    """Google's chain as this process knows it; every access is under `lock`: a second bucket is spared the look-ups of the first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.found: _Found | None = None
        self.identity = _ANONYMOUS
        """What they were turned into last."""
        self.renewal = Renewal(None, 0.0)
        self.has_nothing = False
        """Whether there were no credentials: asking a metadata service that is not there takes seconds."""
        self.has_warned_of: set[str] = set()


_chain = _Chain()


def reset() -> None:
    """Forgets what was found; the next resolve begins from nothing. Harmless at any time, needed in no normal one."""
    global _chain
    _chain = _Chain()


# Another thread may hold the lock at the moment of a fork; the child would wait for ever.
os.register_at_fork(after_in_child=reset)


def resolve_bucket(bucket: str, refused: GcsSpec | None = None) -> GcsSpec:
    """Returns where `bucket` is and the token in force now; call it again for a fresh one.

    May ask the network for a token, within google-auth's own timeouts.

    Args:
        bucket: Its name; empty for the account.
        refused: Whose token the store refuses although it should still last. Where there is no other, the result has the same.

    Raises:
        AuthenticationError: Credentials are configured, but broken, or no token is to be had for them.
        ConfigurationError: An endpoint makes no sense.
        MissingExtraError: google-auth is needed, and not installed.
    """
    root = f"gs://{bucket}/" if bucket else "gs://"
    named = environment(*_ENDPOINTS, *_PROJECTS, _KEY_FILE)
    endpoint = _read_endpoint(named)
    if endpoint is not None and (endpoint.scheme == "http" or "GCS_ENDPOINT_URL" not in named) and _KEY_FILE not in named:
        identity = _ANONYMOUS
    else:
        chain = _chain
        with chain.lock:
            identity = _identify(chain, named.get(_KEY_FILE), root, refused)
    place = endpoint or Endpoint("https", f"storage.{identity.universe}", 443, "")
    limits = settings()
    host = f"[{place.host}]" if ":" in place.host else place.host
    is_default_port = place.port == {"http": 80, "https": 443}[place.scheme]
    proxy = find_proxy(place.scheme, place.host)
    return GcsSpec(
        root=root,
        scheme=place.scheme,
        host=place.host,
        port=place.port,
        host_header=host if is_default_port else f"{host}:{place.port}",
        path_prefix=place.path.removesuffix(_API),
        headers=identity.headers,
        expires_at_s=identity.expires_at_s,
        ca_bundle=find_certificates() if place.scheme == "https" else None,
        source=identity.source,
        is_google=endpoint is None or place.host.endswith(f".{identity.universe}"),
        project=next((named[name] for name in _PROJECTS if name in named), identity.project),
        universe=identity.universe,
        proxy=proxy,
        connect_timeout_s=limits.connect_timeout_s,
        read_timeout_s=max(limits.first_byte_timeout_s, limits.silence_timeout_s),
        slow_because=_reason_to_be_slow(limits.fast_lane, place.scheme, proxy),
    )


def _reason_to_be_slow(has_fast_lane: bool, scheme: str, proxy: str | None) -> str | None:
    if not has_fast_lane:
        return "fast_lane is switched off"
    return None if proxy is None else f"a proxy is configured for {scheme}"


def _read_endpoint(named: dict[str, str]) -> Endpoint | None:
    """Returns the endpoint that is configured; None is Google's."""
    for name in _ENDPOINTS:
        if name in named:
            text = named[name]
            try:
                return parse_endpoint(text if "://" in text else f"http://{text}")
            except ConfigurationError as error:
                raise ConfigurationError(f"{name}: {error.message}") from None
    return None


def _identify(chain: _Chain, key_file: str | None, root: str, refused: GcsSpec | None) -> _Identity:
    """Returns who asks, by another token than the one that is refused where there is another."""
    if chain.found is None or chain.found[0] != key_file:
        if chain.has_nothing and key_file is None:
            return _ANONYMOUS
        found = _find_credentials(chain, key_file, root)
        if found is None:
            return _ANONYMOUS
        _refresh(chain, root, (key_file, *found))
    elif datetime.now(UTC).timestamp() >= chain.renewal.due_s:
        _refresh(chain, root, chain.found)
    elif refused is not None and refused.headers == chain.identity.headers:
        try:
            _refresh(chain, root, chain.found)
        except AuthenticationError as error:
            if error.cause == "TransportError":
                raise
            _log.warning("the store refuses the token for %s, and there is no other: %s", root, error.message)
    return chain.identity


def _find_credentials(chain: _Chain, key_file: str | None, root: str) -> tuple[Credentials, str | None] | None:
    """Returns the credentials that Google's chain finds, and their project; None, with a warning, where it finds nothing."""
    try:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
    except ImportError as error:
        raise _missing("google-auth", root, error) from None
    if key_file is not None:
        _warn_if_readable_by_others(chain, key_file)
    try:
        with quiet():
            credentials, project = google.auth.default(scopes=_SCOPES)
    except DefaultCredentialsError as error:
        if key_file is None and "default credentials were not found" in str(error):
            chain.has_nothing = True
            _log.warning("no Google credentials were found; gs:// is asked anonymously, which only public buckets allow")
            return None
        text = f"the Google credentials are unusable; check {key_file or 'the file of gcloud auth application-default login'}"
        raise AuthenticationError(text, uri=root, cause=type(error).__name__) from None
    except (GoogleAuthError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        text = f"the Google credentials cannot be read ({type(error).__name__}); check {key_file or 'the configuration of gcloud'}"
        raise AuthenticationError(text, uri=root) from None
    return credentials, project


def _missing(package: str, root: str, error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f'credentials for gs:// are read by {package}, which is not installed; run: pip install "s3dlio-shm[gcs]" '
        "(an emulator in STORAGE_EMULATOR_HOST needs no credentials)", uri=root, cause=str(error)
    )  # fmt: skip


def _refresh(chain: _Chain, root: str, found: _Found) -> None:
    """Has a token made, and notes it in the chain. What google-auth says is not passed on: it may quote what a server said."""
    key_file, credentials, project = found
    try:
        import requests
        from google.auth.exceptions import GoogleAuthError, TransportError
        from google.auth.transport.requests import Request
    except ImportError as error:
        raise _missing("requests", root, error) from None
    try:
        with quiet(), requests.Session() as session:
            credentials.refresh(Request(session))  # type: ignore[no-untyped-call]
            headers: dict[str, str] = {}
            credentials.apply(headers)  # type: ignore[no-untyped-call]
            # On a machine of Google's that is one more request.
            universe = getattr(credentials, "universe_domain", None) or _ANONYMOUS.universe
    except TransportError as error:
        text = "the service that gives tokens cannot be reached; check token_uri in the key file, and the network"
        raise AuthenticationError(text, uri=root, cause=type(error).__name__) from None
    except (GoogleAuthError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        source = _describe_source(credentials, key_file)
        raise AuthenticationError(f"no token is to be had for {source}; is it still valid?", uri=root, cause=type(error).__name__) from None
    expiry = credentials.expiry
    now_s = datetime.now(UTC).timestamp()
    expires_at_s = None if expiry is None else expiry.replace(tzinfo=UTC).timestamp()
    sent = tuple((name, value) for name, value in sorted(headers.items()) if name.lower() in _SENT)
    if any(not value.isprintable() for _, value in sent):
        del headers, sent  # a traceback may show what is local
        raise AuthenticationError("the token that was given holds control characters", uri=root)
    chain.found = found
    chain.identity = _Identity(sent, expires_at_s, _describe_source(credentials, key_file), project, universe)
    chain.renewal.note(expires_at_s, now_s)


def _describe_source(credentials: Credentials, key_file: str | None) -> str:
    module = type(credentials).__module__
    if key_file is not None:
        return f"{key_file} ({_KEY_FILE})"
    return "the metadata server" if "compute_engine" in module else "gcloud auth application-default login"


def _warn_if_readable_by_others(chain: _Chain, path: str) -> None:
    """Warns where anybody on this machine may read the key (case A6)."""
    try:
        is_open = bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return  # google-auth says what is wrong with it
    if is_open and path not in chain.has_warned_of:
        chain.has_warned_of.add(path)
        _log.warning("%s holds a secret key and may be read by everybody; run: chmod 600 %s", path, path)
