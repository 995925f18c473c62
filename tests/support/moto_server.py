"""A real S3 server with S3's own version and checksum semantics: moto, in a process of its own.

A process of its own, so that its threads and sockets are not mistaken for the test's, and it does not share the GIL with the code
under test.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from .processes import ScriptProcess
from .s3_endpoint import S3Endpoint, endpoint_env

_PROGRAM = """
import sys
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("READY", server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


class MotoServer:
    """Runs until `close`. `endpoint` has its address and keys; any key is accepted."""

    def __init__(self) -> None:
        env = dict(os.environ)
        endpoint_env(env, None)
        self._process = ScriptProcess(_PROGRAM, env=env)
        try:
            (port,) = self._process.expect("READY", timeout_s=60.0)
        except BaseException:
            self.close()
            raise
        self.endpoint = S3Endpoint(f"http://127.0.0.1:{port}")

    def close(self) -> None:
        """Ends the server."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
