"""From what is configured to the place of an Azure container: scheme, host, port, path. Pure: no environment, no SDK.

Azure itself has the account in the host (`https://account.blob.core.windows.net/container`); emulators, which are reached by an address,
have it in the path (`http://127.0.0.1:10000/account/container`).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final, NamedTuple

import msgspec

from ..errors import ConfigurationError
from ..text import clean
from .s3_endpoint import parse_endpoint

PUBLIC_SUFFIX: Final = "core.windows.net"
DEV_ACCOUNT: Final = "devstoreaccount1"
DEV_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""What every emulator accepts. Source: "Use the Azurite emulator", Azure documentation; no secret."""
_DEV_URL: Final = f"http://127.0.0.1:10000/{DEV_ACCOUNT}"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_is_account: Final = re.compile(r"[a-z0-9-]{1,63}").fullmatch
_is_container: Final = re.compile(r"[A-Za-z0-9$-]{1,63}").fullmatch
"""Looser than Azure's own rule, which the service enforces: only what could leave the path is kept out."""
_find_owner: Final = re.compile(r"([a-z0-9-]+)\.blob\.").match


class Place(NamedTuple):
    """Where an account is."""

    scheme: str
    host: str
    """Name or address to connect to; no port, IPv6 without brackets."""
    port: int
    host_header: str
    path: str
    """What stands in front of `/container`; no slash at its end."""


class ConnectionString(msgspec.Struct, frozen=True):
    """What `AZURE_STORAGE_CONNECTION_STRING` holds. Its secrets are never shown."""

    account: str | None
    key: str | None
    sas: str | None
    endpoint: str | None
    has_endpoint: bool = True
    """Whether it names the endpoint itself, and not only the account."""

    def __repr__(self) -> str:
        return f"ConnectionString({self.account!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("account", self.account)]


def check_names(account: str, container: str) -> None:
    """Refuses names that would lead to another host or out of the path.

    Raises:
        ConfigurationError: No account or container can have this name.
    """
    if not _is_account(account):
        raise ConfigurationError(f"{clean(account)!r} cannot be the name of a storage account: lower-case letters and digits")
    if container and not _is_container(container):
        raise ConfigurationError(f"{clean(container)!r} cannot be the name of a container: lower-case letters, digits and hyphens")


def find_place(account: str, endpoint: str | None) -> Place:
    """Returns where `account` is.

    Args:
        account: Its name.
        endpoint: An endpoint URL, with or without the account in it; None for Azure's public cloud.

    Raises:
        ConfigurationError: The endpoint is no such URL, or that of another account.
    """
    try:
        scheme, host, port, path = parse_endpoint(endpoint or f"https://{account}.blob.{PUBLIC_SUFFIX}")
    finally:
        del endpoint  # a traceback may show locals, and the portal shows URLs with a SAS
    owner = _find_owner(host)
    if owner is not None and owner[1] != account:
        raise ConfigurationError(f"the endpoint {host} is that of the account {owner[1]!r}, and the URI names {account!r}")
    if path.rpartition("/")[2] == account:
        pass
    elif host.startswith("blob."):
        # A cloud's suffix, as https://blob.core.usgovcloudapi.net.
        host = f"{account}.{host}"
    elif _is_address(host):
        path = f"{path}/{account}"
    name = f"[{host}]" if ":" in host else host
    return Place(scheme, host, port, name if port == _DEFAULT_PORTS[scheme] else f"{name}:{port}", path)


def _is_address(host: str) -> bool:
    """Whether a host is no name that could hold the account: an address, or a name without dots as `localhost` or a container's."""
    if "." not in host:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse_connection_string(text: str) -> ConnectionString:
    """Returns what a connection string says.

    Raises:
        ConfigurationError: It is none, or names no account. The text does not show it.

    Source: "Configure Azure Storage connection strings", Azure documentation.
    """
    string = _read_pairs(text)
    del text  # a traceback may show locals
    if string is None:
        raise ConfigurationError("AZURE_STORAGE_CONNECTION_STRING is none: write Name=value;Name=value, as the portal shows it")
    if string.endpoint is None:
        raise ConfigurationError("AZURE_STORAGE_CONNECTION_STRING names neither AccountName nor BlobEndpoint")
    return string


def _read_pairs(text: str) -> ConnectionString | None:
    """Returns what a connection string says; None where it is none."""
    pairs = [item.partition("=") for item in text.strip().rstrip(";").split(";")]
    if not all(mark for _, mark, _ in pairs):
        return None
    found = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if found.get("usedevelopmentstorage", "").lower() == "true":
        return ConnectionString(DEV_ACCOUNT, DEV_KEY, None, found.get("blobendpoint") or _DEV_URL)
    account, endpoint = found.get("accountname"), found.get("blobendpoint")
    sas = found.get("sharedaccesssignature")
    has_endpoint = endpoint is not None
    if endpoint is None and account is not None:
        suffix = found.get("endpointsuffix") or PUBLIC_SUFFIX
        endpoint = f"{found.get('defaultendpointsprotocol') or 'https'}://{account}.blob.{suffix}"
    return ConnectionString(account, found.get("accountkey") or None, sas or None, endpoint, has_endpoint)
