"""The process that owns the demo's S3 server and its folder, and outlives the demo by just the time to remove both.

`python -P -m s3dlio.engine.cli.demo_guard RCLONE` prints one line of JSON (url, folder, access_key, secret_key) and then waits for the end
of its standard input. The demo alone holds the other end and never writes: so the end comes however the demo ends, by SIGKILL too.
The guard runs in a session of its own, out of reach of Ctrl-C.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_START_S = 20.0
_READ_BYTES = 1 << 16
_PR_SET_PDEATHSIG = 1
"""Source: prctl(2), linux/prctl.h."""
_STARTED = re.compile(rb"Starting s3 server on \[(http://127\.0\.0\.1:\d+)/?\]")


def main() -> None:
    """Serves until standard input ends or the server dies, then removes everything."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = tempfile.mkdtemp(prefix="s3dlio-demo-")
    try:
        root = os.path.join(folder, "buckets")
        os.mkdir(root)
        access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
        with _server(sys.argv[1], folder, root, f'"{access_key},{secret_key}"') as (url, log):
            facts = {"url": url, "folder": root, "access_key": access_key, "secret_key": secret_key}
            print(json.dumps(facts), flush=True)  # noqa: T201 (the line is this program's interface)
            _wait_for_end(sys.stdin.fileno(), log.fileno())
    finally:
        shutil.rmtree(folder)


@contextmanager
def _server(rclone: str, home: str, root: str, auth_key: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Runs rclone, and yields its URL and its log."""
    # Port 0: the kernel chooses, and the log names it, so no other process can take it in between.
    options = ["--addr", "127.0.0.1:0", "--vfs-cache-mode", "off", "--config", os.devnull]
    server = subprocess.Popen(
        [rclone, "serve", "s3", *options, root],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # The keys of --auth-key, in the environment: argv is readable by every user of the machine.
        env={"HOME": home, "PATH": os.defpath, "RCLONE_AUTH_KEY": auth_key},
        preexec_fn=_die_with_parent,  # noqa: PLW1509 (this process has one thread, so nothing can be locked in the child)
    )
    assert server.stderr is not None
    try:
        yield _read_url(server.stderr), server.stderr
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


def _die_with_parent() -> None:
    """Makes the kernel kill this process when the guard's main thread, its only one, ends; in case the guard itself is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _read_url(log: IO[bytes]) -> str:
    deadline_s = time.monotonic() + _START_S
    seen = b""
    with selectors.DefaultSelector() as selector:
        selector.register(log, selectors.EVENT_READ)
        while not (match := _STARTED.search(seen)):
            is_ready = selector.select(max(0.0, deadline_s - time.monotonic()))
            data = os.read(log.fileno(), _READ_BYTES) if is_ready else b""
            if not data:
                raise SystemExit(f"rclone did not start: {seen.decode(errors='replace')}")
            seen += data
    return match[1].decode()


def _wait_for_end(*fds: int) -> None:
    """Reads, and throws away, until one of the descriptors ends: the demo's pipe, or the log of a server that died."""
    with selectors.DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        while all(os.read(key.fd, _READ_BYTES) for key, _ in selector.select()):
            pass


if __name__ == "__main__":
    main()
