"""A server of Google's JSON API: gcp-storage-emulator, in a process of its own, as `moto_server.py`.

By default it is brought to Google's documented behaviour (`gcs_emulator.py` says in what); by `as_it_comes` it is the plain program, which
names no generations, honours no conditions and closes each connection. The oracle is google-cloud-storage.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .processes import ScriptProcess
from .s3_endpoint import endpoint_env

if TYPE_CHECKING:
    from google.cloud.storage import Client

_bucket_numbers = itertools.count(1)
_clients: dict[GcsEndpoint, Client] = {}
_PLAIN = """
import sys
from gcp_storage_emulator.server import create_server

server = create_server("127.0.0.1", 0, in_memory=True)
server.start()
while server._api._httpd is None:
    pass
print("READY", server._api._httpd.server_port, flush=True)
sys.stdin.read()
server.stop()
"""


@dataclass(frozen=True)
class GcsEndpoint:
    """One server, which lets everybody do everything."""

    url: str
    """`http://127.0.0.1:<port>`"""

    def environment(self) -> dict[str, str]:
        """Returns the variables by which s3dlio and Google's SDK find this server."""
        return {"STORAGE_EMULATOR_HOST": self.url, "GOOGLE_CLOUD_PROJECT": "test-project"}

    def client(self) -> Client:
        """Returns a client of the SDK for this server, the same one at each call; `close_clients` drops its connections."""
        if self not in _clients:
            from google.auth.credentials import AnonymousCredentials
            from google.cloud import storage

            options = {"api_endpoint": self.url}
            _clients[self] = storage.Client("test-project", AnonymousCredentials(), client_options=options)
        return _clients[self]

    def bucket(self, name: str) -> Any:
        """Returns the SDK's own bucket of this name."""
        return self.client().bucket(name)

    def new_bucket(self) -> str:
        """Creates a bucket of a name that was not used before, and returns the name."""
        name = f"kit-{os.getpid()}-{next(_bucket_numbers)}"
        self.client().create_bucket(name)
        return name


def close_clients() -> None:
    """Closes every idle connection of the tests' clients; they open new ones when they are used again."""
    for client in _clients.values():
        client.close()


class GcsServer:
    """Runs until `close`. `endpoint` has its address."""

    def __init__(self, as_it_comes: bool = False) -> None:
        env = dict(os.environ)
        endpoint_env(env, None)
        program = _PLAIN if as_it_comes else Path(__file__).with_name("gcs_emulator.py").read_text("utf-8")
        self._process = ScriptProcess(program, env=env)
        try:
            (port,) = self._process.expect("READY", timeout_s=60.0)
        except BaseException:
            self.close()
            raise
        self.endpoint = GcsEndpoint(f"http://127.0.0.1:{port}")

    def close(self) -> None:
        """Ends the server."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
