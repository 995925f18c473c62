"""Where an Azure container is and who asks, resolved once per container into an `AzureSpec`.

Rules:

* The first of these that is configured decides who asks: a connection string, an account key, a SAS token, azure-identity's chain. None of
  them means anonymous access, with one warning. Broken ones are an error.
* A key or a SAS belongs to one account. Where the URI names another one than the configuration, nothing is asked.
* A bearer token goes over https only; an endpoint by http is an emulator's, and azure-identity is not asked for one.
* azure-identity is imported inside functions, and only where nothing else is configured: a key or a SAS needs no SDK.
* No secret leaves but inside an `AzureSpec`, which shows none and cannot be pickled.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from ..config import environment, settings
from ..errors import AuthenticationError, ConfigurationError, MissingExtraError, S3dlioError
from .azure_endpoint import ConnectionString, Place, check_names, find_place, parse_connection_string
from .quiet import quiet
from .surroundings import find_certificates, find_proxy

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

_log = logging.getLogger("s3dlio")
_SCOPE: Final = "https://storage.azure.com/.default"
_KEY: Final = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY")
_ACCOUNT: Final = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
_SAS: Final = ("AZURE_STORAGE_SAS_TOKEN",)
_STRING: Final = ("AZURE_STORAGE_CONNECTION_STRING",)
_ENDPOINT: Final = ("AZURE_STORAGE_ENDPOINT", "AZURE_BLOB_ENDPOINT_URL")
_OF_IDENTITY: Final = ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT", "MSI_ENDPOINT")
"""Variables by which somebody says that azure-identity is to be asked. Source: its README."""


class AzureSdkOptions(msgspec.Struct, frozen=True, array_like=True):
    """What azure-storage-blob must be told besides, to make the same requests in any process."""

    proxies: dict[str, str]
    """By scheme; a proxy's URL may hold a password."""
    connect_timeout_s: float
    read_timeout_s: float

    def __repr__(self) -> str:
        return "AzureSdkOptions(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class AzureSpec(msgspec.Struct, frozen=True, array_like=True, tag="az"):
    """What a worker needs to open a container. It holds secrets: it travels by private message only."""

    root: str
    """What every URI of the container begins with: `az://account/container/`."""
    account: str
    container: str
    """Empty for the account itself, which can only list its containers."""
    scheme: str
    """`http` or `https`."""
    host: str
    """Name or address to connect to; no port, IPv6 without brackets."""
    port: int
    host_header: str
    """The value of `Host:`; with the port only where it is not the scheme's default."""
    path: str
    """What stands in front of `/container`: the account, where the endpoint has it there."""
    account_key: str | None = None
    """In base64."""
    sas: str | None = None
    """A query that grants access, encoded, without `?`."""
    token: str | None = None
    """A bearer token. Without key, SAS and token requests are anonymous."""
    expires_at_s: float | None = None
    """Unix time after which the token is refused; None for what lasts."""
    ca_bundle: str | None = None
    """Certificates that vouch for an https endpoint; None for the system's."""
    source: str | None = None
    """Where the credentials came from, in words for an error; None for none."""
    is_stale: bool = False
    """Whether the store has refused the token as expired, and no other was to be had."""
    sdk: AzureSdkOptions | None = None
    """For the SDK lane; always there but in tests."""
    slow_because: str | None = None
    """Why requests go by the SDK lane, in words; None for the fast lane."""

    @property
    def identity(self) -> str | None:
        """What differs where other credentials have come: of those that expire, the token."""
        return self.token

    def __repr__(self) -> str:
        return f"AzureSpec({self.root!r} at {self.scheme}://{self.host_header}{self.path}, {self.source or 'anonymous'})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own gives every field, and rich prefers it to __repr__.
        return [("root", self.root)]

    def __reduce__(self) -> NoReturn:
        raise TypeError("an AzureSpec holds secrets and is never pickled")


class _Identity(msgspec.Struct, frozen=True):
    """Who asks, on the way into an `AzureSpec`."""

    account_key: str | None = None
    sas: str | None = None
    token: str | None = None
    expires_at_s: float | None = None
    source: str | None = None

    def __repr__(self) -> str:
        return f"_Identity(from {self.source})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("source", self.source)]


class _Chain:
    """azure-identity's chain as this process knows it; every access is under `lock`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.credential: TokenCredential | None = None
        """It keeps tokens, and fetches new ones ahead of their end."""
        self.has_identity: bool | None = None
        """Whether it gave a token; False, and it is not asked again: that takes seconds. None where it was not asked."""
        self.has_warned = False

    def drop(self) -> None:
        """Closes the chain's connections; the next question begins with another one."""
        close = getattr(self.credential, "close", None)
        self.credential = None
        if close is not None:
            close()


_chain = _Chain()


def reset() -> None:
    """Forgets what was found; the next resolve begins from nothing."""
    global _chain
    _chain.drop()
    _chain = _Chain()


def _begin_anew() -> None:
    # Another thread may hold the lock at the moment of a fork; and the connections of the chain are the parent's.
    global _chain, _inherited
    _inherited = _chain
    _chain = _Chain()


_inherited: _Chain | None = None
os.register_at_fork(after_in_child=_begin_anew)


def resolve_container(bucket: str, anew: bool = False) -> AzureSpec:
    """Returns where a container is and the credentials in force now; call it again for fresh ones.

    May ask the network for a token, within azure-identity's own timeouts.

    Args:
        bucket: `account/container`, or `account/` for the account itself.
        anew: Whether a token that should still last is asked for again: the store says that it does not.

    Raises:
        AuthenticationError: Credentials are configured, but malformed or not to be had.
        ConfigurationError: The endpoint or a name makes no sense, or the configured account is another one.
        MissingExtraError: azure-identity is to be asked, and is not installed.
    """
    account, _, container = bucket.partition("/")
    root = f"az://{account}/{container}/" if container else f"az://{account}/"
    chain = _chain
    try:
        with chain.lock:
            check_names(account, container)
            string = parse_connection_string(_variable(_STRING) or "") if environment(*_STRING) else None
            place = find_place(account, _find_endpoint(string))
            identity = _find_identity(chain, account, place, string, anew)
        ca_bundle = find_certificates() if place.scheme == "https" else None
    except S3dlioError as error:
        error.uri = error.uri or root
        raise
    sdk, slow_because = _find_lane(place)
    who = (identity.account_key, identity.sas, identity.token, identity.expires_at_s)
    return AzureSpec(root, account, container, *place, *who, ca_bundle, identity.source, sdk=sdk, slow_because=slow_because)


def configured_account() -> str | None:
    """Returns the account that the environment names, if any: for what asks about an account, and no container."""
    if environment(*_STRING):
        return parse_connection_string(_variable(_STRING) or "").account
    return _variable(_ACCOUNT)


def _find_endpoint(string: ConnectionString | None) -> str | None:
    """Returns the endpoint that is configured: what a connection string names comes first, what it only implies comes last."""
    if string is not None and string.has_endpoint:
        return string.endpoint
    return _variable(_ENDPOINT) or (None if string is None else string.endpoint)


def _find_identity(chain: _Chain, account: str, place: Place, string: ConnectionString | None, anew: bool) -> _Identity:
    owner = string.account if string else _variable(_ACCOUNT)
    is_given = bool(string.key or string.sas) if string else bool(environment(*_KEY, *_SAS))
    if is_given:
        if owner is not None and owner != account:
            raise ConfigurationError(
                f"the configured credentials are those of the account {owner!r}, and the URI names {account!r}; "
                f"set AZURE_STORAGE_ACCOUNT and its key for this one"
            )
        return _read_identity(string)
    if string is not None:
        return _Identity()
    if place.scheme != "https":
        _note_anonymous(chain, "and a bearer token goes over https only")
        return _Identity()
    return _ask_chain(chain, anew)


def _read_identity(string: ConnectionString | None) -> _Identity:
    """Returns the key or the SAS that is configured. No local variable holds either, since a traceback may show them (A5)."""
    if string is not None:
        if string.key:
            return _Identity(account_key=string.key, source=_STRING[0])
        return _Identity(sas=_check_sas(string.sas or ""), source=_STRING[0])
    if environment(*_KEY):
        return _Identity(account_key=_variable(_KEY), source=_name_of(_KEY))
    return _Identity(sas=_check_sas(_variable(_SAS) or ""), source=_name_of(_SAS))


def _ask_chain(chain: _Chain, anew: bool) -> _Identity:
    is_wanted = bool(environment(*_OF_IDENTITY))
    if chain.has_identity is False and not is_wanted:
        return _Identity()
    if anew:
        chain.drop()
    if chain.credential is None:
        chain.credential = _make_chain(is_wanted)
    if chain.credential is None:
        _note_anonymous(chain, 'and azure-identity is not installed: pip install "s3dlio-shm[azure]"')
        return _Identity()
    found = _ask_for_token(chain.credential)
    if found is not None:
        chain.has_identity = True
        return found
    if is_wanted or chain.has_identity:
        raise AuthenticationError("azure-identity gives no token; run `az login`, or check the AZURE_* variables of the identity")
    chain.has_identity = False
    _note_anonymous(chain, "and azure-identity's chain has none")
    return _Identity()


def _make_chain(is_wanted: bool) -> TokenCredential | None:
    """Returns azure-identity's chain; None where it is not installed, and nobody has asked for it."""
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError:
        if not is_wanted:
            return None
        raise MissingExtraError(
            'the AZURE_* variables name an identity, and azure-identity is not installed; pip install "s3dlio-shm[azure]"'
        ) from None
    with quiet():
        return DefaultAzureCredential()


def _ask_for_token(credential: TokenCredential) -> _Identity | None:
    """Returns what the chain gives, or None. Its errors may quote what a service or a program said, and are not passed on (A5)."""
    from azure.core.exceptions import AzureError

    try:
        with quiet():
            found = credential.get_token(_SCOPE)
    except AzureError as error:
        _log.debug("azure-identity gave no token: %s", type(error).__name__)
        return None
    except ValueError as error:
        raise AuthenticationError("azure-identity cannot use its configuration", cause=type(error).__name__) from None
    return _Identity(token=found.token, expires_at_s=float(found.expires_on), source="azure-identity")


def _check_sas(sas: str) -> str:
    """Returns a SAS as it goes behind `?`. An error does not show it."""
    text = sas.strip().removeprefix("?")
    if "sig=" not in text or not text.isascii() or any(letter <= " " or letter in '"#<>?\\^`{|}\x7f' for letter in text):
        del text, sas
        raise AuthenticationError("the SAS token is none: it is a query with sig=, percent-encoded, as the portal shows it")
    return text


def _find_lane(place: Place) -> tuple[AzureSdkOptions, str | None]:
    limits = settings()
    proxy = find_proxy(place.scheme, place.host)
    slow_because = None
    if not limits.fast_lane:
        slow_because = "fast_lane is switched off"
    elif proxy is not None:
        slow_because = f"a proxy is configured for {place.scheme}"
    read_s = max(limits.first_byte_timeout_s, limits.silence_timeout_s)
    proxies = {} if proxy is None else {place.scheme: proxy}
    return AzureSdkOptions(proxies, limits.connect_timeout_s, read_s), slow_because


def _variable(names: tuple[str, ...]) -> str | None:
    """Returns the first of the variables that is set."""
    return next(iter(environment(*names).values()), None)


def _name_of(names: tuple[str, ...]) -> str | None:
    return next(iter(environment(*names)), None)


def _note_anonymous(chain: _Chain, why: str) -> None:
    if not chain.has_warned:
        chain.has_warned = True
        _log.warning("no Azure credentials are configured, %s; requests are anonymous, which only public containers allow", why)
