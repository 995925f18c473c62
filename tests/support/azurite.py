"""A real Azure Blob server: Azurite, in a process of its own, with signatures checked. The oracle is azure-storage-blob.

What it is lax about (tried with 3.37) stands in docs/backends.md; such cases belong to the scripted server.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .processes import REPOSITORY

if TYPE_CHECKING:
    import requests
    from azure.storage.blob import BlobServiceClient, ContainerClient

_TICK_S = 0.02
_START_TIMEOUT_S = 60.0
_PROGRAM = REPOSITORY / ".azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
# As in rclone_server.py: the server dies with the tests even where these are killed by SIGKILL.
_EXEC_BOUND_TO_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""What Azurite's documentation gives to everybody; no secret."""
_container_numbers = itertools.count(1)
_clients: dict[AzureEndpoint, tuple[BlobServiceClient, requests.Session]] = {}


@dataclass(frozen=True)
class AzureEndpoint:
    """One Azurite and the key that it accepts."""

    url: str
    """`http://127.0.0.1:<port>`"""
    account: str = ACCOUNT
    key: str = KEY

    def environment(self) -> dict[str, str]:
        """Returns the variables by which s3dlio finds this server."""
        return {
            "AZURE_STORAGE_ENDPOINT": self.url,
            "AZURE_STORAGE_ACCOUNT": self.account,
            "AZURE_STORAGE_KEY": self.key,
        }

    def client(self) -> BlobServiceClient:
        """Returns a client of the SDK, the same one at each call; `close_clients` drops its connections."""
        if self not in _clients:
            _clients[self] = self._new_client()
        return _clients[self][0]

    def container(self, name: str) -> ContainerClient:
        """Returns the SDK's client of one container."""
        return self.client().get_container_client(name)

    def new_container(self) -> str:
        """Creates a container of a name that was not used before, and returns the name."""
        name = f"container-{os.getpid()}-{next(_container_numbers)}"
        self.client().create_container(name)
        return name

    def _new_client(self) -> tuple[BlobServiceClient, requests.Session]:
        import requests
        from azure.core.pipeline.transport import RequestsTransport
        from azure.storage.blob import BlobServiceClient

        # A session of ours, since a transport that has been closed cannot be used again.
        session = requests.Session()
        session.trust_env = False
        transport: Any = RequestsTransport(session=session, session_owner=False)
        url = f"{self.url}/{self.account}"
        return BlobServiceClient(url, self.key, transport=transport, retry_total=0), session


def close_clients() -> None:
    """Closes every idle connection of the tests' clients; they open new ones when they are used again."""
    for _, session in _clients.values():
        session.close()


class AzuriteServer:
    """Runs until `close`; start it from the main thread, with whose end the server would be killed.

    Attributes:
        endpoint: Address, account and key.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="azurite-"))
        self._log = self._folder / "log"
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", _EXEC_BOUND_TO_PARENT, *_command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={"HOME": str(self._folder), "PATH": os.defpath},
            )
        try:
            self.endpoint = AzureEndpoint(self._wait_for_url())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kills the server and removes its folder."""
        self._popen.kill()
        self._popen.wait()
        shutil.rmtree(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + _START_TIMEOUT_S
        tick = threading.Event()
        while self._popen.poll() is None and time.monotonic() < deadline:
            if match := re.search(r"successfully listens on (http://127\.0\.0\.1:\d+)", self._log.read_text()):
                return match[1]
            tick.wait(_TICK_S)
        raise RuntimeError(f"Azurite did not start; its log:\n{self._log.read_text()}")


def _command() -> list[str]:
    node = shutil.which("node")
    if node is None or not _PROGRAM.exists():
        raise RuntimeError("Azurite is missing; `make .azurite/.stamp` installs it, and needs Node.js with npm")
    # Port 0: the kernel chooses, and the log names it.
    options = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--blobKeepAliveTimeout", "600"]
    return [node, str(_PROGRAM), *options, "--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--disableTelemetry"]
