"""What a test needs to know of an S3 server: its address, its keys, and a boto3 client as the independent oracle.

Owns: the environment variables that point s3dlio (and boto3) at a server, and the boto3 clients of the tests.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_clients: dict[S3Endpoint, S3Client] = {}
_bucket_numbers = itertools.count(1)
_FOREIGN_PREFIXES = (
    "AWS_", "S3DLIO_", "GOOGLE_", "GCLOUD_", "GCS_", "CLOUDSDK_", "GCE_METADATA_", "STORAGE_EMULATOR_", "AZURE_", "IDENTITY_", "MSI_",
)  # fmt: skip
_PROXY_NAMES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})


class Endpoint(Protocol):
    """A server of any store."""

    def environment(self) -> dict[str, str]:
        """Returns the variables by which it is found."""
        ...


@dataclass(frozen=True)
class S3Endpoint:
    """One S3 server and the keys that it accepts."""

    url: str
    """`http://127.0.0.1:<port>`"""
    access_key: str = "testkey"
    secret_key: str = "testsecret"
    region: str = "us-east-1"

    def environment(self) -> dict[str, str]:
        """Returns the variables by which botocore's own chain finds this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }

    def client(self) -> S3Client:
        """Returns a boto3 client for this server, the same one at each call; `close_clients` drops its connections."""
        if self not in _clients:
            _clients[self] = self._new_client()
        return _clients[self]

    def new_bucket(self) -> str:
        """Creates a bucket of a name that was not used before, and returns the name."""
        name = f"bucket-{os.getpid()}-{next(_bucket_numbers)}"
        self.client().create_bucket(Bucket=name)
        return name

    def _new_client(self) -> S3Client:
        import boto3
        from botocore.config import Config

        config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, proxies={})
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=config,
        )


def close_clients() -> None:
    """Closes every idle connection of the tests' boto3 clients; a closed client opens new ones when it is used again."""
    for client in _clients.values():
        client.close()


def clean_environment() -> dict[str, str]:
    """Returns what stands in place of the developer's own settings: no file, no metadata service."""
    return {
        "CLOUDSDK_CONFIG": os.devnull,
        "NO_GCE_CHECK": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def foreign_variables(env: MutableMapping[str, str]) -> Iterator[str]:
    """Yields the names in `env` that would change what a test sees: those of AWS, Google, Azure and s3dlio, and proxies."""
    return (name for name in list(env) if name.startswith(_FOREIGN_PREFIXES) or name.upper() in _PROXY_NAMES)


def endpoint_env(env: pytest.MonkeyPatch | MutableMapping[str, str], endpoint: Endpoint | str | None) -> None:
    """Removes all AWS, Google, Azure, S3DLIO and proxy variables, and points at `endpoint` where one is given.

    Args:
        env: A monkeypatch (changes `os.environ` until the test ends), or the environment of a child process.
        endpoint: A server, the URL of one for S3 that takes any key, or None for no server and no credentials.
    """
    server = S3Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
    wanted = clean_environment() | (server.environment() if server else {})
    if isinstance(env, pytest.MonkeyPatch):
        for name in foreign_variables(os.environ):
            env.delenv(name)
        for name, value in wanted.items():
            env.setenv(name, value)
        return
    for name in foreign_variables(env):
        del env[name]
    env.update(wanted)
